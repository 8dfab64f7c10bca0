"""Plots of the robust mean: energies of a candidate, and traces of a training run."""

from typing import Any

import numpy as np

__all__ = ["plot_energy", "plot_trace"]


def plot_energy(
    ax: Any,
    grid: np.ndarray,
    energy: np.ndarray,
    points: np.ndarray,
    inlier: np.ndarray,
    estimate: float,
    target: float,
) -> Any:
    """Energy over candidates y, with the samples, the minimiser and the true mean.

    Args:
        ax: axes to draw on.
        grid: (g,) candidates y.
        energy: (g,) E(y).
        points: (n,) the samples.
        inlier: (n,) bool.
        estimate: the minimiser.
        target: the true mean.
    """
    floor, top = float(np.min(energy)), float(np.max(energy))
    height = max(top - floor, 1e-12)
    ax.plot(grid, energy, color="black", linewidth=1.2, label="energy")
    rug = floor - 0.08 * height
    ax.plot(points[~inlier], np.full((~inlier).sum(), rug), "|", color="tab:red", label="outliers")
    ax.plot(points[inlier], np.full(inlier.sum(), rug), "|", color="tab:blue", label="inliers")
    ax.axvline(target, color="tab:blue", linestyle=":", linewidth=1.5, label="true mean")
    best = float(np.interp(estimate, grid, energy))
    ax.plot([estimate], [best], "x", color="tab:green", ms=11, mew=3, label="estimate")
    ax.set(xlabel="y", ylabel="energy E(y)", xlim=(grid[0], grid[-1]))
    return ax


def plot_trace(
    ax: Any,
    step: np.ndarray,
    values: np.ndarray,
    *,
    label: str,
    color: str,
    floor: float | None = None,
    linestyle: str = "-",
) -> Any:
    """One thin line per seed and a thick line for the median, on a logarithmic axis.

    Args:
        ax: axes to draw on.
        step: (t,) iterations.
        values: (t, seeds); those not positive and finite are omitted.
        label: of the median.
        color: of all lines.
        floor: lower values are raised to it first.
        linestyle: of the thick line.
    """
    values = np.asarray(values, float)
    if floor is not None:
        values = np.maximum(values, floor)
    values = np.where(np.isfinite(values) & (values > 0), values, np.nan)
    ax.plot(step, values, color=color, linewidth=0.6, alpha=0.35)
    with np.errstate(all="ignore"):
        middle = np.array([np.nan if np.isnan(v).all() else np.nanmedian(v) for v in values])
    ax.plot(step, middle, color=color, linewidth=2, linestyle=linestyle, label=label)
    ax.set_yscale("log")
    ax.set_xlabel("iteration")
    return ax
