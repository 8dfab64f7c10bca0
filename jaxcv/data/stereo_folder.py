"""Pairs of images in a plain folder.

    DIR/cameras.json   {"intrinsics": 3 x 3 [px], "depth_unit": metres per step of a depth image,
                        "pairs": [{"target": "a.png", "source": "b.png", "depth": "a_depth.png",
                                   "target_camera_to_world": 4 x 4 [m],
                                   "source_camera_to_world": 4 x 4 [m]}, ...]}

A pair may have `intrinsics` of its own. Depth images are 16-bit PNGs along z, 0 where unknown.
`depth` and the poses may be left out together, for pairs to be predicted only.
"""

import os
import pathlib
from typing import Any

import numpy as np

from jaxcv.checks import argument_error
from jaxcv.data.stereo import StereoPairs, check_pairs, read_pair, resize_pair, y_down
from jaxcv.io.files import numbers, path_in, read_json

__all__ = ["read_folder"]

_HINT = "The docstring of jaxcv.data.stereo_folder shows the layout."


def read_folder(folder: str | os.PathLike[str], shape: tuple[int, int]) -> StereoPairs:
    """All pairs of a folder at one size, K with them; depths and translations in metres, y down.

    Where a pair has no depth and poses, its depth is nan and its motion the identity.

    Args:
        folder: as above.
        shape: (H, W) that the images are brought to.

    Raises:
        ValueError: naming the file and the rule.
    """
    path = pathlib.Path(folder) / "cameras.json"
    expected = "expected JSON with `intrinsics`, `pairs` and, with depths, `depth_unit`"
    content = read_json(path, expected, hint=_HINT)
    entries, k = content.get("pairs"), content.get("intrinsics")
    if not isinstance(entries, list) or not entries:
        raise argument_error(str(path), expected, f"the entries {sorted(content)}", _HINT)
    pairs = [_read(path, i, entry, k, content.get("depth_unit")) for i, entry in enumerate(entries)]
    parts = [resize_pair(pair, shape) for pair in pairs]
    joined = StereoPairs(*(np.concatenate(leaves) for leaves in zip(*parts, strict=True)))
    return y_down(joined)


def _read(path: pathlib.Path, i: int, entry: Any, k: Any, unit: Any) -> StereoPairs:
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
    motion, depth = np.eye(4), None
    if all(known):
        poses = [
            _pose(name, key, entry[key])
            for key in ("source_camera_to_world", "target_camera_to_world")
        ]
        motion = np.linalg.inv(poses[0]) @ poses[1]
        depth = path_in(path.parent, f"{name}.depth", entry["depth"])
        unit = float(numbers(f"{path}, depth_unit", unit, ()))
        if not unit > 0:
            raise argument_error(f"{path}, depth_unit", "expected a positive number", unit)
    target = path_in(path.parent, f"{name}.target", entry["target"])
    source = path_in(path.parent, f"{name}.source", entry["source"])
    pair = read_pair(target, source, k, motion, depth, depth_unit=unit or 1.0)
    if depth is not None:
        check_pairs(pair, name)
    return pair


def _pose(name: str, key: str, value: Any) -> np.ndarray:
    pose = numbers(f"{name}.{key}", value, (4, 4))
    if abs(np.linalg.det(pose)) < 1e-9:
        raise argument_error(f"{name}.{key}", "expected a rigid motion", value)
    return pose
