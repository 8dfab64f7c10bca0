"""Curves with two parameters, for solvers of small non-linear least-squares problems.

    E(x) = 1/2 sum_i (f(x, t_i) - y_i)^2,   x = (a, b)

| family      | f                         | a, b drawn from       | t      |
|-------------|---------------------------|-----------------------|--------|
| exponential | t exp(a t) + t exp(b t)   | [-1, 1], [-1, 1]      | 0, 2   |
| sine        | sin(a t + b)              | [.5, 3], [-pi/2, pi/2]| -3, 3  |
| sinc        | sin(u) / u, u = a t + b   | [1, 5], [-2, 2]       | -3, 3  |
| gaussian    | density of N(a, b^2) at t | [-1, 1], [.3, 1]      | -3, 3  |

Source: Clark et al., "LS-Net", ECCV 2018, section 7.1, eq. 14 (its x is t here). The paper gives
no ranges.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.checks import check_choice

__all__ = ["FAMILIES", "CurveFamily", "CurveTerms", "curve_energy", "curve_family", "curve_terms"]


class CurveFamily(NamedTuple):
    """A family of curves.

    Attributes:
        value: (x (2,), t (N,)) -> (N,).
        lower: smallest a and b of the problems that are drawn.
        upper: largest a and b of these.
        domain_lower: smallest a and b that a solver may try.
        domain_upper: largest a and b that a solver may try.
        interval: first and last t.
    """

    value: Callable[[jax.Array, jax.Array], jax.Array]
    lower: tuple[float, float]
    upper: tuple[float, float]
    domain_lower: tuple[float, float]
    domain_upper: tuple[float, float]
    interval: tuple[float, float]


class CurveTerms(NamedTuple):
    """Energy, residual and Gauss-Newton terms at x.

    Attributes:
        energy: ().
        residual: (N,), f - y.
        jacobian: (2, N), row k is df/dx_k.
        hessian: (2, 2), Gauss-Newton's: the inner products of these rows.
        gradient: (2,), dE/dx.
    """

    energy: jax.Array
    residual: jax.Array
    jacobian: jax.Array
    hessian: jax.Array
    gradient: jax.Array


def _exponential(x, t):
    return t * jnp.exp(x[0] * t) + t * jnp.exp(x[1] * t)


def _sine(x, t):
    return jnp.sin(x[0] * t + x[1])


def _sinc(x, t):
    u = x[0] * t + x[1]
    near = jnp.abs(u) < 1e-2
    safe = jnp.where(near, 1, u)
    return jnp.where(near, 1 - u**2 / 6 + u**4 / 120, jnp.sin(safe) / safe)


def _gaussian(x, t):
    z = (t - x[0]) / x[1]
    return jnp.exp(-0.5 * z**2) / (x[1] * math.sqrt(2 * math.pi))


_HALF = math.pi / 2
FAMILIES = {
    "exponential": CurveFamily(_exponential, (-1, -1), (1, 1), (-4, -4), (3, 3), (0, 2)),
    "sine": CurveFamily(_sine, (0.5, -_HALF), (3, _HALF), (-6, -9), (6, 9), (-3, 3)),
    "sinc": CurveFamily(_sinc, (1, -2), (5, 2), (-9, -9), (9, 9), (-3, 3)),
    "gaussian": CurveFamily(_gaussian, (-1, 0.3), (1, 1), (-3, 0.05), (3, 3), (-3, 3)),
}


def curve_family(name: str) -> CurveFamily:
    """The family of curves with this name.

    Raises:
        ValueError: no such family.
    """
    check_choice("family", name, FAMILIES)
    return FAMILIES[name]


def curve_energy(family: str, x: jax.Array, t: jax.Array, y: jax.Array) -> jax.Array:
    """E(x) (), for x (2,), t (N,) and y (N,)."""
    return 0.5 * jnp.sum((curve_family(family).value(x, t) - y) ** 2)


def curve_terms(family: str, x: jax.Array, t: jax.Array, y: jax.Array) -> CurveTerms:
    """Energy, residual and Gauss-Newton terms at x (2,), for t (N,) and y (N,)."""
    value = curve_family(family).value
    model, rows = jax.linearize(lambda x: value(x, t), x)
    jacobian = jax.vmap(rows)(jnp.eye(2, dtype=x.dtype))
    r = model - y
    return CurveTerms(0.5 * jnp.sum(r**2), r, jacobian, jacobian @ jacobian.T, jacobian @ r)
