"""The TFDS builder of the NYU Hand Pose data set."""

import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_prep._prepare import ArrayRecordBuilder, prepare_builder, tensor
from data_prep.nyu_hand.parser import (
    JOINTS,
    VIEWS,
    frame_files,
    read_color,
    read_depth,
    read_labels,
)
from jaxcv.checks import argument_error
from jaxcv.data.hand import NYU_INTRINSICS

__all__ = ["NyuHand", "prepare"]

SPLITS = ("train", "test")
FIRST_SUBJECT = 2440  # the first test frames, which show the training subject
_WINDOW = 384  # [px], larger than a cube of 300 mm about the nearest palm (600 mm)


class NyuHand(ArrayRecordBuilder):
    """Frames of one view, as windows of 384 x 384 pixels around the palm, with all 36 joints.

    The window only saves space: it is larger than the cube that is cropped from it, and takes a
    third of the space of the images. `intrinsics` are those of the window. Outside the image the
    depth is 0.

    Splits: `train` (one person) and `test` (the same person in the first 2,440 frames, then
    another).
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=f"view{k}") for k in (1, 2, 3)]  # noqa: RUF012
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Put the folders train and test of NYU's data set into manual_dir; see data_prep/README.md."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        f = tfds.features
        features = {
            "frame": np.int32,  # from 1
            "subject": np.int32,  # 1 or 2
            "depth": tensor((_WINDOW, _WINDOW), np.uint16),  # [mm], 0: missing
            "color": tensor((_WINDOW, _WINDOW, 3), np.uint8),
            "joints": tensor((JOINTS, 3), np.float32),  # x, y (up), z [mm]
            "intrinsics": tensor((3, 3), np.float64),  # of the window; fy is negative
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=f.FeaturesDict(features),
            homepage="https://jonathantompson.github.io/NYU_Hand_Pose_Dataset.htm",
            disable_shuffling=True,  # sorted by frame
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        config: Any = self.builder_config
        view = int(config.name.removeprefix("view"))
        folder = pathlib.Path(dl_manager.manual_dir)
        return {name: self._generate_examples(folder / name, name, view) for name in _found(folder)}

    def _generate_examples(
        self, folder: pathlib.Path, split: str, view: int
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        labels = read_labels(folder / "joint_data.mat")
        joints, pixels = labels.joints[view - 1], labels.pixels[view - 1]
        for i in range(len(joints)):
            depth_path, color_path = frame_files(folder, view, i + 1)
            depth, color = read_depth(depth_path), read_color(color_path)
            if color.shape[:2] != depth.shape:
                expected = f"expected the size of the depth, {depth.shape}"
                raise argument_error(str(color_path), expected, color.shape[:2])
            u, v = pixels[i, 32, :2]  # the palm
            start = np.round([u - _WINDOW / 2, v - _WINDOW / 2]).astype(int)
            intrinsics = NYU_INTRINSICS.copy()
            intrinsics[:2, 2] -= start
            yield (
                i,
                {
                    "frame": i + 1,
                    "subject": 1 if split == "train" or i < FIRST_SUBJECT else 2,
                    "depth": _window(depth, start),
                    "color": _window(color, start),
                    "joints": joints[i].astype(np.float32),
                    "intrinsics": intrinsics,
                },
            )


def _window(image: np.ndarray, start: np.ndarray) -> np.ndarray:
    out = np.zeros((_WINDOW, _WINDOW, *image.shape[2:]), image.dtype)
    u, v = (int(x) for x in start)
    rows = slice(max(v, 0), min(v + _WINDOW, image.shape[0]))
    columns = slice(max(u, 0), min(u + _WINDOW, image.shape[1]))
    part = image[rows, columns]
    out[rows.start - v :, columns.start - u :][: part.shape[0], : part.shape[1]] = part
    return out


def _found(folder: pathlib.Path) -> list[str]:
    found = [name for name in SPLITS if (folder / name / "joint_data.mat").is_file()]
    if not found:
        expected = "expected train/joint_data.mat or test/joint_data.mat"
        got = sorted(path.name for path in folder.glob("*"))[:8] if folder.is_dir() else "no folder"
        raise argument_error(
            str(folder), expected, got, "data_prep/README.md describes the layout."
        )
    return found


def prepare(
    manual_dir: str | os.PathLike[str], cache_dir: str | os.PathLike[str], *, view: int = 1
) -> NyuHand:
    """A builder prepared from the current files in `manual_dir`.

    Args:
        manual_dir: the folder with train and test.
        cache_dir: the folder to prepare in.
        view: 1 (frontal, used for scoring), 2 or 3.

    Raises:
        ValueError: a file is missing or malformed; no complete data set is written.
    """
    if view not in range(1, VIEWS + 1):
        raise argument_error("view", f"expected 1 to {VIEWS}", view)
    folder = pathlib.Path(manual_dir)
    # Only the labels are hashed: hashing would read all images once more.
    files = [folder / name / "joint_data.mat" for name in _found(folder)]
    make = lambda data_dir: NyuHand(config=f"view{view}", data_dir=data_dir)
    return prepare_builder(make, manual_dir, cache_dir, files)
