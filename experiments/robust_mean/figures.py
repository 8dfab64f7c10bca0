"""The figures of the robust mean."""

import itertools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.robust_mean import evaluation, training
from jaxcv import argmin
from jaxcv.data.synthetic.robust_mean import PROTOCOLS, draw
from jaxcv.energies.robust import rbf_energy
from jaxcv.plots.robust_mean import plot_energy, plot_trace

__all__ = ["draw_all", "headline", "predicted"]

COLORS = {
    "undamped": "tab:red",
    "damped": "tab:blue",
    "shift": "tab:green",
    "order4": "tab:purple",
}
LABELS = {
    "undamped": "undamped (Samuel and Tappen)",
    "damped": "damped, λ = 0.1 (Wibergian learning)",
    "shift": "shift, λ = 0.1",
    "order4": "shift, order 4, λ = 0.1",
}
DRAWN = ("undamped", "order4", "shift", "damped")  # damped often hides shift
TITLES = {"released": "released code's data", "paper": "paper's data"}


def draw_all(config: Any, data: None, trained: Any, metrics: Any) -> Iterable[tuple[str, Any]]:
    """(file name, Figure) of every figure; only the energies if there are no histories."""
    del data
    yield "energies.png", _energies(config, trained)
    if all("sigma2" in run.history for run in trained.values()):
        for name, metric, label, lines in (
            ("sigma2.png", "sigma2", "σ²", _best_widths(config, metrics)),
            ("gradient.png", "gradient_norm", "largest |d loss / d s| since last point", None),
            (
                "min_eigenvalue.png",
                "min_eigenvalue",
                "smallest h since last point",
                dict.fromkeys(config.protocol, (0.1, "λ = 0.1")),
            ),
        ):
            yield name, _traces(config, trained, metric, label, lines)
        yield "largest_gradient.png", _largest_gradient(config, metrics)
    yield "loss.png", _losses(config, metrics)
    yield "prediction.png", _prediction(config, metrics)


def _best_widths(config: Any, metrics: Any) -> dict[str, tuple[float, str]]:
    """Protocol -> sigma^2 with the least test loss, and its label."""
    key = lambda name: f"{evaluation.key_of(name, 'asgd', 'scan')}/best_sigma2"
    return {name: (float(metrics[key(name)]), "least test loss") for name in config.protocol}


def headline(config: Any) -> tuple[str, str]:
    """Optimiser and protocol of the single figures: the paper's, where the training has them."""
    optimizer = "sgd" if "sgd" in config.optimizer else config.optimizer[0]
    return optimizer, "paper" if "paper" in config.protocol else config.protocol[0]


def _energies(config: Any, trained: Any) -> Any:
    optimizer, protocol = headline(config)
    key = jax.random.key(config.seed)
    sample = draw(
        key,
        PROTOCOLS[protocol],
        num_inliers=training.NUM_INLIERS,
        num_outliers=training.NUM_OUTLIERS,
    )
    points = np.asarray(sample.points)
    grid = np.linspace(points.min() - 5, points.max() + 5, 800)
    inlier = np.arange(points.size) < training.NUM_INLIERS
    # NumPy scalars: the square of a huge width is inf, where Python floats raise.
    panels: list[tuple[str, str, Any]] = [
        ("before training", "damped", np.float64(config.initial_scale))
    ]
    for method in ("undamped", "damped", "shift"):
        run, index = evaluation.selected(trained, method, optimizer, protocol)
        panels.append((LABELS[method], method, np.abs(np.asarray(run.params)[index[0]])))
    figure = runner.new_figure(figsize=(11, 7))
    axes = figure.subplots(2, 2)
    for ax, (title, method, scale) in zip(axes.ravel(), panels, strict=True):
        energy = jax.vmap(rbf_energy, (0, None, None))(
            jnp.asarray(grid), jnp.asarray(scale), sample.points
        )
        value = training.estimate(jnp.asarray(scale), sample.points, method, config.forward).value
        plot_energy(
            ax, grid, np.asarray(energy), points, inlier, float(value), float(sample.target)
        )
        ax.set_title(f"{title}\nσ² = {scale**2:.4g}, error {abs(value - sample.target):.2f}")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5)
    figure.suptitle(f"Energy of the robust mean, {TITLES[protocol]}, trained with {optimizer}")
    return figure


