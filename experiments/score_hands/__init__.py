"""Scores files of predicted hand joints against labels, and draws the published curves.

  python -m experiments.score_hands --labels=labels.txt --predictions=ours=ours.txt \
      --predictions=theirs=theirs.txt --workdir=runs/scores

A line of a file is a frame: three numbers for each of J joints, separated by blanks, no header. J
is that of the labels' first line. The numbers of a joint are, in the camera's frame,

  uvd   u [px] to the right, v [px] down, depth [mm] > 0 along the optical axis
  xyz   x, y, z [mm], z the same depth:  u = cx + fx x / z,  v = cy + fy y / z

  314.253 266.724 716.364 353.415 246.500 759.871 ...     (NYU, uvd: 42 numbers)

An .npz file holds `joints_uvd` or `joints_xyz` (N, J, 3). Text does not say which it is. Labels are
read as uvd if 95% of the joints lie in the picture (2 cx by 2 cy pixels), else as xyz if 95% are
projected into it; predictions as what has the smaller median error. The table says what was read.
Refused, in one line that names the file and its line: another count of numbers, nan, a depth of 0
or less. Also refused: depths in metres, a median error above 200 mm either way, y of the wrong
sign.

Joints have the names of their set: 14 NYU (P1 P2 R1 R2 M1 M2 I1 I2 T1 T2 T3 W1 W2 C), 16 ICVL
(palm; root, mid, tip of thumb to little finger), 21 MSRA (wrist; mcp, pip, dip, tip of index to
little finger, then thumb); others numbers. --joints gives other names.

--camera=fx,fy,cx,cy are those of the formulas above. fy > 0: y points down; fy < 0: up. Scores of
uvd alone are the same with both signs; where one file is xyz, the sign must fit its y.

  NYU   588.03,-587.07,320,240    the default of files of 14 joints; its x y z has y up
  ICVL  240.99,240.96,160,120
  MSRA  241.42,241.42,160,120     fy = -241.42 for its own x y z (y up; change the sign of its z)

With --lift=data/nyu/test the depth of a predicted joint is what NYU's images show there (Tompson's
protocol for predictions in 2-D, uvd only), and the third number of a joint is not read.

results.json is a record for `python -m experiments.results`, with the curves of the figure.
"""

import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import app, flags

