"""The TFDS builder of face renderings, in the folder layout of Kulkarni et al.'s code.

::

    AZ_VARIED/face_<n>/*.png         one batch per folder: one factor changes
    EL_VARIED/face_<n>/*.png
    LIGHT_AZ_VARIED/face_<n>/*.png
    SHAPE_VARIED/face_<n>/*.png
    <any of these>/factors.csv       file,azimuth,elevation,light,identity; one line per image [rad]

Images are square, in grey or colour; each folder holds at least `batch` of them. The folders of the
test need factors.csv, for the scores. In folders of the training it is optional: there a batch
tells only that one factor changes, and its factors are nan without the file.

Source: Kulkarni et al., NIPS 2015, and its released code, which has no factors.csv.
"""

import csv
import dataclasses
import math
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_prep._factors import ALL, FACTORS, SPLITS, FactorBuilder, read_grey
from data_prep._prepare import config_name, prepare_builder
from jaxcv.checks import argument_error
from jaxcv.io.files import check_file

__all__ = ["BaselFaces", "FacesConfig", "prepare"]

FOLDERS = ("AZ_VARIED", "EL_VARIED", "LIGHT_AZ_VARIED", "SHAPE_VARIED")
COLUMNS = ("azimuth", "elevation", "light", "identity")
_TABLE = "factors.csv"
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
_HINT = "data_prep/README.md describes the layout."


@dataclasses.dataclass(kw_only=True, eq=False)
class FacesConfig(tfds.core.BuilderConfig):
    """Settings of the batches.

    Attributes:
        batch: images per batch; the first ones of each folder, by name.
        side: side of the images [px].
        test_share: fraction of the batches of each kind for the test; the last ones.
    """

    name: str = ""
    batch: int = 20
    side: int = 150
    test_share: float = 0.1
    num_factors = len(COLUMNS)

    def __post_init__(self) -> None:
        """Checks the values, and names the config by a hash of them."""
        if self.batch < 2:
            raise argument_error("batch", "expected two images or more", self.batch)
        if not 0 < self.test_share < 1:
            raise argument_error("test_share", "expected more than 0, less than 1", self.test_share)
        self.name = config_name([self.batch, self.side, self.test_share])


class BaselFaces(FactorBuilder):
    """One batch per folder. The split `factors` shuffles the test images into new batches."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = "Put your renderings into manual_dir; see data_prep/README.md."

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        config: Any = self.builder_config
        found = found_batches(pathlib.Path(dl_manager.manual_dir))
        parts: dict[str, list[tuple[int, pathlib.Path]]] = {split: [] for split in SPLITS}
        for kind, folders in enumerate(found):
            cut = len(folders) - max(1, math.ceil(config.test_share * len(folders)))
            if cut < 1:
                expected = f"expected two folders or more in {FOLDERS[kind]}, for training and test"
                raise argument_error(str(dl_manager.manual_dir), expected, len(folders), _HINT)
            for split, rows in (("train", folders[:cut]), ("test", folders[cut:])):
                parts[split] += [(kind, folder) for folder in rows]
        out = {
            split: self._generate_examples(rows, labelled=split == "test")
            for split, rows in parts.items()
        }
        return out | {FACTORS: self._mixed(parts["test"])}

    def _generate_examples(
        self, rows: list[tuple[int, pathlib.Path]], *, labelled: bool
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for n, (kind, folder) in enumerate(rows):
            images, factors = self._read(folder, labelled=labelled)
            yield n, {"images": images, "kind": kind, "factors": factors}

    def _mixed(self, rows: list[tuple[int, pathlib.Path]]) -> Iterator[tuple[int, dict[str, Any]]]:
        """The test images in random order, so that all factors vary within a batch."""
        parts = [self._read(folder, labelled=True) for _, folder in rows]
        images, factors = (np.concatenate(leaves) for leaves in zip(*parts, strict=True))
        order = np.random.default_rng(0).permutation(len(images)).reshape(len(rows), -1)
        for n, own in enumerate(order):
            yield n, {"images": images[own], "kind": ALL, "factors": factors[own]}

    def _read(self, folder: pathlib.Path, *, labelled: bool) -> tuple[np.ndarray, np.ndarray]:
        """Images and factors of a folder; without a table, nan if it need not be `labelled`."""
        config: Any = self.builder_config
        path = folder / _TABLE
        if labelled or path.exists():
            table = read_factors(path)
            names, where = sorted(table), str(path)
        else:
            table, where = {}, str(folder)
            names = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in _PICTURES)
        if len(names) < config.batch:
            expected = f"expected {config.batch} images or more"
            raise argument_error(where, expected, len(names), _HINT)
        names = names[: config.batch]
        images = np.array([read_grey(folder / name, config.side) for name in names])
        nothing = [np.nan] * len(COLUMNS)
        return images, np.array([table.get(name, nothing) for name in names])


def found_batches(folder: pathlib.Path) -> list[list[pathlib.Path]]:
    """The folders face_<n> of each of FOLDERS, sorted by n.

    Raises:
        ValueError: one of FOLDERS has none.
    """
    number = lambda path: int(re.sub(r"\D", "", path.name) or 0)
    out = [sorted(folder.glob(f"{name}/face_*"), key=number) for name in FOLDERS]
    missing = [name for name, found in zip(FOLDERS, out, strict=True) if not found]
    if missing:
        expected = f"expected folders face_<n> in {', '.join(missing)}"
        got = sorted(p.name for p in folder.glob("*"))[:8] if folder.is_dir() else "no folder"
        raise argument_error(str(folder), expected, got, _HINT)
    return out


def read_factors(path: pathlib.Path) -> dict[str, list[float]]:
    """File name -> azimuth, elevation, light [rad], identity.

    Raises:
        ValueError: the file or a column is missing, or a value is not finite.
    """
    try:
        check_file(path)
        with path.open(newline="") as file:
            lines = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        expected = "expected a table with the factors of each image"
        raise argument_error(str(path), expected, str(error), _HINT) from error
    out = {}
    for number, line in enumerate(lines, 2):
        try:
            values = [float(line[name]) for name in COLUMNS]
            if not np.isfinite(values).all():
                raise ValueError("a value that is not finite")
            out[line["file"]] = values
        except (KeyError, TypeError, ValueError) as error:
            expected = f"expected file,{','.join(COLUMNS)}"
            raise argument_error(f"{path}:{number}", expected, repr(error), _HINT) from error
    return out


def prepare(
    manual_dir: str | os.PathLike[str],
    cache_dir: str | os.PathLike[str],
    config: FacesConfig | None = None,
) -> BaselFaces:
    """A builder prepared from the current files in `manual_dir`.

    Args:
        manual_dir: the folder with AZ_VARIED and the others.
        cache_dir: the folder to prepare in.
        config: settings; None: `FacesConfig()`.

    Raises:
        ValueError: a folder or file is missing or malformed; no complete data set is written.
    """
    root, config = pathlib.Path(manual_dir), config or FacesConfig()
    files = [
        path
        for folders in found_batches(root)
        for folder in folders
        for path in sorted(folder.iterdir())
    ]
    make = lambda data_dir: BaselFaces(config=config, data_dir=data_dir)
    return prepare_builder(make, manual_dir, cache_dir, files)
