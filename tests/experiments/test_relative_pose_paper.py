"""The published configuration of relative pose: networks, optimiser, epochs, images, protocol."""

import dataclasses
import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_prep.posed_images import PosedConfig, landmarks, prepare
from data_prep.posed_images.views import labels
from experiments import runner
from experiments.relative_pose import images, training
from experiments.relative_pose.config import FEATURE_METHODS
from experiments.relative_pose.data import Data
from jaxcv.data.pipelines import load_pair_scenes, load_pose_pairs
from jaxcv.data.relative_pose import PosePairs, RaggedImages
from jaxcv.training import create_state, make_update
from tests.data_prep.test_posed_images import K, cameras, write_dtu, write_image, write_landmark

PAPER = training.PRESETS["paper"]
COUNTS = {
    "cnnA": (2_463_111, 2_598_727), "cnnB": (2_939_783, 3_075_399),
    "cnnAspp": (2_513_287, 2_648_903), "cnnBspp": (3_118_983, 3_254_599),
}  # fmt: skip
TRAINED = ("Gendarmenmarkt", "Montreal", "Piccadilly", "Roman", "Vienna")
NONE: Any = None


def batch_of(count, shape):
    image = jax.ShapeDtypeStruct((count, *shape, 3), np.uint8)
    vector = lambda n: jax.ShapeDtypeStruct((count, n), np.float32)
    return {"first": image, "second": image, "quaternion": vector(4), "direction": vector(3)}


@pytest.mark.parametrize("net", COUNTS)
def test_networks_and_batches_have_the_published_sizes(net):
    for column, preset in enumerate(("paper", "paper_imagenet")):
        config = training.PRESETS[preset]
        params = jax.eval_shape(
            lambda c=config: training._init(jax.random.key(0), {}, config=c, net=net)
        )
        assert sum(x.size for x in jax.tree.leaves(params["network"])) == COUNTS[net][column]
        side = 323 if "spp" in net else 227
        assert config.crop_shape(net) == (side, side)
        loss = lambda p, b, c=config: training._loss(p, b, NONE, {}, config=c, net=net)
        value, _ = jax.eval_shape(loss, params, batch_of(config.batch_size, (side, side)))
        assert (value.shape, config.batch_size) == ((), 128)
    assert PAPER.steps == 15 * (581_000 // 128)
    assert training.network(PAPER, net).normalised is False


def test_decay_is_in_the_gradient_and_the_rate_is_constant():
    """Without a gradient of the loss, Adam steps by rate x sign(p), AdamW by rate x decay x p."""
    params = {"a": jnp.array([2.0, -3.0]), "rotation_head": jnp.array([5.0])}
    zero = jax.tree.map(jnp.zeros_like, params)
    optimizer = training._optimizer(PAPER)
    state = optimizer.init(params)
    for _ in range(3):
        updates, state = optimizer.update(zero, state, params)
        for name, leaf in updates.items():  # heads at the rate of the others
            np.testing.assert_allclose(leaf, -1e-4 * np.sign(params[name]), rtol=2e-3)
    today = dataclasses.replace(PAPER, weight_decay_kind="decoupled")
    optimizer = training._optimizer(today)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    np.testing.assert_allclose(updates["a"], -1e-4 * 1e-5 * params["a"], rtol=1e-5)


def test_an_epoch_has_each_pair_once():
    rows = np.concatenate([training.rows_of_epochs(3, 10, 4, step) for step in range(10)])
    epochs = rows.reshape(4, 10)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(10), (4, 1)))
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4
    np.testing.assert_array_equal(training.rows_of_epochs(3, 10, 4, 7), rows[28:32])
    assert (training.rows_of_epochs(4, 10, 4, 0) != rows[:4]).any()


