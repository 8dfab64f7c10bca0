"""The figures of inverse graphics, and the page with sliders."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from experiments import runner
from experiments.inverse_graphics import evaluation, training
from experiments.inverse_graphics.config import FAMILIES, METHODS, SOURCE
from experiments.inverse_graphics.page import page, shown
from jaxcv.plots.inverse_graphics import plot_inferred, plot_strip

__all__ = ["draw_all"]

STEPS = 8  # of a sweep
SHOWN = 4  # heads or chairs
RANDOM = 8  # values of an entry in the figure of random values
SCORES = {"mig": "MIG", "dci": "DCI", "sap": "SAP", "factorvae": "FactorVAE score"}
FIGURE_6 = ("ratio_1_1_1_1_kappa_0", "ratio_1_1_1_10_kappa_0", "ratio_1_1_1_1_kappa_0.01")
ASKED = {"corr2": "corr$^2$ of the entry", "gain": "gain of novel views"}
DEGREES = 180 / np.pi


def draw_all(config: Any, data: Any, trained: Any, metrics: Any) -> Iterable[tuple[str, Any]]:
    """(file name, Figure or page) of every figure."""
    names = data.test.names[: data.test.entries]
    for method in config.method:
        yield f"sweeps_{method}.png", _sweeps(config, data, trained, method)
    yield "inferred.png", _inferred(config, data, trained, metrics)
    yield "scores.png", _scores(config, metrics, names)
    yield "invariance.png", _invariance(config, trained)
    if "entangled" in config.method and len(config.method) > 1:
        yield "baseline.png", _beside(config, data, trained)
    yield "rotation.png", _rotation(config, data, trained)
    yield "random.png", _random(config, data, trained)
    yield "disentanglement.png", _disentanglement(config, metrics)
    if _grids(config):
        yield "grids.png", _over_grids(config, metrics)
    yield "sliders.html", page(config, data, trained)


def _are_chairs(config: Any) -> bool:
    """True for chairs, for which the paper gives a number."""
    return config.data in ("chairs", "public_chairs")


def _of_kind(data: Any, kind: int, count: int = SHOWN) -> np.ndarray:
    """Indices of the first test batches of a kind."""
    return np.flatnonzero(data.test.kind == kind)[:count]


def _swept(config: Any, data: Any, trained: Any, method: str, k: int, count: int) -> np.ndarray:
    """(count, 2 + STEPS, S, S): image, decoded image, and a sweep of the k-th factor's entry."""
    params, network = evaluation.network_of(config, trained, method, 0)
    codes = evaluation.codes_of(config, data, trained, method, 0)
    entry, rows = int(codes.entries[k]), []
    for one in shown(data, count):
        code = codes.images[one]
        each = np.repeat(code[None], 1 + STEPS, axis=0)
        each[1:, entry] = evaluation.sweep_of(codes, entry, STEPS)
        made = evaluation.decode(params, each, network)
        rows.append(np.concatenate([data.images.images[one][None] / 255, made]))
    return np.array(rows)


def _sweeps(config: Any, data: Any, trained: Any, method: str) -> Any:
    """As the paper's Figs. 4 and 5: one entry is swept over its range."""
    names = data.test.names[: data.test.entries]
    figure = runner.new_figure(figsize=(10, 3.6 * len(names)))
    axes = figure.subplots(len(names), 1, squeeze=False)[:, 0]
    codes = evaluation.codes_of(config, data, trained, method, 0)
    for k, (ax, name) in enumerate(zip(axes, names, strict=True)):
        images = _swept(config, data, trained, method, k, SHOWN)
        swept = evaluation.sweep_of(codes, int(codes.entries[k]), STEPS)
        plot_strip(ax, images, labels=["image", "decoded", *(f"{z:.1f}" for z in swept)])
        ax.set_title(f"{name}: entry {codes.entries[k]} set to", fontsize=10)
    what = "chairs" if _are_chairs(config) else "heads"
    figure.suptitle(f"{method}: {what} that were not trained on")
    return figure


def _compared(config: Any) -> list[str]:
    """Methods in `_inferred`: the paper's three networks and the baseline, else at most six."""
    if set(FIGURE_6) <= set(config.method):
        return [name for name in (*FIGURE_6, "entangled") if name in config.method]
    return list(config.method)[:6]


def _inferred(config: Any, data: Any, trained: Any, metrics: Any) -> Any:
    """As the paper's Fig. 6: the entry against the true factor."""
    names, methods = data.test.names[: data.test.entries], _compared(config)
    size = max(7.5, 4.2 * len(names)), 3.1 * len(methods)
    figure = runner.new_figure(figsize=size)
    axes = figure.subplots(len(methods), len(names), squeeze=False)
    for line, method in zip(axes, methods, strict=True):
        codes = evaluation.codes_of(config, data, trained, method, 0)
        for k, (ax, name) in enumerate(zip(line, names, strict=True)):
            factor = DEGREES * data.images.factors[:, k]
            plot_inferred(ax, factor, codes.images[:, codes.entries[k]], unit="deg", name=name)
            score = metrics[f"{method}/explained_{name}"]
            title = f"{method}, corr$^2$ {metrics[f'{method}/corr2_{name}']:.2f}, any {score:.2f}"
            ax.set_title(title, fontsize=9)
    figure.suptitle("first seed; titles: means over the seeds; red: mean; any: R$^2$ of any curve")
    return figure


