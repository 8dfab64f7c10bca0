"""Folders of pictures, lists of pairs, videos and cameras without poses; what is refused."""

import json
import os

import numpy as np
import pytest

from jaxcv.io.picture_folder import list_pictures, read_pair_list
from jaxcv.io.posed_folder import read_calibrations
from jaxcv.io.video import count_frames, frame_name, read_frames

K = [[500.0, 0, 320], [0, 510, 240], [0, 0, 1]]
NAMES = ("a.jpg", "b.jpg", "in/a.jpg", "my photo.jpg", "other photo.jpg", "a b.jpg", "b c.jpg",
         "c.jpg")  # fmt: skip


def test_pictures_are_sorted_and_others_are_counted(tmp_path):
    for name in ("b.JPG", "a.png", "in/a.jpg", "in/deep/c.tiff", "10.jpg", "9.jpg", "readme.txt",
                 ".DS_Store", "in/._a.jpg", ".hidden/a.jpg", "out/figures/a__b.png"):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    found = list_pictures(tmp_path, without=tmp_path / "in" / ".." / "out")
    assert found.names == ("10.jpg", "9.jpg", "a.png", "b.JPG", "in/a.jpg", "in/deep/c.tiff")
    assert found.ignored == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root / "none", "expected a folder of pictures, got no such folder"),
        (lambda root: root / ("x" * 300), "no such folder"),
        (lambda root: root / "notes.txt", "got a file"),
        (lambda root: root, r"files that end with .bmp.*got 1 other files"),
    ],
)
def test_folders_without_pictures(tmp_path, make, message):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match=message):
        list_pictures(make(tmp_path))


def test_names_that_no_table_can_hold(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff.jpg"
    try:
        with open(path, "wb"):
            pass
    except OSError:
        pytest.skip("this file system has names in UTF-8 only")
    with pytest.raises(ValueError, match="expected a name in UTF-8"):
        list_pictures(tmp_path)


def pairs_in(tmp_path, text):
    path = tmp_path / "list.txt"
    path.write_text(text)
    return read_pair_list(path, NAMES)


def test_a_list_of_pairs(tmp_path):
    text = "# two a line\n\n  a.jpg   b.jpg \r\nin/a.jpg\ta.jpg\nmy photo.jpg other photo.jpg\n"
    text += "c.jpg my photo.jpg\nb.jpg a.jpg\na b.jpg\tc.jpg\nin/a.jpg a.jpg"
    pairs, repeated = pairs_in(tmp_path, text)
    assert pairs == [
        ("a.jpg", "b.jpg"), ("in/a.jpg", "a.jpg"), ("my photo.jpg", "other photo.jpg"),
        ("c.jpg", "my photo.jpg"), ("a b.jpg", "c.jpg"),
    ]  # fmt: skip
    assert [line.split("list.txt, ")[1] for line in repeated] == [
        "line 7: the pair of line 3 again, left out", "line 9: the pair of line 4 again, left out",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.jpg none.jpg", "line 2`: expected the name of a picture, got 'none.jpg'"),
        ("a.jpg", "line 2`: expected two names of pictures in a line"),
        ("a.jpg b.jpg c.jpg", "line 2`: expected two names.*Put a tab"),
        ("a.jpg a.jpg", "line 2`: expected two different pictures, got 'a.jpg' twice"),
        ("a b.jpg c.jpg", None),
        ("a.jpg\tb.jpg\tc.jpg", "expected two names"),
        ("\ta.jpg", "expected two names"),
    ],
)
def test_lines_that_are_refused(tmp_path, line, message):
    if message is None:  # 'a b.jpg' and 'c.jpg' is the only way
        assert pairs_in(tmp_path, line)[0] == [("a b.jpg", "c.jpg")]
        return
    with pytest.raises(ValueError, match=message):
        pairs_in(tmp_path, f"# pairs\n{line}\n")


def test_a_line_that_divides_in_two_ways(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("a b c")
    with pytest.raises(ValueError, match=r"in one way only, got 'a b c'. Put a tab"):
        read_pair_list(path, ("a", "b c", "a b", "c"))
    path.write_text("# nothing\n\n")
    with pytest.raises(ValueError, match="once or more, got none"):
        read_pair_list(path, NAMES)


def write_video(path, frames, fps=10.0):
    cv2 = pytest.importorskip("cv2")
    height, width = frames[0].shape[:2]
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (width, height))
    for frame in frames:
        video.write(frame[..., ::-1])
    video.release()


def test_frames_of_a_video(tmp_path):
    levels = [20, 60, 100, 140, 180, 220, 250]
    frames = [np.full((48, 64, 3), (level, 128, 30), np.uint8) for level in levels]
    write_video(tmp_path / "a.avi", frames)
    assert count_frames(tmp_path / "a.avi") == 7
    found = list(read_frames(tmp_path / "a.avi", 3))
    assert [number for number, _ in found] == [0, 3, 6]
    for number, image in found:
        assert image.shape == (48, 64, 3)
        np.testing.assert_allclose(image.mean(axis=(0, 1)), [levels[number], 128, 30], atol=6)
    assert frame_name(12) == "frame_000012.png"


@pytest.mark.parametrize("content", [b"", b"no video at all" * 100, b"RIFF\x10\0\0\0AVI LIST"])
def test_a_video_that_is_none(tmp_path, content):
    pytest.importorskip("cv2")
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a.mp4`: expected a video that OpenCV decodes"):
        count_frames(path)
    with pytest.raises(ValueError, match="no such file"):
        count_frames(tmp_path / "b.mp4")
    with pytest.raises(ValueError, match="every"):
        next(read_frames(path, 0))


def cameras(tmp_path, content):
    (tmp_path / "cameras.json").write_text(json.dumps(content))
    return read_calibrations(tmp_path)


def test_cameras_without_poses(tmp_path):
    other = [[400.0, 0, 100], [0, 400, 100], [0, 0, 1]]
    own, rest = cameras(tmp_path, {
        "intrinsics": K, "size": [640, 480],
        "images": [{"file": "a.png"}, {"file": "in/b.png", "intrinsics": other, "size": None},
                   {"file": "c.png", "size": [320, 240]}],
    })  # fmt: skip
    assert (set(own), rest.shape) == ({"a.png", "in/b.png", "c.png"}, (480, 640))
    np.testing.assert_array_equal(own["a.png"].intrinsics, K)
    np.testing.assert_array_equal(own["in/b.png"].intrinsics, other)
    assert [own[name].shape for name in ("a.png", "in/b.png", "c.png")] == [
        (480, 640), None, (240, 320)
    ]  # fmt: skip
    own, rest = cameras(tmp_path, {"intrinsics": K})
    assert (own, rest.shape) == ({}, None)
    own, rest = cameras(tmp_path, {"images": [{"file": "a.png", "intrinsics": K}]})
    assert (list(own), rest) == (["a.png"], None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "expected JSON with `intrinsics`"),
        ({"images": [{"file": "a.png"}]}, r"images\[0\].intrinsics`: expected finite numbers"),
        ({"images": [{"intrinsics": K}]}, r"images\[0\].file"),
        ({"images": [{"file": "a.png", "intrinsics": K}] * 2}, "each file once"),
        ({"images": ["a.png"]}, "expected file and intrinsics"),
        ({"intrinsics": [[0.0, 0, 1], [0, 1, 1], [0, 0, 1]]}, "focal lengths other than zero"),
        ({"intrinsics": K, "size": [640.5, 480]}, "size`: expected"),
    ],
)
def test_cameras_that_are_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        cameras(tmp_path, content)
