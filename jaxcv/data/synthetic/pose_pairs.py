"""Wide-baseline pairs of generated rooms, with and without texture.

The rooms of `jaxcv.data.synthetic.stereo` are rendered exactly, but with a level floor darker than
the ceiling, and a right wall lighter than the left, unless shades are exchanged. The second camera
orbits the point that the first looks at, mostly sideways, and looks at it up to a small rotation.
Intrinsics, exposure, blur and noise vary between pairs.
"""

import concurrent.futures
import functools
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.checks import argument_error
from jaxcv.data.relative_pose import PosePairs
from jaxcv.data.synthetic.stereo import Scene, draw_scene, render
from jaxcv.geometry import so3
from jaxcv.geometry.camera import pixel_rays

__all__ = ["PairRanges", "draw_pose_pair", "generate_pose_pairs"]

_NEARER = 0.05  # relative depth by which a visible point may be occluded
_CLEARANCE = 0.15  # between a camera and the walls [m]
_FAINT = 0.02  # factor on textures in pairs without texture


class PairRanges(NamedTuple):
    """Ranges of the random numbers.

    Attributes:
        yaw: largest angle [rad] of the first camera in the room, about the vertical, +-.
        tilt: standard deviation [rad] of its angles about the two other axes.
        angle: largest angle [rad] between the cameras, at their common target. Draws are at least
            a tenth of it, but less where a wall is in the way. The median of DTU's pairs is 0.5.
        climb: ratio of vertical to sideways motion.
        turn: standard deviation of the second camera's extra rotation [rad].
        roll: standard deviation of its rotation about the optical axis [rad].
        focal: smallest and largest focal length, in image widths.
        blur: smallest and largest sigma [px].
        noise: largest standard deviation of the brightness.
        exposure: largest change of gain.
        exchanged: whether the mean shades of the faces change places at random; else the floor is
            dark, the ceiling light, and the right wall lighter than the left.
    """

    yaw: float = 0.15
    tilt: float = 0.03
    angle: float = 0.9
    climb: float = 0.4
    turn: float = 0.08
    roll: float = 0.05
    focal: tuple[float, float] = (0.8, 1.2)
    blur: tuple[float, float] = (0.6, 1.8)
    noise: float = 0.02
    exposure: float = 0.2
    exchanged: bool = False


