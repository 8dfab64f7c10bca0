"""Intervals over the seeds of an experiment."""

from collections.abc import Sequence

import numpy as np

__all__ = ["change_over_seeds"]


def change_over_seeds(first: Sequence[float], second: Sequence[float]) -> dict[str, object]:
    """The relative differences a / b - 1 of two rows with equal seeds, as entries of metrics.

    Returns:
        `change`, the list over seeds; with more than one seed `low` and `high` as well, the ends of
        the 95% interval of their mean (Student's t).
    """
    change = np.asarray(first, float) / np.asarray(second, float) - 1
    out: dict[str, object] = {"change": change.tolist()}
    if len(change) > 1:
        from scipy import stats

        half = stats.t.ppf(0.975, len(change) - 1) * stats.sem(change)
        out |= {"low": float(change.mean() - half), "high": float(change.mean() + half)}
    return out
