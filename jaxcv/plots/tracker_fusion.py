"""Plots of the tracker fusion."""

from typing import Any

import numpy as np

__all__ = ["plot_energy_map", "plot_parameters", "plot_success"]


def plot_energy_map(
    ax: Any,
    x: np.ndarray,
    y: np.ndarray,
    energy: np.ndarray,
    candidates: np.ndarray,
    estimate: np.ndarray,
    truth: np.ndarray,
) -> Any:
    """Energy of one corner over the image plane, with corners: trackers', estimated and true.

    Args:
        ax: axes to draw on.
        x, y: (w,), (h,) pixel coordinates of the grid [px].
        energy: (h, w).
        candidates: (K, 2) corners of the trackers [px].
        estimate, truth: (2,) [px].
    """
    image = ax.pcolormesh(x, y, energy, cmap="viridis", shading="nearest", vmin=-1, vmax=0)
    ax.plot(*candidates.T, "o", ms=5, mfc="white", mec="grey", label="trackers")
    ax.plot(*truth, "*", ms=14, color="tab:red", mec="white", label="truth")
    ax.plot(*estimate, "x", ms=11, mew=3, color="tab:orange", label="estimate")
    ax.set(xlabel="x [px]", ylabel="y [px]", xlim=(x[0], x[-1]), ylim=(y[-1], y[0]))
    ax.set_aspect("equal")
    return image


def plot_success(
    ax: Any, thresholds: np.ndarray, fraction: np.ndarray, *, label: str, **style: Any
) -> Any:
    """Fraction of frames whose overlap exceeds each threshold.

    Args:
        ax: axes to draw on.
        thresholds: (t,) of the IoU.
        fraction: (t,) in [0, 1].
        label: for the legend.
        style: of the line.
    """
    ax.plot(thresholds, 100 * np.asarray(fraction), label=label, **style)
    ax.set(xlabel="IoU threshold", ylabel="frames above [%]", xlim=(0, 1), ylim=(0, 100))
    return ax


def plot_parameters(ax: Any, names: Any, values: np.ndarray, *, start: float, label: str) -> Any:
    """A learned number per tracker: one dot per model and corner, and a bar at the mean.

    Args:
        ax: axes to draw on.
        names: K trackers.
        values: (m, K), a row per model and corner.
        start: value before training.
        label: of the axis, with unit.
    """
    place = np.arange(len(names))
    for row in values:
        ax.plot(place, row, "o", ms=3, color="tab:blue", alpha=0.5)
    ax.plot(place, values.mean(axis=0), "_", ms=16, mew=3, color="black")
    ax.axhline(start, color="tab:red", linestyle="--", linewidth=1)
    ax.set_xticks(place, names, rotation=60, ha="right", fontsize=8)
    ax.set_ylabel(label)
    return ax
