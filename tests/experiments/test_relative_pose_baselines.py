"""Classical relative poses: every feature and estimator on the same pairs, too few matches."""

import numpy as np
import pytest

from experiments.relative_pose.baselines import ESTIMATORS, pose_of_matches
from experiments.relative_pose.conditions import covered_area
from jaxcv.data.synthetic.pose_pairs import PairRanges, generate_pose_pairs
from jaxcv.metrics.motion import rotation_error, translation_error
from jaxcv.systems.feature_matches import FEATURES, Matches, find_matches, normalised, padded

FEWEST_SHARE = 0.2  # of the matches that agree with a pose
EASY = PairRanges(angle=0.3, climb=1.0, blur=(0.5, 0.8), noise=0.002, exposure=0.1, turn=0.03)


@pytest.fixture(scope="module")
def pairs():
    return generate_pose_pairs(3, 3, (240, 320), textureless=0.0, ranges=EASY)


def matches_of(pairs, i, features):
    if features == "surf":
        pytest.importorskip("mahotas")
    return find_matches(pairs.first[i], pairs.second[i], features)


@pytest.mark.parametrize("features", FEATURES)
def test_matches_meet(pairs, features):
    shares = []
    for i in range(3):
        matches = matches_of(pairs, i, features)
        assert len(matches.ratio) > 20
        assert (np.diff(matches.ratio) >= 0).all()
        k = pairs.intrinsics1[i]
        p1, p2 = (np.c_[normalised(p, k), np.ones(len(p))] for p in matches[:2])
        x, y, z = pairs.direction[i]
        hat = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        line = p1 @ (hat @ pairs.rotation[i]).T
        away = np.abs((p2 * line).sum(axis=1)) / np.linalg.norm(line[:, :2], axis=1)
        shares.append((k[0, 0] * away < 2).mean())
    assert np.mean(shares) > 0.5


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_poses_come_back(pairs, estimator):
    if estimator == "poselib":
        pytest.importorskip("poselib")
    errors = []
    for i in range(3):
        matches = matches_of(pairs, i, "sift")
        k = pairs.intrinsics1[i]
        pose = pose_of_matches(matches, k, k, estimator, seed=1)
        again = pose_of_matches(matches, k, k, estimator, seed=1)
        np.testing.assert_array_equal(pose.rotation, again.rotation)
        np.testing.assert_allclose(np.linalg.norm(pose.direction), 1)
        assert FEWEST_SHARE * len(matches.ratio) < pose.inliers <= len(matches.ratio)
        errors.append(
            (
                rotation_error(pose.rotation, pairs.rotation[i]),
                translation_error(pose.direction, pairs.direction[i]),
            )
        )
    assert np.median(errors, axis=0)[0] < 1.5
    assert np.median(errors, axis=0)[1] < 12


def test_intrinsics_of_their_own(pairs):
    """The second image scaled by two, with its K, gives the same pose."""
    matches, k = matches_of(pairs, 0, "sift"), pairs.intrinsics1[0].astype(float)
    larger = matches._replace(points2=2 * matches.points2 + 0.5)
    k2 = np.diag([2.0, 2, 1]) @ k
    k2[:2, 2] += 0.5
    np.testing.assert_allclose(normalised(larger.points2, k2), normalised(matches.points2, k))
    pose = pose_of_matches(larger, k, k2)
    assert rotation_error(pose.rotation, pairs.rotation[0]) < 3


def test_padding(pairs):
    matches, k = matches_of(pairs, 0, "sift"), pairs.intrinsics1[0]
    p1, p2, ratio, valid = padded(matches, k, k, 16)
    assert p1.shape == p2.shape == (16, 2)
    assert valid.all()
    np.testing.assert_allclose(p1, normalised(matches.points1[:16], k), rtol=1e-5)
    few = Matches(*(leaf[:3] for leaf in matches))
    p1, _, ratio, valid = padded(few, k, k, 16)
    assert valid.tolist() == [True] * 3 + [False] * 13
    assert (ratio[3:] == 1).all()
    assert (p1[3:] == 0).all()


def test_too_little_to_go_on(pairs):
    k = pairs.intrinsics1[0]
    blank = np.full((64, 64, 3), 90, np.uint8)
    for features in ("sift", "orb"):
        assert len(find_matches(blank, blank, features).ratio) == 0
    matches = matches_of(pairs, 0, "sift")
    few = Matches(*(leaf[:4] for leaf in matches))
    for estimator in ("ransac", "magsac"):
        assert pose_of_matches(few, k, k, estimator) is None
    same = Matches(np.ones((9, 2)), np.ones((9, 2)), np.zeros(9))
    found = pose_of_matches(same, k, k)
    assert found is None or np.isfinite(found.rotation).all()
    with pytest.raises(ValueError, match="`features`: expected one of"):
        find_matches(blank, blank, "harris")
    with pytest.raises(ValueError, match=r"`image`: expected \(H, W, 3\) in 8 bits"):
        find_matches(blank / 255, blank, "sift")


def test_the_area_of_matches_is_that_of_their_hull():
    corners = np.array([[0, 0], [40, 0], [40, 30], [0, 30], [20, 15]], float)
    assert covered_area(corners, (60, 80)) == pytest.approx(0.25)
    assert covered_area(corners[:2], (60, 80)) == 0
    assert covered_area(np.c_[np.arange(9), np.arange(9)], (60, 80)) == 0  # on a line
