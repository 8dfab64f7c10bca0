"""Depth of an image and the motion to others, by a trained LS-Net: what a user calls.

The method is that of `jaxcv.systems.stereo`.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxcv.checks import argument_error, check_floating, check_shape
from jaxcv.io.networks import Model
from jaxcv.systems.arguments import takes_model
from jaxcv.systems.stereo import (
    StereoEstimate,
    StereoNetwork,
    first_guess,
    quarter_views,
    solve_stereo,
    upscale,
)

__all__ = ["estimate_depth_and_motion", "monocular_stereo_arrays"]


@takes_model("monocular_stereo")
def estimate_depth_and_motion(
    target: jax.Array,
    sources: jax.Array,
    intrinsics: jax.Array,
    params: Any = None,
    *,
    model: Model | None = None,
    network: StereoNetwork = StereoNetwork(),  # noqa: B008, an immutable value
) -> StereoEstimate:
    """Depth of an image and the motion to one or more others, by a trained LS-Net.

    Args:
        target: (..., H, W, 3) in [0, 1], H and W multiples of eight.
        sources: (..., H, W, 3), one other view, or (..., S, H, W, 3).
        intrinsics: (..., 3, 3) [px] of all images, fy > 0 (`jaxcv.data.stereo.y_down`).
        params: {initial, solver, upscaler}, or a `Model`; cast to the type of the images, float32
            at least.
        model: parameters and settings, e.g. `load_pretrained("stereo_lsnet")`, in place of
            `params`.
        network: that of the params.

    Returns:
        Inverse depths in 1 / baseline at a quarter of the size and at full size, and motions
        (..., S, 4, 4) with x_source = R x_target + t; the axis S is kept if S is 1.

    Raises:
        ValueError: images of different sizes, sizes that are not multiples of eight, or a model of
            another system.

    Source: Clark et al., "LS-Net", ECCV 2018.
    """
    del model  # replaced by `params` and settings
    target, sources, intrinsics = map(jnp.asarray, (target, sources, intrinsics))
    for name, value in (("target", target), ("sources", sources), ("intrinsics", intrinsics)):
        check_floating(name, value, "Images are floats in [0, 1]: divide 8-bit ones by 255.")
    check_shape("target", target, (None, None, 3))
    check_shape("intrinsics", intrinsics, (3, 3))
    height, width = target.shape[-3:-1]
    if height % 8 or width % 8:
        hint = "Resize the images, and K by `jaxcv.geometry.camera.resize_intrinsics`."
        raise argument_error("target", "expected multiples of eight", (height, width), hint)
    batch = target.shape[:-3]
    if sources.ndim == target.ndim:
        sources = sources[..., None, :, :, :]
    if sources.shape[-3:] != target.shape[-3:] or sources.shape[: len(batch)] != batch:
        hint = "Resize one of them, and its K."
        expected = f"expected the shape of `target`, {target.shape}, or (..., S, H, W, 3)"
        raise argument_error("sources", expected, sources.shape, hint)
    if intrinsics.shape[:-2] != batch:
        intrinsics = jnp.broadcast_to(intrinsics, (*batch, 3, 3))
    dtype = jnp.result_type(target, sources, intrinsics, jnp.float32)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
    target, sources, intrinsics = (x.astype(dtype) for x in (target, sources, intrinsics))
    flat = lambda x, n: x.reshape(-1, *x.shape[n:])
    n = len(batch)
    target, sources, intrinsics = flat(target, n), flat(sources, n), flat(intrinsics, n)
    settings = {"network": network}
    out = monocular_stereo_arrays(params, target, sources, intrinsics, settings=settings)
    return StereoEstimate(**{name: x.reshape(*batch, *x.shape[1:]) for name, x in out.items()})


def monocular_stereo_arrays(
    params: Any,
    target: jax.Array,
    sources: jax.Array,
    intrinsics: jax.Array,
    *,
    settings: Mapping[str, Any],
) -> dict[str, jax.Array]:
    """`estimate_depth_and_motion` on arrays alone: for jit, vmap, grad and export.

    Args:
        params: {initial, solver, upscaler}, in the type of the images.
        target: (B, H, W, 3) in [0, 1], H and W multiples of eight.
        sources: (B, S, H, W, 3).
        intrinsics: (B, 3, 3) [px], fy > 0.
        settings: `network`.

    Returns:
        `inverse_depth` (B, H / 4, W / 4) and `full` (B, H, W) [1 / baseline], `motion`
        (B, S, 4, 4).
    """
    return _estimate(params, target, sources, intrinsics, settings["network"])._asdict()


@functools.partial(jax.jit, static_argnames="network")
def _estimate(params, target, sources, intrinsics, network):
    views = quarter_views(target, sources, intrinsics, network.residual, network.match_exposure)
    start = first_guess(params, target, sources, intrinsics, network)
    found = solve_stereo(params, views, start, network)
    z, motion = found.inverse_depth[-1], found.motion[-1]
    return StereoEstimate(z, motion, upscale(params, z, target, network))
