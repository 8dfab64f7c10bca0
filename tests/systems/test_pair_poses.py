"""Poses of many pairs at once: those of pairs alone, however chunked; matches and their weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jaxcv.metrics.motion import rotation_error, translation_error
from jaxcv.systems import RefinedPose, RelativePose, pair_poses
from jaxcv.systems.feature_matches import (
    Features,
    Matches,
    find_features,
    find_matches,
    match_features,
    normalised,
)
from jaxcv.systems.pair_poses import inlier_weights, poses_of_matches

K1 = np.array([[300.0, 0, 160], [0, 310, 120], [0, 0, 1]])
K2 = np.array([[280.0, 0, 150], [0, 280, 125], [0, 0, 1]])


def pair(seed, count=60, outliers=0, noise=0.0):
    """Matches of points before both cameras, some of them wrong, and the pose."""
    rng = np.random.default_rng(seed)
    rotation = Rotation.from_rotvec(rng.normal(scale=0.1, size=3)).as_matrix()
    move = np.array([1.0, 0.2, 0.1]) * rng.choice([-1, 1])
    points = np.c_[rng.uniform(-1.5, 1.5, (count, 2)), rng.uniform(4, 9, count)]
    other = points @ rotation.T + move
    pixels = [
        (each @ k.T)[:, :2] / each[:, 2:] + noise * rng.normal(size=(count, 2))
        for each, k in ((points, K1), (other, K2))
    ]
    pixels[1][:outliers] += rng.uniform(20, 60, (outliers, 2)) * rng.choice([-1, 1], (outliers, 2))
    ratio = np.sort(rng.uniform(0.2, 0.79, count))
    return Matches(*pixels, ratio), rotation, move / np.linalg.norm(move)


def poses(pairs, **options):
    count = len(pairs)
    return poses_of_matches(
        [own[0] for own in pairs], np.tile(K1, (count, 1, 1)), np.tile(K2, (count, 1, 1)), **options
    )


@pytest.mark.slow  # compiles the minimisation
def test_poses_of_pairs_are_true_and_do_not_depend_on_the_chunks():
    pairs = [pair(seed, outliers=seed) for seed in range(5)]
    found = poses(pairs, chunk_size=2)  # the last chunk is filled up
    for own, (matches, rotation, direction) in zip(found, pairs, strict=True):
        assert float(rotation_error(own.rotation, rotation)) < 0.1
        assert float(translation_error(own.direction, direction)) < 0.5
        assert own.confidence > 0.95
        assert own.matches == len(matches.ratio)
    again = poses([pairs[0], pairs[1]], chunk_size=2)
    np.testing.assert_array_equal(again[0].rotation, found[0].rotation)
    np.testing.assert_array_equal(again[1].direction, found[1].direction)


@pytest.fixture
def instant(monkeypatch):
    """Instead of the minimisation, "poses" whose direction is the mean of the points."""
    calls = []

    def refined(arrays, key):
        calls.append((arrays, key))
        count = len(arrays.focal)
        weight = arrays.valid[..., None] / np.maximum(arrays.valid.sum(axis=1), 1)[:, None, None]
        mean = np.sum(np.asarray(arrays.points1) * weight, axis=1)
        direction = np.concatenate([mean, np.ones((count, 1), np.float32)], axis=1)
        ones = np.ones(count, np.float32)
        fields = dict.fromkeys(RefinedPose._fields, ones) | {
            "rotation": np.tile(np.eye(3, dtype=np.float32), (count, 1, 1)),
            "direction": direction, "odds": 0 * ones,
            "covariance": np.tile(1e-6 * np.eye(5, dtype=np.float32), (count, 1, 1)),
            "inliers": arrays.valid.astype(np.float32),
            "runner_up": (np.zeros((count, 3, 3)), np.zeros((count, 3))), "density": None,
        }  # fmt: skip
        return RefinedPose(**fields)

    monkeypatch.setattr(pair_poses, "refined_alone", refined)
    return calls


def test_chunks_have_one_size_and_poses_the_order_of_the_pairs(instant):
    pairs = [pair(seed) for seed in range(5)]
    for size, chunks in ((2, 3), (5, 1), (32, 1)):
        instant.clear()
        done = []
        found = poses(pairs, chunk_size=size, report=done.append)
        assert len(found) == 5
        assert done == [*range(size, 5, size), 5]
        assert [len(arrays.focal) for arrays, _ in instant] == [min(size, 5)] * chunks
        keys = [jax.random.key_data(key).tolist() for _, key in instant]
        assert len({str(key) for key in keys}) == chunks  # other samples in every chunk
        for own, (matches, _, _) in zip(found, pairs, strict=True):
            want = normalised(matches.points1, K1).mean(axis=0)
            np.testing.assert_allclose(own.direction, [*want, 1], atol=1e-5)
            assert own.matches == 60
            assert own.confidence > 0.95
            assert len(own.inliers) == len(own.points2) == 60


def test_too_few_matches_have_no_pose_and_leave_the_others_alone(instant):
    matches = pair(0)[0]
    few = Matches(*(leaf[:4] for leaf in matches))
    none = Matches(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0))
    found = poses([(few,), (matches,), (none,)], chunk_size=2)
    for own, count in ((found[0], 4), (found[2], 0)):
        assert np.isnan(own.rotation).all()
        assert np.isnan(own.direction).all()
        assert (own.confidence, own.matches) == (0, count)
    assert np.isfinite(found[1].direction).all()
    instant.clear()
    assert poses([]) == []
    assert not instant
    np.testing.assert_array_equal(inlier_weights(found[0], few, K1, K2), 0)


def test_what_is_refused():
    matches = pair(0)[0]
    with pytest.raises(ValueError, match="`intrinsics2`: expected those of 1 pairs"):
        poses_of_matches([matches], K1[None], np.tile(K2, (2, 1, 1)))
    with pytest.raises(ValueError, match=r"`params`: expected \['network', 'head', 'first'"):
        poses_of_matches([matches], K1[None], K2[None], params={})
    with pytest.raises(ValueError, match="`chunk_size`"):
        poses_of_matches([matches], K1[None], K2[None], chunk_size=0)
    images = [np.zeros((8, 8, 3), np.uint8)] * 2
    with pytest.raises(ValueError, match="`first`: expected images of 1 pairs, got 2"):
        poses_of_matches(
            [matches], K1[None], K2[None], params={}, network=0, head=0, first=images,
            second=images,
        )  # fmt: skip


def test_weights_are_the_kernel_of_the_distance():
    """A match moved off its epipolar line by d in one image has Sampson's distance of about d."""
    matches, rotation, direction = pair(3)
    pose = RelativePose(rotation, direction, np.float64(1), 60)
    np.testing.assert_allclose(inlier_weights(pose, matches, K1, K2), 1, atol=1e-3)
    # The points of a sideways motion along x have horizontal lines: moves along y are distances,
    # shared by both images (Sampson's distance is d / sqrt(2)).
    points = np.random.default_rng(0).uniform(-0.3, 0.3, (40, 2))
    depth = np.linspace(3, 8, 40)[:, None]
    k = np.array([[200.0, 0, 100], [0, 200, 100], [0, 0, 1]])
    first = 200 * points + 100
    second = 200 * (points + np.array([1.0, 0]) / depth) + 100
    sideways = RelativePose(np.eye(3), np.array([1.0, 0, 0]), np.float64(1), 40)
    for away in (0.0, 1.0, 3.0):
        moved = Matches(first, second + np.array([0, away]), np.full(40, 0.5))
        want = np.exp(-(away**2) / 2 / 1.5**2)
        np.testing.assert_allclose(inlier_weights(sideways, moved, k, k), want, atol=1e-3)
    back = Matches(second, first, np.full(40, 0.5))  # behind both cameras
    np.testing.assert_array_equal(inlier_weights(sideways, back, k, k), 0)


