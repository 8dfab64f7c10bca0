"""The human pose on small data: rows, honesty of the split, files, bad input."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import human_pose, runner
from experiments.human_pose import baselines, evaluation, network, training
from experiments.human_pose import config as settings
from experiments.human_pose import data as frames_of
from jaxcv.data.synthetic.human_pose import generate
from jaxcv.systems import load_pose_parameters

CONFIG = settings.Config(
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
        start = training._start(CONFIG, *_training(frames_of.load(CONFIG)), seed=0)["model"]
        first = training.initial_parameters(start)
        assert np.any(learned.output_scale != first.output_scale)
        assert np.any(learned.rotation_sharpness != first.rotation_sharpness)
        for name in ("mean_poses", "bases", "joint_weights", "cameras", "huber_width"):
            np.testing.assert_allclose(getattr(learned, name), getattr(first, name), rtol=1e-12)


def _training(data):
    train = data.seeds[0].take(~data.test[0])
    return train, frames_of.batch_of(train, 2)


@pytest.mark.slow
def test_subjects_are_either_trained_or_tested_on():
    data = frames_of.load(CONFIG)
    frames, test = data.seeds[0], data.test[0]
    assert not set(frames.subject[test]) & set(frames.subject[~test])
    assert frames_of.metadata(CONFIG, data) == {"test_subjects": ["S4"]}
    batch = training.runs(dataclasses.replace(CONFIG, num_components=1), data)[
        "custom.views=2.seed=0"
    ].data
    assert len(batch.joints) == np.sum(~test)


def test_rows_of_the_presets():
    study = settings.PRESETS["study"]
    assert set(evaluation.rows(study, 4)) >= {"baseline", "body_model", "l2", "huber", "huber_hard"}
    assert set(settings.methods(study, 4)) - set(settings.methods(study, 1)) == set(
        settings.ABLATIONS
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


def test_rows_of_one_camera_are_its_own_energy():
    paper = settings.PRESETS["paper"]
    assert list(settings.methods(paper, 4)) == ["body_and_cameras", "l2", "huber"]
    assert list(settings.methods(paper, 1)) == ["monocular"]
    assert set(evaluation.rows(paper, 1)) >= {"monocular", "monocular_untrained"}
    # A row that names no energy for one camera is trained with one camera as before.
    assert list(settings.methods(settings.Config(method=("huber",)), 1)) == ["huber"]
    assert (paper.gradient, paper.schedule, paper.compatibility) == ("unrolled", "constant", True)


def test_the_paper_preset_needs_the_released_files():
    with pytest.raises(runner.DataError, match="`model_file`: --start=released needs the file"):
        training._released_start(settings.PRESETS["paper"], 4)


def some_frames(noise=0.0, outliers=0.0, swaps=0.0):
    frames = generate(
        jax.random.key(1), num_subjects=2, clips=2, frames=2, noise=noise, outliers=outliers,
        swaps=swaps,
    )  # fmt: skip
    return frames, np.ones((len(frames.joints), 4, 17), bool)


def test_triangulation_of_exact_points_is_exact():
    frames, visible = some_frames()
    own = baselines.projections(frames.cameras, frames.centres, frames.intrinsics)
    cameras = own[frames.subject]
    found = baselines.triangulate(cameras, frames.points, visible, 5.0)
    np.testing.assert_allclose(found, frames.joints, atol=1e-3)
    # One wrong view of four does not matter; with one view there is no joint.
    points = frames.points.copy()
    points[:, 2, 5] += 300
    visible[:, 1:, 6] = False
    found = baselines.triangulate(cameras, points, visible, 5.0)
    np.testing.assert_allclose(found[:, :6], frames.joints[:, :6], atol=1.0)
    assert np.isnan(found[:, 6]).all()


def test_triangulation_by_parallel_projections_is_exact():
    rng = np.random.default_rng(0)
    rotations = np.linalg.qr(rng.normal(size=(3, 3, 3)))[0]
    joints = rng.normal(size=(5, 17, 3))
    points = np.einsum("vab,njb->nvja", rotations[:, :2], joints)
    cameras = np.zeros((5, 3, 3, 4))
    cameras[:, :, :2, :3], cameras[:, :, 2, 3] = rotations[:, :2], 1.0
    found = baselines.triangulate(cameras, points, np.ones((5, 3, 17), bool), 0.1)
    np.testing.assert_allclose(found, joints, atol=1e-9)


def test_missing_joints_are_a_conditional_mean():
    """Of poses in which one joint is the mean of two others, that joint is completed exactly."""
    rng = np.random.default_rng(0)
    joints = rng.normal(size=(400, 17, 3)) * 100
    joints[:, 9] = 0.5 * (joints[:, 8] + joints[:, 10])
    complete = baselines.Completion(joints[:300])
    poses = joints[300:] + 500  # the place of a pose does not matter
    broken = poses.copy()
    broken[:, 9] = np.nan
    np.testing.assert_allclose(complete(broken)[:, 9], poses[:, 9], atol=0.5)
    np.testing.assert_array_equal(complete(broken)[:, :9], poses[:, :9])


def test_another_detector_sees_the_same_joints():
    frames, _ = some_frames()
    other = baselines.redetected(frames, 0, noise=2.0)
    assert other is not None
    away = (other.points - frames.points)[other.visible]
    assert abs(np.std(away) - 2.0) < 0.1
    assert np.max(np.abs(away)) < 12  # normal: no lost joints, no exchanged limbs
    assert baselines.redetected(frames._replace(centres=None), 0) is None


def test_the_lifting_network_has_two_residual_blocks_of_1024():
    points, visible = np.zeros((4, 17, 2)), np.ones((4, 17), bool)
    shapes = jax.eval_shape(network.LiftingNetwork().init, jax.random.key(0), points, visible)
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))
    layers = [(4 * 17 * 3, 1024), *[(1024, 1024)] * 4]
    assert count == sum(a * b + 3 * b for a, b in layers) + 1024 * 51 + 51


def test_steps_to_within_2_percent_of_the_end():
    step = np.arange(20)
    loss = 50 + 50 * 0.5**step
    assert evaluation.steps_to_end(step, loss) == 6  # 50 * 0.5^6 < 1 <= 50 * 0.5^5


@pytest.mark.slow
def test_competitors_and_the_energy_of_one_camera(tmp_path, monkeypatch):
    for name in ("GRID", "MONOCULAR_GRID"):
        monkeypatch.setattr(training, name, {key: (3.0,) for key in settings.GRID})
    monkeypatch.setattr(network, "SETTINGS", ((1e-3, 0.2), (3e-4, 0.0)))
    config = dataclasses.replace(
        CONFIG, groups=(), method=("huber", "monocular"), views=(4, 1), competitors=True,
        lifting_steps=30,
    )  # fmt: skip
    metrics = human_pose.train(config, tmp_path)["metrics"]
    for row in (
        "triangulation",
        "triangulation_mean_cameras",
        "lifting",
        "baseline_other_detector",
    ):
        (error,) = metrics[f"{row}/multicamera_mpjpe_mm"]
        assert 10 < error < 600
    assert metrics["triangulation/multicamera_mpjpe_mm"][0] < 80
    for row in ("monocular", "monocular_untrained", "lifting"):
        assert 20 < metrics[f"{row}/monocular_mpjpe_mm"][0] < 600
    assert metrics["baseline/multicamera_grid_seconds"][0] > 0
    assert (tmp_path / "figures" / "competitors.png").stat().st_size > 10_000


@pytest.mark.slow
def test_first_steps_of_the_paper_preset_at_full_size(tmp_path):
    """Official layout, released files, 3 components, 100 rotations, batches of 4."""
    from jaxcv.io.hdf5 import save_arrays
    from jaxcv.systems import fit_pose_model
    from jaxcv.systems.pose_model import mean_rotation
    from tests.data_prep.test_human36m import write_copy

    made = write_copy(tmp_path / "h36m", subjects=("S1", "S5", "S9"))
    with jax.enable_x64(True):
        poses = generate(jax.random.key(3), num_subjects=3, clips=2)
        model = fit_pose_model(poses.joints, poses.cameras)
    arrays = {
        "mu_3": np.swapaxes(model.mean_poses, -1, -2),
        "e_3": np.swapaxes(model.bases, -1, -2),
        "sigma_3": np.concatenate([model.precisions, model.noise_precision[:, None]], axis=1),
    }
    save_arrays(tmp_path / "model_parameters.h5", arrays)
    save_arrays(tmp_path / "avg_cameras.h5", {"cams": mean_rotation(made.cameras)})
    config = dataclasses.replace(
        settings.PRESETS["paper"], data_dir=str(tmp_path / "h36m"), steps=20,
        cache_dir=str(tmp_path / "cache"), model_file=str(tmp_path / "model_parameters.h5"),
        cameras_file=str(tmp_path / "avg_cameras.h5"),
    )  # fmt: skip
    metrics = human_pose.train(config, tmp_path / "out")["metrics"]
    for row in ("baseline", "body_and_cameras", "l2", "huber"):
        assert np.isfinite(metrics[f"{row}/multicamera_mpjpe_mm"][0])
    assert np.isfinite(metrics["monocular/monocular_mpjpe_mm"][0])
    assert (tmp_path / "out" / "figures" / "poses.png").stat().st_size > 10_000
