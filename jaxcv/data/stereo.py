"""Two views of a scene, with depth and motion.

    x_source = R x_target + t,   z = 1 / depth

Depths and translations of a pair share a unit: either its baseline, |t| = 1, as in DeMoN's
benchmark (`unit_baseline`), or metres.
"""

import os
from typing import Any, NamedTuple

import numpy as np

from jaxcv.checks import argument_error
from jaxcv.geometry.camera import (
    check_intrinsics,
    check_principal_point,
    resize_intrinsics,
)
from jaxcv.io.pictures import read_rgb, read_stored
from jaxcv.io.stereo_folder import read_stereo_folder

__all__ = [
    "StereoPairs",
    "check_pairs",
    "decode_image",
    "read_folder",
    "read_pair",
    "resize_pair",
    "unit_baseline",
    "y_down",
]


class StereoPairs(NamedTuple):
    """N pairs of images.

    Attributes:
        target: (N, H, W, 3) float32 in [0, 1], the image whose depths are given.
        source: (N, H, W, 3), the other image.
        intrinsics: (N, 3, 3) of both [px].
        motion: (N, 4, 4), target to source.
        depth: (N, H, W), along z in the unit of the translation; nan where unknown.
    """

    target: Any
    source: Any
    intrinsics: Any
    motion: Any
    depth: Any

    def take(self, index: Any) -> "StereoPairs":
        """Selects pairs by an index or a mask."""
        return StereoPairs(*(leaf[index] for leaf in self))


def check_pairs(pairs: StereoPairs, name: str = "pairs") -> None:
    """Raises ValueError unless the pairs are valid for training.

    Shapes must agree, images be finite, K upper triangular, motions rigid with a non-zero
    translation, and depths nan or positive, with at least one depth per pair.
    """
    shape = np.shape(pairs.target)
    n = shape[0] if len(shape) == 4 else 0
    want = {
        "target": (n, *shape[1:3], 3), "source": (n, *shape[1:3], 3), "intrinsics": (n, 3, 3),
        "motion": (n, 4, 4), "depth": (n, *shape[1:3]),
    }  # fmt: skip
    for field, wanted in want.items():
        got = np.shape(getattr(pairs, field))
        if got != wanted:
            hint = "Both images of a pair have one size; resize them and their K alike."
            raise argument_error(f"{name}.{field}", f"expected {wanted}", got, hint)
    for field in ("target", "source"):
        if not np.isfinite(getattr(pairs, field)).all():
            raise argument_error(f"{name}.{field}", "expected finite brightness", "nan or inf")
    check_intrinsics(f"{name}.intrinsics", pairs.intrinsics)
    r, t = pairs.motion[:, :3, :3], pairs.motion[:, :3, 3]
    away = np.abs(r @ r.swapaxes(1, 2) - np.eye(3)).max(initial=0, axis=(1, 2))
    bad = np.flatnonzero((away > 1e-3) | ~(np.linalg.det(r) > 0) | ~np.isfinite(t).all(1))
    if bad.size:
        expected = "expected rotations of determinant 1 and finite translations"
        raise argument_error(f"{name}.motion[{bad[0]}]", expected, pairs.motion[bad[0]].tolist())
    still = np.flatnonzero(np.linalg.norm(t, axis=1) < 1e-6)
    if still.size:
        hint = "Leave out pairs that only rotate."
        expected = "expected cameras that move: without a baseline depth cannot be observed"
        raise argument_error(f"{name}.motion[{still[0]}]", expected, "a translation of zero", hint)
    known = np.isfinite(pairs.depth)
    wrong = known & ~(np.where(known, pairs.depth, 1) > 0)
    if wrong.any() or np.isinf(pairs.depth).any():
        hint = "Use nan where the depth is unknown."
        raise argument_error(f"{name}.depth", "expected nan or positive depths", "others", hint)
    empty = np.flatnonzero(~known.any(axis=(1, 2)))
    if empty.size:
        raise argument_error(f"{name}.depth[{empty[0]}]", "expected a pixel with a depth", "none")


def unit_baseline(pairs: StereoPairs) -> StereoPairs:
    """The same pairs with |t| = 1, and depths in units of the baseline."""
    length = np.linalg.norm(pairs.motion[:, :3, 3], axis=1)
    motion = pairs.motion.copy()
    motion[:, :3, 3] /= length[:, None]
    return pairs._replace(motion=motion, depth=pairs.depth / length[:, None, None])


def y_down(pairs: StereoPairs) -> StereoPairs:
    """The same pairs in camera frames with y down, so that fy > 0.

    Renderers use y up and a negative fy. With F = diag(1, -1, 1), K, R, t become K F, F R F, F t.
    """
    up = np.asarray(pairs.intrinsics)[:, 1, 1] < 0
    flip = np.where(up, -1.0, 1.0).astype(np.asarray(pairs.motion).dtype)
    k, motion = np.array(pairs.intrinsics), np.array(pairs.motion)
    k[:, :, 1] *= flip[:, None]
    motion[:, 1, :] *= flip[:, None]
    motion[:, :, 1] *= flip[:, None]
    return pairs._replace(intrinsics=k, motion=motion)