def pairs_of(*shapes):
    """Pairs (0, 1), (1, 2), ... of images whose pixels tell row and column."""
    views = [
        np.stack([*np.mgrid[:height, :width], np.full((height, width), i)], -1).astype(np.uint8)
        for i, (height, width) in enumerate(shapes)
    ]
    k = np.array([[50.0, 0, 20], [0, 60.0, 15], [0, 0, 1]]) + np.zeros((len(views) - 1, 1, 1))
    rows = np.arange(len(views) - 1)
    return PosePairs(
        RaggedImages(views, rows), RaggedImages(views, rows + 1), k, k, NONE, NONE, NONE, NONE
    )


def test_random_windows_have_the_same_offset_in_both_images():
    pairs = pairs_of((40, 60), (40, 60), (80, 120))
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        first, second = images.random_windows(pairs.first[:], pairs.second[:], (30, 30), rng)
        assert first.shape == second.shape == (2, 30, 30, 3)
        np.testing.assert_array_equal(first[0, ..., :2], second[0, ..., :2])
        top, left = (int(x) for x in first[0, 0, 0, :2])
        seen.add((top, left))
        # In the larger image the margins have the same shares: 50 and 90 pixels for 10 and 30.
        share = second[1, 0, 0, :2] / [50, 90] - first[1, 0, 0, :2] / [10, 30]
        assert np.abs(share).max() < 0.11
    assert {top for top, _ in seen} == set(range(11))
    assert max(left for _, left in seen) == 30


def test_intrinsics_follow_the_images():
    """A window moves the principal point; the pixel under a ray shows the same."""
    pairs = pairs_of((40, 60), (80, 40))
    made = images.at_size(pairs, (30, 34), "centre", 40)
    assert made.first.shape == (1, 30, 34, 3)
    np.testing.assert_array_equal(made.first[0][0, 0, :2], [5, 13])
    np.testing.assert_allclose(made.intrinsics1[0], [[50, 0, 7], [0, 60, 10], [0, 0, 1]])
    np.testing.assert_allclose(made.intrinsics2[0], [[50, 0, 17], [0, 60, -10], [0, 0, 1]])
    twice = images.at_size(pairs, (60, 60), "centre", 80)  # the first is enlarged by two
    np.testing.assert_allclose(twice.intrinsics1[0], [[100, 0, 10.5], [0, 120, 20.5], [0, 0, 1]])
    squashed = images.at_size(pairs, (20, 60))
    np.testing.assert_allclose(squashed.intrinsics1[0], [[50, 0, 20], [0, 30, 7.25], [0, 0, 1]])
    np.testing.assert_allclose(squashed.intrinsics2[0, 1, 1], 15)
    with pytest.raises(ValueError, match=r"expected images of 50 x 34 px or more.*got 40 x 60"):
        images.at_size(pairs, (50, 34), "centre", 40)


def small(config, folder, **changes):
    """A preset at small images and widths, with its photographs in folder/in."""
    return dataclasses.replace(
        config, data_dir=str(folder / "in"), cache_dir=str(folder / "cache"), net=("cnnBspp",),
        height=40, width_px=40, full_height=40, full_width=40, short_side=48, pyramid_crop=44,
        width=0.05, **changes,
    )  # fmt: skip


@pytest.mark.slow
def test_all_pairs_of_the_five_landmarks_are_trained_on_and_yorkminster_validates(tmp_path):
    for number, scene in enumerate(TRAINED):
        write_landmark(tmp_path / "in" / scene, 5 + number % 2)
    write_landmark(tmp_path / "in" / "Yorkminster", 6)
    views, pairs = landmarks.read(tmp_path / "in")
    scenes = np.asarray(views.scenes)[pairs[:, 0]]
    want = labels(views, pairs)
    data = training.load(small(PAPER, tmp_path))
    held = scenes == "Yorkminster"
    np.testing.assert_allclose(data.train.rotation, want.rotation[~held], atol=1e-6)
    np.testing.assert_allclose(data.train.direction, want.direction[~held], atol=1e-6)
    for own in (data.valid, data.test.pairs):
        np.testing.assert_allclose(own.rotation, want.rotation[held], atol=1e-6)
        assert own.first.shape == (held.sum(), 40, 40, 3)
    assert set(data.test.scenes) == {"Yorkminster"}
    assert min(data.train.first[0].shape[:2]) == 48  # whole images, to take windows of
    assert data.matched is None
    batch = training._batch(data, small(PAPER, tmp_path, batch_size=5), (44, 44), 0)
    assert batch["first"].shape == (5, 44, 44, 3)
    few = training.load(small(PAPER, tmp_path, num_train=7, num_test=2, num_valid=3))
    sizes = [len(own.rotation) for own in (few.train, few.valid, few.test.pairs)]
    assert sizes == [7, 3, 2]
    centre = training.load(small(PAPER, tmp_path, test_image="centre"))
    assert centre.test.pairs.first.shape == (held.sum(), 40, 40, 3)
    assert centre.test.pairs.intrinsics1[0, 0, 0] == pytest.approx(35 * 48 / 30)
    with pytest.raises(runner.DataError, match=r"valid_scenes.*got \['London'\]"):
        training.load(small(PAPER, tmp_path, valid_scene=("London",)))


