"""`python -m experiments.hand_pose`."""

from experiments import hand_pose, runner

__doc__ = hand_pose.__doc__  # --help begins with it

if __name__ == "__main__":
    runner.main(hand_pose.EXPERIMENT)
