"""Errors of hand poses: closed forms, invariances, and published predictions of four methods."""

import numpy as np
import pytest

from jaxcv.data.hand import joints_of_pixels, pixels_of_joints
from jaxcv.metrics.hand import (
    THRESHOLDS,
    joint_errors,
    lift_joints,
    pose_scores,
    success_rate,
)

PUBLISHED = {  # mean error [mm]; frames [%] within 20, 30, 40, 50, 80 mm; error of the palm [mm]
    "deep_prior": (20.750, (16.27, 36.22, 49.24, 62.08, 91.19), None),
    "deep_prior_refinement": (19.726, (23.65, 39.57, 52.02, 62.60, 88.15), 10.84),
    "deep_model": (17.036, (18.97, 41.93, 58.20, 71.78, 95.07), 6.79),
    "feedback": (15.973, (18.94, 43.78, 65.85, 80.08, 97.33), 1.24),
}


@pytest.mark.real_data
@pytest.mark.parametrize("method", PUBLISHED)
def test_published_predictions(method, real_data):
    folder = real_data / "hand_pose" / "nyu_published"
    read = lambda name: joints_of_pixels(np.load(folder / f"{name}.npz")["joints_uvd"])
    errors = joint_errors(read(method), read("groundtruth"))
    mean, rates, palm = PUBLISHED[method]
    assert errors.shape == (8252, 14)
    assert round(errors.mean(), 3) == mean
    found = 100 * success_rate(errors, [20, 30, 40, 50, 80])
    np.testing.assert_array_equal(found.round(2), rates)
    assert palm is None or round(errors.mean(axis=0)[13], 2) == palm
    # The second person begins at frame 2441, and is smaller.
    assert errors[:2440].mean() < errors[2440:].mean()


def test_a_threshold_includes_itself():
    target = np.zeros((4, 14, 3))
    predicted = target.copy()
    predicted[2, 5] = [30, 0, 0]
    errors = joint_errors(predicted, target)
    assert errors[2, 5] == 30
    rates = success_rate(errors)
    assert rates[0] == 0.75
    assert rates[29] == 0.75
    assert rates[30] == 1
    assert len(THRESHOLDS) == len(rates) == 81


def test_scores_of_a_method():
    errors = np.array([[4.0, 2.0, 0.0], [8.0, 2.0, 30.0]])
    got = pose_scores(errors, ("A1", "A2", "C"), (10, 30), tips=(0,), middles=(1,))
    assert got == {
        "mean_error_mm": pytest.approx(46 / 6), "success_10mm": 0.5, "success_30mm": 1.0,
        "joint_A1_mm": 6.0, "joint_A2_mm": 2.0, "joint_C_mm": 15.0, "tips_over_middles": 3.0,
    }  # fmt: skip
    assert "tips_over_middles" not in pose_scores(errors, ("A1", "A2", "C"), ())


def test_missing_joints():
    errors = np.array([[1.0, np.nan], [np.nan, np.nan], [1.0, 5.0]])
    np.testing.assert_allclose(success_rate(errors, [0, 1, 5]), [0, 1 / 3, 2 / 3])
    joints = np.zeros((2, 3, 3))
    joints[1, 2, 0] = np.nan
    with pytest.raises(ValueError, match=r"`predicted`: expected finite joints, got nan at \(1, 2"):
        joint_errors(joints, np.zeros_like(joints))
    assert np.isnan(joint_errors(joints, np.zeros_like(joints), missing=True)[1, 2])
    with pytest.raises(ValueError, match=r"`predicted`: expected \(..., J, 3\)"):
        joint_errors(np.zeros((2, 14, 3)), np.zeros((2, 36, 3)))
    with pytest.raises(ValueError, match=r"`errors`: expected \(N, J\)"):
        success_rate(np.zeros((0, 14)))


def test_pixels_and_joints():
    """y goes up: a pixel above the middle has a positive y."""
    point = joints_of_pixels(np.array([320 + 58.803, 240 - 58.707, 1000.0]))
    np.testing.assert_allclose(point, [100, 100, 1000], rtol=1e-6)
    points = np.random.default_rng(0).normal([0, 0, 800], [100, 100, 50], (5, 14, 3))
    np.testing.assert_allclose(joints_of_pixels(pixels_of_joints(points)), points, rtol=1e-5)
    # Errors cannot tell whether y goes up; the pixels can.
    turned = points * [1, -1, 1]
    moved = turned + np.array([1.0, 2.0, 2.0])
    np.testing.assert_allclose(joint_errors(moved, turned), 3)
    assert np.abs(pixels_of_joints(turned) - pixels_of_joints(points)).max() > 1


def test_lifting_by_the_depth_image():
    depth = np.zeros((1, 4, 6))
    depth[0, 1, 2], depth[0, 3, 5] = 700, 900
    pixels = np.array([[[2.4, 0.6], [5.0, 3.0], [0.0, 0.0], [6.0, 1.0]]])
    lifted = lift_joints(pixels, depth, np.full((1, 4), 650.0), np.array([710.0]))
    np.testing.assert_array_equal(lifted[0, :, 2], [700, 650, 650, 650])
    np.testing.assert_array_equal(lifted[..., :2], pixels)
    with pytest.raises(ValueError, match=r"`pixels`: expected \(N, J, 2\)"):
        lift_joints(pixels[0], depth, np.zeros((1, 4)), np.zeros(1))
