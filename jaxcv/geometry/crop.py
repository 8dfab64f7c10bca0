"""Crops of a depth image to the cube around a point, resampled to a fixed size.

A cube of side c around the centre (u_c, v_c, d_c) fills the window

    u in [u_c - c |fx| / 2 d_c, u_c + c |fx| / 2 d_c],   v alike,   d in [d_c - c / 2, d_c + c / 2]

with ends rounded to pixels. Source: Oberweger et al., CVWW 2015, section 3.1.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.checks import argument_error
from jaxcv.geometry.camera import project, unproject

__all__ = [
    "Window", "centre_of_mass", "cube_points", "cube_window", "depth_crop", "image_crop", "in_cube",
    "of_cube", "to_crop", "to_image",
]  # fmt: skip


class Window(NamedTuple):
    """A rectangle of pixels, which may extend beyond the image.

    Attributes:
        start: (2,) first column and row.
        size: (2,) columns and rows, at least one.
    """

    start: jax.Array
    size: jax.Array


def cube_window(centre: jax.Array, intrinsics: jax.Array, cube: Any) -> Window:
    """Window of a cube with sides `cube` around `centre` (3,), both in one unit."""
    u, v = project(centre, intrinsics)
    half = 0.5 * cube / centre[2] * jnp.abs(jnp.stack([intrinsics[0, 0], intrinsics[1, 1]]))
    middle = jnp.stack([u, v])
    start, end = jnp.floor(middle - half + 0.5), jnp.floor(middle + half + 0.5)
    return Window(start, jnp.maximum(end - start, 1))


def to_image(pixels: jax.Array, window: Window, side: int) -> jax.Array:
    """Image pixels of pixels (..., 2) in a `side` x `side` crop; pixel centres at integers."""
    return (pixels + 0.5) * window.size / side + window.start - 0.5


def to_crop(pixels: jax.Array, window: Window, side: int) -> jax.Array:
    """The inverse of `to_image`."""
    return (pixels + 0.5 - window.start) * side / window.size - 0.5


def _grid(window: Window, side: int) -> tuple[jax.Array, jax.Array]:
    """Image columns and rows (side,) of a crop's pixels, not rounded."""
    steps = jnp.arange(side, dtype=window.size.dtype)
    places = to_image(jnp.stack([steps, steps], axis=-1), window, side)
    return places[:, 0], places[:, 1]


def depth_crop(depth: jax.Array, centre: jax.Array, window: Window, cube: Any, side: int) -> Any:
    """Depths of a crop relative to the cube, (side, side) in [-1, 1].

        d' = (d - d_c) / (c / 2)

    Nearest-neighbour: averaging would create depths between hand and background. Depths in front
    of the cube become -1; depths behind it, missing depths and pixels beyond the image become 1.

    Args:
        depth: (H, W); 0 or nan if missing.
        centre: (3,) in the unit of the depth.
        window: of `cube_window`.
        cube: side c.
        side: pixels of the crop.

    Returns:
        The crop, and a mask (side, side) bool: True for depths in front of the cube's back.
    """
    height, width = depth.shape
    columns, rows = (jnp.floor(x + 0.5).astype(int) for x in _grid(window, side))
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
    seen = depth[jnp.clip(rows, 0, height - 1)[:, None], jnp.clip(columns, 0, width - 1)]
    known = inside & jnp.isfinite(seen) & (seen > 0)
    scaled = jnp.where(known, (seen - centre[2]) / (0.5 * cube), 1)
    mask = known & (scaled < 1)
    return jnp.where(mask, jnp.maximum(scaled, -1), 1), mask


def image_crop(image: jax.Array, window: Window, side: int) -> jax.Array:
    """The window of an image (H, W, C) as (side, side, C), bilinear; 0 beyond the border."""
    height, width = image.shape[:2]
    columns, rows = _grid(window, side)

    def weights(places, count):
        distance = jnp.abs(places[:, None] - jnp.arange(count, dtype=places.dtype))
        return jnp.maximum(1 - distance, 0).astype(image.dtype)

    half = jnp.einsum("ih,hwc->iwc", weights(rows, height), image)
    return jnp.einsum("jw,iwc->ijc", weights(columns, width), half)


