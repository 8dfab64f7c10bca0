"""Confidence intervals over the seeds of an experiment."""

from collections.abc import Sequence

import numpy as np

__all__ = ["change_over_seeds", "interval_of_mean"]


def change_over_seeds(first: Sequence[float], second: Sequence[float]) -> dict[str, object]:
    """Relative differences a / b - 1 of two methods over the same seeds, as entries of metrics.

    Returns:
        `change`, the list over seeds; with more than one seed `low` and `high` as well, the ends of
        the 95% interval of their mean (Student's t).
    """
    change = np.asarray(first, float) / np.asarray(second, float) - 1
    out: dict[str, object] = {"change": change.tolist()}
    if len(change) > 1:
        out |= dict(zip(("low", "high"), interval_of_mean(change), strict=True))
    return out


def interval_of_mean(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The ends of the 95% interval of the mean of two values or more (Student's t)."""
    from scipy import stats

    mean = float(np.mean(values))
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return mean - half, mean + half
