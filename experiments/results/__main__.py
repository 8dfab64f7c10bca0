"""`python -m experiments.results`."""

from experiments.results import page

__doc__ = page.__doc__  # --help begins with it

if __name__ == "__main__":
    page.main()
