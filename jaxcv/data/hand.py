"""Hands in depth images: frames, the fourteen scored joints, files of predictions.

Joints are in the camera's frame [mm]. The NYU camera's y points up, hence a negative fy:

    x = (u - 320) d / 588.03,   y = (240 - v) d / 587.07,   z = d
"""

import os
from typing import Any, NamedTuple

import numpy as np

from jaxcv.checks import argument_error
from jaxcv.geometry.camera import check_intrinsics
from jaxcv.io.files import check_file

__all__ = [
    "BONES", "JOINTS", "MIDDLES", "NYU_INTRINSICS", "NYU_JOINTS", "PALM", "TIPS", "HandFrames",
    "check_depth", "check_frames", "joints_of_pixels", "pixels_of_joints", "points_in_cube",
    "read_predictions", "write_predictions",
]  # fmt: skip

NYU_INTRINSICS = np.array([[588.03, 0, 320], [0, -587.07, 240], [0, 0, 1]])
# Tip and middle knuckle of pinky (P), ring (R), middle (M) and index finger (I), three of the
# thumb (T), both sides of the wrist (W) and the palm (C).
JOINTS = ("P1", "P2", "R1", "R2", "M1", "M2", "I1", "I2", "T1", "T2", "T3", "W1", "W2", "C")
NYU_JOINTS = (0, 3, 6, 9, 12, 15, 18, 21, 24, 25, 27, 30, 31, 32)  # of the 36 in the labels
PALM = 13
TIPS, MIDDLES = (0, 2, 4, 6, 8), (1, 3, 5, 7, 9)  # of the fingers and the thumb
BONES = (
    (13, 1), (1, 0), (13, 3), (3, 2), (13, 5), (5, 4), (13, 7), (7, 6), (13, 10), (10, 9), (9, 8),
    (13, 11), (13, 12),
)  # fmt: skip
_METRES = 20.0  # depths all below this are in metres, not millimetres


class HandFrames(NamedTuple):
    """N frames of hands.

    Attributes:
        depth: (N, H, W) [mm] along z; 0 where missing.
        color: (N, H, W, 3) in 8 bits, or None.
        joints: (N, 14, 3) [mm] in the camera's frame, in the order of JOINTS.
        intrinsics: (N, 3, 3) [px].
        subject: (N,) number of the person.
    """

    depth: Any
    color: Any
    joints: Any
    intrinsics: Any
    subject: Any

    def take(self, rows: Any) -> "HandFrames":
        """A subset of the frames."""
        color = None if self.color is None else self.color[rows]
        rest = self.joints[rows], self.intrinsics[rows], self.subject[rows]
        return HandFrames(self.depth[rows], color, *rest)


def joints_of_pixels(pixels: Any, intrinsics: Any = NYU_INTRINSICS) -> np.ndarray:
    """Joints (..., 3) [mm] of (u [px], v [px], depth [mm]), in double precision."""
    k, pixels = np.asarray(intrinsics, float), np.asarray(pixels, float)
    u, v, depth = np.moveaxis(pixels, -1, 0)
    y = (v - k[1, 2]) / k[1, 1]
    x = (u - k[0, 2] - k[0, 1] * y) / k[0, 0]
    return np.stack([x * depth, y * depth, depth], axis=-1)


def pixels_of_joints(joints: Any, intrinsics: Any = NYU_INTRINSICS) -> np.ndarray:
    """(u, v, depth) (..., 3) of joints (..., 3): the inverse of `joints_of_pixels`."""
    k, joints = np.asarray(intrinsics, float), np.asarray(joints, float)
    x, y = joints[..., 0] / joints[..., 2], joints[..., 1] / joints[..., 2]
    u = k[0, 0] * x + k[0, 1] * y + k[0, 2]
    return np.stack([u, k[1, 1] * y + k[1, 2], joints[..., 2]], axis=-1)


