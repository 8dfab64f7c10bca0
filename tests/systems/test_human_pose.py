"""Reconstruction of poses: the released numbers, invariances, fusion, bad input, files."""

import functools
import os
import pathlib

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv import Damping
from jaxcv.data.synthetic.human_pose import generate
from jaxcv.energies import human_pose as energy
from jaxcv.energies.human_pose_readout import initial_readout
from jaxcv.metrics.pose import mpjpe
from jaxcv.systems import (
    fit_pose_model,
    load_pose_model,
    load_pose_parameters,
    load_pose_readout,
    reconstruct_pose,
    save_pose_parameters,
)
from jaxcv.systems.pose_model import mean_rotation

REAL = os.environ.get("JAXCV_REAL_DATA")


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


@functools.cache
def people():
    """Frames of four people, and a model of three of them."""
    frames = generate(jax.random.key(0), num_subjects=4, clips=1, frames=10)
    train = frames.take(frames.subject < 3)
    return frames.take(frames.subject == 3), fit_pose_model(
        train.joints, frames.cameras[:3], num_components=2
    )


QUICK = {"num_rotations": 20}


@pytest.mark.real_data
@pytest.mark.skipif(REAL is None, reason="JAXCV_REAL_DATA is not set")
def test_the_frame_that_comes_with_the_release():
    """71.77, 63.89 and 34.09 mm, measured with an independent implementation in NumPy."""
    folder = pathlib.Path(REAL or "") / "human_pose"
    model = load_pose_model(folder / "model_parameters.h5", folder / "avg_cameras.h5")
    trained = load_pose_parameters(folder / "trained_model.h5")
    frame = np.load(folder / "sample_frame.npz")
    truth = frame["joints_mm"] - frame["joints_mm"].mean(axis=0)
    norm = energy.limb_norm(jnp.asarray(truth), compatibility=True)
    np.testing.assert_allclose(norm, 1440.2556, rtol=1e-6)
    visible = np.arange(17) != 9

    def error(**settings):
        found = reconstruct_pose(
            frame["detections_px"], model, visible=np.tile(visible, (4, 1)), limb_norm=norm,
            compatibility=True, **settings,
        )  # fmt: skip
        return float(mpjpe(found.joints, truth)), found

    initial, found = error()
    np.testing.assert_allclose(initial, 63.886, atol=5e-3)
    np.testing.assert_allclose(found.component_weights, [0.04, 0, 0.96], atol=5e-3)
    np.testing.assert_allclose(found.angles[2], 2 * np.pi * 0.76)
    np.testing.assert_allclose(error(robust=False)[0], 71.769, atol=5e-3)
    np.testing.assert_allclose(error(parameters=trained)[0], 34.088, atol=5e-3)
    np.testing.assert_allclose(error(parameters=trained, robust=False)[0], 35.310, atol=5e-3)
    reset = trained._replace(huber_width=jnp.ones(3), prior_weight=jnp.ones(3))
    np.testing.assert_allclose(error(parameters=reset)[0], 36.238, atol=5e-3)


@pytest.mark.slow
def test_unseen_people_are_reconstructed():
    frames, model = people()
    truth = frames.joints - frames.joints.mean(axis=1, keepdims=True)
    norm = energy.limb_norm(jnp.asarray(truth))
    found = reconstruct_pose(
        frames.points[::4], model, visible=frames.visible[::4], limb_norm=norm[::4]
    )
    assert np.mean(mpjpe(found.joints, truth[::4])) < 90
    np.testing.assert_allclose(energy.limb_norm(found.joints), norm[::4])
    np.testing.assert_allclose(found.component_weights.sum(-1), 1)


@pytest.mark.slow
def test_batches_views_and_the_image_s_scale():
    frames, model = people()
    points, visible = frames.points[:6].reshape(2, 3, 4, 17, 2), frames.visible[:6]
    batch = reconstruct_pose(points, model, visible=visible.reshape(2, 3, 4, 17), **QUICK)
    assert batch.joints.shape == (2, 3, 17, 3)
    one = reconstruct_pose(points[1, 2], model, visible=visible[5], **QUICK)
    np.testing.assert_allclose(batch.joints[1, 2], one.joints, atol=1e-6)
    moved = reconstruct_pose(2.5 * points[1, 2] + 300, model, visible=visible[5], **QUICK)
    np.testing.assert_allclose(moved.joints, one.joints, atol=1e-6)


