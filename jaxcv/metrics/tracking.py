"""Metrics of box tracking: NumPy arrays in, one value per sample out.

The caller averages them. The exception is `sequence_means`, which gives the values and weights of
`paired_bootstrap`.
"""

from typing import Any, NamedTuple

import numpy as np

from jaxcv.checks import argument_error, check_shape

__all__ = [
    "OVERLAP_THRESHOLDS",
    "BootstrapInterval",
    "box_iou",
    "centre_error",
    "paired_bootstrap",
    "sequence_means",
    "success_auc",
    "success_curve",
]

OVERLAP_THRESHOLDS = np.linspace(0.0, 1.0, 21)
"""The 21 thresholds 0, 0.05, ..., 1 of the object tracking benchmark."""


class BootstrapInterval(NamedTuple):
    """A mean difference and its confidence interval, as floats."""

    difference: float
    low: float
    high: float


def box_iou(predicted: Any, target: Any) -> np.ndarray:
    """Intersection over union of axis-aligned boxes, one value per frame.

    |A n B| / (|A| + |B| - |A n B|), analytic; 0 for a box without area or with a NaN. The same
    as `jaxcv.geometry.boxes.iou`, in NumPy and in the precision of its input.

    Args:
        predicted: (..., 4) corners x1, y1, x2, y2 [px].
        target: (..., 4) [px]; leading axes broadcast.

    Returns:
        (...) in [0, 1].

    Raises:
        ValueError: a last axis is not of length 4.
    """
    a, b = _corners("predicted", predicted), _corners("target", target)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    intersection = np.prod(np.maximum(sides, 0), axis=-1)
    area_a = np.prod(np.maximum(a[..., 2:] - a[..., :2], 0), axis=-1)
    area_b = np.prod(np.maximum(b[..., 2:] - b[..., :2], 0), axis=-1)
    union = area_a + area_b - intersection
    positive = union > 0  # False for NaN as well
    return np.where(positive, intersection / np.where(positive, union, 1), 0)


def centre_error(predicted: Any, target: Any) -> np.ndarray:
    """Distance between the centres of two boxes [px], one value per frame.

    Args:
        predicted: (..., 4) corners x1, y1, x2, y2 [px].
        target: (..., 4) [px]; leading axes broadcast.

    Returns:
        (...) [px].

    Raises:
        ValueError: a last axis is not of length 4.
    """
    a, b = _corners("predicted", predicted), _corners("target", target)
    offset = 0.5 * (a[..., :2] + a[..., 2:]) - 0.5 * (b[..., :2] + b[..., 2:])
    return np.hypot(offset[..., 0], offset[..., 1])


def success_curve(iou: Any, thresholds: Any = OVERLAP_THRESHOLDS) -> np.ndarray:
    """Fraction of frames whose overlap exceeds each threshold: mean over frames of [iou > tau].

    Args:
        iou: (..., F) overlaps in [0, 1] of F >= 1 frames.
        thresholds: (N,) tau in [0, 1].

    Returns:
        (..., N) in [0, 1], one curve for each leading index (sequence, tracker).

    Raises:
        ValueError: there are no frames, or `thresholds` is not one-dimensional.

    Source: Wu, Lim, Yang, Object tracking benchmark, PAMI 2015, success plot.
    """
    iou, thresholds = np.asarray(iou), np.asarray(thresholds)
    if iou.ndim == 0 or iou.shape[-1] == 0:
        raise argument_error("iou", "expected (..., F) with at least one frame", iou.shape)
    if thresholds.ndim != 1 or thresholds.size == 0:
        raise argument_error("thresholds", "expected (N,), N >= 1", thresholds.shape)
    shares = [np.mean(iou > threshold, axis=-1) for threshold in thresholds]
    return np.stack(shares, axis=-1)


def success_auc(iou: Any, thresholds: Any = OVERLAP_THRESHOLDS) -> np.ndarray:
    """Area under the success curve: its mean over evenly spaced thresholds in [0, 1].

    Args:
        iou: (..., F) overlaps in [0, 1].
        thresholds: (N,) evenly spaced. With the default ones a perfect run scores 20/21, as in
            the benchmark, because no overlap exceeds 1. For large N the area is the mean overlap.

    Returns:
        (...) in [0, 1].

    Raises:
        ValueError: as `success_curve`.

    Source: Wu, Lim, Yang, Object tracking benchmark, PAMI 2015.
    """
    return np.mean(success_curve(iou, thresholds), axis=-1)