def test_weights_do_not_depend_on_the_number_of_matches():
    matches, rotation, direction = pair(3, outliers=10, noise=0.3)
    pose = RelativePose(rotation, direction, np.float64(1), 60)
    whole = inlier_weights(pose, matches, K1, K2)
    assert whole.shape == (60,)
    assert (whole[:10] < 0.1).mean() > 0.7
    assert (whole[10:] > 0.5).all()
    part = inlier_weights(pose, Matches(*(leaf[7:20] for leaf in matches)), K1, K2)
    np.testing.assert_allclose(part, whole[7:20], atol=1e-6)


@pytest.mark.parametrize("features", ["sift", "orb"])
def test_features_found_once_match_as_in_a_pair(features):
    pytest.importorskip("cv2")
    rng = np.random.default_rng(0)
    texture = np.kron(rng.integers(0, 255, (40, 60, 3)), np.ones((6, 6, 1))).astype(np.uint8)
    first, second = texture[:200, :300], texture[:200, 12:312]
    found = find_matches(first, second, features)
    described = [find_features(image, features) for image in (first, second)]
    rows, ratio = match_features(*described)
    assert len(ratio) > 20
    np.testing.assert_array_equal(found.points1, described[0].points[rows[:, 0]])
    np.testing.assert_array_equal(found.points2, described[1].points[rows[:, 1]])
    np.testing.assert_array_equal(found.ratio, ratio)
    np.testing.assert_allclose(np.median(found.points1 - found.points2, axis=0), [12, 0], atol=0.1)
    assert (np.diff(ratio) >= 0).all()
    assert len(np.unique(rows[:, 1])) == len(rows)


