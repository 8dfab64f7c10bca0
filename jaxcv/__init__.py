"""Vision by minimising energies, and learning through the minimiser, in JAX."""

import importlib
import importlib.metadata
from typing import Any

from jaxcv.implicit.attach import argmin_jvp, argmin_vjp, attach, diagnose
from jaxcv.implicit.diagnostics import Diagnostics
from jaxcv.implicit.minimise import argmin
from jaxcv.implicit.solution import Solution
from jaxcv.implicit.unroll import unrolled_solve
from jaxcv.least_squares.minimise import argmin_least_squares
from jaxcv.linear.damping import Damping
from jaxcv.solvers.problem import Status

__version__ = importlib.metadata.version("jaxcv")

__all__ = [
    "Damping",
    "Diagnostics",
    "Solution",
    "Status",
    "argmin",
    "argmin_jvp",
    "argmin_least_squares",
    "argmin_vjp",
    "attach",
    "diagnose",
    "unrolled_solve",
]

_PACKAGES = (
    "data", "energies", "geometry", "implicit", "io", "least_squares", "linear", "metrics",
    "models", "plots", "solvers", "systems", "training",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    """Packages are imported when they are first used: networks and data cost seconds."""
    if name in _PACKAGES:
        return importlib.import_module(f"jaxcv.{name}")
    raise AttributeError(f"module 'jaxcv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PACKAGES])
