"""Plots of hand poses and their errors."""

from typing import Any

import numpy as np

__all__ = ["plot_joint_errors", "plot_joints", "plot_success"]


def plot_success(ax: Any, curves: Any, thresholds: Any) -> None:
    """Success rate against error threshold, one line per method.

    Args:
        ax: axes to draw on.
        curves: method -> (T,) fractions.
        thresholds: (T,) [mm].
    """
    for i, (name, fractions) in enumerate(curves.items()):
        style = ("-", "--", ":")[i // 10 % 3]  # the colours repeat after ten
        ax.plot(thresholds, 100 * np.asarray(fractions), style, label=name)
    ax.set(xlabel="largest allowed error of a joint [mm]", ylabel="frames [%]", ylim=(0, 100))
    ax.set_xlim(thresholds[0], thresholds[-1])
    ax.grid(alpha=0.3)
    if len(curves) > 6:
        ax.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1))
    else:
        ax.legend(fontsize=8, loc="lower right")


def plot_joint_errors(ax: Any, errors: Any, names: Any) -> None:
    """Mean error per joint and over all joints, one group of bars each.

    Args:
        ax: axes to draw on.
        errors: method -> (J,) [mm].
        names: of the J joints.
    """
    labels = [*names, "mean"]
    width = 0.8 / max(1, len(errors))
    for i, (name, values) in enumerate(errors.items()):
        heights = [*values, np.mean(values)]
        ax.bar(np.arange(len(labels)) + (i + 0.5) * width - 0.4, heights, width, label=name)
    ax.set_xticks(range(len(labels)), labels)
    ax.set(ylabel="mean error [mm]")
    ax.grid(axis="y", alpha=0.3)
    ax.legend(fontsize=8)


def plot_joints(ax: Any, joints: Any, bones: Any, **style: Any) -> None:
    """A hand's joints and bones in 2-D or 3-D.

    Args:
        ax: axes to draw on, 3-D ones for 3-D joints.
        joints: (J, 2) or (J, 3).
        bones: pairs of joints.
        **style: of the lines.
    """
    joints = np.asarray(joints)
    label = style.pop("label", None)
    for i, (a, b) in enumerate(bones):
        ax.plot(*joints[[a, b]].T, label=label if i == 0 else None, **style)
