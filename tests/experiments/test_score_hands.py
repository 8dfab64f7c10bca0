"""The command that scores prediction files."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from data_prep.nyu_hand import encode_depth
from experiments import score_hands
from experiments.results import page
from experiments.score_hands import reading
from jaxcv.data.hand import (
    NYU_INTRINSICS,
    joints_of_pixels,
    pixels_of_joints,
    read_predictions,
    write_predictions,
)


def files(folder):
    joints = np.random.default_rng(0).normal([0, 0, 800], [60, 60, 30], (5, 14, 3))
    moved = joints + np.array([3.0, 0.0, 4.0])
    moved[0, 0] += [0, 0, 60.0]
    for name, value in (("labels", joints), ("off", moved)):
        write_predictions(folder / f"{name}.txt", pixels_of_joints(value))
    return [str(folder / name) for name in ("labels.txt", "off.txt")]


def test_scores_of_known_errors(tmp_path):
    labels, off = files(tmp_path)
    scores = score_hands.score(labels, {"same": labels, "off": off}, tmp_path / "out")
    assert scores["same"]["mean_error_mm"] == 0
    assert scores["same"]["success"]["20mm"] == 1
    assert scores["off"]["success"]["20mm"] == pytest.approx(0.8)
    assert scores["off"]["median_error_mm"] == pytest.approx(5, abs=1e-2)
    assert scores["off"]["joint_errors_mm"]["C"] == pytest.approx(5, abs=1e-2)
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == scores
    for name in ("success", "joints"):
        assert (tmp_path / "out" / f"{name}.png").stat().st_size > 5000
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert record["metrics"]["off/success_20mm"] == pytest.approx(0.8)
    assert record["metrics"]["off/joint_C_mm"] == pytest.approx(5, abs=1e-2)
    curve = record["metrics"]["off/success_curve"]
    assert (len(curve), curve[4], curve[20]) == (81, 0, pytest.approx(0.8))
    assert "within 20 / 40 / 80 mm: same 0.00; 100.0" in page._row("scores", record)
    k = NYU_INTRINSICS
    camera = k[0, 0], -k[1, 1], k[0, 2], 480 - k[1, 2]  # errors do not know where up is
    again = score_hands.score(labels, {"off": off}, tmp_path / "again", camera)
    assert again["off"]["mean_error_mm"] == pytest.approx(scores["off"]["mean_error_mm"])


def test_arrays_score_as_the_text_does(tmp_path):
    labels, off = files(tmp_path)
    arrays = str(tmp_path / "off.npz")
    np.savez(arrays, joints_uvd=read_predictions(off))
    found = score_hands.score(labels, {"text": off, "arrays": arrays}, tmp_path / "out")
    assert found["text"] == found["arrays"]
    for content in ({"joints": np.zeros((5, 14, 3))}, {"joints_uvd": np.zeros((5, 13, 3))},
                    {"joints_uvd": np.full((5, 14, 3), np.nan)}):  # fmt: skip
        np.savez(arrays, **content)  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match=r"off.npz`: expected finite `joints_uvd`"):
            score_hands.score(labels, {"arrays": arrays}, tmp_path / "bad")
    (tmp_path / "off.npz").write_text("1 2 3")
    with pytest.raises(ValueError, match=r"off.npz`: expected finite `joints_uvd`"):
        score_hands.score(labels, {"arrays": arrays}, tmp_path / "bad")


def test_depths_of_the_images_where_they_show_the_hand(tmp_path):
    joints = np.random.default_rng(1).normal([0, 0, 800], [60, 60, 30], (2, 14, 3))
    pixels = pixels_of_joints(joints)
    pixels[..., :2] = np.round(pixels[..., :2])
    guessed = pixels.copy()
    guessed[..., 2] = 123.0  # is not read
    write_predictions(tmp_path / "labels.txt", pixels)
    write_predictions(tmp_path / "flat.txt", guessed)
    for i, value in ((1, 810), (2, 2000)):  # a wall near the hand, and one far behind it
        image = encode_depth(np.full((480, 640), value))
        Image.fromarray(image).save(tmp_path / f"depth_1_000000{i}.png")
    labels, flat = (str(tmp_path / f"{name}.txt") for name in ("labels", "flat"))
    scores = score_hands.score(labels, {"flat": flat}, tmp_path / "out", lift=str(tmp_path))
    rays = np.linalg.norm(joints_of_pixels(pixels[0]) / pixels[0, :, 2:], axis=-1)
    expected = np.mean(np.abs(810 - pixels[0, :, 2]) * rays) / 2  # the far one: true depths
    assert scores["flat"]["mean_error_mm"] == pytest.approx(expected, abs=2e-3)
    (tmp_path / "depth_1_0000002.png").unlink()
    with pytest.raises(ValueError, match=r"depth_1_0000002.png"):
        score_hands.score(labels, {"flat": flat}, tmp_path / "bad", lift=str(tmp_path))
    assert not (tmp_path / "bad").exists()


def hand_set(count, frames=6):
    """Labels and predictions (N, J, 3) [mm], 13 mm off."""
    joints = np.random.default_rng(2).normal([0, 20, 350], [35, 25, 15], (frames, count, 3))
    return joints, joints + np.array([3.0, -4.0, 12.0])


def write(folder, name, joints, form, k):
    path = folder / f"{name}_{form}.txt"
    write_predictions(path, joints if form == "xyz" else pixels_of_joints(joints, k))
    return str(path)


CAMERA = (241.42, 241.42, 160.0, 120.0)


@pytest.mark.parametrize("count", [1, 14, 16, 21, 36])
@pytest.mark.parametrize("fy", [1, -1])
def test_formats_are_recognised_for_any_number_of_joints(tmp_path, count, fy):
    camera = CAMERA[0], fy * CAMERA[1], *CAMERA[2:]
    k = reading.camera_matrix(camera, count)
    labels, ours = hand_set(count)
    for form in ("uvd", "xyz"):
        path = write(tmp_path, "labels", labels, form, k)
        both = {name: write(tmp_path, "ours", ours, name, k) for name in ("uvd", "xyz")}
        truth = reading.read_joints(path)
        assert reading.labels_format(truth, "auto", k) == form
        for name, predicted in both.items():
            file = reading.read_joints(predicted, count)
            for given in ("auto", name):
                assert reading.predictions_format(file, given, labels, k) == name
            with pytest.raises(ValueError, match=r"which is [ux] [vy]"):
                reading.predictions_format(file, {"uvd": "xyz", "xyz": "uvd"}[name], labels, k)
            found = reading.in_camera(file.values, name, k)
            np.testing.assert_allclose(found, ours, atol=0.01)


def test_scores_do_not_depend_on_the_format(tmp_path):
    k = reading.camera_matrix(CAMERA, 21)
    labels, ours = hand_set(21)
    methods = {name: write(tmp_path, "ours", ours, name, k) for name in ("uvd", "xyz")}
    np.savez(tmp_path / "ours.npz", joints_xyz=ours)
    methods["arrays"] = str(tmp_path / "ours.npz")
    path = write(tmp_path, "labels", labels, "uvd", k)
    scores = score_hands.score(path, methods, tmp_path / "out", CAMERA)
    for name, form in (("uvd", "uvd"), ("xyz", "xyz"), ("arrays", "xyz")):
        assert scores[name]["mean_error_mm"] == pytest.approx(13, abs=0.01)
        assert scores[name]["formats"] == {"labels": "uvd", "predictions": form}
        assert list(scores[name]["joint_errors_mm"]) == list(reading.NAMES["msra"])
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert "uvd/joint_thumb_tip_mm" in record["metrics"]
    with pytest.raises(ValueError, match=r"ours_xyz.txt`: expected u v depth, as --format=uvd"):
        score_hands.score(path, methods, tmp_path / "bad", CAMERA, predictions_format="uvd")
    flipped = {"ours": write(tmp_path, "up", ours * [1, -1, 1], "xyz", k)}
    with pytest.raises(ValueError, match=r"up_xyz.txt`: expected y in the direction"):
        score_hands.score(path, flipped, tmp_path / "bad", CAMERA)
    for joints in (ours[:, ::-1] + 600, ours * [1, 1, 4]):
        lost = {"ours": write(tmp_path, "lost", joints, "xyz", k)}
        with pytest.raises(ValueError, match=r"lost_xyz.txt`: expected u v depth or x y z with"):
            score_hands.score(path, lost, tmp_path / "bad", CAMERA)
    away = write(tmp_path, "away", labels + np.array([900, 0, 0]), "xyz", k)
    with pytest.raises(ValueError, match=r"away_xyz.txt`: expected u v depth or x y z of joints"):
        score_hands.score(away, methods, tmp_path / "bad", CAMERA)
    with pytest.raises(ValueError, match=r"`camera`: expected fx,fy,cx,cy for files of 21 joints"):
        score_hands.score(path, methods, tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


def test_names_of_joints():
    assert [len(set(names)) for names in reading.NAMES.values()] == [14, 16, 21]
    assert reading.joint_names(3) == ("1", "2", "3")
    assert reading.joint_names(16) == reading.NAMES["icvl"]
    assert reading.joint_names(21, ["numbers"])[-1] == "21"
    assert reading.joint_names(2, ["a", "b"]) == ("a", "b")
    for count, names in ((14, ["msra"]), (2, ["a", "a"]), (2, ["a"]), (2, [])):
        with pytest.raises(ValueError, match="`joints`: expected nyu, icvl, msra, numbers"):
            reading.joint_names(count, names)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 300 4 5 300\n1 2 300 4 5\n", "line 2`: expected 6 numbers, got 5"),
        ("1 2 300 4 5 300 7 8 300\n", "line 1`: expected 6 numbers, got 9"),
        ("1 2 300 4 5 300\n\n1 2 300 4 5 -300\n", "line 3`: expected depths .* above 0, got -300"),
        ("1 2 0 4 5 300\n", "line 1`: expected depths .* above 0, got 0"),
        ("1 nan 300 4 5 300\n", "line 1`: expected finite numbers"),
        ("1 2 .3 4 5 .3\n", "expected depths in millimetres, got at most 0.3"),
    ],
)
def test_bad_lines_are_named(tmp_path, text, message):
    path = tmp_path / "a.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"a\.txt.*{message}"):
        reading.read_joints(str(path), 2)
    path.write_text("4\n" + text)
    with pytest.raises(ValueError, match=r"line 1`: expected three numbers a joint, got 1"):
        reading.read_joints(str(path))


@pytest.mark.parametrize("camera", [(1, 2, 3), ("a", 1, 1, 1), (1, 0, 1, 1), (np.nan, 1, 1, 1)])
def test_bad_cameras(camera):
    with pytest.raises(ValueError, match="`camera`: expected fx,fy,cx,cy: finite"):
        reading.camera_matrix(camera, 14)


def test_command_line(tmp_path):
    labels, off = files(tmp_path)
    command = [sys.executable, "-m", "experiments.score_hands", f"--labels={labels}"]
    good = [*command, f"--predictions=off={off}", f"--workdir={tmp_path / 'out'}"]
    done = subprocess.run(good, capture_output=True, text=True, check=True)
    assert "off" in done.stdout
    assert "80.00" in done.stdout
    (tmp_path / "short.txt").write_text(
        "\n".join((tmp_path / "off.txt").read_text().split("\n")[:3])
    )
    bad = [*command, f"--predictions={tmp_path / 'short.txt'}", f"--workdir={tmp_path / 'bad'}"]
    done = subprocess.run(bad, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "short.txt`: expected 5 frames" in done.stderr
    assert not (tmp_path / "bad").exists()
