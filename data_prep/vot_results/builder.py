"""The TFDS builder of tracker results."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_prep._prepare import ArrayRecordBuilder, prepare_builder, tensor
from data_prep.vot_results.parser import Layout, PolygonMethod, find_layout, read_sequence
from jaxcv.checks import check_choice

__all__ = ["VotResults", "prepare"]


class VotResults(ArrayRecordBuilder):
    """Boxes of many trackers on many sequences, one run each, without re-initialisation.

    One example per sequence, sorted by name, in the single split `test` (the benchmark has no
    training set). The configurations differ in how a polygon becomes an
    axis-aligned box: `extent` holds all its points, `area` has the area of the rotated rectangle.
    """

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES = {  # noqa: RUF012
        "1.0.0": "First release.",
        "1.1.0": "Supervised results and rows of tables are refused; 1.0.0 may hold them.",
    }
    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name="extent", description="Polygons become their extent."),
        tfds.core.BuilderConfig(name="area", description="Polygons become boxes of equal area."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Put sequences/ and results/ of a VOT toolkit workspace into manual_dir; "
        "see data_prep/README.md."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        f = tfds.features
        features = {
            "name": f.Text(),
            "trackers": f.Sequence(f.Text()),  # (K,) sorted
            # Encoded as bytes, because lists of numbers in an example keep float32 only.
            # (T, 4) corners x1, y1, x2, y2 [px]; zero in frames without the object.
            "ground_truth": tensor((None, 4), np.float64),
            # (T, K, 4) corners x1, y1, x2, y2 [px]; zero where not reported.
            "boxes": tensor((None, None, 4), np.float64),
            "reported": tensor((None, None), np.bool_),  # (T, K)
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=f.FeaturesDict(features),
            homepage="https://www.votchallenge.net",
            disable_shuffling=True,  # sorted by name
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"test": self._generate_examples(find_layout(dl_manager.manual_dir))}

    def _generate_examples(self, layout: Layout) -> Iterator[tuple[int, dict[str, Any]]]:
        method = self.builder_config.name if self.builder_config else "extent"
        for i, name in enumerate(layout.sequences):  # sorted: the same order on every disk
            arrays = read_sequence(layout, name, method)  # pyright: ignore[reportArgumentType]
            yield i, {"name": name, "trackers": list(layout.trackers), **arrays}


def prepare(
    manual_dir: str | os.PathLike[str],
    cache_dir: str | os.PathLike[str],
    *,
    polygon: PolygonMethod = "extent",
) -> VotResults:
    """A builder prepared from the current files in `manual_dir`.

    The prepared data lie in `cache_dir/<fingerprint>/`, where the fingerprint is a hash of the
    names and contents of all files that are read; they are reused only for the same contents.
    They are renamed into place when complete, so an interrupted preparation is repeated.

    Args:
        manual_dir: a folder in the layout of the VOT toolkit.
        cache_dir: the folder to prepare in; created if missing.
        polygon: how a polygon becomes a box, `extent` or `area`.

    Returns:
        A prepared builder, for `jaxcv.data.pipelines.load_tracker_sequences`.

    Raises:
        ValueError: a file is missing or malformed; no complete data set is written.
    """
    check_choice("polygon", polygon, ("extent", "area"))
    make = lambda data_dir: VotResults(config=polygon, data_dir=data_dir)
    return prepare_builder(make, manual_dir, cache_dir, find_layout(manual_dir).files())
