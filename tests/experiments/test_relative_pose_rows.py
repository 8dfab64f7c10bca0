"""Rows of relative pose: defaults of OpenCV, guessed intrinsics, scenes, rows before a training."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from experiments import relative_pose as experiment
from experiments import runner
from experiments.relative_pose import evaluation, figures, scores, training
from experiments.relative_pose.baselines import METHODS, feature_poses, matches_of
from experiments.relative_pose.conditions import conditions_of
from experiments.relative_pose.data import Matched
from experiments.relative_pose.images import at_size
from jaxcv.data.relative_pose import PosePairs
from jaxcv.data.synthetic.pose_pairs import PairRanges, _furnished
from jaxcv.data.synthetic.stereo import Scene
from jaxcv.systems.feature_matches import Matches, find_matches
from jaxcv.systems.two_view import match_arrays

K = np.array([[384.0, 0, 159.5], [0, 384, 119.5], [0, 0, 1]])  # of 320 x 240 px, as is guessed


@pytest.fixture(scope="module")
def rooms():
    """Four pairs of images of noise with exact matches of points, at both sizes."""
    rng = np.random.default_rng(0)
    rotation = Rotation.from_rotvec(0.2 * rng.normal(size=(4, 3))).as_matrix()
    direction = np.array([[1.0, 0, 0]] * 4)
    points = rng.uniform([-1, -1, 3], [1, 1, 6], (4, 60, 3))
    moved = np.einsum("nij,nmj->nmi", rotation, points) + direction[:, None]
    pixels = [(x @ K.T)[..., :2] / x[..., 2:] for x in (points, moved)]
    found = [Matches(p, q, np.linspace(0.1, 0.7, 60)) for p, q in zip(*pixels, strict=True)]
    noise = rng.integers(0, 255, (60, 80, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    images, k = np.stack([noise] * 4), np.stack([K] * 4)
    full = PosePairs(images, images, k, k, rotation, direction, np.ones(4, bool), np.zeros(4))
    return Matched(at_size(full, (96, 128)), full, found, match_arrays(found, k, k))


def test_guessed_intrinsics_are_those_of_their_rule(rooms):
    """The focal length of the pairs is that of the guess: both rows are equal."""
    pairs, found = matches_of(rooms, METHODS["sift_ransac"])
    poses = lambda pairs, name: feature_poses(pairs, found, METHODS[name], 0)
    known, guessed = (poses(pairs, name) for name in ("sift_ransac", "sift_ransac_guessed"))
    np.testing.assert_allclose(known[0], pairs.rotation, atol=1e-4)
    np.testing.assert_allclose(known[1], pairs.direction, atol=1e-3)
    np.testing.assert_allclose(guessed[0], known[0], atol=1e-6)
    other = pairs._replace(intrinsics1=pairs.intrinsics1 * [[[1.5], [1.5], [1]]])
    assert np.nanmax(np.abs(poses(other, "sift_ransac")[0] - known[0])) > 0.01
    np.testing.assert_array_equal(poses(other, "sift_ransac_guessed")[0], guessed[0])


def test_rows_with_the_default_parameters(rooms):
    for name, most in (("sift_defaults", 0), ("orb_defaults", 500)):
        method = METHODS[name]
        assert (method.most, method.confidence, method.estimator) == (most, 0.999, "ransac")
        small, found = matches_of(rooms, METHODS[f"{name}_small"])
        assert small.first.shape[1:3] == (96, 128)
        assert len(found) == 4
    image = rooms.full.first[0]
    counts = [len(find_matches(image, image, "sift", most=most).ratio) for most in (0, 50)]
    assert counts[0] > counts[1] > 10


def test_scores_by_scene_and_by_number_of_matches():
    rng = np.random.default_rng(0)
    rotation, direction = np.tile(np.eye(3), (8, 1, 1)), np.tile([1.0, 0, 0], (8, 1))
    right = scores.Poses(rotation, direction, np.full(8, np.nan))
    rows = np.arange(8) % 2 == 1
    wrong = right._replace(direction=np.where(rows[:, None], np.nan, direction))
    number = rng.permutation(8)
    found = [Matches(np.zeros((n, 2)), np.zeros((n, 2)), np.zeros(n)) for n in number]
    pairs = SimpleNamespace(
        rotation=rotation,
        direction=direction,
        textured=np.ones(8, bool),
        overlap=np.full(8, np.nan),
    )
    full = SimpleNamespace(first=np.zeros((8, 10, 10, 3)))
    scenes = np.where(rows, "shiny", "plain")
    test: Any = SimpleNamespace(pairs=pairs, full=full, found=found, scenes=scenes)
    data: Any = SimpleNamespace(test=test)
    got = scores.by_scene(data, {"a": right, "b": wrong})
    assert got["pairs/scene_shiny"] == got["pairs/scene_plain"] == 4
    assert (got["a/scene_shiny/failures"], got["b/scene_shiny/failures"]) == (0, 1)
    assert (got["b/scene_plain/answered"], got["b/scene_shiny/rte_median_deg"]) == (1, 180)
    test.scenes = None
    assert scores.by_scene(data, {"a": right}) == {}
    quarters = conditions_of(test)
    for k in range(4):
        assert sorted(number[quarters[f"matches_quarter_{k + 1}"]]) == [2 * k, 2 * k + 1]


def test_the_pairs_of_the_figure_are_those_where_the_network_is_most_ahead_and_behind():
    pairs = SimpleNamespace(rotation=np.tile(np.eye(3), (5, 1, 1)), direction=np.eye(3)[[0] * 5])
    at = lambda degrees: np.stack(
        [np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees)), 0 * np.asarray(degrees)], axis=1
    )
    poses = lambda degrees: scores.Poses(pairs.rotation, at(degrees), np.full(5, np.nan))
    features, network = poses([40.0, 10, 5, np.nan, 1]), poses([10.0, 20, 50, 0, 4])
    data: Any = SimpleNamespace(test=SimpleNamespace(pairs=pairs))
    assert figures.extremes(data, features, network) == [0, 1, 2]  # ahead by 30, -3, -10, -45


def test_free_rooms_have_any_heading_and_no_dark_floor():
    none = jnp.zeros(())
    scene = Scene(*[none] * len(Scene._fields))
    scene = scene._replace(turn=jnp.eye(3)[None], centre=jnp.zeros((1, 3)))
    one = lambda key, ranges: _furnished(key, scene, ranges)
    furnished = jax.jit(jax.vmap(one, (0, None)))

    def drawn(ranges):
        own = furnished(jax.random.split(jax.random.key(0), 200), ranges)
        turn, shades = np.asarray(own.turn)[:, 0], np.asarray(own.faces)[..., 0]
        return np.abs(np.arctan2(turn[:, 0, 2], turn[:, 0, 0])), shades[:, 1] - shades[:, 4]

    heading, shades = drawn(PairRanges())
    assert heading.max() < 0.2
    assert (np.sign(shades) == np.sign(shades[0])).mean() > 0.99
    heading, shades = drawn(PairRanges(yaw=np.pi, exchanged=True))
    assert (heading > np.pi / 2).mean() == pytest.approx(0.5, abs=0.15)
    assert (shades > 0).mean() == pytest.approx(0.5, abs=0.15)


@pytest.mark.slow
def test_rows_before_a_training_are_those_of_the_training_it_started_from(tmp_path):
    """Each seed starts from the seed of the earlier training; variants are rows beside it."""
    config = training.Config(
        width=0.05, height=40, width_px=48, full_height=96, full_width=128, num_train=12,
        num_valid=4, num_matched=2, num_test=6, steps=2, batch_size=4, refine=False, num_seeds=2,
        feature_method=("orb_defaults",), cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    first = experiment.train(config, tmp_path / "first")["metrics"]
    again = dataclasses.replace(
        config, init_from=str(tmp_path / "first"), steps=3, variant=("steps=1", "beta=1")
    )
    second = experiment.train(again, tmp_path / "second")["metrics"]
    for key in ("all/roe_median_deg_of_seeds", "unrelated/roe_median_deg_of_seeds"):
        np.testing.assert_allclose(second[f"cnnBspp_before/{key}"], first[f"cnnBspp/{key}"])
    values = first["cnnBspp/all/rte_median_deg_of_seeds"]
    assert values[0] != values[1]
    change = second["cnnBspp_over_cnnBspp_before/rte_median_deg_change"]
    after = np.array(second["cnnBspp/all/rte_median_deg_of_seeds"])
    np.testing.assert_allclose(change, after / values - 1)
    assert "cnnBspp_beta=1_over_cnnBspp/all/failures_of_pairs" in second
    assert len(second["cnnBspp_steps=1/all/roe_median_deg_of_seeds"]) == 2
    assert "cnnBspp_over_constant/all/failures_of_pairs" in second
    assert {name for name in METHODS if f"{name}/all/failures" in second} == {"orb_defaults"}
    with pytest.raises(runner.DataError, match="expected the folder of a training with 3 seeds"):
        training.load(dataclasses.replace(again, num_seeds=3))
    assert evaluation.compared(again)[-1] == ("cnnBspp", "cnnBspp_before")
