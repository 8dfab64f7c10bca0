"""The figure of the robust mean over several minima."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from experiments import runner
from experiments.robust_mean_minima import training

__all__ = ["draw_all"]


def draw_all(
    config: training.Config, data: None, trained: Any, metrics: Any
) -> Iterable[tuple[str, Any]]:
    """scan.png: the loss against the width, with the final width of each training."""
    del data, trained
    figure = runner.new_figure(figsize=(11, 4.5))
    axes = figure.subplots(1, len(config.protocol), squeeze=False)
    labels = {
        "implicit": "implicit gradient of the lowest minimum",
        "expected": f"expected over {config.keep} minima, T = {config.temperature:g}",
    }
    colors = {"implicit": "tab:red", "expected": "tab:blue"}
    for ax, name in zip(axes[0], config.protocol, strict=True):
        get = lambda key, name=name: np.asarray(metrics[f"{name}/{key}"])
        ax.plot(get("scan/sigma2"), get("scan/loss"), color="black", label="scan of widths")
        ax.axhspan(
            float(get("scan/lowest_loss")), 1.02 * float(get("scan/lowest_loss")), alpha=0.25,
            color="tab:green", label="within 2% of the lowest",
        )  # fmt: skip
        for method in training.METHODS:
            ax.plot(
                get(f"{method}/sigma2"), get(f"{method}/loss"), "o", ms=5, alpha=0.8,
                color=colors[method], label=labels[method],
            )  # fmt: skip
        ax.set(xscale="log", xlabel="σ² [units of the line, squared]")
        ax.set_xticks([20, 50, 100, 200, 400, 800], labels=["20", "50", "100", "200", "400", "800"])
        ax.minorticks_off()
        ax.set_title(f"{name} data: {int(get('expected/within'))} of {config.num_seeds} within 2%")
    axes[0, 0].set_ylabel("mean squared error of the estimate")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2)
    figure.suptitle(f"Width of the robust mean, {config.num_test} fresh samples, a dot a seed")
    yield "scan.png", figure
