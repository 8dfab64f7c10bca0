"""Vision by minimising energies, and learning through the minimiser, in JAX."""

from jaxcv.implicit.minimise import argmin, argmin_jvp, argmin_vjp, attach
from jaxcv.implicit.unroll import unrolled_solve
from jaxcv.least_squares.minimise import argmin_least_squares
from jaxcv.linear.damping import Damping, Diagnostics
from jaxcv.solvers.protocol import Solution

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
