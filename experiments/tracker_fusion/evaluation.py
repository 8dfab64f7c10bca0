"""Evaluation and predictions of the tracker fusion."""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.tracker_fusion import baselines, failures, minima, network, training
from experiments.tracker_fusion.config import ABLATIONS, initial_log_width, methods
from experiments.tracker_fusion.data import (
    Data,
    chosen_settings,
    drawn,
    fold_of_frames,
    folds_of,
    frame_thirds,
    taken,
    tracker_frames,
)
from jaxcv.energies.tracker_fusion import FusionParameters, TrackerFrame
from jaxcv.io import Model
from jaxcv.metrics.tracking import box_iou, paired_bootstrap, sequence_means

__all__ = [
    "Models",
    "chosen_models",
    "fused_boxes",
    "metrics",
    "model",
    "model_of_fold",
    "per_frame_iou",
    "scored",
    "write_results",
]


class Models(NamedTuple):
    """The models of one method, with the chosen shrinkage.

    Attributes:
        parameters: (m, 2, K) each; trained without each tested fold, on all sequences, and on the
            split by frame.
        rbf_width: (m,) width of the equal-width baseline, chosen on the same training frames
            [median box sizes].
        strength: (m,) chosen strength of the shrinkage.
    """

    parameters: FusionParameters
    rbf_width: np.ndarray
    strength: np.ndarray


def chosen_models(config: Any, trained: Any, method: str) -> Models:
    """The models of one method, with the strength that `chosen_settings` chooses."""
    folds = folds_of(config)
    best = [0] * len(folds.final)
    if len(config.strength) > 1:
        best = chosen_settings(trained[f"{method}.choose"].history, len(config.strength), folds)
    final = trained[f"{method}.final"]
    rows = np.array([s * len(best) + column for column, s in enumerate(best)])
    assert np.all(final.trials["split"][rows] == np.array(folds.final))
    parameters = jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], final.params["fusion"])
    width = np.asarray(final.params["rbf_width"])[rows]
    return Models(FusionParameters(*parameters), width, np.asarray(config.strength)[best])


def model(config: Any, trained: Any, trial: int | None) -> Model:
    """The fusion learned on all sequences with the chosen shrinkage, or the `trial`-th training."""
    models = chosen_models(config, trained, "learned")
    parameters, strength = models.parameters, models.strength
    index = len(strength) - 2  # the model of all sequences
    if trial is not None:
        final = trained["learned.final"]
        index = runner.chosen_trial(trial, final.trials["seed"])
        parameters, strength = FusionParameters(*final.params["fusion"]), final.trials["strength"]
    card = {"trackers": trained.metadata["trackers"], "strength": float(strength[index])}
    settings = {} if config.energy == "normalised" else {"normalised": False}
    return Model(jax.tree.map(lambda leaf: leaf[index], parameters), settings, card)


def model_of_fold(config: Any, fold: Any) -> np.ndarray:
    """(...) index of the model that scores a fold, one not trained on it; -1: of the training."""
    tested = folds_of(config).tested
    fold = np.asarray(fold)
    return np.where(fold < 0, len(tested), np.where(fold < len(tested), fold, -1))


def scored(config: Any, data: Any, trained: Any) -> tuple[Data, np.ndarray]:
    """The frames that are tested, and the index (F,) of the model that scores each."""
    which = model_of_fold(config, fold_of_frames(trained.metadata["folds"], data))
    return taken(data, which >= 0), which[which >= 0]


def of_training(data: Any, trained: Any) -> bool:
    """Whether all sequences are those of the training."""
    return bool(np.all(fold_of_frames(trained.metadata["folds"], data) >= 0))


