"""Rigid motions: matrices T (4, 4) in SE(3) and vectors (translation part, rotation part) (6,).

    exp((v, w)) = [ exp(w)  V(w) v ]
                  [   0        1   ]

Translations have the units of the scene, rotations are in radians. Every function takes one motion;
batch with `jax.vmap`. Source: Murray, Li, Sastry 1994, ch. 2; Barfoot 2017, ch. 7.
"""

import jax
import jax.numpy as jnp

from jaxcv.checks import check_shape
from jaxcv.geometry import so3

__all__ = ["exp", "left_jacobian", "log"]

_TERMS = 30  # of the Jacobian's series: the remainder is below 1e-16 for angles up to pi


def exp(xi: jax.Array) -> jax.Array:
    """The rigid motion (4, 4) of xi = (v, w) (6,)."""
    check_shape("xi", xi, (6,))
    v, w = xi[:3], xi[3:]
    cross, (_, b, c) = so3.hat(w), so3.coefficients(jnp.vdot(w, w))
    left = jnp.eye(3, dtype=xi.dtype) + b * cross + c * (cross @ cross)
    top = jnp.concatenate([so3.exp(w), (left @ v)[:, None]], axis=1)
    return jnp.concatenate([top, jnp.array([[0, 0, 0, 1]], xi.dtype)])


def log(motion: jax.Array) -> jax.Array:
    """xi (6,) of a rigid motion (4, 4), with a rotation angle in [0, pi]."""
    check_shape("motion", motion, (4, 4))
    w = so3.log(motion[:3, :3])
    cross, square = so3.hat(w), jnp.vdot(w, w)
    a, b, _ = so3.coefficients(square)
    # (1 - a / (2 b)) / t^2, which tends to 1 / 12.
    near = square < 1e-2
    safe = jnp.where(near, 1, square)
    series = 1 / 12 + square / 720 + square**2 / 30240 + square**3 / 1209600
    factor = jnp.where(near, series, (1 - a / (2 * b)) / safe)
    inverse = jnp.eye(3, dtype=motion.dtype) - 0.5 * cross + factor * (cross @ cross)
    return jnp.concatenate([inverse @ motion[:3, 3], w])


def left_jacobian(xi: jax.Array) -> jax.Array:
    """J (6, 6) with exp(xi + d) = exp(J d) exp(xi) to first order.

    J = sum_n ad(xi)^n / (n + 1)!,   ad = [ hat(w)  hat(v) ]
                                          [   0     hat(w) ]
    """
    check_shape("xi", xi, (6,))
    v, w = so3.hat(xi[:3]), so3.hat(xi[3:])
    ad = jnp.block([[w, v], [jnp.zeros_like(w), w]])
    term = total = jnp.eye(6, dtype=xi.dtype)
    for n in range(1, _TERMS):
        term = term @ ad / (n + 1)
        total = total + term
    return total
