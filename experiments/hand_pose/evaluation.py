"""Evaluation of the hand pose: networks, fused predictions, refined hands, the mean pose."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.hand_pose import comparison, refinement, search, training
from experiments.hand_pose.config import (
    config_of,
    count_parameters,
    networks,
    predictable,
    rows,
    variants,
)
from experiments.hand_pose.data import Crops, Data, data_key, data_of, in_mm
from experiments.runner.timing import seconds_per_call
from jaxcv.data.hand import JOINTS, MIDDLES, TIPS, pixels_of_joints, write_predictions
from jaxcv.energies.hand import HandScales
from jaxcv.io import Model
from jaxcv.metrics.hand import joint_errors, pose_scores
from jaxcv.models.hand_pose import (
    HandNetwork,
    fuse_predictions,
    inverse_error_weights,
    least_squares_weights,
    pose_loss,
)
from jaxcv.systems.hand_pose import ColorScale

__all__ = [
    "SUCCESSES",
    "TESTS",
    "calibrate",
    "crops_of_row",
    "errors_of_rows",
    "joints_of_rows",
    "metrics",
    "model",
    "same_data",
    "write_joints",
]

AT_ONCE = 128
TESTS = ("seen", "unseen")
SUCCESSES = tuple(range(10, 81, 10))  # [mm]
_EACH_SEED = (
    "mean_error_mm", "success_20mm", "success_40mm", "tips_over_middles", "valid_loss",
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


def _found(
    network: HandNetwork, trained: runner.TrainedRun, i: int, crops: Crops, scale: Any
) -> np.ndarray:
    """Joints (N, J, 3) that the i-th seed predicts, in the unit of the targets."""
    params = _trial(trained, i)

    def run(rows):
        images = training.images_of(crops.take(rows), scale, network.images)
        return np.asarray(_apply(params, list(images), network))

    return _in_parts(run, len(crops.depth))


def _trial(trained: runner.TrainedRun, i: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[i], trained.params)


def same_data(config: Any, data: Data, trained: Any) -> bool:
    """True if the networks were trained on these data, judged by the metadata."""
    own = training.metadata(config, data)
    return all(trained.metadata.get(name) == value for name, value in own.items())


def calibrate(config: Any, data: Data, trained: Any) -> dict[str, Any]:
    """Weights of FusePred from the validation frames, by inverse errors and by least squares."""
    if "fusepred" not in config.net:
        return {}
    nets, out = networks(config), {}
    for ending, own in variants(config).items():
        crops = data_of(data, own).valid
        scale = training.metadata_of(trained.metadata, own)["color_scale"]
        out[ending] = []
        for i in range(config.num_seeds):
            names = (f"net6{ending}", f"rgb{ending}")
            one, other = (_found(nets[n], trained[n], i, crops, scale) for n in names)
            errors = [np.abs(found - crops.target).mean(axis=0) for found in (one, other)]
            weights = {
                "fusepred_inverse_error": inverse_error_weights(errors[0], errors[1]),
                "fusepred_learned": least_squares_weights(one, other, crops.target),
            }
            out[ending].append({name: np.asarray(w) for name, w in weights.items()})
    return {"fusepred_weights": out}


def _fused(trained: Any, i: int, ending: str, depth: Any, rgb: Any) -> dict[str, np.ndarray]:
    """The three FusePred rows: equal weights, by inverse errors, by least squares."""
    weights = {"fusepred": 0.5} | trained.metadata["fusepred_weights"][ending][i]
    return {
        f"{name}{ending}": np.asarray(fuse_predictions(depth, rgb, np.asarray(w, np.float32)))
        for name, w in weights.items()
    }


def _refined(config: Any, params: Any, crops: Crops) -> tuple[np.ndarray, np.ndarray]:
    """Joints (N, 14, 3) [mm] of the network, and of the hand fitted to them and the points."""
    network = refinement.with_confidence(networks(config)["net6"])

    def run(rows):
        some = crops.take(rows)
        joints, refined = _refine(
            params, some.depth, some.points, some.centre, config.cube, network
        )
        return np.asarray(joints), np.asarray(refined.joints)

    return _in_parts(run, len(crops.depth))


def crops_of_row(config: Any, data: Data, name: str, test: str) -> Crops:
    """The frames of one of TESTS that a row is judged by, whatever its name was made from."""
    return getattr(data_of(data, config_of(config, name)), test)


def joints_of_rows(
    config: Any, data: Data, trained: runner.TrainedRuns, i: int, test: str
) -> dict[str, np.ndarray]:
    """Row -> joints (N, J, 3) [mm] in the camera frame, by the i-th seed, on one of TESTS."""
    return trained.once((i, test), lambda: _joints_of_rows(config, data, trained, i, test))


def _joints_of_rows(
    config: Any, data: Data, trained: runner.TrainedRuns, i: int, test: str
) -> dict[str, np.ndarray]:
    out, known = {}, set()
    for ending, own in variants(config).items():
        if data_key(own) not in known:
            known.add(data_key(own))
            crops = getattr(data_of(data, own), test)
            mean = np.asarray(training.metadata_of(trained.metadata, own)["mean_pose"], np.float32)
            out[f"mean_pose{ending}"] = in_mm(np.broadcast_to(mean, crops.target.shape), crops, own)
    for name, (own, network) in rows(config).items():
        crops = getattr(data_of(data, own), test)
        scale = training.metadata_of(trained.metadata, own)["color_scale"]
        out[name] = in_mm(_found(network, trained[name], i, crops, scale), crops, own)
    if "fusepred" in config.net:
        for ending in variants(config):
            out |= _fused(trained, i, ending, out[f"net6{ending}"], out[f"rgb{ending}"])
    if config.refine:
        out |= _refined_rows(config, trained, i, getattr(data, test))
    return out


def _refined_rows(config: Any, trained: Any, i: int, crops: Crops) -> dict[str, np.ndarray]:
    out = {}
    for name in refinement.DAMPINGS:
        alone, out[name] = _refined(config, _trial(trained[name], i), crops)
        if name == "refined":
            out["refined_network"] = alone  # its network alone
    shape = _trial(trained["refined"], i)["network"]["params"]["confidence"]
    before = refinement.untrained(_trial(trained["net6"], i), shape)
    _, out["refined_untrained"] = _refined(config, before, crops)
    return out


def errors_of_rows(
    config: Any, data: Data, trained: runner.TrainedRuns, i: int, test: str
) -> dict[str, np.ndarray]:
    """Row -> errors (N, J) [mm] of the i-th seed, on one of TESTS."""
    found = joints_of_rows(config, data, trained, i, test)
    truth = lambda name: crops_of_row(config, data, name, test).joints
    return {name: joint_errors(joints, truth(name)) for name, joints in found.items()}


def _scores(errors: np.ndarray) -> dict[str, float]:
    return pose_scores(errors, JOINTS, SUCCESSES, tips=TIPS, middles=MIDDLES)


def metrics(config: Any, data: Data, trained: Any) -> dict[str, Any]:
    """Means over the seeds and, with several seeds, the values of each for the main metrics.

    Keys are `<row>/<metric>` on seen, `<row>/unseen_<metric>` on other subjects, and
    `<row>/pooled_<metric>` on the frames of both tests together, as the thesis scores them.
    """
    kept: dict[str, list[float]] = {}
    first: dict[str, dict[str, np.ndarray]] = {}
    for i in range(config.num_seeds):
        errors = {test: errors_of_rows(config, data, trained, i, test) for test in TESTS}
        first = first or {
            name: {test: errors[test][name] for test in TESTS} for name in errors["seen"]
        }
        for name in errors["seen"]:
            pooled = np.concatenate([errors[test][name] for test in TESTS])
            own = _scores(errors["seen"][name])
            own |= {f"unseen_{key}": x for key, x in _scores(errors["unseen"][name]).items()}
            own |= {f"pooled_{key}": x for key, x in _scores(pooled).items()
                    if key.startswith(("mean_error", "success"))}  # fmt: skip
            for metric, value in own.items():
                kept.setdefault(f"{name}/{metric}", []).append(value)
    for name in rows(config):
        least = np.nanmin(trained[name].history["valid_loss"], axis=0)
        kept[f"{name}/valid_loss"] = [float(x) for x in least]
    out: dict[str, Any] = {}
    best, rates = comparison.best_rows(config, kept)
    for name, chosen in best.items():
        first[name] = first[chosen]
        kept |= {key.replace(chosen, name, 1): values for key, values in kept.items()
                 if key.startswith(f"{chosen}/") and "/joint_" not in key}  # fmt: skip
    out |= rates | comparison.changes(config, kept, first, best)
    for key, values in kept.items():
        out[key] = float(np.mean(values))
        if len(values) > 1 and not key.startswith("mean_pose") and key.endswith(_EACH_SEED):
            out[f"{key}_of_seeds"] = values
    for ending, own in variants(config).items():
        if f"mean_pose{ending}/mean_error_mm" in kept:
            crops = data_of(data, own)
            mean = jnp.asarray(crops.train.target.mean(axis=0))[None]
            loss = pose_loss(mean, jnp.asarray(crops.valid.target))
            out[f"mean_pose{ending}/valid_loss"] = float(loss)
    for name, (own, network) in rows(config).items():
        crops = data_of(data, own)
        few = crops.train.take(slice(0, config.batch_size))
        images = training.images_of(few, crops.scale, network.images)
        seconds = seconds_per_call(_apply, _trial(trained[name], 0), images, network)
        out[f"{name}/images_per_second"] = len(few.depth) / seconds
        out[f"{name}/parameters"] = count_parameters(network, config.side)
        out[f"{name}/training_minutes"] = trained[name].seconds / 60
        out[f"{name}/train_loss"] = float(np.mean(trained[name].history["loss"][-1]))
        if own.search:
            out |= _searched(own, name, trained)
    return out


def _searched(config: Any, name: str, trained: Any) -> dict[str, Any]:
    """Best setting of the search, and its loss beside that of the thesis' setting."""
    rounds = [trained[f"{name}.search{k}"] for k in range(config.search_rounds)]
    found = np.concatenate([search.search_scores(one) for one in rounds])
    rates = search.best_setting(config, name, trained)
    out = {f"{name}/search_{rate}": value for rate, value in rates.items()}
    if search.holds_source(config):
        out[f"{name}/search_source_valid_loss"] = float(found[0])
        found = found[1:]
    return out | {
        f"{name}/search_valid_loss": float(found.min()),
        f"{name}/search_diverged": float(np.mean(~np.isfinite(found))),
        f"{name}/search_minutes": sum(one.seconds for one in rounds) / 60,
    }


