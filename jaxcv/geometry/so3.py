"""Rotations: matrices R in SO(3) and rotation vectors w = angle * axis, in radians.

Every function takes one rotation; batch with `jax.vmap`. All are smooth wherever the map is: the
coefficients of Rodrigues' formula are power series near the identity, so derivatives of any order
are right at w = 0.

Source: Murray, Li, Sastry 1994, ch. 2; Shepperd 1978 for the quaternion of a matrix.
"""

import math

import jax
import jax.numpy as jnp

from jaxcv.core.checks import check_shape

__all__ = ["coefficients", "exp", "hat", "log"]

_TERMS = 9  # of the series, at angles up to 1/2: the next is below 1e-20


def hat(w: jax.Array) -> jax.Array:
    """The skew-symmetric matrix (3, 3) with hat(w) x = w cross x, for w (3,)."""
    check_shape("w", w, (3,))
    zero = jnp.zeros_like(w[0])
    rows = [[zero, -w[2], w[1]], [w[2], zero, -w[0]], [-w[1], w[0], zero]]
    return jnp.stack([jnp.stack(row) for row in rows])


def coefficients(square: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """sin(t) / t, (1 - cos t) / t^2 and (t - sin t) / t^3 of the squared angle t^2, elementwise."""
    near = square < 0.25
    small, large = jnp.where(near, square, 0), jnp.where(near, 1, square)
    t = jnp.sqrt(large)
    far = jnp.sin(t) / t, (1 - jnp.cos(t)) / large, (t - jnp.sin(t)) / (t * large)

    def series(first):
        total = jnp.zeros_like(small)
        for k in reversed(range(_TERMS)):
            total = total * small + (-1) ** k / math.factorial(2 * k + first)
        return total

    values = [jnp.where(near, series(k), far[k - 1]) for k in (1, 2, 3)]
    return values[0], values[1], values[2]


def exp(w: jax.Array) -> jax.Array:
    """The rotation (3, 3) about the axis of w (3,) by the angle |w|; Rodrigues' formula."""
    cross = hat(w)
    a, b, _ = coefficients(jnp.vdot(w, w))
    return jnp.eye(3, dtype=w.dtype) + a * cross + b * (cross @ cross)


def log(rotation: jax.Array) -> jax.Array:
    """The rotation vector (3,) of a rotation (3, 3), with an angle in [0, pi].

    At pi, where two vectors are right, one of them.
    """
    check_shape("rotation", rotation, (3, 3))
    r, d = rotation, jnp.diagonal(rotation)
    trace = jnp.sum(d)
    # Four ways to the same quaternion (w, x, y, z) up to scale; the largest pivot loses nothing.
    pivots = jnp.stack([trace, *(2 * d - trace)])
    ways = [
        [1 + trace, r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]],
        [r[2, 1] - r[1, 2], 1 + 2 * d[0] - trace, r[0, 1] + r[1, 0], r[0, 2] + r[2, 0]],
        [r[0, 2] - r[2, 0], r[0, 1] + r[1, 0], 1 + 2 * d[1] - trace, r[1, 2] + r[2, 1]],
        [r[1, 0] - r[0, 1], r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], 1 + 2 * d[2] - trace],
    ]
    quaternion = jnp.stack([jnp.stack(way) for way in ways])[jnp.argmax(pivots)]
    quaternion = quaternion * jnp.where(quaternion[0] < 0, -1, 1)
    scalar, vector = quaternion[0], quaternion[1:]
    square = jnp.vdot(vector, vector)
    tiny = square <= (1e-4 * scalar) ** 2
    length = jnp.sqrt(jnp.where(tiny, 1, square))
    ratio = square / jnp.where(tiny, scalar, 1) ** 2
    near = 2 * (1 - ratio / 3 + ratio**2 / 5) / jnp.where(tiny, scalar, 1)
    return vector * jnp.where(tiny, near, 2 * jnp.arctan2(length, scalar) / length)
