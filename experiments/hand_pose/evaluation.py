"""Evaluation of the hand pose: networks, fused predictions, refined hands, the mean pose."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.hand_pose import refinement, training
from experiments.hand_pose.data import Crops, Data
from experiments.runner.statistics import change_over_seeds
from experiments.runner.timing import seconds_per_call
from jaxcv.data.hand import pixels_of_joints, write_predictions
from jaxcv.energies.hand import HandScales
from jaxcv.geometry.crop import of_cube
from jaxcv.io import Model
from jaxcv.metrics.hand import joint_errors, success_rate
from jaxcv.models.hand_pose import (
    HandNetwork,
    fuse_predictions,
    inverse_error_weights,
    least_squares_weights,
    pose_loss,
)
from jaxcv.systems.hand_pose import ColorScale

__all__ = [
    "COMPARED",
    "SUCCESSES",
    "TESTS",
    "calibrate",
    "joints_of_rows",
    "metrics",
    "model",
    "write_joints",
]

AT_ONCE = 128
TESTS = ("seen", "unseen")
SUCCESSES = (20, 40)  # [mm]
COMPARED = (  # (a, b): error of a / error of b - 1
    ("net2", "net1"), ("net4", "net2"), ("net6", "net4"), ("net6", "net1"), ("net8", "net1"),
    ("net8wide", "net8"), ("net8wide", "net6"), ("rgb", "net6"), ("rgbd", "net6"),
    ("fusepred", "net6"), ("fuse_conv", "net6"), ("refined", "net6"), ("refined_undamped", "net6"),
    ("refined_untrained", "net6"), ("refined", "refined_untrained"),
    ("refined", "refined_undamped"),
)  # fmt: skip


@functools.partial(jax.jit, static_argnames="network")
def _apply(params: Any, images: Any, network: HandNetwork) -> jax.Array:
    return network.apply(params, *images)  # type: ignore[return-value]


@functools.partial(jax.jit, static_argnames="network")
def _refine(params, depth, points, centre, cube, network):
    # Damping acts on gradients only, so one compiled program serves all rows.
    return refinement.estimate(
        params, depth, points, centre, cube, network, refinement.DAMPINGS["refined"]
    )


def _in_parts(run: Callable[[slice], Any], count: int) -> Any:
    parts = [run(slice(i, i + AT_ONCE)) for i in range(0, count, AT_ONCE)]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def _found(network: HandNetwork, trained: runner.TrainedRun, i: int, crops: Crops) -> np.ndarray:
    """Joints (N, J, 3) that the i-th seed predicts, in half sides of the cube."""
    images = training.images_of(crops, trained.metadata["color_scale"], network.images)
    params = _trial(trained, i)
    run = lambda rows: np.asarray(_apply(params, [image[rows] for image in images], network))
    return _in_parts(run, len(crops.depth))


def _trial(trained: runner.TrainedRun, i: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[i], trained.params)


def _in_mm(found: Any, crops: Crops, cube: float) -> np.ndarray:
    return np.asarray(of_cube(found, crops.centre[:, None], cube))


def same_data(config: Any, data: Data, trained: Any) -> bool:
    """True if the networks were trained on these data, judged by the metadata."""
    own = training.metadata(config, data)
    return all(trained.metadata.get(name) == value for name, value in own.items())


def calibrate(config: Any, data: Data, trained: Any) -> dict[str, Any]:
    """Weights of FusePred from the validation frames, by inverse errors and by least squares."""
    if "fusepred" not in config.net:
        return {}
    nets, out = training.networks(config), []
    for i in range(config.num_seeds):
        one, other = (_found(nets[name], trained[name], i, data.valid) for name in ("net6", "rgb"))
        errors = [np.abs(own - data.valid.target).mean(axis=0) for own in (one, other)]
        learned = least_squares_weights(one, other, data.valid.target)
        weights = {
            "fusepred_inverse_error": inverse_error_weights(errors[0], errors[1]),
            "fusepred_learned": learned,
        }
        out.append({name: np.asarray(w) for name, w in weights.items()})
    return {"fusepred_weights": out}


def _fused(config: Any, trained: Any, i: int, crops: Crops) -> dict[str, np.ndarray]:
    """The three FusePred rows: equal weights, by inverse errors, by least squares."""
    nets = training.networks(config)
    depth, rgb = (_found(nets[name], trained[name], i, crops) for name in ("net6", "rgb"))
    weights = {"fusepred": 0.5} | trained.metadata["fusepred_weights"][i]
    return {
        name: np.asarray(fuse_predictions(depth, rgb, np.asarray(w, np.float32)))
        for name, w in weights.items()
    }


def _refined(config: Any, params: Any, crops: Crops) -> tuple[np.ndarray, np.ndarray]:
    """Joints (N, 14, 3) [mm] of the network, and of the hand fitted to them and the points."""
    network = refinement.with_confidence(training.networks(config)["net6"])

    def run(rows):
        some = crops.take(rows)
        joints, refined = _refine(
            params, some.depth, some.points, some.centre, config.cube, network
        )
        return np.asarray(joints), np.asarray(refined.joints)

    return _in_parts(run, len(crops.depth))


def joints_of_rows(
    config: Any, data: Data, trained: runner.TrainedRuns, i: int, test: str
) -> dict[str, np.ndarray]:
    """Row -> joints (N, J, 3) [mm] in the camera frame, by the i-th seed, on one of TESTS."""
    crops = getattr(data, test)
    return trained.once((i, test), lambda: _joints_of_rows(config, data, trained, i, crops))


def _joints_of_rows(
    config: Any, data: Data, trained: runner.TrainedRuns, i: int, crops: Crops
) -> dict[str, np.ndarray]:
    mean = np.asarray(next(iter(trained.values())).metadata["mean_pose"], np.float32)
    out = {"mean_pose": _in_mm(np.broadcast_to(mean, crops.target.shape), crops, config.cube)}
    for name, network in training.networks(config).items():
        found = _found(network, trained[name], i, crops)
        out[name] = _in_mm(found, crops, config.cube)
    if "fusepred" in config.net:
        fused = _fused(config, trained, i, crops)
        out |= {name: _in_mm(found, crops, config.cube) for name, found in fused.items()}
    if config.refine:
        for name in refinement.DAMPINGS:
            alone, out[name] = _refined(config, _trial(trained[name], i), crops)
            if name == "refined":
                out["refined_network"] = alone  # its network alone
        shape = _trial(trained["refined"], i)["network"]["params"]["confidence"]
        before = refinement.untrained(_trial(trained["net6"], i), shape)
        _, out["refined_untrained"] = _refined(config, before, crops)
    return out


def metrics(config: Any, data: Data, trained: Any) -> dict[str, Any]:
    """Means over the seeds and, with several seeds, also the values of each."""
    out: dict[str, Any] = {}
    kept: dict[str, list[float]] = {}
    for i in range(config.num_seeds):
        for test in TESTS:
            crops = getattr(data, test)
            prefix = "" if test == "seen" else f"{test}_"
            for name, joints in joints_of_rows(config, data, trained, i, test).items():
                errors = joint_errors(joints, crops.joints)
                own = {f"{prefix}mean_error_mm": errors.mean()}
                rates = success_rate(errors, SUCCESSES)
                own |= {
                    f"{prefix}success_{t}mm": rate for t, rate in zip(SUCCESSES, rates, strict=True)
                }
                for metric, value in own.items():
                    kept.setdefault(f"{name}/{metric}", []).append(float(value))
    nets = training.networks(config)
    for name in nets:
        history = trained[name].history
        least = np.nanmin(history["valid_loss"], axis=0)
        kept[f"{name}/valid_loss"] = [float(x) for x in least]
    for first, second in COMPARED:
        for metric in ("valid_loss", "mean_error_mm", "unseen_mean_error_mm"):
            keys = [f"{name}/{metric}" for name in (first, second)]
            if all(key in kept for key in keys):
                found = change_over_seeds(*(kept[key] for key in keys))
                out |= {f"{first}_over_{second}/{metric}_{k}": v for k, v in found.items()}
    for key, values in kept.items():
        out[key] = float(np.mean(values))
        if len(values) > 1 and not key.startswith("mean_pose/"):
            out[f"{key}_of_seeds"] = values
    mean = jnp.asarray(data.train.target.mean(axis=0))[None]
    out["mean_pose/valid_loss"] = float(pose_loss(mean, jnp.asarray(data.valid.target)))
    for name, network in nets.items():
        crops = data.train.take(slice(0, config.batch_size))
        images = training.images_of(crops, data.scale, network.images)
        seconds = seconds_per_call(_apply, _trial(trained[name], 0), images, network)
        out[f"{name}/images_per_second"] = len(crops.depth) / seconds
        out[f"{name}/parameters"] = training.count_parameters(network, config.side)
        out[f"{name}/training_minutes"] = trained[name].seconds / 60
        out[f"{name}/train_loss"] = float(np.mean(trained[name].history["loss"][-1]))
        if config.search:
            out |= _searched(config, name, trained)
    return out


def _searched(config: Any, name: str, trained: Any) -> dict[str, Any]:
    """Best setting of the search, and its loss beside that of the thesis' setting."""
    rounds = [trained[f"{name}.search{k}"] for k in range(config.search_rounds)]
    scores = np.concatenate([training.search_scores(one) for one in rounds])
    rates = training.best_setting(config, name, trained)
    return {f"{name}/search_{rate}": value for rate, value in rates.items()} | {
        f"{name}/search_valid_loss": float(scores[1:].min()),
        f"{name}/search_source_valid_loss": float(scores[0]),
        f"{name}/search_diverged": float(np.mean(~np.isfinite(scores))),
        f"{name}/search_minutes": sum(one.seconds for one in rounds) / 60,
    }


