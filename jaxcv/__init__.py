"""Vision by minimising energies, and learning through the minimiser, in JAX."""

from jaxcv.core.damping import Damping, Diagnostics
from jaxcv.core.implicit import argmin, argmin_jvp, argmin_vjp, attach
from jaxcv.core.least_squares import argmin_least_squares
from jaxcv.core.types import Solution
from jaxcv.core.unroll import unrolled_solve

__all__ = [
    "Damping",
    "Diagnostics",
    "Solution",
    "argmin",
    "argmin_jvp",
    "argmin_least_squares",
    "argmin_vjp",
    "attach",
    "unrolled_solve",
]
