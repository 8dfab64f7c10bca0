"""The energy of a kinematic hand, given a network's joints and the points of a depth image.

    E(y) = 1/2 sum_j c_j |x_j(y) - x^_j|^2 / s_j^2  +  1/2 sum_p rho(d(p; y)^2 / s_p^2)
         + 1/2 |angles beyond their limits|^2 / s_l^2 + 1/2 |angles - middle|^2 / s_a^2
         + 1/2 |sizes|^2 / s_z^2

x_j are the joints of the hand y, x^_j and c_j a network's prediction and its confidence. d(p; y) is
the distance of a depth point to a round cone: the nearest or, to keep the energy smooth, the cone
that the point is assigned to. Sizes are unknowns as well, with a prior on how people differ.
A network learns through x^ and c; the initial hand has no gradient.

Sources: Tkach et al., SIGGRAPH Asia 2016, for the surface; Tompson et al., SIGGRAPH 2014, for a
kinematic hand fitted to a network's output.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.geometry.hand import (
    LIMITS,
    HandPose,
    HandShape,
    hand_cones,
    hand_joints,
    hand_points,
    mean_shape,
)
from jaxcv.geometry.round_cones import distances, paired_distances

__all__ = [
    "HandScales", "hand_of", "hand_residuals", "hand_start", "nearest_cones", "shape_of_sizes",
]  # fmt: skip

SIZES = 8  # log factors: the palm's breadth and length, the five fingers, all radii


class HandScales(NamedTuple):
    """Standard deviation of each residual of the energy.

    Attributes:
        joints: predicted joints of confidence 1 [mm].
        points: distance of a depth point from the surface [mm].
        limits: excess of angles beyond their limits [rad].
        angles: angles about the middle of their range, in half ranges.
        sizes: logarithms of sizes among people.
    """

    joints: Any = 10.0
    points: Any = 3.0
    limits: Any = 0.05
    angles: Any = 2.0
    sizes: Any = 0.1


def shape_of_sizes(sizes: jax.Array) -> HandShape:
    """Shape from log factors (8,): the palm's breadth and length, the five fingers, all radii."""
    mean = mean_shape()
    factors = jnp.exp(sizes)
    lengths = factors[2:7, None] * mean.lengths.astype(sizes.dtype)
    return HandShape(factors[:2], lengths, factors[7] * mean.radii.astype(sizes.dtype))


def hand_of(y: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Points (28, 3) [mm] and radii (28,) [mm] of the hand y.

    Args:
        y: `rotation` (3, 3), `translation` (3,) [mm / 100], `angles` (5, 4) [rad], `sizes` (8,).
    """
    shape = shape_of_sizes(y["sizes"])
    pose = HandPose(y["rotation"], 100 * y["translation"], y["angles"])
    return hand_points(pose, shape), shape.radii


def nearest_cones(y: dict[str, jax.Array], seen: jax.Array) -> jax.Array:
    """Index (P,) of the cone nearest to each depth point (P, 3); without a gradient."""
    cones = jax.lax.stop_gradient(hand_cones(*hand_of(y)))
    return jax.vmap(lambda p: jnp.argmin(distances(p, cones)))(jax.lax.stop_gradient(seen))


def hand_residuals(
    y: dict[str, jax.Array],
    theta: dict[str, Any],
    seen: jax.Array,
    valid: jax.Array,
    nearest: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """The residuals `joints`, `points`, `limits`, `angles` and `sizes` of the energy.

    Args:
        y: unknowns, as in `hand_of`; minimise with `retract=Product(rotation=SO3())`.
        theta: `joints` (14, 3) [mm] and `log_confidence` (14,) of a network, `scales` HandScales.
        seen: (P, 3) points of the depth image [mm].
        valid: (P,) 1, or 0 for padding.
        nearest: (P,) index of the cone assigned to each point; None: the nearest cone of `y`.
    """
    scales = theta["scales"]
    points, radii = hand_of(y)
    weight = jnp.exp(0.5 * theta["log_confidence"])[:, None]
    lower, upper = (jnp.asarray(LIMITS[..., k], y["angles"].dtype) for k in (0, 1))
    if nearest is None:
        nearest = nearest_cones(y, seen)
    cones = jax.tree.map(lambda leaf: leaf[nearest], hand_cones(points, radii))
    to_surface = paired_distances(seen, cones)
    beyond = jnp.maximum(y["angles"] - upper, 0) - jnp.maximum(lower - y["angles"], 0)
    away = (y["angles"] - 0.5 * (lower + upper)) / (0.5 * (upper - lower))
    return {
        "joints": weight * (hand_joints(points) - theta["joints"]) / scales.joints,
        "points": valid * to_surface / scales.points,
        "limits": beyond / scales.limits,
        "angles": away / scales.angles,
        "sizes": y["sizes"] / scales.sizes,
    }


def hand_start(joints: jax.Array) -> dict[str, jax.Array]:
    """Initial unknowns from predicted joints (14, 3) [mm]: a mean hand at mid-range angles.

    Rotation and translation align it to the joints by least squares (Umeyama, PAMI 1991).
    """
    dtype = joints.dtype
    angles = jnp.asarray(LIMITS.mean(axis=-1), dtype)
    sizes = jnp.zeros(SIZES, dtype)
    eye, zero = jnp.eye(3, dtype=dtype), jnp.zeros(3, dtype)
    own = hand_joints(hand_points(HandPose(eye, zero, angles), shape_of_sizes(sizes)))
    mean, goal = jnp.mean(own, axis=0), jnp.mean(joints, axis=0)
    u, _, vt = jnp.linalg.svd((joints - goal).T @ (own - mean))
    turn = jnp.ones(3, dtype).at[2].set(jnp.linalg.det(u @ vt))
    rotation = (u * turn) @ vt
    y = {
        "rotation": rotation,
        "translation": (goal - rotation @ mean) / 100,
        "angles": angles,
        "sizes": sizes,
    }
    return jax.lax.stop_gradient(y)