def write_joints(config: Any, data: Data, trained: Any, folder: pathlib.Path) -> None:
    """Writes `<row>_<test>.txt` and `labels_<test>.txt` for `experiments.score_hands`, and
    `<network>.safetensors` for `load_model`, of --trial or else of the model's seed.

    The .txt files hold u, v [px] and depth [mm] in NYU's camera, whatever camera took the frames.
    """
    index = model(config, trained, trained.trial).card["trial"]
    for test in TESTS:
        crops = getattr(data, test)
        rows = {"labels": crops.joints} | joints_of_rows(config, data, trained, index, test)
        for name, joints in rows.items():
            write_predictions(folder / f"{name}_{test}.txt", pixels_of_joints(joints))
    for name in (*training.networks(config), *(refinement.DAMPINGS if config.refine else ())):
        own = _model_of(config, trained, name, index)
        runner.save_model(folder / f"{name}.safetensors", own, "hand_pose")


def model(config: Any, trained: Any, trial: int | None) -> Model:
    """The refined net6 with --refine, else the network of lowest validation loss; best seed."""
    scores = {name: training.search_scores(trained[name]) for name in training.networks(config)}
    name = "net6" if config.refine else min(scores, key=lambda one: scores[one].min())
    index = runner.chosen_trial(trial, scores[name])
    return _model_of(config, trained, "refined" if config.refine else name, index)


def _model_of(config: Any, trained: Any, name: str, i: int) -> Model:
    params, scales, network = _trial(trained[name], i), None, training.networks(config).get(name)
    if network is None:
        network, logs = refinement.with_confidence(training.networks(config)["net6"]), params
        params = logs["network"]
        scales = HandScales(*(float(np.exp(x)) for x in logs["log_scales"]))
    mean, deviation = (tuple(x) for x in trained[name].metadata["color_scale"])
    settings = {
        "network": network, "side": config.side, "cube": config.cube,
        "color_scale": ColorScale(mean, deviation), "scales": scales,
    }  # fmt: skip
    return Model(params, settings, {"run": name, "trial": i})