def _legend(figure: Any, ax: Any) -> None:
    """One legend for all axes, below them."""
    handles, labels = ax.get_legend_handles_labels()
    ncols = min(len(labels), 6)
    figure.legend(handles, labels, fontsize=8, loc="outside lower center", ncols=ncols)


def _scores(config: Any, metrics: Any, names: tuple[str, ...]) -> Any:
    """Correlations, gains and reconstruction of all methods."""
    figure = runner.new_figure(figsize=(14, max(4.4, 0.25 * len(config.method) + 2)))
    axes = figure.subplots(1, 3, width_ratios=(3, 3, 2))
    width = 0.8 / len(config.method)
    for ax, (key, label) in zip(axes, ASKED.items(), strict=False):
        for j, method in enumerate(config.method):
            for k, name in enumerate(names):
                values = metrics.get(f"{method}/{key}_{name}_of_seeds") or [
                    metrics[f"{method}/{key}_{name}"]
                ]
                place = k + (j + 0.5) * width - 0.4
                mean = np.mean(values)
                ax.bar(place, mean, width, color=f"C{j}", label=method if not k else "")
                ax.plot(np.full(len(values), place), values, "k.", ms=4)
                if not np.isfinite(mean):
                    ax.annotate("none", (place, 0.01), ha="center", fontsize=7, rotation=90)
        ax.set_xticks(range(len(names)), names)
        ends = (-0.5, len(names) - 0.5)
        ax.set(ylabel=label, xlim=ends, ylim=(min(0, ax.get_ylim()[0]), 1.02))
        ax.grid(axis="y", alpha=0.3)
    _legend(figure, axes[0])
    ax, rows = axes[2], ["mean_image", *config.method]
    values = [metrics[f"{name}/reconstruction_mse"] for name in rows]
    ax.barh(range(len(rows)), values, color=["0.7", *(f"C{j}" for j in range(len(config.method)))])
    for place, value in enumerate(values):
        ax.annotate(f" {value:.4f}", (value, place), va="center", fontsize=8)
    if _are_chairs(config):
        printed = SOURCE["dcign/chairs_mse"]
        ax.axvline(printed, ls=":", color="k", lw=1, label="source, its chairs of 150 px")
        ax.set_xscale("log")
        ax.legend(fontsize=7, loc="upper left")
    ax.set_yticks(range(len(rows)), rows)
    ax.set_xlabel("squared error of decoded test images")
    ax.margins(x=0.3)
    figure.suptitle(
        "test; dots: seeds. Of an entangled code, the entry that varies most in training batches "
        "of the factor"
    )
    return figure


def _invariance(config: Any, trained: Any) -> Any:
    """Spread of inactive entries within batches, over the training."""
    figure = runner.new_figure(figsize=(11, 4))
    axes = figure.subplots(1, 2)
    labels = {
        "spread": "spread in a batch / spread of all",
        "spread_absolute": "spread in a batch [units of the code]",
    }
    for ax, (key, label) in zip(axes, labels.items(), strict=True):
        for j, method in enumerate(config.method):
            for i in range(config.num_seeds):
                run, trial = training.trial_of(config, method, i)
                history = trained[run].history
                name = None if i else method
                ax.plot(history["step"], history[key][:, trial], color=f"C{j}", label=name, lw=1.2)
        ax.set(xlabel="optimiser steps", ylabel=label)
        ax.grid(alpha=0.3)
        if key == "spread_absolute":
            ax.set_yscale("log")
    _legend(figure, axes[0])
    figure.suptitle("entries that a test batch should hold still: the less they vary, the better")
    return figure


def _beside(config: Any, data: Any, trained: Any) -> Any:
    """As the paper's Fig. 7: DC-IGN and the entangled baseline, the entry of the azimuth swept."""
    methods = [next(name for name in config.method if name != "entangled"), "entangled"]
    figure = runner.new_figure(figsize=(13, 3.4))
    for k, (ax, method) in enumerate(zip(figure.subplots(1, 2), methods, strict=True)):
        del k
        images = _swept(config, data, trained, method, 0, SHOWN)
        codes = evaluation.codes_of(config, data, trained, method, 0)
        plot_strip(ax, images, labels=["image", "decoded"])
        ax.set_title(f"{method}: entry {codes.entries[0]} swept", fontsize=10)
    figure.suptitle("azimuth by one entry of the code")
    return figure


