"""Pairs of images with poses: their labels and resized images.

x_camera = R x_world + T;  for a pair (i, j)  R = R_j R_i^T,  t = (T_j - R T_i) / |T_j - R T_i|
"""

import pathlib
from typing import Any, NamedTuple

import numpy as np

from jaxcv.geometry.camera import check_aspect_ratio, check_principal_point, resize_intrinsics
from jaxcv.io.pictures import read_rgb
from jaxcv.io.posed_folder import PosedViews

__all__ = [
    "PairList",
    "labels",
    "pairs_within",
    "read_image",
]

_NEAREST = 1e-9  # of max |T|: a shorter baseline has no direction
_ROUNDING = 4.0  # times |R^T R - I| and 1 + max |T|: what rounded numbers can move a view by


class PairList(NamedTuple):
    """N pairs of views.

    Attributes:
        views: (N, 2) indices of the views.
        rotation: (N, 3, 3), x2 = R x1 + t.
        direction: (N, 3), of length 1.
    """

    views: np.ndarray
    rotation: np.ndarray
    direction: np.ndarray


def labels(views: PosedViews, pairs: Any) -> PairList:
    """Relative poses of pairs (N, 2); leaves out pairs without a baseline.

    A baseline within the rounding of the poses is none: its direction would be that of the
    rounding. How far the rotations are from rotations tells how the numbers were rounded.
    """
    pairs = np.asarray(pairs, int).reshape(-1, 2)
    r, t = np.asarray(views.rotation, float), np.asarray(views.translation, float)
    one, other = pairs.T
    rotation = r[other] @ r[one].swapaxes(1, 2)
    move = t[other] - np.einsum("nij,nj->ni", rotation, t[one])
    length = np.linalg.norm(move, axis=1)
    rounding = np.abs(r.swapaxes(1, 2) @ r - np.eye(3)).max(initial=0)
    far = np.abs(t).max(initial=0)
    kept = length > _NEAREST * far + _ROUNDING * rounding * (1 + far)
    return PairList(pairs[kept], rotation[kept], move[kept] / length[kept, None])


def pairs_within(views: PosedViews, largest_angle: float) -> np.ndarray:
    """Pairs (N, 2), i < j, of one scene with optical axes at most `largest_angle` [rad] apart."""
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
    path: pathlib.Path, intrinsics: np.ndarray, shape: tuple[int, int] | int, own: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Reads an image as (H, W, 3) uint8, resized, and returns it with its K (3, 3).

    Args:
        path: of the image.
        intrinsics: (3, 3).
        shape: (H, W) of the result, where each axis has its own factor; or its shorter side [px],
            where the aspect ratio is kept up to rounding.
        own: (H, W) that the intrinsics belong to; the file may be a scaled copy. None: the size
            of the file.

    Raises:
        ValueError: the file is no readable image, has another aspect ratio than `own`, or a
            principal point outside of the picture.
    """
    from PIL import Image

    whole = Image.fromarray(read_rgb(path, hint="Fetch the file again."))
    width, height = whole.size
    if isinstance(shape, int):
        share = shape / min(height, width)
        shape = round(height * share), round(width * share)
    small = whole.resize((shape[1], shape[0]), Image.Resampling.BOX)
    own = (height, width) if own is None else own
    check_aspect_ratio(str(path), (height, width), (int(own[0]), int(own[1])))
    check_principal_point(f"{path}: intrinsics", intrinsics, (int(own[0]), int(own[1])))
    k = np.asarray(resize_intrinsics(intrinsics, shape[1] / own[1], shape[0] / own[0]))
    return np.asarray(small), k
