"""Evaluation and predictions of the human pose."""

import itertools
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.human_pose import baselines, network, training
from experiments.human_pose.config import methods
from experiments.human_pose.data import batch_of
from experiments.runner.statistics import change_over_seeds
from jaxcv.energies.human_pose_readout import initial_readout
from jaxcv.io import Model
from jaxcv.metrics.pose import aligned_mpjpe, by_action, mpjpe, procrustes_mpjpe
from jaxcv.systems import save_pose_parameters

__all__ = [
    "batch_and_frames",
    "metrics",
    "model",
    "poses_of_rows",
    "row_poses",
    "rows",
    "write_poses",
]


def kind(views: int) -> str:
    """The name of a number of cameras in the metrics."""
    named = {1: "monocular", 4: "multicamera"}
    return named.get(views, f"{views}_cameras")


def batch_and_frames(config: Any, data: Any, seed: int, views: int) -> tuple[Any, Any]:
    """The test frames of a seed: as a Batch of the first `views` cameras, and as PoseFrames."""
    frames = data.seeds[seed].take(data.test[seed])
    if not len(frames.joints):
        expected = "expected frames of test subjects"
        hint = "Human3.6M is tested on S9 and S11."
        raise runner.data_error("data", expected, data.seeds[seed].subjects, hint)
    if config.evaluated and len(frames.joints) > config.evaluated:
        chosen = np.linspace(0, len(frames.joints) - 1, config.evaluated).astype(int)
        frames = frames.take(chosen)
    return batch_of(frames, views, compatibility=config.compatibility), frames


def rows(config: Any, views: int) -> dict[str, dict[str, Any]]:
    """Row -> run of its parameters and settings of `reconstruct_pose`.

    The baselines have no run: the grid search chose their parameters, with squares (`l2`), with the
    robust kernel (`huber`), and with the better of both on the training frames. A row with the
    entry `competitor` is not of the energy.
    """
    energies = _energy_rows(config, views)
    if not config.competitors:
        return energies
    out: dict[str, dict[str, Any]] = {"lifting": {"run": None, "competitor": "lifting"}}
    if views > 1 and config.data == "synthetic":  # the reader of real data has no projections
        out["baseline_other_detector"] = {"run": None, "other": True}
        for name, mean in (("triangulation", False), ("triangulation_mean_cameras", True)):
            row = {"run": None, "competitor": "triangulation", "mean_cameras": mean}
            out[name] = row
            out[f"{name}_estimated_scale"] = row | {"limb_norm": None}
    return energies | out


def _energy_rows(config: Any, views: int) -> dict[str, dict[str, Any]]:
    out: dict[str, dict[str, Any]] = {
        "baseline": {"run": None},
        "baseline_l2": {"run": None, "robust": False},
        "baseline_huber": {"run": None, "robust": True},
    }
    for name, method in methods(config, views).items():
        out[name] = {"run": name, "robust": method.robust, "selection": method.selection}
        if not method.free_pose:
            out[name]["free_pose"] = False
            out[f"{name}_untrained"] = out[name] | {"run": None}
        if name in ("huber", "custom"):
            out[f"{name}_hard"] = {"run": name, "robust": method.robust, "selection": "hard"}
    estimated = ("huber", "custom", "l2", "baseline_l2", "baseline_huber")
    out |= {f"{k}_estimated_scale": out[k] | {"limb_norm": None} for k in estimated if k in out}
    return out


def row_poses(config: Any, trained: Any, batch: Any, seed: int, views: int, row: Any) -> np.ndarray:
    """Poses (N, 17, 3) [mm] that one row reconstructs; rows of equal settings are computed once."""
    settings = dict(row)
    name = settings.pop("run")
    any_method = next(iter(methods(config, views)))
    run = trained[training.run_name(name or any_method, views, seed)]
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], run.params)
    other = "other_" if settings.pop("other", False) else ""
    settings = {"robust": bool(params[f"{other}robust"] > 0.5)} | settings
    baseline = other + ("huber" if settings["robust"] else "l2")
    if not settings.get("free_pose", True):
        baseline = "monocular"
        settings["readout"] = params["readout"] if name else initial_readout(params["model"])
    parameters = params["parameters" if name else baseline]
    solve = lambda: training.poses(config, params["model"], parameters, batch, **settings)
    key = tuple(sorted((k, v) for k, v in settings.items() if k != "readout"))
    return trained.once((seed, views, other, name, key), solve)