from data_prep.nyu_hand.parser import frame_files, read_depth
from experiments.runner import figures, records, settings
from experiments.score_hands import reading
from jaxcv.checks import argument_error
from jaxcv.data.hand import JOINTS, MIDDLES, PALM, TIPS
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
    *,
    predictions_format: str = "auto",
    labels_format: str = "auto",
    joints: Sequence[str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Errors of every method; scores.json, results.json and figures in the work folder.

    Args:
        labels: path of the labels.
        predictions: method -> path.
        workdir: where to write.
        camera: fx, fy, cx, cy [px], fy negative where y goes up; None: NYU's, for 14 joints only.
        lift: NYU's folder of the labelled frames, whose depth images (view 1) give the predicted
            joints their depth: see `jaxcv.metrics.hand.lift_joints`. None: that of the files.
        command: command line, for the record.
        predictions_format: "uvd", "xyz", or "auto": see `reading.predictions_format`.
        labels_format: the same of the labels: see `reading.labels_format`.
        joints: see `reading.joint_names`.

    Returns:
        method -> mean and median error [mm], errors by joint [mm], fractions within thresholds,
        formats that were read.

    Raises:
        ValueError: naming the file, the line and the rule.
    """
    start = time.perf_counter()
    truth = reading.read_joints(labels)
    count = truth.values.shape[1]
    names, k = reading.joint_names(count, joints), reading.camera_matrix(camera, count)
    true_format = reading.labels_format(truth, labels_format, k)
    target = reading.in_camera(truth.values, true_format, k)
    files = {
        name: reading.read_joints(path, count, depths=lift is None)
        for name, path in predictions.items()
    }
    for path, values, _ in files.values():
        if len(values) != len(target):
            expected = f"expected {len(target)} frames, as in {labels}"
            raise argument_error(path, expected, len(values))
    if lift is not None:
        found, formats = _lifted(files, target, lift, k, predictions_format)
    else:
        formats = {
            name: reading.predictions_format(file, predictions_format, target, k)
            for name, file in files.items()
        }
        found = {n: reading.in_camera(file.values, formats[n], k) for n, file in files.items()}
        for name, form in formats.items():
            if "xyz" in (form, true_format):
                reading.check_direction(files[name].path, found[name], target)
    scores, curves, metrics = {}, {}, {}
    nyu = {"tips": TIPS, "middles": MIDDLES} if names == JOINTS else {}
    for name, predicted in found.items():
        errors = joint_errors(predicted, target)
        curves[name] = success_rate(errors)
        own = pose_scores(errors, names, RECORDED, **nyu)
        metrics |= {f"{name}/{key}": value for key, value in own.items()}
        metrics[f"{name}/success_curve"] = curves[name].round(6).tolist()
        scores[name] = {
            "mean_error_mm": float(errors.mean()),
            "median_error_mm": float(np.median(errors)),
            "joint_errors_mm": dict(zip(names, errors.mean(axis=0).tolist(), strict=True)),
            "success": {
                f"{t}mm": float(rate)
                for t, rate in zip(SHOWN, success_rate(errors, SHOWN), strict=True)
            },
            "formats": {"labels": true_format, "predictions": formats[name]},
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


def _lifted(
    files: Mapping[str, reading.JointFile],
    target: np.ndarray,
    folder: str,
    k: np.ndarray,
    form: str,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The joints [mm] with depths from the images of the folder, and their formats."""
    if target.shape[1] != len(JOINTS):
        raise argument_error("lift", f"expected NYU's {len(JOINTS)} joints", target.shape[1])
    for path, _, own in files.values():
        if "xyz" in (own, form):
            raise argument_error(path, "expected u v depth with --lift", "x y z")
    lifted = {name: file.values.copy() for name, file in files.items()}
    for i, joints in enumerate(target):
        depth = read_depth(frame_files(folder, 1, i + 1)[0])[None]
        for pixels in lifted.values():
            true = joints[None, :, 2]
            pixels[i] = lift_joints(pixels[i : i + 1, :, :2], depth, true, true[:, PALM])[0]
    found = {name: reading.in_camera(pixels, "uvd", k) for name, pixels in lifted.items()}
    if form == "auto":
        for name, file in files.items():
            median = float(np.median(joint_errors(found[name], target)))
            reading.check_plausible(file, {"uvd": median})
    return found, dict.fromkeys(files, "uvd")


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
    ax, names = figure.subplots(), list(next(iter(scores.values()))["joint_errors_mm"])
    plot_joint_errors(ax, errors, names)
    if max(map(len, names)) > 3:
        ax.tick_params(axis="x", rotation=90)
    yield "joints.png", figure


def _run(argv: list[str]) -> None:
    del argv
    values = flags.FLAGS
    named = {}
    for entry in values.predictions:
        name, _, path = entry.rpartition("=")
        named[name or pathlib.Path(path).stem] = path
    try:
        command = records.command_line()
        scores = score(
            values.labels, named, values.workdir, values.camera, values.lift, command,
            predictions_format=values.format, labels_format=values.labels_format,
            joints=values.joints,
        )  # fmt: skip
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    header = ["mean [mm]", "median", *(f"<= {t} mm [%]" for t in SHOWN)]
    print(" " * 24 + "".join(f"{word:>14}" for word in header) + "  read as")
    for name, s in scores.items():
        numbers = [s["mean_error_mm"], s["median_error_mm"]]
        numbers += [100 * rate for rate in s["success"].values()]
        print(f"{name:24}" + "".join(f"{x:14.3f}" for x in numbers[:2])
              + "".join(f"{x:14.2f}" for x in numbers[2:]), _read_as(s["formats"]))  # fmt: skip
    print(pathlib.Path(values.workdir) / "scores.json")


def _read_as(formats: Mapping[str, str]) -> str:
    words = {name: reading.FORMATS[form] for name, form in formats.items()}
    return f" {words['predictions']} (labels {words['labels']})"


def main() -> None:
    """Parses the flags and scores."""
    flags.DEFINE_string("labels", None, "The file of labels.", required=True)
    flags.DEFINE_multi_string("predictions", None, "NAME=FILE; repeat it.", required=True)
    flags.DEFINE_string("workdir", None, "Where to write.", required=True)
    flags.DEFINE_list(
        "camera", None, "fx,fy,cx,cy [px] of v = cy + fy y / z: fy > 0 where y points down, < 0 "
        "where it points up. Default: NYU's 588.03,-587.07,320,240, for 14 joints only.",
    )  # fmt: skip
    formats = ("auto", *reading.FORMATS)
    flags.DEFINE_enum("format", "auto", formats, "Text of predictions; see above.")
    flags.DEFINE_enum("labels_format", "auto", formats, "Text of labels; see above.")
    flags.DEFINE_list(
        "joints", None, "Names: nyu, icvl, msra, numbers, or J names, separated by commas. By J if "
        "not given; other sets of 21 joints have another order than MSRA.",
    )  # fmt: skip
    flags.DEFINE_string("lift", None, "NYU's folder of the frames, to take depths from its images.")
    shown = "labels predictions workdir camera format labels_format joints lift"
    settings.show_in_help(shown.split())
    app.run(_run)