def write_joints(config: Any, data: Data, trained: Any, folder: pathlib.Path) -> None:
    """Writes `<row>_<test>.txt` and `labels_<test>.txt` for `experiments.score_hands`, and
    `<network>.safetensors` for `load_model`, of --trial or else of the model's seed.

    The .txt files hold u, v [px] and depth [mm] in NYU's camera, whatever camera took the frames.
    """
    index = model(config, trained, trained.trial).card["trial"]
    for test in TESTS:
        truth = {"labels": getattr(data, test).joints}
        found = truth | joints_of_rows(config, data, trained, index, test)
        for name, joints in found.items():
            write_predictions(folder / f"{name}_{test}.txt", pixels_of_joints(joints))
    for name in (*predictable(config), *(refinement.DAMPINGS if config.refine else ())):
        own = _model_of(config, trained, name, index)
        runner.save_model(folder / f"{name}.safetensors", own, "hand_pose")


def model(config: Any, trained: Any, trial: int | None) -> Model:
    """The refined net6 with --refine, else the network of lowest validation loss; best seed."""
    losses = {name: search.search_scores(trained[name]) for name in predictable(config)}
    name = "net6" if config.refine else min(losses, key=lambda one: losses[one].min())
    index = runner.chosen_trial(trial, losses[name])
    return _model_of(config, trained, "refined" if config.refine else name, index)


def _model_of(config: Any, trained: Any, name: str, i: int) -> Model:
    params, scales, network = _trial(trained[name], i), None, networks(config).get(name)
    if network is None:
        network, logs = refinement.with_confidence(networks(config)["net6"]), params
        params = logs["network"]
        scales = HandScales(*(float(np.exp(x)) for x in logs["log_scales"]))
    own = training.metadata_of(trained[name].metadata, config_of(config, name))
    mean, deviation = (tuple(x) for x in own["color_scale"])
    settings = {
        "network": network, "side": config.side, "cube": config.cube,
        "color_scale": ColorScale(mean, deviation), "scales": scales,
    }  # fmt: skip
    return Model(params, settings, {"run": name, "trial": i})
