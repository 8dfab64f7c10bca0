"""`python -m experiments.inverse_graphics`."""

from experiments import inverse_graphics, runner

__doc__ = inverse_graphics.__doc__  # --help begins with it

if __name__ == "__main__":
    runner.main(inverse_graphics.EXPERIMENT)
