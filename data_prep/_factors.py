"""Shared parts of the data sets whose batches vary one factor."""

import pathlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_prep._prepare import ArrayRecordBuilder, tensor
from jaxcv.checks import argument_error
from jaxcv.io.pictures import read_rgb

__all__ = ["ALL", "FACTORS", "SPLITS", "FactorBuilder", "check_counts", "read_grey"]

SPLITS = ("train", "test")
FACTORS = "factors"  # the split in which all factors vary
ALL = -1  # the `kind` of its batches
_GREY = np.array([0.21, 0.72, 0.07])  # luminance weights of red, green and blue
_HINT = "Fetch or render the file again; data_prep/README.md describes the layout."


class FactorBuilder(ArrayRecordBuilder):
    """A builder whose examples are batches; its config has `batch`, `side` and `num_factors`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012
    HOMEPAGE = ""

    def _info(self) -> tfds.core.DatasetInfo:
        config: Any = self.builder_config
        features = {
            "images": tensor((config.batch, config.side, config.side), np.uint8),
            "kind": np.int32,  # which factor changes; -1: all
            "factors": tensor((config.batch, config.num_factors), np.float64),  # angles [rad]
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            homepage=self.HOMEPAGE or None,
            disable_shuffling=True,  # sorted by number
        )


def check_counts(name: str, counts: tuple[int, ...], kinds: int) -> None:
    """Raises ValueError unless `counts` has `kinds` numbers of 0 or more, not all 0."""
    if len(counts) != kinds or min(counts) < 0 or not sum(counts):
        expected = f"expected {kinds} counts of 0 or more, not all 0"
        raise argument_error(name, expected, counts)


def read_grey(path: pathlib.Path, side: int) -> np.ndarray:
    """Reads a square image as grey (S, S) uint8: on white, resized by area averaging.

    Raises:
        ValueError: the file is no readable image, or the image is not square.
    """
    from PIL import Image

    pixels = read_rgb(path, background="white", hint=_HINT).astype(float) @ _GREY
    if pixels.shape[0] != pixels.shape[1]:
        raise argument_error(str(path), "expected a square image", pixels.shape[::-1], _HINT)
    small = Image.fromarray(pixels.astype(np.float32)).resize((side, side), Image.Resampling.BOX)
    return np.clip(np.round(np.asarray(small)), 0, 255).astype(np.uint8)