def test_dtu_has_one_set_of_pairs_a_light_and_every_scan_can_be_the_test(tmp_path):
    write_dtu(tmp_path / "in", *cameras(3), K, scans=())
    for scan in ("scan1", "scan2", "scan82"):
        for place in (1, 2, 3):
            for light in ("3", "max"):
                name = f"rect_{place:03d}_{light}_r5000.png"
                write_image(tmp_path / "in" / "Rectified" / scan / name, place)
    counts = {}
    for light in ("all", "max", "3"):
        config = PosedConfig(source="dtu", test_scenes=("all",), light=light)
        builder = prepare(tmp_path / "in", tmp_path / "out", config)
        assert set(builder.info.splits) == {"test", "views"}
        counts[light] = len(load_pose_pairs(builder, split="test").rotation)
        assert sorted(set(load_pair_scenes(builder) or [])) == ["scan1", "scan2", "scan82"]
    assert counts == {"all": 3 * 2 * 2, "max": 3 * 2, "3": 3 * 2}
    with pytest.raises(ValueError, match=r"`light`: expected one of \['3', 'max'\], got 5"):
        prepare(tmp_path / "in", tmp_path / "out", PosedConfig(source="dtu", light="5"))
    with pytest.raises(ValueError, match="`light`: is not read with 'folder'"):
        PosedConfig(light="max")
    # An evaluation of the paper's training keeps its other settings.
    own = small(PAPER, tmp_path, data="dtu", test_scene=("all",), light="max")
    for how in ("squash", "centre"):
        data = training.load(dataclasses.replace(own, test_image=how))
        assert data.test.pairs.first.shape == (6, 40, 40, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"short_side": 0}, "`short_side`: expected the shorter side"),
        ({"pyramid_crop": 20}, "`pyramid_crop`: .*pixels a side or more"),
        ({"variant": ("batch_size=3",)}, "`variant`: expected name=value of augment, "),
        ({"variant": ("beta=ten",)}, "`variant`: expected name=value"),
        ({"variant": ("beta=-1",)}, "beta.*expected at least 0"),
        ({"variant": ("swap=0.1,rotation=euler",)}, "rotation.*expected one of"),
        ({"data": "synthetic", "num_test": 0}, "`num_test`: expected 1 or more"),
    ],
)
def test_settings_are_refused(tmp_path, change, message):
    with pytest.raises((runner.DataError, ValueError), match=message):
        training.load(dataclasses.replace(small(PAPER, tmp_path), **({"num_valid": 1} | change)))


def test_variants_are_runs_with_other_settings():
    config = training.Config(variant=("beta=1", "rotation=svd,augment=false", "trunk_file=none"))
    found = training.networks(dataclasses.replace(config, trunk_file="a.safetensors"))
    names = ["cnnBspp", "cnnBspp_beta=1", "cnnBspp_rotation=svd+augment=false"]
    assert list(found) == [*names, "cnnBspp_trunk_file=none"]
    own = [found[name][0] for name in found]
    assert [one.beta for one in own] == [10, 1, 10, 10]
    assert (own[2].rotation, own[2].augment) == ("svd", False)
    assert [one.trunk_file for one in own] == ["a.safetensors"] * 3 + [None]
    assert all(net == "cnnBspp" for _, net in found.values())
    assert set(PAPER.feature_method) <= set(FEATURE_METHODS)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["paper", "paper_imagenet"])
