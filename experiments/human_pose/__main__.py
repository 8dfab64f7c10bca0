"""`python -m experiments.human_pose`."""

from experiments import human_pose, runner

__doc__ = human_pose.__doc__  # --help begins with it

if __name__ == "__main__":
    runner.main(human_pose.EXPERIMENT)
