"""Reads a plain folder of images with poses.

    DIR/cameras.json   {"pose": "world_to_camera" or "camera_to_world",
                        "images": [{"file": "a.png", "intrinsics": 3 x 3 [px],
                                    "size": [width, height], "pose": 4 x 4, "scene": "kitchen"},
                                   ...],
                        "pairs": [["a.png", "b.png"], ...]}

`intrinsics` and `size` may be given once, beside `images`. `size` [px] is what the intrinsics
belong to, if the files are scaled copies; without it, the size of the file. `scene` and `pairs`
may be left out. `read_calibrations` reads the intrinsics alone: poses may be left out too, and
`images`, if `intrinsics` are given beside it.
"""

import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from jaxcv.checks import argument_error
from jaxcv.geometry.camera import check_intrinsics, check_poses, check_rotations
from jaxcv.io.files import numbers, path_in, read_json

__all__ = [
    "CAMERAS", "Calibration", "PosedViews", "check_views", "read_calibrations",
    "read_posed_folder",
]  # fmt: skip

CAMERAS = "cameras.json"

_HINT = "The docstring of jaxcv.io.posed_folder shows the layout."


class PosedViews(NamedTuple):
    """V views.

    Attributes:
        files: V paths.
        scenes: V names; unless pairs are listed, only views of one scene are paired.
        intrinsics: (V, 3, 3) [px], pixel centres at whole numbers.
        rotation: (V, 3, 3) world to camera, x right, y down, z forward.
        translation: (V, 3), in any unit.
        shapes: (V, 2) height and width that the intrinsics belong to; None: those of the files.
    """

    files: tuple[pathlib.Path, ...]
    scenes: tuple[str, ...]
    intrinsics: Any
    rotation: Any
    translation: Any
    shapes: Any = None


class Calibration(NamedTuple):
    """The camera of a picture.

    Attributes:
        intrinsics: (3, 3) [px], pixel centres at whole numbers.
        shape: height and width that they belong to; None: those of the file.
    """

    intrinsics: np.ndarray
    shape: tuple[int, int] | None


def check_views(views: PosedViews, name: str) -> None:
    """Raises ValueError unless all files exist, and K, the rotations and translations are valid."""
    if not views.files:
        raise argument_error(name, "expected one view or more", "none", _HINT)
    for path in views.files:
        if not os.path.isfile(path):  # False for names that are too long
            raise argument_error(name, "expected the image", f"no file {path}", _HINT)
    check_intrinsics(f"{name}, intrinsics", views.intrinsics)
    check_rotations(f"{name}, rotation", np.asarray(views.rotation), 1e-3)
    if not np.isfinite(views.translation).all():
        raise argument_error(f"{name}, translation", "expected finite numbers", "nan or inf")


def read_posed_folder(folder: str | os.PathLike[str]) -> tuple[PosedViews, np.ndarray | None]:
    """The views, and the pairs (N, 2) that the file lists, or None."""
    folder = pathlib.Path(folder)
    path = folder / CAMERAS
    expected = "expected JSON with `images` and `pose`, world_to_camera or camera_to_world"
    content = read_json(path, expected, hint=_HINT)
    entries, form = content.get("images"), content.get("pose")
    shared, common = content.get("intrinsics"), content.get("size")
    if form not in ("world_to_camera", "camera_to_world") or not isinstance(entries, list):
        raise argument_error(str(path), expected, f"pose {form!r}"[:80], _HINT)
    files, scenes, intrinsics, poses, shapes = [], [], [], [], []
    for i, entry in enumerate(entries):
        name = f"{path}, images[{i}]"
        try:
            file, k, pose = entry["file"], entry.get("intrinsics", shared), entry["pose"]
            shapes.append(_shape(f"{name}.size", entry.get("size", common)))
            scenes.append(str(entry.get("scene", "")))
        except (KeyError, TypeError, AttributeError) as error:
            expected = "expected file, pose (4 x 4) and intrinsics (3 x 3), in numbers"
            raise argument_error(name, expected, repr(error)[:80], _HINT) from error
        files.append(path_in(folder, f"{name}.file", file, _HINT))
        intrinsics.append(numbers(f"{name}.intrinsics", k, (3, 3), _HINT))
        poses.append(numbers(f"{name}.pose", pose, (4, 4), _HINT))
    pose = np.array(poses).reshape(-1, 4, 4)
    check_poses(f"{path}, pose", pose)
    if form == "camera_to_world":
        pose = _inverse(pose)
    k = np.array(intrinsics).reshape(-1, 3, 3)
    if any(shapes) and not all(shapes):
        expected = "expected `size` beside all intrinsics or beside none"
        raise argument_error(f"{path}, images[{shapes.index(None)}]", expected, "none", _HINT)
    own = np.array(shapes) if all(shapes) else None
    views = PosedViews(tuple(files), tuple(scenes), k, pose[:, :3, :3], pose[:, :3, 3], own)
    check_views(views, str(path))
    listed = content.get("pairs")
    return views, None if listed is None else _rows(path, entries, listed)