def points_in_cube(
    depth: Any, intrinsics: Any, centre: Any, cube: float, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Samples points (count, 3) [mm] of a depth image within a cube; zeros if there are none.

    Args:
        depth: (H, W) [mm], 0 or nan where missing.
        intrinsics: (3, 3) [px].
        centre: (3,) [mm] of the cube.
        cube: its side [mm].
        count: number of points; repeats some if fewer are visible.
        rng: NumPy generator.
    """
    depth = np.asarray(depth)
    v, u = np.nonzero(np.isfinite(depth) & (depth > 0))
    points = joints_of_pixels(np.stack([u, v, depth[v, u]], axis=-1), intrinsics)
    inside = points[(np.abs(points - np.asarray(centre)) <= 0.5 * cube).all(axis=1)]
    if not len(inside):
        return np.zeros((count, 3))
    return inside[rng.choice(len(inside), count, replace=len(inside) < count)]


def check_depth(name: str, depth: Any) -> np.ndarray:
    """One or more depth images (..., H, W) as an array.

    Raises:
        ValueError: fewer than two axes, an image without depths, negative depths, or metres.
    """
    depth = np.asarray(depth)
    if depth.ndim < 2:
        raise argument_error(name, "expected (..., H, W) [mm]", depth.shape)
    known = np.isfinite(depth) & (depth != 0)
    if not known.any(axis=(-2, -1)).all():
        hint = "Leave out frames without any depth."
        raise argument_error(name, "expected a pixel with a depth", "0 or nan everywhere", hint)
    if (depth[known] < 0).any():
        raise argument_error(
            name, "expected depths [mm] of 0 (missing) or more", depth[known].min()
        )
    if depth[known].max() < _METRES:
        hint = "These look like metres: multiply by 1000."
        raise argument_error(name, "expected millimetres", f"at most {depth[known].max():g}", hint)
    return depth


def check_frames(frames: HandFrames, name: str = "frames") -> None:
    """Raises ValueError unless shapes, types and units are valid and joints are finite."""
    n, height, width = np.shape(check_depth(f"{name}.depth", frames.depth))
    want = {"joints": (n, len(JOINTS), 3), "intrinsics": (n, 3, 3), "subject": (n,)}
    if frames.color is not None:
        want["color"] = (n, height, width, 3)
        if np.asarray(frames.color).dtype != np.uint8:
            got = np.asarray(frames.color).dtype
            raise argument_error(f"{name}.color", "expected 8 bits (uint8)", got)
    for field, wanted in want.items():
        got = np.shape(getattr(frames, field))
        if got != wanted:
            raise argument_error(f"{name}.{field}", f"expected {wanted}", got)
    check_intrinsics(f"{name}.intrinsics", frames.intrinsics)
    if not np.isfinite(frames.joints).all():
        raise argument_error(f"{name}.joints", "expected finite values", "nan or inf")
    if not (np.asarray(frames.joints)[..., 2] > 0).all():
        expected = "expected joints [mm] in front of the camera"
        raise argument_error(f"{name}.joints", expected, "a depth of zero or less")


def read_predictions(
    path: str | os.PathLike[str],
    joints: int | None = len(JOINTS),
    *,
    positive_depth: bool = False,
) -> np.ndarray:
    """Reads predictions or labels (u, v, depth) (N, J, 3) from a text file, one frame per line.

    Args:
        path: of the file; 3 J numbers per line, separated by blanks, without a header.
        joints: J; None: as many as the first line has.
        positive_depth: refuses a depth, the third number of a joint, of 0 or less.

    Raises:
        ValueError: another count in a line, a word that is not a number, nan, or a refused depth.
    """
    check_file(path)
    rows = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            words = line.split()
            if not words:
                continue
            where = f"{os.fspath(path)}, line {number}"
            if joints is None:
                if len(words) % 3:
                    hint = "A file has no header, a line no name of an image."
                    raise argument_error(where, "expected three numbers a joint", len(words), hint)
                joints = len(words) // 3
            if len(words) != 3 * joints:
                hint = f"Each line is u v depth of {joints} joints."
                raise argument_error(where, f"expected {3 * joints} numbers", len(words), hint)
            try:
                row = [float(word) for word in words]
            except ValueError:
                raise argument_error(where, "expected numbers", repr(line[:60])) from None
            if not np.isfinite(row).all():
                raise argument_error(where, "expected finite numbers", repr(line[:60]))
            if positive_depth and min(row[2::3]) <= 0:
                expected, got = "expected depths (every third number) above 0", min(row[2::3])
                hint = "Leave out missing joints' frames; change the sign of z if z points back."
                raise argument_error(where, expected, got, hint)
            rows.append(row)
    if not rows or joints is None:
        raise argument_error(os.fspath(path), "expected a line or more", "an empty file")
    return np.array(rows).reshape(len(rows), joints, 3)


def write_predictions(path: str | os.PathLike[str], pixels: Any) -> None:
    """Writes (N, J, 3) in the format of `read_predictions`, with three decimals."""
    pixels = np.asarray(pixels, float)
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or not np.isfinite(pixels).all():
        raise argument_error("pixels", "expected finite (N, J, 3)", pixels.shape)
    lines = [" ".join(f"{x:.3f}" for x in row) for row in pixels.reshape(len(pixels), -1)]
    temporary = f"{os.fspath(path)}.part"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    os.replace(temporary, path)
