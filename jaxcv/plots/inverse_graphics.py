"""Plots of decoded images and of single latents."""

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["plot_inferred", "plot_strip"]


def plot_strip(ax: Any, images: Any, *, labels: Sequence[str] = (), gap: int = 2) -> None:
    """A grid of images, drawn as one picture.

    Args:
        ax: axes to draw on.
        images: (R, C, S, S) in [0, 1]; nan is white.
        labels: of the columns.
        gap: between adjacent images [px].
    """
    images = np.asarray(images, float)
    rows, columns, side, _ = images.shape
    pitch = side + gap
    sheet = np.ones((rows * pitch - gap, columns * pitch - gap))
    for r in range(rows):
        for c in range(columns):
            at = np.s_[r * pitch : r * pitch + side, c * pitch : c * pitch + side]
            sheet[at] = np.nan_to_num(images[r, c], nan=1.0)
    ax.imshow(sheet, cmap="gray", vmin=0, vmax=1)
    ax.set_xticks([c * pitch + side / 2 for c in range(len(labels))], labels, fontsize=8)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def plot_inferred(ax: Any, factor: Any, entry: Any, *, unit: str, name: str) -> None:
    """A latent against the true factor: one dot per image, and the mean in each of 15 bins.

    Args:
        ax: axes to draw on.
        factor: (N,).
        entry: (N,) the latent.
        unit: of the factor.
        name: of the factor.
    """
    ax.plot(factor, entry, ".", ms=2, alpha=0.5, color="tab:blue")
    edges = np.linspace(np.min(factor), np.max(factor), 16)
    bins = np.digitize(factor, edges[1:-1])
    seen = [b for b in range(15) if (bins == b).any()]
    middle = 0.5 * (edges[1:] + edges[:-1])
    means = [np.mean(np.asarray(entry)[bins == b]) for b in seen]
    ax.plot(middle[seen], means, color="tab:red", lw=1.5)
    ax.set(xlabel=f"true {name} [{unit}]", ylabel="entry of the code")
    ax.grid(alpha=0.3)
