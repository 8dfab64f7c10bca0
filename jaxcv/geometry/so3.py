"""Rotations: matrices R in SO(3) and rotation vectors w = angle * axis, in radians.

Every function takes one rotation; batch with `jax.vmap`. Derivatives exist wherever those of the
map do: near the identity the coefficients of Rodrigues' formula are power series, so derivatives of
any order are correct at w = 0.

Source: Murray, Li, Sastry 1994, ch. 2; Shepperd 1978 for the quaternion of a matrix; Levinson et
al., NeurIPS 2020, for the nearest rotation.
"""

import math

import jax
import jax.numpy as jnp

from jaxcv.checks import check_shape

__all__ = ["coefficients", "exp", "hat", "log", "nearest"]

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

    At pi two vectors are valid; one of them is returned.
    """
    check_shape("rotation", rotation, (3, 3))
    r, d = rotation, jnp.diagonal(rotation)
    trace = jnp.sum(d)
    # Four formulas for one quaternion (w, x, y, z) up to scale; the largest pivot is accurate.
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


@jax.custom_jvp
def nearest(matrix: jax.Array) -> jax.Array:
    """The rotation R (3, 3) nearest to M (3, 3) in the Frobenius norm: it maximises tr(R^T M).

        R = U diag(1, 1, det(U V^T)) V^T of M = U S V^T

    If several are nearest (the two smallest singular values are equal and det M < 0, or both are 0)
    one of them is returned, with derivative 0 in the ambiguous directions. For det M > 0 the rule
    divides by sums of singular values only, so equal ones, as at a rotation, are safe.
    """
    return _nearest(matrix)[0]


def _nearest(matrix: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """R, and the eigenvectors (3, 3) and eigenvalues (3,) of the symmetric R^T M."""
    check_shape("matrix", matrix, (3, 3))
    u, values, v = jnp.linalg.svd(matrix)
    sign = jnp.ones(3, matrix.dtype).at[2].set(jnp.sign(jnp.linalg.det(u @ v)))
    return (u * sign) @ v, v.T, values * sign


@nearest.defjvp
def _nearest_jvp(primals, tangents):
    """dR = R W with the skew W of  W P + P W = R^T dM - dM^T R,  P = R^T M."""
    (matrix,), (tangent,) = primals, tangents
    rotation, vectors, values = _nearest(matrix)
    turned = vectors.T @ (rotation.T @ tangent) @ vectors
    sums = values[:, None] + values
    none = sums <= 8 * jnp.finfo(matrix.dtype).eps * jnp.max(jnp.abs(values))
    skew = jnp.where(none, 0, (turned - turned.T) / jnp.where(none, 1, sums))
    return rotation, rotation @ (vectors @ skew @ vectors.T)