def test_turning_the_person_turns_the_pose():
    """By a step of the grid, and the cameras with it."""
    frames, model = people()
    turn = energy.rotations_about_vertical(jnp.asarray([np.pi / 2 + 2 * np.pi * 3 / 20]))[0]
    turned = model._replace(cameras=model.cameras @ turn)
    first, second = (
        reconstruct_pose(frames.points[3], m, visible=frames.visible[3], **QUICK)
        for m in (model, turned)
    )
    np.testing.assert_allclose(second.joints @ turn.T, first.joints, atol=1e-6)
    np.testing.assert_allclose(second.scores, first.scores, rtol=1e-9)


@pytest.mark.slow
def test_what_is_not_seen_changes_nothing_and_has_no_gradient():
    frames, model = people()
    points, visible = frames.points[:1].copy(), frames.visible[:1].copy()
    visible[0, :, 13] = False  # a joint that no camera sees
    wild = np.where(visible[..., None], points, np.nan)
    a = reconstruct_pose(points, model, visible=visible, **QUICK)
    b = reconstruct_pose(wild, model, **QUICK)
    np.testing.assert_array_equal(a.joints, b.joints)
    assert np.all(np.isfinite(a.joints))
    none = reconstruct_pose(np.full((2, 4, 17, 2), np.nan), model, **QUICK)
    assert np.all(np.isnan(none.joints))
    point = reconstruct_pose(np.full((4, 17, 2), 500.0), model, **QUICK)
    assert np.all(np.isnan(point.joints))


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["implicit", "unrolled"])
def test_frames_without_joints_have_no_gradient(gradient):
    frames, model = people()
    points, visible = frames.points[:1], frames.visible[:1]
    points = np.where(visible[..., None], points, np.nan)

    def loss(parameters, points):
        found = reconstruct_pose(points, model, parameters, gradient=gradient, **QUICK)
        return jnp.sum(jnp.where(jnp.isnan(found.joints), 0, found.joints) ** 2)

    start = energy.initial_parameters(model)
    mixed = np.concatenate([np.full((1, 4, 17, 2), np.nan), points])
    twice = np.concatenate([points, points])
    both, one = (jax.jit(jax.grad(loss))(start, p) for p in (mixed, twice))
    for a, b in zip(both, one, strict=True):
        assert np.all(np.isfinite(a))
        np.testing.assert_allclose(2 * a, b, rtol=1e-6, atol=1e-9 * np.abs(b).max())


@pytest.mark.slow
def test_hard_selection_is_the_limit_of_the_fusion():
    frames, model = people()
    sharp = energy.initial_parameters(model)
    sharp = sharp._replace(
        rotation_sharpness=jnp.full(2, 1e7), component_sharpness=jnp.full(2, 1e7)
    )
    soft, hard = (
        reconstruct_pose(
            frames.points[:5], model, sharp, visible=frames.visible[:5], selection=s, **QUICK
        )
        for s in ("soft", "hard")
    )
    np.testing.assert_allclose(soft.joints, hard.joints, atol=1e-6)


