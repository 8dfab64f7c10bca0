"""The experiment of relative pose: augmentation, losses, runs, rows, modes, bad input."""

import dataclasses
import json
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from experiments import relative_pose as experiment
from experiments import runner
from experiments.relative_pose import evaluation, refinement, training
from experiments.relative_pose import scores as scoring
from experiments.relative_pose.baselines import METHODS
from experiments.relative_pose.data import Data, _held_out, load, quaternions
from jaxcv.data.relative_pose import PosePairs
from jaxcv.data.synthetic.pose_pairs import PairRanges, generate_pose_pairs
from jaxcv.metrics.motion import rotation_error
from jaxcv.models.relative_pose import rotation_of
from jaxcv.systems import load_model
from jaxcv.systems.two_view import PoseScales
from tests.systems.test_two_view import EASY

CONFIG = training.Config(
    width=0.05, height=40, width_px=48, full_height=96, full_width=128, num_train=12, num_valid=4,
    num_matched=6, num_test=6, steps=2, batch_size=4, refine_steps=1, refine_batch=2,
)  # fmt: skip


def batch(count=5, seed=0):
    rng = np.random.default_rng(seed)
    r = Rotation.random(count, rng).as_matrix()
    t = rng.normal(size=(count, 3))
    images = rng.integers(0, 255, (2, count, 8, 8, 3), dtype=np.uint8)
    return r, {
        "first": images[0], "second": images[1], "quaternion": quaternions(r),
        "direction": (t / np.linalg.norm(t, axis=1, keepdims=True)).astype(np.float32),
    }  # fmt: skip


def test_swapped_pairs_have_the_inverse_pose():
    r, before = batch()
    after = training.augmented(before, np.random.default_rng(0), 1.0)
    turned = r.swapaxes(1, 2)
    np.testing.assert_allclose(rotation_of(jnp.asarray(after["quaternion"])), turned, atol=1e-5)
    moved = -np.einsum("nij,nj->ni", turned, before["direction"])
    np.testing.assert_allclose(after["direction"], moved, atol=1e-5)
    # The images change places; their colour channels are exchanged alike in both.
    for one, other in (("first", "second"), ("second", "first")):
        np.testing.assert_array_equal(np.sort(after[one], axis=-1), np.sort(before[other], axis=-1))
    still = training.augmented(before, np.random.default_rng(0), 0.0)
    np.testing.assert_allclose(still["direction"], before["direction"])


def test_the_swap_distance_is_zero_for_inverse_poses():
    r, own = batch()
    q, t = jnp.asarray(own["quaternion"]), jnp.asarray(own["direction"])
    turned = r.swapaxes(1, 2)
    inverse = jnp.asarray(quaternions(turned)), -jnp.einsum("nij,nj->ni", turned, t)
    np.testing.assert_allclose(training._swap_distance((3 * q, 2 * t), inverse), 0, atol=1e-5)
    assert (training._swap_distance((q, t), (q, t)) > 0.01).all()


