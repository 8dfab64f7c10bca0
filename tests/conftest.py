"""Runs the suite on the CPU unless JAX_PLATFORMS says otherwise, and makes `tests` importable.

The default run compiles without most of XLA's optimisations: its programs are small, and more than
half of its time was their compilation. Slow tests and benchmarks, or the suite under
JAX_DISABLE_MOST_OPTIMIZATIONS=false, run what users run.
"""

import os
import pathlib
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import hypothesis
import pytest

# The first example compiles.
hypothesis.settings.register_profile("jaxcv", deadline=None)
hypothesis.settings.load_profile("jaxcv")


def pytest_configure(config: pytest.Config) -> None:
    """Before anything imports jax; the programs that tests start inherit it."""
    if config.option.markexpr == "not slow and not benchmark":
        os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """The folder of real data that JAXCV_REAL_DATA names."""
    if "JAXCV_REAL_DATA" not in os.environ:
        pytest.skip("JAXCV_REAL_DATA is not set")
    return pathlib.Path(os.environ["JAXCV_REAL_DATA"])


@pytest.fixture(autouse=True, scope="module")
def _few_mapped_programs():
    """Every compiled program maps memory, and the system ends a process with too many maps."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_text().count("\n") > 20_000:
        import jax

        jax.clear_caches()
