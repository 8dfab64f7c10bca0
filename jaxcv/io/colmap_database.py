"""Writes a database of COLMAP, with which its mapper goes on: `colmap mapper`.

    rigs, frames          one of each camera and of each image, as COLMAP makes them
    cameras               PINHOLE: fx, fy, cx, cy; images with equal intrinsics and size share one
    images                names relative to the folder of the images
    keypoints             x, y of the features
    matches               indices of matched keypoints of both images
    two_view_geometries   of verified pairs: the matches that agree, E, F and cam2_from_cam1

A position (u, v) with pixel centres at whole numbers is (u + 1/2, v + 1/2) in COLMAP. The relative
pose is the same in both, x2 = R x1 + t. No descriptors are written: COLMAP does not match again.
The file is written by pycolmap (`pip install pycolmap`), under another name, and renamed.
"""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcv.checks import argument_error
from jaxcv.geometry.camera import check_intrinsics, check_rotations

__all__ = [
    "DatabaseImage", "DatabasePair", "check_pinhole", "check_pycolmap", "write_colmap_database",
]  # fmt: skip

_PACKAGE = "pycolmap"
_PIXEL_CENTRE = 0.5


class DatabaseImage(NamedTuple):
    """An image and its features.

    Attributes:
        name: relative to the folder of the images.
        shape: (H, W) [px].
        intrinsics: (3, 3) [px], pixel centres at whole numbers.
        points: (N, 2) u, v [px] of its features.
        guessed: whether the focal lengths are a guess, which COLMAP may replace.
    """

    name: str
    shape: tuple[int, int]
    intrinsics: Any
    points: Any
    guessed: bool = False


class DatabasePair(NamedTuple):
    """A pair of images.

    Attributes:
        first: index of the first image.
        second: index of the second image.
        rows: (M, 2) indices of the matched features of both.
        agrees: (M,) bool, the matches that agree with the pose; None: the pair is not verified.
        rotation: (3, 3) R of x2 = R x1 + t; None: the pair is not verified.
        direction: (3,) unit t.
    """

    first: int
    second: int
    rows: Any
    agrees: Any = None
    rotation: Any = None
    direction: Any = None


def check_pycolmap() -> Any:
    """The module pycolmap; raises ImportError, with the command that installs it."""
    try:
        import pycolmap  # pyright: ignore[reportMissingImports], an extra
    except ImportError as error:
        raise ImportError(
            f"a database of COLMAP needs {_PACKAGE}: pip install {_PACKAGE}"
        ) from error
    return pycolmap


def check_pinhole(name: str, intrinsics: Any) -> np.ndarray:
    """K (3, 3) as an array; raises ValueError unless COLMAP's PINHOLE model can express it."""
    k = check_intrinsics(name, np.asarray(intrinsics, float)).reshape(3, 3)
    if k[0, 1] != 0 or not min(k[0, 0], k[1, 1]) > 0:
        expected = "expected focal lengths above 0 and no skew, as COLMAP's cameras have"
        raise argument_error(name, expected, k.tolist(), "Turn y to point down: negate row 2 of K.")
    return k


def write_colmap_database(
    path: str | os.PathLike[str], images: Sequence[DatabaseImage], pairs: Sequence[DatabasePair]
) -> None:
    """Writes a new database; one that is there is replaced when the new one is complete.

    Args:
        path: of the file, e.g. `database.db`.
        images: with names that differ.
        pairs: of different images, each pair in one order.

    Raises:
        ValueError: a wrong argument, or a file that cannot be written.
        ImportError: pycolmap is missing.
    """
    _check(images, pairs)
    pycolmap = check_pycolmap()
    path = pathlib.Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with _removed(partial):
            with (
                pycolmap.Database.open(str(partial)) as database,
                pycolmap.DatabaseTransaction(database),
            ):
                cameras = _write_images(pycolmap, database, images)
                for pair in pairs:
                    _write_pair(pycolmap, database, cameras, images, pair)
            os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # RuntimeError: of SQLite
        got = (getattr(error, "strerror", None) or str(error)).splitlines()[0]
        hint = "Make room or give rights, then write it again."
        raise argument_error(str(path), "expected to write it", got, hint) from error


@contextlib.contextmanager
def _removed(partial: pathlib.Path) -> Iterator[None]:
    """Removes what a killed process left, and what is left of a database that failed."""
    files = [partial.with_name(partial.name + end) for end in ("", "-wal", "-shm", "-journal")]
    for file in files:
        file.unlink(missing_ok=True)
    try:
        yield
    finally:
        for file in files:
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)


