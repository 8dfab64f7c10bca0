"""Errors of poses: invariances and closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from jaxcv.metrics.pose import by_action, mpjpe, procrustes_align, procrustes_mpjpe


def some_poses(seed, n=5, joints=17):
    rng = np.random.default_rng(seed)
    return 300 * rng.normal(size=(n, joints, 3)), 300 * rng.normal(size=(n, joints, 3))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 100))
def test_similarities_are_aligned_away(seed, scale):
    target, _ = some_poses(seed)
    rotation = Rotation.random(len(target), random_state=seed).as_matrix()
    moved = scale * target @ rotation + np.random.default_rng(seed).normal(size=(5, 1, 3)) * 1e3
    np.testing.assert_allclose(procrustes_align(moved, target), target, atol=1e-6)
    np.testing.assert_allclose(procrustes_mpjpe(moved, target), 0, atol=1e-6)


def test_the_alignment_is_the_least_squares_one_and_never_a_reflection():
    """scipy aligns rotations; scale and translation have closed forms."""
    a, b = some_poses(1)
    aligned = procrustes_align(a, b)
    for x, y, z in zip(a, b, aligned, strict=True):
        x, y = x - x.mean(0), y - y.mean(0)
        rotation = Rotation.align_vectors(y, x)[0].as_matrix()
        turned = x @ rotation.T
        scale = np.sum(turned * y) / np.sum(x**2)
        np.testing.assert_allclose(z - z.mean(0), scale * turned, atol=1e-6)
    mirrored = b * [-1, 1, 1]
    assert np.all(procrustes_mpjpe(mirrored, b) > 10)


def test_mean_distances():
    target = np.zeros((2, 3, 3))
    predicted = np.array([[[3, 4, 0], [0, 0, 0], [0, 0, 2]], [[1, 0, 0]] * 3], float)
    np.testing.assert_allclose(mpjpe(predicted, target), [7 / 3, 1])
    visible = np.array([[True, False, False], [False] * 3])
    np.testing.assert_allclose(mpjpe(predicted, target, visible), [5, np.nan])
    np.testing.assert_allclose(
        procrustes_mpjpe(predicted + 5, target + 5, joints=[1])[1], 0, atol=1e-12
    )


def test_the_average_weighs_actions_by_their_frames():
    table = by_action([1.0, 2, 3, 10], [0, 0, 0, 2], ("walk", "sit", "eat"))
    assert table == {"walk": 2.0, "eat": 10.0, "average": 4.0}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mpjpe(np.zeros((2, 17, 3)), np.zeros((2, 16, 3))), "`predicted`"),
        (lambda: mpjpe(np.zeros((17, 2)), np.zeros((17, 2))), "`predicted`"),
        (lambda: by_action([], [], ()), "`errors`"),
        (lambda: by_action([1.0], [0, 1], ("a", "b")), "`errors`"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
