"""A kinematic hand: bones that rotate about joints, covered by round cones.

In its own frame a right hand has the wrist at the origin, x to the thumb's side, y to the fingers
and z out of the palm [mm]. Each finger (thumb, index, middle, ring, pinky) has four points (base,
middle joint, last joint, tip) and four angles: flexion and abduction at the base, flexion at the
next two. At rest it has the direction d, flexion axis a and abduction axis n = a x d:

    G_0 = exp(theta_1 n) exp(theta_0 a),   G_k = G_(k-1) exp(theta_(k+1) a),
    p_(k+1) = p_k + l_k G_k d,
    G_k d = cos phi_k (cos theta_1 d - sin theta_1 a) + sin phi_k n,

with phi_k the sum of theta_0, theta_2, .. up to bone k, so a finger lies in a plane.

Sizes are those of an adult hand, rounded. Source of sphere meshes as the surface of a hand: Tkach
et al., SIGGRAPH Asia 2016.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.geometry import so3
from jaxcv.geometry.round_cones import RoundCones

__all__ = [
    "CONES", "FINGERS", "LIMITS", "HandPose", "HandShape", "hand_cones", "hand_joints",
    "hand_points", "mean_shape", "turned_hand",
]  # fmt: skip

FINGERS = ("thumb", "index", "middle", "ring", "pinky")
# Smallest and largest angles [rad], (5, 4, 2).
_FINGER_LIMITS = [(-0.3, 1.5), (-0.25, 0.25), (0.0, 1.8), (0.0, 1.2)]
LIMITS = np.array([[(-0.3, 0.7), (-0.5, 0.5), (-0.1, 0.9), (-0.2, 1.3)]] + [_FINGER_LIMITS] * 4)

# Bases of the fingers in the palm, their directions at rest, and sizes of the bones [mm].
_BASES = np.array([[24, 22, 8], [27, 88, 0], [5, 92, 0], [-16, 86, 0], [-34, 76, 0]], float)
_FANS = np.deg2rad([0.0, -5.0, 0.0, 5.0, 11.0])  # about z; the thumb uses `_THUMB` instead
_THUMB, _THUMB_BENDS_TO = np.array([0.70, 0.62, 0.35]), np.array([-0.8, 0.1, 0.6])
_LENGTHS = np.array([[46, 34, 25], [45, 26, 20], [50, 30, 21], [46, 29, 21], [36, 21, 18]], float)
_RADII = np.array(
    [[14, 11, 10, 8], [10.5, 9, 8, 6.5], [10.5, 9, 8, 6.5], [10, 8.5, 7.5, 6], [9, 7.5, 6.5, 5.5]]
)
_CARPALS = np.array([[14, 22, 0], [3, 24, 0], [-8, 22, 0], [-18, 19, 0]], float)  # of four fingers
_PALM = np.array(
    [[14, 0, 0], [-14, 0, 0], [8, -55, 0], [-8, -55, 0]], float
)  # sides of wrist and forearm
_PALM_RADII = np.array([13.0, 13, 17, 17])
_CARPAL_RADII = np.array([12.5, 12, 12, 12])

_WRIST, _FOREARM, _FIRST_CARPAL = (20, 21), (22, 23), 24
_index = lambda finger, point: 4 * finger + point
# Pairs of points joined by a cone: phalanges, metacarpals, palm, wrist and forearm.
CONES = np.array(
    [(_index(f, k), _index(f, k + 1)) for f in range(5) for k in range(3)]
    + [(_FIRST_CARPAL + f, _index(f + 1, 0)) for f in range(4)]
    + [(_index(f, 0), _index(f + 1, 0)) for f in range(1, 4)]
    + [(_FIRST_CARPAL + f, _FIRST_CARPAL + f + 1) for f in range(3)]
    + [(_FIRST_CARPAL + f, _index(f + 2, 0)) for f in range(3)]
    + [(_WRIST[0], _FIRST_CARPAL), (_WRIST[1], _FIRST_CARPAL + 3), (_WRIST[0], _index(0, 0))]
    + [(_index(0, 0), _FIRST_CARPAL), (_index(0, 0), _index(1, 0))]
    + [_WRIST, (_WRIST[0], _FOREARM[0]), (_WRIST[1], _FOREARM[1]), _FOREARM]
)


class HandShape(NamedTuple):
    """Sizes of a hand.

    Attributes:
        palm: (2,) factors on the palm's breadth and length.
        lengths: (5, 3) of the bones beyond the base [mm].
        radii: (28,) of all points of `hand_points` [mm].
    """

    palm: jax.Array
    lengths: jax.Array
    radii: jax.Array


class HandPose(NamedTuple):
    """Position, orientation and joint angles of a hand.

    Attributes:
        rotation: (3, 3), hand to camera.
        translation: (3,) of the wrist in the camera's frame [mm].
        angles: (5, 4) [rad]: flexion and abduction of the base, flexion of the next two.
    """

    rotation: jax.Array
    translation: jax.Array
    angles: jax.Array


def mean_shape() -> HandShape:
    """The shape of an adult hand."""
    radii = np.concatenate([_RADII.ravel(), _PALM_RADII, _CARPAL_RADII])
    return HandShape(jnp.ones(2), jnp.asarray(_LENGTHS, float), jnp.asarray(radii, float))


def _axes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Directions, flexion axes and abduction axes at rest, (5, 3) each."""
    zero = np.zeros(4)
    fans = _FANS[1:]
    directions = np.stack([-np.sin(fans), np.cos(fans), zero], axis=1)
    flexion = np.stack([np.cos(fans), np.sin(fans), zero], axis=1)
    thumb = _THUMB / np.linalg.norm(_THUMB)
    bend = np.cross(thumb, _THUMB_BENDS_TO)
    bend = bend / np.linalg.norm(bend)
    directions = np.concatenate([thumb[None], directions])
    flexion = np.concatenate([bend[None], flexion])
    return directions, flexion, np.cross(flexion, directions)