def fused_boxes(config: Any, trained: Any, data: Data, which: np.ndarray) -> dict[str, np.ndarray]:
    """{method: (F, 4)} boxes [px] by mean, median and fusions; frame i by model which[i]."""
    index, frames = jnp.asarray(which, jnp.int32), data.frames
    shown = np.where(frames.reported[..., None], frames.boxes, np.nan)
    boxes = {"mean": np.nanmean(shown, axis=1), "median": np.nanmedian(shown, axis=1)}
    rows = methods(config)
    for method in ("learned", "undamped", *ABLATIONS[config.ablation]):
        row = rows[method]
        inputs = tracker_frames(drawn(config, data, row.draw).frames)
        models = chosen_models(config, trained, method)
        if method == "learned" or row.draw is not None:
            equal = training.equal_width(frames.boxes.shape[1], models.rbf_width)
            name = "rbf" if method == "learned" else f"{method}_rbf"
            boxes[name] = np.asarray(training.fuse_all(equal, index, inputs))
        fused = training.fuse_all(models.parameters, index, inputs, method=row.fusion)
        boxes[method] = np.asarray(fused)
    if config.competitors:
        params = trained["set_network.final"].params
        boxes["set_network"] = np.asarray(
            network.fuse(jax.tree.map(jnp.asarray, params), index, tracker_frames(frames))
        )
    return boxes


def per_frame_iou(config: Any, data: Any, trained: Any, which: np.ndarray) -> dict[str, np.ndarray]:
    """{tracker or method: (F,)}; a tracker that does not report scores 0 in that frame."""
    frames = data.frames
    each = box_iou(frames.boxes, frames.ground_truth[:, None]) * frames.reported
    ious = {name: each[:, k] for k, name in enumerate(data.sequences.trackers)}
    ious["oracle"] = each.max(axis=1)
    for method, boxes in fused_boxes(config, trained, data, which).items():
        ious[method] = box_iou(boxes, frames.ground_truth)
    return ious


def _competitors(config: Any, data: Any, trained: Any, by_frame: bool) -> dict[str, np.ndarray]:
    """{competitor: (F,) IoU} on the tested frames, for data of the training; else empty."""
    if not config.competitors or not of_training(data, trained):
        return {}
    solve = lambda: baselines.competitor_boxes(config, data, trained.metadata["folds"])
    boxes = trained.once("competitors", solve)["frames" if by_frame else "sequences"]
    return {name: box_iou(own, data.frames.ground_truth) for name, own in boxes.items()}


def _best_tracker(data: Data) -> str:
    """The tracker with the highest mean IoU on the frames."""
    frames = data.frames
    each = box_iou(frames.boxes, frames.ground_truth[:, None]) * frames.reported
    return data.sequences.trackers[int(np.argmax(each.mean(axis=0)))]


