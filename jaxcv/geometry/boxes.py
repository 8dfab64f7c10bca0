"""Axis-aligned boxes, as functions on arrays with any leading batch axes.

Two encodings, both in pixels with continuous coordinates (a box is a region of the plane; its
sides are lengths, not inclusive pixel counts), x to the right and y down:

* `ltwh`: (left, top, width, height);
* `corners`: (x1, y1, x2, y2), the top-left and the bottom-right corner.

A box with x2 <= x1 or y2 <= y1 is degenerate: it is empty, and its area is zero.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxcv.checks import argument_error, check_choice, check_shape

__all__ = ["area", "box_size", "corners_to_ltwh", "iou", "ltwh_to_corners", "polygon_to_box"]

_LTWH = "Convert corners with `corners_to_ltwh`, the inverse."
_CORNERS = "Convert boxes (left, top, width, height) with `ltwh_to_corners`."


def ltwh_to_corners(ltwh: ArrayLike) -> jax.Array:
    """Corners of boxes: (left, top, left + width, top + height).

    Args:
        ltwh: (..., 4) left, top, width, height [px].

    Returns:
        (..., 4) x1, y1, x2, y2 [px]. Non-positive sides pass through, as degenerate boxes.

    Raises:
        ValueError: the last axis is not of length 4.
    """
    check_shape("ltwh", ltwh, (4,), _LTWH)
    ltwh = jnp.asarray(ltwh)
    return jnp.concatenate([ltwh[..., :2], ltwh[..., :2] + ltwh[..., 2:]], axis=-1)


def corners_to_ltwh(corners: ArrayLike) -> jax.Array:
    """Boxes from corners: (x1, y1, x2 - x1, y2 - y1), the inverse of `ltwh_to_corners`.

    Args:
        corners: (..., 4) x1, y1, x2, y2 [px].

    Returns:
        (..., 4) left, top, width, height [px].

    Raises:
        ValueError: the last axis is not of length 4.
    """
    check_shape("corners", corners, (4,), _CORNERS)
    corners = jnp.asarray(corners)
    return jnp.concatenate([corners[..., :2], corners[..., 2:] - corners[..., :2]], axis=-1)


def area(corners: ArrayLike) -> jax.Array:
    """Area max(0, x2 - x1) max(0, y2 - y1) [px^2] of boxes (..., 4) [px]; shape (...).

    Raises:
        ValueError: the last axis is not of length 4.
    """
    check_shape("corners", corners, (4,), _CORNERS)
    corners = jnp.asarray(corners)
    sides = jnp.maximum(corners[..., 2:] - corners[..., :2], 0)
    return sides[..., 0] * sides[..., 1]


def box_size(corners: ArrayLike) -> jax.Array:
    """Size sqrt(w h) [px], the side of the square of equal area; 0 for a degenerate box.

    Args:
        corners: (..., 4) x1, y1, x2, y2 [px].

    Returns:
        (...) [px]. The gradient is finite everywhere, and zero at a degenerate box.

    Raises:
        ValueError: the last axis is not of length 4.
    """
    squared = area(corners)
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1)), 0)


def iou(a_corners: ArrayLike, b_corners: ArrayLike) -> jax.Array:
    """Intersection over union of axis-aligned boxes, analytic (not rasterised).

    iou(A, B) = |A n B| / (|A| + |B| - |A n B|), and 0 where the union has no area.

    Args:
        a_corners: (..., 4) x1, y1, x2, y2 [px].
        b_corners: (..., 4) [px]; leading axes broadcast against those of `a_corners`.

    Returns:
        (...) in [0, 1]. Degenerate boxes give 0, never NaN. The gradient is finite everywhere;
        it is zero for disjoint boxes and one-sided, averaged, where edges coincide.

    Raises:
        ValueError: a last axis is not of length 4.

    Source: Everingham et al., The PASCAL visual object classes challenge, 2010, section 4.2.
    """
    check_shape("a_corners", a_corners, (4,), _CORNERS)
    check_shape("b_corners", b_corners, (4,), _CORNERS)
    a, b = jnp.asarray(a_corners), jnp.asarray(b_corners)
    low = jnp.maximum(a[..., :2], b[..., :2])
    high = jnp.minimum(a[..., 2:], b[..., 2:])
    intersection = area(jnp.concatenate([low, high], axis=-1))
    union = area(a) + area(b) - intersection
    positive = union > 0
    return jnp.where(positive, intersection / jnp.where(positive, union, 1), 0)


def polygon_to_box(points: ArrayLike, method: Literal["extent", "area"] = "extent") -> jax.Array:
    """Axis-aligned box of a polygon, as corners.

    `extent`: the smallest box that contains all points. `area`, for four points of a rotated
    rectangle p1..p4 in order: the box with the aspect ratio of the extent (w', h'), the centre
    of the points and the rectangle's own area,

        (w, h) = s (w', h'),   s = sqrt(|p1 - p2| |p2 - p3| / (w' h')).

    Both leave an axis-aligned rectangle unchanged. (Implementations with inclusive pixel counts
    add one pixel to w and h; here sides are continuous.)

    Args:
        points: (..., n, 2) x, y [px] with n >= 3, or n = 4 for `area`.
        method: `extent` or `area`.

    Returns:
        (..., 4) x1, y1, x2, y2 [px]; a polygon without extent gives a degenerate box.

    Raises:
        ValueError: another shape or method.

    Source: the VOT short-term evaluations use the area-matched box, as does SiamFC.
    """
    check_choice("method", method, ("extent", "area"))
    check_shape("points", points, (None, 2), "Reshape x1, y1, x2, y2, ... to (n, 2).")
    points = jnp.asarray(points)
    if points.shape[-2] < 3:
        raise argument_error("points", "expected at least three points", points.shape)
    low, high = jnp.min(points, axis=-2), jnp.max(points, axis=-2)
    if method == "extent":
        return jnp.concatenate([low, high], axis=-1)
    if points.shape[-2] != 4:
        hint = "Use method='extent' for other polygons."
        raise argument_error("points", "expected four points for `area`", points.shape, hint)
    p1, p2, p3 = points[..., 0, :], points[..., 1, :], points[..., 2, :]
    squared = jnp.sum((p1 - p2) ** 2, axis=-1) * jnp.sum((p2 - p3) ** 2, axis=-1)  # [px^4]
    extent = (high - low)[..., 0] * (high - low)[..., 1]  # [px^2]
    positive = (squared > 0) & (extent > 0)
    ratio = jnp.where(positive, squared, 1) ** 0.25 / jnp.where(positive, extent, 1) ** 0.5
    half = 0.5 * jnp.where(positive, ratio, 0)[..., None] * (high - low)
    centre = jnp.mean(points, axis=-2)
    return jnp.concatenate([centre - half, centre + half], axis=-1)
