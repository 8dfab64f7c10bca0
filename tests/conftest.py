"""Runs the suite on the CPU unless JAX_PLATFORMS says otherwise, and makes `tests` importable."""

import os
import pathlib
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import pytest


@pytest.fixture
def real_data() -> pathlib.Path:
    """The folder of real data that JAXCV_REAL_DATA names."""
    if "JAXCV_REAL_DATA" not in os.environ:
        pytest.skip("JAXCV_REAL_DATA is not set")
    return pathlib.Path(os.environ["JAXCV_REAL_DATA"])
