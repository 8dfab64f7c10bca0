"""`python -m experiments.robust_mean`."""

from experiments import robust_mean, runner

__doc__ = robust_mean.__doc__  # --help begins with it

if __name__ == "__main__":
    runner.main(robust_mean.EXPERIMENT)
