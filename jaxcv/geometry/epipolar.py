"""Two views of points: essential matrices, distances to epipolar lines, poses from matches.

Points are normalised, K^-1 (u, v, 1), as (N, 2); cameras look along +z with x right and y down. The
pose maps points of the first camera to the second, x2 = R x1 + t; only the direction of t is
observable:

    (x2, 1)^T E (x1, 1) = 0,   E = hat(t) R.

Every function takes one pair; batch with `jax.vmap`. All are differentiable. None uses a singular
value decomposition: its derivative does not exist at the two equal singular values of an essential
matrix.

Source: Hartley and Zisserman, Multiple View Geometry, 2004, ch. 9 and 11; Horn, Recovering baseline
and orientation from essential matrix, 1990; Hartley, In defense of the eight-point algorithm, 1997.
"""

import jax
import jax.numpy as jnp

from jaxcv.checks import argument_error, check_shape
from jaxcv.geometry import so3

__all__ = [
    "angle_behind", "decompose_essential", "eight_point", "essential_matrix", "essential_pose",
    "sampson_distance", "triangulate",
]  # fmt: skip

_EIGHT = 8
_INVERSE_STEPS = 4  # of the inverse iteration for the epipole
_POLAR_STEPS = 12  # of Newton's iteration for the nearest rotation


def _homogeneous(points: jax.Array) -> jax.Array:
    return jnp.concatenate([points, jnp.ones_like(points[..., :1])], axis=-1)


def _check_matches(points1: jax.Array, points2: jax.Array) -> None:
    check_shape("points1", points1, (None, 2))
    check_shape("points2", points2, points1.shape)


def essential_matrix(rotation: jax.Array, direction: jax.Array) -> jax.Array:
    """E = hat(t) R (3, 3) of R (3, 3) and t (3,)."""
    check_shape("rotation", rotation, (3, 3))
    return so3.hat(direction) @ rotation


def sampson_distance(essential: jax.Array, points1: jax.Array, points2: jax.Array) -> jax.Array:
    """Signed first-order distance (N,) of matches to the epipolar constraint, in their unit.

        r = x2^T E x1 / sqrt((E x1)_1^2 + (E x1)_2^2 + (E^T x2)_1^2 + (E^T x2)_2^2)

    A match at both epipoles has no epipolar line: its distance and gradient are 0.

    Args:
        essential: (3, 3), of any scale.
        points1: (N, 2).
        points2: (N, 2).
    """
    check_shape("essential", essential, (3, 3))
    _check_matches(points1, points2)
    x1, x2 = _homogeneous(points1), _homogeneous(points2)
    line2, line1 = x1 @ essential.T, x2 @ essential  # (N, 3), in the second and the first image
    square = jnp.sum(line2[:, :2] ** 2, axis=-1) + jnp.sum(line1[:, :2] ** 2, axis=-1)
    defined = square > 0
    return jnp.where(
        defined, jnp.sum(x2 * line2, axis=-1) / jnp.sqrt(jnp.where(defined, square, 1)), 0
    )


def _cofactors(matrix: jax.Array) -> jax.Array:
    """Cofactors (3, 3): each row is the cross product of the other two."""
    a, b, c = matrix
    return jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)])


def _unit(x: jax.Array) -> jax.Array:
    square = jnp.vdot(x, x)
    return x / jnp.sqrt(jnp.where(square > 0, square, 1))


def _epipole(essential: jax.Array) -> jax.Array:
    """The unit vector t (3,) that minimises |E^T t|.

    By inverse iteration with the cofactors of E E^T: a multiple of its inverse, or of rank one if E
    is an essential matrix.
    """
    inverse = _cofactors(essential @ essential.T)
    column = jnp.argmax(jnp.diagonal(inverse))
    vector = _unit(inverse[:, column])
    for _ in range(_INVERSE_STEPS):
        vector = _unit(inverse @ vector)
    return vector


def _nearest_rotation(matrix: jax.Array) -> jax.Array:
    """The rotation nearest to a matrix (3, 3) with determinant > 0, by Newton's iteration."""
    for _ in range(_POLAR_STEPS):
        cofactors = _cofactors(matrix)
        determinant = jnp.vdot(matrix[0], cofactors[0])
        inverse = cofactors / jnp.where(determinant == 0, 1, determinant)  # transposed
        matrix = 0.5 * (matrix + inverse)
    return matrix


