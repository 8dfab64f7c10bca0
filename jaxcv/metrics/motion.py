"""Errors of relative camera motions, in degrees: plain arrays in, one value per sample out.

An essential matrix determines the direction of translation only up to its sign; the error is then
folded, min(e, 180 - e). Both errors are common and differ: state which one is reported.
"""

import itertools
from typing import Any

import numpy as np

from jaxcv.checks import argument_error

__all__ = [
    "cumulative_histogram", "cycle_errors", "folded", "pose_auc", "pose_failures", "rotation_error",
    "translation_error",
]  # fmt: skip


def rotation_error(predicted: Any, target: Any) -> np.ndarray:
    """The angle (...) of R_p R_t^T [deg], for rotations (..., 3, 3).

    Computed from the chord, 2 asin(|R_p - R_t| / (2 sqrt 2)), which is accurate at small angles.
    """
    chord = np.linalg.norm(np.asarray(predicted, float) - np.asarray(target, float), axis=(-2, -1))
    return np.rad2deg(2 * np.arcsin(np.clip(chord / np.sqrt(8), 0, 1)))


def translation_error(predicted: Any, target: Any) -> np.ndarray:
    """The angle (...) between directions (..., 3) [deg], from 0 to 180.

    As in DeMoN's benchmark, a predicted translation of length 1e-6 or less gives 90.
    """
    p, t = np.asarray(predicted, float), np.asarray(target, float)
    length = np.linalg.norm(p, axis=-1, keepdims=True)
    p = np.where(length > 1e-6, p / np.maximum(length, 1e-6), 0)
    t = t / np.linalg.norm(t, axis=-1, keepdims=True)
    angle = 2 * np.arctan2(np.linalg.norm(p - t, axis=-1), np.linalg.norm(p + t, axis=-1))
    return np.rad2deg(np.where(length[..., 0] > 1e-6, angle, np.pi / 2))


def cycle_errors(views: Any, rotation: Any) -> np.ndarray:
    """Angles (T,) [deg] of R_jk R_ij R_ik^T in all triangles of pairs; 0 for consistent labels.

    Args:
        views: (N, 2) indices of the two views of each pair.
        rotation: (N, 3, 3) from the first view to the second.
    """
    rows = np.asarray(views, int)
    r = np.asarray(rotation, float)
    known: dict[tuple[int, int], np.ndarray] = {}
    for (i, j), own in zip(rows.tolist(), r, strict=True):
        known[i, j], known[j, i] = own, own.T
    beside: dict[int, set[int]] = {}
    for i, j in known:
        beside.setdefault(i, set()).add(j)
    errors = [
        rotation_error(known[j, k] @ known[i, j], known[i, k])
        for i in sorted(beside)
        for j, k in itertools.combinations(sorted(n for n in beside[i] if n > i), 2)
        if (j, k) in known
    ]
    return np.array(errors, float)


def folded(error: Any) -> np.ndarray:
    """min(e, 180 - e) (...) of errors (...) [deg] of directions up to sign."""
    error = np.asarray(error, float)
    return np.minimum(error, 180 - error)


def cumulative_histogram(errors: Any, thresholds: Any) -> np.ndarray:
    """Fraction (T,) of errors (N,) that are at most each threshold (T,); nan exceeds them all."""
    errors = _checked(errors)
    return (errors[:, None] <= np.asarray(thresholds, float)).mean(axis=0)


def pose_auc(rotation: Any, translation: Any, thresholds: Any = (5.0, 10.0, 20.0)) -> np.ndarray:
    """Area (T,) under the recall curve of poses up to each threshold, divided by the threshold.

    The error of a pose is max(rotation, translation); pass `folded` translation errors if the sign
    does not count. Recall is piecewise linear through (0, 0) and (e_k, k / N) for the sorted
    errors, and constant after the last error below the threshold. A missing pose (nan) exceeds
    every threshold.

    Args:
        rotation: (N,) [deg].
        translation: (N,) [deg].
        thresholds: (T,) [deg].

    Source: the evaluation of SuperGlue (Sarlin et al., CVPR 2020).
    """
    errors = np.sort(np.maximum(_checked(rotation), _checked(translation)))
    errors = np.where(np.isfinite(errors), errors, np.inf)
    recall = np.arange(1, len(errors) + 1) / len(errors)
    x, y = np.r_[0.0, errors], np.r_[0.0, recall]
    out = []
    for threshold in np.asarray(thresholds, float):
        last = np.searchsorted(x, threshold)
        inside = np.r_[x[:last], threshold], np.r_[y[:last], y[last - 1]]
        out.append(np.trapezoid(inside[1], inside[0]) / threshold)
    return np.array(out)


def pose_failures(rotation: Any, translation: Any, limit: float = 20.0) -> np.ndarray:
    """(N,) bool, True for poses with an error above `limit` [deg] and missing poses (nan)."""
    return ~(np.maximum(_checked(rotation), _checked(translation)) <= limit)


def _checked(errors: Any) -> np.ndarray:
    errors = np.asarray(errors, float)
    if errors.ndim != 1 or not len(errors) or (errors < 0).any():
        raise argument_error("errors", "expected (N,) of 0 or more [deg], or nan", errors.shape)
    return errors
