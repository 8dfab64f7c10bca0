"""The human pose on small data: rows, honesty of the split, files, bad input."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import human_pose, runner
from experiments.human_pose import evaluation, training
from jaxcv.systems import load_pose_parameters

CONFIG = training.Config(
    steps=2, views=(2,), groups=("scaling", "fusion"), huber=True, num_subjects=4, clips=1,
    frames=8, num_rotations=8, num_components=1, batch_size=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("human_pose")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "GRID", {name: (3.0,) for name in training.GRID})
        return folder, human_pose.train(CONFIG, folder)


@pytest.mark.slow
def test_rows_files_and_figures(trained):
    folder, results = trained
    metrics = json.loads((folder / "results.json").read_text())["metrics"]
    for row in ("baseline", "custom", "custom_hard", "custom_estimated_scale"):
        (error,) = metrics[f"{row}/2_cameras_mpjpe_mm"]
        (aligned,) = metrics[f"{row}/2_cameras_procrustes_mm"]
        assert 0 < aligned < error
        assert metrics[f"{row}/2_cameras_mpjpe_mm/walking"][0] > 0
    assert results["source"]["huber/multicamera_mpjpe_mm"] == 46.1
    for name in ("skeletons", "actions", "table", "learned"):
        assert (folder / "figures" / f"{name}.png").stat().st_size > 10_000


@pytest.mark.slow
def test_only_the_named_groups_are_learned(trained, tmp_path):
    folder, _ = trained
    out = runner.predict(human_pose.EXPERIMENT, None, tmp_path / "poses", folder)
    with np.load(out / "poses.npz") as poses:
        assert poses["custom.views=2.seed=0"].shape == poses["truth.seed=0"].shape
    with jax.enable_x64(True):
        learned = load_pose_parameters(out / "custom.views=2.seed=0.h5")
        start = training._start(CONFIG, *_training(training.load(CONFIG)), seed=0)["model"]
        first = training.initial_parameters(start)
        assert np.any(learned.output_scale != first.output_scale)
        assert np.any(learned.rotation_sharpness != first.rotation_sharpness)
        for name in ("mean_poses", "bases", "joint_weights", "cameras", "huber_width"):
            np.testing.assert_allclose(getattr(learned, name), getattr(first, name), rtol=1e-12)


def _training(data):
    train = data.seeds[0].take(~data.test[0])
    return train, training.batch_of(train, 2)


@pytest.mark.slow
def test_subjects_are_either_trained_or_tested_on():
    data = training.load(CONFIG)
    frames, test = data.seeds[0], data.test[0]
    assert not set(frames.subject[test]) & set(frames.subject[~test])
    assert training.metadata(CONFIG, data) == {"test_subjects": ["S4"]}
    batch = training.runs(dataclasses.replace(CONFIG, num_components=1), data)[
        "custom.views=2.seed=0"
    ].data
    assert len(batch.joints) == np.sum(~test)


def test_rows_of_the_presets():
    study = training.PRESETS["study"]
    assert set(evaluation.rows(study, 4)) >= {"baseline", "body_model", "l2", "huber", "huber_hard"}
    assert set(training.methods(study, 4)) - set(training.methods(study, 1)) == set(
        training.ABLATIONS
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "human36m"}, "needs a folder"),
        ({"data": "human36m", "data_dir": "/nowhere"}, "expected"),
        ({"views": (0,)}, "`views`"),
        ({"groups": ("bones",)}, "`groups`"),
        ({"num_subjects": 2}, "`num_subjects`"),
    ],
)
def test_bad_settings(tmp_path, changes, message):
    config = dataclasses.replace(CONFIG, **changes)
    with pytest.raises(ValueError, match=message):
        human_pose.train(config, tmp_path / "run")
