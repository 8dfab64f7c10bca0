"""The TFDS builder of rendered heads."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_prep._prepare import ArrayRecordBuilder, prepare_builder, tensor
from jaxcv.core.checks import argument_error
from jaxcv.data.synthetic.head import NAMES, RANGES, head_batch

__all__ = ["HeadsConfig", "RenderedHeads", "prepare"]

SPLITS = ("train", "test")


@dataclasses.dataclass(kw_only=True, eq=False)
class HeadsConfig(tfds.core.BuilderConfig):
    """What is rendered.

    Attributes:
        train: batches in which azimuth, elevation, light and identity change, of the training.
        test: the same, of the test.
        batch: images of a batch.
        side: of the images [px].
        ranges: of azimuth, elevation and light [rad].
        seed: of the training batches; the test's is the next.
        beam: whether Apache Beam renders (`pip install jaxcv[beam]`), on all workers it has; the
            data are the same.
    """

    name: str = ""
    train: tuple[int, int, int, int] = (250, 250, 250, 250)
    test: tuple[int, int, int, int] = (10, 10, 10, 10)
    batch: int = 20
    side: int = 48
    ranges: tuple[float, float, float] = (RANGES["azimuth"], RANGES["elevation"], RANGES["light"])
    seed: int = 0
    beam: bool = False

    def __post_init__(self) -> None:
        """Names the config by a hash of what it renders."""
        if min(*self.train, *self.test) < 0 or not (sum(self.train) and sum(self.test)):
            way_out = "Each split needs a batch or more."
            raise argument_error("train", "expected counts of 0 or more", self.train, way_out)
        own = [self.train, self.test, self.batch, self.side, self.ranges, self.seed]
        self.name = hashlib.sha256(json.dumps(own).encode()).hexdigest()[:16]


class RenderedHeads(ArrayRecordBuilder):
    """Batches of `jaxcv.data.synthetic.head.generate_head_batches`, one an example."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012

    def _info(self) -> tfds.core.DatasetInfo:
        config: Any = self.builder_config
        features = {
            "images": tensor((config.batch, config.side, config.side), np.uint8),
            "kind": np.int32,  # which of NAMES changes
            "factors": tensor((config.batch, len(NAMES)), np.float64),  # angles [rad]
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,  # by number
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Any:
        config: Any = self.builder_config
        seed = config.seed + SPLITS.index(split)
        kinds = np.repeat(np.arange(len(NAMES)), getattr(config, split))
        kinds = np.random.default_rng(seed).permutation(kinds)
        jobs = [(n, int(kind)) for n, kind in enumerate(kinds)]
        ranges = dict(zip(RANGES, config.ranges, strict=True))
        render = _Render(seed, config.batch, config.side, ranges)
        if config.beam:
            beam = tfds.core.lazy_imports.apache_beam
            return beam.Create(jobs) | beam.Map(render)
        return self._rendered(render, jobs)

    def _rendered(
        self, render: "_Render", jobs: list[tuple[int, int]]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        yield from map(render, jobs)


@dataclasses.dataclass(frozen=True)
class _Render:
    """(number, kind) -> the example of one batch; can be sent to other processes."""

    seed: int
    batch: int
    side: int
    ranges: Mapping[str, float]

    def __call__(self, job: tuple[int, int]) -> tuple[int, dict[str, Any]]:
        number, kind = job
        images, factors = head_batch(
            self.seed, number, kind, batch=self.batch, side=self.side, ranges=self.ranges
        )
        return number, {"images": images, "kind": kind, "factors": factors}


def prepare(cache_dir: str | os.PathLike[str], config: HeadsConfig | None = None) -> RenderedHeads:
    """A builder whose data are rendered; nothing is rendered twice.

    Args:
        cache_dir: where to prepare.
        config: what to render; None: `HeadsConfig()`.
    """
    config = config or HeadsConfig()
    make = lambda data_dir: RenderedHeads(config=config, data_dir=data_dir)
    return prepare_builder(make, cache_dir, cache_dir, [])
