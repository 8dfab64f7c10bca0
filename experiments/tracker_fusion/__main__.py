"""`python -m experiments.tracker_fusion`."""

from experiments import runner, tracker_fusion

__doc__ = tracker_fusion.__doc__  # --help begins with it

if __name__ == "__main__":
    runner.main(tracker_fusion.EXPERIMENT)
