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