def hand_points(pose: HandPose, shape: HandShape) -> jax.Array:
    """The points (28, 3) that the cones join, in the camera's frame [mm].

    Four of each finger from base to tip, the sides of the wrist and of the forearm, and the carpal
    ends of the four metacarpals.
    """
    dtype = jnp.result_type(pose.angles, jnp.float32)
    directions, flexion, abduction = (jnp.asarray(x, dtype) for x in _axes())
    scale = jnp.concatenate([shape.palm, jnp.ones(1, dtype)])

    bend = jnp.cumsum(pose.angles[:, jnp.array([0, 2, 3])], axis=1)[..., None]
    spread = pose.angles[:, 1, None]
    straight = jnp.cos(spread) * directions - jnp.sin(spread) * flexion
    bones = jnp.cos(bend) * straight[:, None] + jnp.sin(bend) * abduction[:, None]
    bases = (jnp.asarray(_BASES, dtype) * scale)[:, None]
    joints = bases + jnp.cumsum(shape.lengths[..., None] * bones, axis=1)
    fingers = jnp.concatenate([bases, joints], axis=1)
    rigid = jnp.asarray(np.concatenate([_PALM, _CARPALS]), dtype) * scale
    own = jnp.concatenate([fingers.reshape(20, 3), rigid])
    return own @ pose.rotation.T + pose.translation


def hand_cones(points: jax.Array, radii: jax.Array) -> RoundCones:
    """The surface of a hand, from points (28, 3) and radii (28,)."""
    a, b = CONES.T
    return RoundCones(points[a], points[b], radii[a], radii[b])


def hand_joints(points: jax.Array) -> jax.Array:
    """The fourteen joints that are scored (14, 3), in the order of `jaxcv.data.hand.JOINTS`.

    The tip and the middle knuckle of pinky, ring, middle and index finger; tip, last and middle
    joint of the thumb; the sides of the wrist; and the palm, the mean of the metacarpals' ends.
    """
    tips = [points[_index(f, k)] for f in (4, 3, 2, 1) for k in (3, 1)]
    thumb = [points[_index(0, k)] for k in (3, 2, 1)]
    ends = [_index(f, 0) for f in range(1, 5)] + [_FIRST_CARPAL + f for f in range(4)]
    palm = jnp.mean(points[jnp.array(ends)], axis=0)
    return jnp.stack([*tips, *thumb, points[_WRIST[0]], points[_WRIST[1]], palm])


def turned_hand(pose: HandPose, twist: Any, angles: Any) -> HandPose:
    """The pose with rotation exp(w) R, translation t + v and the given angles added.

    Args:
        pose: the pose.
        twist: (6,) v [mm] and w [rad].
        angles: (5, 4) [rad].
    """
    rotation = so3.exp(twist[3:]) @ pose.rotation
    return HandPose(rotation, pose.translation + twist[:3], pose.angles + angles)
