"""Positions of one image's pixels in another image, and the values there.

A pixel with ray x = K^-1 (u, v, 1) and inverse depth z maps to X' = R x + z t in the other camera,
up to the positive scale z. There is no division by z; z = 0 is a point at infinity.

Source: Clark et al., "LS-Net", ECCV 2018, eq. 5 to 7, in inverse depth.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.checks import check_shape
from jaxcv.geometry.camera import project

__all__ = ["Warp", "bilinear", "warp_pixels"]

_NEAREST = 1e-6  # lower bound of Z' in front of the other camera


class Warp(NamedTuple):
    """Positions of an image's pixels in another image.

    Attributes:
        u: (H, W) [px].
        v: (H, W) [px].
        points: (H, W, 3), X'; ones where not in front of the camera.
        visible: (H, W) bool, in front of the camera and between its outermost pixel centres.
    """

    u: jax.Array
    v: jax.Array
    points: jax.Array
    visible: jax.Array


def warp_pixels(
    inverse_depth: jax.Array,
    motion: jax.Array,
    rays: jax.Array,
    intrinsics: jax.Array,
    shape: tuple[int, int],
) -> Warp:
    """Positions of an image's pixels in another; finite but arbitrary where behind its camera.

    Args:
        inverse_depth: (H, W), along z, in the inverse unit of the translation.
        motion: (4, 4), x_other = R x + t.
        rays: (H, W, 3) of `camera.pixel_rays`.
        intrinsics: (3, 3) of the other camera.
        shape: (height, width) of the other image.
    """
    check_shape("motion", motion, (4, 4))
    check_shape("rays", rays, (*inverse_depth.shape, 3))
    points = rays @ motion[:3, :3].T + inverse_depth[..., None] * motion[:3, 3]
    front = points[..., 2] > _NEAREST
    safe = jnp.where(front[..., None], points, jnp.ones_like(points))
    u, v = project(safe, intrinsics)
    height, width = shape
    inside = (u >= 0) & (u <= width - 1) & (v >= 0) & (v <= height - 1)
    return Warp(u, v, safe, front & inside)


def bilinear(
    image: jax.Array, u: jax.Array, v: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The bilinear interpolant of an image and its exact derivatives.

    Beyond the outermost pixel centres it extrapolates linearly.

    Args:
        image: (H, W, C), two pixels or more along each side.
        u: (...) column.
        v: (...) row.

    Returns:
        value, d/du and d/dv, (..., C); on a grid line, derivatives to its right or below it.
    """
    check_shape("image", image, (None, None, None))
    height, width, channels = image.shape
    column = jnp.clip(jnp.floor(u), 0, width - 2)
    row = jnp.clip(jnp.floor(v), 0, height - 2)
    a, b = (u - column)[..., None], (v - row)[..., None]
    a, b = a.astype(image.dtype), b.astype(image.dtype)
    flat = image.reshape(-1, channels)
    first = row.astype(jnp.int32) * width + column.astype(jnp.int32)
    at = lambda offset: jnp.take(flat, first + offset, axis=0, mode="clip")
    i00, i01, i10, i11 = at(0), at(1), at(width), at(width + 1)
    top, bottom = i00 + a * (i01 - i00), i10 + a * (i11 - i10)
    du = (1 - b) * (i01 - i00) + b * (i11 - i10)
    return top + b * (bottom - top), du, bottom - top
