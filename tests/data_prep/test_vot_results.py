"""Files in the official layout, through parser and builder, to sequences; and every bad input."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

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
        result_file(root, "KCF", "walk"): "1\n10,20,30,40\n2\n0\n",
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
        p for p in pathlib.Path(cache).rglob("*") if p.name in ("dataset_info.json", "1.0.0")
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
    for source in (builder.data_dir, builder.as_data_source("test")):
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
    path.write_text("1\n10,20,30,41\n2\n0\n")  # the same size, and the same time:
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
