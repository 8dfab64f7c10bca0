"""The TFDS builder of the public chair images, in batches of azimuths and of chairs.

::

    <model>/renders/image_<number>_p<elevation>_t<azimuth>_r096.png

62 views per model: 31 azimuths at each of the elevations 20 and 30 degrees, on white.
Renderings with 30 azimuths (60 views, as Kulkarni et al. count them) are read as well; all models
have the same number.

Source: Aubry et al., Seeing 3D chairs, CVPR 2014.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_prep._factors import ALL, FACTORS, SPLITS, FactorBuilder, check_counts, read_grey
from data_prep._prepare import config_name, prepare_builder
from jaxcv.checks import argument_error

__all__ = ["ChairsConfig", "PublicChairs", "prepare"]

AZIMUTHS, ELEVATIONS = (30, 31), 2  # numbers of azimuths that are accepted; of elevations
_NAME = re.compile(r"image_\d+_p(\d+)_t(\d+)_r\d+\.png")
_IDENTITY = 2  # its index among azimuth, elevation and identity
_HINT = "Unpack rendered_chairs.tar again; data_prep/README.md describes the layout."


@dataclasses.dataclass(kw_only=True, eq=False)
class ChairsConfig(tfds.core.BuilderConfig):
    """Settings of the batches.

    Attributes:
        train: numbers of batches that vary the azimuth, and that vary the chair and its elevation.
        test: the same for the test, whose models are not in the training.
        test_share: fraction of the models in the test.
        batch: images per batch, 2 to the number of azimuths.
        side: side of the images [px].
        factor_batches: number of batches of test images in which all factors vary.
        identities: largest number of models in these batches.
        seed: seed of the split and the batches.
    """

    name: str = ""
    train: tuple[int, int] = (250, 250)
    test: tuple[int, int] = (10, 10)
    test_share: float = 0.111
    batch: int = 20
    side: int = 48
    factor_batches: int = 75
    identities: int = 20
    seed: int = 0
    num_factors = 3

    def __post_init__(self) -> None:
        """Checks the counts, and names the config by a hash of its settings."""
        for split in SPLITS:
            check_counts(split, getattr(self, split), 2)
        if not 2 <= self.batch <= max(AZIMUTHS):
            raise argument_error("batch", f"expected 2 to {max(AZIMUTHS)} images", self.batch)
        own = [self.train, self.test, self.test_share, self.batch, self.side, self.factor_batches]
        self.name = config_name([*own, self.identities, self.seed])


class PublicChairs(FactorBuilder):
    """Batches of azimuths of one chair, or of chairs at one azimuth; split by model."""

    HOMEPAGE = "https://www.di.ens.fr/willow/research/seeing3Dchairs/"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Unpack rendered_chairs.tar into manual_dir; see data_prep/README.md."
    )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        config: Any = self.builder_config
        models = found_models(pathlib.Path(dl_manager.manual_dir))
        azimuths = len(views_of(models[0])[0])
        if config.batch > azimuths:
            expected = f"expected 2 to {azimuths} images, one per azimuth of a model"
            raise argument_error("batch", expected, config.batch)
        order = np.random.default_rng(config.seed).permutation(len(models))
        count = max(1, round(config.test_share * len(models)))
        parts = {"test": order[:count], "train": order[count:]}
        for split, rows in parts.items():
            if len(rows) < config.batch and getattr(config, split)[1]:
                expected = f"expected {config.batch} models or more for the {split}, one per image"
                raise argument_error(str(dl_manager.manual_dir), expected, len(rows), _HINT)
        out = {
            split: self._generate_examples(models, parts[split], k, getattr(config, split))
            for k, split in enumerate(SPLITS)
        }
        return out | {FACTORS: self._images(models, parts["test"])}

    def _generate_examples(
        self, models: list[pathlib.Path], rows: np.ndarray, number: int, counts: tuple[int, int]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        config: Any = self.builder_config
        rng, azimuths = np.random.default_rng([config.seed, number]), len(views_of(models[0])[0])
        kinds = rng.permutation(np.repeat([0, _IDENTITY], counts))
        for n, kind in enumerate(kinds):
            if kind == 0:
                who = np.repeat(rng.choice(rows), config.batch)
                low = np.repeat(rng.integers(ELEVATIONS), config.batch)
                at = rng.choice(azimuths, config.batch, replace=False)
            else:
                who = rng.choice(rows, config.batch, replace=False)
                low = rng.integers(ELEVATIONS, size=config.batch)
                at = np.repeat(rng.integers(azimuths), config.batch)
            yield n, self._example(models, who, low, at, int(kind))

    def _images(
        self, models: list[pathlib.Path], rows: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        config: Any = self.builder_config
        rng = np.random.default_rng([config.seed, len(SPLITS)])
        azimuths = len(views_of(models[0])[0])
        for n in range(config.factor_batches):
            who = rng.choice(rows[: config.identities], config.batch)
            low = rng.integers(ELEVATIONS, size=config.batch)
            at = rng.integers(azimuths, size=config.batch)
            yield n, self._example(models, who, low, at, ALL)

    def _example(self, models, who, low, at, kind: int) -> dict[str, Any]:
        config: Any = self.builder_config
        views = {k: views_of(models[k]) for k in np.unique(who)}
        seen = [views[k][e][a] for k, e, a in zip(who, low, at, strict=True)]
        factors = [
            [azimuth, elevation, k] for (_, elevation, azimuth), k in zip(seen, who, strict=True)
        ]
        return {
            "images": np.array([read_grey(path, config.side) for path, _, _ in seen]),
            "kind": kind,
            "factors": np.array(factors, float),
        }


def found_models(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folders of the models, sorted by name.

    Raises:
        ValueError: there are no models, one lacks some of its views, or one has another number of
            azimuths than the first.
    """
    models = sorted(path.parent for path in folder.glob("*/renders"))
    if not models:
        got = sorted(p.name for p in folder.glob("*"))[:8] if folder.is_dir() else "no folder"
        raise argument_error(str(folder), "expected folders <model>/renders", got, _HINT)
    counts = [len(views_of(model)[0]) for model in models]
    for model, count in zip(models, counts, strict=True):
        if count != counts[0]:
            expected = f"expected {counts[0]} azimuths, as many as the first model has"
            raise argument_error(str(model / "renders"), expected, count, _HINT)
    return models


