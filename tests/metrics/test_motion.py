"""Recall of relative poses: areas with known values, folding, failures."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcv.metrics.motion import cumulative_histogram, folded, pose_auc, pose_failures


def test_areas_of_known_errors():
    assert pose_auc([0.0, 0.0], [0.0, 0.0]).tolist() == [1, 1, 1]
    assert pose_auc([np.nan, 50.0], [1.0, 1.0]).tolist() == [0, 0, 0]
    # one pose at 4 degrees: up a line to (4, 1), then flat
    np.testing.assert_allclose(pose_auc([4.0], [1.0]), [(2 + 1) / 5, (2 + 6) / 10, (2 + 16) / 20])
    # two, one of them lost: half as high
    np.testing.assert_allclose(pose_auc([4.0, np.nan], [1.0, 2.0]), [0.3, 0.4, 0.45])
    # (0, 0), (2, 1/2), (6, 1): beyond 5 only the first counts
    np.testing.assert_allclose(pose_auc([2.0, 6.0], [0.0, 0.0], (5.0,)), [(0.5 + 1.5) / 5])


@given(st.lists(st.floats(0, 180), min_size=1, max_size=30), st.floats(0.5, 60))
@settings(deadline=None)
def test_area_is_bounded_and_grows_as_errors_fall(errors, threshold):
    errors = np.array(errors)
    area = pose_auc(errors, np.zeros(len(errors)), (threshold,))[0]
    assert -1e-12 <= area <= 1 + 1e-12
    assert pose_auc(errors / 2, np.zeros(len(errors)), (threshold,))[0] >= area - 1e-12
    assert area <= cumulative_histogram(errors, [threshold])[0] + 1e-12


def test_folding_failures_and_histograms():
    np.testing.assert_array_equal(folded([0, 80, 100, 180]), [0, 80, 80, 0])
    failed = pose_failures([1.0, 25.0, np.nan, 20.0], [2.0, 1.0, 1.0, 20.0])
    assert failed.tolist() == [False, True, True, False]
    shares = cumulative_histogram([1.0, 2.0, np.nan, 9.0], [1, 2, 100])
    np.testing.assert_allclose(shares, [0.25, 0.5, 0.75])


@pytest.mark.parametrize("errors", [[], [[1.0]], [-1.0]])
def test_bad_input(errors):
    with pytest.raises(ValueError, match=r"`errors`: expected \(N,\) of 0 or more"):
        pose_failures(errors, errors)