def draw_pose_pair(
    key: jax.Array,
    shape: tuple[int, int],
    textured: Any,
    ranges: PairRanges = PairRanges(),  # noqa: B008
) -> PosePairs:
    """One pair, without the leading axis, in [0, 1]; every number is a function of the key.

    Args:
        key: PRNG key.
        shape: (H, W).
        textured: () bool, may be traced.
        ranges: of the random numbers.
    """
    keys = iter(jax.random.split(key, 16))
    uniform = lambda low, high, shape=(): jax.random.uniform(
        next(keys), shape, minval=low, maxval=high
    )
    height, width = shape
    scene = _furnished(next(keys), draw_scene(next(keys)), ranges)
    faint = jnp.where(textured, 1.0, _FAINT)
    scene = scene._replace(amplitude=faint * scene.amplitude)
    focal = width * uniform(*ranges.focal)
    k = jnp.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    blur = uniform(*ranges.blur)
    one = render(scene, jnp.eye(4), k, shape, blur)
    middle = one.depth[height // 4 : -height // 4, width // 4 : -width // 4]
    target = jnp.array([0.0, 0.0, 1.0]) * jnp.median(middle)  # of both cameras
    angle = uniform(0.1 * ranges.angle, ranges.angle)
    way = jax.random.normal(next(keys), (2,)) * jnp.array([ranges.climb, 1.0])
    axis = jnp.append(way / jnp.linalg.norm(way), 0.0)  # across the optical axis
    closer = 1 + 0.15 * uniform(-1.0, 1.0)
    around = so3.exp(_indoors(scene, angle, axis, target, closer) * axis)
    own = so3.exp(
        jax.random.normal(next(keys), (3,)) * jnp.array([ranges.turn, ranges.turn, ranges.roll])
    )
    # Before `own`, the target is straight ahead of the second camera.
    rotation = own @ around
    move = own @ (closer * target - around @ target)
    bottom = jnp.array([[0.0, 0.0, 0.0, 1.0]])
    pose = jnp.concatenate([jnp.concatenate([rotation, move[:, None]], axis=1), bottom])
    two = render(scene, pose, k, shape, blur)
    gain = 1 + ranges.exposure * uniform(-1.0, 1.0)
    grain = uniform(0.0, ranges.noise) * jax.random.normal(next(keys), (2, *shape, 3))
    return PosePairs(
        jnp.clip(one.image + grain[0], 0, 1), jnp.clip(gain * two.image + grain[1], 0, 1),
        k, k, rotation, move / jnp.linalg.norm(move), jnp.asarray(textured),
        _overlap(one.depth, two.depth, pose, k),
    )  # fmt: skip


def _indoors(scene: Scene, angle: Any, axis: Any, target: Any, closer: Any) -> jax.Array:
    """The angle, or the largest fraction of it that keeps the second camera in the room."""
    shares = angle * jnp.linspace(0.05, 1.0, 20)
    turns = jax.vmap(lambda a: so3.exp(a * axis))(shares)
    places = target - closer * jnp.einsum("kji,j->ki", turns, target)
    local = (places - scene.centre[0]) @ scene.turn[0].T
    inside = jnp.all(jnp.abs(local) < scene.half[0] - _CLEARANCE, axis=-1)
    return shares[jnp.maximum(jnp.sum(jnp.cumprod(inside)) - 1, 0)]


def _furnished(key: jax.Array, scene: Scene, ranges: PairRanges) -> Scene:
    """The same room, upright, with a floor, a ceiling and walls that differ in shade."""
    keys = jax.random.split(key, 3)
    yaw = jax.random.uniform(keys[0], minval=-ranges.yaw, maxval=ranges.yaw)
    tilt = ranges.tilt * jax.random.normal(keys[1], (2,))
    turn = so3.exp(jnp.array([tilt[0], 0.0, tilt[1]])) @ so3.exp(yaw * jnp.array([0.0, 1.0, 0.0]))
    middle = scene.turn[0] @ scene.centre[0]
    # Inward normals; y points down, so the floor's normal is -y.
    level = jnp.array([-0.2, 0.25, 0.0, 0.2, -0.3, 0.0])[:, None]
    spread = jnp.array([0.06, 0.05, 0.1, 0.06, 0.05, 0.1])[:, None]
    order = jax.random.permutation(jax.random.fold_in(key, 3), 6)
    level = jnp.where(ranges.exchanged, level[order], level)
    return scene._replace(
        turn=scene.turn.at[0].set(turn), centre=scene.centre.at[0].set(turn.T @ middle),
        faces=level + spread * jax.random.normal(keys[2], (6, 3)),
    )  # fmt: skip


def _overlap(depth1: jax.Array, depth2: jax.Array, pose: jax.Array, k: jax.Array) -> jax.Array:
    """Fraction of the first image's pixels that are visible in the second."""
    height, width = depth1.shape
    points = depth1[..., None] * pixel_rays(k, height, width)
    moved = points @ pose[:3, :3].T + pose[:3, 3]
    z = jnp.maximum(moved[..., 2], 1e-6)
    u, v = (jnp.round((moved @ k.T)[..., i] / z).astype(int) for i in range(2))
    inside = (moved[..., 2] > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    seen = depth2[jnp.clip(v, 0, height - 1), jnp.clip(u, 0, width - 1)]
    return jnp.mean(inside & (z < (1 + _NEARER) * seen))


def generate_pose_pairs(
    seed: int,
    count: int,
    shape: tuple[int, int] = (96, 128),
    *,
    textureless: float = 0.5,
    ranges: PairRanges = PairRanges(),  # noqa: B008, an immutable value
) -> PosePairs:
    """Pairs of different rooms, in 8 bits; pair i depends on the seed and on i alone.

    Args:
        seed: other seeds give other rooms, textures and intrinsics.
        count: N.
        shape: (H, W).
        textureless: fraction of pairs without texture, spread evenly.
        ranges: of the random numbers.

    Raises:
        ValueError: a count below 1, a side below 8 pixels, a fraction outside [0, 1].
    """
    if count < 1:
        raise argument_error("count", "expected 1 or more", count)
    if min(shape) < 8:
        raise argument_error("shape", "expected 8 pixels a side or more", shape)
    if not 0 <= textureless <= 1:
        raise argument_error("textureless", "expected 0 to 1", textureless)
    key = jax.random.key(seed)
    numbers = np.arange(count)
    bare = np.floor((numbers + 1) * textureless) > np.floor(numbers * textureless)

    def one(i):
        pair = jax.device_get(_drawn(key, i, tuple(shape), ~bare[i], ranges))
        bits = [np.round(255 * image).astype(np.uint8) for image in pair[:2]]
        return PosePairs(*bits, *pair[2:])

    first = one(0)
    out = PosePairs(*(np.empty((count, *np.shape(leaf)), np.asarray(leaf).dtype) for leaf in first))

    def fill(i):
        for stack, leaf in zip(out, one(i) if i else first, strict=True):
            stack[i] = leaf

    # A pair is too small for XLA's threads: render one pair per core.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(fill, numbers))
    return out


@functools.partial(jax.jit, static_argnames="shape")
def _drawn(
    key: jax.Array, i: Any, shape: tuple[int, int], textured: Any, ranges: PairRanges
) -> PosePairs:
    return draw_pose_pair(jax.random.fold_in(key, i), shape, textured, ranges)
