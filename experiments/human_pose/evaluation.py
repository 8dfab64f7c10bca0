"""Evaluation and predictions of the human pose."""

import itertools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.human_pose import training
from experiments.runner.statistics import change_over_seeds
from jaxcv.io import Model
from jaxcv.metrics.pose import aligned_mpjpe, by_action, mpjpe, procrustes_mpjpe
from jaxcv.systems import save_pose_parameters

__all__ = ["batch_and_frames", "metrics", "model", "row_poses", "rows", "write_poses"]


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
    return training.batch_of(frames, views), frames


def rows(config: Any, views: int) -> dict[str, dict[str, Any]]:
    """Row -> run of its parameters and settings of `reconstruct_pose`.

    The baselines have no run: the grid search chose their parameters, with squares (`l2`), with the
    robust kernel (`huber`), and with the better of both on the training frames.
    """
    out: dict[str, dict[str, Any]] = {
        "baseline": {"run": None},
        "baseline_l2": {"run": None, "robust": False},
        "baseline_huber": {"run": None, "robust": True},
    }
    for name, method in training.methods(config, views).items():
        out[name] = {"run": name, "robust": method.robust, "selection": method.selection}
        if name in ("huber", "custom"):
            out[f"{name}_hard"] = {"run": name, "robust": method.robust, "selection": "hard"}
    estimated = ("huber", "custom", "l2", "baseline_l2", "baseline_huber")
    out |= {f"{k}_estimated_scale": out[k] | {"limb_norm": None} for k in estimated if k in out}
    return out


def row_poses(config: Any, trained: Any, batch: Any, seed: int, views: int, row: Any) -> np.ndarray:
    """Poses (N, 17, 3) [mm] that one row reconstructs; rows of equal settings are computed once."""
    settings = dict(row)
    name = settings.pop("run")
    any_method = next(iter(training.methods(config, views)))
    run = trained[training.run_name(name or any_method, views, seed)]
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], run.params)
    settings = {"robust": bool(params["robust"] > 0.5)} | settings
    baseline = "huber" if settings["robust"] else "l2"
    parameters = params["parameters" if name else baseline]
    solve = lambda: training.poses(config, params["model"], parameters, batch, **settings)
    return trained.once((seed, views, name, tuple(sorted(settings.items()))), solve)


def metrics(config: Any, data: Any, trained: Any) -> dict[str, Any]:
    """`<row>/<kind>_mpjpe_mm` and similar keys, each with a list over seeds."""
    out: dict[str, list[float]] = {}
    for s in range(config.num_seeds):
        for views in config.views:
            batch, frames = batch_and_frames(config, data, s, views)
            for name, row in rows(config, views).items():
                found = row_poses(config, trained, batch, s, views, row)
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
    return out | _comparisons(config, out)


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
    trainable = training.methods(config, views)
    name = "huber" if "huber" in trainable else list(trainable)[-1]
    index = runner.chosen_trial(trial, np.zeros(config.num_seeds))
    params = trained[training.run_name(name, views, index)].params
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], params)
    settings = {
        "robust": trainable[name].robust, "selection": trainable[name].selection,
        "num_rotations": config.num_rotations,
    }  # fmt: skip
    own = {key: params[key] for key in ("model", "parameters")}
    return Model(own, settings, {"method": name, "cameras": views})


def write_poses(config: Any, data: Any, trained: Any, folder: pathlib.Path) -> None:
    """Writes poses.npz, row.views=V.seed=S -> (N, 17, 3) [mm], and the parameters to <run>.h5."""
    arrays = {}
    for s in range(config.num_seeds):
        for views in config.views:
            batch, frames = batch_and_frames(config, data, s, views)
            arrays[f"truth.seed={s}"] = np.asarray(batch.joints)
            arrays[f"action.seed={s}"] = np.asarray(frames.actions)[frames.action]
            for name, row in rows(config, views).items():
                key = training.run_name(name, views, s)
                arrays[key] = row_poses(config, trained, batch, s, views, row)
    for name, run in trained.items():
        params = jax.tree.map(lambda leaf: np.asarray(leaf)[0], run.params["parameters"])
        save_pose_parameters(folder / f"{name}.h5", params)
    runner.write_npz(folder / "poses.npz", arrays)
