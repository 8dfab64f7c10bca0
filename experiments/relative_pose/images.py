"""Images of pairs at a network's size: squashed, the central window, or a random window.

A window at (top, left) of an image keeps its focal lengths and moves the principal point,
c_x - left and c_y - top. The labels of a pair do not change.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcv.checks import argument_error
from jaxcv.data.relative_pose import Gathered, PosePairs
from jaxcv.geometry.camera import resize_intrinsics
from jaxcv.systems.two_view import resized

__all__ = ["at_size", "check_windows", "random_windows", "scaled_shape", "sizes"]


def scaled_shape(shape: tuple[int, int], short_side: int) -> tuple[int, int]:
    """(H, W) with `short_side` as the shorter side and the aspect ratio of `shape`, rounded."""
    share = short_side / min(shape)
    return round(shape[0] * share), round(shape[1] * share)


def at_size(
    pairs: PosePairs, shape: tuple[int, int], how: str = "squash", short_side: int = 0
) -> PosePairs:
    """The pairs with images of one size, and with intrinsics of that size.

    Args:
        pairs: with images of any sizes.
        shape: (H, W).
        how: `squash`, each axis by its own factor; or `centre`, the central window of the image
            that is scaled to `short_side`.
        short_side: [px]; 0: images are not scaled before the window is taken.
    """
    if how == "squash" and pairs.first.shape[1:3] == pairs.second.shape[1:3] == tuple(shape):
        return pairs
    first, second = pairs.first, pairs.second
    if isinstance(first, Gathered) and first.array is second.array:  # views are resized once
        used, rows = np.unique(np.stack([first.rows, second.rows]), return_inverse=True)
        array = _all_resized([first.array[i] for i in used], shape, how, short_side)
        first, second = (Gathered(array, own) for own in rows.reshape(2, -1))
    else:
        first, second = (_all_resized(leaf[:], shape, how, short_side) for leaf in (first, second))
    k1, k2 = (
        _intrinsics(np.asarray(k), sizes(leaf), shape, how, short_side)
        for k, leaf in ((pairs.intrinsics1, pairs.first), (pairs.intrinsics2, pairs.second))
    )
    return pairs._replace(first=first, second=second, intrinsics1=k1, intrinsics2=k2)


def _all_resized(images: Any, shape: tuple[int, int], how: str, short_side: int) -> np.ndarray:
    return np.stack([_one(image, shape, how, short_side) for image in images])


def _one(image: np.ndarray, shape: tuple[int, int], how: str, short_side: int) -> np.ndarray:
    if how == "squash":
        return resized(image, shape)
    if short_side:
        image = resized(image, scaled_shape(image.shape[:2], short_side))
    top, left = _centre(image.shape[:2], shape)
    return image[top : top + shape[0], left : left + shape[1]]


def _centre(own: tuple[int, int], shape: tuple[int, int]) -> tuple[int, int]:
    """Top and left of the central window."""
    check_windows([own], shape)
    return (own[0] - shape[0]) // 2, (own[1] - shape[1]) // 2


def sizes(images: Any) -> np.ndarray:
    """(N, 2) heights and widths."""
    if None not in images.shape:
        return np.tile(images.shape[1:3], (len(images), 1))
    every = np.array([image.shape[:2] for image in images.array])
    return every[images.rows]


def _intrinsics(
    k: np.ndarray, sizes: np.ndarray, shape: tuple[int, int], how: str, short_side: int
) -> np.ndarray:
    """K (N, 3, 3) of images that had `sizes` (N, 2)."""
    out = np.empty(k.shape, np.result_type(k, np.float32))
    for own in {tuple(size) for size in sizes.tolist()}:
        rows = (sizes == own).all(axis=1)
        target = shape
        if how != "squash":
            target = scaled_shape(own, short_side) if short_side else own
        made = resize_intrinsics(jnp.asarray(k[rows]), target[1] / own[1], target[0] / own[0])
        out[rows] = np.asarray(made)
        if how != "squash":
            top, left = _centre(target, shape)
            out[rows, 0, 2] -= left
            out[rows, 1, 2] -= top
    return out


def check_windows(sizes: Any, shape: tuple[int, int], name: str = "short_side") -> None:
    """Raises ValueError unless windows of `shape` fit into images of all `sizes` (H, W)."""
    for own in sizes:
        if own[0] < shape[0] or own[1] < shape[1]:
            expected = f"expected images of {shape[0]} x {shape[1]} px or more, to take windows of"
            hint = "Enlarge --short_side, or make the windows smaller."
            raise argument_error(name, expected, f"{own[0]} x {own[1]}", hint)


def random_windows(
    first: Any, second: Any, shape: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Windows (N, *shape, 3) of N pairs of images of any sizes.

    The windows of a pair have the same fraction of their images' margins above them and on their
    left: in images of one size, the same offset.
    """
    windows = []
    for images in zip(first, second, strict=True):
        above, left = rng.random(2)
        for image in images:
            height, width = image.shape[:2]
            top, start = int(above * (height - shape[0] + 1)), int(left * (width - shape[1] + 1))
            windows.append(image[top : top + shape[0], start : start + shape[1]])
    return np.stack(windows[::2]), np.stack(windows[1::2])