def poses_of_rows(
    config: Any, data: Any, trained: Any, seed: int, views: int
) -> dict[str, np.ndarray]:
    """Row -> poses (N, 17, 3) [mm] of the test frames."""
    batch, frames = batch_and_frames(config, data, seed, views)
    out = {}
    for name, row in rows(config, views).items():
        competitor = row.get("competitor")
        if competitor is None:
            out[name] = row_poses(config, trained, batch, seed, views, row)
        elif competitor == "lifting" and network.run_name(views, seed) in trained:
            params = trained[network.run_name(views, seed)].params
            own = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], params)
            out[name] = np.asarray(jax.jit(network.lift)(own, batch))
        elif competitor == "triangulation" and frames.centres is not None:
            found, _ = _triangulated(config, data, trained, seed, views, row["mean_cameras"])
            scaled = "limb_norm" not in row
            out[name] = baselines.with_norm(found, batch.limb_norm) if scaled else found
    return out


def _triangulated(
    config: Any, data: Any, trained: Any, seed: int, views: int, mean_cameras: bool
) -> tuple[np.ndarray, float]:
    """Triangulated poses of the test frames, and the width of the weights."""
    train = data.seeds[seed].take(~data.test[seed])
    batch, frames = batch_and_frames(config, data, seed, views)
    run = trained[training.run_name(next(iter(methods(config, views))), views, seed)]
    cameras = np.asarray(run.params["model"].cameras)[0] if mean_cameras else None
    solve = lambda: baselines.triangulated_poses(
        train, batch_of(train, views), frames, batch, cameras
    )
    return trained.once(("triangulated", seed, views, mean_cameras), solve)