def predicted(
    scales: np.ndarray, scale: float, points: jax.Array
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where a minimum moves with the width, and where its derivatives at one width say it moves.

    Args:
        scales: (m,) widths.
        scale: the width of the derivatives.
        points: (n,) a sample.

    Returns:
        The minimiser (m,) that Newton's method finds from that of `scale`; and its linear
        predictions (m,), undamped and damped.
    """
    centre = jnp.asarray(scale, points.dtype)
    first = training.estimate(centre, points, "undamped").value
    solve = lambda s: argmin(rbf_energy, first, s, (points,)).value
    moved = jax.vmap(solve)(jnp.asarray(scales, points.dtype))
    lines = [
        first + (scales - scale) * jax.grad(lambda s, m=m: training.estimate(s, points, m).value)(
            centre
        )
        for m in ("undamped", "damped")
    ]  # fmt: skip
    return np.asarray(moved), np.asarray(lines[0]), np.asarray(lines[1])


def _prediction(config: Any, metrics: Any) -> Any:
    """True and predicted minimisers over the change of the width, of two samples."""
    _, protocol = headline(config)
    scale = float(np.sqrt(metrics[f"{evaluation.key_of(protocol, 'asgd', 'scan')}/best_sigma2"]))
    keys = jax.random.split(jax.random.key(config.seed), 200)
    sample = jax.vmap(
        lambda key: draw(
            key,
            PROTOCOLS[protocol],
            num_inliers=training.NUM_INLIERS,
            num_outliers=training.NUM_OUTLIERS,
        )
    )(keys)
    curvature = jax.vmap(
        lambda points: (
            training.estimate(
                jnp.asarray(scale), points, "damped", diagnostics=True
            ).diagnostics.min_eigenvalue
        )
    )(sample.points)
    order = np.argsort(np.asarray(curvature))
    figure = runner.new_figure(figsize=(11, 4.5))
    axes = figure.subplots(1, 2)
    change = np.linspace(-0.5, 0.5, 101) * scale
    for ax, index, title in zip(
        axes, (order[100], order[10]), ("median curvature", "5th percentile"), strict=True
    ):
        true, undamped, damped = predicted(scale + change, scale, sample.points[index])
        ax.plot(change, true, color="black", linewidth=2, label="true minimiser")
        ax.plot(change, undamped, color=COLORS["undamped"], label="undamped prediction (eq. 9)")
        ax.plot(change, damped, color=COLORS["damped"], label="damped prediction (eq. 10)")
        low, high = true.min(), true.max()
        margin = 0.6 * max(high - low, 0.5)
        ax.set(
            xlabel="change of the width s [units of the samples]",
            ylabel="minimiser [units of the samples]",
            ylim=(low - margin, high + margin),
            title=f"{title} of 200 samples: h = {curvature[index]:.3g}, λ = 0.1",
        )
        ax.axvline(0, color="0.7", linewidth=0.8)
    axes[0].legend(fontsize=8)
    figure.suptitle(
        f"Predicted movement of the minimum from s = {scale:.1f}, {TITLES[protocol]} "
        "(paper: a sketch, Fig. 1)"
    )
    return figure


def _traces(config: Any, trained: Any, metric: str, label: str, lines: Any) -> Any:
    rows, columns = len(config.protocol), len(config.optimizer)
    figure = runner.new_figure(figsize=(max(8, 1 + 3.6 * columns), 1.5 + 3 * rows))
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for (r, protocol), (c, optimizer) in itertools.product(
        enumerate(config.protocol), enumerate(config.optimizer)
    ):
        ax = axes[r, c]
        for method in DRAWN:
            run, index = evaluation.selected(trained, method, optimizer, protocol)
            values = run.history[metric][:, index]
            plot_trace(
                ax, run.history["step"], values, label=LABELS[method], color=COLORS[method],
                floor={"min_eigenvalue": 1e-6, "sigma2": 1e-2}.get(metric),
                linestyle="--" if method == "damped" else "-",
            )  # fmt: skip
        if lines is not None:
            value, text = lines[protocol]
            ax.axhline(value, color="black", linestyle="--", linewidth=1, label=text)
        ax.set_title(f"{optimizer}, {TITLES[protocol]}", fontsize=10)
        ax.set_ylabel(label if c == 0 else "")
        ax.set_xlabel("iteration" if r == rows - 1 else "")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3 if columns > 2 else 2)
    figure.suptitle("thin: one seed; thick: median over the seeds")
    return figure


def _losses(config: Any, metrics: Any) -> Any:
    """Test loss against sigma^2: the scan of fixed widths, and where the trainings end."""
    rows, columns = len(config.protocol), len(config.optimizer)
    figure = runner.new_figure(figsize=(max(8, 1 + 3.6 * columns), 1.5 + 3 * rows))
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey="row")
    for (r, protocol), (c, optimizer) in itertools.product(
        enumerate(config.protocol), enumerate(config.optimizer)
    ):
        ax, prefix = axes[r, c], evaluation.key_of(protocol, "asgd", "scan")
        sigma2 = np.asarray(metrics[f"{prefix}/sigma2"])
        ax.plot(sigma2, metrics[f"{prefix}/loss"], color="black", label="fixed width")
        plain = float(metrics[f"{prefix}/plain_mean_loss"])
        ax.axhline(plain, color="0.5", linestyle=":", label="plain mean")
        for method in DRAWN:
            key = evaluation.key_of(protocol, optimizer, method)
            ends = np.clip(np.asarray(metrics[f"{key}/sigma2"], float), sigma2[0], sigma2[-1])
            ax.plot(ends, metrics[f"{key}/loss"], "o", ms=5, alpha=0.6, color=COLORS[method],
                    label=LABELS[method])  # fmt: skip
        ax.set_xscale("log")
        ax.set_title(f"{optimizer}, {TITLES[protocol]}", fontsize=10)
        ax.set_ylabel("mean squared error" if c == 0 else "")
        ax.set_xlabel("σ² after training (at most 10⁴ is shown)" if r == rows - 1 else "")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3 if columns > 2 else 2)
    figure.suptitle("Test loss of the widths that training ends with, one dot a training")
    return figure


def _largest_gradient(config: Any, metrics: Any) -> Any:
    figure = runner.new_figure(figsize=(10, 4.5))
    axes = figure.subplots(1, len(config.protocol), squeeze=False, sharey=True)
    for ax, protocol in zip(axes[0], config.protocol, strict=True):
        for row, optimizer in enumerate(config.optimizer):
            for offset, method in enumerate(training.METHODS):
                key = evaluation.key_of(protocol, optimizer, method)
                values = np.asarray(metrics[f"{key}/largest_gradient"], float)
                place = row + 0.18 * (offset - 1.5)
                ax.plot(np.full(values.size, place), values, "o", ms=4, color=COLORS[method])
                ax.plot([place - 0.07, place + 0.07], [np.median(values)] * 2, color="black")
        ax.set_yscale("log")
        ax.set_xticks(range(len(config.optimizer)), config.optimizer)
        ax.set_title(TITLES[protocol])
    axes[0, 0].set_ylabel("largest |d loss / d s| in training")
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker="o", linestyle="", color=COLORS[m], label=LABELS[m])
        for m in training.METHODS
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    figure.suptitle("one dot a seed, bar: median")
    return figure
