"""The pairs that are made of images with poses, and their images.

x_camera = R x_world + T;  of a pair (i, j)  R = R_j R_i^T,  t = (T_j - R T_i) / |T_j - R T_i|
"""

import pathlib
from typing import Any, NamedTuple

import numpy as np

from jaxcv.checks import argument_error
from jaxcv.geometry.camera import resize_intrinsics
from jaxcv.io.pictures import read_rgb
from jaxcv.io.posed_folder import PosedViews

__all__ = [
    "PairList",
    "labels",
    "pairs_within",
    "read_image",
]

_NEAREST = 1e-9  # of the largest coordinate: centres so near have no direction between them


class PairList(NamedTuple):
    """N pairs of views.

    Attributes:
        views: (N, 2) rows of the views.
        rotation: (N, 3, 3), x2 = R x1 + t.
        direction: (N, 3), of length 1.
    """

    views: np.ndarray
    rotation: np.ndarray
    direction: np.ndarray


def labels(views: PosedViews, pairs: Any) -> PairList:
    """Relative poses of pairs (N, 2); those whose centres coincide are left out."""
    pairs = np.asarray(pairs, int).reshape(-1, 2)
    r, t = np.asarray(views.rotation, float), np.asarray(views.translation, float)
    one, other = pairs.T
    rotation = r[other] @ r[one].swapaxes(1, 2)
    move = t[other] - np.einsum("nij,nj->ni", rotation, t[one])
    length = np.linalg.norm(move, axis=1)
    kept = length > _NEAREST * np.abs(t).max(initial=0)
    return PairList(pairs[kept], rotation[kept], move[kept] / length[kept, None])


def pairs_within(views: PosedViews, largest_angle: float) -> np.ndarray:
    """Pairs (N, 2), i < j, of one scene whose optical axes are at most this angle [rad] apart."""
    axis = np.asarray(views.rotation)[:, 2]  # z forward, in the world
    out = []
    scenes = np.asarray(views.scenes)
    for scene in dict.fromkeys(views.scenes):
        rows = np.flatnonzero(scenes == scene)
        cosine = axis[rows] @ axis[rows].T
        i, j = np.nonzero(np.triu(cosine >= np.cos(largest_angle), k=1))
        out.append(np.stack([rows[i], rows[j]], axis=1))
    return np.concatenate(out)


def read_image(
    path: pathlib.Path, intrinsics: np.ndarray, shape: tuple[int, int], own: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, 3) in 8 bits at a size, each axis scaled by itself, and its K (3, 3).

    Args:
        path: of the image.
        intrinsics: (3, 3).
        shape: (H, W) that it is brought to.
        own: (H, W) that the intrinsics belong to, which the file may be a smaller or larger copy
            of; None: that of the file.

    Raises:
        ValueError: no image that can be read, or one with sides of another ratio.
    """
    from PIL import Image

    whole = Image.fromarray(read_rgb(path, hint="Fetch the file again."))
    width, height = whole.size
    small = whole.resize((shape[1], shape[0]), Image.Resampling.BOX)
    own = (height, width) if own is None else own
    if abs(width * own[0] / own[1] - height) > 1 + own[0] / own[1]:  # by more than rounding
        expected = f"expected the ratio of {own[1]} x {own[0]} px, which its intrinsics are of"
        hint = "Intrinsics of a cropped image are others."
        raise argument_error(str(path), expected, f"{width} x {height}", hint)
    k = np.asarray(resize_intrinsics(intrinsics, shape[1] / own[1], shape[0] / own[0]))
    return np.asarray(small), k
