"""Reads a COLMAP model, in text or binary form, and where its images are.

    cameras.txt   CAMERA_ID MODEL WIDTH HEIGHT PARAMS...
    images.txt    two lines per image: IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then
                  X Y POINT3D_ID ... of its features; empty for none
    cameras.bin, images.bin    the same in binary, see `jaxcv.io.colmap_binary`; read if both are
                  there, as COLMAP does

Lines are read as COLMAP reads them: empty lines and comments before an image are skipped.

Poses are world to camera, x right, y down, z forward; COLMAP's pixel centres are at x + 1/2. Only
models without distortion are read: undistort the images with `colmap image_undistorter` first.
Image files may be scaled copies of a camera's WIDTH x HEIGHT. Pairs are images with at least
`_SHARED` common points; a model without any features lists no pairs. The scene of an image is the
folder in its name.
"""

import itertools
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from jaxcv.checks import argument_error
from jaxcv.io.colmap_binary import MODELS, read_cameras_binary, read_images_binary
from jaxcv.io.files import read_text
from jaxcv.io.posed_folder import PosedViews, check_views

__all__ = ["colmap_files", "read_colmap"]

_SHARED = 30
_READ = {"SIMPLE_PINHOLE": (0, 0, 1, 2), "PINHOLE": (0, 1, 2, 3)}  # fx, fy, cx, cy in PARAMS
_HINT = "Export the model with `colmap model_converter`; see data_prep/README.md."
_NO_POINT = 2**64 - 1  # -1 as COLMAP writes it in 64 bits without a sign


class _Image(NamedTuple):
    """An image as the file has it; `where` is for errors."""

    where: str
    number: int
    quaternion: np.ndarray
    translation: np.ndarray
    camera: int
    name: str
    points: np.ndarray


def colmap_files(folder: str | os.PathLike[str]) -> list[pathlib.Path]:
    """The two tables of a model: the binary ones if both are there, else the text."""
    folder = pathlib.Path(folder)
    binary = [folder / "cameras.bin", folder / "images.bin"]
    return binary if all(path.exists() for path in binary) else [
        folder / "cameras.txt", folder / "images.txt"
    ]  # fmt: skip


def read_colmap(folder: str | os.PathLike[str]) -> tuple[PosedViews, np.ndarray | None]:
    """The views, and the pairs (N, 2) with at least `_SHARED` common points.

    Returns:
        None instead of the pairs if no image has features with points.

    Raises:
        ValueError: a malformed table, an image or a camera given twice, a camera with distortion,
            a missing image file, or features but no pair.
    """
    folder = pathlib.Path(folder)
    cameras_path, path = colmap_files(folder)
    binary = path.suffix == ".bin"
    cameras = _intrinsics(*(_binary_cameras if binary else _text_cameras)(cameras_path))
    images = _binary_images(path) if binary else _text_images(path)
    _check_once([(image.where, image.number) for image in images], "image ids that differ")
    _check_once([(image.where, image.name) for image in images], "names that differ")
    inside = folder / "images"
    inside = inside if inside.is_dir() else folder
    for image in images:
        if image.camera not in cameras:
            expected = f"expected a camera of {cameras_path.name}"
            raise argument_error(image.where, expected, image.camera, _HINT)
        q, t = image.quaternion, image.translation
        if not np.isfinite([*q, *t]).all() or not np.linalg.norm(q) > 1e-6:
            expected = "expected a finite pose with a quaternion other than zero"
            raise argument_error(image.where, expected, [*q.tolist(), *t.tolist()], _HINT)
    own = [cameras[image.camera] for image in images]
    views = PosedViews(
        tuple(inside / image.name for image in images),
        tuple("/".join(pathlib.PurePosixPath(image.name).parts[:-1]) for image in images),
        np.array([k for k, _ in own]),
        np.array([rotation_of_quaternion(image.quaternion) for image in images]),
        np.array([image.translation for image in images]),
        np.array([shape for _, shape in own]),
    )
    check_views(views, str(path))
    seen = [set(image.points.tolist()) for image in images]
    if not any(seen):
        return views, None
    rows = range(len(images))
    pairs = [
        (i, j) for i, j in itertools.combinations(rows, 2) if len(seen[i] & seen[j]) >= _SHARED
    ]
    if not pairs:
        most = max((len(a & b) for a, b in itertools.combinations(seen, 2)), default=0)
        expected = f"expected two images or more with {_SHARED} points in common"
        hint = "Use a larger model; one without any features has pairs of neighbouring views."
        raise argument_error(str(path), expected, f"{most} at most", hint)
    return views, np.array(pairs, int)


