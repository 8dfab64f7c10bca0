"""`python -m experiments.pretrained`."""

from experiments import pretrained
from experiments.pretrained import command

__doc__ = pretrained.__doc__  # --help begins with it

if __name__ == "__main__":
    command.main()
