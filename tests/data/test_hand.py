"""Frames and prediction files of hands: what is refused, and why."""

import numpy as np
import pytest

from jaxcv.data.hand import (
    BONES,
    JOINTS,
    NYU_INTRINSICS,
    HandFrames,
    check_depth,
    check_frames,
    read_predictions,
    write_predictions,
)


def frames(**changes):
    good = HandFrames(
        depth=np.full((2, 6, 8), 700.0),
        color=np.zeros((2, 6, 8, 3), np.uint8),
        joints=np.full((2, 14, 3), 700.0),
        intrinsics=np.stack([NYU_INTRINSICS] * 2),
        subject=np.zeros(2, int),
    )
    return good._replace(**changes)


def test_good_frames():
    check_frames(frames())
    check_frames(frames(color=None))
    some = frames(color=None).take(slice(1, 2))
    assert some.depth.shape == (1, 6, 8)
    assert some.color is None
    assert sorted({i for bone in BONES for i in bone}) == list(range(len(JOINTS)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": np.full((2, 6, 8), 0.7)}, "`frames.depth`: expected millimetres.*at most 0.7"),
        ({"depth": np.zeros((2, 6, 8))}, "`frames.depth`: expected a pixel with a depth"),
        ({"depth": np.full((2, 6, 8), -1.0)}, "expected depths .* of 0"),
        ({"joints": np.ones((2, 36, 3))}, r"`frames.joints`: expected \(2, 14, 3\)"),
        ({"joints": np.full((2, 14, 3), np.nan)}, "`frames.joints`: expected finite"),
        ({"joints": np.full((2, 14, 3), -5.0)}, "in front of the camera"),
        ({"subject": np.zeros(3)}, r"`frames.subject`: expected \(2,\)"),
        ({"color": np.zeros((2, 6, 8))}, "`frames.color`: expected"),
        ({"color": np.zeros((2, 6, 8, 3))}, "`frames.color`: expected 8 bits .*, got float64"),
        ({"intrinsics": NYU_INTRINSICS}, r"`frames.intrinsics`: expected \(2, 3, 3\)"),
        ({"intrinsics": np.stack([NYU_INTRINSICS.T] * 2)}, "`frames.intrinsics`: expected"),
    ],
)
def test_bad_frames(change, message):
    with pytest.raises(ValueError, match=message):
        check_frames(frames(**change))


def test_one_axis_is_no_image():
    with pytest.raises(ValueError, match=r"`depth`: expected \(\.\.\., H, W\)"):
        check_depth("depth", np.ones(5))


def test_prediction_files(tmp_path):
    path = tmp_path / "a.txt"
    pixels = np.random.default_rng(0).uniform(0, 900, (3, 14, 3)).round(3)
    write_predictions(path, pixels)
    np.testing.assert_array_equal(read_predictions(path), pixels)
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    path.write_text("\n" + path.read_text().replace("\n", "  \n"))  # blanks at the end
    np.testing.assert_array_equal(read_predictions(path), pixels)
    with pytest.raises(ValueError, match="`pixels`: expected finite"):
        write_predictions(path, pixels * np.nan)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a line or more"),
        ("1 2 3\n", r"a.txt, line 1`: expected 42 numbers, got 3"),
        ("0 " * 42 + "\n" + "0 " * 41 + "x\n", "a.txt, line 2`: expected numbers"),
        ("0 " * 41 + "nan\n", "a.txt, line 1`: expected finite numbers"),
        ("image.png " + "0 " * 42, "expected 42 numbers, got 43"),
    ],
)
def test_bad_prediction_files(tmp_path, text, message):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_predictions(tmp_path / "a.txt")
