"""Presets and variants of the hand pose: the published configuration, rows, data, comparisons."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.hand_pose import comparison, search, training
from experiments.hand_pose import data as hand_pose_data
from experiments.hand_pose.config import (
    WIDE,
    Config,
    config_of,
    count_parameters,
    rows,
    variants,
)
from experiments.hand_pose.presets import PRESETS
from jaxcv.data.hand import PALM, HandFrames
from jaxcv.training import Sweep

PUBLISHED = {  # parameters of Tables 4.1 and 4.2
    "net1": 151_415_466, "net2": 151_563_050, "net3": 151_597_098, "net4": 286_942_762,
    "net5": 151_609_226, "net6": 151_904_394, "net7": 51_047_338, "net8": 26_176_682,
    "net9": 51_342_506, "rgb": 151_904_970, "rgbd": 151_905_258, "fuse_max": 151_969_962,
    "fuse_sum": 151_969_962, "fuse_concat": 152_043_690, "fuse_conv": 151_978_218,
}  # fmt: skip


def test_the_published_configuration_has_two_stages():
    nets, final = PRESETS["paper_nets"], PRESETS["paper"]
    assert (nets.learning_rate, nets.momentum, nets.dropout) == (0.01, 0.9, 0.03)
    assert (final.learning_rate, final.momentum, final.dropout) == (0.009, 0.98, 0.03)
    for config in (nets, final, PRESETS["paper_search"]):
        assert (config.data, config.side, config.batch_size) == ("nyu", 128, 128)
        assert (config.steps, config.validation, config.split) == (42_600, 0.25, "frame")
        assert (config.output, config.order, config.crop) == ("tanh", "shuffled", "cube")
    assert list(rows(nets)) == [f"net{k}" for k in range(1, 10)]
    want = ["net6", "rgb", "rgbd", "fuse_max", "fuse_sum", "fuse_concat", "fuse_conv"]
    assert list(rows(final)) == want
    for name, (_, network) in (rows(nets) | rows(final)).items():
        assert count_parameters(network, 128) == PUBLISHED[name]
        images = [jax.ShapeDtypeStruct((2, 128, 128, c), jnp.float32)
                  for c in training.channels(network)]  # fmt: skip
        params = jax.eval_shape(network.init, jax.random.key(0), *images)
        assert jax.eval_shape(network.apply, params, *images).shape == (2, 14, 3)


def test_the_published_search():
    config = PRESETS["paper_search"]
    assert (config.net, config.search_rounds, config.search_trials) == (("6",), 3, 50)
    ranges = search.ranges(config)
    assert ranges["learning_rate"] == (1e-3, 1e-1, "log")
    assert ranges["momentum"] == (0.8, 0.999, "log")
    assert ranges["dropout"] == (0.0, 0.1, "linear")
    drawn = search.drawn(config, "net6", 0, {})
    share = np.mean(np.log(drawn["momentum"] / 0.8) < 0.5 * np.log(0.999 / 0.8))
    assert 0.25 < share < 0.75
    assert drawn["learning_rate"][0] != 0.01  # all are random


@pytest.mark.slow
def test_first_steps_at_the_published_size():
    """Three steps of Net6 at 128 px and batches of 128 lower the loss.

    Twenty take some five minutes on two cores: `python -m experiments.hand_pose --preset=paper
    --data=synthetic --net=6 --num_train=512 --steps=20 --workdir=runs/first_steps`.
    """
    config = dataclasses.replace(
        PRESETS["paper"], data="synthetic", net=("6",), num_train=172, num_test=8
    )
    data = hand_pose_data.load(config)
    run = training.runs(config, data)["net6"]
    trials = {name: np.asarray(values) for name, values in run.trials({}).items()}  # type: ignore[operator]
    sweep = Sweep(
        run.init, run.loss, run.optimizer, hyperparameters=run.hyperparameters, sequential=True
    )
    state = sweep.unpacked(sweep.init(trials, None))
    losses = []
    for step in range(3):
        batch = jax.tree.map(lambda x: x[None], run.batches(step))  # type: ignore[misc]
        state, values = sweep.run(state, trials, batch, length=1, stacked=True)
        losses.append(float(np.squeeze(values["loss"])))
    assert np.isfinite(losses).all()
    assert losses[2] < losses[0]


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_rows_of_every_preset(name):
    config = PRESETS[name]
    plain = dataclasses.replace(config, net=tuple(net for net in config.net if net not in WIDE))
    names = list(rows(plain))
    endings = variants(config)
    assert len(names) % len(endings) == 0
    for row in names:
        assert rows(plain)[row].config == config_of(plain, row)
    if len(names) > 1 and name not in ("fusion_layers",):
        assert comparison.pairs(plain, set(names))


def test_variants_change_what_they_name():
    config = Config(variant=("none", "momentum=0,learning_rate=0.5", "search=true", "dense=8"))
    found = variants(config)
    assert list(found) == ["", "+momentum=0+learning_rate=0.5", "+search=true", "+dense=8"]
    assert found[""] == config
    second = found["+momentum=0+learning_rate=0.5"]
    assert (second.momentum, second.learning_rate, second.dropout) == (0.0, 0.5, config.dropout)
    assert found["+search=true"].search is True
    assert rows(config)["net6+dense=8"].network.dense == 8


def test_a_network_per_layer_and_operation():
    config = Config(net=("fuse",), fusion=("max", "convolve"), fuse_each=True,
                    fuse_at=("conv4", "conv2+conv6"))  # fmt: skip
    found = {name: row.network for name, row in rows(config).items()}
    want = itertools.product(("max", "conv"), ("", "_at_conv2_conv6"))
    assert list(found) == [f"fuse_{fusion}{at}" for fusion, at in want]
    assert found["fuse_conv_at_conv2_conv6"].fuse_at == ("conv2", "conv6")
    together = dataclasses.replace(config, fuse_each=False, fuse_at=("conv2", "conv6"))
    assert {row.network.fuse_at for row in rows(together).values()} == {("conv2", "conv6")}


def frames_of_a_wall():
    """Two frames of a square at 700 mm before missing depths, seen by cameras of 200 px."""
    k = np.array([[200.0, 0, 31.5], [0, 200.0, 31.5], [0, 0, 1]])
    depth = np.zeros((2, 64, 64), np.uint16)
    depth[:, 20:44, 20:44] = 700
    joints = np.tile([0.0, 0.0, 700.0], (2, 14, 1))
    joints[:, :PALM] += np.random.default_rng(0).uniform(-80, 80, (2, PALM, 3))
    color = np.zeros((2, 64, 64, 3), np.uint8)
    return HandFrames(depth, color, joints, np.stack([k, k]), np.array([1, 2]))


def test_crops_without_the_cube():
    frames = frames_of_a_wall()
    crops = {}
    for crop, targets in itertools.product(("cube", "window"), ("cube", "camera")):
        config = Config(side=32, centre="palm", crop=crop, targets=targets)
        crops[crop, targets] = own = hand_pose_data._crop(frames, config)
        back = hand_pose_data.in_mm(own.target, own, config)
        np.testing.assert_allclose(back, frames.joints, atol=1e-3)
    cube, window = crops["cube", "cube"], crops["window", "camera"]
    assert set(np.unique(cube.depth)) == {0, 1}  # at the centre, and behind the cube
    np.testing.assert_allclose(np.unique(window.depth), [0.7, 2], rtol=1e-6)  # [m], and missing
    # The window is that of the cube at 800 mm, so a nearer hand fills more of it.
    widths = [(own.depth[0, 16, :, 0] < own.depth.max()).sum() for own in (cube, window)]
    assert widths == [round(32 * 24 / n) for n in (86, 75)]
    np.testing.assert_allclose(window.target, frames.joints / 2000, rtol=1e-6)
    np.testing.assert_allclose(cube.target[:, PALM], 0, atol=1e-6)


def test_best_rates_and_what_is_compared():
    config = Config(net=("6", "anchors"), num_seeds=2, variant=(
        "learning_rate=0.1", "learning_rate=0.3", "learning_rate=1", "centre=palm"))  # fmt: skip
    losses = {"0.1": 3.0, "0.3": 1.0, "1": 2.0}
    kept = {}
    for net, scale in (("net6", 1.0), ("anchors", -1.0)):
        for rate, loss in losses.items():
            value = 5 + scale * loss  # the best of anchors is the lowest rate
            kept[f"{net}+learning_rate={rate}/valid_loss"] = [value, value + 0.1]
            kept[f"{net}+learning_rate={rate}/mean_error_mm"] = [value, value]
        kept[f"{net}+centre=palm/valid_loss"] = [1.0, 1.0]
    best, numbers = comparison.best_rows(config, kept)
    # centre=palm has the default rate, and is of another group.
    assert best == {
        "net6_best": "net6+learning_rate=0.3",
        "anchors_best": "anchors+learning_rate=0.1",
    }
    assert (numbers["net6_best/learning_rate"], numbers["net6_best/at_end"]) == (0.3, 0.0)
    assert (numbers["anchors_best/learning_rate"], numbers["anchors_best/at_end"]) == (0.1, 1.0)
    pairs = comparison.pairs(config, {*best, *(key.partition("/")[0] for key in kept)})
    assert ("anchors_best", "net6_best") in pairs
    assert ("anchors+centre=palm", "net6+centre=palm") in pairs
    assert ("net6+centre=palm", "net6_best") in pairs


def test_intervals_over_frames_when_there_is_one_seed():
    rng = np.random.default_rng(0)
    base = rng.uniform(10, 30, (200, 14))
    errors = {"net6": {"seen": base, "unseen": base}}
    errors["rgb"] = {test: 1.1 * base for test in ("seen", "unseen")}
    kept = {f"{name}/{prefix}mean_error_mm": [float(own["seen"].mean())]
            for name, own in errors.items() for prefix in ("", "unseen_")}  # fmt: skip
    found = comparison.changes(Config(net=("6", "rgb")), kept, errors, {})
    assert found["rgb_over_net6/mean_error_mm_change"] == [pytest.approx(0.1)]
    low, high = (found[f"rgb_over_net6/unseen_mean_error_mm_frames_{end}"]
                 for end in ("low", "high"))  # fmt: skip
    assert 0.095 < low < 0.1 < high < 0.105
    assert "rgb_over_net6/mean_error_mm_low" not in found
