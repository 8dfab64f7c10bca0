"""Predictions on folders of photographs and videos: pairs, table, figures; what is refused."""

import csv
import dataclasses
import importlib.util
import io
import itertools
import json
import subprocess
import sys
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from experiments import relative_pose as experiment
from experiments import runner
from experiments.relative_pose import (
    colmap_export,
    pair_table,
    picture_poses,
    pictures,
    prediction,
)
from experiments.relative_pose.pair_figure import draw_pair
from experiments.relative_pose.pair_table import COLUMNS
from jaxcv.io import Model
from jaxcv.metrics.motion import rotation_error, translation_error
from jaxcv.models.relative_pose import MatchHead, PoseNetwork
from jaxcv.systems import RelativePose
from jaxcv.systems.feature_matches import Matches
from jaxcv.systems.two_view import resized
from tests.experiments.test_relative_pose import write_rooms
from tests.io.test_picture_folder import write_video
from tests.systems.test_two_view import EASY

CONFIG = experiment.Config()


def predict(folder, **fields):
    config = dataclasses.replace(CONFIG, **fields)
    return runner.predict(experiment.EXPERIMENT, config, folder, None)


def texture(seed, height=120, width=200):
    """A picture with corners at several scales."""
    rng = np.random.default_rng(seed)
    parts = [np.kron(rng.integers(0, 128, (60, 60, 3)), np.ones((s, s, 1))) for s in (4, 9)]
    return sum(part[:height, :width] for part in parts).astype(np.uint8)


def write_pictures(folder, names, step=8):
    """Windows of one texture that move to the right."""
    whole = texture(0)
    for n, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(whole[:, step * n : step * n + 120]).save(path)


@pytest.fixture
def fast(monkeypatch):
    """The poses of pictures that move to the right; confidences fall from pair to pair."""

    def poses(matches, *_, **__):
        confidence = np.linspace(0.99, 0.1, len(matches))
        return [
            RelativePose(np.eye(3), np.array([-1.0, 0, 0]), confidence[i], len(own.ratio))
            for i, own in enumerate(matches)
        ]

    monkeypatch.setattr(picture_poses, "poses_of_matches", poses)


