"""The synthetic population: deterministic, valid, and as hard as it says."""

import jax
import numpy as np
import pytest

from jaxcv.data.synthetic.tracker_fusion import generate
from jaxcv.data.tracker_fusion import check_sequences, flatten_frames
from jaxcv.metrics.tracking import box_iou


def test_same_key_same_data():
    a = generate(jax.random.key(3), num_sequences=3, num_frames=20)
    legacy = jax.random.PRNGKey(3)
    for b in (
        generate(3, num_sequences=3, num_frames=20),
        generate(legacy, num_sequences=3, num_frames=20),
    ):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)
    other = generate(4, num_sequences=3, num_frames=20)
    assert other.boxes.shape != a.boxes.shape or not np.array_equal(other.boxes, a.boxes)


def test_a_sequence_does_not_depend_on_how_many_there_are():
    few = generate(0, num_sequences=2, num_frames=20)
    many = generate(0, num_sequences=5, num_frames=20)
    n = few.lengths[1]
    np.testing.assert_array_equal(few.lengths, many.lengths[:2])
    np.testing.assert_array_equal(few.boxes[1, :n], many.boxes[1, :n])


def test_sizes_shapes_and_rules():
    s = generate(1, num_sequences=20, num_frames=60, num_trackers=9, dtype=np.float64)
    check_sequences(s)
    assert s.boxes.dtype == np.float64
    assert len(s.trackers) == len(set(s.trackers)) == 9
    assert 40 <= s.lengths.min() <= s.lengths.max() <= 60
    sides = s.ground_truth[..., 2:] - s.ground_truth[..., :2]
    size = np.sqrt(sides.prod(-1))[s.valid]
    assert 19.99 <= size.min() < size.max() <= 150.01
    assert not s.reported[:, 0].any()
    assert 0.9 < s.reported[:, 1:][s.valid[:, 1:]].mean() < 1  # some failures are not reported


def test_population_is_diverse_and_fusion_is_worth_while():
    s = generate(0)
    f = flatten_frames(s)
    each = box_iou(f.boxes, f.ground_truth[:, None])  # zero where not reported
    reported = np.where(f.reported[..., None], f.boxes, np.nan)
    mean = box_iou(np.nanmean(reported, 1), f.ground_truth).mean()
    median = box_iou(np.nanmedian(reported, 1), f.ground_truth).mean()
    best, oracle = each.mean(0).max(), each.max(1).mean()
    assert mean + 0.08 < median
    assert abs(best - median) < 0.1
    assert oracle > max(best, median) + 0.08
    # Identity persists: the mean log scale over even sequences predicts that over odd ones.
    scale = np.log(
        np.sqrt((reported[..., 2:] - reported[..., :2]).prod(-1))
        / np.sqrt((f.ground_truth[:, 2:] - f.ground_truth[:, :2]).prod(-1))[:, None]
    )
    good = np.where(each > 0.3, scale, np.nan)
    even, odd = (np.nanmedian(good[f.sequence % 2 == i], axis=0) for i in (0, 1))
    assert np.corrcoef(even, odd)[0, 1] > 0.8


def test_failures_grow_with_time():
    s = generate(2, num_sequences=60)
    f = flatten_frames(s)
    overlap = box_iou(f.boxes, f.ground_truth[:, None])
    assert overlap[f.frame < 10].mean() > overlap[f.frame > 30].mean() + 0.1


@pytest.mark.parametrize(
    "settings",
    [{"num_sequences": 0}, {"num_frames": 2}, {"num_trackers": 0}, {"missing_rate": 1.5}],
)
def test_settings_out_of_range(settings):
    with pytest.raises(ValueError, match=f"`{next(iter(settings))}`: expected"):
        generate(0, **settings)
