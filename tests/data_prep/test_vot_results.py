"""Files in the official layout, through parser and builder, to sequences; and every bad input."""

import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from data_prep.vot_results import VotResults, find_layout, prepare, read_regions, read_sequence
from jaxcv.data.pipelines import load_tracker_sequences
from jaxcv.data.tracker_fusion import flatten_frames
from jaxcv.metrics.tracking import box_iou


def truth_file(root, sequence):
    return root / "sequences" / sequence / "groundtruth.txt"


def result_file(root, tracker, sequence):
    return root / "results" / tracker / "unsupervised" / sequence / f"{sequence}_001.txt"


@pytest.fixture
def root(tmp_path):
    """Two sequences, two trackers: rectangles, polygons, codes, an absent object."""
    root = tmp_path / "workspace"
    files = {
        truth_file(root, "walk"): "10,20,30,40\n11.1,20,30,40\n0,0,0,0\n13,20,30,40\n",
        # A rectangle as a polygon; a diamond; the code 0.
        truth_file(root, "ball"): "0,0,10,0,10,20,0,20\n5,0,10,10,5,20,0,10\n0\n",
        result_file(root, "KCF", "walk"): "1\n10,20,30,40\n0\n0\n",
        result_file(root, "KCF", "ball"): "1\n1 2\t3   4\n1 , 2,3\t,4\n",
        result_file(root, "CCOT", "walk"): "1\n11,21,30,-4\n1,1,2,2\n12.25,20,30,40\n\n",
        result_file(root, "CCOT", "ball"): "1\r\n0,0,4,0,4,2,2,5,0,2\r\n0,0,4,0,2,3\r\n",
        root / "sequences" / "list.txt": "walk\nball\n",
        root / "results" / "KCF" / "unsupervised" / "walk" / "walk_time.txt": "0.1\n",
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return root


def nothing_looks_complete(cache):
    return not [
        p
        for p in pathlib.Path(cache).rglob("*")
        if p.name in ("dataset_info.json", str(VotResults.VERSION))
    ]


def test_round_trip(root, tmp_path, capfd):
    builder = prepare(root, tmp_path / "cache")
    s = load_tracker_sequences(builder, dtype=np.float64)
    assert capfd.readouterr().out == ""
    assert s.names == ("ball", "walk")
    assert s.trackers == ("CCOT", "KCF")
    np.testing.assert_array_equal(s.lengths, [3, 4])
    box = [0, 0, 10, 20]
    np.testing.assert_array_equal(s.ground_truth[0], [box, box, [0] * 4, [0] * 4])
    walk = [[10, 20, 40, 60], [11.1, 20, 41.1, 60], [0] * 4, [13, 20, 43, 60]]
    np.testing.assert_array_equal(s.ground_truth[1], walk)  # in float64: 11.1 is not rounded
    np.testing.assert_array_equal(s.reported[0], [[0, 0], [1, 1], [1, 1], [0, 0]])
    np.testing.assert_array_equal(s.reported[1], [[0, 0], [0, 1], [1, 0], [1, 0]])
    np.testing.assert_array_equal(s.boxes[0, 1], [[0, 0, 4, 5], [1, 2, 4, 6]])
    np.testing.assert_array_equal(s.boxes[0, 2], [[0, 0, 4, 3], [1, 2, 4, 6]])
    np.testing.assert_array_equal(s.boxes[1, 3, 0], [12.25, 20, 42.25, 60])
    f = flatten_frames(s)
    np.testing.assert_array_equal(f.sequence, [0, 1, 1])
    np.testing.assert_array_equal(f.frame, [1, 1, 3])
    np.testing.assert_array_equal(f.previous[2], [[1, 1, 3, 3], [10, 20, 40, 60]])
    # The folder and the data source read the same; nothing has imported TensorFlow.
    as_source = builder.as_data_source("test")  # pyright: ignore[reportCallIssue]
    for source in (builder.data_dir, as_source):
        again = load_tracker_sequences(source, dtype=np.float64)
        np.testing.assert_array_equal(again.boxes, s.boxes)
    assert load_tracker_sequences(builder).boxes.dtype == np.float32
    assert "tensorflow" not in sys.modules


def test_area_configuration(root, tmp_path):
    s = load_tracker_sequences(prepare(root, tmp_path / "cache", polygon="area"), dtype=float)
    area = (s.ground_truth[..., 2:] - s.ground_truth[..., :2]).prod(-1)
    np.testing.assert_allclose(area[0, :2], [200, 125])  # the diamond's sides: sqrt(125) each
    np.testing.assert_allclose(s.ground_truth[0, 0], [0, 0, 10, 20], atol=1e-12)
    np.testing.assert_array_equal(s.boxes[0, 1, 0], [0, 0, 4, 5])  # five points: the extent
    with pytest.raises(ValueError, match="`polygon`: expected one of"):
        prepare(root, tmp_path / "cache", polygon="hull")  # pyright: ignore[reportArgumentType]


def test_a_preparation_is_reused_only_for_the_same_contents(root, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    first = prepare(root, cache)
    calls = []
    generate = VotResults._generate_examples
    monkeypatch.setattr(
        VotResults, "_generate_examples", lambda *a: calls.append(1) or generate(*a)
    )
    assert prepare(root, cache).data_dir == first.data_dir
    assert not calls
    path = result_file(root, "KCF", "walk")
    before = path.stat()
    path.write_text("1\n10,20,30,41\n0\n0\n")  # the same size, and the same time:
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    changed = prepare(root, cache)
    assert calls
    assert changed.data_dir != first.data_dir
    assert load_tracker_sequences(changed).boxes[1, 1, 1, 3] == 61
    other = tmp_path / "other"
    shutil.copytree(root, other)
    (other / "results" / "KCF").rename(other / "results" / "KCF2")
    assert load_tracker_sequences(prepare(other, cache)).trackers == ("CCOT", "KCF2")


def test_a_killed_preparation_is_done_again(root, tmp_path):
    """The process dies in the middle of writing; the next one prepares anew."""
    cache = tmp_path / "cache"
    code = (
        "import os, signal, sys\n"
        "from data_prep.vot_results import builder\n"
        "read = builder.read_sequence\n"
        "def die(layout, name, method):\n"
        "    if name == 'walk': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return read(layout, name, method)\n"
        "builder.read_sequence = die\n"
        "builder.prepare(sys.argv[1], sys.argv[2])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, root, cache], check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(cache.rglob("*incomplete*"))
    assert nothing_looks_complete(cache)
    assert load_tracker_sequences(prepare(root, cache)).names == ("ball", "walk")


def write(path, text):
    return lambda root: path(root).write_bytes(text if isinstance(text, bytes) else text.encode())


def kcf(text):
    return write(lambda root: result_file(root, "KCF", "walk"), text)


def walk(text):
    return write(lambda root: truth_file(root, "walk"), text)


def names(text):
    return write(lambda root: root / "sequences" / "list.txt", text)


def remove(path):
    def change(root):
        target = path(root)
        shutil.rmtree(target) if target.is_dir() else target.unlink()

    return change


BAD = {
    "nan": (kcf("1\n1,2,nan,4\n0\n0\n"), r"walk_001.txt:2`: expected finite.*nan.*code 0"),
    "inf": (walk("1,2,3,4\n1,2,inf,4\n0\n0\n"), r"groundtruth.txt:2`: expected finite.*inf"),
    "five": (kcf("1\n0\n1,2,3,4,5\n0\n"), r"walk_001.txt:3`: expected 1 number.*got 5: '1,2,3"),
    "seven": (kcf("1\n0\n1,2,3,4,5,6,7\n0\n"), r"walk_001.txt:3`: .*got 7"),
    "text": (kcf("1\n0\nhello\n0\n"), r"walk_001.txt:3`: expected numbers, got 'hello'"),
    "mask": (kcf("1\n0\nm1,2,3,4,9\n0\n"), r"walk_001.txt:3`: .*masks are not supported"),
    "gap": (kcf("1\n0\n1,2,,3,4\n0\n"), r"walk_001.txt:3`: expected numbers"),
    "underscore": (kcf("1\n0\n1_0,2,3,4\n0\n"), r"walk_001.txt:3`: expected numbers"),
    "blank": (kcf("1\n0\n\n0\n0\n"), r"walk_001.txt:3`: expected numbers, got ''"),
    "nan in a truth": (walk("1,2,3,4\n1,2,nan,4\n0\n0\n"), r"groundtruth.txt:2`: expected finite"),
    "nan first": (
        walk("nan,nan,nan,nan\n1,2,3,4\n0\n0\n"),
        r"txt:1`: expected the object.*nan,nan",
    ),
    "four nan, five": (kcf("1\n0\nnan,nan,nan,nan,nan\n0\n"), r"walk_001.txt:3`: .*got 5"),
    "huge": (kcf("1\n0\n1e308,0,1e308,1\n0\n"), r"walk_001.txt:3`: expected coordinates in pixels"),
    "two commas": (kcf("1\n0\n1,2,3,4,,\n0\n"), r"walk_001.txt:3`: expected numbers"),
    "other digits": (kcf("1\n0\n1,2,3,\u0663\n0\n"), r"walk_001.txt:3`: expected numbers"),
    "failure": (kcf("1\n1,2,3,4\n2\n0\n"), r"walk_001.txt:3`: .*code 2, a failure.*supervised"),
    "restart": (kcf("1\n1,2,3,4\n0\n1\n"), r"walk_001.txt:4`: .*code 1, a restart.*supervised"),
    "code": (kcf("1\n0\n3\n0\n"), r"walk_001.txt:3`: expected a code 0, 1 or 2"),
    "binary": (kcf(b"\xff\xfe\x00"), r"walk_001.txt`: expected a text file.*UTF-8"),
    "empty": (kcf(""), r"walk_001.txt`: expected one region a line, got an empty file"),
    "empty truth": (walk("\n"), r"groundtruth.txt`: .*an empty file"),
    "shorter": (kcf("1\n0\n0\n"), r"walk_001.txt`: expected 4 lines.*groundtruth.txt, got 3"),
    "longer": (kcf("1\n0\n0\n0\n0\n"), r"walk_001.txt`: expected 4 lines.*got 5.*longer"),
    "first": (walk("1,2,0,4\n1,2,3,4\n0\n0\n"), r"groundtruth.txt:1`: expected the object"),
    "negative": (walk("1,2,3,-4\n1,2,3,4\n0\n0\n"), r"groundtruth.txt:1`: .*'1,2,3,-4'"),
    "truth code": (walk("1,2,3,4\n2\n0\n0\n"), r"groundtruth.txt:2`: expected a true region"),
    "one frame": (walk("1,2,3,4\n"), r"groundtruth.txt`: expected at least two frames"),
    "no list": (remove(lambda r: r / "sequences" / "list.txt"), r"list.txt`: expected the list"),
    "empty list": (names("\n\n"), r"list.txt`: expected one sequence a line, got an empty list"),
    "no folder": (names("walk\nball\nrun\n"), r"list.txt:3`: expected a folder .*run"),
    "outside": (names("walk\n../results\n"), r"list.txt:2`: expected a folder"),
    "twice": (names("walk\nwalk\n"), r"list.txt:2`: expected distinct names, got 'walk'"),
    "no truth": (remove(lambda r: truth_file(r, "walk")), r"groundtruth.txt`: expected the true"),
    "missing": (remove(lambda r: result_file(r, "KCF", "ball")), r"1 missing: KCF in ball\. Add"),
    "trackers": (
        lambda r: [shutil.rmtree(p) for p in (r / "results").iterdir()],
        r"results`: expected one or more trackers, got none",
    ),
    "results": (remove(lambda r: r / "results"), r"results`: expected one or more trackers"),
    "nothing": (
        lambda r: [shutil.rmtree(p) for p in r.iterdir()],
        r"workspace`: expected folders sequences/ and results/, got an empty folder",
    ),
    "no such": (remove(lambda r: r), r"workspace`: .*got no such folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_names_the_file_and_leaves_nothing(root, tmp_path, case):
    change, message = BAD[case]
    change(root)
    with pytest.raises(ValueError, match=message):
        prepare(root, tmp_path / "cache")
    assert nothing_looks_complete(tmp_path / "cache")


def test_polygons_of_many_counts_keep_their_lines(tmp_path):
    path = tmp_path / "regions.txt"
    rng = np.random.default_rng(0)
    rows = [rng.uniform(0, 50, 2 * rng.integers(3, 7)) for _ in range(23)]
    path.write_text("\n".join(",".join(map(repr, row.tolist())) for row in rows))
    regions = read_regions(path)
    for row, corners in zip(rows, regions.corners, strict=True):
        points = row.reshape(-1, 2)
        expected = [*points.min(0), *points.max(0)]
        if len(row) == 4:
            expected = [*row[:2], *(row[:2] + row[2:])]
        np.testing.assert_allclose(corners, expected, rtol=1e-14)
    assert (regions.codes == -1).all()


def test_reader_errors(tmp_path):
    with pytest.raises(ValueError, match=r"`source`: expected the folder of a prepared.*README"):
        load_tracker_sequences(tmp_path)
    good = {
        "name": b"a",
        "trackers": [b"x"],
        "ground_truth": np.array([[0, 0, 1, 1]] * 2, float),
        "boxes": np.zeros((2, 1, 4)),
        "reported": np.zeros((2, 1), bool),
    }
    assert load_tracker_sequences([good]).names == ("a",)
    other = {**good, "name": b"b", "trackers": [b"y"]}
    with pytest.raises(ValueError, match=r"`source\[1\] \('b'\)`: expected the trackers of"):
        load_tracker_sequences([good, other])
    with pytest.raises(ValueError, match=r"`source\[0\]`: expected \['reported'\]"):
        load_tracker_sequences([{k: v for k, v in good.items() if k != "reported"}])


# Forms of a line.

ENDS = ("", ",", ", ", " ,", "\t", "  ", "\t,\t")


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_ends_of_lines_change_nothing(tmp_path, end, newline, mark):
    path = tmp_path / "regions.txt"
    lines = ["100,60,30,24", "1 2\t3 4", "0", "0,0,10,0,10,20,0,20", "nan,nan,nan,nan"]
    path.write_bytes((mark + newline.join(line + end for line in lines)).encode())
    regions = read_regions(path)
    expected = [[100, 60, 130, 84], [1, 2, 4, 6], [0] * 4, [0, 0, 10, 20], [0] * 4]
    np.testing.assert_array_equal(regions.corners, expected)
    np.testing.assert_array_equal(regions.codes, [-1, -1, 0, -1, 0])
    np.testing.assert_array_equal(regions.present, [True, True, False, True, False])


@pytest.mark.parametrize("line", ["nan", "NaN,nan,nan,nan", "nan nan nan nan", "nan," * 8])
def test_nan_alone_is_an_absent_object(root, line):
    truth_file(root, "walk").write_text(f"1,2,3,4\n{line}\n5,6,7,8\n0\n")
    result_file(root, "KCF", "walk").write_text(f"1\n{line}\n1,2,3,4\n{line}\n")
    found = read_sequence(find_layout(root), "walk")
    np.testing.assert_array_equal(found["ground_truth"].any(-1), [True, False, True, False])
    np.testing.assert_array_equal(found["reported"][:, 1], [False, False, True, False])
    assert np.isfinite(found["boxes"]).all()


# Rows of tables that could pass for polygons.

PLACES = [(200 + 4.5 * i, 120 - i) for i in range(6)]
TABLES = {
    "ten": [f"{i + 1},1,{x},{y},50,80,1,-1,-1,-1" for i, (x, y) in enumerate(PLACES)],
    "ten, of two objects, by object": [
        f"{i + 1},{k},{x},{y},50,80,.9,-1,-1,-1" for k in (1, 2) for i, (x, y) in enumerate(PLACES)
    ],
    "ten, one line": ["7,3,200,120,50,80,1,-1,-1,-1"],
    "six": [f"{i + 1} 1 {x} {y} 50 80" for i, (x, y) in enumerate(PLACES)],
    "six from 0": [f"{i},1,{x},{y},50,80" for i, (x, y) in enumerate(PLACES)],
    "six after a code": ["1"] + [f"{i + 2},1,{x},{y},50,80" for i, (x, y) in enumerate(PLACES)],
    "six, two objects": [
        f"{i + 1},{k},{x},{y},50,80" for i, (x, y) in enumerate(PLACES) for k in (3, 9)
    ],
    "six, two objects, by object": [
        f"{i + 1},{k},{x},{y},50,80" for k in (3, 9) for i, (x, y) in enumerate(PLACES)
    ],
    "six, detections": [f"{i // 2 + 1},-1,{x},{y},50,80" for i, (x, y) in enumerate(PLACES)],
    "six, without an id": [f"{i + 1},{x},{y},50,80,0.9" for i, (x, y) in enumerate(PLACES)],
    "six, from a later frame": [f"{i + 37},5,{x},{y},50,80" for i, (x, y) in enumerate(PLACES)],
    "five": [f"{i + 1},{x},{y},50,80" for i, (x, y) in enumerate(PLACES)],
    "seven": [f"{i + 1},1,{x},{y},50,80,1" for i, (x, y) in enumerate(PLACES)],
    "eight": [f"{i + 1},1,{x},{y},50,80,1,3" for i, (x, y) in enumerate(PLACES)],
    "nine": [f"{i + 1},1,{x},{y},50,80,1,1,.8" for i, (x, y) in enumerate(PLACES)],
}


@pytest.mark.parametrize("name", TABLES)
def test_rows_of_a_table_are_no_polygons(tmp_path, name):
    path = tmp_path / "regions.txt"
    path.write_text("\n".join(TABLES[name]))
    line = 2 if "code" in name else 1
    with pytest.raises(ValueError, match=rf"regions.txt:{line}`: .*row of a table.*MOTChallenge"):
        read_regions(path)


@pytest.mark.parametrize(
    "lines",
    [
        ["0,0,10,0,5,8"],  # a triangle at the origin
        ["0,0,10,0,10,8,0,8"] * 3,  # it stands still
        ["1,5,10,0,10,8", "1,5,11,0,10,8", "2,5,11,0,10,8"],  # the border's pixel, twice alike
        ["1,1,9,1,9,9", "2.5,1,9,1,9,9", "3,1,9,1,9,9"],
        ["1,1,9,1,9,9", "1,1,30,40", "3,1,9,1,9,9"],  # a rectangle is among them
        ["100,60,110,60,110,80,100,80", "101,60,111,60,111,80,101,80"],
        [f"{t},60,{t + 10},60,{t + 5},80" for t in range(5)],  # one pixel a frame to the right
        ["3,1,9,1,9,9", "1,1,9,2,9,9", "2,1,9,1,9,8"],  # not sorted
    ],
)
def test_polygons_are_no_tables(tmp_path, lines):
    path = tmp_path / "regions.txt"
    path.write_text("\n".join(lines))
    assert read_regions(path).present.all()


# Binary results.


def binary(rows, version=1):
    """Writes the toolkit's format; a row of one number is a code, of four a rectangle."""
    parts = [struct.pack("<hI", version, len(rows))]
    for row in rows:
        if len(row) == 1:
            parts.append(struct.pack("<BI", 0, int(row[0])))
        elif len(row) == 4:
            parts.append(struct.pack("<B4f", 1, *row))
        else:
            parts.append(struct.pack(f"<BH{len(row)}f", 2, len(row) // 2, *row))
    return b"".join(parts)


NUMBER = st.floats(-1e4, 1e4, width=32)
ROWS = st.lists(
    st.one_of(
        st.sampled_from(([0], [1], [2], [float("nan")] * 4, [float("nan")] * 8)),
        st.lists(NUMBER, min_size=4, max_size=4),
        st.lists(NUMBER, min_size=8, max_size=8),
        st.lists(st.tuples(NUMBER, NUMBER), min_size=3, max_size=6).map(lambda p: sum(p, ())),
    ),
    min_size=1,
    max_size=8,
)
OFTEN = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@OFTEN
@given(rows=ROWS)
def test_binary_and_text_are_the_same(tmp_path, rows):
    (tmp_path / "a.bin").write_bytes(binary(rows))
    # The rectangle in front keeps whole numbers from looking like a count of frames.
    (tmp_path / "a.txt").write_text(
        "\n".join(",".join(map(repr, row)) for row in [[0, 0, 1, 1], *rows])
    )
    found, text = read_regions(tmp_path / "a.bin"), read_regions(tmp_path / "a.txt")
    for a, b in zip(found, text, strict=True):
        np.testing.assert_array_equal(a, b[1:])


@OFTEN
@given(rows=ROWS, data=st.data())
def test_a_cut_or_longer_binary_file_is_refused(tmp_path, rows, data):
    content, path = binary(rows), tmp_path / "a.bin"
    cut = data.draw(st.integers(0, len(content) - 1))
    longer = content + data.draw(st.binary(min_size=1, max_size=9))
    for changed in (content[:cut], longer):
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"a.bin[`,].*byte"):
            read_regions(path)


@OFTEN
@given(rows=ROWS, data=st.data())
def test_a_damaged_binary_file_is_read_or_refused_in_one_line(tmp_path, rows, data):
    content, path = bytearray(binary(rows)), tmp_path / "a.bin"
    at = data.draw(st.integers(0, len(content) - 1))
    content[at : at + 3] = data.draw(st.binary(min_size=0, max_size=4))
    path.write_bytes(content)
    try:
        assert np.isfinite(read_regions(path).corners).all()
    except ValueError as error:
        assert str(error).startswith(f"`{path}"), error  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017


MASK = struct.pack("<hI", 1, 2) + binary([[0]])[6:] + struct.pack("<BhhHHHH", 3, 0, 0, 1, 1, 1, 1)
BAD_BINARY = {
    "version": (binary([[0]], version=2), r"a.bin`: .*version 1, got 2"),
    "text": (b"1\n1,2,3,4\n", r"a.bin`: .*version 1, got 2609.*named .txt"),
    "nothing": (b"", r"a.bin`: expected a header of 6 bytes.*got 0 bytes"),
    "no regions": (binary([]), r"a.bin`: expected one region a frame, got an empty file"),
    "mask": (MASK, r"region 2 of 2 at byte 11`: .*a mask \(3\).*masks are not supported"),
    "kind": (struct.pack("<hIBI", 1, 1, 9, 0), r"region 1 of 1 at byte 6`: .*got the kind 9"),
    "code": (binary([[0], [3]]), r"region 2 of 2 at byte 11`: expected a code 0, 1 or 2, got '3'"),
    "two points": (struct.pack("<hIBH4f", 1, 1, 2, 2, 0, 0, 1, 1), r"region 1 .*three points"),
    "nan": (binary([[1, 2, float("nan"), 4]]), r"region 1 of 1 at byte 6`: expected finite.*nan"),
    "inf": (binary([[1, 2] * 3 + [0, float("inf")]]), r"region 1 of 1 at byte 6`: expected finite"),
    "count": (struct.pack("<hIBI", 1, 2**32 - 1, 0, 0), r"region 2 of 4294967295 at byte 11`: "),
}


@pytest.mark.parametrize("case", BAD_BINARY)
def test_bad_binary_files_name_the_region(tmp_path, case):
    content, message = BAD_BINARY[case]
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_regions(tmp_path / "a.bin")
    assert "\n" not in str(error.value)


def test_binary_results_in_the_layout(root, tmp_path):
    """Prepared beside text; the text wins, even if it cannot be read; lengths and codes count."""
    text = result_file(root, "KCF", "walk")
    result = text.with_suffix(".bin")
    result.write_bytes(binary([[1], [10, 20, 30, 41], [0], [4.5, 1, 2, 3]]))
    layout = find_layout(root)
    assert layout.result_path("KCF", "walk") == text
    text.unlink()
    assert layout.result_path("KCF", "walk") == result
    assert result in layout.files()
    s = load_tracker_sequences(prepare(root, tmp_path / "cache"))
    np.testing.assert_array_equal(
        s.boxes[1, :, 1], [[0] * 4, [10, 20, 40, 61], [0] * 4, [4.5, 1, 6.5, 4]]
    )
    np.testing.assert_array_equal(s.reported[1, :, 1], [False, True, False, True])
    for rows, message in (
        ([[1], [1, 2, 3, 4], [2], [0]], r"walk_001.bin, region 3`: .*code 2, a failure"),
        ([[1], [1, 2, 3, 4], [1], [0]], r"walk_001.bin, region 3`: .*code 1, a restart"),
        ([[1], [1, 2, 3, 4]], r"walk_001.bin`: expected 4 regions.*got 2.*shorter"),
    ):
        result.write_bytes(binary(rows))
        with pytest.raises(ValueError, match=message):
            prepare(root, tmp_path / "cache")
    text.symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"_001.txt, or .bin`: .*1 missing: KCF in walk"):
        find_layout(root)


# On real results.


@pytest.fixture(scope="module")
def real():
    if "JAXCV_REAL_DATA" not in os.environ:
        pytest.skip("JAXCV_REAL_DATA is not set")
    return pathlib.Path(os.environ["JAXCV_REAL_DATA"]) / "tracker_fusion"


@pytest.mark.real_data
def test_real_sequence_with_an_absent_object(real):
    layout = find_layout(real)
    assert (len(layout.sequences), len(layout.trackers)) == (59, 14)
    board = read_sequence(layout, "Board")
    np.testing.assert_array_equal(np.flatnonzero(~board["ground_truth"].any(-1)), [697])


@pytest.mark.real_data
def test_real_results_give_the_known_rbf_mode(real, tmp_path):
    """Frame-mean IoU .749 of the equal-width mode, .15 of the median box size wide."""
    frames = flatten_frames(load_tracker_sequences(prepare(real, tmp_path)))
    boxes, truth = frames.boxes, frames.ground_truth
    assert frames.reported.all()
    size = np.median(np.sqrt((boxes[..., 2:] - boxes[..., :2]).prod(-1)), axis=1)[:, None]
    fused = []
    for corner in (boxes[..., :2], boxes[..., 2:]):
        c = corner / size[..., None]

        def weights(y, c=c):  # (F, K)
            return np.exp(-((y[:, None] - c) ** 2).sum(-1) / 0.15**2)

        energy = np.stack([-weights(c[:, k]).sum(-1) for k in range(c.shape[1])], axis=-1)
        y = c[np.arange(len(c)), energy.argmin(-1)]
        for _ in range(30):
            w = weights(y)
            y = (w[..., None] * c).sum(1) / w.sum(1, keepdims=True)
        fused.append(y * size)
    iou = box_iou(np.concatenate(fused, axis=-1), truth).mean()
    np.testing.assert_allclose(iou, 0.749, atol=2e-3)
