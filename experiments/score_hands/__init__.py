"""Scores files of predicted hand joints against labels, and draws the published curves.

  python -m experiments.score_hands --labels=labels.txt --predictions=ours=ours.txt \
      --predictions=theirs=theirs.txt --workdir=runs/scores

A line is a frame, 42 numbers: u, v [px] and depth [mm] of P1 P2 R1 R2 M1 M2 I1 I2 T1 T2 T3 W1 W2 C,
as published files have them; an .npz file holds the same as `joints_uvd` (N, 14, 3). The camera is
NYU's unless --camera names another. With --lift=data/nyu/test the depth of a predicted joint is
what NYU's images show there (Tompson's protocol for predictions in 2-D), and the third number of a
joint is not read.

results.json is a record for `python -m experiments.results`, with the curves of the figure.
"""

import pathlib
import sys
import time
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import app, flags

from data_prep.nyu_hand.parser import frame_files, read_depth
from experiments.runner import figures, records, settings
from jaxcv.checks import argument_error
from jaxcv.data.hand import (
    JOINTS,
    MIDDLES,
    NYU_INTRINSICS,
    PALM,
    TIPS,
    joints_of_pixels,
    read_predictions,
)
from jaxcv.io.files import check_file
from jaxcv.metrics.hand import THRESHOLDS, joint_errors, lift_joints, pose_scores, success_rate

__all__ = ["main", "score"]

SHOWN = (20, 30, 40, 50, 80)
RECORDED = tuple(range(10, 81, 10))  # [mm]