def read_calibrations(
    folder: str | os.PathLike[str],
) -> tuple[dict[str, Calibration], Calibration | None]:
    """The cameras of the files listed in cameras.json, and that of all others, or None.

    Raises:
        ValueError: no such file, or one without intrinsics, or with malformed ones.
    """
    path = pathlib.Path(folder) / CAMERAS
    expected = "expected JSON with `intrinsics`, 3 x 3 [px], of all pictures or in `images`"
    content = read_json(path, expected, hint=_HINT)
    shared, common = content.get("intrinsics"), _shape(f"{path}, size", content.get("size"))
    other = None
    if shared is not None:
        other = Calibration(_intrinsics(f"{path}, intrinsics", shared), common)
    entries, out = content.get("images", []), {}
    if not isinstance(entries, list) or (other is None and not entries):
        raise argument_error(str(path), expected, "none", _HINT)
    for i, entry in enumerate(entries):
        name = f"{path}, images[{i}]"
        if not isinstance(entry, dict):
            raise argument_error(name, "expected file and intrinsics", repr(entry)[:80], _HINT)
        file = path_in(pathlib.Path(), f"{name}.file", entry.get("file"), _HINT).as_posix()
        if file in out:
            raise argument_error(f"{name}.file", "expected each file once", repr(file), _HINT)
        k, shape = entry.get("intrinsics", shared), common
        if "size" in entry:
            shape = _shape(f"{name}.size", entry["size"])
        out[file] = Calibration(_intrinsics(f"{name}.intrinsics", k), shape)
    return out, other


def _intrinsics(name: str, k: Any) -> np.ndarray:
    return check_intrinsics(name, numbers(name, k, (3, 3), _HINT))


def _shape(name: str, size: Any) -> tuple[int, int] | None:
    """(height, width) of [width, height]; None stays."""
    if size is None:
        return None
    width, height = numbers(name, size, (2,), _HINT).tolist()
    if min(width, height) < 1 or max(width, height) > 2**31 or (width % 1, height % 1) != (0, 0):
        raise argument_error(name, "expected [width, height] in pixels", size, _HINT)
    return int(height), int(width)


def _inverse(pose: np.ndarray) -> np.ndarray:
    """Inverse of rigid motions (..., 4, 4)."""
    out = np.zeros_like(pose)
    turned = pose[..., :3, :3].swapaxes(-1, -2)
    out[..., :3, :3] = turned
    out[..., :3, 3] = -np.einsum("...ij,...j->...i", turned, pose[..., :3, 3])
    out[..., 3, 3] = 1
    return out


def _rows(path: pathlib.Path, entries: list[Any], listed: Any) -> np.ndarray:
    number = {entry["file"]: i for i, entry in enumerate(entries)}
    out = []
    for i, pair in enumerate(listed if isinstance(listed, list) else [listed]):
        named = isinstance(pair, list) and all(isinstance(p, str) and p in number for p in pair)
        if not named or len(pair) != 2:
            expected = "expected two files among images"
            raise argument_error(f"{path}, pairs[{i}]", expected, repr(pair)[:80], _HINT)
        out.append([number[file] for file in pair])
    return np.array(out, int).reshape(-1, 2)
