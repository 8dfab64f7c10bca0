"""Relative poses of real frames: labels, features and the energy on the end of a walk.

python -m tests.experiments.test_relative_pose_walk FOLDER_OF_FRAMES FOLDER

writes the folder that `python -m experiments.relative_pose --data=folder` reads: scene `train` of
the first 230 frames, and `test` of those from the 245th on.
"""

import json
import pathlib
import sys

import numpy as np
import pytest

from experiments import relative_pose as experiment
from experiments import relative_pose_evaluation as evaluation
from jaxcv.data.pose_labels import check_labels
from jaxcv.metrics.motion import pose_failures


def write_walk(frames: pathlib.Path, folder: pathlib.Path) -> None:
    """cameras.json and links to the images; pairs 3 to 10 frames apart, of the test 6."""
    found = np.load(frames / "cameras.npz")
    files = [f"{frame:05d}.jpg" for frame in found["frames"]]
    scenes = ["train" if i < 230 else "between" if i < 245 else "test" for i in range(len(files))]
    pairs = []
    for gap in (3, 4, 5, 6, 8, 10):
        for i in range(len(files) - gap):
            if scenes[i] == scenes[i + gap] and scenes[i] in ("train", *["test"] * (gap == 6)):
                pairs.append([files[i], files[i + gap]])
    for name in files:
        (folder / name).symlink_to(frames / name)
    images = [
        {"file": name, "pose": pose.tolist(), "scene": scene}
        for name, pose, scene in zip(files, found["camera_to_world"], scenes, strict=True)
    ]
    content = {"pose": "camera_to_world", "intrinsics": found["intrinsics_px"].tolist()}
    (folder / "cameras.json").write_text(json.dumps(content | {"images": images, "pairs": pairs}))


@pytest.fixture(scope="module")
def data(real_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("walk")
    write_walk(real_data / "relative_pose" / "hololens", folder)
    return experiment.load(
        experiment.Config(
            data="folder", data_dir=str(folder), test_scene=("test",), full_height=240,
            full_width=360, cache_dir=str(folder / "cache"),
        )
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.real_data
def test_ranges_do_not_meet(data):
    assert (len(data.train.rotation), len(data.valid.rotation)) == (972, 336)
    assert (len(data.matched.found), len(data.test.found)) == (336, 122)


@pytest.mark.slow
@pytest.mark.real_data
def test_labels_the_wrong_way_round_are_seen(data):
    pairs, matches = data.test.full, data.test.matches
    check_labels(matches, pairs.rotation, pairs.direction)
    back = pairs.rotation.swapaxes(1, 2)  # from the second camera to the first
    moved = -np.einsum("nij,nj->ni", back, pairs.direction)
    with pytest.raises(ValueError, match="second to first"):
        check_labels(matches, back, moved)


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize(
    ("method", "rotation", "direction", "failures"),
    [
        ("sift_ransac", 3.1, 16.3, 0.46), ("poselib", 1.1, 8.1, 0.43),
        ("refined_sampled", 2.9, 18.2, 0.48),
    ],
)  # fmt: skip
def test_known_errors(data, method, rotation, direction, failures):
    if method == "refined_sampled":
        poses = evaluation._alone(data.test, "sampled", 0)
    else:
        estimator = evaluation.METHODS[method][1]
        poses = evaluation._by_features(data.test, data.test.found, estimator, 0)
    turned, moved = evaluation.errors_of(poses, data.test.full)
    assert np.median(turned) == pytest.approx(rotation, rel=0.25)
    assert np.median(moved) == pytest.approx(direction, rel=0.25)
    assert pose_failures(turned, moved).mean() == pytest.approx(failures, abs=0.04)


if __name__ == "__main__":
    pathlib.Path(sys.argv[2]).mkdir(parents=True)
    write_walk(pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]))