def metrics(config: Any, data: Any, trained: Any) -> dict[str, Any]:
    """`<row>/<kind>_mpjpe_mm` and similar keys, each with a list over seeds."""
    out: dict[str, list[float]] = {}
    for s in range(config.num_seeds):
        for views in config.views:
            batch, frames = batch_and_frames(config, data, s, views)
            table_of = rows(config, views)
            for name, found in poses_of_rows(config, data, trained, s, views).items():
                row = table_of[name]
                error = mpjpe(found, batch.joints)
                lost = ~np.isfinite(error)
                table = by_action(error[~lost], frames.action[~lost], frames.actions)
                key = f"{name}/{kind(views)}"
                out.setdefault(f"{key}_mpjpe_mm", []).append(table.pop("average"))
                pair = found[~lost], np.asarray(batch.joints)[~lost]
                for label, aligned in (
                    ("shifted", aligned_mpjpe(*pair)),
                    ("turned", aligned_mpjpe(*pair, vertical=True)),
                    ("procrustes", procrustes_mpjpe(*pair)),
                ):
                    out.setdefault(f"{key}_{label}_mm", []).append(float(aligned.mean()))
                out.setdefault(f"{key}_lost", []).append(int(lost.sum()))
                for action, value in table.items():
                    out.setdefault(f"{key}_mpjpe_mm/{action}", []).append(value)
                if name == row["run"]:
                    run = trained[training.run_name(name, views, s)]
                    out.setdefault(f"{key}_training_seconds", []).append(run.seconds)
                    if "loss" in run.history:
                        steps = steps_to_end(run.history["step"], run.history["loss"][:, 0])
                        out.setdefault(f"{key}_steps_to_2_percent", []).append(steps)
                        largest = run.history["gradient_norm"][:, 0]
                        tenth = max(1, len(largest) // 10)
                        for when, part in (("early", largest[:tenth]), ("late", largest[-tenth:])):
                            name_of = f"{key}_{when}_largest_gradient"
                            out.setdefault(name_of, []).append(float(np.nanmax(part)))
                elif row.get("competitor") == "triangulation" and "limb_norm" not in row:
                    mean_cameras = row["mean_cameras"]
                    width = _triangulated(config, data, trained, s, views, mean_cameras)[1]
                    out.setdefault(f"{key}_width", []).append(width)
            if config.competitors and not np.all(data.test[s]):
                for name, value in _costs(config, data, trained, s, views).items():
                    out.setdefault(name, []).append(value)
    return out | _comparisons(config, out)


def steps_to_end(step: np.ndarray, loss: np.ndarray) -> float:
    """The first logged step with a loss within 2% of the mean of the last tenth of the log."""
    end = float(np.mean(loss[-max(1, len(loss) // 10) :]))
    return float(step[np.argmax(loss <= 1.02 * end)])


def _costs(config: Any, data: Any, trained: Any, seed: int, views: int) -> dict[str, float]:
    """Seconds of the grid search (compiled already), of the lifting network, and of the training
    until its error is that of the grid's best pair on the training frames.
    """
    number = kind(views)
    batch = batch_of(data.seeds[seed].take(~data.test[seed]), views)
    out = {}
    lifted = trained.get(network.run_name(views, seed))
    if lifted is not None:
        out[f"lifting/{number}_training_seconds"] = lifted.seconds
        for name in ("learning_rate", "dropout"):
            out[f"lifting/{number}_{name}"] = float(f"{lifted.trials[name][0]:.3g}")
    name, method = next(iter(methods(config, views).items()))
    run = trained[training.run_name(name, views, seed)]
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], run.params)
    if config.start == "fitted" and method.free_pose:
        begin = time.perf_counter()
        found = training.grid_search(config, params["model"], batch)
        out[f"baseline/{number}_grid_seconds"] = time.perf_counter() - begin
        best = found["huber" if method.robust else "l2"]
        error = training.errors(config, params["model"], best, batch, robust=method.robust).mean()
        step, loss = run.history["step"], run.history.get("loss")
        if loss is not None and np.any(loss[:, 0] <= error):
            share = step[np.argmax(loss[:, 0] <= error)] / max(1, step[-1])
            out[f"{name}/{number}_seconds_to_grid_error"] = float(run.seconds * share)
    return out


COMPARED = (  # (a, b): error of a / error of b - 1
    ("huber", "baseline"),
    ("huber", "l2"),
    ("huber", "body_model"),
    ("l2", "body_model"),
    ("huber", "huber_hard"),
    ("huber", "huber_selected"),
    ("huber", "huber_body_model"),
    ("huber", "huber_unrolled"),
    # Within a kernel.
    ("body_model", "baseline_l2"),
    ("body_and_cameras", "baseline_l2"),
    ("body_and_cameras", "body_model"),
    ("l2", "body_and_cameras"),
    ("l2", "baseline_l2"),
    ("huber_body_model", "baseline_huber"),
    ("huber", "baseline_huber"),
    ("huber", "baseline_other_detector"),
    ("huber", "triangulation"),
    ("huber", "triangulation_estimated_scale"),
    ("huber", "triangulation_mean_cameras"),
    ("huber", "lifting"),
    ("monocular", "monocular_untrained"),
    ("monocular", "lifting"),
)


def _comparisons(config: Any, out: dict[str, list[float]]) -> dict[str, Any]:
    """Relative differences, with their mean and its 95% interval over seeds (Student's t)."""
    more: dict[str, Any] = {}
    for views in config.views:
        for (first, second), error in itertools.product(COMPARED, ("mpjpe", "procrustes")):
            keys = [f"{name}/{kind(views)}_{error}_mm" for name in (first, second)]
            if not all(key in out for key in keys):
                continue
            found = change_over_seeds(*(out[key] for key in keys))
            pair = f"{first}_over_{second}/{kind(views)}" + (
                "" if error == "mpjpe" else f"_{error}"
            )
            more |= {f"{pair}_{name}": value for name, value in found.items()}
    return more


def model(config: Any, trained: Any, trial: int | None) -> Model:
    """The `huber` row, or else the last trained row, for the first entry of --views.

    Generated seeds have different people, so their scores do not compare: the first is the model.
    """
    views = config.views[0]
    trainable = methods(config, views)
    name = "huber" if "huber" in trainable else list(trainable)[-1]
    index = runner.chosen_trial(trial, np.zeros(config.num_seeds))
    params = trained[training.run_name(name, views, index)].params
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], params)
    settings = {
        "robust": trainable[name].robust, "selection": trainable[name].selection,
        "num_rotations": config.num_rotations,
    }  # fmt: skip
    own = {key: params[key] for key in ("model", "parameters")}
    if not trainable[name].free_pose:
        own["readout"], settings["free_pose"] = params["readout"], False
    if config.compatibility:
        settings["compatibility"] = True
    return Model(own, settings, {"method": name, "cameras": views})


def write_poses(config: Any, data: Any, trained: Any, folder: pathlib.Path) -> None:
    """Writes poses.npz, row.views=V.seed=S -> (N, 17, 3) [mm], and the parameters to <run>.h5."""
    arrays = {}
    for s in range(config.num_seeds):
        for views in config.views:
            batch, frames = batch_and_frames(config, data, s, views)
            arrays[f"truth.seed={s}"] = np.asarray(batch.joints)
            arrays[f"action.seed={s}"] = np.asarray(frames.actions)[frames.action]
            for name, poses in poses_of_rows(config, data, trained, s, views).items():
                arrays[training.run_name(name, views, s)] = poses
    for name, run in trained.items():
        if name.startswith("lifting"):
            continue
        params = jax.tree.map(lambda leaf: np.asarray(leaf)[0], run.params)
        readout = params.get("readout")
        save_pose_parameters(folder / f"{name}.h5", params["parameters"], readout)
    runner.write_npz(folder / "poses.npz", arrays)
