"""Robust kernels: the cost of a squared residual.

    E = 1/2 sum_i rho(s_i),    s_i = |r_i|^2,    weight w_i = rho'(s_i)

Each kernel has rho(0) = 0 and rho'(0) = 1: near zero it is least squares. A residual beyond the
scale c, in the units of the residual, counts as an outlier. The scale is a leaf of the kernel's
pytree: it may be traced, learned and swept.

| kernel         | rho(s), with x = s / c^2              | weight rho'(s)  | for large s   |
|----------------|---------------------------------------|-----------------|---------------|
| `Huber`        | s if x <= 1, else c^2 (2 sqrt(x) - 1) | min(1, x^-1/2)  | linear in |r| |
| `PseudoHuber`  | 2 c^2 (sqrt(1 + x) - 1)               | (1 + x)^-1/2    | linear in |r| |
| `Welsch`       | c^2 (1 - exp(-x))                     | exp(-x)         | constant      |
| `GemanMcClure` | c^2 x / (1 + x)                       | (1 + x)^-2      | constant      |

The first two are convex in r. Source: Zhang 1997, Parameter estimation techniques; Barron, CVPR
2019; Triggs et al. 2000, section 4.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.checks import check_count, check_numbers
from jaxcv.pytree import register

__all__ = ["GemanMcClure", "Huber", "Kernel", "PseudoHuber", "Welsch"]


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A robust kernel.

    Attributes:
        scale: c > 0, () or anything that broadcasts to the residual's blocks.
        block_ndim: number of trailing axes of the residual that form one block, with squared norm
            s_i: 0 for single entries, 1 for the rows of an (m, 2) reprojection error.

    Raises:
        ValueError: a scale that is not positive, a block_ndim below 0.
    """

    scale: Any = 1.0
    block_ndim: int = 0

    def __post_init__(self):
        scale = self.scale
        check_numbers("scale", scale, hint="Several scales are an array: jnp.array([1.0, 2.0]).")
        if not jnp.issubdtype(jnp.result_type(scale), jnp.floating):
            array = isinstance(scale, jax.Array) or np.ndim(scale)
            scale = scale.astype(float) if array else float(scale)
            object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "block_ndim", check_count("block_ndim", self.block_ndim, 0))

    def _rho(self, x: jax.Array) -> jax.Array:
        """rho at scale 1."""
        raise NotImplementedError

    def rho(self, square: jax.Array) -> jax.Array:
        """rho(s) of squared norms, elementwise, in their units."""
        scaled = square / self.scale**2
        return self.scale**2 * self._rho(scaled)

    def weight(self, square: jax.Array) -> jax.Array:
        """rho'(s) in (0, 1], elementwise."""
        return jax.jvp(self._rho, (square / self.scale**2,), (jnp.ones_like(square),))[1]


@functools.partial(register, data=("scale",))
@dataclasses.dataclass(frozen=True)
class Huber(Kernel):
    """Quadratic up to the scale, linear beyond."""

    def _rho(self, x):
        return jnp.where(x <= 1, x, 2 * jnp.sqrt(jnp.where(x <= 1, 1, x)) - 1)


@functools.partial(register, data=("scale",))
@dataclasses.dataclass(frozen=True)
class PseudoHuber(Kernel):
    """A smooth Huber kernel."""

    def _rho(self, x):
        return 2 * x / (jnp.sqrt(1 + x) + 1)  # 2 (sqrt(1 + x) - 1) without cancellation


@functools.partial(register, data=("scale",))
@dataclasses.dataclass(frozen=True)
class Welsch(Kernel):
    """Outliers cost a constant: rho is an inverted Gaussian of r."""

    def _rho(self, x):
        return -jnp.expm1(-x)


@functools.partial(register, data=("scale",))
@dataclasses.dataclass(frozen=True)
class GemanMcClure(Kernel):
    """Outliers cost a constant, approached slowly."""

    def _rho(self, x):
        return x / (1 + x)
