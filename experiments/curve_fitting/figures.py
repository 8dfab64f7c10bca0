"""The figures of the curve fitting: the paper's Fig. 3, and the fraction of solved problems."""

import itertools
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.curve_fitting import evaluation, training
from jaxcv.energies.curves import FAMILIES
from jaxcv.plots.curve_fitting import plot_against, plot_energies, plot_fit

__all__ = ["draw_all"]

LM, LEARNED = "Levenberg-Marquardt", "learned"
STYLES = {
    "truth": {"color": "0.2", "ls": ":", "lw": 1.5},
    LM: {"color": "tab:orange"},
    LEARNED: {"color": "tab:blue"},
}
SHOWN = 5  # iterations in the first figure


def draw_all(config: Any, data: Any, trained: Any, metrics: Any) -> Iterable[tuple[str, Any]]:
    """(file name, Figure) of every figure."""
    found = evaluation.fits(config, data, trained)
    pair = {LM: found["lm"], LEARNED: found[training.JOINT]}
    start = evaluation.test_energies(data, data.test.start)
    energies = {
        name: np.concatenate([start[None], evaluation.test_energies(data, x)])
        for name, x in pair.items()
    }
    yield "fits.png", _fits(data, pair)
    yield "energies.png", _energies(data, energies)
    yield "scatter.png", _scatter(energies)
    yield "solved.png", _solved(config, metrics)


def _fits(data: Any, pair: Any) -> Any:
    """The first three test problems of each family after five iterations; the paper's Fig. 3a."""
    p = data.test
    figure = runner.new_figure(figsize=(13, 8))
    axes = figure.subplots(3, len(training.NAMES))
    for i, name in enumerate(training.NAMES):
        value = FAMILIES[name].value
        for row in range(3):
            draw = lambda x: np.asarray(value(jnp.asarray(x), p.t[i]))  # noqa: B023
            curves = {"truth": draw(p.truth[i, row])}
            curves |= {method: draw(x[SHOWN - 1, i, row]) for method, x in pair.items()}
            ax = plot_fit(axes[row, i], p.t[i], p.y[i, row], curves, STYLES)
            if row == 0:
                ax.set_title(name)
    axes[0, 0].legend(fontsize=8)
    figure.suptitle(f"The first three test problems of each family after {SHOWN} iterations")
    return figure


def _energies(data: Any, energies: Any) -> Any:
    """Ten test problems of each family; the paper's Fig. 3b."""
    figure = runner.new_figure(figsize=(13, 4))
    axes = figure.subplots(1, len(training.NAMES))
    truth = evaluation.test_energies(data, data.test.truth)
    for i, name in enumerate(training.NAMES):
        plot_energies(axes[i], {m: e[:, i, :10] for m, e in energies.items()}, STYLES)
        axes[i].axhline(np.median(truth[i]), **STYLES["truth"], label="at the truth")
        axes[i].set_title(name)
    axes[0].legend(fontsize=8)
    figure.suptitle("Ten test problems of each family, and their median")
    return figure


def _scatter(energies: Any) -> Any:
    """Energies after 1, 3, 5 and 15 iterations, method against method; the paper's Fig. 3c."""
    figure = runner.new_figure(figsize=(13, 4))
    axes = figure.subplots(1, len(training.NAMES))
    for i, name in enumerate(training.NAMES):
        for step, color in ((1, "tab:red"), (3, "tab:orange"), (5, "tab:green"), (15, "tab:blue")):
            first, second = (energies[m][step, i, :300] for m in (LM, LEARNED))
            plot_against(
                axes[i], first, second, labels=(LM, LEARNED), color=color, label=f"iteration {step}"
            )
        ratio = energies[LEARNED][1:, i] / energies[LM][1:, i]
        lower, higher = (100 * np.mean(x) for x in (ratio < 0.99, ratio > 1.01))
        axes[i].set_title(f"{name}: lower in {lower:.0f}%, higher in {higher:.0f}%", fontsize=10)
    axes[0].legend(fontsize=8, markerscale=3)
    figure.suptitle(
        "How often the learned solver's energy is lower or higher by more than 1%, all iterations"
    )
    return figure


def _solved(config: Any, metrics: Any) -> Any:
    """The fraction of problems within 5% of the energy at the truth, by row and iteration.

    Restarts have the time of as many iterations of the network; SciPy runs until it converges.
    """
    figure = runner.new_figure(figsize=(13, 4))
    axes = figure.subplots(1, len(training.NAMES), sharey=True)
    styles = {"lm": STYLES[LM], "lm_tuned": STYLES[LM] | {"ls": "--"}, "learned": STYLES[LEARNED]}
    names = [name for name in metrics if name.endswith("/sine/solved_15")]
    rest = sorted({key.split("/")[0] for key in names} - set(styles))
    colors = ("tab:green", "tab:purple", "tab:brown", "tab:pink", "tab:gray", "tab:olive",
              "tab:cyan", "tab:red", "gold")  # fmt: skip
    styles |= {n: {"lw": 1, "color": c} for n, c in zip(rest, itertools.cycle(colors))}
    for i, family in enumerate(training.NAMES):
        for name in (key.split("/")[0] for key in names):
            steps = [k for k in training.RECORDED if f"{name}/{family}/solved_{k}" in metrics]
            values = [metrics[f"{name}/{family}/solved_{k}"] for k in steps]
            axes[i].plot(steps, values, marker="o", ms=3, label=name, **styles[name])
        axes[i].set(title=family, xlabel="iteration", ylim=(0, 1.02))
        axes[i].grid(alpha=0.3)
    axes[0].set_ylabel(f"fraction within {evaluation.SOLVED} E(truth)")
    axes[0].legend(fontsize=8)
    return figure