def sequence_means(
    values: Any, sequence: Any, num_sequences: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of a per-frame value over each sequence, and the number of its frames.

    Args:
        values: (..., F) per-frame values.
        sequence: (F,) index of each frame's sequence.
        num_sequences: S, by default the largest index plus one.

    Returns:
        means (..., S), NaN for a sequence without frames, and counts (S,).

    Raises:
        ValueError: the shapes disagree, or an index is not in [0, S).
    """
    values, sequence = np.asarray(values, np.float64), np.asarray(sequence)
    if sequence.ndim != 1 or values.ndim == 0 or values.shape[-1:] != sequence.shape:
        got = f"{values.shape} and {sequence.shape}"
        raise argument_error("values", "expected (..., F) beside `sequence` (F,)", got)
    size = int(sequence.max(initial=-1)) + 1 if num_sequences is None else num_sequences
    if sequence.size and not (sequence.min() >= 0 and sequence.max() < size):
        got = f"{sequence.min()} to {sequence.max()}"
        raise argument_error("sequence", f"expected indices in [0, {size})", got)
    counts = np.bincount(sequence, minlength=size)
    rows = values.reshape(-1, len(sequence))
    sums = np.array([np.bincount(sequence, row, minlength=size) for row in rows])
    with np.errstate(invalid="ignore"):
        means = sums / np.where(counts > 0, counts, np.nan)
    return means.reshape(*values.shape[:-1], size), counts


def paired_bootstrap(
    per_sequence_a: Any,
    per_sequence_b: Any,
    weights: Any,
    *,
    num_resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> BootstrapInterval:
    """Frame-weighted mean difference of two methods, with a bootstrap over sequences.

    The difference is D = sum_s w_s (a_s - b_s) / sum_s w_s: if w_s is the number of frames, the
    difference of the frame means. Frames of a sequence are not independent, so sequences are
    resampled: S of them with replacement, the same for both methods. D is recomputed with their
    weights, and percentiles of these D bound the interval.

    Args:
        per_sequence_a: (S,) mean of the metric over each sequence for the first method.
        per_sequence_b: (S,) the same for the second.
        weights: (S,) non-negative, e.g. the numbers of scored frames; sequences of weight zero
            are ignored, and their values may be NaN.
        num_resamples: number of resamplings.
        seed: of `numpy.random.default_rng`; the same seed gives the same interval.
        confidence: level of the interval, in (0, 1).

    Returns:
        `BootstrapInterval(difference, low, high)`, in the unit of the metric.

    Raises:
        ValueError: shapes differ, no weight is positive, a used value is not finite, or a
            setting is out of range.

    Source: Efron, Tibshirani, An introduction to the bootstrap, 1993, chapter 13.
    """
    a, b, w = (np.asarray(x, np.float64) for x in (per_sequence_a, per_sequence_b, weights))
    if not (a.ndim == 1 and a.shape == b.shape == w.shape):
        got = f"{a.shape}, {b.shape} and weights {w.shape}"
        raise argument_error("per_sequence_a", "expected three arrays of one shape (S,)", got)
    if not (np.isfinite(w).all() and (w >= 0).all() and (w > 0).any()):
        raise argument_error("weights", "expected non-negative, not all zero", w.tolist())
    if num_resamples < 1:
        raise argument_error("num_resamples", "expected at least 1", num_resamples)
    if not 0 < confidence < 1:
        raise argument_error("confidence", "expected a level in (0, 1)", confidence)
    used = w > 0
    difference, w = (a - b)[used], w[used]
    if not np.isfinite(difference).all():
        got = f"{int((~np.isfinite(difference)).sum())} that are not"
        raise argument_error(
            "per_sequence_a", "expected finite values", got, "Mask them by weight 0."
        )
    draws = np.random.default_rng(seed).integers(len(w), size=(num_resamples, len(w)))
    weighted = w * difference
    resampled = weighted[draws].sum(axis=1) / w[draws].sum(axis=1)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return BootstrapInterval(float(weighted.sum() / w.sum()), float(low), float(high))


def _corners(name: str, x: Any) -> np.ndarray:
    x = np.asarray(x)
    check_shape(name, x, (4,), "Corners are x1, y1, x2, y2.")
    return x if np.issubdtype(x.dtype, np.floating) else x.astype(np.float64)
