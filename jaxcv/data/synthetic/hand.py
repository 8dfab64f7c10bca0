"""Hands of round cones, ray-cast exactly to depth and shaded colour, with a noisy sensor.

People differ in the sizes of palm, bones and flesh. Poses are drawn within the joints' limits, and
redrawn while fingers intersect. Light, skin and image noise change with every frame: with one fixed
light and no noise, colour would be an exact normal map.

The sensor's noise and quantisation grow with the square of the depth, as from disparities. Pixels
drop out at random, beside depth jumps, and where the surface is seen at a grazing angle.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.checks import argument_error
from jaxcv.data.hand import HandFrames
from jaxcv.geometry import so3
from jaxcv.geometry.camera import pixel_rays, project
from jaxcv.geometry.hand import (
    CONES,
    LIMITS,
    HandPose,
    HandShape,
    hand_cones,
    hand_joints,
    hand_points,
    mean_shape,
)
from jaxcv.geometry.round_cones import distances, intersect, normals

__all__ = [
    "HandView", "Sensor", "draw_hand_pose", "draw_hand_shape", "draw_hand_view", "draw_window",
    "generate_hands", "overlap", "render_hand", "sense_depth", "shade_hand",
]  # fmt: skip

_CAMERA = np.array([[240.0, 0, 159.5], [0, 240.0, 119.5], [0, 0, 1]])  # of 320 x 240 pixels
_MARGIN = 10  # largest offset of a hand from its window's centre [px]
_ALLOWED = 3.0  # overlap of touching fingers, as of soft flesh [mm]
_AT_ONCE = 64


class Sensor(NamedTuple):
    """Errors of the depth; 0 switches each off.

    Attributes:
        noise: standard deviation at 800 mm [mm]; it grows with the square of the depth.
        step: quantisation at 1 m [mm]; it grows with the square of the depth.
        dropout: probability that a pixel is missing.
        edge: probability that a pixel beside a jump of over 20 mm is missing.
        grazing: cosine between normal and ray below which pixels are missing.
    """

    noise: float = 1.5
    step: float = 2.85
    dropout: float = 0.02
    edge: float = 0.6
    grazing: float = 0.12


class HandView(NamedTuple):
    """The image of an ideal camera.

    Attributes:
        depth: (H, W) along z [mm]; inf on the background.
        normal: (H, W, 3) outward; 0 on the background.
        cone: (H, W) index into CONES; -1 on the background.
    """

    depth: jax.Array
    normal: jax.Array
    cone: jax.Array


def draw_hand_shape(key: jax.Array) -> HandShape:
    """Sizes of a person: 8% overall spread; 3% per finger and bone, 4% palm, 6% flesh."""
    keys = jax.random.split(key, 5)
    mean = mean_shape()
    factor = lambda key, shape, spread: jnp.exp(spread * jax.random.normal(key, shape))
    whole = factor(keys[0], (), 0.08)
    palm = whole * factor(keys[1], (2,), 0.04)
    lengths = whole * factor(keys[2], (5, 1), 0.03) * factor(keys[3], (5, 3), 0.03)
    flesh = factor(keys[4], (2,), 0.06)
    radii = whole * flesh[0] * mean.radii
    return HandShape(palm, lengths * mean.lengths, radii)


def overlap(points: jax.Array, radii: jax.Array) -> jax.Array:
    """Penetration depth of each finger into the others and the palm (5,) [mm]; negative: a gap.

    Tests four spheres on a finger's last two bones against all cones but its own.

    Args:
        points: (28, 3) of `hand_points`.
        radii: (28,).
    """
    cones = hand_cones(points, radii)
    owner = np.where(CONES[:, 1] < 20, CONES[:, 1] // 4, -1)
    owner[15:] = -1  # cones of the palm

    def of_finger(finger, p, r):
        spheres = jnp.concatenate([p[2:], 0.5 * (p[1:3] + p[2:])])
        sizes = jnp.concatenate([r[2:], 0.5 * (r[1:3] + r[2:])])
        away = jax.vmap(lambda q: distances(q, cones))(spheres) - sizes[:, None]
        return jnp.max(jnp.where(owner == finger, -jnp.inf, -away))

    fingers = points[:20].reshape(5, 4, 3), radii[:20].reshape(5, 4)
    return jax.vmap(of_finger)(jnp.arange(5), *fingers)


def _draw_angles(key: jax.Array) -> jax.Array:
    """Angles (5, 4) within the limits; the joints of a finger bend together."""
    keys = jax.random.split(key, 3)
    curl = jax.random.uniform(keys[0], (5, 1))
    own = jax.random.uniform(keys[1], (5, 4))
    together = 0.7 * curl + 0.3 * own
    share = together.at[:, 1].set(own[:, 1])  # abduction is independent
    lower, upper = jnp.asarray(LIMITS[..., 0]), jnp.asarray(LIMITS[..., 1])
    return lower + share * (upper - lower)


def draw_hand_pose(key: jax.Array, shape: HandShape) -> HandPose:
    """A pose without self-collision, in a view of `draw_hand_view`."""
    keys = jax.random.split(key, 3)

    def points_of(angles):
        own = HandPose(jnp.eye(3, dtype=angles.dtype), jnp.zeros(3, angles.dtype), angles)
        return hand_points(own, shape)

    collides = lambda angles: jnp.max(overlap(points_of(angles), shape.radii)) > _ALLOWED

    def again(state):
        key, _ = state
        key, own = jax.random.split(key)
        return key, _draw_angles(own)

    start = (keys[0], _draw_angles(keys[1]))
    _, angles = jax.lax.while_loop(lambda state: collides(state[1]), again, start)
    rotation, place = draw_hand_view(keys[2])
    palm = hand_joints(points_of(angles))[-1]
    return HandPose(rotation, place - rotation @ palm, angles)


def draw_hand_view(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rotation (3, 3) of a hand's frame (x to the thumb, y along the fingers, z out of the palm)
    into the camera's, and the palm's position (3,) there [mm].

    The palm faces the camera, fingers up, up to rotations of 0.7, 0.9 and 0.8 rad about x, y and z.
    It is within 100 and 80 mm of the optical axis in x and y, and 600 to 1000 mm away.
    """
    turn = jax.random.uniform(key, (6,), minval=-1)
    about = [so3.exp(turn[k] * s * jnp.eye(3)[k]) for k, s in enumerate((0.7, 0.9, 0.8))]
    facing = jnp.diag(jnp.array([1.0, -1.0, -1.0]))
    rotation = about[2] @ about[1] @ about[0] @ facing
    return rotation, jnp.array([0.0, 0.0, 800.0]) + turn[3:] * jnp.array([100.0, 80.0, 200.0])


