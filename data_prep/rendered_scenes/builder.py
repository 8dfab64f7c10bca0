"""The TFDS builder of rendered scenes."""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from data_prep._factors import ALL, FACTORS, SPLITS, FactorBuilder, check_counts
from data_prep._prepare import config_name, prepare_generated
from jaxcv.checks import argument_error
from jaxcv.data.synthetic.head import Heads
from jaxcv.data.synthetic.scenes import Scenes, drawn_kinds

__all__ = ["RenderedScenes", "ScenesConfig", "prepare"]

_SOURCES = ("scenes.py", "rasterise.py", "head.py", "chair.py")  # files that the images depend on


@dataclasses.dataclass(kw_only=True, eq=False)
class ScenesConfig(tfds.core.BuilderConfig):
    """Settings of the rendered batches.

    Attributes:
        scenes: `jaxcv.data.synthetic.head.Heads` or `chair.Chairs`.
        train: number of batches for each factor with batches of its own, in the order of
            `scenes.names`, then for the identity.
        test: the same for the test, with other heads or chairs.
        batch: images per batch.
        factor_batches: number of batches in which all factors vary, of a third set of scenes.
        identities: number of heads or chairs in that set.
        seed: seed of the training; the test and the factors use the next two.
        beam: render with Apache Beam on all its workers (`pip install jaxcv[beam]`); the data
            are the same.
        test_scenes: of the test and of the batches in which all factors vary, with the same side
            and factors, e.g. heads with wider ranges; None: `scenes`.
    """

    name: str = ""
    scenes: Scenes = Heads()  # noqa: RUF009, an immutable value
    train: tuple[int, ...] = (250, 250, 250, 250)
    test: tuple[int, ...] = (10, 10, 10, 10)
    batch: int = 20
    factor_batches: int = 75
    identities: int = 20
    seed: int = 0
    beam: bool = False
    test_scenes: Scenes | None = None

    def __post_init__(self) -> None:
        """Checks the counts, and names the config by a hash of its settings."""
        for split in SPLITS:
            check_counts(split, getattr(self, split), self.scenes.entries + 1)
        if self.factor_batches < 1:
            raise argument_error("factor_batches", "expected 1 or more", self.factor_batches)
        other = self.scenes_of("test")
        if (other.side, other.names) != (self.scenes.side, self.scenes.names):
            expected = f"expected images of {self.scenes.side} pixels with {self.scenes.names}"
            raise argument_error("test_scenes", expected, (other.side, other.names))
        own = [self.scenes, self.train, self.test, self.batch, self.factor_batches]
        self.name = config_name([*own, self.identities, self.seed, self.test_scenes])

    def scenes_of(self, split: str) -> Scenes:
        """The scenes of `train`, `test` or `factors`."""
        return self.scenes if split == "train" or self.test_scenes is None else self.test_scenes

    @property
    def side(self) -> int:
        """Side of the images [px]."""
        return self.scenes.side

    @property
    def num_factors(self) -> int:
        """Number of factors of an image."""
        return len(self.scenes.names)


class RenderedScenes(FactorBuilder):
    """Batches of `jaxcv.data.synthetic.scenes`, one per example."""

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        batches = {split: self._generate_examples(split) for split in SPLITS}
        return batches | {FACTORS: self._factor_examples()}

    def _generate_examples(self, split: str) -> Any:
        config: Any = self.builder_config
        seed, scenes = config.seed + SPLITS.index(split), config.scenes_of(split)
        names = (*scenes.names[: scenes.entries], scenes.names[-1])
        counts = dict(zip(names, getattr(config, split), strict=True))
        jobs = [(n, int(kind)) for n, kind in enumerate(drawn_kinds(scenes, seed, counts))]
        render = _Render(scenes, seed, config.batch)
        if config.beam:
            beam = tfds.core.lazy_imports.apache_beam
            return beam.Create(jobs) | beam.Map(render)
        return map(render, jobs)

    def _factor_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        config: Any = self.builder_config
        count = config.factor_batches * config.batch
        made = config.scenes_of(FACTORS).images(config.seed + len(SPLITS), count, config.identities)
        for number in range(config.factor_batches):
            rows = slice(number * config.batch, (number + 1) * config.batch)
            yield number, {
                "images": made.images[rows], "kind": ALL, "factors": made.factors[rows]
            }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Render:
    """(number, kind) -> the example of one batch; picklable, for other processes."""

    scenes: Scenes
    seed: int
    batch: int

    def __call__(self, job: tuple[int, int]) -> tuple[int, dict[str, Any]]:
        number, kind = job
        images, factors = self.scenes.batch(self.seed, number, kind, self.batch)
        return number, {"images": images, "kind": kind, "factors": factors}


def prepare(
    cache_dir: str | os.PathLike[str], config: ScenesConfig | None = None
) -> RenderedScenes:
    """A builder of rendered batches; the cache is keyed by the rendering code.

    Args:
        cache_dir: the folder to prepare in.
        config: settings; None: `ScenesConfig()`.
    """
    config = config or ScenesConfig()
    make = lambda data_dir: RenderedScenes(config=config, data_dir=data_dir)
    return prepare_generated(make, cache_dir, _SOURCES)
