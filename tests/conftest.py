"""Runs the suite on the CPU unless JAX_PLATFORMS says otherwise, and makes `tests` importable.

The default run disables most of XLA's optimisations, because compiling its small programs took more
than half of the time. Slow tests, benchmarks, and the suite under
JAX_DISABLE_MOST_OPTIMIZATIONS=false compile as for users.
"""

import os
import pathlib
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import hypothesis
import pytest

# No deadline: the first example compiles.
hypothesis.settings.register_profile("jaxcv", deadline=None)
hypothesis.settings.load_profile("jaxcv")


def pytest_configure(config: pytest.Config) -> None:
    """Disables optimisations before jax is imported; subprocesses inherit the setting."""
    if config.option.markexpr == "not slow and not benchmark":
        os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")


@pytest.fixture(autouse=True)
def _optimisations(request):
    """Compiles tests marked `optimised` as users do, also in the default run."""
    if request.node.get_closest_marker("optimised") is None:
        yield
        return
    import jax

    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """The folder of real data that JAXCV_REAL_DATA names."""
    if "JAXCV_REAL_DATA" not in os.environ:
        pytest.skip("JAXCV_REAL_DATA is not set")
    return pathlib.Path(os.environ["JAXCV_REAL_DATA"])


@pytest.fixture(autouse=True, scope="module")
def _few_mapped_programs():
    """Clears JAX's caches before compiled programs exhaust the memory maps of the process."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_text().count("\n") > 20_000:
        import jax

        jax.clear_caches()
