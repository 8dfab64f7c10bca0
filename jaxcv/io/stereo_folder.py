"""Reads pairs of images from a plain folder.

    DIR/cameras.json   {"intrinsics": 3 x 3 [px], "depth_unit": metres per step of a depth image,
                        "pairs": [{"target": "a.png", "source": "b.png", "depth": "a_depth.png",
                                   "target_camera_to_world": 4 x 4 [m],
                                   "source_camera_to_world": 4 x 4 [m]}, ...]}

A pair may have its own `intrinsics`. Depth images are 16-bit PNGs of z, 0 where unknown. For pairs
that are only predicted, leave out `depth` and both poses together.
"""

import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from jaxcv.checks import argument_error
from jaxcv.geometry.camera import check_intrinsics, check_poses
from jaxcv.io.files import numbers, path_in, read_json

__all__ = ["StereoFiles", "read_stereo_folder"]

_HINT = "The docstring of jaxcv.io.stereo_folder shows the layout."


class StereoFiles(NamedTuple):
    """The files and labels of a pair.

    Attributes:
        name: name of the entry, for errors.
        target: path of an image.
        source: path of the other image.
        intrinsics: (3, 3) [px] of both.
        motion: (4, 4) target to source [m]; None: unknown.
        depth: path of the target's depth image; None: unknown.
        depth_unit: metres per step of the depth image.
    """

    name: str
    target: pathlib.Path
    source: pathlib.Path
    intrinsics: np.ndarray
    motion: np.ndarray | None
    depth: pathlib.Path | None
    depth_unit: float


def read_stereo_folder(folder: str | os.PathLike[str]) -> list[StereoFiles]:
    """The pairs that cameras.json lists; the images are not opened.

    Raises:
        ValueError: cameras.json is malformed; the error names the entry and the rule.
    """
    path = pathlib.Path(folder) / "cameras.json"
    expected = "expected JSON with `intrinsics`, `pairs` and, with depths, `depth_unit`"
    content = read_json(path, expected, hint=_HINT)
    entries, k = content.get("pairs"), content.get("intrinsics")
    if not isinstance(entries, list) or not entries:
        raise argument_error(str(path), expected, f"the entries {sorted(content)}", _HINT)
    unit = content.get("depth_unit")
    return [_read(path, i, entry, k, unit) for i, entry in enumerate(entries)]


def _read(path: pathlib.Path, i: int, entry: Any, k: Any, unit: Any) -> StereoFiles:
    name = f"{path}, pairs[{i}]"
    if not isinstance(entry, dict):
        raise argument_error(name, "expected an object with `target` and `source`", repr(entry))
    missing = [key for key in ("target", "source") if key not in entry]
    k = entry.get("intrinsics", k)
    if missing or k is None:
        raise argument_error(name, "expected `target`, `source` and intrinsics", list(entry))
    known = [key in entry for key in ("depth", "target_camera_to_world", "source_camera_to_world")]
    if any(known) and not (all(known) and unit is not None):
        expected = "expected depth, depth_unit and both poses, or none of them"
        raise argument_error(name, expected, list(entry))
    k = numbers(f"{name}.intrinsics", k, (3, 3))
    check_intrinsics(f"{name}.intrinsics", k)
    motion, depth, unit_in_metres = None, None, 1.0
    if all(known):
        poses = [
            _pose(name, key, entry[key])
            for key in ("source_camera_to_world", "target_camera_to_world")
        ]
        motion = np.linalg.inv(poses[0]) @ poses[1]
        depth = path_in(path.parent, f"{name}.depth", entry["depth"])
        unit_in_metres = float(numbers(f"{path}, depth_unit", unit, ()))
        if not unit_in_metres > 0:
            raise argument_error(f"{path}, depth_unit", "expected a positive number", unit)
    target = path_in(path.parent, f"{name}.target", entry["target"])
    source = path_in(path.parent, f"{name}.source", entry["source"])
    return StereoFiles(name, target, source, k, motion, depth, unit_in_metres)


def _pose(name: str, key: str, value: Any) -> np.ndarray:
    pose = numbers(f"{name}.{key}", value, (4, 4))
    check_poses(f"{name}.{key}", pose)
    return pose