def centre_of_mass(
    depth: jax.Array, intrinsics: jax.Array, nearest: Any = 0.0, furthest: Any = jnp.inf
) -> tuple[jax.Array, jax.Array]:
    """The point (3,) at the mean pixel and mean depth of all pixels in a range of depths.

    Args:
        depth: (H, W); 0 or nan if missing.
        intrinsics: (3, 3) [px].
        nearest: lower end, exclusive.
        furthest: upper end, inclusive.

    Returns:
        The point, nan if no pixel is in the range, and the number of pixels.
    """
    height, width = depth.shape
    known = jnp.isfinite(depth) & (depth > nearest) & (depth > 0) & (depth <= furthest)
    count = jnp.sum(known)
    mean = lambda x: jnp.sum(jnp.where(known, x, 0)) / jnp.maximum(count, 1)
    u = mean(jnp.arange(width, dtype=depth.dtype)[None])
    v = mean(jnp.arange(height, dtype=depth.dtype)[:, None])
    point = unproject(u, v, mean(depth), intrinsics)
    return jnp.where(count > 0, point, jnp.nan), count


def cube_points(
    depth: jax.Array, intrinsics: jax.Array, centre: jax.Array, cube: Any, count: int
) -> jax.Array:
    """Points (count, 3) of a depth image within a cube, evenly spread over its pixels.

    Of the n pixels within the cube, in row-major order, the one of rank r (from 0) goes to slot
    floor(r count / n). A slot keeps its last pixel; an empty one (n < count) repeats the pixel
    before it. So the points are distinct if n >= count. Sizes may be symbolic.

    Args:
        depth: (H, W); 0 or nan if missing.
        intrinsics: (3, 3) [px].
        centre: (3,) in the unit of the depth.
        cube: side, in the same unit.
        count: number of points.

    Returns:
        The points; zeros if no pixel is within the cube.

    Raises:
        ValueError: an image with 2**32 / count pixels or more, whose ranks would overflow.
    """
    height, width = depth.shape
    if isinstance(height * width, int) and height * width * count >= 2**32:
        expected = f"expected fewer than {2**32 // count} pixels for {count} points"
        raise argument_error("depth", expected, height * width, "Cut the hand out, or reduce it.")
    u = jnp.arange(width, dtype=depth.dtype)[None]
    v = jnp.arange(height, dtype=depth.dtype)[:, None]
    known = jnp.isfinite(depth) & (depth > 0)
    points = unproject(u, v, jnp.where(known, depth, 1), intrinsics)
    inside = known & jnp.all(jnp.abs(points - centre) <= 0.5 * cube, axis=-1)
    rank = jnp.cumsum(inside.ravel(), dtype=jnp.uint32)  # from 1
    total = rank[-1]
    slot = (rank - 1) * jnp.uint32(count) // jnp.maximum(total, 1)
    slot = jnp.where(inside.ravel(), slot.astype(jnp.int32), count)  # `count` is dropped
    pixel = jnp.arange(height * width, dtype=jnp.int32)
    last = jnp.full(count, -1, jnp.int32).at[slot].max(pixel, mode="drop")
    kept = jnp.maximum(jax.lax.cummax(last), 0)
    return jnp.where(total > 0, points.reshape(-1, 3)[kept], 0)


def in_cube(points: jax.Array, centre: jax.Array, cube: Any) -> jax.Array:
    """Points (..., 3) relative to a cube: (x - x_c) / (c / 2), in [-1, 1] inside it."""
    return (points - centre) / (0.5 * cube)


def of_cube(points: jax.Array, centre: jax.Array, cube: Any) -> jax.Array:
    """The inverse of `in_cube`."""
    return points * (0.5 * cube) + centre
