"""The HDF5 files of DeMoN.

::

    /<group>/frames/t0                attribute viewpoint_pairs: int32, flat pairs, e.g. [0 1 1 0]
    /<group>/frames/t0/v<i>/image     int8, a WebP file; attribute format b"webp"
    /<group>/frames/t0/v<i>/depth     int8, one LZ4 block (no size header) of float16 by rows;
                                      attributes format b"lz4half", extents [H, W] and
                                      depth_metric b"camera_z" or b"ray_length"; 0: unknown
    /<group>/frames/t0/v<i>/camera    17 float64: fx fy skew cx cy, R by columns, t, world to
                                      camera; attribute format b"pinhole"

Groups whose name begins with a dot are not scenes. The files put pixel centres at x + 1/2; this
library puts them at integers, so 1/2 is subtracted from the principal points.

Source: Ummenhofer et al., "DeMoN", CVPR 2017, and its data reader.
"""

import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import h5py
import numpy as np

from jaxcv.checks import argument_error
from jaxcv.geometry.camera import check_intrinsics
from jaxcv.io.hdf5 import open_hdf5
from jaxcv.io.pictures import read_stored

__all__ = ["DemonPair", "DemonView", "list_pairs", "read_view"]

_HINT = "Fetch the file again; data_prep/README.md describes the layout."
_METRICS = ("camera_z", "ray_length")


class DemonView(NamedTuple):
    """One view.

    Attributes:
        image: the WebP file as it is stored.
        depth: (H, W) float32 along z; nan where unknown.
        intrinsics: (3, 3) [px], pixel centres at integers.
        rotation: (3, 3) world to camera.
        translation: (3,).
    """

    image: bytes
    depth: np.ndarray
    intrinsics: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray


class DemonPair(NamedTuple):
    """The location of a pair: group, first and second view."""

    group: str
    first: int
    second: int


_PARTS = ("image", "depth", "camera")


def list_pairs(path: str | os.PathLike[str]) -> list[DemonPair]:
    """All pairs of a file, in the order of its groups.

    Raises:
        ValueError: no HDF5 file, a group without frames or pairs, or a pair of equal or missing
            views.
    """
    out = []
    with open_hdf5(path, _HINT) as file:
        for group in sorted(file):
            if group.startswith("."):
                continue
            frames = file.get(f"{group}/frames/t0")
            name = f"{path}, {group}"
            if not isinstance(frames, h5py.Group) or "viewpoint_pairs" not in frames.attrs:
                expected = "expected frames/t0 with the attribute viewpoint_pairs"
                raise argument_error(name, expected, frames, _HINT)
            pairs = frames.attrs["viewpoint_pairs"]
            pairs = np.asarray(pairs).ravel()
            views = pairs.reshape(-1, 2) if pairs.size % 2 == 0 else np.zeros((1, 2), int)
            missing = [int(v) for v in views.ravel() if f"v{int(v)}" not in frames]
            if not views.size or missing or (views[:, 0] == views[:, 1]).any():
                expected = "expected viewpoint_pairs of two different views that exist"
                raise argument_error(name, expected, pairs.tolist(), _HINT)
            out += [DemonPair(group, int(a), int(b)) for a, b in views]
    if not out:
        raise argument_error(str(path), "expected one group or more", "none", _HINT)
    return out


def read_view(path: str | os.PathLike[str], group: str, view: int) -> DemonView:
    """One view of a group.

    Raises:
        ValueError: a missing entry, an unknown format or depth metric, an undecodable image or
            depth, sizes that differ, or an invalid camera. The error names file, group and view.
    """
    name = f"{path}, {group}/frames/t0/v{view}"
    with open_hdf5(path, _HINT) as file:
        return _view(name, file.get(f"{group}/frames/t0/v{view}", {}))


def _view(name: str, node: Any) -> DemonView:
    missing = [key for key in _PARTS if key not in node]
    if missing:
        raise argument_error(name, f"expected {missing}", "none", _HINT)
    image, depth, camera = (np.asarray(node[key]) for key in _PARTS)
    about = {key: _attributes(f"{name}/{key}", node[key]) for key in _PARTS}
    for key, kind in (("image", "webp"), ("depth", "lz4half"), ("camera", "pinhole")):
        got = _text(about[key].get("format"))
        if got != kind:
            raise argument_error(f"{name}/{key}", f"expected the format {kind!r}", repr(got))
    encoded = image.astype(np.int8).tobytes()
    height, width = _image_size(f"{name}/image", encoded)
    values = _depth(f"{name}/depth", depth, about["depth"], (height, width))
    k, rotation, translation = _camera(f"{name}/camera", camera)
    if _text(about["depth"]["depth_metric"]) == "ray_length":
        v, u = np.mgrid[:height, :width].astype(float)
        rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(k).T
        values = values / np.linalg.norm(rays, axis=-1)
    known = np.where(np.isfinite(values) & (values > 0), values, np.nan)
    return DemonView(encoded, known.astype(np.float32), k, rotation, translation)


def _attributes(name: str, node: Any) -> dict[str, Any]:
    """The attributes of an array; raises ValueError for an unreadable one."""
    out = {}
    for key in node.attrs:
        try:
            out[key] = node.attrs[key]
            if np.size(out[key]) == 1:
                _text(out[key])
        except (UnicodeDecodeError, OSError, TypeError) as error:
            expected = f"expected a readable attribute {key!r}"
            raise argument_error(name, expected, type(error).__name__, _HINT) from error
    return out


def _text(value: Any) -> str:
    value = value.item() if isinstance(value, np.ndarray) else value
    return value.decode() if isinstance(value, bytes) else str(value)


def _image_size(name: str, encoded: bytes) -> tuple[int, int]:
    values, _ = read_stored(encoded, name, hint=_HINT)  # also checks that it decodes
    return values.shape[0], values.shape[1]


def _depth(name: str, stored: np.ndarray, about: Any, size: tuple[int, int]) -> np.ndarray:
    import lz4.block

    metric = _text(about.get("depth_metric"))
    if metric not in _METRICS:
        expected = f"expected the depth metric {' or '.join(map(repr, _METRICS))}"
        raise argument_error(name, expected, repr(metric), _HINT)
    extents = tuple(int(x) for x in np.ravel(about.get("extents", ())))
    if extents != size:
        raise argument_error(name, f"expected extents {size}, those of the image", extents)
    count = 2 * size[0] * size[1]
    try:
        raw = lz4.block.decompress(stored.astype(np.int8).tobytes(), uncompressed_size=count)
    except (lz4.block.LZ4BlockError, ValueError, OverflowError) as error:
        raise argument_error(name, "expected an LZ4 block", str(error), _HINT) from error
    if len(raw) != count:
        expected = f"expected {count} bytes, {size[0]} x {size[1]} float16"
        raise argument_error(name, expected, len(raw), _HINT)
    return np.frombuffer(raw, np.float16).reshape(size).astype(float)


def _camera(name: str, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if values.shape != (17,) or not np.isfinite(values).all():
        raise argument_error(name, "expected 17 finite numbers", values.shape, _HINT)
    fx, fy, skew, cx, cy = values[:5]
    k = np.array([[fx, skew, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]])
    check_intrinsics(name, k)
    rotation = values[5:14].reshape(3, 3).T
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-3 or np.linalg.det(rotation) < 0:
        raise argument_error(name, "expected a rotation of determinant 1", rotation.tolist())
    return k, rotation, values[14:]


def files_of(folder: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """The HDF5 files of a folder."""
    yield from sorted(pathlib.Path(folder).glob("*.h5"))
