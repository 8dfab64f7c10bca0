"""Two views of a plane: the plane of a pose, and the other pose that explains it.

A plane n . x = 1 in the first camera moves points by x2 ~ (R + t n^T) x1, a homography. Two poses
have the same homography. Both can have all points before both cameras: then no matches on the
plane can tell them apart.

Source: Longuet-Higgins, The reconstruction of a plane surface from two perspective projections,
1986; Hartley and Zisserman, Multiple View Geometry, 2004, ch. 13.
"""

import jax
import jax.numpy as jnp

from jaxcv.checks import check_shape

__all__ = ["other_planar_pose", "plane_of_pose"]

_ROUNDS = 5  # of reweighting


def plane_of_pose(
    rotation: jax.Array,
    direction: jax.Array,
    points1: jax.Array,
    points2: jax.Array,
    weights: jax.Array | None = None,
    *,
    noise: float | jax.Array = jnp.inf,
) -> jax.Array:
    """The plane n (3,), n . x = 1 in units of t, through most of the matches of a pose.

    Minimises sum_n w_n v_n |h(x1) - x2|^2 with h the homography R + t n^T and h(x1) linearised at
    infinity, reweighted a few times by v = 1 / (1 + r^2 / noise^2).

    Args:
        rotation: (3, 3).
        direction: (3,).
        points1: (N, 2), normalised by the intrinsics, N >= 3.
        points2: (N, 2).
        weights: (N,), >= 0; None: 1.
        noise: distance at which a match counts half, in the unit of the points; inf: no
            reweighting.
    """
    check_shape("rotation", rotation, (3, 3))
    check_shape("direction", direction, (3,))
    check_shape("points1", points1, (None, 2))
    check_shape("points2", points2, points1.shape)
    one = jnp.ones_like(points1[:, :1])
    first = jnp.concatenate([points1, one], axis=1)
    far = first @ rotation.T
    # (far + t n . x1) is parallel to x2: two rows a match, linear in n.
    gap = far[:, :2] - points2 * far[:, 2:]
    slope = (direction[:2] - points2 * direction[2])[..., None] * first[:, None, :]
    weights = one[:, 0] if weights is None else weights

    def solve(weights):
        normal = jnp.einsum("n,nki,nkj->ij", weights, slope, slope)
        right = -jnp.einsum("n,nki,nk->i", weights, slope, gap)
        ridge = jnp.finfo(normal.dtype).eps * jnp.trace(normal) + jnp.finfo(normal.dtype).tiny
        return jnp.linalg.solve(normal + ridge * jnp.eye(3, dtype=normal.dtype), right)

    def again(_, plane):
        square = jnp.sum((gap + slope @ plane) ** 2, axis=1)
        return solve(weights / (1 + square / noise**2))

    return jax.lax.fori_loop(0, _ROUNDS, again, solve(weights))


def other_planar_pose(
    rotation: jax.Array, direction: jax.Array, plane: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """R' (3, 3), t' (3,) and n' (3,) of length 1 with R' + t' n'^T = R + t n^T.

    With a = R^T t |n|, n of length 1, p = |a|^2 and b = a + p n / 2, the matrix
    H^T H - I = n b^T + b n^T does not change when n and b swap their directions:

        n' = b / |b|,  a' = |b| n - p b / (2 |b|),  R' = H (I + a' n'^T)^-1,  t' = R' a'.

    (-t', -n') has the same homography. The plane lies before the first camera where n' . x1 > 0.
    Without a translation or with n = 0 there is no other pose: R, 0 and n come back.

    Args:
        rotation: (3, 3).
        direction: (3,), of any length.
        plane: (3,) n, in units of 1 / |t|.
    """
    check_shape("rotation", rotation, (3, 3))
    check_shape("direction", direction, (3,))
    check_shape("plane", plane, (3,))
    length = jnp.linalg.norm(plane)
    normal = plane / jnp.where(length > 0, length, 1)
    move = rotation.T @ direction * length
    square = move @ move
    other = move + 0.5 * square * normal
    size = jnp.linalg.norm(other)
    exists = size > 0
    scale = jnp.where(exists, size, 1)
    new_normal = jnp.where(exists, other / scale, normal)
    new_move = jnp.where(exists, scale * normal - 0.5 * square * new_normal, 0)
    homography = rotation @ (jnp.eye(3, dtype=rotation.dtype) + jnp.outer(move, normal))
    # (I + a n^T)^-1 = I - a n^T / (1 + n . a)
    shrink = jnp.outer(new_move, new_normal) / (1 + new_normal @ new_move)
    turned = homography @ (jnp.eye(3, dtype=rotation.dtype) - shrink)
    return turned, turned @ new_move, new_normal
