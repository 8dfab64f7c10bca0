"""Predictions of relative pose: networks and test poses, or the pose of two images."""

import json
import pathlib
from typing import Any

import jax
import numpy as np

from experiments import runner
from experiments.relative_pose import evaluation, refinement, training
from experiments.relative_pose.data import quaternions
from experiments.relative_pose.figures import draw_matches
from jaxcv.geometry.epipolar import essential_matrix
from jaxcv.io import Model
from jaxcv.io.pictures import read_rgb
from jaxcv.systems import relative_pose
from jaxcv.systems.feature_matches import find_matches
from jaxcv.systems.two_view import intrinsics_or_guess

__all__ = ["CONVENTION", "model", "write"]

CONVENTION = (
    "x2 = R x1 + t takes points of the first camera to the second; |t| = 1; x right, y down, z "
    "forward; quaternion w, x, y, z"
)


def write(config: Any, data: Any, trained: Any, folder: pathlib.Path) -> None:
    """With --image1 and --image2, prints their pose and writes it to pose.json and matches.png.

    Else writes <net>.safetensors and joint.safetensors for `load_model`, of the model's trial, and
    poses.csv, a line per test pair: quaternion, direction, confidence by `last_poses`.
    """
    if config.image1 is not None or config.image2 is not None:
        _one_pair(config, trained, folder)
        return
    index = model(config, trained, trained.trial).card["trial"]
    for name in trained:
        own = _model_of(config, trained, name, index)
        runner.save_model(folder / f"{name}.safetensors", own, "relative_pose")
    name, poses = evaluation.last_poses(config, data, trained)
    table = np.c_[quaternions(poses.rotation), poses.direction, poses.confidence[:, None]]
    header = f"qw,qx,qy,qz,tx,ty,tz,confidence  # {name}: {CONVENTION.replace(',', ';')}"
    np.savetxt(folder / "poses.csv", table, "%.6g", ",", header=header, comments="")


def model(config: Any, trained: Any, trial: int | None) -> Model:
    """`joint` with --refine, else the last network, of the seed of lowest validation errors."""
    history = trained[config.net[-1]].history
    errors = sum(history[one][-1] for one in refinement.VALIDATED)
    index = runner.chosen_trial(trial, errors)
    return _model_of(config, trained, "joint" if config.refine else config.net[-1], index)


def _model_of(config: Any, trained: Any, name: str, i: int) -> Model:
    params = jax.tree.map(lambda leaf: leaf[i], trained[name].params)
    config, net = training.networks(config)[config.net[-1] if name == "joint" else name]
    if name != "joint":
        history = trained[name].history
        errors = [history[one][-1, i] for one in refinement.VALIDATED]
        network = params["network"]
        params = refinement.untrained(config, network, jax.random.key(0), errors, net=net)
    settings = {
        "network": training.network(config, net), "head": refinement.HEAD, "shape": config.shape
    }  # fmt: skip
    return Model(params, settings, {"run": name, "trial": i})


def _one_pair(config: Any, trained: Any, folder: pathlib.Path) -> None:
    images = [_image(name, getattr(config, name)) for name in ("image1", "image2")]
    k1, k2 = _intrinsics(config.intrinsics)
    own = model(config, trained, trained.trial)
    with runner.data_errors():
        pose = relative_pose(images[0], images[1], k1, k2, params=own.params, **own.settings)
    quaternion = quaternions(pose.rotation[None])[0]
    result = {
        "convention": CONVENTION,
        "rotation": np.asarray(pose.rotation, float).round(9).tolist(),
        "quaternion": quaternion.astype(float).round(9).tolist(),
        "direction": np.asarray(pose.direction, float).round(9).tolist(),
        "confidence": round(float(pose.confidence), 4),
        "matches": int(pose.matches),
        "intrinsics": "given" if config.intrinsics else "assumed: 1.2 times the longer side",
    }
    text = json.dumps(result, indent=1)
    print(text)
    runner.write_text(folder / "pose.json", text + "\n")
    _draw(folder / "matches.png", images, pose, k1, k2)


def _image(name: str, path: str | None) -> np.ndarray:
    if path is None:
        raise runner.data_error(name, "expected the path of an image", "none", f"Give --{name}.")
    with runner.data_errors():
        return read_rgb(path, hint=f"Give another --{name}.")


def _intrinsics(text: str | None) -> tuple[Any, Any]:
    if text is None:
        return None, None
    try:
        values = [float(word) for word in text.split(",")]
        if len(values) not in (4, 8):
            raise ValueError(f"{len(values)} numbers")
    except ValueError as error:
        expected = "expected fx,fy,cx,cy in pixels, once or twice"
        raise runner.data_error(
            "intrinsics", expected, text, "Give e.g. 500,500,319.5,239.5."
        ) from error
    make = lambda fx, fy, cx, cy: np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    return make(*values[:4]), make(*values[-4:])


def _draw(path: pathlib.Path, images: Any, pose: Any, k1: Any, k2: Any) -> None:
    figure = runner.new_figure(figsize=(12, 5), dpi=120)
    axes = figure.subplots(1, 2)
    k = [intrinsics_or_guess("K", own, image) for own, image in zip((k1, k2), images, strict=True)]
    essential = essential_matrix(pose.rotation, pose.direction)
    first, second = images
    draw_matches(axes, first, second, find_matches(first, second), essential, k[0], k[1])
    figure.suptitle(f"Matches and epipolar lines; confidence {float(pose.confidence):.2f}")
    runner.save_figures([(path.name, figure)], path.parent)
