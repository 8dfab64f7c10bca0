"""Joints of a hand from a depth image, and colour if there is any.

The hand lies in a metric cube around a centre: given, or the centre of mass of the object nearest
to the camera, recomputed within its own cube. A network takes the cube's content, resized, and
regresses the joints in half sides of the cube. The kinematic energy of
`jaxcv.systems.hand_refinement` can refine them.

Source: Kazakos, MSc thesis, 2017, section 4.3; Oberweger et al., CVWW 2015.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.checks import argument_error, check_shape
from jaxcv.data.hand import check_depth
from jaxcv.energies.hand import HandScales
from jaxcv.geometry.camera import check_intrinsics, project
from jaxcv.geometry.crop import (
    Window,
    centre_of_mass,
    cube_points,
    cube_window,
    depth_crop,
    image_crop,
    of_cube,
    to_crop,
)
from jaxcv.io.networks import Model
from jaxcv.models.hand_pose import HandNetwork
from jaxcv.systems.arguments import takes_model
from jaxcv.systems.hand_refinement import refine_hand

__all__ = [
    "CUBE_MM", "NUM_POINTS", "ColorScale", "HandCrop", "HandEstimate", "crop_color", "find_hand",
    "hand_pose_arrays", "predict_hand", "preprocess",
]  # fmt: skip

CUBE_MM = 300.0
NUM_POINTS = 128  # points of the depth image in the kinematic energy
_REFINEMENTS = 3  # updates of the centre of mass
_NEAR_SHARE = 0.002  # fraction of the valid pixels nearer than the hand


class HandCrop(NamedTuple):
    """The input of a network.

    Attributes:
        depth: (..., S, S, 1) in [-1, 1]; 1: background or missing.
        mask: (..., S, S) bool, pixels within the cube.
        centre: (..., 3) [mm] in the camera's frame.
        window: of the image, in pixels.
        cube: (...,) side [mm].
    """

    depth: jax.Array
    mask: jax.Array
    centre: jax.Array
    window: Window
    cube: jax.Array


class ColorScale(NamedTuple):
    """Mean and standard deviation (3,) of the masked colour crops of a training set."""

    mean: Any = (0.0, 0.0, 0.0)
    deviation: Any = (1.0, 1.0, 1.0)


class HandEstimate(NamedTuple):
    """A hand in an image.

    Attributes:
        joints: (..., J, 3) [mm] in the camera's frame.
        pixels: (..., J, 2) u, v [px] in the image.
        crop: (..., J, 2) u, v [px] in the crop.
        centre: (..., 3) [mm] of the cube.
    """

    joints: jax.Array
    pixels: jax.Array
    crop: jax.Array
    centre: jax.Array


def find_hand(depth: jax.Array, intrinsics: jax.Array, cube: Any = CUBE_MM) -> jax.Array:
    """The centre of mass (3,) [mm] of the nearest object; nan if no pixel has a depth.

    The first centre is that of all pixels within a cube's side of the nearest depth (the 0.2%
    quantile). Three updates follow, each from the pixels in the cube around the last centre.

    Args:
        depth: (H, W) [mm], 0 or nan where missing.
        intrinsics: (3, 3) [px].
        cube: its side [mm].
    """
    known = jnp.isfinite(depth) & (depth > 0)
    ordered = jnp.sort(jnp.where(known, depth, jnp.inf).ravel())
    nearest = ordered[(_NEAR_SHARE * jnp.sum(known)).astype(int)]
    centre, _ = centre_of_mass(depth, intrinsics, 0.0, nearest + cube)
    height, width = depth.shape
    columns, rows = jnp.arange(width), jnp.arange(height)[:, None]

    def refine(centre, _):
        window = cube_window(centre, intrinsics, cube)
        place = lambda x, k: (x >= window.start[k]) & (x < window.start[k] + window.size[k])
        inside = place(columns, 0) & place(rows, 1)
        limits = centre[2] - 0.5 * cube, centre[2] + 0.5 * cube
        found, count = centre_of_mass(jnp.where(inside, depth, 0), intrinsics, *limits)
        return jnp.where(count > 0, found, centre), None

    return jax.lax.scan(refine, centre, length=_REFINEMENTS)[0]


@functools.partial(jax.jit, static_argnames="side")
def preprocess(
    depth: jax.Array,
    intrinsics: jax.Array,
    centre: jax.Array | None = None,
    *,
    side: int = 128,
    cube: Any = CUBE_MM,
) -> HandCrop:
    """The crop of a cube around a hand.

    Pure and jitted: values are not checked here (`predict_hand` checks them).

    Args:
        depth: (..., H, W) [mm], 0 or nan where missing.
        intrinsics: (..., 3, 3) [px]; fy is negative where y points up, as in NYU's labels.
        centre: (..., 3) [mm]; None: `find_hand`.
        side: S [px].
        cube: its side [mm].
    """
    depth, intrinsics = jnp.asarray(depth), jnp.asarray(intrinsics)
    dtype = jnp.result_type(intrinsics, jnp.float32)
    depth = depth.astype(dtype)
    batch = depth.shape[:-2]
    intrinsics = jnp.broadcast_to(intrinsics.astype(dtype), (*batch, 3, 3))

    def one(depth, k, centre):
        centre = find_hand(depth, k, cube) if centre is None else centre.astype(dtype)
        window = cube_window(centre, k, cube)
        image, mask = depth_crop(depth, centre, window, cube, side)
        return HandCrop(image[..., None], mask, centre, window, jnp.asarray(cube, dtype))

    if centre is None:
        run = lambda depth, k: one(depth, k, None)
        inputs: tuple = (depth, intrinsics)
    else:
        run, inputs = one, (depth, intrinsics, jnp.broadcast_to(centre, (*batch, 3)))
    for _ in batch:
        run = jax.vmap(run)
    return run(*inputs)


@jax.jit
def crop_color(color: jax.Array, crop: HandCrop, scale: ColorScale = ColorScale()) -> jax.Array:  # noqa: B008
    """The colour (..., S, S, 3) of a crop: 0 outside the mask, then standardised.

    Args:
        color: (..., H, W, 3) in [0, 1], registered to the depth.
        crop: the depth crop.
        scale: of the training set; the default does not change the masked colours.
    """
    side = crop.mask.shape[-1]
    run = lambda image, window: image_crop(image, window, side)
    for _ in color.shape[:-3]:
        run = jax.vmap(run)
    masked = run(color, crop.window) * crop.mask[..., None]
    return (masked - jnp.asarray(scale.mean)) / jnp.asarray(scale.deviation)


def hand_pose_arrays(
    params: Any,
    depth: jax.Array,
    intrinsics: jax.Array,
    *,
    settings: Mapping[str, Any],
    color: jax.Array | None = None,
    centre: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """`predict_hand` on arrays alone: for jit, vmap, grad and export. Values are not checked.

    Args:
        params: of the network.
        depth: (..., H, W) [mm], 0 or nan where missing.
        intrinsics: (..., 3, 3) [px].
        settings: `network`, and what differs from the defaults of `predict_hand`: `side`, `cube`,
            `color_scale`, `scales`.
        color: (..., H, W, 3) in [0, 1], for networks that use it.
        centre: (..., 3) [mm]; None: `find_hand`.

    Returns:
        `joints` (..., J, 3) [mm], `pixels` and `crop` (..., J, 2) [px], `centre` (..., 3) [mm] as
        in `HandEstimate`, and `found` (...) bool: whether the cube holds a hand. Joints and their
        pixels are nan where it does not.
    """
    network, cube = settings["network"], settings.get("cube", CUBE_MM)
    crop = preprocess(depth, intrinsics, centre, side=settings.get("side", 128), cube=cube)
    # Depths in front of the cube are clipped to -1; they are no hand.
    found = jnp.any(crop.mask & (crop.depth[..., 0] > -1), axis=(-2, -1))
    images = {"depth": crop.depth}
    if color is not None:
        scale = settings.get("color_scale", ColorScale())
        images["rgb"] = crop_color(color, crop, scale)
        images["rgbd"] = jnp.concatenate([images["rgb"], crop.depth], axis=-1)
    inputs = tuple(images[kind] for kind in network.images)
    joints, log_confidence = _network_joints(params, crop, inputs, network)
    k = jnp.broadcast_to(jnp.asarray(intrinsics, joints.dtype), (*depth.shape[:-2], 3, 3))
    scales = settings.get("scales")
    if scales is not None:
        points = _points(jnp.asarray(depth, joints.dtype), k, crop.centre, cube)
        joints = _refined_joints(joints, log_confidence, points, scales)
    joints = jnp.where(found[..., None, None], joints, jnp.nan)
    pixels, in_crop = _see(joints, crop, k)
    return {
        "joints": joints, "pixels": pixels, "crop": in_crop, "centre": crop.centre, "found": found
    }  # fmt: skip


@takes_model("hand_pose")
def predict_hand(
    depth: Any,
    intrinsics: Any,
    params: Any = None,
    *,
    model: Model | None = None,
    network: HandNetwork = HandNetwork(),  # noqa: B008, an immutable value
    color: Any = None,
    color_scale: ColorScale = ColorScale(),  # noqa: B008
    centre: Any = None,
    side: int = 128,
    cube: float = CUBE_MM,
    scales: HandScales | None = None,
) -> HandEstimate:
    """The joints of the hand in one or more depth images.

    Args:
        depth: (..., H, W) [mm], 0 or nan where missing.
        intrinsics: (..., 3, 3) [px]; fy is negative where y points up.
        params: of the network, or a `Model`.
        model: parameters and settings, e.g. `load_pretrained("hand_net6")`, in place of `params`;
            settings that are given replace the model's.
        network: with images `depth`, `rgb`, `rgbd` (colour before depth in one), or two of them.
        color: (..., H, W, 3) in [0, 1], registered to the depth, for networks that use it.
        color_scale: of the training set.
        centre: (..., 3) [mm] of the hand; None: `find_hand`.
        side: of the crops that the network was trained on [px].
        cube: of the crops that the network was trained on [mm].
        scales: of the kinematic energy, which refines the network's joints on the depth image's
            points; None: no refinement.

    Raises:
        ValueError: depths in metres or all missing, a centre behind the camera or outside the
            image, an empty cube, colour that is missing, of another size or beyond [0, 1], weights
            of another network or another side, or a model of another system.
    """
    del model  # replaced by `params` and settings
    depth = check_depth("depth", depth)
    k = check_intrinsics("intrinsics", intrinsics)
    check_shape("depth", depth, (None, None))
    if centre is not None:
        _check_centre(np.asarray(centre, float), np.broadcast_to(k, (*depth.shape[:-2], 3, 3)),
                      depth.shape[-2:])  # fmt: skip
        centre = jnp.asarray(centre, jnp.float32)
    colored = [kind for kind in network.images if kind != "depth"]
    if colored and np.shape(color) != (*depth.shape, 3):
        expected = f"expected {(*depth.shape, 3)} for the images {network.images}"
        raise argument_error("color", expected, None if color is None else np.shape(color))
    if colored and not (np.min(color) >= 0 and np.max(color) <= 1):
        hint = "Divide 8-bit values by 255."
        got = f"{np.min(color)} to {np.max(color)}"
        raise argument_error("color", "expected values in [0, 1]", got, hint)
    settings = {
        "network": network, "side": side, "cube": cube, "color_scale": color_scale, "scales": scales
    }  # fmt: skip
    colors = jnp.asarray(color, jnp.float32) if colored else None
    k = jnp.asarray(k)
    try:
        out = hand_pose_arrays(params, depth, k, settings=settings, color=colors, centre=centre)
    except flax.errors.ScopeParamShapeError as error:
        expected = "expected weights of this network, trained on crops of this `side`"
        hint = "Give side= and network= of the training, as in the settings of load_model."
        raise argument_error("params", expected, f"side {side}; {error}", hint) from error
    empty = ~np.asarray(out.pop("found"))
    if empty.any():
        where = np.asarray(out["centre"])[empty].reshape(-1, 3)[0].round(1).tolist()
        hint = "Give another centre, a larger cube, or leave the centre out."
        raise argument_error("centre", f"expected a hand within {cube:g} mm", where, hint)
    return HandEstimate(**out)


@functools.partial(jax.jit, static_argnames="network")
def _network_joints(params, crop, images, network):
    """Joints (..., J, 3) [mm] and log confidences (..., J), 0 if the network has none."""
    batch = crop.mask.shape[:-2]
    flat = [image.reshape(-1, *image.shape[-3:]) for image in images]
    found: Any = network.apply(params, *flat)
    found, sure = found if network.confidence else (found, jnp.zeros(found.shape[:-1]))
    joints = found.reshape(*batch, network.joints, 3)
    joints = of_cube(joints, crop.centre[..., None, :], crop.cube[..., None, None])
    return joints, sure.reshape(*batch, network.joints)


@jax.jit
def _points(depth: jax.Array, k: jax.Array, centre: jax.Array, cube: Any) -> jax.Array:
    """Points (..., NUM_POINTS, 3) of the depth images within the cubes."""
    run = lambda depth, k, centre: cube_points(depth, k, centre, cube, NUM_POINTS)
    for _ in depth.shape[:-2]:
        run = jax.vmap(run)
    return run(depth, k, centre)


@jax.jit
def _refined_joints(joints, log_confidence, points, scales):
    return refine_hand(joints, log_confidence, points, scales).joints


@jax.jit
def _see(joints, crop, k):
    """The joints' pixels in the image and in the crop."""

    def see(joints, k, window):
        pixels = jnp.stack(project(joints, k), axis=-1)
        return pixels, to_crop(pixels, window, crop.mask.shape[-1])

    for _ in crop.mask.shape[:-2]:
        see = jax.vmap(see)
    return see(joints, k, crop.window)


def _check_centre(centre: np.ndarray, k: np.ndarray, size: tuple[int, int]) -> None:
    if centre.shape != (*k.shape[:-2], 3):
        raise argument_error("centre", f"expected {(*k.shape[:-2], 3)} [mm]", centre.shape)
    if not np.isfinite(centre).all():
        raise argument_error("centre", "expected finite values [mm]", "nan or inf")
    z = centre[..., 2]
    if not (z > 0).all():
        raise argument_error("centre", "expected a point in front of the camera [mm]", z.min())
    x, y = centre[..., 0] / z, centre[..., 1] / z
    u = k[..., 0, 0] * x + k[..., 0, 1] * y + k[..., 0, 2]
    v = k[..., 1, 1] * y + k[..., 1, 2]
    inside = (u > -0.5) & (u < size[1] - 0.5) & (v > -0.5) & (v < size[0] - 0.5)
    if not inside.all():
        got = f"pixel ({float(u[~inside].flat[0]):.1f}, {float(v[~inside].flat[0]):.1f})"
        hint = "Centres are in the camera's frame; fy is negative where y points up."
        expected = f"expected a point within the image of {size[1]} x {size[0]}"
        raise argument_error("centre", expected, got, hint)
