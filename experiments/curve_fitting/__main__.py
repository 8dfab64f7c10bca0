"""`python -m experiments.curve_fitting`."""

from experiments import curve_fitting, runner

__doc__ = curve_fitting.__doc__  # --help begins with it

if __name__ == "__main__":
    runner.main(curve_fitting.EXPERIMENT)
