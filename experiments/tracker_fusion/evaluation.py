"""Evaluation and predictions of the tracker fusion."""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.tracker_fusion import training
from jaxcv.data.tracker_fusion import TrackerFrames
from jaxcv.energies.tracker_fusion import UNIT, FusionParameters, TrackerFrame
from jaxcv.io import Model
from jaxcv.metrics.tracking import box_iou, paired_bootstrap, sequence_means

__all__ = [
    "Models",
    "chosen_models",
    "fused_boxes",
    "metrics",
    "model",
    "per_frame_iou",
    "write_results",
]


class Models(NamedTuple):
    """The seven models of one method, with the chosen shrinkage.

    Attributes:
        parameters: (7, 2, K) each; trained without fold 0..4, on all sequences, and on the split
            by frame.
        rbf_width: (7,) width of the equal-width baseline, chosen on the same training frames
            [median box sizes].
        strength: (7,) chosen strength of the shrinkage.
    """

    parameters: FusionParameters
    rbf_width: np.ndarray
    strength: np.ndarray


def chosen_models(config: Any, trained: Any, method: str) -> Models:
    """The models of one method.

    The strength for test fold f maximises the validation IoU of the models trained without fold f:
    those without f and f + 1, validated on f + 1, and those without f - 1 and f, validated on
    f - 1. For the models of all sequences and of the split by frame, the IoU of all folds counts.
    """
    history = trained[f"{method}.choose"].history
    if not {"own_iou", "next_iou"} <= history.keys():
        expected = "expected the validation scores of the training beside its checkpoints"
        raise runner.data_error(
            "metrics.jsonl", expected, "none", "Give --checkpoint the whole work folder."
        )
    shape = (len(config.strength), training.NUM_FOLDS)
    own = history["own_iou"][-1].reshape(shape)  # without f, f + 1: IoU on f
    following = history["next_iou"][-1].reshape(shape)  # the same models: IoU on f + 1
    votes = following + np.roll(own, 1, axis=1)  # column f: models without f
    best = [int(np.argmax(votes[:, f])) for f in range(training.NUM_FOLDS)]
    best += [int(np.argmax(votes.sum(axis=1)))] * 2
    final = trained[f"{method}.final"]
    rows = np.array([s * len(best) + column for column, s in enumerate(best)])
    assert np.all(final.trials["split"][rows] == np.arange(len(best)) + training.NUM_FOLDS)
    parameters = jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], final.params["fusion"])
    width = np.asarray(final.params["rbf_width"])[rows]
    return Models(FusionParameters(*parameters), width, np.asarray(config.strength)[best])


def model(config: Any, trained: Any, trial: int | None) -> Model:
    """The fusion learned on all sequences with the chosen shrinkage, or the `trial`-th training."""
    models = chosen_models(config, trained, "learned")
    parameters, strength = models.parameters, models.strength
    index = training.NUM_FOLDS  # the model of all sequences
    if trial is not None:
        final = trained["learned.final"]
        index = runner.chosen_trial(trial, final.trials["seed"])
        parameters, strength = FusionParameters(*final.params["fusion"]), final.trials["strength"]
    card = {"trackers": trained.metadata["trackers"], "strength": float(strength[index])}
    return Model(jax.tree.map(lambda leaf: leaf[index], parameters), {}, card)


def model_of_frames(trained: Any, data: Any) -> np.ndarray:
    """(F,) index of the model that scores each frame: one not trained on its sequence."""
    folds = next(iter(trained.values())).metadata["folds"]
    fold = training._fold_of_frames(folds, data)
    return np.where(fold < 0, training.NUM_FOLDS, fold)


def fused_boxes(config: Any, trained: Any, frames: TrackerFrames, which: np.ndarray) -> dict:
    """{method: (F, 4)} boxes [px] by mean, median and three fusions; frame i by model which[i]."""
    inputs, index = training.tracker_frames(frames), jnp.asarray(which, jnp.int32)
    shown = np.where(frames.reported[..., None], frames.boxes, np.nan)
    boxes = {"mean": np.nanmean(shown, axis=1), "median": np.nanmedian(shown, axis=1)}
    learned = chosen_models(config, trained, "learned")
    equal = training.equal_width(frames.boxes.shape[1], learned.rbf_width)
    boxes["rbf"] = np.asarray(training.fuse_all(equal, index, inputs))
    for method in ("undamped", "learned", *training.ABLATIONS[config.ablation]):
        models = chosen_models(config, trained, method)
        boxes[method] = np.asarray(training.fuse_all(models.parameters, index, inputs))
    return boxes


