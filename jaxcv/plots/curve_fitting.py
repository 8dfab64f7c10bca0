"""Plots of fitted curves and of the convergence of solvers."""

from typing import Any

import numpy as np

__all__ = ["plot_against", "plot_energies", "plot_fit"]


def plot_fit(ax: Any, t: Any, y: Any, curves: Any, styles: Any) -> Any:
    """Points (t, y) and curves through them.

    Args:
        ax: axes to draw on.
        t: (N,).
        y: (N,).
        curves: method -> (N,) values.
        styles: method -> keyword arguments of its line.
    """
    ax.plot(t, y, ".", color="0.6", markersize=3, label="data")
    for name, values in curves.items():
        ax.plot(t, values, **({"label": name} | styles.get(name, {})))
    low, high = np.min(y), np.max(y)
    room = 0.3 * (high - low)
    ax.set(xlabel="t", ylabel="f(t)", ylim=(low - room, high + room))
    return ax


def plot_energies(ax: Any, energies: Any, styles: Any) -> Any:
    """Energy against iteration: one thin line per problem and a thick line for the median.

    Args:
        ax: axes to draw on.
        energies: method -> (T + 1, P), the initial energies first.
        styles: method -> keyword arguments of its lines.
    """
    for name, values in energies.items():
        style = styles.get(name, {})
        ax.semilogy(values, lw=0.6, alpha=0.5, **(style | {"label": None}))
        ax.semilogy(np.median(values, axis=1), lw=2.5, **({"label": name} | style))
    ax.set(xlabel="iteration", ylabel="energy E (half squared residual)")
    ax.grid(alpha=0.3)
    return ax


def plot_against(ax: Any, first: Any, second: Any, *, labels: tuple[str, str], **style: Any) -> Any:
    """Scatter plot of two methods' energies; points below the diagonal favour the second.

    Args:
        ax: axes to draw on.
        first: (P,), along x.
        second: (P,), along y.
        labels: names of the two methods.
        style: of the points.
    """
    ax.loglog(first, second, ".", **({"markersize": 3, "alpha": 0.4} | style))
    both = np.concatenate([np.ravel(first), np.ravel(second)])
    both = both[np.isfinite(both) & (both > 0)]
    ends = [both.min(), both.max()]
    ax.loglog(ends, ends, "k-", lw=1)
    ax.set(xlabel=f"energy of {labels[0]}", ylabel=f"energy of {labels[1]}")
    ax.set_aspect("equal")
    return ax
