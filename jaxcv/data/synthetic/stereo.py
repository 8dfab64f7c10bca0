"""Two views of rooms with boxes, slabs and balls, ray-cast exactly.

Surfaces carry solid textures, sums of waves in space, low-pass filtered in closed form: a wave of
projected frequency f [rad/px] is scaled by exp(-(sigma f)^2 / 2), a Gaussian filter on flat
surfaces. So every pixel's depth is exact, and textures do not alias. The second view has another
gain and bias, and both have noise.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.checks import argument_error
from jaxcv.data.stereo import StereoPairs
from jaxcv.geometry import so3
from jaxcv.geometry.camera import denormalise_intrinsics, pixel_rays

__all__ = ["DEMON_INTRINSICS", "View", "draw_pair", "generate_pairs", "render"]

DEMON_INTRINSICS = (0.89115971, 1.18821287, 0.5, 0.5)  # fx / W, fy / H, cx / W, cy / H
_BOXES, _BALLS, _WAVES = 5, 3, 16
_FAR = 1e6


class Scene(NamedTuple):
    """A room, its objects, and their textures; metres, in the frame of the first camera.

    Attributes:
        turn: (1 + 5, 3, 3) world to the frames of the room and of the boxes.
        centre: (1 + 5, 3).
        half: (1 + 5, 3) half extents.
        ball_centre: (3, 3).
        radius: (3,).
        colour: (1 + 5 + 3, 3) mean colour.
        wave: (1 + 5 + 3, 16, 3) wave vectors [rad/m].
        phase: (1 + 5 + 3, 16).
        amplitude: (1 + 5 + 3, 16, 3) per colour channel.
        light: (3,) direction to the light.
        faces: (6, 3) added to the colour of the room's faces, by their inward normals +x, +y,
            +z, -x, -y, -z in the room's frame; None: nothing.
    """

    turn: jax.Array
    centre: jax.Array
    half: jax.Array
    ball_centre: jax.Array
    radius: jax.Array
    colour: jax.Array
    wave: jax.Array
    phase: jax.Array
    amplitude: jax.Array
    light: jax.Array
    faces: jax.Array | None = None


class View(NamedTuple):
    """An image and its depth.

    Attributes:
        image: (H, W, 3), without noise; may leave [0, 1].
        depth: (H, W) along z [m].
    """

    image: jax.Array
    depth: jax.Array


def _rotation(key, angle):
    """A random axis, and a normal angle with standard deviation `angle` [rad]."""
    keys = jax.random.split(key)
    axis = jax.random.normal(keys[0], (3,))
    return so3.exp(angle * jax.random.normal(keys[1]) * axis / jnp.linalg.norm(axis))


def draw_scene(key: jax.Array) -> Scene:
    """A room of 3-6 x 2.4-4.8 x 5.5-11 m, and objects 1.2 to 6 m away."""
    keys = iter(jax.random.split(key, 24))
    uniform = lambda shape, low, high: jax.random.uniform(
        next(keys), shape, minval=low, maxval=high
    )
    things = _BOXES + _BALLS
    depth = jnp.exp(uniform((things,), jnp.log(1.2), jnp.log(6.0)))
    pixel = uniform((things, 2), jnp.array([-0.55, -0.42]), jnp.array([0.55, 0.42]))
    centre = depth[:, None] * jnp.concatenate([pixel, jnp.ones((things, 1))], axis=1)
    size = depth * uniform((things,), 0.06, 0.25)
    shape = jnp.exp(uniform((_BOXES, 3), jnp.log(0.15), 0.0))  # slabs and rods among them
    absent = uniform((things,), 0.0, 1.0) < 0.3
    size = jnp.where(absent, 0.0, size)
    room_low = jnp.array([1.5, 1.2, 1.5]) * uniform((3,), 1.0, 2.0)
    room_high = jnp.array([1.5, 1.2, 4.0]) * uniform((3,), 1.0, 2.0)
    turns = [_rotation(next(keys), 0.4)[None]]
    turns.append(jax.vmap(lambda k: _rotation(k, 2.0))(jax.random.split(next(keys), _BOXES)))
    middle = (room_high - room_low) / 2
    # Wavelengths from 1.5 to 0.05 of an object's size, or of the room's 3 m.
    scale = jnp.concatenate([jnp.array([3.0]), jnp.maximum(size, 0.05) * 2])
    octave = uniform((1 + things, _WAVES), 0.0, 5.0)
    length = 1.5 * scale[:, None] * 2.0**-octave
    way = jax.random.normal(next(keys), (1 + things, _WAVES, 3))
    way = way / jnp.linalg.norm(way, axis=-1, keepdims=True)
    tint = 1 + 0.5 * jax.random.normal(next(keys), (1 + things, _WAVES, 3))
    light = jnp.array([0.3, -1.0, -0.6]) + 0.4 * jax.random.normal(next(keys), (3,))
    return Scene(
        turn=jnp.concatenate(turns),
        centre=jnp.concatenate([(turns[0][0].T @ middle)[None], centre[:_BOXES]]),
        half=jnp.concatenate([(room_high + room_low)[None] / 2, size[:_BOXES, None] * shape]),
        ball_centre=centre[_BOXES:],
        radius=size[_BOXES:],
        colour=uniform((1 + things, 3), 0.25, 0.75),
        wave=2 * jnp.pi * way / length[..., None],
        phase=uniform((1 + things, _WAVES), 0.0, 2 * jnp.pi),
        amplitude=tint * (0.11 * 2.0 ** (-0.35 * octave))[..., None],
        light=light / jnp.linalg.norm(light),
    )


def _boxes(scene: Scene, origin, rays):
    """Distances along rays (..., 3) to the room and the boxes (..., 6), and normals (..., 6, 3)."""
    start = jnp.einsum("kij,kj->ki", scene.turn, origin - scene.centre)  # (6, 3)
    way = jnp.einsum("kij,...j->...ki", scene.turn, rays)
    way = jnp.where(jnp.abs(way) < 1e-9, 1e-9, way)
    near = (-jnp.sign(way) * scene.half - start) / way
    far = (jnp.sign(way) * scene.half - start) / way
    enter, leave = jnp.max(near, axis=-1), jnp.min(far, axis=-1)
    hit = (enter < leave) & (enter > 0)
    # The camera is inside the room: it sees the wall where the ray leaves.
    room = jnp.arange(1 + _BOXES) == 0
    distance = jnp.where(room, leave, jnp.where(hit, enter, _FAR))
    axis = jnp.where(room, jnp.argmin(far, axis=-1), jnp.argmax(near, axis=-1))
    local = -jnp.sign(way) * jax.nn.one_hot(axis, 3, dtype=way.dtype)
    return distance, jnp.einsum("kij,...ki->...kj", scene.turn, local)


def _balls(scene: Scene, origin, rays):
    """The same for the balls, (..., 3) and (..., 3, 3)."""
    away = origin - scene.ball_centre
    a = jnp.sum(rays * rays, axis=-1)[..., None]
    b = jnp.einsum("...j,kj->...k", rays, away)
    c = jnp.sum(away * away, axis=-1) - scene.radius**2
    root = b * b - a * c
    distance = (-b - jnp.sqrt(jnp.maximum(root, 0))) / a
    hit = (root > 0) & (distance > 0) & (scene.radius > 0)
    distance = jnp.where(hit, distance, _FAR)
    normal = away + distance[..., None] * rays[..., None, :]
    return distance, normal / jnp.maximum(scene.radius, 1e-6)[:, None]


def render(
    scene: Scene, pose: jax.Array, intrinsics: jax.Array, shape: tuple[int, int], blur: Any
) -> View:
    """A view of a scene.

    Args:
        scene: of `draw_scene`.
        pose: (4, 4) world to camera.
        intrinsics: (3, 3) [px].
        shape: (H, W).
        blur: sigma [px] of the textures.
    """
    turn, origin = pose[:3, :3].T, -pose[:3, :3].T @ pose[:3, 3]
    camera_rays = pixel_rays(intrinsics, *shape)
    rays = camera_rays @ turn.T
    pairs = [_boxes(scene, origin, rays), _balls(scene, origin, rays)]
    distance = jnp.concatenate([pair[0] for pair in pairs], axis=-1)
    normals = jnp.concatenate([pair[1] for pair in pairs], axis=-2)
    which = jnp.argmin(distance, axis=-1)
    depth = jnp.min(distance, axis=-1)  # the rays have z = 1 in the camera
    normal = jnp.take_along_axis(normals, which[..., None, None], axis=-2)[..., 0, :]
    point = origin + depth[..., None] * rays
    wave = scene.wave[which]  # (H, W, 16, 3)
    # Shift of a point on its locally flat surface per pixel of u and v.
    facing = jnp.sum(normal * rays, axis=-1)
    facing = jnp.where(jnp.abs(facing) < 1e-3, -1e-3, facing)
    frequency = jnp.zeros(wave.shape[:-1])
    for column, focal in ((0, intrinsics[0, 0]), (1, intrinsics[1, 1])):
        side = turn[:, column] / focal
        slide = side - rays * ((normal @ side) / facing)[..., None]
        along = depth[..., None] * jnp.einsum("hwki,hwi->hwk", wave, slide)
        frequency = frequency + along**2
    angle = jnp.einsum("hwki,hwi->hwk", wave, point) + scene.phase[which]
    level = jnp.sin(angle) * jnp.exp(-0.5 * blur**2 * frequency)
    colour = scene.colour[which]
    if scene.faces is not None:
        local = normal @ scene.turn[0].T
        sides = jnp.concatenate([jnp.maximum(local, 0), jnp.maximum(-local, 0)], axis=-1)
        colour = colour + jnp.where((which == 0)[..., None], sides @ scene.faces, 0)
    texture = colour + jnp.einsum("hwk,hwkc->hwc", level, scene.amplitude[which])
    shade = 0.65 + 0.35 * jnp.clip(normal @ scene.light, -1, 1)
    return View(texture * shade[..., None], depth)


def draw_pair(
    key: jax.Array, shape: tuple[int, int], *, blur: float = 1.5, noise: float = 0.01
) -> StereoPairs:
    """One pair, without the leading axis, |t| = 1; a function of the key alone.

    The rotation's angle has a standard deviation of 5 degrees; baselines are 2 to 20% of the median
    depth, sideways more often than forward; gains are +-10%, biases +-0.05.
    """
    keys = jax.random.split(key, 8)
    scene = draw_scene(keys[0])
    intrinsics = jnp.asarray(denormalise_intrinsics(DEMON_INTRINSICS, *shape), jnp.float32)
    first = render(scene, jnp.eye(4), intrinsics, shape, blur)
    share = jnp.exp(jax.random.uniform(keys[1], minval=jnp.log(0.02), maxval=jnp.log(0.2)))
    way = jax.random.normal(keys[2], (3,)) * jnp.array([1.0, 1.0, 0.6])
    way = way / jnp.linalg.norm(way)
    baseline = share * jnp.median(first.depth)
    turn = _rotation(keys[3], jnp.deg2rad(5.0))
    bottom = jnp.array([[0.0, 0.0, 0.0, 1.0]])
    pose = lambda t: jnp.concatenate([jnp.concatenate([turn, t[:, None]], 1), bottom])
    second = render(scene, pose(baseline * way), intrinsics, shape, blur)
    gain = jax.random.uniform(keys[4], minval=0.9, maxval=1.1)
    bias = jax.random.uniform(keys[5], minval=-0.05, maxval=0.05)
    grain = noise * jax.random.normal(keys[6], (2, *shape, 3))
    clip = lambda image: jnp.clip(image, 0, 1)
    return StereoPairs(
        clip(first.image + grain[0]),
        clip(gain * second.image + bias + grain[1]),
        intrinsics,
        pose(way),
        first.depth / baseline,
    )


def generate_pairs(
    key: jax.Array, num_pairs: int, shape: tuple[int, int] = (96, 128), *, noise: float = 0.01
) -> StereoPairs:
    """Pairs of different scenes, in float32; pair i depends only on the key and i.

    Args:
        key: PRNG key.
        num_pairs: N.
        shape: (H, W), multiples of four.
        noise: standard deviation of the brightness.

    Raises:
        ValueError: no pair, sides below 8 or not multiples of four.
    """
    if num_pairs < 1:
        raise argument_error("num_pairs", "expected 1 or more", num_pairs)
    if any(side < 8 or side % 4 for side in shape):
        raise argument_error("shape", "expected multiples of four from 8 on", shape)
    one = jax.jit(lambda i: draw_pair(jax.random.fold_in(key, i), shape, noise=noise))
    out = jax.tree.map(
        lambda leaf: np.empty((num_pairs, *leaf.shape), leaf.dtype), jax.eval_shape(one, 0)
    )
    for i in range(num_pairs):
        for stack, leaf in zip(out, one(i), strict=True):
            stack[i] = leaf
    return out