def read_pair(
    target: Any, source: Any, intrinsics: Any, motion: Any, depth: Any, *, depth_unit: float
) -> StereoPairs:
    """One pair from image files.

    Args:
        target: path of an 8-bit image.
        source: path of an 8-bit image of the same size.
        intrinsics: (3, 3) [px] of both.
        motion: (4, 4), target to source, in metres.
        depth: path of a 16-bit PNG of the target's size, 0 where unknown; None: no depth known.
        depth_unit: metres per step of the depth image, e.g. 0.001.

    Raises:
        ValueError: an unreadable file, sizes that differ, or values that `check_pairs` refuses.
    """
    images = [read_rgb(path).astype(np.float32) / 255 for path in (target, source)]
    if images[0].shape != images[1].shape:
        expected = f"expected an image of {images[0].shape[1]} x {images[0].shape[0]}"
        got = f"{images[1].shape[1]} x {images[1].shape[0]}"
        raise argument_error(str(source), expected, got, "Resize it, and its K alike.")
    height, width = images[0].shape[:2]
    values = np.full((height, width), np.nan)
    if depth is not None:
        raw, _ = read_stored(depth)
        if raw.dtype != np.uint16 and raw.dtype != np.int32:
            expected = "expected a 16-bit depth image of one channel"
            raise argument_error(str(depth), expected, f"{raw.dtype} {raw.shape}")
        if raw.shape != (height, width):
            expected = f"expected a depth image of {width} x {height}"
            raise argument_error(str(depth), expected, f"{raw.shape[1]} x {raw.shape[0]}")
        values = np.where(raw > 0, raw * float(depth_unit), np.nan)
    pair = StereoPairs(
        images[0][None], images[1][None], np.asarray(intrinsics, float)[None],
        np.asarray(motion, float)[None], values[None],
    )  # fmt: skip
    check_intrinsics(f"intrinsics of {target}", pair.intrinsics)
    check_principal_point(f"intrinsics of {target}", pair.intrinsics, (height, width))
    if depth is not None:
        check_pairs(pair, str(target))
    return pair


def read_folder(folder: str | os.PathLike[str], shape: tuple[int, int]) -> StereoPairs:
    """Reads all pairs of a folder of `jaxcv.io.stereo_folder`, resized together with their K.

    Depths and translations are in metres. A pair without depth and poses gets nan depths and the
    identity as its motion.

    Args:
        folder: the folder with cameras.json.
        shape: (H, W) that the images are resized to.

    Raises:
        ValueError: a malformed file; the error names it and the rule.
    """
    parts = []
    for one in read_stereo_folder(folder):
        motion = np.eye(4) if one.motion is None else one.motion
        pair = read_pair(
            one.target, one.source, one.intrinsics, motion, one.depth, depth_unit=one.depth_unit
        )
        parts.append(resize_pair(pair, shape))
    return y_down(StereoPairs(*(np.concatenate(leaves) for leaves in zip(*parts, strict=True))))


def resize_pair(pairs: StereoPairs, shape: tuple[int, int]) -> StereoPairs:
    """The same pairs at another size, with their K: images by area means, depths by nearest pixels.

    Args:
        pairs: N pairs.
        shape: (H, W).
    """
    from PIL import Image

    height, width = pairs.depth.shape[1:]
    if (height, width) == tuple(shape):
        return pairs
    size = (shape[1], shape[0])

    def area(image):
        planes = [
            Image.fromarray(np.ascontiguousarray(image[..., c], np.float32)).resize(
                size, Image.Resampling.BOX
            )
            for c in range(3)
        ]
        return np.stack([np.asarray(plane) for plane in planes], axis=-1)

    nearest = lambda d: np.asarray(
        Image.fromarray(d.astype(np.float32)).resize(size, Image.Resampling.NEAREST)
    )
    k = np.asarray(resize_intrinsics(pairs.intrinsics, shape[1] / width, shape[0] / height))
    images = [np.stack([area(x) for x in stack]) for stack in (pairs.target, pairs.source)]
    depth = np.stack([nearest(d) for d in pairs.depth])
    return StereoPairs(images[0], images[1], k, pairs.motion, depth)


def decode_image(name: str, encoded: bytes) -> np.ndarray:
    """Decodes the bytes of an image file to (H, W, 3) float32 in [0, 1].

    Raises:
        ValueError: the bytes are no readable image; the error begins with `name`.
    """
    return read_rgb(encoded, name).astype(np.float32) / 255
