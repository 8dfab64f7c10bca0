"""Random search: draws within the ranges, and ranges that close in on the best."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcv.training import SearchRange, draw_settings, shrink_ranges

RANGES = {
    "learning_rate": SearchRange(1e-3, 1e-1, "log"),
    "momentum": SearchRange(0.8, 0.999, "log_complement"),
    "dropout": SearchRange(0.0, 0.1),
}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_even_on_the_scale_and_within_the_range(seed):
    drawn = draw_settings(np.random.default_rng(seed), RANGES, 400)
    for name, one in RANGES.items():
        assert (drawn[name] >= one.lower).all()
        assert (drawn[name] <= one.upper).all()
        low, high = one.ends()
        share = (one.to_scale(drawn[name]) - low) / (high - low)
        assert abs(share.mean() - 0.5) < 0.08  # 5.5 standard deviations
        np.testing.assert_allclose(one.of_scale(one.to_scale(drawn[name])), drawn[name], atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(5, 60))
def test_the_next_range_holds_the_best_and_lies_within_the_first(seed, count):
    rng = np.random.default_rng(seed)
    drawn = draw_settings(rng, RANGES, count)
    scores = rng.normal(size=count)
    scores[rng.random(count) < 0.2] = np.nan
    after = shrink_ranges(RANGES, RANGES, drawn, scores)
    best = int(np.nanargmin(scores)) if np.isfinite(scores).any() else None
    for name, one in after.items():
        first = RANGES[name]
        assert first.lower <= one.lower < one.upper <= first.upper
        if best is not None:
            assert one.lower - 1e-9 <= drawn[name][best] <= one.upper + 1e-9


def test_three_rounds_find_a_valley():
    ranges, rng = RANGES, np.random.default_rng(0)
    for _ in range(3):
        drawn = draw_settings(rng, ranges, 50)
        away = np.log10(drawn["learning_rate"] / 0.01) ** 2 + (drawn["momentum"] - 0.9) ** 2
        ranges = shrink_ranges(ranges, RANGES, drawn, away)
    rate = ranges["learning_rate"]
    assert rate.lower < 0.01 < rate.upper
    assert rate.upper / rate.lower < 3


def test_nothing_finite_keeps_the_ranges():
    drawn = draw_settings(np.random.default_rng(0), RANGES, 5)
    assert shrink_ranges(RANGES, RANGES, drawn, np.full(5, np.nan)) == RANGES


def test_bad_ranges_are_named():
    rng = np.random.default_rng(0)
    for bad in (SearchRange(0.0, 1.0, "log"), SearchRange(1.0, 0.5), SearchRange(0, 1, "cube")):
        with pytest.raises(ValueError, match="learning_rate"):
            draw_settings(rng, {"learning_rate": bad}, 2)