def test_first_steps_at_full_size(tmp_path, preset):
    """Networks and images of the published size, batches of 4 instead of 128 to save time.

    The first step of Adam moves each number by the rate, at most.
    """
    for number, scene in enumerate((*TRAINED, "Yorkminster")):
        folder = tmp_path / "in" / scene
        write_landmark(folder, 4)
        for i in range(4):
            write_image(folder / "images" / f"{i}.jpg", i, ((430, 330), (330, 400))[number % 2])
    config = dataclasses.replace(
        training.PRESETS[preset], data_dir=str(tmp_path / "in"), cache_dir=str(tmp_path / "out"),
        batch_size=4, feature_method=("orb_defaults",),
    )  # fmt: skip
    data: Data = training.load(config)
    assert len(data.train.rotation) == 5 * 3
    for net, run in training.runs(config, data).items():
        params = jax.jit(run.init)(jax.random.key(0), {"seed": 0})
        loss = lambda p, batch, key, run=run: run.loss(p, batch, key, {})
        optimizer = run.optimizer()
        update = jax.jit(make_update(loss, optimizer))
        state = create_state(params, optimizer)
        for step in range(2):
            batch = run.batches(step)
            assert batch["first"].shape == (4, *config.crop_shape(net), 3)
            before, (state, metrics) = state.params, update(state, batch, jax.random.key(step))
            assert metrics["skipped"] == 0
            assert np.isfinite(metrics["loss"])
            assert step > 0 or 5 < metrics["loss"] < 50  # |t| + 10 |q| = 11 for outputs of 0
            moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), before, state.params)
            assert max(jax.tree.leaves(moved)) < 1.01e-4
            assert moved["network"]["params"]["convolutions_0"]["kernel"] > 0


PROGRAM = """
import dataclasses
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from experiments.relative_pose import training
from jaxcv.training import create_state, make_update

devices = jax.devices()
assert len(devices) == 2, devices
config = dataclasses.replace(training.PRESETS["paper"], height=40, width_px=40, width=0.05)
rng = np.random.default_rng(0)
unit = lambda n: (lambda x: x / np.linalg.norm(x, axis=1, keepdims=True))(rng.normal(size=(8, n)))
batch = {"first": rng.random((8, 40, 40, 3)), "second": rng.random((8, 40, 40, 3)),
         "quaternion": unit(4), "direction": unit(3)}
params = jax.jit(lambda: training._init(jax.random.key(0), {}, config=config, net="cnnBspp"))()
params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
optimizer = training._optimizer(config)
loss = lambda p, b, key: training._loss(p, b, key, {}, config=config, net="cnnBspp")
update = jax.jit(make_update(loss, optimizer))
mesh = Mesh(np.array(devices), ("batch",))
whole, spread = (
    jax.device_put(batch, own)
    for own in (jax.sharding.SingleDeviceSharding(devices[0]), NamedSharding(mesh, P("batch")))
)
assert len(spread["first"].sharding.device_set) == 2
outs = []
for each, own in ((whole, None), (spread, NamedSharding(mesh, P()))):
    state = create_state(params, optimizer)
    state = state if own is None else jax.device_put(state, own)
    for step in range(2):
        state, metrics = update(state, each, jax.random.key(step))
    outs.append((state.params, metrics))
for a, b in zip(*map(jax.tree.leaves, outs), strict=True):
    assert a.dtype == np.asarray(b).dtype
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), params, outs[0][0])
assert max(jax.tree.leaves(moved)) > 1e-4  # two steps of 1e-4: the tolerance is far below them
"""


@pytest.mark.slow
def test_a_step_over_two_devices_is_that_of_the_whole_batch():
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "true",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
