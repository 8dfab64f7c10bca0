"""The TFDS builder of Human3.6M's joints."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_prep._prepare import ArrayRecordBuilder, cache_folder, prepare_builder, tensor
from data_prep.human36m.parser import Layout, find_layout, read_sequence
from jaxcv.data.human_pose import PoseFrames
from jaxcv.data.pipelines import load_pose_frames

__all__ = ["TEST_SUBJECTS", "Human36m", "prepare", "prepare_frames"]

TEST_SUBJECTS = ("S9", "S11")


class Human36m(ArrayRecordBuilder):
    """Joints detected in four views, and true joints; one example per recording.

    Splits: `test` (S9, S11) and `train` (all other subjects: S1, S5, S6, S7, S8).
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Put cameras.h5 and the folders S<n> of your copy of Human3.6M into manual_dir; "
        "see data_prep/README.md."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        f = tfds.features
        features = {
            "subject": f.Text(),
            "action": f.Text(),
            "trial": f.Scalar(np.int32),
            "points": tensor((None, 4, 17, 2), np.float64),  # [px]
            "visible": tensor((None, 4, 17), np.bool_),
            "joints": tensor((None, 17, 3), np.float64),  # world, z up [mm]
            "cameras": tensor((4, 3, 3), np.float64),  # world to camera
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=f.FeaturesDict(features),
            homepage="http://vision.imar.ro/human3.6m",
            disable_shuffling=True,  # sorted by subject, action and trial
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        layout = find_layout(dl_manager.manual_dir)
        subjects = {one.subject for one in layout.sequences}
        splits = {}
        for split, test in (("train", False), ("test", True)):
            if any((subject in TEST_SUBJECTS) == test for subject in subjects):
                splits[split] = self._generate_examples(layout, test)
        return splits

    def _generate_examples(
        self, layout: Layout, test: bool
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, one in enumerate(layout.sequences):
            if (one.subject in TEST_SUBJECTS) == test:
                named = {"subject": one.subject, "action": one.action, "trial": one.trial}
                yield i, named | read_sequence(layout, one)


def prepare(manual_dir: str | os.PathLike[str], cache_dir: str | os.PathLike[str]) -> Human36m:
    """A builder prepared from the files in `manual_dir`; prepared again when they change.

    Raises:
        ValueError: a file is missing or malformed; no complete data set is written.
    """
    make = lambda data_dir: Human36m(data_dir=data_dir)
    return prepare_builder(make, manual_dir, cache_dir, find_layout(manual_dir).files())


def prepare_frames(
    manual_dir: str | os.PathLike[str],
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    stride: int = 5,
) -> PoseFrames:
    """Every `stride`-th frame of all recordings, train and test.

    Args:
        manual_dir: a folder in the layout of `parser`.
        cache_dir: the folder to prepare in; None: jaxcv/human36m in the user's cache folder.
        stride: step between the frames of a recording, from its first.
    """
    cache = cache_folder(cache_dir, "human36m")
    return load_pose_frames(prepare(manual_dir, cache), stride=stride)