def _check(images: Sequence[DatabaseImage], pairs: Sequence[DatabasePair]) -> None:
    names = [image.name for image in images]
    if not images or len(set(names)) < len(names) or not all(names):
        expected = "expected images, with names that differ"
        raise argument_error("images", expected, names[:20] or "none")
    for image in images:
        check_pinhole(f"intrinsics of {image.name}", image.intrinsics)
        points = np.asarray(image.points)
        if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
            expected = "expected finite positions (N, 2)"
            raise argument_error(f"points of {image.name}", expected, points.shape)
    seen: set[frozenset[int]] = set()
    for i, pair in enumerate(pairs):
        name, both = f"pairs[{i}]", frozenset((pair.first, pair.second))
        if len(both) < 2 or not all(0 <= k < len(images) for k in both) or both in seen:
            expected = "expected two different images, each pair once"
            raise argument_error(name, expected, (pair.first, pair.second))
        seen.add(both)
        rows = np.asarray(pair.rows)
        sizes = [len(images[k].points) for k in (pair.first, pair.second)]
        if rows.ndim != 2 or rows.shape[1] != 2 or (rows < 0).any() or (rows >= sizes).any():
            expected = f"expected indices (M, 2) of {sizes[0]} and {sizes[1]} features"
            raise argument_error(f"{name}.rows", expected, rows.shape)
        if pair.rotation is not None:
            check_rotations(f"{name}.rotation", pair.rotation)
            if np.shape(pair.agrees) != (len(rows),):
                expected = f"expected ({len(rows)},), as many as rows"
                raise argument_error(f"{name}.agrees", expected, np.shape(pair.agrees))


def _write_images(pycolmap: Any, database: Any, images: Sequence[DatabaseImage]) -> list[Any]:
    """Writes images 1, 2, ... with their cameras; returns the camera of each."""
    cameras: dict[Any, Any] = {}
    out = []
    for i, image in enumerate(images, 1):
        k = np.asarray(image.intrinsics, float)
        height, width = image.shape
        params = [k[0, 0], k[1, 1], k[0, 2] + _PIXEL_CENTRE, k[1, 2] + _PIXEL_CENTRE]
        key = (*params, width, height, image.guessed)
        if key not in cameras:
            camera = pycolmap.Camera(
                camera_id=len(cameras) + 1, model="PINHOLE", width=width, height=height,
                params=params, has_prior_focal_length=not image.guessed,
            )  # fmt: skip
            database.write_camera(camera, use_camera_id=True)
            rig = pycolmap.Rig(rig_id=camera.camera_id)
            rig.add_ref_sensor(camera.sensor_id)
            database.write_rig(rig, use_rig_id=True)
            cameras[key] = camera
        camera = cameras[key]
        own = pycolmap.Image(image_id=i, name=image.name, camera_id=camera.camera_id)
        database.write_image(own, use_image_id=True)
        frame = pycolmap.Frame(frame_id=i, rig_id=camera.camera_id)
        frame.add_data_id(own.data_id)
        database.write_frame(frame, use_frame_id=True)
        points = np.asarray(image.points, np.float32).reshape(-1, 2) + _PIXEL_CENTRE
        database.write_keypoints(i, points.astype(np.float32))
        out.append(camera)
    return out


def _write_pair(
    pycolmap: Any, database: Any, cameras: list[Any], images: Sequence[DatabaseImage],
    pair: DatabasePair,
) -> None:  # fmt: skip
    ids = pair.first + 1, pair.second + 1
    rows = np.asarray(pair.rows).astype(np.uint32).reshape(-1, 2)
    database.write_matches(*ids, rows)
    if pair.rotation is None:
        return
    geometry = pycolmap.TwoViewGeometry()
    known = not (images[pair.first].guessed or images[pair.second].guessed)
    kinds = pycolmap.TwoViewGeometryConfiguration
    geometry.config = kinds.CALIBRATED if known else kinds.UNCALIBRATED
    rotation, direction = np.asarray(pair.rotation, float), np.asarray(pair.direction, float)
    essential = np.cross(direction, rotation, axisb=0, axisc=0)  # t x each column
    first, second = (
        np.linalg.inv(cameras[k].calibration_matrix()) for k in (pair.first, pair.second)
    )
    geometry.E = essential
    geometry.F = second.T @ essential @ first
    geometry.cam2_from_cam1 = pycolmap.Rigid3d(pycolmap.Rotation3d(rotation), direction)
    geometry.inlier_matches = rows[np.asarray(pair.agrees, bool)]
    database.write_two_view_geometry(*ids, geometry)