@pytest.mark.parametrize(
    ("weighting", "rotation"),
    [
        ("homoscedastic", "6d"),
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in (
                ("fixed", "quaternion"),
                ("fixed", "6d"),
                ("fixed", "svd"),
                ("homoscedastic", "quaternion"),
            )
        ),
    ],
)
@pytest.mark.slow
def test_losses_fall_at_the_truth(weighting, rotation):
    config = dataclasses.replace(CONFIG, weighting=weighting, rotation=rotation, swap_weight=0.1)
    _, own = batch(2)
    own = own | {name: np.zeros((2, 40, 48, 3), np.uint8) for name in ("first", "second")}
    params = training._init(jax.random.key(0), {}, config=config, net="cnnBspp")
    q, t = training._targets(own, config)

    def value(params):
        return training._loss(params, own, None, {}, config=config, net="cnnBspp")

    loss, shares = value(params)
    assert np.isfinite(loss)
    heads = params["network"]["params"]
    alone = jax.tree.map(lambda leaf: leaf[:1], own)  # grey images: the biases alone answer
    heads["rotation_head"]["bias"], heads["translation_head"]["bias"] = q[0], t[0]
    _, better = training._loss(params, alone, None, {}, config=config, net="cnnBspp")
    assert better["rotation_loss"] < 0.1 * shares["rotation_loss"]
    assert better["translation_loss"] < 0.1 * shares["translation_loss"]
    slope = jax.grad(lambda p: value(p)[0])(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


@pytest.mark.slow
def test_the_refinement_goes_on_from_a_file_that_has_been_through_it():
    none: Any = None
    network = training.network(CONFIG, CONFIG.net[-1])
    image, key = jnp.zeros((1, *CONFIG.shape, 3)), jax.random.key(3)
    before = {"network": jax.jit(network.init)(jax.random.key(0), image, image)}
    config = dataclasses.replace(CONFIG, refine=True)
    run = lambda file: refinement.runs(config, Data(none, none, none, none, file and [file]))[
        "joint"
    ]
    fresh = refinement.untrained(CONFIG, before["network"], jax.random.key(1))
    scales = PoseScales(jnp.array([3.0, 2.0]), jnp.float32(-2.0), jnp.float32(0.5))
    file = fresh | {"head": jax.tree.map(lambda leaf: leaf + 1, fresh["head"]), "scales": scales}
    own = run(file).init(key, {}, before)
    jax.tree.map(np.testing.assert_array_equal, own["head"], file["head"])
    jax.tree.map(np.testing.assert_array_equal, own["network"], before["network"])
    assert (own["scales"].log_noise, own["scales"].log_width) == (-2.0, 0.5)
    np.testing.assert_array_equal(own["scales"].log_precision, 0)  # of these pairs, not of those
    anew = refinement.untrained(CONFIG, before["network"], key)
    for other in (None, fresh):
        jax.tree.map(np.testing.assert_array_equal, run(other).init(key, {}, before), anew)


def test_published_networks_add_what_each_image_says():
    """The heads are linear: g(first) + h(second), whatever the other image shows."""
    network = training.network(CONFIG, "cnnBspp")
    images = jax.random.normal(jax.random.key(0), (4, 1, 40, 48, 3))
    params = jax.jit(network.init)(jax.random.key(1), images[0], images[0])
    out = lambda i, j: jnp.concatenate(network.apply(params, images[i], images[j]), axis=-1)
    np.testing.assert_allclose(out(0, 1) + out(2, 3), out(0, 3) + out(2, 1), atol=1e-5)


def test_scores_of_true_and_of_missing_answers():
    r, own = batch(6)
    poses = scoring.Poses(r, own["direction"], np.full(6, np.nan))
    pairs = type("Pairs", (), {})()
    pairs.rotation, pairs.direction, pairs.textured = r, own["direction"], np.arange(6) < 4
    scores = scoring.scores(poses, pairs)
    assert scores["textured/failures"] == scores["textureless/failures"] == 0
    assert scores["textured/auc5"] > 0.99
    gone = poses._replace(direction=np.full((6, 3), np.nan))
    scores = scoring.scores(gone, pairs)
    assert scores["textured/failures"] == 1
    assert scores["textureless/roe_median_deg"] == 180
    assert scores["textured/rte_folded_median_deg"] == 90  # not 0, as 180 degrees would fold
    unsure = poses._replace(confidence=np.array([0.9, 0.4, 0.4, 0.4, 0.1, 0.1]))
    scores = scoring.scores(unsure, pairs)
    assert scores["textured/confident"] == 0.25
    assert scores["textured/confident_failures"] == 0
    assert np.isnan(scores["textureless/confident_failures"])


def test_failures_are_compared_pair_by_pair():
    r, own = batch(40)
    textured = np.arange(40) < 30
    pairs = PosePairs(*[None] * 4, r, own["direction"], textured, None)
    right = scoring.Poses(r, own["direction"], np.full(40, np.nan))
    wrong = lambda rows: right._replace(
        direction=np.where(rows[:, None], -own["direction"], own["direction"])
    )
    fails = {"poselib": np.arange(40) % 3 == 0, "joint": np.arange(40) % 6 == 0}
    answers = {method: wrong(rows) for method, rows in fails.items()}
    trained = SimpleNamespace(once=lambda key, make: answers)
    data = SimpleNamespace(test=SimpleNamespace(pairs=pairs))
    config = dataclasses.replace(CONFIG, num_seeds=2)
    found = evaluation._over_pairs(config, data, trained)
    difference, low, high = found["joint_over_poselib/textured/failures_of_pairs"]
    share = {method: rows[textured].mean() for method, rows in fails.items()}
    np.testing.assert_allclose(difference, share["joint"] - share["poselib"])
    # where joint fails PoseLib does too: the difference is a mean of 25 zeros and 5 of -1
    deviation = np.sqrt(5 / 30 * 25 / 30 / 30)
    assert abs(low - (difference - 1.96 * deviation)) < 0.05
    assert abs(high - (difference + 1.96 * deviation)) < 0.05
    assert found["joint/all/failures_of_pairs"][0] < np.mean(fails["joint"])


def command(*flags):
    return subprocess.run(
        [sys.executable, "-m", "experiments.relative_pose", *flags], capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "folder"}, "expected the folder of --data=folder"),
        ({"data": "folder", "data_dir": "/nowhere"}, "cameras.json"),
    ],
)
def test_data_that_are_missing(change, message):
    with pytest.raises(runner.DataError, match=message):
        load(dataclasses.replace(CONFIG, **change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"net": ("cnnA",)}, "`height`: .*63 pixels a side or more for cnnA"),
        ({"init_from": "/nowhere.npz"}, "nowhere.npz"),
        ({"trunk_file": "/nowhere.npz"}, "nowhere.npz"),
    ],
)
def test_settings_are_refused_before_anything_is_rendered(change, message):
    with pytest.raises(runner.DataError, match=message):
        training.load(dataclasses.replace(CONFIG, **change))


