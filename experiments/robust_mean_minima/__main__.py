"""`python -m experiments.robust_mean_minima`."""

from experiments import robust_mean_minima, runner

__doc__ = robust_mean_minima.__doc__  # --help begins with it

if __name__ == "__main__":
    runner.main(robust_mean_minima.EXPERIMENT)
