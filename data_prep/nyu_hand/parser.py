"""Reads the files of the NYU Hand Pose data set.

::

    <split>/joint_data.mat              joint_uvd and joint_xyz (3 views, N, 36, 3) and joint_names;
                                        u, v [px], depth [mm]; x, y up, z [mm]
    <split>/depth_<view>_<frame>.png    8 bits a channel: depth = 256 G + B [mm], 0: missing
    <split>/rgb_<view>_<frame>.png      registered to the depth

Views are 1 to 3, frames count from 0000001; 640 x 480 px. `synthdepth_*.png` are not read.

Source: Tompson et al., SIGGRAPH 2014, and its read-me.
"""

import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from jaxcv.checks import argument_error
from jaxcv.data.hand import NYU_INTRINSICS, pixels_of_joints
from jaxcv.io.files import check_file
from jaxcv.io.pictures import read_stored

__all__ = ["NyuLabels", "encode_depth", "read_color", "read_depth", "read_labels"]

VIEWS, JOINTS = 3, 36
_HINT = "Fetch the file again; data_prep/README.md describes the layout."
_INVALID = 32001  # what some tools write for missing depths
_AGREE = 2.0  # [px], largest median of joint_uvd minus the projection of joint_xyz


class NyuLabels(NamedTuple):
    """Labels of the N frames of a split.

    Attributes:
        joints: (3, N, 36, 3) x, y (up), z [mm].
        pixels: (3, N, 36, 3) u, v [px], depth [mm].
    """

    joints: np.ndarray
    pixels: np.ndarray


def read_labels(path: str | os.PathLike[str]) -> NyuLabels:
    """Reads joint_data.mat of a split.

    Raises:
        ValueError: no MATLAB file, missing keys, wrong shapes, values that are not finite, joints
            behind the camera, or pixels that NYU's camera does not project the joints to.
    """
    import scipy.io

    try:
        check_file(path, hint=_HINT)
        stored = scipy.io.loadmat(os.fspath(path))
    except Exception as error:  # SciPy raises many classes without a common base
        expected = "expected a MATLAB file (version 5)"
        raise argument_error(os.fspath(path), expected, str(error), _HINT) from error
    missing = [key for key in ("joint_uvd", "joint_xyz") if key not in stored]
    if missing:
        got = sorted(key for key in stored if not key.startswith("__"))
        raise argument_error(os.fspath(path), f"expected the keys {missing}", got, _HINT)
    pixels, joints = (np.asarray(stored[key], float) for key in ("joint_uvd", "joint_xyz"))
    if joints.ndim != 4 or joints.shape[::2] != (VIEWS, JOINTS) or joints.shape[3] != 3:
        expected = f"expected joint_xyz of shape ({VIEWS}, N, {JOINTS}, 3)"
        raise argument_error(os.fspath(path), expected, joints.shape, _HINT)
    if pixels.shape != joints.shape:
        expected = f"expected joint_uvd of the shape of joint_xyz, {joints.shape}"
        raise argument_error(os.fspath(path), expected, pixels.shape, _HINT)
    if not (np.isfinite(joints).all() and np.isfinite(pixels).all()):
        raise argument_error(os.fspath(path), "expected finite labels", "nan or inf", _HINT)
    if not (joints[0, ..., 2] > 0).all():
        got = f"a depth of {joints[0, ..., 2].min():g} mm"
        raise argument_error(os.fspath(path), "expected joints in front of the camera", got, _HINT)
    apart = np.abs(pixels_of_joints(joints[0], NYU_INTRINSICS)[..., :2] - pixels[0, ..., :2])
    if np.median(apart.max(axis=-1)) > _AGREE:
        expected = "expected joint_uvd to be the projection of joint_xyz, y up"
        got = f"{np.median(apart.max(axis=-1)):.1f} px apart in the median"
        raise argument_error(os.fspath(path), expected, got, _HINT)
    return NyuLabels(joints, pixels)


def frame_files(
    folder: str | os.PathLike[str], view: int, frame: int
) -> tuple[pathlib.Path, pathlib.Path]:
    """Paths of the depth and colour images of a frame; frames count from 1."""
    name = f"{view}_{frame:07d}.png"
    return pathlib.Path(folder, f"depth_{name}"), pathlib.Path(folder, f"rgb_{name}")


def read_depth(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a depth PNG (H, W) [mm] as uint16, 0 where missing.

    Raises:
        ValueError: no PNG of three 8-bit channels, or no pixel has a depth.
    """
    channels = _read(path, "depth = 256 G + B in three 8-bit channels").astype(np.uint16)
    depth = 256 * channels[..., 1] + channels[..., 2]
    depth[depth >= _INVALID] = 0
    if not depth.any():
        raise argument_error(os.fspath(path), "expected a pixel with a depth", "0 everywhere")
    return depth


def read_color(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a colour PNG (H, W, 3) as uint8."""
    return _read(path, "an image of three 8-bit channels")


def encode_depth(depth: Any) -> np.ndarray:
    """Encodes depth (H, W) [mm] in channels (H, W, 3) uint8: the inverse of `read_depth`."""
    depth = np.asarray(depth, np.uint16)
    high, low = (depth >> 8).astype(np.uint8), (depth & 255).astype(np.uint8)
    return np.stack([np.zeros_like(high), high, low], axis=-1)


def _read(path: str | os.PathLike[str], what: str) -> np.ndarray:
    values, mode = read_stored(path, hint=_HINT)
    if mode != "RGB":
        got = f"the mode {mode!r}" + (" (16 bits)" if "I" in mode else "")
        raise argument_error(os.fspath(path), f"expected {what}", got, _HINT)
    return values
