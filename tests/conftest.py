"""Runs the suite on the CPU unless JAX_PLATFORMS says otherwise, and makes `tests` importable."""

import os
import pathlib
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
