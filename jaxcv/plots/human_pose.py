"""Plots of human poses."""

from typing import Any

import numpy as np

__all__ = ["plot_errors_by_action", "plot_skeleton"]


def plot_skeleton(
    ax: Any, joints: np.ndarray, limbs: Any, *, label: str | None = None, **style: Any
) -> Any:
    """Limbs of one pose in 3-D, with z up and equal scales.

    Args:
        ax: 3-D axes to draw on.
        joints: (J, 3) [mm].
        limbs: pairs of joint indices.
        label: for the legend.
        style: of the lines.
    """
    joints = np.asarray(joints)
    for i, (a, b) in enumerate(limbs):
        ax.plot(*joints[[a, b]].T, label=label if i == 0 else None, **style)
    ax.set(xlabel="x [mm]", ylabel="y [mm]", zlabel="z [mm]")
    ax.set_aspect("equal")
    return ax


def plot_errors_by_action(ax: Any, errors: Any, styles: Any) -> Any:
    """Grouped bars of the errors of several methods.

    Args:
        ax: axes to draw on.
        errors: method -> {action: error [mm]}; the first method's actions are the groups.
        styles: method -> keyword arguments of its bars.
    """
    names = list(next(iter(errors.values())))
    width = 0.8 / len(errors)
    for i, (method, row) in enumerate(errors.items()):
        x = np.arange(len(names)) + (i - (len(errors) - 1) / 2) * width
        ax.bar(x, [row[name] for name in names], width, label=method, **styles.get(method, {}))
    ax.set_xticks(range(len(names)), names, rotation=30, ha="right")
    ax.set_ylabel("mean joint error [mm]")
    ax.grid(axis="y", alpha=0.3)
    return ax
