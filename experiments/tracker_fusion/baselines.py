"""Competitors of the learned energy on the same boxes and folds.

Two rules need no fitting beyond a tracker's mean IoU on the training frames: the tracker that is
best there, and the median of all trackers weighted by it. Boosted trees predict the four
coordinates from all boxes, by the l1 loss; the set network is in `network`.
"""

import itertools
from typing import Any

import numpy as np

from experiments.tracker_fusion.data import (
    Data,
    chosen_settings,
    fold_of_frames,
    folds_of,
    frame_thirds,
    split_masks,
)
from jaxcv.metrics.tracking import box_iou

__all__ = ["chosen_of_network", "competitor_boxes", "weighted_median"]

LEAVES = (3, 7, 15, 31, 63)  # of a tree
TREES = (3, 10, 30, 100, 300)  # of a coordinate
SHRINKAGE = 0.1  # learning rate of the trees


def weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(F, C) coordinatewise weighted medians of values (F, K, C); NaN entries do not count.

    The smallest value at which the weight of the values up to it reaches half of the total.

    Args:
        values: (F, K, C).
        weights: (K,), positive.
    """
    order = np.argsort(values, axis=1)  # NaN last
    ordered = np.take_along_axis(values, order, axis=1)
    own = np.where(np.isnan(ordered), 0, np.asarray(weights)[order])
    total = np.cumsum(own, axis=1)
    first = np.argmax(total >= 0.5 * total[:, -1:] * (1 - 1e-12), axis=1)
    return np.take_along_axis(ordered, first[:, None], axis=1)[:, 0]


def _anchor(data: Data) -> tuple[np.ndarray, np.ndarray]:
    """The median box (F, 4) and the median size (F, 1), both [px]."""
    frames = data.frames
    shown = np.where(frames.reported[..., None], frames.boxes, np.nan).astype(float)
    size = np.sqrt(np.prod(shown[..., 2:] - shown[..., :2], axis=-1))
    return np.nanmedian(shown, axis=1), np.nanmedian(size, axis=1)[:, None]


def features(data: Data) -> np.ndarray:
    """(F, 5 K + 2): each tracker's box about the median box and its change of size, NaN where it
    does not report; the frame's number and the change of the median size. In median box sizes.
    """
    frames = data.frames
    anchor, unit = _anchor(data)
    shown = np.where(frames.reported[..., None], frames.boxes, np.nan).astype(float)
    place = (shown - anchor[:, None]) / unit[:, None]
    first = np.sqrt(np.prod(frames.initial[:, 2:] - frames.initial[:, :2], axis=-1))[:, None]
    change = np.log(np.sqrt(np.prod(shown[..., 2:] - shown[..., :2], axis=-1)) / first)
    flat = place.reshape(len(place), -1)
    return np.concatenate([flat, change, frames.frame[:, None], np.log(unit / first)], axis=1)


def _fitted(inputs: np.ndarray, targets: np.ndarray, leaves: int, trees: int, seed: int) -> list:
    from sklearn.ensemble import HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="openmp"):  # a busy machine's threads wait for each other
        return [
            HistGradientBoostingRegressor(
                loss="absolute_error",
                learning_rate=SHRINKAGE,
                max_iter=trees,
                max_leaf_nodes=leaves,
                early_stopping=False,  # pyright: ignore[reportArgumentType]
                random_state=seed,
            ).fit(inputs, targets[:, c])
            for c in range(4)
        ]


def competitor_boxes(config: Any, data: Data, folds: dict[str, int]) -> dict[str, Any]:
    """Boxes (F, 4) [px] of the competitors, each frame's by a model that has not seen it.

    Returns:
        `sequences` and `frames`, the two splits: name -> boxes, NaN on frames that are not
        tested; and `chosen`, metrics of the settings that the validation folds chose.
    """
    frames, own = data.frames, folds_of(config)
    fold = fold_of_frames(folds, data)
    masks, thirds = split_masks(config, data), frame_thirds(config, data)
    each = box_iou(frames.boxes, frames.ground_truth[:, None]) * frames.reported
    shown = np.where(frames.reported[..., None], frames.boxes, np.nan).astype(float)
    anchor, unit = _anchor(data)
    inputs, targets = features(data), (frames.ground_truth - anchor) / unit

    # Trees: leaves and their number by the validation folds, as the shrinkage of the energy.
    settings = list(itertools.product(LEAVES, TREES))
    history = {f"{name}_iou": np.zeros((1, len(settings) * own.count)) for name in ("own", "next")}
    for (i, leaves), f in itertools.product(enumerate(LEAVES), range(own.count)):
        models = _fitted(inputs[masks[f]], targets[masks[f]], leaves, max(TREES), config.seed)
        for name, other in (("own", f), ("next", (f + 1) % own.count)):
            held = fold == other
            staged = [list(model.staged_predict(inputs[held])) for model in models]
            for j, trees in enumerate(TREES):
                predicted = np.stack([stages[trees - 1] for stages in staged], axis=-1)
                boxes = anchor[held] + unit[held] * predicted
                score = box_iou(boxes, frames.ground_truth[held]).mean()
                history[f"{name}_iou"][0, (i * len(TREES) + j) * own.count + f] = score
    best = chosen_settings(history, len(settings), own)

    empty = lambda: np.full(frames.ground_truth.shape, np.nan)
    out: dict[str, Any] = {kind: {} for kind in ("sequences", "frames")}
    names = ("best_in_training", "weighted_median", "boosted_trees")
    out["sequences"] = {name: empty() for name in names}
    out["frames"] = {name: empty() for name in names}
    jobs = [("sequences", masks[own.count + f], fold == f) for f in own.tested]
    jobs.append(("frames", ~thirds, thirds))
    for (kind, train, test), setting in zip(jobs, [*best[:-2], best[-1]], strict=True):
        scores = each[train].mean(axis=0)
        boxes = out[kind]
        boxes["best_in_training"][test] = shown[test, int(np.argmax(scores))]
        boxes["weighted_median"][test] = weighted_median(shown[test], scores + 1e-9)
        leaves, trees = settings[setting]
        models = _fitted(inputs[train], targets[train], leaves, trees, config.seed)
        predicted = np.stack([model.predict(inputs[test]) for model in models], axis=-1)
        boxes["boosted_trees"][test] = anchor[test] + unit[test] * predicted
    out["chosen"] = {
        "boosted_trees/leaves": [settings[i][0] for i in best],
        "boosted_trees/trees": [settings[i][1] for i in best],
    }
    return out


def chosen_of_network(trained: Any) -> dict[str, Any]:
    """Metrics: the learning rates and weight decays that the validation folds chose."""
    trials = trained["set_network.final"].trials
    return {
        "set_network/learning_rate": [float(f"{x:.3g}") for x in trials["learning_rate"]],
        "set_network/weight_decay": [float(f"{x:.3g}") for x in trials["weight_decay"]],
        "set_network/training_seconds": float(trained["set_network.final"].seconds),
    }
