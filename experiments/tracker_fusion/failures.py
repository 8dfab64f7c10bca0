"""Which trainings of the tracker fusion fail."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.tracker_fusion import training
from experiments.tracker_fusion.config import Method, initial_log_width
from experiments.tracker_fusion.data import Data, distances, split_masks, taken, tracker_frames

__all__ = ["failed_trainings", "history_metrics"]

_FRAMES = 2000  # training frames of each split that are scored


def history_metrics(name: str, history: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The largest gradient, and the number of updates that were skipped, not being finite.

    Largest gradients and the batch's smallest eigenvalue of the Hessian (means) also of the first
    and last quarter of the training, the first and last point of the log.
    """
    if "gradient_norm" not in history:
        return {}
    with np.errstate(all="ignore"):
        largest = np.nanmax(history["gradient_norm"], initial=0)
        early, late = (np.nanmax(history["gradient_norm"][i], initial=0) for i in (0, -1))
    skipped = history["skipped"]
    out = {
        f"{name}/early_largest_gradient": float(early),
        f"{name}/late_largest_gradient": float(late),
    }
    if "min_eigenvalue" in history:
        curvature = history["min_eigenvalue"].mean(axis=1)
        out[f"{name}/early_min_eigenvalue"] = float(curvature[0])
        out[f"{name}/late_min_eigenvalue"] = float(curvature[-1])
    return out | {
        f"{name}/largest_gradient": float(largest),
        f"{name}/skipped": float(np.nansum(skipped)),
        f"{name}/trainings_with_skips": int(np.sum(np.nansum(skipped, axis=0) > 0)),
    }


def failed_trainings(
    config: Any, data: Data, trained: Any, name: str, method: Method
) -> dict[str, Any]:
    """Counts the trainings that end with a loss that is not finite, or above the untrained one.

    The loss is the row's own, on evenly spaced training frames of the training's split.
    """
    run = trained[f"{name}.final"]
    count = len(data.sequences.trackers)
    start = training.untrained(count, initial_log_width(config, method))
    masks, failed, change = split_masks(config, data), [], []
    for i, split in enumerate(run.trials["split"]):
        index = np.flatnonzero(masks[split])
        index = index[np.linspace(0, index.size - 1, min(_FRAMES, index.size)).astype(int)]
        frames = taken(data, index).frames
        losses = []
        for parameters in (start, jax.tree.map(lambda leaf: leaf[i], run.params["fusion"])):  # noqa: B023
            one = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], parameters)
            which = jnp.zeros(index.size, jnp.int32)
            boxes = training.fuse_all(
                type(start)(*one), which, tracker_frames(frames), method=method.fusion
            )
            loss = distances(config, method.loss, boxes, jnp.asarray(frames.ground_truth))
            losses.append(float(jnp.mean(loss)))
        failed.append(not losses[1] <= losses[0])  # True for NaN
        change.append(losses[1] / losses[0] - 1)
    return {
        f"{name}/failures": int(np.sum(failed)),
        f"{name}/trainings": len(failed),
        f"{name}/loss_change": change,
    }