def test_no_view_validates_that_was_trained_on():
    i = np.arange(60)
    views = np.concatenate([np.stack([i, i + gap], axis=1) for gap in (1, 4)])
    first, last = _held_out(views)
    assert views[first].max() < views[last].min()
    assert 0.15 < len(last) / len(views) < 0.3
    for one in _held_out(np.array([[0, 1]])):
        assert one.tolist() == [0]


def write_rooms(root, back=False, ranges=PairRanges()):  # noqa: B008, an immutable value
    """Six generated rooms of two views each as a plain folder; with poses the wrong way round."""
    rooms = generate_pose_pairs(3, 6, (240, 320), textureless=0.0, ranges=ranges)
    images, pairs = [], []
    for i in range(6):
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rooms.rotation[i], rooms.direction[i]
        views = (rooms.first[i], rooms.intrinsics1[i], np.eye(4)), (
            rooms.second[i], rooms.intrinsics2[i], np.linalg.inv(pose) if back else pose,
        )  # fmt: skip
        for k, (image, intrinsics, own) in enumerate(views):
            Image.fromarray(image).save(root / f"{i}{k}.png")
            entry = {"file": f"{i}{k}.png", "scene": f"room{i}", "pose": own.tolist()}
            images.append(entry | {"intrinsics": intrinsics.tolist()})
        pairs.append([f"{i}0.png", f"{i}1.png"])
    content = {"pose": "world_to_camera", "images": images, "pairs": pairs}
    (root / "cameras.json").write_text(json.dumps(content))
    return rooms


@pytest.mark.slow
def test_a_folder_of_photographs_is_read_and_its_labels_are_checked(tmp_path):
    (tmp_path / "in").mkdir()
    rooms = write_rooms(tmp_path / "in")
    config = dataclasses.replace(
        CONFIG, data="folder", data_dir=str(tmp_path / "in"), cache_dir=str(tmp_path / "cache"),
        full_height=240, full_width=320, test_scene=("room4", "room5"), num_valid=1,
    )  # fmt: skip
    data = training.load(config)
    assert (len(data.test.found), len(data.valid.rotation)) == (2, 1)
    assert (len(data.train.rotation), len(data.matched.found)) == (2, 1)  # cut through a room
    np.testing.assert_allclose(data.test.full.rotation, rooms.rotation[4:], atol=1e-6)
    np.testing.assert_allclose(data.test.full.direction, rooms.direction[4:], atol=1e-6)
    np.testing.assert_array_equal(data.test.full.first[0], rooms.first[4])
    write_rooms(tmp_path / "in", back=True)
    with pytest.raises(runner.DataError, match=r"`data_dir`.*if 'second to first'"):
        training.load(config)