def test_matches_are_mutual_and_pass_the_ratio_test():
    """Against all distances, one by one."""
    rng = np.random.default_rng(1)
    one, other = rng.normal(size=(30, 4)), rng.normal(size=(25, 4))
    other[:12] = one[:12] + 0.05 * rng.normal(size=(12, 4))
    other[12] = other[3]  # two alike: their match has a ratio of about one
    rows, ratio = match_features(
        Features(np.zeros((30, 2)), one), Features(np.zeros((25, 2)), other)
    )
    apart = np.linalg.norm(one[:, None] - other[None], axis=-1)
    want = []
    for i in range(30):
        order = np.argsort(apart[i], kind="stable")
        value = apart[i, order[0]] / apart[i, order[1]]
        if apart[:, order[0]].argmin() == i and value < 0.8:
            want.append((value, i, order[0]))
    want.sort()
    np.testing.assert_array_equal(rows, [own[1:] for own in want])
    np.testing.assert_allclose(ratio, [own[0] for own in want], rtol=1e-3)
    assert 3 not in rows[:, 0]
    for count in (0, 1):
        none = Features(np.zeros((count, 2)), np.zeros((count, 4)))
        rows, ratio = match_features(none, Features(np.zeros((25, 2)), other))
        assert rows.shape == (0, 2)
        assert ratio.shape == (0,)


@pytest.mark.slow
def test_with_a_network_one_pair_is_as_by_relative_pose():
    from jaxcv.models.relative_pose import MatchHead, PoseNetwork
    from jaxcv.systems import relative_pose
    from jaxcv.systems.two_view import MATCH_NUMBERS, PoseScales, resized

    network, head, shape = PoseNetwork("cnnBspp", width=0.05), MatchHead(4, 8), (40, 48)
    image = jnp.zeros((1, *shape, 3))
    own = jax.jit(network.init)(jax.random.key(0), image, image)
    both = network.apply(own, image, image, method="both_features")
    params = {
        "network": own,
        "head": jax.jit(head.init)(jax.random.key(1), both, jnp.zeros((1, 1, MATCH_NUMBERS))),
        "scales": PoseScales(jnp.array([2.0, 2.0]), jnp.log(0.5), jnp.log(3.0)),
    }
    rng = np.random.default_rng(0)
    texture = np.kron(rng.integers(0, 255, (40, 60, 3)), np.ones((6, 6, 1))).astype(np.uint8)
    images = texture[:200, :300], texture[:200, 12:312]
    k = np.array([[300.0, 0, 149.5], [0, 300, 99.5], [0, 0, 1]])
    single = relative_pose(*images, k, k, params=params, network=network, head=head, shape=shape)
    small = [resized(each, shape) for each in images]
    found = poses_of_matches(
        [find_matches(*images)], k[None], k[None], params=params, network=network, head=head,
        first=small[:1], second=small[1:],
    )  # fmt: skip
    np.testing.assert_allclose(found[0].rotation, single.rotation, atol=1e-4)
    np.testing.assert_allclose(found[0].confidence, single.confidence, atol=1e-3)
