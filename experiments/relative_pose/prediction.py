"""Predictions of relative pose: networks and test poses, or the poses of the user's pictures."""

import json
import pathlib
from typing import Any

import jax
import numpy as np

from experiments import runner
from experiments.relative_pose import evaluation, picture_poses, refinement, training
from experiments.relative_pose.config import Config
from experiments.relative_pose.data import quaternions
from experiments.relative_pose.pair_figure import draw_pair
from experiments.relative_pose.pair_table import CONVENTION, pose_entries
from experiments.relative_pose.pictures import intrinsics_of_flag
from jaxcv.io import Model
from jaxcv.io.pictures import read_rgb
from jaxcv.systems import relative_pose
from jaxcv.systems.feature_matches import find_matches
from jaxcv.systems.pair_poses import inlier_weights
from jaxcv.systems.two_view import intrinsics_or_guess

__all__ = ["CONVENTION", "model", "write", "write_untrained"]

_OF_PICTURES = ("pairs", "neighbours", "every", "longest_side", "figures", "export")


def write(config: Any, data: Any, trained: Any, folder: pathlib.Path) -> None:
    """Writes the poses of --pictures, or of --image1 and --image2 (pose.json, matches.png).

    Without these, writes <net>.safetensors and joint.safetensors for `load_model`, of the model's
    trial, and poses.csv, a line per test pair: quaternion, direction, confidence by `last_poses`.
    """
    if _of_user(config):
        _write_of_user(config, model(config, trained, trained.trial), folder)
        return
    index = model(config, trained, trained.trial).card["trial"]
    for name in trained:
        own = _model_of(config, trained, name, index)
        runner.save_model(folder / f"{name}.safetensors", own, "relative_pose")
    name, poses = evaluation.last_poses(config, data, trained)
    table = np.c_[quaternions(poses.rotation), poses.direction, poses.confidence[:, None]]
    header = f"qw,qx,qy,qz,tx,ty,tz,confidence  # {name}: {CONVENTION.replace(',', ';')}"
    np.savetxt(folder / "poses.csv", table, "%.6g", ",", header=header, comments="")


def write_untrained(config: Any, folder: pathlib.Path) -> None:
    """Writes the poses of --pictures, or of --image1 and --image2, from feature matches alone."""
    if not _of_user(config):
        expected = "expected the work folder of a training, or --pictures to predict on without one"
        hint = "Give --pictures=FOLDER, or --image1 and --image2; or --checkpoint=DIR."
        raise runner.data_error("checkpoint", expected, "none", hint)
    _write_of_user(config, None, folder)


def _of_user(config: Any) -> bool:
    """Whether pictures of the user's are given; checks the flags that go with them."""
    single = config.image1 is not None or config.image2 is not None
    if config.pictures is None:
        for name in _OF_PICTURES:
            if getattr(config, name) != getattr(Config(), name):
                raise runner.data_error(name, "goes with --pictures", getattr(config, name), "")
    elif single:
        hint = "Give either."
        raise runner.data_error("pictures", "goes without --image1", config.pictures, hint)
    return single or config.pictures is not None


def _write_of_user(config: Any, own: Model | None, folder: pathlib.Path) -> None:
    if config.pictures is None:
        _one_pair(config, own, folder)
    else:
        picture_poses.predict_pictures(config, own, folder)


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


def _one_pair(config: Any, own: Model | None, folder: pathlib.Path) -> None:
    images = [_image(name, getattr(config, name)) for name in ("image1", "image2")]
    given = intrinsics_of_flag(config.intrinsics)
    k1, k2 = (given[0], given[-1]) if given else (None, None)
    more = {} if own is None else {"params": own.params, **own.settings}
    with runner.data_errors():
        pose = relative_pose(images[0], images[1], k1, k2, seed=config.seed, **more)
    result = {
        "convention": CONVENTION, **pose_entries(pose),
        "intrinsics": "given" if given else "assumed: 1.2 times the longer side",
    }  # fmt: skip
    text = json.dumps(result, indent=1, allow_nan=False)
    print(text)
    runner.write_text(folder / "pose.json", text + "\n")
    k1, k2 = (intrinsics_or_guess("K", k, image) for k, image in zip((k1, k2), images, strict=True))
    matches = find_matches(images[0], images[1])
    names = pathlib.Path(config.image1).name, pathlib.Path(config.image2).name
    weights = inlier_weights(pose, matches, k1, k2)
    figure = draw_pair(names, (images[0], images[1]), matches, weights, pose, (k1, k2))
    runner.save_figures([("matches.png", figure)], folder)


def _image(name: str, path: str | None) -> np.ndarray:
    if path is None:
        raise runner.data_error(name, "expected the path of an image", "none", f"Give --{name}.")
    with runner.data_errors():
        return read_rgb(path, hint=f"Give another --{name}.")
