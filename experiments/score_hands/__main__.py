"""`python -m experiments.score_hands`."""

from experiments import score_hands

__doc__ = score_hands.__doc__  # --help begins with it

if __name__ == "__main__":
    score_hands.main()
