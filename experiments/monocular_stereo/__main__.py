"""`python -m experiments.monocular_stereo`."""

from experiments import monocular_stereo, runner

__doc__ = monocular_stereo.__doc__  # --help begins with it

if __name__ == "__main__":
    runner.main(monocular_stereo.EXPERIMENT)