def rotation_of_quaternion(q: np.ndarray) -> np.ndarray:
    """The rotation (3, 3) of a non-zero quaternion (w, x, y, z)."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_quat(np.roll(q, -1)).as_matrix()


def _check_once(entries: list[tuple[str, Any]], expected: str) -> None:
    first: dict[Any, str] = {}
    for where, value in entries:
        if value in first:
            got = f"{value!r} here and at {first[value]}"
            raise argument_error(where, f"expected {expected}", got, _HINT)
        first[value] = where


def _identity(text: str) -> int:
    """A whole number; `01` is 1."""
    value = int(text)
    if not -1 <= value < 2**63 and value != _NO_POINT:
        raise ValueError(f"the id {text[:80]}")
    return -1 if value == _NO_POINT else value


def _lines(path: pathlib.Path) -> list[tuple[int, str]]:
    lines = read_text(path, hint=_HINT).splitlines()
    return [(number, line.strip()) for number, line in enumerate(lines, 1)]


def _is_entry(line: str) -> bool:
    return bool(line) and not line.startswith("#")


def _text_images(path: pathlib.Path) -> list[_Image]:
    lines, out = iter(_lines(path)), []
    for number, line in lines:
        if not _is_entry(line):
            continue
        where = f"{path}, line {number}"
        following = next(lines, None)
        if following is None:
            expected = "expected two lines an image, the second of its features or empty"
            raise argument_error(where, expected, "the end of the file", _HINT)
        words = line.split(maxsplit=9)
        try:
            columns = following[1].split()
            if len(columns) % 3:
                raise ValueError(f"{len(columns)} numbers of its features")
            np.array(columns, float)
            points = np.array([_identity(word) for word in columns[2::3]], np.int64)
            out.append(_Image(
                where, _identity(words[0]), np.array(words[1:5], float),
                np.array(words[5:8], float), _identity(words[8]), words[9], points[points >= 0],
            ))  # fmt: skip
        except (ValueError, IndexError, OverflowError) as error:
            expected = "expected ID, quaternion, translation, camera, name; then x, y, point"
            raise argument_error(where, expected, repr(error)[:200], _HINT) from error
    return out


def _binary_images(path: pathlib.Path) -> list[_Image]:
    return [_Image(f"{path}, image {row[0]}", *row) for row in read_images_binary(path, _HINT)]


def _text_cameras(path: pathlib.Path) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Where each camera stands; its id, model, width, height and parameters."""
    wheres, out = [], []
    for number, line in _lines(path):
        if not _is_entry(line):
            continue
        words = line.split()
        where = f"{path}, line {number}"
        try:
            row = _identity(words[0]), words[1], int(words[2]), int(words[3])
            params = np.array(words[4:], float)
        except (ValueError, IndexError) as error:
            expected = "expected ID, model, width, height and parameters"
            raise argument_error(where, expected, repr(error)[:200], _HINT) from error
        wheres.append(where)
        out.append((*row, params))
    return wheres, out


def _binary_cameras(path: pathlib.Path) -> tuple[list[str], list[tuple[Any, ...]]]:
    rows = read_cameras_binary(path, _HINT)
    return [f"{path}, camera {row[0]}" for row in rows], rows


def _intrinsics(
    wheres: list[str], rows: list[tuple[Any, ...]]
) -> dict[int, tuple[np.ndarray, tuple[int, int]]]:
    """Camera id -> K (3, 3), and the (height, width) that K belongs to."""
    _check_once([(where, row[0]) for where, row in zip(wheres, rows, strict=True)],
                "camera ids that differ")  # fmt: skip
    out = {}
    for where, (number, model, width, height, params) in zip(wheres, rows, strict=True):
        if min(width, height) < 1 or max(width, height) > 2**31:
            expected = "expected a width and height of a picture [px]"
            raise argument_error(where, expected, f"{width} x {height}", _HINT)
        if model not in _READ:
            expected = f"expected a model among {', '.join(_READ)}"
            hint = "Undistort the images with `colmap image_undistorter`."
            raise argument_error(where, expected, model, hint)
        if len(params) != MODELS[model]:
            expected = f"expected {MODELS[model]} parameters of {model}"
            raise argument_error(where, expected, len(params), _HINT)
        fx, fy, cx, cy = params[list(_READ[model])]
        k = np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]])
        out[number] = k, (height, width)
    return out