def metrics(config: Any, data: Any, trained: Any) -> dict[str, Any]:
    """All metrics, under `<tracker or method>/<metric>`."""
    part, which = scored(config, data, trained)
    ious = per_frame_iou(config, part, trained, which)
    tested = model_of_fold(config, fold_of_frames(trained.metadata["folds"], data)) >= 0
    more = _competitors(config, data, trained, by_frame=False)
    ious |= {name: iou[tested] for name, iou in more.items()}
    out: dict[str, Any] = {f"{name}/iou": float(iou.mean()) for name, iou in ious.items()}
    num = len(data.sequences.names)
    means = {name: sequence_means(iou, part.frames.sequence, num) for name, iou in ious.items()}
    rows, extra = methods(config), ABLATIONS[config.ablation]
    plain = [name for name in extra if rows[name].draw is None]
    draws = [name for name in extra if rows[name].draw is not None]
    others = [*more, *(["set_network"] if config.competitors else [])]
    best_of = {name: _best_tracker(drawn(config, part, rows[name].draw)) for name in draws}
    for name, a, b in (
        *((f"{name}_minus_rbf", name, "rbf") for name in plain),
        *((f"learned_minus_{name}", "learned", name) for name in (*plain, *others)),
        ("learned_minus_rbf", "learned", "rbf"),
        ("learned_minus_undamped", "learned", "undamped"),
        ("learned_minus_best_tracker", "learned", _best_tracker(part)),
        ("rbf_minus_median", "rbf", "median"),
        ("median_minus_mean", "median", "mean"),
        *((f"{name}_minus_rbf", name, f"{name}_rbf") for name in draws),
        *((f"{name}_minus_best_tracker", name, best) for name, best in best_of.items()),
    ):
        counts = means[a][1]
        seen = counts > 0
        difference = paired_bootstrap(means[a][0][seen], means[b][0][seen], counts[seen])
        out[f"{name}/iou"], out[f"{name}/low"], out[f"{name}/high"] = difference
    for other in ("rbf", "best_tracker") if draws else ():
        for end in ("iou", "low", "high"):
            own = [out[f"{name}_minus_{other}/{end}"] for name in draws]
            out[f"draws_minus_{other}/{end}"] = own
    if of_training(data, trained):  # also the split by frame
        test = frame_thirds(config, data)
        by_frame = np.full(test.shape, len(folds_of(config).final) - 1)
        found = per_frame_iou(config, data, trained, by_frame)
        found |= _competitors(config, data, trained, by_frame=True)
        for name, iou in found.items():
            out[f"{name}/iou_frames"] = float(iou[test].mean())
    for method, settings in rows.items():
        models = chosen_models(config, trained, method)
        out[f"{method}/strength"] = list(models.strength)
        moved = np.asarray(models.parameters.log_width)[-2]
        moved = np.abs(moved - initial_log_width(config, settings)).mean()
        out[f"{method}/log_width_moved"] = float(moved)
        out |= failures.history_metrics(method, trained[f"{method}.final"].history)
        if config.ablation == "conditions" and of_training(data, trained):
            out |= failures.failed_trainings(config, data, trained, method, settings)
    if config.competitors:
        out |= baselines.chosen_of_network(trained)
        out |= trained.once("competitors", dict).get("chosen", {})
    if config.minima:
        out |= minima.metrics(config, part, which, chosen_models(config, trained, "learned"))
    out["rbf/width"] = list(chosen_models(config, trained, "learned").rbf_width)
    out["frames"], out["sequences"] = len(part.frames.frame), num
    return out


def write_results(config: Any, data: Any, trained: Any, folder: pathlib.Path) -> None:
    """Writes the fused box of every frame as the results of one more tracker, `jaxcv`.

    `results/jaxcv/unsupervised/<seq>/<seq>_001.txt`: 1 for the first frame, then a line x,y,w,h
    [px] per frame, or 0 if no tracker reports or the fused box is empty.
    """
    sequences = data.sequences
    folds = trained.metadata["folds"]
    models, row = chosen_models(config, trained, "learned"), methods(config)["learned"]
    for s, name in enumerate(sequences.names):
        length = int(sequences.lengths[s])
        longest = sequences.boxes.shape[1]
        first = jnp.asarray(sequences.ground_truth[s, 0])
        inputs = TrackerFrame(
            jnp.asarray(sequences.boxes[s]),
            jnp.asarray(sequences.reported[s]),
            jnp.broadcast_to(first, (longest, 4)),
            jnp.arange(longest),
        )
        model = max(0, int(model_of_fold(config, folds.get(name, -1))))
        which = jnp.full(longest, model, jnp.int32)
        fused = training.fuse_all(models.parameters, which, inputs, method=row.fusion)
        boxes = np.asarray(fused)[:length]
        lines = ["1"]
        for box, some in zip(boxes[1:], sequences.reported[s, 1:length].any(-1), strict=True):
            x, y, w, h = box[0], box[1], box[2] - box[0], box[3] - box[1]
            lines.append(f"{x:.3f},{y:.3f},{w:.3f},{h:.3f}" if some and w > 0 and h > 0 else "0")
        target = folder / "results" / "jaxcv" / "unsupervised" / name / f"{name}_001.txt"
        target.parent.mkdir(parents=True, exist_ok=True)
        runner.write_text(target, "\n".join(lines) + "\n")