@pytest.mark.slow
def test_end_to_end(tmp_path):
    """Training, rows, figures; then networks in files, one pair, and a training that goes on."""
    nets = ("cnnB", "cnnBspp")
    config = dataclasses.replace(CONFIG, cache_dir=str(tmp_path / "cache"), num_seeds=2, net=nets)
    results = experiment.train(config, tmp_path / "run")
    rows = {key.split("/")[0] for key in results["metrics"]}
    assert len(results["metrics"]["cnnBspp_over_cnnB/rte_median_deg_change"]) == 2
    wanted = {"constant", "cnnBspp", "refined", "joint", "refined_identity", "refined_sampled"}
    assert wanted | set(METHODS) <= rows
    for regime in scoring.REGIMES:
        for metric in ("roe_median_deg", "rte_median_deg", "auc5", "auc10", "auc20", "failures"):
            assert np.isfinite(results["metrics"][f"joint/{regime}/{metric}"])
    assert len(results["metrics"]["joint/textured/auc5_of_seeds"]) == 2
    names = {path.name for path in (tmp_path / "run" / "figures").iterdir()}
    figures = {"cumulative", "failures", "lines", "pairs", "confidence", "training", "orders"}
    assert names == {f"{name}.png" for name in figures}

    run = tmp_path / "run"
    out = runner.predict(experiment.EXPERIMENT, None, tmp_path / "out", run)
    params, settings, card = load_model(out / "joint.safetensors")
    assert settings["shape"] == (40, 48)
    assert len((out / "poses.csv").read_text().splitlines()) == 1 + CONFIG.num_test
    own = experiment.load(run, trial=card["trial"])
    jax.tree.map(np.testing.assert_array_equal, own.params, params)

    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels).save(tmp_path / name)
    flags = [
        f"--checkpoint={run}", "--mode=predict", f"--workdir={tmp_path / 'pair'}",
        f"--image1={tmp_path / 'a.png'}", f"--image2={tmp_path / 'b.png'}",
    ]  # fmt: skip
    done = command(*flags, "--intrinsics=70,70,39.5,29.5")
    assert done.returncode == 0, done.stderr
    pose = json.loads((tmp_path / "pair" / "pose.json").read_text())
    assert json.loads(done.stdout) == pose
    np.testing.assert_allclose(np.linalg.norm(pose["direction"]), 1, rtol=1e-5)
    assert (tmp_path / "pair" / "matches.png").stat().st_size > 1000
    for extra, message in (
        ("--intrinsics=1,2", "fx,fy,cx,cy"), (f"--image2={run}/config.json", "that can be read"),
        ("--intrinsics=0,0,1,1", "focal lengths"),
    ):  # fmt: skip
        others = [flag for flag in flags if flag.split("=")[0] != extra.split("=")[0]]
        done = command(*others, extra)
        assert done.returncode != 0
        assert message in done.stderr
        assert "Traceback" not in done.stderr

    own = dataclasses.replace(config, pictures=str(tmp_path / "in"), figures=1)
    (tmp_path / "in").mkdir()
    rooms = write_rooms(tmp_path / "in", ranges=EASY)
    found = runner.predict(experiment.EXPERIMENT, own, tmp_path / "pictures", run)
    table = json.loads((found / "pairs.json").read_text())
    assert (len(table["pairs"]), table["run"]) == (11, "joint")
    assert all(np.isfinite(entry["direction"]).all() for entry in table["pairs"])
    assert len(list((found / "figures").iterdir())) == 1
    good = [entry for entry in table["pairs"] if entry["first"][0] == entry["second"][0]]
    turned = [
        float(rotation_error(np.array(entry["rotation"]), rooms.rotation[i]))
        for i, entry in enumerate(good)
    ]
    assert np.median(turned) < 2

    larger = dataclasses.replace(
        config, init_from=str(out / "cnnBspp.safetensors"), height=56, width_px=64, num_seeds=1,
        refine=False, net=("cnnBspp",),
    )  # fmt: skip
    again = experiment.train(larger, tmp_path / "larger")
    assert np.isfinite(again["metrics"]["cnnBspp/textured/auc20"])
    (out / "cnnBspp.safetensors").unlink()  # what it began with is not asked for any more
    alone = runner.predict(experiment.EXPERIMENT, None, tmp_path / "alone", tmp_path / "larger")
    assert "# cnnBspp:" in (alone / "poses.csv").read_text()
    table = np.genfromtxt(alone / "poses.csv", delimiter=",", skip_header=1)
    assert np.isfinite(table[:, :7]).all()
    params, _, _ = load_model(alone / "cnnBspp.safetensors")
    lines = (tmp_path / "larger" / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    deviation = np.deg2rad([np.ravel(last[name])[0] for name in refinement.VALIDATED]) / 1.5
    np.testing.assert_allclose(params["scales"].log_precision, -2 * np.log(deviation), rtol=1e-4)
    back = dataclasses.replace(larger, init_from=None, height=40, width_px=48)
    smaller = runner.evaluate(
        experiment.EXPERIMENT, back, tmp_path / "smaller", tmp_path / "larger"
    )
    assert np.isfinite(smaller["metrics"]["cnnBspp/all/roe_median_deg"])
    other = dataclasses.replace(config, height=56, width_px=64)
    with pytest.raises(runner.DataError, match=r"image_size.*was trained with \[40, 48\]"):
        runner.evaluate(experiment.EXPERIMENT, other, tmp_path / "no", run)
    wrong = dataclasses.replace(
        larger, init_from=str(out / "joint.safetensors"), net=("cnnA",), height=72, width_px=72
    )
    with pytest.raises(runner.DataError, match="expected a network like"):
        experiment.train(wrong, tmp_path / "wrong")