def _rotation(config: Any, data: Any, trained: Any) -> Any:
    """As the paper's Fig. 8: views of test heads or chairs, true and decoded from the first view.

    Every second row is decoded from the code of the first view, in which only the azimuth's entry
    is replaced by that of each other view.
    """
    method = config.method[0]
    params, network = evaluation.network_of(config, trained, method, 0)
    codes = evaluation.codes_of(config, data, trained, method, 0)
    rows = []
    for batch in _of_kind(data, 0):
        order = np.argsort(data.test.factors[batch, :, 0])
        order = order[np.linspace(0, len(order) - 1, 10).astype(int)]
        rows.append(data.test.images[batch, order] / 255)
        first = np.repeat(codes.test[batch, order[:1]], len(order), axis=0)
        first[:, codes.entries[0]] = codes.test[batch, order, codes.entries[0]]
        rows.append(evaluation.decode(params, first, network))
    figure = runner.new_figure(figsize=(9, 7.4))
    ax = figure.subplots()
    plot_strip(ax, np.array(rows))
    ax.set_title(
        f"{method}: true views by azimuth; below each, the first view with only the azimuth's "
        "entry exchanged", fontsize=10,
    )  # fmt: skip
    return figure


def _random(config: Any, data: Any, trained: Any) -> Any:
    """As the paper's Fig. 5: the azimuth's entry is set to random values of its range."""
    method = config.method[0]
    params, network = evaluation.network_of(config, trained, method, 0)
    codes = evaluation.codes_of(config, data, trained, method, 0)
    entry, rng, rows = int(codes.entries[0]), np.random.default_rng(0), []
    for one in shown(data, SHOWN):
        each = np.repeat(codes.images[one][None], 1 + RANDOM, axis=0)
        low, high = evaluation.sweep_of(codes, entry, 2)
        each[1:, entry] = rng.uniform(low, high, RANDOM)
        made = evaluation.decode(params, each, network)
        rows.append(np.concatenate([data.images.images[one][None] / 255, made]))
    figure = runner.new_figure(figsize=(9, 4.2))
    ax = figure.subplots()
    plot_strip(ax, np.array(rows), labels=["image", "decoded"])
    ax.set_title(f"{method}: entry {entry} (azimuth) set to random values", fontsize=10)
    return figure


def _values(metrics: Any, method: str, key: str) -> list[float]:
    """The values over the seeds."""
    return metrics.get(f"{method}/{key}_of_seeds") or [metrics[f"{method}/{key}"]]


def _disentanglement(config: Any, metrics: Any) -> Any:
    """The four disentanglement scores of all methods."""
    count = len(config.method)
    figure = runner.new_figure(figsize=(13, 1.6 + 0.28 * count))
    axes = figure.subplots(1, len(SCORES), sharey=True)
    for ax, (key, label) in zip(axes, SCORES.items(), strict=True):
        for j, method in enumerate(config.method):
            values = _values(metrics, method, key)
            ax.barh(j, np.mean(values), color=f"C{j}")
            ax.plot(values, np.full(len(values), j), "k.", ms=4)
        ax.set(xlabel=label, xlim=(0, 1.02))
        ax.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(count), config.method)
    axes[0].invert_yaxis()
    figure.suptitle("disentanglement of the test images' codes; dots: seeds")
    return figure


def _grids(config: Any) -> dict[str, dict[float, str]]:
    """Name of a grid -> its values and methods, for grids of three values or more."""
    grids: dict[str, dict[float, str]] = {}
    for name in config.method:
        method = METHODS[name]
        for family in FAMILIES:
            if name.startswith(f"{family}_"):
                grids.setdefault(f"{family}, by beta", {})[method.beta] = name
        if name.startswith("kappa_") and method.kappa is not None:
            grids.setdefault("DC-IGN, by kappa", {})[method.kappa] = name
    return {title: dict(sorted(own.items())) for title, own in grids.items() if len(own) > 2}


def _over_grids(config: Any, metrics: Any) -> Any:
    """Scores and reconstruction against the strength that a grid varies."""
    figure = runner.new_figure(figsize=(15, 3.8))
    keys = {**SCORES, "reconstruction_mse": "squared error of reconstruction"}
    axes = figure.subplots(1, len(keys))
    reference = config.method[0]
    for ax, (key, label) in zip(axes, keys.items(), strict=True):
        for j, (title, own) in enumerate(_grids(config).items()):
            means = [np.mean(_values(metrics, name, key)) for name in own.values()]
            ax.plot(list(own), means, "o-", ms=4, color=f"C{j}", label=title)
            for x, name in own.items():
                values = _values(metrics, name, key)
                ax.plot(np.full(len(values), x), values, ".", ms=3, color=f"C{j}", alpha=0.6)
        if not any(reference in own.values() for own in _grids(config).values()):
            value = np.mean(_values(metrics, reference, key))
            ax.axhline(value, ls="--", color="k", lw=1, label=reference)
        zero = any(0 in own for own in _grids(config).values())
        ax.set_xscale("symlog", linthresh=0.01) if zero else ax.set_xscale("log")
        ax.set(xlabel="kappa or beta", ylabel=label)
        ax.grid(alpha=0.3)
    _legend(figure, axes[0])
    figure.suptitle("test; lines: means over seeds")
    return figure
