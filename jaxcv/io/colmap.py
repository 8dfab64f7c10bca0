"""Reads a COLMAP model in text form: cameras.txt, images.txt, and the images.

    cameras.txt   CAMERA_ID MODEL WIDTH HEIGHT PARAMS...
    images.txt    two lines per image: IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then
                  X Y POINT3D_ID ... of its features

Poses are world to camera, x right, y down, z forward; COLMAP's pixel centres are at x + 1/2. Only
models without distortion are read: undistort the images with `colmap image_undistorter` first.
Image files may be scaled copies of a camera's WIDTH x HEIGHT. Pairs are images with at least
`_SHARED` common points; the scene of an image is the folder in its name.
"""

import itertools
import os
import pathlib

import numpy as np

from jaxcv.checks import argument_error
from jaxcv.io.files import read_text
from jaxcv.io.posed_folder import PosedViews, check_views

__all__ = ["read_colmap"]

_SHARED = 30
_MODELS = {"SIMPLE_PINHOLE": (0, 0, 1, 2), "PINHOLE": (0, 1, 2, 3)}  # fx, fy, cx, cy in PARAMS
_HINT = "Export the model as text with `colmap model_converter`; see data_prep/README.md."


def read_colmap(folder: str | os.PathLike[str]) -> tuple[PosedViews, np.ndarray]:
    """The views, and the pairs (N, 2) with at least `_SHARED` common points."""
    folder = pathlib.Path(folder)
    intrinsics = _cameras(folder / "cameras.txt")
    path = folder / "images.txt"
    lines = _lines(path)
    if len(lines) % 2:
        raise argument_error(str(path), "expected two lines an image", len(lines), _HINT)
    files, scenes, k, shapes, rotation, translation, seen = [], [], [], [], [], [], []
    for (number, text), (_, points) in zip(lines[::2], lines[1::2], strict=True):
        words = text.split(maxsplit=9)
        name = f"{path}, line {number}"
        try:
            q, t = np.array(words[1:5], float), np.array(words[5:8], float)
            camera, file = words[8], words[9]
            columns = points.split()
            if len(columns) % 3:
                raise ValueError(f"{len(columns)} numbers of its features")
            ids = np.array(columns[2::3], int)
            if not np.isfinite([*q, *t]).all() or not np.linalg.norm(q) > 1e-6:
                raise ValueError(f"a quaternion {q} or translation {t}")
        except (ValueError, IndexError) as error:
            expected = "expected ID, quaternion, translation, camera, name; then x, y, point"
            raise argument_error(name, expected, repr(error), _HINT) from error
        if camera not in intrinsics:
            expected = "expected a camera of cameras.txt"
            raise argument_error(name, expected, camera, _HINT)
        images = folder / "images"
        files.append((images if images.is_dir() else folder) / file)
        k.append(intrinsics[camera][0])
        shapes.append(intrinsics[camera][1])
        scenes.append("/".join(pathlib.PurePosixPath(file).parts[:-1]))
        rotation.append(rotation_of_quaternion(q))
        translation.append(t)
        seen.append(set(ids[ids >= 0].tolist()))
    views = PosedViews(
        tuple(files), tuple(scenes), np.array(k), np.array(rotation), np.array(translation),
        np.array(shapes),
    )  # fmt: skip
    check_views(views, str(path))
    pairs = [
        (i, j)
        for i, j in itertools.combinations(range(len(files)), 2)
        if len(seen[i] & seen[j]) >= _SHARED
    ]
    return views, np.array(pairs, int).reshape(-1, 2)


def rotation_of_quaternion(q: np.ndarray) -> np.ndarray:
    """The rotation (3, 3) of a non-zero quaternion (w, x, y, z)."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_quat(np.roll(q, -1)).as_matrix()


def _lines(path: pathlib.Path) -> list[tuple[int, str]]:
    """Numbered lines without comments. Empty lines stay: an image may have no features."""
    lines = enumerate(read_text(path, hint=_HINT).splitlines(), 1)
    return [(i, line) for i, line in lines if not line.startswith("#")]


def _cameras(path: pathlib.Path) -> dict[str, tuple[np.ndarray, tuple[int, int]]]:
    """Camera id -> K (3, 3), and the (height, width) that K belongs to."""
    out = {}
    for number, line in _lines(path):
        if not line.strip():
            continue
        words = line.split()
        name = f"{path}, line {number}"
        try:
            model, width, height = words[1], int(words[2]), int(words[3])
            params = np.array(words[4:], float)
            if min(width, height) < 1:
                raise ValueError(f"{width} x {height} px")
        except (ValueError, IndexError) as error:
            expected = "expected ID, model, width, height and parameters"
            raise argument_error(name, expected, repr(error), _HINT) from error
        if model not in _MODELS:
            expected = f"expected a model among {', '.join(_MODELS)}"
            hint = "Undistort the images with `colmap image_undistorter`."
            raise argument_error(name, expected, model, hint)
        if len(params) != max(_MODELS[model]) + 1:
            expected = f"expected {max(_MODELS[model]) + 1} parameters of {model}"
            raise argument_error(name, expected, len(params), _HINT)
        fx, fy, cx, cy = params[list(_MODELS[model])]
        k = np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]])
        out[words[0]] = k, (height, width)
    return out
