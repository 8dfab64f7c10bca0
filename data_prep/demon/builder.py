"""The TFDS builder of DeMoN's two-view data sets."""

import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_prep._prepare import ArrayRecordBuilder, prepare_builder, tensor
from data_prep.demon.parser import files_of, list_pairs, read_view
from jaxcv.checks import argument_error

__all__ = ["SETS", "Demon", "prepare"]

SETS = ("sun3d", "rgbd", "mvs", "scenes11", "nyu2")
_TRAINING = {
    "sun3d": re.compile(r"sun3d_train_.+"),
    "rgbd": re.compile(r"rgbd_.+_train"),
    "mvs": re.compile(r"mvs_(achteck_turm|breisach|citywall)"),
    "scenes11": re.compile(r"scenes11_train"),
    "nyu2": re.compile(r"(?!)"),
}
_LEAKING = re.compile(r"rgbd_(?!bugfix).+_(handheld|3d)_train")
_SHORTEST = 1e-6  # baseline; like the benchmark, pairs without motion are left out


class Demon(ArrayRecordBuilder):
    """Pairs of views with depth and motion; one configuration per set of DeMoN.

    Splits: `train` (training files under their official names) and `test` (`<set>_test.h5`).
    Uncorrected training files of rgbd, which contain test images, are refused.

    On nyu2 only the scale-invariant error is meaningful, because its motions are estimates.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in SETS]  # noqa: RUF012
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Put the .h5 files of DeMoN into manual_dir; see data_prep/README.md."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        f = tfds.features
        features = {
            "name": f.Text(),
            "target": f.Text(),  # the bytes of a WebP file
            "source": f.Text(),
            "depth": tensor((None, None), np.float32),  # of the target, along z; nan: unknown
            "intrinsics": tensor((2, 3, 3), np.float64),  # target, source [px]
            "motion": tensor((4, 4), np.float64),  # target to source
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=f.FeaturesDict(features),
            homepage="https://lmb.informatik.uni-freiburg.de/people/ummenhof/demon",
            disable_shuffling=True,  # sorted by file, group and pair
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        config: Any = self.builder_config
        splits = _files(pathlib.Path(dl_manager.manual_dir), config.name)
        return {name: self._generate_examples(paths) for name, paths in splits.items()}

    def _generate_examples(self, paths: list[pathlib.Path]) -> Iterator[tuple[int, dict[str, Any]]]:
        key = 0
        for path in paths:
            for group, first, second in list_pairs(path):
                a, b = (read_view(path, group, view) for view in (first, second))
                motion = np.eye(4)
                motion[:3, :3] = b.rotation @ a.rotation.T
                motion[:3, 3] = b.translation - motion[:3, :3] @ a.translation
                if np.linalg.norm(motion[:3, 3]) < _SHORTEST:
                    continue
                yield (
                    key,
                    {
                        "name": f"{path.stem}/{group}/{first}-{second}",
                        "target": a.image,
                        "source": b.image,
                        "depth": a.depth,
                        "intrinsics": np.stack([a.intrinsics, b.intrinsics]),
                        "motion": motion,
                    },
                )
                key += 1


def _files(folder: pathlib.Path, name: str) -> dict[str, list[pathlib.Path]]:
    found = list(files_of(folder))
    leaking = [path.name for path in found if name == "rgbd" and _LEAKING.fullmatch(path.stem)]
    if leaking:
        expected = (
            "expected the corrected files rgbd_bugfix_*: the uncorrected ones hold test images"
        )
        raise argument_error(str(folder), expected, leaking, "Remove them from the folder.")
    train = [path for path in found if _TRAINING[name].fullmatch(path.stem)]
    test = [path for path in found if path.stem == f"{name}_test"]
    splits = {"train": train, "test": test}
    splits = {split: paths for split, paths in splits.items() if paths}
    if not splits:
        expected = f"expected {name}_test.h5 or training files {name}_*.h5"
        got = [path.name for path in found]
        hint = "data_prep/README.md says where to get them."
        raise argument_error(str(folder), expected, got, hint)
    return splits


def prepare(
    manual_dir: str | os.PathLike[str], cache_dir: str | os.PathLike[str], *, name: str
) -> Demon:
    """A builder of one set, prepared from the current files in `manual_dir`.

    Args:
        manual_dir: the folder of the .h5 files.
        cache_dir: the folder to prepare in.
        name: sun3d, rgbd, mvs, scenes11 or nyu2.

    Raises:
        ValueError: a file is missing or malformed; no complete data set is written.
    """
    splits = _files(pathlib.Path(manual_dir), name)
    files = [path for paths in splits.values() for path in paths]
    make = lambda data_dir: Demon(config=name, data_dir=data_dir)
    return prepare_builder(make, manual_dir, cache_dir, files)