def table(folder):
    with open(folder / "pairs.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert tuple(rows[0]) == COLUMNS
    return rows[1:], json.loads((folder / "pairs.json").read_text())


@pytest.mark.slow  # compiles the minimisation
def test_a_folder_with_poses_finds_them_again(tmp_path, capsys):
    """Generated rooms, K from cameras.json, pairs from a list: errors of the written poses."""
    (tmp_path / "in").mkdir()
    rooms = write_rooms(tmp_path / "in", ranges=EASY)
    (tmp_path / "list.txt").write_text("00.png 01.png\n20.png 21.png\n31.png 30.png\n")
    out = predict(
        tmp_path / "out", pictures=str(tmp_path / "in"), pairs=str(tmp_path / "list.txt"), figures=2
    )
    rows, content = table(out)
    assert [row[:2] for row in rows] == [
        ["00.png", "01.png"], ["20.png", "21.png"], ["31.png", "30.png"]
    ]  # fmt: skip
    errors = []
    for row, entry, (room, back) in zip(
        rows, content["pairs"], ((0, False), (2, False), (3, True)), strict=True
    ):
        r, t = np.asarray(rooms.rotation[room]), np.asarray(rooms.direction[room])
        r, t = (r.T, -r.T @ t) if back else (r, t)
        numbers = np.array(row[4:11], float)
        written = Rotation.from_quat(np.roll(numbers[:4], -1)).as_matrix()
        np.testing.assert_allclose(written, entry["rotation"], atol=1e-6)
        np.testing.assert_allclose(numbers[4:], entry["direction"], atol=1e-9)
        assert entry["matches"] == int(row[2]) >= int(row[3]) == entry["inliers"]
        assert float(row[11]) == entry["confidence"]
        errors.append((
            float(rotation_error(written, r)), float(translation_error(numbers[4:], t)),
            entry["confidence"],
        ))  # fmt: skip
    sure = [own for own in errors if own[2] > 0.9]
    assert len(sure) >= 2
    assert np.median([own[0] for own in sure]) < 1
    assert np.median([own[1] for own in sure]) < 5
    assert {entry["file"]: entry["guessed"] for entry in content["images"]} == dict.fromkeys(
        ["00.png", "01.png", "20.png", "21.png", "30.png", "31.png"], False
    )
    np.testing.assert_allclose(content["images"][1]["intrinsics"], rooms.intrinsics2[0], rtol=1e-6)
    drawn = [entry["figure"] for entry in content["pairs"] if entry["figure"]]
    assert len(drawn) == 2
    for name in drawn:
        with Image.open(out / name) as image:
            assert min(image.size) > 300
    assert "3 pairs of 6 pictures" in capsys.readouterr().out


@pytest.mark.usefixtures("fast")
def test_pairs_of_a_folder(tmp_path):
    names = ["a.png", "b.jpg", "c/d.png", "c/e.png"]
    write_pictures(tmp_path / "in", names)
    (tmp_path / "in" / "notes.txt").write_text("")
    pairs = {}
    for reach in (1, 2, 0):
        out = predict(
            tmp_path / f"out{reach}", pictures=str(tmp_path / "in"), neighbours=reach, figures=0
        )
        pairs[reach] = [tuple(row[:2]) for row in table(out)[0]]
    assert pairs[1] == list(itertools.pairwise(names))
    assert len(pairs[2]) == 5
    assert pairs[0] == [(names[i], names[j]) for i in range(4) for j in range(i + 1, 4)]
    assert not (tmp_path / "out0" / "figures").exists()


@pytest.mark.usefixtures("fast")
def test_each_picture_is_described_once(tmp_path, monkeypatch):
    names = [f"{n}.png" for n in range(5)]
    write_pictures(tmp_path / "in", names)
    calls = []
    find = pictures.find_features
    monkeypatch.setattr(
        pictures, "find_features", lambda image: calls.append(image.shape) or find(image)
    )
    out = predict(
        tmp_path / "out", pictures=str(tmp_path / "in"), neighbours=0, figures=0, longest_side=60
    )
    assert calls == [(60, 60, 3)] * 5
    assert len(table(out)[0]) == 10


def test_reduced_features_have_the_same_rays(tmp_path):
    """Features of a reduced picture, by its intrinsics, are on the rays of the full picture."""
    image = np.kron(texture(1), np.ones((4, 4, 1))).astype(np.uint8)
    config = dataclasses.replace(CONFIG, longest_side=400)
    camera = pictures.Calibration(np.array([[700.0, 0, 390], [0, 720, 250], [0, 0, 1]]), None)
    reduced, _ = pictures._described("a", image, camera, config, None)
    full, _ = pictures._described(
        "a", image, camera, dataclasses.replace(config, longest_side=0), None
    )
    assert (reduced.reduced, full.reduced) == ((240, 400), (480, 800))
    rays = [
        (own.points - own.reduced_intrinsics[:2, 2]) / np.diag(own.reduced_intrinsics)[:2]
        for own in (reduced, full)
    ]
    apart = np.linalg.norm(rays[0][:, None] - rays[1][None], axis=-1).min(axis=1)
    assert np.median(apart) < 0.5 / 700
    half = pictures.Calibration(camera.intrinsics / [[2], [2], [1]], (240, 400))
    scaled, _ = pictures._described("a", image, half, config, None)
    np.testing.assert_allclose(scaled.intrinsics[0, 0], 700)


@pytest.mark.usefixtures("fast")
def test_a_video(tmp_path):
    whole = texture(0)
    frames = [whole[:96, 8 * n : 8 * n + 120] for n in range(7)]
    write_video(tmp_path / "a.avi", frames)
    out = predict(
        tmp_path / "out",
        pictures=str(tmp_path / "a.avi"),
        every=3,
        intrinsics="110,110,59.5,47.5",
        figures=1,
    )
    rows, content = table(out)
    names = [f"frame_{n:06d}.png" for n in (0, 3, 6)]
    assert [row[:2] for row in rows] == [names[:2], names[1:]]
    assert all(int(row[2]) > 10 for row in rows)
    assert content["pairs"][0]["figure"] == "figures/frame_000000__frame_000003.png"
    assert (out / content["pairs"][0]["figure"]).exists()


@pytest.mark.usefixtures("fast")
def test_unreadable_pictures_are_named_and_the_rest_goes_on(tmp_path, caplog):
    names = [f"{n}.png" for n in range(4)]
    write_pictures(tmp_path / "in", names)
    whole = (tmp_path / "in" / "1.png").read_bytes()
    (tmp_path / "in" / "1.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.zeros((5, 90, 3), np.uint8)).save(tmp_path / "in" / "4.png")
    with pytest.raises(runner.DataError) as caught:
        predict(tmp_path / "out", pictures=str(tmp_path / "in"), neighbours=2, intrinsics=None)
    assert "2 that cannot (1.png, 4.png), in 5 pairs" in str(caught.value)
    rows, content = table(tmp_path / "out")
    assert [row[:2] for row in rows] == [["0.png", "2.png"], ["2.png", "3.png"]]
    assert content["left_out"][0] == {
        "first": "0.png", "second": "1.png", "unreadable": ["1.png"]
    }  # fmt: skip
    lines = [record.getMessage() for record in caplog.records]
    line = next(line for line in lines if "1.png`: expected a picture that can be read" in line)
    assert "Left out: 0.png 1.png, 1.png 2.png, 1.png 3.png" in line
    for name in names:
        (tmp_path / "in" / name).write_bytes(b"none")
    with pytest.raises(runner.DataError, match="two pictures of a pair that can be read, got 5 of"):
        predict(tmp_path / "none", pictures=str(tmp_path / "in"))
    assert not (tmp_path / "none" / "pairs.csv").exists()


def test_a_network_sees_the_pictures_of_each_pair(tmp_path, monkeypatch):
    write_pictures(tmp_path / "in", ["a.png", "b.png", "c.png"])
    Image.fromarray(texture(0, 20, 90)).save(tmp_path / "in" / "d.png")  # too small for it
    network = PoseNetwork("cnnBspp", width=0.05)
    settings = {"network": network, "head": MatchHead(4, 8), "shape": (40, 48)}
    model = Model({"network": 1}, settings, {"run": "joint"})
    given: dict[str, Any] = {}

    def poses(matches, *_, **options):
        given.update(options)
        return [RelativePose(np.eye(3), np.eye(3)[0], np.float64(1), 9) for _ in matches]

    monkeypatch.setattr(picture_poses, "poses_of_matches", poses)
    config = dataclasses.replace(CONFIG, pictures=str(tmp_path / "in"), figures=0)
    (tmp_path / "out").mkdir()
    with pytest.raises(runner.DataError, match=r"1 that cannot \(d.png\), in 1 pairs"):
        picture_poses.predict_pictures(config, model, tmp_path / "out")
    assert (given["params"], given["network"]) == (model.params, network)
    for n, name in enumerate("abc"):
        image = np.asarray(Image.open(tmp_path / "in" / f"{name}.png"))
        small = resized(image, (40, 48))
        for side, i in (("first", n), ("second", n - 1)):
            if 0 <= i < 2:
                np.testing.assert_array_equal(given[side][i], small)
    assert table(tmp_path / "out")[1]["run"] == "joint"


@pytest.mark.usefixtures("fast")
def test_figures_of_an_earlier_call_are_removed(tmp_path):
    write_pictures(tmp_path / "in", ["a.png", "b.png", "c.png"])
    given: dict[str, Any] = {"pictures": str(tmp_path / "in"), "intrinsics": "90,90,59.5,59.5"}
    out = predict(tmp_path / "out", **given)
    assert len(list((out / "figures").iterdir())) == 2
    (out / "figures" / "mine.png").write_text("")
    (tmp_path / "in" / "b.png").unlink()
    predict(out, **given)
    assert {path.name for path in (out / "figures").iterdir()} == {
        "a__c.png", "mine.png"
    }  # fmt: skip


def test_figures_are_spread_over_the_confidences():
    poses = [SimpleNamespace(confidence=c, matches=m) for c, m in
             ((0.5, 9), (0.9, 1), (0.1, 1), (0.9, 5), (0.7, 1))]  # fmt: skip
    assert picture_poses.chosen(poses, 3) == [3, 4, 2]  # type: ignore[arg-type]
    assert picture_poses.chosen(poses, 9) == [3, 1, 4, 0, 2]  # type: ignore[arg-type]
    assert picture_poses.chosen(poses, 0) == []  # type: ignore[arg-type]
    assert picture_poses.chosen(poses, 1) == [3]  # type: ignore[arg-type]


def test_names_of_figures_that_collide_are_kept_apart():
    pairs = [
        ("a/b.png", "c.png"),
        ("a_b.png", "c.png"),
        ("A/b.png", "c.png"),
        ("ä b" * 200, "ä" * 300),
    ]
    names = picture_poses.figure_names(pairs)
    assert names[:3] == ["a_b__c.png", "a_b__c-2.png", "A_b__c-3.png"]
    assert len(names[3].encode()) < 250
    assert len({name.lower() for name in names}) == 4


@pytest.mark.parametrize("count", [0, 3, 40])
def test_the_figure_of_a_pair(count):
    """Lines of both kinds end at the matches, also where the pictures differ in size."""
    rng = np.random.default_rng(0)
    points = rng.uniform(5, 90, (2, count, 2))
    matches = Matches(points[0], points[1], np.full(count, 0.5))
    weights = np.arange(count) % 3 / 2  # 0, 0.5 and 1
    pose = RelativePose(np.eye(3), np.array([1.0, 0, 0]), np.float64(0.9), count)
    if count < 5:
        pose = RelativePose(np.full((3, 3), np.nan), np.full(3, np.nan), np.float64(0), count)
    k = np.array([[90.0, 0, 50], [0, 90, 50], [0, 0, 1]])
    images = np.zeros((100, 140, 3), np.uint8), np.zeros((200, 100, 3), np.uint8)
    figure = draw_pair(("a", "b" * 99), images, matches, weights, pose, (k, k))
    figure.savefig(io.BytesIO(), format="png")
    above, *below = figure.axes
    pale, green = (np.array(each.get_segments()).reshape(-1, 2, 2) for each in above.collections)
    np.testing.assert_allclose(green[:, 0], points[0][weights >= 0.5])
    assert len(pale) + len(green) == count
    # The second picture is half as high here, and begins 2% behind the end of the first.
    np.testing.assert_allclose(
        green[:, 1], (points[1][weights >= 0.5] + 0.5) / 2 - 0.5 + [140 * 1.02, 0]
    )
    assert figure.get_suptitle().startswith("no pose" if count < 5 else "confidence 0.90; 26 of 40")
    assert len(below[0].get_xlabel()) == 1
    assert len(below[1].get_xlabel()) == 60


def test_further_fields_of_a_pose_are_written():
    class Longer(NamedTuple):
        rotation: Any
        direction: Any
        confidence: Any
        matches: Any
        points1: Any
        inliers: Any
        covariance: Any
        runner_up: Any

    pose = RelativePose(np.full((3, 3), np.nan), np.full(3, np.nan), np.float64(0), 3)
    longer: Any = Longer(
        np.eye(3), np.array([0, 0, 1.0]), np.float64(0.5), 7, np.zeros((7, 2)), np.zeros(7),
        np.diag([1.0, 2, 3, 4, np.nan]), pose,
    )  # fmt: skip
    entries = pair_table.pose_entries(longer)
    json.dumps(entries, allow_nan=False)
    assert set(entries) == {
        "rotation", "quaternion", "direction", "confidence", "matches", "covariance", "runner_up"
    }  # fmt: skip
    assert entries["quaternion"] == [1, 0, 0, 0]
    assert entries["covariance"][4] == [0, 0, 0, 0, None]
    assert entries["runner_up"]["rotation"] == [[None] * 3] * 3
    assert pair_table.pose_entries(pose)["rotation"] is None


REFUSED = [
    ({"pictures": "none"}, "expected a folder of pictures, got no such folder"),
    ({"pictures": "one"}, "`pictures`: expected two pictures or more, got a.png"),
    ({"pictures": "in", "pairs": "none.txt"}, "none.txt`: expected a file"),
    (
        {"pictures": "in", "pairs": "list.txt"},
        "line 2`: expected the name of a picture, got 'x.jpg'",
    ),
    ({"pictures": "in", "pairs": "self.txt"}, "expected two different pictures"),
    ({"pictures": "in", "pairs": "list.txt", "neighbours": 2}, "`neighbours`: goes without"),
    ({"pictures": "list.txt"}, "A list of pairs goes to --pairs"),
    ({"pictures": "video.mp4"}, "expected a video that OpenCV decodes"),
    ({"pictures": "in", "every": 2}, "`every`: goes with a video"),
    ({"pictures": "out"}, "`workdir`: expected another folder than --pictures"),
    ({"pictures": "in", "intrinsics": "1,2,3"}, "fx,fy,cx,cy"),
    ({"pictures": "in", "intrinsics": "9,9,5,5,9,9,5,5"}, "once, of all pictures"),
    ({"pictures": "in", "intrinsics": "900,900,500,400"}, "expected a principal point in the"),
    ({"pictures": "in", "intrinsics": "0,900,50,40"}, "focal lengths other than zero"),
    ({"pictures": "in", "image1": "in/a.png"}, "`pictures`: goes without --image1"),
    ({"pairs": "list.txt"}, "`pairs`: goes with --pictures"),
    ({"image1": "in/a.png", "export": "colmap"}, "`export`: goes with --pictures"),
    ({"image1": "in/a.png"}, "`image2`: expected the path of an image"),
    ({}, "`checkpoint`: expected the work folder of a training, or --pictures"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_what_is_refused(tmp_path, monkeypatch, fields, message):
    write_pictures(tmp_path / "in", ["a.png", "b.png"])
    write_pictures(tmp_path / "one", ["a.png"])
    (tmp_path / "list.txt").write_text("# pairs\na.png x.jpg\n")
    (tmp_path / "self.txt").write_text("a.png a.png\n")
    (tmp_path / "video.mp4").write_bytes(b"no video" * 99)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(runner.DataError, match=message):
        predict(tmp_path / "out", **fields)
    assert not (tmp_path / "out" / "pairs.csv").exists()


def test_all_pairs_have_a_limit(tmp_path, monkeypatch):
    write_pictures(tmp_path / "in", [f"{n}.png" for n in range(4)])
    monkeypatch.setattr(pictures, "MAX_PAIRS", 5)
    with pytest.raises(runner.DataError, match="at most 5 pairs of all pictures, got 0 with 4"):
        predict(tmp_path / "out", pictures=str(tmp_path / "in"), neighbours=0)


def test_cameras_of_all_pictures_are_needed(tmp_path):
    write_pictures(tmp_path / "in", ["a.png", "b.png"])
    k = [[90, 0, 60], [0, 90, 60], [0, 0, 1]]
    content = {"images": [{"file": "a.png", "intrinsics": k}]}
    (tmp_path / "in" / "cameras.json").write_text(json.dumps(content))
    with pytest.raises(runner.DataError, match=r"intrinsics of all pictures, got \['b.png'\]"):
        predict(tmp_path / "out", pictures=str(tmp_path / "in"))


def test_one_camera_is_not_that_of_pictures_of_two_sizes(tmp_path):
    write_pictures(tmp_path / "in", ["a.png", "b.png"])
    Image.fromarray(texture(0, 100, 120)).save(tmp_path / "in" / "c.png")
    given: dict[str, Any] = {"pictures": str(tmp_path / "in")}
    with pytest.raises(runner.DataError, match=r"of one size.*a.png of 120 x 120, c.png of 120 x"):
        predict(tmp_path / "out", intrinsics="110,110,59.5,49.5", **given)
    k = [[110, 0, 59.5], [0, 110, 59.5], [0, 0, 1]]
    path = tmp_path / "in" / "cameras.json"
    path.write_text(json.dumps({"intrinsics": k, "size": [120, 120]}))
    with pytest.raises(runner.DataError, match=r"`c.png`: expected the ratio of 120 x 120 px"):
        predict(tmp_path / "out", **given)
    path.write_text(json.dumps({"intrinsics": [[110, 0, 59], [0, -110, 59], [0, 0, 1]]}))
    (tmp_path / "in" / "c.png").unlink()
    pytest.importorskip("pycolmap")
    with pytest.raises(runner.DataError, match="expected focal lengths above 0"):
        predict(tmp_path / "out", export="colmap", **given)
    assert not (tmp_path / "out" / "pairs.csv").exists()


def test_two_pictures_without_a_training(tmp_path, monkeypatch, capsys):
    write_pictures(tmp_path, ["a.png", "b.png"])
    given: dict[str, Any] = {}

    def pose(first, second, k1, _, **more):
        given.update(more, k=k1, shapes=(first.shape, second.shape))
        return RelativePose(np.eye(3), np.array([-1.0, 0, 0]), np.float64(0.75), 33)

    monkeypatch.setattr(prediction, "relative_pose", pose)
    images = {f"image{n}": str(tmp_path / f"{name}.png") for n, name in ((1, "a"), (2, "b"))}
    out = predict(tmp_path / "out", intrinsics="110,110,59.5,59.5", **images)
    assert (given["seed"], given["shapes"]) == (0, ((120, 120, 3),) * 2)
    assert "params" not in given
    np.testing.assert_array_equal(given["k"], [[110, 0, 59.5], [0, 110, 59.5], [0, 0, 1]])
    written = json.loads((out / "pose.json").read_text())
    assert json.loads(capsys.readouterr().out) == written
    assert (written["confidence"], written["matches"]) == (0.75, 33)
    assert (written["quaternion"], written["direction"]) == ([1, 0, 0, 0], [-1, 0, 0])
    assert (out / "matches.png").stat().st_size > 1000
    predict(tmp_path / "guess", **images)
    assert given["k"] is None


def test_a_trial_needs_a_training(tmp_path):
    with pytest.raises(ValueError, match="`trial`: goes with --checkpoint"):
        runner.predict(experiment.EXPERIMENT, CONFIG, tmp_path, None, trial=1)
    with pytest.raises(ValueError, match="`pictures`: goes with --mode=predict"):
        experiment.train(dataclasses.replace(CONFIG, pictures="in"), tmp_path)


def test_without_pycolmap_the_export_says_so_first(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    write_pictures(tmp_path / "in", ["a.png", "b.png"])
    with pytest.raises(runner.DataError, match="pip install pycolmap"):
        predict(tmp_path / "out", pictures=str(tmp_path / "in"), export="colmap")
    monkeypatch.setitem(sys.modules, "pycolmap", SimpleNamespace())
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(tmp_path / "in" / "b.png").save(tmp_path / "in" / "b.png", exif=exif)
    with pytest.raises(runner.DataError, match=r"without an EXIF orientation.*got 1 with one: b.p"):
        predict(tmp_path / "out", pictures=str(tmp_path / "in"), export="colmap")


@pytest.mark.usefixtures("fast")
def test_an_export_to_colmap(tmp_path):
    """Keypoints at full size, cameras, all matches, and the pairs that are sure."""
    pycolmap = pytest.importorskip("pycolmap")
    whole = texture(0)
    frames = [whole[:96, 8 * n : 8 * n + 120] for n in range(4)]
    write_video(tmp_path / "a.avi", frames)
    out = predict(
        tmp_path / "out", pictures=str(tmp_path / "a.avi"), export="colmap", figures=0,
        intrinsics="110,112,59.5,47.5", longest_side=100,
    )  # fmt: skip
    rows, _ = table(out)
    names = [f"frame_{n:06d}.png" for n in range(4)]
    assert sorted(path.name for path in (out / "images").iterdir()) == names
    with pycolmap.Database.open(str(out / colmap_export.DATABASE)) as database:
        assert [image.name for image in database.read_all_images()] == names
        np.testing.assert_allclose(database.read_camera(1).params, [110, 112, 60, 48])
        assert database.num_cameras() == 1
        for n, row in enumerate(rows, 1):
            matches = database.read_matches(n, n + 1)
            assert len(matches) == int(row[2])
            first, second = (database.read_keypoints(i)[:, :2] for i in (n, n + 1))
            moved = first[matches[:, 0]] - second[matches[:, 1]]
            np.testing.assert_allclose(np.median(moved, axis=0), [8, 0], atol=0.3)
        sure = [float(row[11]) >= 0.5 and int(row[3]) >= 15 for row in rows]
        assert database.num_verified_image_pairs() == sum(sure) > 0
        geometry = database.read_two_view_geometry(1, 2)
        assert len(geometry.inlier_matches) == int(rows[0][3])


@pytest.mark.slow
def test_the_command(tmp_path):
    """Exit status and one line; a folder that cannot be written."""
    write_pictures(tmp_path / "in", ["a.png", "b.png", "c.png"])
    (tmp_path / "in" / "d.png").write_bytes(b"none")

    def run(*flags):
        command = [sys.executable, "-m", "experiments.relative_pose", "--mode=predict", *flags]
        return subprocess.run(command, capture_output=True, text=True)

    flags = f"--pictures={tmp_path / 'in'}", "--intrinsics=110,110,59.5,59.5"
    done = run(*flags, f"--workdir={tmp_path / 'out'}")
    assert done.returncode == 1
    assert "1 that cannot (d.png), in 1 pairs" in done.stderr.splitlines()[-1]
    assert "2 pairs of 3 pictures" in done.stdout
    assert "Traceback" not in done.stderr
    assert len(table(tmp_path / "out")[0]) == 2
    (tmp_path / "in" / "d.png").unlink()
    done = run(*flags, f"--workdir={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    done = run(*flags, f"--workdir={tmp_path / 'in' / 'a.png' / 'out'}")
    assert done.returncode == 1
    assert "expected a folder that can be written" in done.stderr
    assert "Traceback" not in done.stderr
    done = run(f"--workdir={tmp_path / 'no'}")
    assert done.returncode == 1
    assert "`checkpoint`: expected the work folder of a training" in done.stderr


@pytest.mark.slow
@pytest.mark.real_data
def test_photographs(real_data, tmp_path):
    """Frames with poses: errors of the pairs, and COLMAP's mapper with the exported database."""
    source = real_data / "rgbd" / "apc_box"
    cameras = np.load(source / "cameras.npz")
    world = cameras["world_to_camera"]
    (tmp_path / "in").mkdir()
    for path in source.glob("*.jpg"):
        (tmp_path / "in" / path.name).write_bytes(path.read_bytes())
    entries = [
        {"file": f"{n:03d}.jpg", "intrinsics": k.tolist()}
        for n, k in enumerate(cameras["intrinsics"])
    ]
    (tmp_path / "in" / "cameras.json").write_text(json.dumps({"images": entries}))
    export = "none" if importlib.util.find_spec("pycolmap") is None else "colmap"
    out = predict(
        tmp_path / "out", pictures=str(tmp_path / "in"), neighbours=3, figures=2, export=export
    )
    errors = []
    for entry in table(out)[1]["pairs"]:
        i, j = (int(entry[name][:3]) for name in ("first", "second"))
        pose = world[j] @ np.linalg.inv(world[i])
        if entry["confidence"] > 0.9:
            t = pose[:3, 3] / np.linalg.norm(pose[:3, 3])
            errors.append((
                float(rotation_error(np.array(entry["rotation"]), pose[:3, :3])),
                float(translation_error(np.array(entry["direction"]), t)),
            ))  # fmt: skip
    assert len(errors) > 70
    turned, moved = np.median(errors, axis=0)
    assert turned < 1
    assert moved < 8
    if export == "none":
        pytest.skip("pycolmap is not installed: the database was not read")
    import pycolmap

    (tmp_path / "sparse").mkdir()
    found = pycolmap.incremental_mapping(
        str(out / colmap_export.DATABASE), str(tmp_path / "in"), str(tmp_path / "sparse")
    )
    images = max((own.images.values() for own in found.values()), key=len)
    rotations = {
        int(own.name[:3]): own.cam_from_world().rotation.matrix() for own in images if own.has_pose
    }
    assert len(rotations) > 30
    numbers = sorted(rotations)
    apart = [
        float(rotation_error(rotations[j] @ rotations[i].T, world[j][:3, :3] @ world[i][:3, :3].T))
        for i, j in itertools.pairwise(numbers)
    ]
    assert np.median(apart) < 1
