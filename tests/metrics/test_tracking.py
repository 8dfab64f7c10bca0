"""Tracking metrics against hand-computed values and the geometry they repeat."""

import numpy as np
import pytest

from jaxcv.geometry import boxes
from jaxcv.metrics import tracking


def test_box_iou_agrees_with_the_geometry_and_handles_bad_boxes():
    rng = np.random.default_rng(0)
    a = boxes.ltwh_to_corners(rng.uniform(0, 50, (200, 4)).astype(np.float32))
    b = boxes.ltwh_to_corners(rng.uniform(0, 50, (200, 4)).astype(np.float32))
    np.testing.assert_allclose(tracking.box_iou(a, b), boxes.iou(a, b), atol=1e-6)
    assert tracking.box_iou([0, 0, 2, 2], [1, 0, 3, 2]) == pytest.approx(1 / 3)
    bad = [[0, 0, 0, 0], [3, 3, 1, 1], [np.nan, 0, 1, 1]]
    np.testing.assert_array_equal(tracking.box_iou(bad, [0, 0, 2, 2]), 0)
    assert tracking.box_iou(np.zeros((5, 7, 4)), np.zeros((5, 1, 4))).shape == (5, 7)


def test_centre_error_in_pixels():
    assert tracking.centre_error([0, 0, 2, 2], [3, 4, 5, 6]) == pytest.approx(5)
    assert tracking.centre_error(np.zeros((6, 4)), np.zeros((6, 4))).shape == (6,)


def test_success_curve_and_its_area():
    curve = tracking.success_curve([0.1, 0.5, 0.9], [0, 0.5, 0.8, 1])
    np.testing.assert_allclose(curve, [1, 1 / 3, 1 / 3, 0])  # strictly above
    assert tracking.success_auc(np.ones(5)) == pytest.approx(20 / 21)
    iou = np.random.default_rng(0).random((3, 50))
    assert tracking.success_curve(iou).shape == (3, 21)
    fine = tracking.success_auc(iou, np.linspace(0, 1, 4001))
    np.testing.assert_allclose(fine, iou.mean(-1), atol=1e-3)
    with pytest.raises(ValueError, match="`iou`: expected"):
        tracking.success_curve(np.zeros((3, 0)))
    with pytest.raises(ValueError, match="`thresholds`"):
        tracking.success_curve(iou, 0.5)


def test_sequence_means_and_counts():
    means, counts = tracking.sequence_means([[1, 3, 5], [0, 0, 1]], np.array([0, 0, 2]), 4)
    np.testing.assert_array_equal(counts, [2, 0, 1, 0])
    np.testing.assert_array_equal(means, [[2, np.nan, 5, np.nan], [0, np.nan, 1, np.nan]])
    with pytest.raises(ValueError, match="`sequence`: expected indices"):
        tracking.sequence_means([1.0], np.array([3]), 2)
    with pytest.raises(ValueError, match="`values`"):
        tracking.sequence_means([1.0, 2.0], np.array([0]))


def test_bootstrap_of_a_constant_difference_has_no_width():
    b = np.random.default_rng(0).random(10)
    found = tracking.paired_bootstrap(b + 0.25, b, np.arange(1, 11))
    np.testing.assert_allclose(found, 0.25)


def test_bootstrap_of_two_sequences_is_known():
    # Resamples: both first, one of each (twice as often), both second: 0, .5, 1 if equal weights.
    found = tracking.paired_bootstrap([0.0, 1.0], [0.0, 0.0], [5, 5], num_resamples=2000)
    assert found == (0.5, 0.0, 1.0)
    half = tracking.paired_bootstrap([0, 1], [0, 0], [5, 5], confidence=0.4, num_resamples=2000)
    assert half == (0.5, 0.5, 0.5)  # the middle 40 % lie in the middle half
    # Weights: D = w_2 / (w_1 + w_2), the frame mean, and the same again with sequences apart.
    assert tracking.paired_bootstrap([0, 1], [0, 0], [30, 10]).difference == 0.25


def test_bootstrap_matches_the_normal_interval():
    rng = np.random.default_rng(1)
    difference = rng.normal(0.3, 1.0, 400)
    found = tracking.paired_bootstrap(difference, np.zeros(400), np.ones(400))
    error = 1.96 * difference.std() / 20
    np.testing.assert_allclose(found.low, difference.mean() - error, atol=0.015)
    np.testing.assert_allclose(found.high, difference.mean() + error, atol=0.015)
    assert found == tracking.paired_bootstrap(difference, np.zeros(400), np.ones(400))


def test_bootstrap_leaves_out_weight_zero_and_checks_its_input():
    found = tracking.paired_bootstrap([0.5, np.nan], [0.25, 0.0], [3, 0])
    np.testing.assert_allclose(found, 0.25)
    with pytest.raises(ValueError, match="finite"):
        tracking.paired_bootstrap([0.5, np.nan], [0.25, 0.0], [3, 1])
    with pytest.raises(ValueError, match="`weights`"):
        tracking.paired_bootstrap([0.5], [0.5], [0])
    with pytest.raises(ValueError, match="one shape"):
        tracking.paired_bootstrap([0.5], [0.5, 0.1], [1])
    with pytest.raises(ValueError, match="`confidence`"):
        tracking.paired_bootstrap([0.5], [0.5], [1], confidence=95)
    with pytest.raises(ValueError, match="`num_resamples`"):
        tracking.paired_bootstrap([0.5], [0.5], [1], num_resamples=0)