def decompose_essential(essential: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The two rotations (2, 3, 3) and the unit direction (3,), up to its sign, of E (3, 3).

    With E scaled to |E|^2 = 2 and t the epipole, R = cof(E) -+ hat(t) E, replaced by the nearest
    rotation if E is not essential. The four poses are both rotations with both signs of t.
    """
    check_shape("essential", essential, (3, 3))
    essential = jnp.sqrt(2.0).astype(essential.dtype) * essential / jnp.linalg.norm(essential)
    direction = _epipole(essential)
    turned, cofactors = so3.hat(direction) @ essential, _cofactors(essential)
    both = jnp.stack([cofactors - turned, cofactors + turned])
    return jax.vmap(_nearest_rotation)(both), direction


def triangulate(
    rotation: jax.Array, direction: jax.Array, points1: jax.Array, points2: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Depths (N,) along z in both cameras, in the unit of t; 0 where the rays are parallel.

    The depths d1, d2 minimise |d1 R x1 + t - d2 x2|^2 with x = (point, 1).
    """
    check_shape("rotation", rotation, (3, 3))
    _check_matches(points1, points2)
    a, b = _homogeneous(points1) @ rotation.T, _homogeneous(points2)
    aa, bb, ab = (jnp.sum(x * y, axis=-1) for x, y in ((a, a), (b, b), (a, b)))
    at, bt = a @ direction, b @ direction
    determinant = aa * bb - ab**2
    apart = determinant > 8 * jnp.finfo(a.dtype).eps * aa * bb
    scale = jnp.where(apart, determinant, 1)
    first, second = (ab * bt - bb * at) / scale, (aa * bt - ab * at) / scale
    return jnp.where(apart, first, 0), jnp.where(apart, second, 0)


def angle_behind(
    rotation: jax.Array, direction: jax.Array, points1: jax.Array, points2: jax.Array
) -> jax.Array:
    """Angles (N,) [rad] by which the rays of camera 2 violate cheirality.

    Points of the first ray project between R x1 (at infinity) and t (at the first camera). The
    angle is 0 between them, else it is the angle in the epipolar plane to the nearer end. Unlike
    distances to epipolar lines, it depends on the sign of t.
    """
    check_shape("rotation", rotation, (3, 3))
    _check_matches(points1, points2)
    a, x = _homogeneous(points1) @ rotation.T, _homogeneous(points2)
    normal = jnp.cross(a, direction)
    square = jnp.sum(normal**2, axis=-1)
    scale = jnp.sqrt(jnp.where(square > 0, square, 1))
    size = jnp.where(square > 0, scale, 0)
    turned = lambda y: jnp.sum(jnp.cross(a, y) * normal, axis=-1)
    end = jnp.arctan2(size, a @ direction)
    # A first ray along the epipole has no epipolar plane; its angle is 0.
    at = jnp.where(size > 0, jnp.arctan2(turned(x) / scale, jnp.sum(a * x, axis=-1)), 0)
    before = jnp.minimum(-at, 2 * jnp.pi + at - end)
    after = jnp.minimum(at - end, 2 * jnp.pi - at)
    return jnp.where(at < 0, before, jnp.maximum(after, 0))


def essential_pose(
    essential: jax.Array, points1: jax.Array, points2: jax.Array, weights: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """R (3, 3) and unit t (3,): the pose of E with the most matches in front of both cameras.

    Args:
        essential: (3, 3), of any scale.
        points1: (N, 2).
        points2: (N, 2).
        weights: (N,) of the matches, >= 0; None: 1.
    """
    rotations, direction = decompose_essential(essential)
    weights = jnp.ones(points1.shape[0], points1.dtype) if weights is None else weights
    turned = jnp.concatenate([rotations, rotations])
    directions = jnp.stack([direction, direction, -direction, -direction])

    def votes(rotation, direction):
        first, second = triangulate(rotation, direction, points1, points2)
        return jnp.sum(weights * ((first > 0) & (second > 0)))

    best = jnp.argmax(jax.vmap(votes)(turned, directions))
    return turned[best], directions[best]


def _normalisation(points: jax.Array, weights: jax.Array) -> jax.Array:
    """The similarity (3, 3) that puts the centroid at 0 and the mean square distance at 2."""
    total = jnp.sum(weights)
    centre = weights @ points / total
    spread = weights @ jnp.sum((points - centre) ** 2, axis=-1) / total
    scale = jnp.sqrt(2 / jnp.where(spread > 0, spread, 1))
    zero, one = jnp.zeros_like(scale), jnp.ones_like(scale)
    return jnp.stack(
        [
            jnp.stack([scale, zero, -scale * centre[0]]),
            jnp.stack([zero, scale, -scale * centre[1]]),
            jnp.stack([zero, zero, one]),
        ]
    )


def eight_point(
    points1: jax.Array, points2: jax.Array, weights: jax.Array | None = None
) -> jax.Array:
    """The essential matrix (3, 3), |E|^2 = 2, of eight or more matches by least squares.

    Minimises sum_n w_n (x2^T F x1)^2 over |F| = 1 on normalised points. Then E = hat(t) R, with the
    epipole t and the first rotation R of `decompose_essential(F)`.

    Args:
        points1: (N, 2), N >= 8.
        points2: (N, 2).
        weights: (N,), >= 0; None: 1. All zero count as equal weights. One to seven positive weights
            do not determine E; neither do coplanar scene points, which have no gradient.

    Raises:
        ValueError: fewer than eight matches.
    """
    _check_matches(points1, points2)
    if points1.shape[0] < _EIGHT:
        hint = "For five to seven try `argmin` from an initial pose."
        raise argument_error("points1", "expected 8 matches or more", points1.shape[0], hint)
    weights = jnp.ones(points1.shape[0], points1.dtype) if weights is None else weights
    weights = jnp.where(jnp.sum(weights) > 0, weights, 1)
    first, second = (_normalisation(p, weights) for p in (points1, points2))
    x1, x2 = _homogeneous(points1) @ first.T, _homogeneous(points2) @ second.T
    rows = (x2[:, :, None] * x1[:, None, :]).reshape(-1, 9)
    _, vectors = jnp.linalg.eigh(rows.T @ (weights[:, None] * rows))
    general = second.T @ vectors[:, 0].reshape(3, 3) @ first
    rotations, direction = decompose_essential(general)
    return essential_matrix(rotations[0], direction)
