"""--export=colmap: the pairs as a database of COLMAP, and the frames of a video as pictures."""

import io
import logging
import pathlib
from typing import Any

import numpy as np

from experiments import runner
from experiments.relative_pose import pictures as reading
from experiments.relative_pose.pair_figure import INLIER
from experiments.runner.records import errors_as, write_bytes
from jaxcv.io.colmap_database import (
    DatabaseImage,
    DatabasePair,
    check_pinhole,
    check_pycolmap,
    write_colmap_database,
)
from jaxcv.io.pictures import open_picture

__all__ = ["DATABASE", "SURE", "check", "check_cameras", "write"]

DATABASE = "database.db"
FEWEST = 15  # matches that agree, of a verified pair, as in COLMAP
SURE = 0.5  # confidence of a verified pair
_ORIENTATION = 0x0112  # EXIF tag
_logger = logging.getLogger(__name__)


def check(source: reading.Source, names: set[str]) -> None:
    """Raises DataError if pycolmap is missing, or if COLMAP would see a picture otherwise.

    COLMAP does not apply the EXIF orientation.
    """
    try:
        check_pycolmap()
    except ImportError as error:
        raise runner.DataError(str(error)) from error
    if source.every:
        return
    turned = []
    for name in sorted(names):
        try:
            with open_picture(source.path / name) as image:
                if image.getexif().get(_ORIENTATION, 1) != 1:
                    turned.append(name)
        except ValueError:  # it will be left out
            continue
    if turned:
        expected = "expected pictures without an EXIF orientation, which COLMAP does not apply"
        got = f"{len(turned)} with one: {', '.join(turned[:5])}"
        hint = "Turn the files, e.g. by `mogrify -auto-orient`."
        raise runner.data_error("pictures", expected, got, hint)


def check_cameras(matched: reading.MatchedPictures) -> None:
    """Raises DataError for intrinsics that COLMAP's cameras cannot express."""
    with runner.data_errors():
        for name, own in matched.pictures.items():
            check_pinhole(f"intrinsics of {name}", own.intrinsics)


def write(
    folder: pathlib.Path,
    source: reading.Source,
    matched: reading.MatchedPictures,
    poses: list[Any],
    weights: list[np.ndarray],
) -> None:
    """Writes database.db, and the frames of a video to the folder images.

    All matches are written. A pair is verified, and has its pose there, with a confidence of `SURE`
    or more and `FEWEST` matches that agree or more: COLMAP's mapper uses verified pairs.
    """
    names = list(matched.pictures)
    number = {name: i for i, name in enumerate(names)}
    images = []
    for name in names:
        own = matched.pictures[name]
        scale = np.divide(own.shape[::-1], own.reduced[::-1])
        points = (own.points + 0.5) * scale - 0.5
        images.append(DatabaseImage(name, own.shape, own.intrinsics, points, own.guessed))
    pairs = []
    for i, (first, second) in enumerate(matched.pairs):
        pair = DatabasePair(number[first], number[second], matched.rows[i])
        agrees = weights[i] >= INLIER
        if poses[i].confidence >= SURE and agrees.sum() >= FEWEST:
            pair = pair._replace(
                agrees=agrees, rotation=poses[i].rotation, direction=poses[i].direction
            )
        pairs.append(pair)
    if source.every:
        _write_frames(folder / "images", source, set(names))
    with errors_as(runner.DataError):
        write_colmap_database(folder / DATABASE, images, pairs)
    verified = sum(pair.rotation is not None for pair in pairs)
    _logger.info("%s: %d of %d pairs are verified", folder / DATABASE, verified, len(pairs))


def _write_frames(folder: pathlib.Path, source: reading.Source, names: set[str]) -> None:
    from PIL import Image

    folder.mkdir(exist_ok=True)
    for name, image in reading.images_of(source, names):
        if not isinstance(image, ValueError):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "png")
            write_bytes(folder / name, buffer.getvalue())
