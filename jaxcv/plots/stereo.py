"""Plots of depth maps, residuals and error curves."""

from typing import Any

import numpy as np

__all__ = ["plot_inverse_depth", "plot_metric", "plot_pattern", "plot_residual"]


def plot_inverse_depth(ax: Any, inverse_depth: Any, limits: tuple[float, float]) -> Any:
    """An inverse depth map; near points are bright.

    Args:
        ax: axes to draw on.
        inverse_depth: (H, W).
        limits: of the colour scale.

    Returns:
        The image, for a colour bar.
    """
    ax.set(xticks=[], yticks=[])
    return ax.imshow(inverse_depth, cmap="magma", vmin=limits[0], vmax=limits[1])


def plot_residual(ax: Any, residual: Any, visible: Any, largest: float) -> Any:
    """A residual image; grey where a pixel is not visible.

    Args:
        ax: axes to draw on.
        residual: (H, W).
        visible: (H, W) bool.
        largest: end of the colour scale.

    Returns:
        The image, for a colour bar.
    """
    ax.set(xticks=[], yticks=[], facecolor="0.8")
    shown = np.ma.masked_where(~np.asarray(visible, bool), residual)
    return ax.imshow(shown, cmap="RdBu", vmin=-largest, vmax=largest)


def plot_metric(ax: Any, curves: Any, *, xlabel: str, ylabel: str, styles: Any) -> Any:
    """Mean over seeds as one line per method, shaded from smallest to largest.

    Args:
        ax: axes to draw on.
        curves: method -> (x (K,), values (seeds, K)).
        xlabel: of the axis.
        ylabel: of the axis.
        styles: method -> keyword arguments of its line.
    """
    for name, (x, values) in curves.items():
        values = np.atleast_2d(values)
        style = {"marker": "o", "markersize": 3} | styles.get(name, {})
        ax.plot(x, values.mean(axis=0), label=name, **style)
        if len(values) > 1:
            color = style.get("color")
            ax.fill_between(x, values.min(axis=0), values.max(axis=0), color=color, alpha=0.15)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.grid(alpha=0.3)
    return ax


def plot_pattern(ax: Any, matrix: Any) -> Any:
    """The non-zero entries of a matrix (M, N), as squares."""
    ax.spy(np.asarray(matrix) != 0, markersize=150 / max(np.shape(matrix)), color="0.2")
    ax.set(xticks=[], yticks=[])
    return ax