@pytest.mark.slow
def test_the_monocular_readout():
    """Undrawn it is the model's pose; drawn hard, it is seen where the detections are."""
    frames, model = people()
    model = model._replace(cameras=model.cameras[:1])
    points, visible = frames.points[:3, :1], frames.visible[:3, :1]
    find = functools.partial(
        reconstruct_pose, points, model, visible=visible, free_pose=False, robust=False,
        selection="hard", **QUICK,
    )  # fmt: skip
    plain = initial_readout(model)._replace(warp=jnp.zeros((17, 2)))
    np.testing.assert_allclose(find(readout=plain).joints, find().joints, atol=1e-6)
    hard = find(readout=plain._replace(warp=jnp.full((17, 2), 1e9))).joints
    seen = jnp.einsum("ab,fjb->fja", model.cameras[0], hard)[..., :2]
    normal, _ = energy.normalise_points(jnp.asarray(points), jnp.asarray(visible))
    for f in range(3):
        a, b = np.asarray(seen[f])[visible[f, 0]], np.asarray(normal[f, 0])[visible[f, 0]]
        scale = np.sum(a * b) / np.sum(b * b)  # images are upside down: x left, y up
        np.testing.assert_allclose(a, scale * b, atol=1e-3 * np.abs(a).max())
        assert scale < 0
    with pytest.raises(ValueError, match="`readout`: a readout is for one view"):
        reconstruct_pose(points, model, readout=plain)


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["implicit", "unrolled"])
def test_every_group_is_learned_through_the_reconstruction(gradient):
    """Gradients of all parameters against central differences."""
    frames, model = people()
    truth = frames.joints[:2] - frames.joints[:2].mean(axis=1, keepdims=True)

    @jax.jit
    def loss(parameters):
        found = reconstruct_pose(
            frames.points[:2], model, parameters, visible=frames.visible[:2], gradient=gradient,
            **QUICK,
        )  # fmt: skip
        return jnp.mean(jnp.sum((found.joints - truth) ** 2, axis=-1)) / 1e4

    start = energy.initial_parameters(model)
    start = start._replace(
        rotation_sharpness=0.1 * start.rotation_sharpness, component_offset=jnp.array([0.2, 0.4])
    )
    exact = jax.grad(loss)(start)
    for name, leaf in exact._asdict().items():
        assert float(jnp.max(jnp.abs(leaf))) > 0, name
        rng = np.random.default_rng(0)
        direction = jnp.asarray(rng.normal(size=leaf.shape))
        move = lambda h: loss(start._replace(**{name: getattr(start, name) + h * direction}))  # noqa: B023
        got = (move(1e-6) - move(-1e-6)) / 2e-6
        want = jnp.vdot(leaf, direction)
        assert abs(got - want) < 2e-5 * max(abs(want), 1e-4), name


def test_the_fit_is_probabilistic_pca():
    rng = np.random.default_rng(0)
    frames = generate(jax.random.key(1), num_subjects=4, clips=2, frames=10)
    model = fit_pose_model(frames.joints, frames.cameras, num_components=2)
    gram = jnp.einsum("kija,klja->kil", model.bases, model.bases)
    np.testing.assert_allclose(gram, np.tile(np.eye(25), (2, 1, 1)), atol=1e-9)
    assert np.all(np.diff(model.precisions, axis=1) >= 0)
    np.testing.assert_allclose(model.mean_poses.mean(axis=1), 0, atol=1e-9)
    across = model.mean_poses[:, 4] - model.mean_poses[:, 1]
    assert np.all(across[:, 0] > 0)
    np.testing.assert_allclose(across[:, 1] / across[:, 0], 0, atol=1e-9)
    # One component: the variances are those of the aligned poses.
    one = fit_pose_model(frames.joints, frames.cameras, num_components=1)
    turned = frames.joints @ np.asarray(energy.rotations_about_vertical(jnp.array([0.7]))[0]).T
    other = fit_pose_model(turned + rng.normal(size=3), frames.cameras, num_components=1)
    np.testing.assert_allclose(one.precisions, other.precisions, rtol=1e-6)
    np.testing.assert_allclose(one.noise_precision, other.noise_precision, rtol=1e-6)


def test_mean_rotation_is_a_rotation_and_keeps_one():
    frames, _ = people()
    mean = mean_rotation(frames.cameras)
    np.testing.assert_allclose(mean @ mean.swapaxes(1, 2), np.tile(np.eye(3), (4, 1, 1)), atol=1e-9)
    np.testing.assert_allclose(mean_rotation(frames.cameras[:1]), frames.cameras[0], atol=1e-9)


def test_parameters_travel_in_the_layout_of_the_release(tmp_path):
    _, model = people()
    parameters = energy.initial_parameters(model)
    parameters = jax.tree.map(
        lambda x: jnp.asarray(np.random.default_rng(0).normal(size=x.shape)), parameters
    )
    path = tmp_path / "new" / "trained.h5"
    save_pose_parameters(path, parameters)
    with h5py.File(path) as file:
        assert file["mean_pose"].shape == (2, 3, 17)
        assert file["base_vectors"].shape == (2, 25, 3, 17)
        assert file["joint_weights"].shape == (2, 34)
        assert file["lambda_0"].shape == (2, 1)
        assert file["mean_pose"].dtype == np.float64
    for a, b in zip(load_pose_parameters(path), parameters, strict=True):
        np.testing.assert_array_equal(a, b)
    assert [p.name for p in path.parent.iterdir()] == ["trained.h5"]
    readout = initial_readout(model)
    save_pose_parameters(path, parameters, readout)
    for a, b in zip(load_pose_readout(path), readout, strict=True):
        np.testing.assert_array_equal(a, b)