def views_of(model: pathlib.Path) -> list[list[tuple[pathlib.Path, float, float]]]:
    """Path, elevation and azimuth [rad] of the views (2, 30 or 31), sorted by both angles.

    Raises:
        ValueError: views are missing.
    """
    views: dict[int, list[tuple[int, pathlib.Path]]] = {}
    for path in (model / "renders").iterdir():
        match = _NAME.fullmatch(path.name)
        if match:
            views.setdefault(int(match[1]), []).append((int(match[2]), path))
    got = {f"{elevation} degrees": len(each) for elevation, each in sorted(views.items())}
    if sorted(got.values()) not in [[count] * ELEVATIONS for count in AZIMUTHS]:
        expected = (
            f"expected {AZIMUTHS[0]} or {AZIMUTHS[1]} views at each of {ELEVATIONS} elevations"
        )
        raise argument_error(str(model / "renders"), expected, got or "none", _HINT)
    return [
        [(path, np.deg2rad(elevation), np.deg2rad(t)) for t, path in sorted(views[elevation])]
        for elevation in sorted(views)
    ]


def prepare(
    manual_dir: str | os.PathLike[str],
    cache_dir: str | os.PathLike[str],
    config: ChairsConfig | None = None,
) -> PublicChairs:
    """A builder prepared from the current files in `manual_dir`.

    Args:
        manual_dir: the folder with the models (rendered_chairs).
        cache_dir: the folder to prepare in.
        config: settings; None: `ChairsConfig()`.

    Raises:
        ValueError: a view is missing or cannot be read; no complete data set is written.
    """
    folder, config = pathlib.Path(manual_dir), config or ChairsConfig()
    files = [path for model in found_models(folder) for row in views_of(model) for path, *_ in row]
    make = lambda data_dir: PublicChairs(config=config, data_dir=data_dir)
    return prepare_builder(make, manual_dir, cache_dir, files)
