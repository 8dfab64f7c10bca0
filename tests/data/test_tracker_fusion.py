"""Sequences of trackers: padding, scored frames, causality, errors."""

import numpy as np
import pytest

from jaxcv.data.tracker_fusion import check_sequences, flatten_frames, pad_sequences


def small(dtype=np.float32):
    """Two sequences (4 and 3 frames) of two trackers."""
    rng = np.random.default_rng(0)
    truths, reports, given = [], [], []
    for n in (4, 3):
        low = rng.uniform(0, 50, (n, 1, 2))
        truth = np.concatenate([low, low + 20], axis=-1)
        reports.append(truth + rng.normal(0, 1, (n, 2, 4)))
        truths.append(truth[:, 0])
        reported = np.ones((n, 2), bool)
        reported[0] = False
        given.append(reported)
    given[0][2, 1] = False
    return pad_sequences(["a", "b"], ["first", "second"], truths, reports, given, dtype=dtype)


def test_padding_is_zero_and_dtype_is_kept():
    for dtype in (np.float32, np.float64):
        s = small(dtype)
        assert s.boxes.shape == (2, 4, 2, 4)
        assert s.boxes.dtype == s.ground_truth.dtype == dtype
    np.testing.assert_array_equal(s.valid, [[1, 1, 1, 1], [1, 1, 1, 0]])
    np.testing.assert_array_equal(s.lengths, [4, 3])
    assert not s.boxes[1, 3].any()
    assert not s.boxes[0, 2, 1].any()


def test_scored_frames_and_their_causal_inputs():
    s = small()
    f = flatten_frames(s)
    np.testing.assert_array_equal(f.sequence, [0, 0, 0, 1, 1])
    np.testing.assert_array_equal(f.frame, [1, 2, 3, 1, 2])
    np.testing.assert_array_equal(f.ground_truth, s.ground_truth[f.sequence, f.frame])
    np.testing.assert_array_equal(f.boxes, s.boxes[f.sequence, f.frame])
    np.testing.assert_array_equal(f.initial, s.ground_truth[f.sequence, 0])
    np.testing.assert_array_equal(f.previous[[0, 3]], f.initial[[0, 3], None] * np.ones((2, 1)))
    np.testing.assert_array_equal(f.previous[1], s.boxes[0, 1])
    # The second tracker reported nothing in the third frame: its last box is that of the second.
    np.testing.assert_array_equal(f.previous[2], [s.boxes[0, 2, 0], s.boxes[0, 1, 1]])


@pytest.mark.parametrize("absent", [0.0, np.nan])
def test_frames_without_object_or_reports_are_not_scored(absent):
    s = small()
    s.ground_truth[0, 1] = absent
    s.boxes[1, 2], s.reported[1, 2] = 0, False
    check_sequences(s)
    f = flatten_frames(s)
    np.testing.assert_array_equal(f.sequence, [0, 0, 1])
    np.testing.assert_array_equal(f.frame, [2, 3, 1])


def test_a_first_report_does_not_replace_the_initial_box():
    s = small()
    s.boxes[0, 0], s.reported[0, 0] = [1, 1, 2, 2], True
    f = flatten_frames(s)
    np.testing.assert_array_equal(f.previous[0], f.initial[[0, 0]])


@pytest.mark.parametrize("frame", [1, 2, 3])
def test_no_future_information(frame):
    """Changing, or cutting off, what comes after a frame leaves its row as it is."""
    s = small()
    before = flatten_frames(s)
    keep = (before.sequence != 0) | (before.frame < frame)
    s.boxes[0, frame:] = np.where(s.reported[0, frame:, :, None], [1, 1, 3, 3], 0)
    s.ground_truth[0, frame:] = [1, 1, 2, 2]
    s.reported[0, frame:, 1], s.boxes[0, frame:, 1] = False, 0
    after = flatten_frames(s)
    cut = s._replace(valid=s.valid & ~((np.arange(4) >= frame) & np.array([[True], [False]])))
    cut.lengths[0] = frame
    shorter = flatten_frames(cut)
    kept_after = (after.sequence != 0) | (after.frame < frame)
    for old, new, short in zip(before, after, shorter, strict=True):
        np.testing.assert_array_equal(new[kept_after], old[keep])
        np.testing.assert_array_equal(short, old[keep])


def break_it(name, index, value):
    s = small()
    getattr(s, name)[index] = value
    return s


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda: small()._replace(names=("a", "a")), r"`names`: expected one or more distinct"),
        (lambda: small()._replace(trackers=()), r"`trackers`: expected one or more distinct"),
        (lambda: small()._replace(valid=np.ones((2, 3), bool)), r"`valid`: expected \(2, 4\)"),
        (lambda: small()._replace(reported=np.ones((2, 4, 2))), r"`reported`: .*bool.*float64"),
        (lambda: small()._replace(boxes=small().boxes.astype(int)), r"`boxes`: .*floating"),
        (lambda: small()._replace(ground_truth=np.zeros(4)), r"`ground_truth`: expected \(S, T"),
        (lambda: break_it("lengths", 1, 1), r"`sequence 'b'`: expected 2 to 4 frames, got 1"),
        (lambda: break_it("valid", (1, 3), True), r"`sequence 'b', frame 4`: `valid` must"),
        (lambda: break_it("ground_truth", (1, 0), 0), r"`sequence 'b', frame 1`: the first"),
        (
            lambda: break_it("boxes", (0, 1, 1, 2), np.nan),
            r"`sequence 'a', tracker 'second', frame 2`: a reported box must be finite.*nan.*Set",
        ),
        (lambda: break_it("boxes", (0, 1, 1, 2), -900.0), r"tracker 'second', frame 2`: a rep"),
        (lambda: break_it("boxes", (0, 2, 1), 5.0), r"tracker 'second', frame 3`: a box that is"),
        (lambda: break_it("ground_truth", (1, 3), 5.0), r"`sequence 'b', frame 4`: padding"),
    ],
)
def test_errors_name_sequence_tracker_and_frame(broken, message):
    with pytest.raises(ValueError, match=message):
        check_sequences(broken())


def test_padding_checks_shapes():
    with pytest.raises(ValueError, match=r"`boxes\['a'\]`: expected \(3, 1, 4\)"):
        pad_sequences(["a"], ["x"], [np.ones((3, 4))], [np.ones((2, 1, 4))], [np.ones((3, 1))])
    with pytest.raises(ValueError, match="`names`: expected one or more sequences"):
        pad_sequences([], ["x"], [], [], [])