def broken(tmp_path, **changes):
    """A released model with changes: name -> array, or None to leave it out."""
    _, model = people()
    arrays = {
        "mu_2": np.swapaxes(model.mean_poses, 1, 2),
        "e_2": np.swapaxes(model.bases, 2, 3),
        "sigma_2": np.concatenate([model.precisions, model.noise_precision[:, None]], axis=1),
        "cams": model.cameras,
    } | changes
    path = tmp_path / "model.h5"
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            if array is not None:
                file[name] = np.asarray(array)
    return path


def test_a_model_from_a_file(tmp_path):
    _, model = people()
    path = broken(tmp_path)
    got = load_pose_model(path, path, num_components=2, limb_norm_mm=float(model.limb_norm))
    for a, b in zip(got, model, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mu_2": None}, "expected an array 'mu_2'"),
        ({"e_2": np.zeros((2, 25, 17, 3))}, r"e_2`: expected \(2, 25, 3, 17\)"),
        ({"sigma_2": np.full((2, 26), np.nan)}, "sigma_2`: expected finite numbers"),
        ({"cams": np.ones((4, 3, 3))}, "cams`: expected rotations"),
        ({"cams": -np.tile(np.eye(3), (4, 1, 1))}, "a reflection"),
    ],
)
def test_bad_files(tmp_path, changes, message):
    path = broken(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        load_pose_model(path, path, num_components=2)


def test_no_file_and_no_hdf5(tmp_path):
    with pytest.raises(ValueError, match=r"none\.h5`: expected a file, got no such file"):
        load_pose_parameters(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("no")
    with pytest.raises(ValueError, match="expected an HDF5 file"):
        load_pose_parameters(tmp_path / "text.h5")


@pytest.mark.parametrize(
    ("points", "settings", "message"),
    [
        (np.zeros((4, 16, 2)), {}, r"`points`: expected \(..., \?, 17, 2\)"),
        (np.zeros((3, 17, 2)), {}, "expected 3 cameras for 3 views"),
        (np.zeros((4, 17, 2), int), {}, "`points`: expected a real floating-point array"),
        (np.zeros((4, 17, 2)), {"gradient": "none"}, "`gradient`"),
        (np.zeros((0, 4, 17, 2)), {}, "`points`: expected one frame or more"),
        (np.zeros((5, 4, 17, 2)), {"visible": np.ones((4, 16), bool)}, "`visible`: expected"),
        (np.zeros((5, 4, 17, 2)), {"limb_norm": np.ones(4)}, r"`limb_norm`: expected \(5,\)"),
        (np.zeros((4, 17, 2)), {"selection": "best"}, "`selection`"),
        (np.zeros((4, 17, 2)), {"num_rotations": 0}, "num_rotations"),
        (np.zeros((4, 17, 2)), {"damping": Damping(order=2)}, "`damping`"),
        (np.zeros((4, 17, 2)), {"gradient": "implicit", "free_pose": False}, "`gradient`"),
    ],
)
def test_bad_input(points, settings, message):
    _, model = people()
    with pytest.raises(ValueError, match=message):
        reconstruct_pose(points, model, **settings)


@pytest.mark.parametrize(
    ("joints", "cameras", "message"),
    [
        (np.zeros((9, 16, 3)), np.eye(3), "`joints`"),
        (np.full((90, 17, 3), np.nan), np.eye(3), "`joints`: expected finite"),
        (np.zeros((90, 17, 3)), np.ones((1, 4, 3, 3)), "`cameras`: expected rotations"),
        (np.random.default_rng(0).normal(size=(9, 17, 3)), np.eye(3)[None, None], "clusters of 51"),
    ],
)
def test_bad_training_poses(joints, cameras, message):
    with pytest.raises(ValueError, match=message):
        fit_pose_model(joints, cameras, num_components=1)