def score(
    labels: str,
    predictions: Mapping[str, str],
    workdir: str | pathlib.Path,
    camera: Any = None,
    lift: str | None = None,
    command: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Errors of every method; scores.json, results.json and figures in the work folder.

    Args:
        labels: path of the labels.
        predictions: method -> path.
        workdir: where to write.
        camera: fx, fy, cx, cy [px], fy negative where y goes up; None: NYU's.
        lift: NYU's folder of the labelled frames, whose depth images (view 1) give the predicted
            joints their depth: see `jaxcv.metrics.hand.lift_joints`. None: that of the files.
        command: command line, for the record.

    Returns:
        method -> mean and median error [mm], errors by joint [mm], fractions within thresholds.

    Raises:
        ValueError: naming the file, the line and the rule.
    """
    start = time.perf_counter()
    k = NYU_INTRINSICS
    if camera is not None:
        fx, fy, cx, cy = camera
        k = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    truth = _read(labels)
    target = joints_of_pixels(truth, k)
    found = {name: _read(path) for name, path in predictions.items()}
    for name, pixels in found.items():
        if pixels.shape != target.shape:
            expected = f"expected {len(target)} frames, as in {labels}"
            raise argument_error(predictions[name], expected, len(pixels))
    if lift is not None:
        found = _lifted(found, truth, lift)
    scores, curves, metrics = {}, {}, {}
    for name, pixels in found.items():
        errors = joint_errors(joints_of_pixels(pixels, k), target)
        curves[name] = success_rate(errors)
        own = pose_scores(errors, JOINTS, RECORDED, tips=TIPS, middles=MIDDLES)
        metrics |= {f"{name}/{key}": value for key, value in own.items()}
        metrics[f"{name}/success_curve"] = curves[name].round(6).tolist()
        scores[name] = {
            "mean_error_mm": float(errors.mean()),
            "median_error_mm": float(np.median(errors)),
            "joint_errors_mm": dict(zip(JOINTS, errors.mean(axis=0).tolist(), strict=True)),
            "success": {
                f"{t}mm": float(rate)
                for t, rate in zip(SHOWN, success_rate(errors, SHOWN), strict=True)
            },
        }
    folder = pathlib.Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    records.write_json(folder / "scores.json", scores)
    record = {
        "experiment": "score_hands",
        "config": {"labels": pathlib.Path(labels).name, "methods": list(predictions),
                   "frames": len(target), "lifted": lift is not None},
        "metrics": metrics,
        "source": {},
        "environment": records.environment(command, None, time.perf_counter() - start),
    }  # fmt: skip
    records.write_json(folder / "results.json", record)
    figures.save_figures(_figures(scores, curves), folder)
    return scores


def _read(path: str) -> np.ndarray:
    """(N, 14, 3) of a text file, or of `joints_uvd` in an .npz file."""
    if pathlib.Path(path).suffix != ".npz":
        return read_predictions(path)
    check_file(path)
    expected = f"expected finite `joints_uvd` (N, {len(JOINTS)}, 3)"
    try:
        with np.load(path, allow_pickle=False) as file:
            joints = np.asarray(file["joints_uvd"], float)
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise argument_error(path, expected, error) from error
    if joints.shape[1:] != (len(JOINTS), 3) or not len(joints) or not np.isfinite(joints).all():
        raise argument_error(path, expected, joints.shape)
    return joints


def _lifted(
    found: Mapping[str, np.ndarray], truth: np.ndarray, folder: str
) -> dict[str, np.ndarray]:
    """The predictions with depths from the images of the folder, frame by frame."""
    out = {name: pixels.copy() for name, pixels in found.items()}
    for i, joints in enumerate(truth):
        depth = read_depth(frame_files(folder, 1, i + 1)[0])[None]
        for pixels in out.values():
            true = joints[None, :, 2]
            pixels[i] = lift_joints(pixels[i : i + 1, :, :2], depth, true, true[:, PALM])[0]
    return out


def _figures(scores: Any, curves: Any) -> Any:
    from jaxcv.plots.hand import plot_joint_errors, plot_success

    labels = {name: f"{name}: {s['mean_error_mm']:.2f} mm" for name, s in scores.items()}
    figure = figures.new_figure(figsize=(6, 4))
    plot_success(
        figure.subplots(), {labels[name]: curve for name, curve in curves.items()}, THRESHOLDS
    )
    yield "success.png", figure
    figure = figures.new_figure(figsize=(10, 4))
    errors = {labels[n]: list(s["joint_errors_mm"].values()) for n, s in scores.items()}
    plot_joint_errors(figure.subplots(), errors, JOINTS)
    yield "joints.png", figure


def _run(argv: list[str]) -> None:
    del argv
    values = flags.FLAGS
    named = {}
    for entry in values.predictions:
        name, _, path = entry.rpartition("=")
        named[name or pathlib.Path(path).stem] = path
    camera = None if values.camera is None else [float(x) for x in values.camera]
    try:
        if camera is not None and len(camera) != 4:
            raise argument_error("camera", "expected fx,fy,cx,cy", values.camera)
        command = records.command_line()
        scores = score(values.labels, named, values.workdir, camera, values.lift, command)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    header = ["mean [mm]", "median", *(f"<= {t} mm [%]" for t in SHOWN)]
    print(" " * 24 + "".join(f"{word:>14}" for word in header))
    for name, s in scores.items():
        numbers = [s["mean_error_mm"], s["median_error_mm"]]
        numbers += [100 * rate for rate in s["success"].values()]
        print(f"{name:24}" + "".join(f"{x:14.3f}" for x in numbers[:2])
              + "".join(f"{x:14.2f}" for x in numbers[2:]))  # fmt: skip
    print(pathlib.Path(values.workdir) / "scores.json")


def main() -> None:
    """Parses the flags and scores."""
    flags.DEFINE_string("labels", None, "The file of labels.", required=True)
    flags.DEFINE_multi_string("predictions", None, "NAME=FILE; repeat it.", required=True)
    flags.DEFINE_string("workdir", None, "Where to write.", required=True)
    flags.DEFINE_list("camera", None, "fx,fy,cx,cy [px]; NYU's by default.")
    flags.DEFINE_string("lift", None, "NYU's folder of the frames, to take depths from its images.")
    settings.show_in_help(("labels", "predictions", "workdir", "camera", "lift"))
    app.run(_run)