def draw_window(key: jax.Array, joints: jax.Array, size: tuple[int, int]) -> jax.Array:
    """K (3, 3) of a pixel-aligned window around joints (J, 3) [mm], up to 10 px off centre.

    Args:
        key: PRNG key.
        joints: (J, 3) in the frame of a camera of 320 x 240 pixels.
        size: (H, W) of the window.
    """
    camera = jnp.asarray(_CAMERA, joints.dtype)
    middle = jnp.stack(project(jnp.mean(joints, axis=0), camera))
    away = jax.random.randint(key, (2,), -_MARGIN, _MARGIN + 1)
    start = jnp.round(middle) + away - jnp.array([size[1] // 2, size[0] // 2])
    return camera.at[:2, 2].add(-start)


def render_hand(
    points: jax.Array, radii: jax.Array, intrinsics: jax.Array, size: tuple[int, int]
) -> HandView:
    """The first intersection of every pixel's ray with the hand.

    Args:
        points: (28, 3) of `hand_points` [mm].
        radii: (28,) [mm].
        intrinsics: (3, 3) [px].
        size: (H, W).
    """
    cones = hand_cones(points, radii)
    rays = pixel_rays(intrinsics, *size).reshape(-1, 3).astype(points.dtype)
    origin = jnp.zeros(3, points.dtype)
    single = lambda cone: jax.tree.map(lambda leaf: leaf[None], cone)

    def nearer(nearest, numbered):  # one cone at a time, vectorised over all pixels
        number, cone = numbered
        t = jax.vmap(lambda ray: intersect(origin, ray, single(cone))[0])(rays)
        closer = t < nearest[0]
        return (jnp.where(closer, t, nearest[0]), jnp.where(closer, number, nearest[1])), None

    nothing = jnp.full(len(rays), jnp.inf, points.dtype), jnp.full(len(rays), -1)
    (t, first), _ = jax.lax.scan(nearer, nothing, (jnp.arange(len(CONES)), cones))
    hit = first >= 0
    own = jax.tree.map(lambda leaf: leaf[jnp.maximum(first, 0)], cones)
    look = lambda t, ray, cone: normals(t * ray, single(cone))[0]
    normal = jnp.where(hit[:, None], jax.vmap(look)(jnp.where(hit, t, 1), rays, own), 0)
    return HandView(t.reshape(size), normal.reshape(*size, 3), first.reshape(size))


def sense_depth(key: jax.Array, view: HandView, rays: jax.Array, sensor: Sensor) -> jax.Array:
    """The sensor's depth image (H, W) [mm], 0 where missing.

    Args:
        key: PRNG key.
        view: the ideal image.
        rays: (H, W, 3) of `pixel_rays`.
        sensor: its errors.
    """
    keys = jax.random.split(key, 3)
    z = jnp.where(jnp.isfinite(view.depth), view.depth, 0)
    seen = z > 0
    far = jnp.where(seen, z, 1e4)
    padded = jnp.pad(far, 1, mode="edge")
    sides = [padded[1:-1, :-2], padded[1:-1, 2:], padded[:-2, 1:-1], padded[2:, 1:-1]]
    jump = jnp.max(jnp.stack([jnp.abs(side - far) for side in sides]), axis=0) > 20
    facing = -jnp.sum(view.normal * rays, axis=-1) / jnp.linalg.norm(rays, axis=-1)
    keep = seen & (facing >= sensor.grazing)
    keep &= ~(jump & (jax.random.uniform(keys[0], z.shape) < sensor.edge))
    keep &= jax.random.uniform(keys[1], z.shape) >= sensor.dropout
    z = z + sensor.noise * (z / 800) ** 2 * jax.random.normal(keys[2], z.shape)
    step = sensor.step * (z / 1000) ** 2
    safe = jnp.where(step > 0, step, 1)
    z = jnp.where(step > 0, jnp.round(z / safe) * safe, z)
    return jnp.where(keep, z, 0)


def shade_hand(key: jax.Array, view: HandView) -> jax.Array:
    """Colour (H, W, 3) in [0, 1]: skin under one lamp and ambient light, on a smooth background.

    The light's direction, strength and tint, the skin and its change between bones, the
    background and the noise are random.
    """
    keys = jax.random.split(key, 9)
    uniform = jax.random.uniform
    light = jnp.array([0, -0.4, -1.0]) + 0.9 * jax.random.normal(keys[0], (3,))
    light = light / jnp.linalg.norm(light)
    ambient, strength = 0.15 + 0.35 * uniform(keys[1], ()), 0.5 + 0.6 * uniform(keys[2], ())
    tint = 1 + 0.15 * (2 * uniform(keys[3], (3,)) - 1)
    skin = jnp.array([0.85, 0.62, 0.5]) * (0.35 + 0.75 * uniform(keys[4], ()))
    bones = 1 + 0.08 * jax.random.normal(keys[5], (len(CONES), 3))
    albedo = skin * bones[jnp.maximum(view.cone, 0)]
    lambert = jnp.maximum(view.normal @ light, 0)
    hand = albedo * tint * (ambient + strength * lambert)[..., None]
    height, width = view.depth.shape
    waves = jax.random.normal(keys[6], (6, 2)) * 6
    v, u = jnp.meshgrid(jnp.linspace(0, 1, height), jnp.linspace(0, 1, width), indexing="ij")
    phase = waves[:, 0, None, None] * u + waves[:, 1, None, None] * v
    amplitude = 0.1 * jax.random.normal(keys[7], (6, 3))
    ground = 0.5 + jnp.einsum("khw,kc->hwc", jnp.sin(phase), amplitude)
    image = jnp.where((view.cone >= 0)[..., None], hand, ground)
    return jnp.clip(image + 0.02 * jax.random.normal(keys[8], image.shape), 0, 1)


@functools.partial(jax.jit, static_argnames=("size", "sensor"))
def _frames(keys, shapes, size, sensor):
    def one(key, shape):
        pose_key, place_key, sense_key, shade_key = jax.random.split(key, 4)
        points = hand_points(draw_hand_pose(pose_key, shape), shape)
        joints = hand_joints(points)
        k = draw_window(place_key, joints, size)
        view = render_hand(points, shape.radii, k, size)
        depth = sense_depth(sense_key, view, pixel_rays(k, *size), sensor)
        color = jnp.round(255 * shade_hand(shade_key, view))
        return jnp.round(depth), color, joints, k

    return jax.vmap(one)(keys, shapes)


def generate_hands(
    key: jax.Array,
    count: int,
    *,
    subjects: int = 8,
    size: tuple[int, int] = (112, 112),
    sensor: Sensor | None = None,
) -> HandFrames:
    """Frames of several people in turn, in windows of a camera of 320 x 240 pixels.

    Args:
        key: PRNG key; other keys give other people.
        count: frames.
        subjects: people.
        size: (H, W) of the windows; `intrinsics` has one K for each.
        sensor: None: `Sensor()`.

    Returns:
        Depth in whole millimetres (uint16), colour in 8 bits (uint8).
    """
    if not 1 <= subjects <= count:
        raise argument_error("subjects", f"expected 1 to {count}", subjects)
    people, frames = jax.random.split(key)
    shapes = jax.vmap(draw_hand_shape)(jax.random.split(people, subjects))
    keys, who = jax.random.split(frames, count), np.arange(count) % subjects
    parts = []
    for i in range(0, count, _AT_ONCE):
        rows = np.minimum(np.arange(i, i + _AT_ONCE), count - 1)  # equal shapes: compiled once
        own = jax.tree.map(lambda leaf: leaf[who[rows]], shapes)  # noqa: B023
        depth, color, joints, k = jax.device_get(_frames(keys[rows], own, size, sensor or Sensor()))
        parts.append((depth.astype(np.uint16), color.astype(np.uint8), joints, k))
    depth, color, joints, k = (
        np.concatenate(leaves)[:count] for leaves in zip(*parts, strict=True)
    )
    return HandFrames(depth, color, joints, k, who)
