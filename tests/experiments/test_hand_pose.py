"""The hand pose on a few frames: rows, files, the search in rounds, what a validation may share."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_prep.nyu_hand import builder
from experiments import hand_pose, runner, score_hands
from experiments.hand_pose import config as hand_config
from experiments.hand_pose import data as hand_pose_data
from experiments.hand_pose import search, training
from jaxcv.data.hand import PALM, joints_of_pixels, pixels_of_joints, read_predictions
from jaxcv.models.hand_pose import HandNetwork
from jaxcv.systems import load_model, predict_hand
from jaxcv.systems.hand_pose import NUM_POINTS
from tests.data_prep.test_nyu_hand import write_split

CONFIG = hand_config.Config(
    steps=6, num_train=24, num_test=8, train_subjects=3, test_subjects=2, side=32, width=0.0625,
    dense=8, batch_size=6, net=("1",), window=64,
)  # fmt: skip


@pytest.fixture(scope="module")
def data():
    return hand_pose_data.load(CONFIG)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hand_pose")
    return folder, hand_pose.train(CONFIG, folder)


@pytest.mark.slow
def test_files_and_figures_and_predictions_that_can_be_scored(trained, tmp_path):
    folder, results = trained
    metrics = json.loads((folder / "results.json").read_text())["metrics"]
    data = hand_pose_data.load(CONFIG)
    mean = 150 * data.train.target.mean(axis=0, dtype=float)
    for prefix, crops in (("", data.seen), ("unseen_", data.unseen)):
        errors = np.linalg.norm(mean + crops.centre[:, None] - crops.joints, axis=-1)
        want = [errors.mean(), *((errors.max(axis=1) <= t).mean() for t in (20, 80))]
        want += [errors[:, PALM].mean(), errors[:, :10:2].mean() / errors[:, 1:10:2].mean()]
        names = ("mean_error_mm", "success_20mm", "success_80mm", "joint_C_mm", "tips_over_middles")
        got = [metrics[f"mean_pose/{prefix}{name}"] for name in names]
        np.testing.assert_allclose(got, want, rtol=1e-4)
    both = [metrics[f"net1/{prefix}mean_error_mm"] for prefix in ("", "unseen_")]
    assert metrics["net1/pooled_mean_error_mm"] == pytest.approx(np.mean(both))  # equally many
    for name in ("success", "joints", "hands_seen", "hands_unseen", "fingers", "training"):
        assert (folder / "figures" / f"{name}.png").stat().st_size > 10_000
    out = runner.predict(hand_pose.EXPERIMENT, None, tmp_path / "joints", folder)
    assert read_predictions(out / "net1_seen.txt").shape == (8, 14, 3)
    params, settings, card = hand_pose.load(folder)  # for frames that are not cropped yet
    assert (card["run"], card["config"]["net"]) == ("net1", ["1"])
    jax.tree.map(np.testing.assert_array_equal, load_model(out / "net1.safetensors").params, params)
    frames = hand_pose_data.load(CONFIG).frames["unseen"]
    joints = predict_hand(frames.depth, frames.intrinsics, params, **settings).joints
    written = joints_of_pixels(read_predictions(out / "net1_unseen.txt"))
    np.testing.assert_allclose(joints, written, atol=5e-3)
    scores = score_hands.score(
        str(out / "labels_unseen.txt"), {"net1": str(out / "net1_unseen.txt")}, tmp_path / "scores"
    )
    want = results["metrics"]["net1/unseen_mean_error_mm"]
    np.testing.assert_allclose(scores["net1"]["mean_error_mm"], want, rtol=1e-4)


def test_frames_are_split_and_centred(data):
    assert [len(crops.depth) for crops in data[:4]] == [18, 6, 8, 8]
    for crops in data[:4]:
        assert crops.depth.shape[1:] == (32, 32, 1)
        assert (np.abs(crops.target) < 1.2).all()
        np.testing.assert_allclose(
            crops.target * 150 + crops.centre[:, None], crops.joints, atol=1e-3
        )
        seen = crops.points[crops.points[..., 2] > 0]
        assert len(seen) == crops.points.shape[0] * NUM_POINTS
        assert (np.abs(crops.points - crops.centre[:, None]) <= 150.1).all()
    shown = training.images_of(data.train, data.scale, ("rgb",))[0]
    np.testing.assert_allclose(shown.mean((0, 1, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(shown.std((0, 1, 2)), 1, atol=1e-3)
    np.testing.assert_array_equal(data.seen.subject, (24 + np.arange(8)) % 3)


@pytest.mark.parametrize("split", ["frame", "block", "subject"])
def test_validation_frames(split):
    subject = np.arange(24) % 3
    config = dataclasses.replace(CONFIG, split=split)
    valid = hand_pose_data._validation(config, subject)
    if split == "subject":
        assert set(subject[valid]).isdisjoint(subject[~valid])
    else:
        assert valid.sum() == 6
    if split == "block":
        assert valid[18:].all()
    if split == "subject":
        with pytest.raises(runner.DataError, match="two training subjects"):
            hand_pose_data._validation(config, np.zeros(5))


@pytest.mark.slow
def test_frames_of_nyus_files(tmp_path, monkeypatch):
    write_split(tmp_path / "nyu/train", count=4)
    write_split(tmp_path / "nyu/test", count=3)
    config = dataclasses.replace(
        CONFIG, data="nyu", data_dir=str(tmp_path / "nyu"), cache_dir=str(tmp_path / "cache")
    )
    with pytest.raises(runner.DataError, match="of both people"):
        hand_pose_data.load(config)
    monkeypatch.setattr(builder, "FIRST_SUBJECT", 1)  # of the three, the first is of the person
    config = dataclasses.replace(config, cache_dir=str(tmp_path / "again"))
    data = hand_pose_data.load(config)
    assert [len(crops.depth) for crops in data[:4]] == [3, 1, 1, 2]
    assert {test: len(frames.joints) for test, frames in data.frames.items()} == {
        "seen": 1, "unseen": 2
    }  # fmt: skip
    for crops in data[:4]:
        np.testing.assert_allclose(
            crops.target * 150 + crops.centre[:, None], crops.joints, atol=1e-3
        )
    by_palm = hand_pose_data.load(dataclasses.replace(config, centre="palm"))
    palms = pixels_of_joints(by_palm.unseen.joints[:, PALM])
    np.testing.assert_allclose(palms, [[300.0, 200.0, 750.0]] * 2, rtol=1e-5)
    np.testing.assert_allclose(by_palm.unseen.target[:, PALM], 0, atol=1e-5)


def test_crops_kept_in_few_bits_are_shown_as_they_were(data):
    crops = data.train
    packed = crops._replace(
        depth=crops.depth.astype(np.float16), rgb=np.round(255 * crops.rgb).astype(np.uint8)
    )
    scale = hand_pose_data._color_scale(crops.rgb)
    np.testing.assert_allclose(scale[0], crops.rgb.mean((0, 1, 2), dtype=float), rtol=1e-6)
    np.testing.assert_allclose(scale[1], crops.rgb.std((0, 1, 2), dtype=float), rtol=1e-6)
    np.testing.assert_allclose(hand_pose_data._color_scale(packed.rgb), scale, atol=1e-3)
    rows = np.array([3, 0])
    for own, exact in zip(packed.take(rows)[:2], crops.take(rows)[:2], strict=True):
        assert own.dtype == np.float32
        np.testing.assert_allclose(own, exact, atol=0.51 / 255)
    for kind in ("depth", "rgb", "rgbd"):
        (own,), (exact,) = (training.images_of(x, scale, (kind,)) for x in (packed, crops))
        assert own.dtype == np.float32
        np.testing.assert_allclose(own, exact, atol=0.51 / 255 / min(scale[1]))


@pytest.mark.slow
def test_many_validation_frames_are_judged_as_few(data, monkeypatch):
    network = HandNetwork(net="net1", images=("depth", "rgbd"), width=0.0625, dense=8)
    params = jax.jit(network.init)(jax.random.key(0), *(jnp.zeros((1, 32, 32, c)) for c in (1, 4)))
    frames = training._needed(data.train, network.images)
    validate = jax.jit(
        lambda frames: training._validate(
            params, frames, None, network=network, scale=data.scale, unit_mm=150.0
        )
    )
    whole = validate(frames)
    shown = training.images_of(data.train, data.scale, network.images)
    joints = jax.jit(network.apply)(params, *shown)
    error = 150 * np.linalg.norm(joints - data.train.target, axis=-1).mean()
    np.testing.assert_allclose(whole["valid_error_mm"], error, rtol=1e-5)
    packed = frames._replace(
        depth=frames.depth.astype(np.float16), rgb=np.round(255 * frames.rgb).astype(np.uint8)
    )
    np.testing.assert_allclose(validate(packed)["valid_loss"], whole["valid_loss"], rtol=1e-2)
    jax.clear_caches()
    monkeypatch.setattr(training, "VALIDATED_AT_ONCE", 7)  # of 18
    for name, value in validate(frames).items():
        np.testing.assert_allclose(value, whole[name], rtol=1e-5)


def test_an_epoch_shows_every_frame_once():
    steps = [training.rows_of_step(0, 4, 12, step) for step in range(6)]
    for epoch in (steps[:3], steps[3:]):
        assert sorted(np.concatenate(epoch)) == list(range(12))
    assert not np.array_equal(np.concatenate(steps[:3]), np.concatenate(steps[3:]))
    fixed = [training.rows_of_step(0, 4, 12, step, shuffled=False) for step in range(6)]
    np.testing.assert_array_equal(fixed, steps[:3] * 2)


def test_rows_and_their_networks():
    config = dataclasses.replace(CONFIG, net=("fusepred", "fuse", "rgbd", "8wide", "9"))
    nets = hand_config.networks(config)
    assert list(nets) == ["net6", "rgb", "fuse_conv", "rgbd", "net8wide", "net9"]
    assert nets["fuse_conv"].images == ("depth", "rgb")
    counts = [hand_config.count_parameters(nets[name], 32) for name in ("net6", "net8wide")]
    own = hand_config.count_parameters(HandNetwork(net="net8", width=0.0625, dense=8), 32)
    assert own < counts[0] <= counts[1] < 1.1 * counts[0]
    for net in ("7wide", "9wide"):
        wide = hand_config.networks(dataclasses.replace(CONFIG, net=(net,)))[f"net{net}"]
        assert wide.net == f"net{net[0]}"
        assert counts[0] <= hand_config.count_parameters(wide, 32) < 1.1 * counts[0]


@pytest.mark.slow
@pytest.mark.parametrize("trials_by", ["loop", "vmap"])
def test_search_in_rounds(tmp_path, trials_by):
    config = dataclasses.replace(
        CONFIG, search=True, search_rounds=2, search_trials=5, search_steps=4, num_seeds=2,
        trials_by=trials_by,
    )  # fmt: skip
    results = hand_pose.train(config, tmp_path / "w")
    metrics = results["metrics"]
    assert len(metrics["net1/mean_error_mm_of_seeds"]) == 2
    lines = [json.loads(line) for line in (tmp_path / "w/metrics.jsonl").read_text().splitlines()]
    losses = {}
    for line in lines:
        values = [np.inf if x is None else x for x in line["valid_loss"]]
        losses[line["run"]] = np.minimum(losses.get(line["run"], np.inf), values)
    assert len(losses["net1.search0"]) == len(losses["net1.search1"]) == 5
    source = metrics["net1/search_source_valid_loss"]
    assert source == pytest.approx(losses["net1.search0"][0])
    found = min(losses["net1.search0"][1:].min(), losses["net1.search1"].min())
    assert metrics["net1/search_valid_loss"] == pytest.approx(found)
    again = runner.evaluate(hand_pose.EXPERIMENT, None, tmp_path / "again", tmp_path / "w")
    key = "net1/unseen_mean_error_mm_of_seeds"
    assert again["metrics"][key] == metrics[key]


@pytest.mark.slow
def test_refined_rows(tmp_path):
    config = dataclasses.replace(CONFIG, refine=True, refine_steps=2, num_seeds=2, net=("6",))
    metrics = hand_pose.train(config, tmp_path / "w")["metrics"]
    out = runner.predict(hand_pose.EXPERIMENT, None, tmp_path / "joints", tmp_path / "w")
    params, settings, _ = load_model(out / "refined.safetensors")
    other = hand_pose.load(tmp_path / "w", trial=1)
    assert (other.card["run"], other.card["trial"]) == ("refined", 1)
    frames = hand_pose_data.load(config).frames["seen"]
    joints = predict_hand(frames.depth, frames.intrinsics, params, **settings).joints
    assert np.isfinite(joints).all()  # of other points of the same images than the file's rows
    alone: dict[str, Any] = settings | {"scales": None}
    plain = predict_hand(frames.depth, frames.intrinsics, params, **alone)
    assert np.median(np.linalg.norm(joints - plain.joints, axis=-1)) > 0.1
    truth = hand_pose_data.load(config).unseen.joints
    chosen = hand_pose.load(tmp_path / "w").card["trial"]
    for row in ("refined", "refined_undamped", "refined_untrained", "refined_network"):
        joints = joints_of_pixels(read_predictions(out / f"{row}_unseen.txt"))
        error = np.linalg.norm(joints - truth, axis=-1).mean()
        own = metrics[f"{row}/unseen_mean_error_mm_of_seeds"]
        np.testing.assert_allclose(own[chosen], error, rtol=1e-4)
        np.testing.assert_allclose(metrics[f"{row}/unseen_mean_error_mm"], np.mean(own), rtol=1e-6)


def test_searched_settings_are_drawn_anew_and_close_in():
    config = dataclasses.replace(CONFIG, search_trials=20)
    first = search.drawn(config, "net1", 0, {})
    assert [first[rate][0] for rate in hand_config.RATES] == [0.01, 0.9, 0.03]
    away = np.log10(first["learning_rate"] / 0.03) ** 2
    history = {"valid_loss": np.stack([away + 1, away, np.where(away > 1, np.nan, away)])}
    done = runner.TrainedRun({}, history, first, {}, 1.0)
    second = search.drawn(config, "net1", 1, {"net1.search0": done})
    spread = lambda one: np.ptp(np.log10(one["learning_rate"]))
    assert spread(second) < 0.6 * spread(first)
    whole = dataclasses.replace(config, search_rounds=1)
    best = search.best_setting(whole, "net1", {"net1.search0": done})
    assert best["learning_rate"] == first["learning_rate"][away.argmin()]


@pytest.mark.slow
def test_a_trial_of_the_loss_has_its_own_dropout(data):
    network = hand_config.networks(CONFIG)["net1"]
    params = training._init(jax.random.key(0), {}, network=network, side=32)
    batch = training._batch(data, ("depth",), CONFIG, 0)
    loss = lambda rate: training._loss(
        params, batch, jax.random.key(1), {"dropout": rate}, network=network
    )[0]
    values = jax.jit(jax.vmap(loss))(jnp.array([0.0, 0.0, 0.5]))
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"net": ("10",)}, "net"),
        ({"data": "glb"}, "data_dir"),
        ({"data": "nyu"}, "data_dir"),
        ({"train_subjects": 1, "split": "subject"}, "two training subjects"),
        ({"variant": ("steps=3",)}, "`variant`: expected none, or FIELD=VALUE"),
        ({"variant": ("momentum",)}, "`variant`: expected none, or FIELD=VALUE"),
        ({"variant": ("momentum=fast",)}, "expected momentum as float, got 'fast'"),
        ({"variant": ("momentum=2",)}, "`momentum`: expected"),
        ({"variant": ("none", "none")}, "expected entries that differ"),
        ({"variant": ("momentum=0",), "refine": True}, "expected the entry none with --refine"),
        ({"crop": "window"}, "`crop, targets`: expected crops and targets of the cube"),
        ({"data": "glb", "data_dir": "a.glb", "sensor_noise": 2.0}, "`sensor_noise`: expected 1"),
    ],
)
def test_bad_settings(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        hand_pose.train(dataclasses.replace(CONFIG, **changes), tmp_path / "w")