def per_frame_iou(config: Any, data: Any, trained: Any, which: np.ndarray) -> dict[str, np.ndarray]:
    """{tracker or method: (F,)}; a tracker that does not report scores 0 in that frame."""
    frames = data.frames
    each = box_iou(frames.boxes, frames.ground_truth[:, None]) * frames.reported
    ious = {name: each[:, k] for k, name in enumerate(data.sequences.trackers)}
    ious["oracle"] = each.max(axis=1)
    for method, boxes in fused_boxes(config, trained, frames, which).items():
        ious[method] = box_iou(boxes, frames.ground_truth)
    return ious


def metrics(config: Any, data: Any, trained: Any) -> dict[str, Any]:
    """All metrics, under `<tracker or method>/<metric>`."""
    which = model_of_frames(trained, data)
    ious = per_frame_iou(config, data, trained, which)
    out: dict[str, Any] = {f"{name}/iou": float(iou.mean()) for name, iou in ious.items()}
    num = len(data.sequences.names)
    means = {name: sequence_means(iou, data.frames.sequence, num) for name, iou in ious.items()}
    best = max(data.sequences.trackers, key=lambda name: out[f"{name}/iou"])
    more = training.ABLATIONS[config.ablation]
    for name, a, b in (
        *((f"{name}_minus_rbf", name, "rbf") for name in more),
        *((f"learned_minus_{name}", "learned", name) for name in more),
        ("learned_minus_rbf", "learned", "rbf"),
        ("learned_minus_undamped", "learned", "undamped"),
        ("learned_minus_best_tracker", "learned", best),
        ("rbf_minus_median", "rbf", "median"),
        ("median_minus_mean", "median", "mean"),
    ):
        counts = means[a][1]
        seen = counts > 0
        difference = paired_bootstrap(means[a][0][seen], means[b][0][seen], counts[seen])
        out[f"{name}/iou"], out[f"{name}/low"], out[f"{name}/high"] = difference
    if np.all(which < training.NUM_FOLDS):  # data of the training: also the split by frame
        test = training._frame_thirds(config, data)
        by_frame = np.full(which.shape, training.NUM_FOLDS + 1)
        for name, iou in per_frame_iou(config, data, trained, by_frame).items():
            out[f"{name}/iou_frames"] = float(iou[test].mean())
    for method, settings in training.methods(config).items():
        models = chosen_models(config, trained, method)
        out[f"{method}/strength"] = list(models.strength)
        moved = np.asarray(models.parameters.log_width)[training.NUM_FOLDS]
        moved = np.abs(moved - np.log(settings.width / UNIT)).mean()
        out[f"{method}/log_width_moved"] = float(moved)
        history = trained[f"{method}.final"].history
        if "gradient_norm" in history:
            out[f"{method}/largest_gradient"] = float(np.nanmax(history["gradient_norm"]))
            out[f"{method}/skipped"] = float(np.nansum(history["skipped"]))
    out["rbf/width"] = list(chosen_models(config, trained, "learned").rbf_width)
    out["frames"], out["sequences"] = len(data.frames.frame), num
    return out


def write_results(config: Any, data: Any, trained: Any, folder: pathlib.Path) -> None:
    """Writes the fused box of every frame as the results of one more tracker, `jaxcv`.

    `results/jaxcv/unsupervised/<seq>/<seq>_001.txt`: 1 for the first frame, then a line x,y,w,h
    [px] per frame, or 0 if no tracker reports or the fused box is empty.
    """
    sequences = data.sequences
    folds = next(iter(trained.values())).metadata["folds"]
    models = chosen_models(config, trained, "learned")
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
        model = folds.get(name, training.NUM_FOLDS)
        which = jnp.full(longest, model, jnp.int32)
        boxes = np.asarray(training.fuse_all(models.parameters, which, inputs))[:length]
        lines = ["1"]
        for box, some in zip(boxes[1:], sequences.reported[s, 1:length].any(-1), strict=True):
            x, y, w, h = box[0], box[1], box[2] - box[0], box[3] - box[1]
            lines.append(f"{x:.3f},{y:.3f},{w:.3f},{h:.3f}" if some and w > 0 and h > 0 else "0")
        target = folder / "results" / "jaxcv" / "unsupervised" / name / f"{name}_001.txt"
        target.parent.mkdir(parents=True, exist_ok=True)
        runner.write_text(target, "\n".join(lines) + "\n")
