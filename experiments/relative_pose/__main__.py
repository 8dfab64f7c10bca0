"""`python -m experiments.relative_pose`."""

from experiments import relative_pose, runner

__doc__ = relative_pose.__doc__  # --help begins with it

if __name__ == "__main__":
    runner.main(relative_pose.EXPERIMENT)
