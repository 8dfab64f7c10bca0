"""COLMAP models: text as COLMAP reads it, the binary form, and what is refused."""

import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.posed_images import PosedConfig, prepare
from jaxcv.io.colmap import colmap_files, read_colmap
from jaxcv.io.colmap_binary import MODELS, read_cameras_binary, read_images_binary
from tests.data_prep.test_posed_images import write_colmap

HEADERS = ("PINHOLE", 40, 30, (30.0, 32.0, 20.0, 15.0))


def rows_of(root):
    """The images of images.txt: id, pose, camera, name, points."""
    lines = (root / "images.txt").read_text().splitlines()[1:]
    out = []
    for head, tail in zip(lines[::2], lines[1::2], strict=True):
        words = head.split()
        out.append(
            (int(words[0]), list(map(float, words[1:8])), int(words[8]), words[9],
             [int(x) for x in tail.split()[2::3]])
        )  # fmt: skip
    return out


def write_binary(root, rows, model=HEADERS):
    """The official binary form of the tables."""
    name, width, height, params = model
    cameras = struct.pack("<QIiQQ", 1, 1, list(MODELS).index(name), width, height)
    (root / "cameras.bin").write_bytes(cameras + struct.pack(f"<{len(params)}d", *params))
    out = struct.pack("<Q", len(rows))
    for number, pose, camera, file, points in rows:
        out += struct.pack("<I7dI", number, *pose, camera) + file.encode() + b"\0"
        out += struct.pack("<Q", len(points))
        out += b"".join(struct.pack("<ddq", 1.5, 2.5, point) for point in points)
    (root / "images.bin").write_bytes(out)


def same(one, other):
    for a, b in zip(one[0], other[0], strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(one[1], other[1])


def test_the_binary_form_is_the_text(tmp_path):
    write_colmap(tmp_path)
    text = read_colmap(tmp_path)
    write_binary(tmp_path, rows_of(tmp_path))
    assert [path.suffix for path in colmap_files(tmp_path)] == [".bin", ".bin"]
    same(read_colmap(tmp_path), text)
    for path in tmp_path.glob("*.txt"):
        path.unlink()
    same(read_colmap(tmp_path), text)
    builder = prepare(tmp_path, tmp_path / "out", PosedConfig(source="colmap", shape=(30, 40)))
    assert builder.info.splits["test"].num_examples == 1


def test_lines_as_colmap_reads_them(tmp_path):
    write_colmap(tmp_path)
    want = read_colmap(tmp_path)
    text = (tmp_path / "images.txt").read_text()
    lines = text.splitlines()
    changes = {
        "an empty line at the end": text + "\n",
        "empty lines between": "\n".join([*lines[:3], "", "", *lines[3:]]),
        "a comment between": "\n".join([*lines[:3], "# the second", *lines[3:]]),
        "windows": "\r\n".join(lines),
        "indented": "\n".join(f"  {line} " for line in lines),
        "-1 without a sign": text.replace("3 4 -1", f"3 4 {2**64 - 1}"),
        "zeros before an id": text.replace(" 1 0.jpg", " 01 0.jpg"),
    }
    for name, changed in changes.items():
        (tmp_path / "images.txt").write_text(changed)
        assert changed != text, name
        same(read_colmap(tmp_path), want)


def test_a_model_without_features_has_pairs_of_neighbouring_views(tmp_path):
    write_colmap(tmp_path)
    lines = (tmp_path / "images.txt").read_text().splitlines()
    (tmp_path / "images.txt").write_text("\n".join(x for a in lines[1::2] for x in (a, "")) + "\n")
    views, pairs = read_colmap(tmp_path)
    assert (len(views.files), pairs) == (3, None)
    config = PosedConfig(source="colmap", shape=(30, 40), largest_angle=3.0)
    splits = prepare(tmp_path, tmp_path / "out", config).info.splits
    assert splits["test"].num_examples == 3


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\n2 ", "\n1 ", r"line 4`: expected image ids that differ, got 1 here and at .*line 2"),
        ("1.jpg", "0.jpg", r"line 4`: expected names that differ, got '0.jpg' here"),
        (" 5 ", f" {2**63} ", r"line 2.*the id 9223372036854775808"),
        (" 5 ", f" {2**80} ", r"line 2.*the id 1208925819614629174706176"),
        ("1.5 2.5 7 ", "a 2.5 7 ", "line 2.*could not convert"),
    ],
)
def test_wrong_entries_are_refused(tmp_path, old, new, message):
    write_colmap(tmp_path)
    text = (tmp_path / "images.txt").read_text()
    assert old in text
    (tmp_path / "images.txt").write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        read_colmap(tmp_path)


def test_too_few_common_points_are_named(tmp_path):
    write_colmap(tmp_path)
    rows = [(n, pose, camera, file, points[:20]) for n, pose, camera, file, points in
            rows_of(tmp_path)]  # fmt: skip
    write_binary(tmp_path, rows)
    with pytest.raises(ValueError, match=r"two images or more with 30 points in common, got 20 at"):
        read_colmap(tmp_path)


def test_cameras_given_twice_and_unknown_models_are_refused(tmp_path):
    write_colmap(tmp_path)
    path = tmp_path / "cameras.txt"
    path.write_text(path.read_text() + "01 PINHOLE 40 30 30 32 20 15\n")
    with pytest.raises(ValueError, match=r"line 3`: expected camera ids that differ"):
        read_colmap(tmp_path)
    write_binary(tmp_path, rows_of(tmp_path), ("SIMPLE_RADIAL", 40, 30, (30.0, 20.0, 15.0, 0.1)))
    with pytest.raises(ValueError, match=r"camera 1`: expected a model among SIMPLE_PINHOLE"):
        read_colmap(tmp_path)
    content = (tmp_path / "cameras.bin").read_bytes()
    (tmp_path / "cameras.bin").write_bytes(content[:12] + struct.pack("<i", 99) + content[16:])
    with pytest.raises(ValueError, match=r"byte 32`: expected the number of a model"):
        read_colmap(tmp_path)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_binary_file_is_one_error_or_read(tmp_path, data):
    write_colmap(tmp_path)
    write_binary(tmp_path, rows_of(tmp_path))
    name = data.draw(st.sampled_from(["cameras.bin", "images.bin"]))
    content = bytearray((tmp_path / name).read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    (tmp_path / name).write_bytes(bytes(content))
    read = {"cameras.bin": read_cameras_binary, "images.bin": read_images_binary}[name]
    try:
        read(tmp_path / name)
        views, _ = read_colmap(tmp_path)
    except ValueError as error:
        said = str(error)
    else:
        said = "`" if np.isfinite(views.rotation).all() else "a pose that is not finite"
    assert said.startswith("`")
