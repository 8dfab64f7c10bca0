"""The figures of the monocular stereo."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.monocular_stereo import config as settings
from experiments.monocular_stereo import evaluation, training
from jaxcv.energies.photometric import photometric_terms
from jaxcv.plots.stereo import plot_inverse_depth, plot_metric, plot_pattern, plot_residual
from jaxcv.systems.stereo import quarter_views

__all__ = ["draw_all"]

LABELS = {
    "l1_inv": "L1-inv [1/baseline]", "sc_inv": "sc-inv", "l1_rel": "L1-rel",
    "rotation_deg": "rotation error [deg]", "translation_deg": "translation error [deg]",
}  # fmt: skip
STYLES = {
    "lsnet": {"color": "tab:blue", "lw": 2.5},
    "lm": {"color": "tab:orange"},
    "lm_prior": {"color": "tab:red"},
    "refinement": {"color": "tab:green"},
    "jacobian": {"color": "tab:purple"},
    "recurrent_refinement": {"color": "tab:olive"},
    "proposals": {"color": "tab:gray"},
}
SHOWN = (0, 1, 5, 10, 15)


def draw_all(config: Any, data: Any, trained: Any, metrics: Any) -> Iterable[tuple[str, Any]]:
    """(file name, Figure) of every figure."""
    params = evaluation.params_of(trained, "lsnet", config.seed)
    some = data.test.take(slice(0, 24))
    steps, full = evaluation.estimates(params, some, settings.network_of(config))
    yield "depths.png", _depths(some, steps)
    yield "residuals.png", _residuals(config, some, steps)
    yield "upscaled.png", _upscaled(some, steps, full)
    yield "iterations.png", _curves(config, metrics, "iteration")
    yield "time.png", _curves(config, metrics, "time")
    yield "table.png", _table(metrics)
    yield "blocks.png", _blocks(data.test)


def _chosen(pairs: Any, steps: Any) -> list[int]:
    """Indices of pairs with a small, a median and a large final error, by L1-inv."""
    true = 1 / training.quarter_depth(pairs.depth)
    error = np.nanmean(np.abs(steps.inverse_depth[-1] - true), axis=(1, 2))
    order = np.argsort(error)
    return [int(order[int(share * (len(order) - 1))]) for share in (0.15, 0.5, 0.85)]


def _kept(steps: Any) -> list[int]:
    return [k for k in SHOWN if k < len(steps.inverse_depth)]


def _depths(pairs: Any, steps: Any) -> Any:
    """Inverse depth by iteration beside the truth, and the error below."""
    kept, rows = _kept(steps), _chosen(pairs, steps)
    figure = runner.new_figure(figsize=(2.1 * (len(kept) + 2), 1.75 * 2 * len(rows)))
    axes = figure.subplots(2 * len(rows), len(kept) + 2)
    true = 1 / training.quarter_depth(pairs.depth)
    for r, i in enumerate(rows):
        limits = (0.0, float(np.nanquantile(true[i], 0.98)))
        top, below = axes[2 * r], axes[2 * r + 1]
        top[0].imshow(pairs.target[i])
        below[0].imshow(pairs.source[i])
        for ax, title in ((top[0], "first view"), (below[0], "second view")):
            ax.set(xticks=[], yticks=[])
            ax.set_title(title, fontsize=9)
        for column, k in enumerate(kept, start=1):
            z = steps.inverse_depth[k, i]
            plot_inverse_depth(top[column], z, limits)
            top[column].set_title("first guess" if k == 0 else f"iteration {k}", fontsize=9)
            away = z - true[i]
            shown = plot_residual(below[column], away, np.isfinite(away), limits[1] / 2)
            below[column].set_title(f"mean error {np.nanmean(np.abs(away)):.3f}", fontsize=9)
        bar = plot_inverse_depth(top[-1], true[i], limits)
        top[-1].set_title("truth", fontsize=9)
        figure.colorbar(bar, ax=top[-1], label="z [1/baseline]")
        below[-1].axis("off")
        figure.colorbar(shown, ax=below[-2], label="z − truth")
    figure.suptitle("Inverse depth of pairs with a small, a middling and a large final error")
    return figure


def _residuals(config: Any, pairs: Any, steps: Any) -> Any:
    """Brightness residuals by iteration, and with the true depth and motion."""
    kept, rows = _kept(steps), _chosen(pairs, steps)
    figure = runner.new_figure(figsize=(2.1 * (len(kept) + 1), 1.8 * len(rows)))
    axes = figure.subplots(len(rows), len(kept) + 1, squeeze=False)
    some = jax.tree.map(jnp.asarray, pairs)
    views = quarter_views(some.target, some.source[:, None], some.intrinsics, "grey", True)
    terms = jax.jit(photometric_terms)
    true = 1 / training.quarter_depth(pairs.depth)
    for r, i in enumerate(rows):
        states = [(steps.inverse_depth[k, i], steps.motion[k, i, 0]) for k in kept]
        states.append((np.nan_to_num(true[i], nan=0.05), pairs.motion[i]))
        titles = ["first guess" if k == 0 else f"iteration {k}" for k in kept] + ["truth"]
        for ax, (z, motion), title in zip(axes[r], states, titles, strict=True):
            found = terms(z, motion, views.target[i], views.sources[i, 0], views.intrinsics[i])
            mean = float(jnp.sum(jnp.abs(found.residual)) / jnp.sum(found.visible))
            shown = plot_residual(ax, found.residual[..., 0], found.visible, 0.3)
            ax.set_title(f"{title}: {mean:.3f}", fontsize=9)
        figure.colorbar(shown, ax=axes[r, -1], label="brightness")
    figure.suptitle("Photometric residual and its mean absolute value; grey: not seen")
    return figure


def _upscaled(pairs: Any, steps: Any, full: np.ndarray) -> Any:
    """The last estimate at a quarter of the size, upscaled, and the truth."""
    rows = _chosen(pairs, steps)
    figure = runner.new_figure(figsize=(10, 2.2 * len(rows)))
    axes = figure.subplots(len(rows), 4, squeeze=False)
    true = 1 / pairs.depth
    for r, i in enumerate(rows):
        limits = (0.0, float(np.nanquantile(true[i], 0.98)))
        axes[r, 0].imshow(pairs.target[i])
        axes[r, 0].set(xticks=[], yticks=[])
        for column, z in enumerate((steps.inverse_depth[-1, i], full[i], true[i]), start=1):
            shown = plot_inverse_depth(axes[r, column], z, limits)
        figure.colorbar(shown, ax=axes[r, -1], label="z [1/baseline]")
    titles = ("first view", "at a quarter", "upscaled", "truth")
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title)
    return figure


def _curves(config: Any, metrics: Any, along: str) -> Any:
    """Every metric against iterations or milliseconds, with the constant depth's as a line."""
    figure = runner.new_figure(figsize=(15, 3.6))
    axes = figure.subplots(1, len(evaluation.METRICS))
    for ax, metric in zip(axes, evaluation.METRICS, strict=True):
        curves = {}
        for name in STYLES:
            first = f"{name}_0" if f"{name}_0/{metric}" in metrics else "init"
            keys = [first, *(f"{name}_{k}" for k in evaluation.ITERATIONS)]
            keys = [key for key in keys if f"{key}/{metric}" in metrics]
            if len(keys) < 2:
                continue
            values = np.stack([np.asarray(metrics[f"{key}/{metric}"], float) for key in keys], 1)
            x = np.array([0, *evaluation.ITERATIONS], float)[: len(keys)]
            own = "lsnet" if name == "proposals" else name
            scale = metrics[f"{own}/ms_an_iteration"] if along == "time" else 1.0
            curves[name] = (scale * x, values)
        unit = "iteration" if along == "iteration" else "time after the first guess [ms]"
        plot_metric(ax, curves, xlabel=unit, ylabel=LABELS[metric], styles=STYLES)
        constant = metrics[f"constant/{metric}"][0]
        ax.axhline(constant, color="0.5", ls=":", label="constant")
        top = max(np.max(v) for _, v in curves.values())
        best = min(np.min(v) for _, v in curves.values())
        learned = np.concatenate([np.ravel(v) for n, (_, v) in curves.items() if n == "lsnet"])
        ax.set_ylim(0.8 * min(best, constant), min(1.05 * max(top, constant), 2 * learned.max()))
    axes[0].legend(fontsize=8)
    return figure


def _table(metrics: Any) -> Any:
    """Final errors of all methods, beside the paper's on its RGB-D set."""
    names = ("constant", "init", "sift", "flow", "klt", "sweep_sift", "sgm_sift", "lm", "lm_prior",
             "refinement", "recurrent_refinement", "jacobian", "proposals_15", "lsnet_5",
             "lsnet_10", "lsnet_15", "lsnet_bilinear", "lsnet_upscaled", "sgm_true",
             "oracle")  # fmt: skip
    names = [name for name in names if f"{name}/l1_inv" in metrics]
    figure = runner.new_figure(figsize=(15, 1 + 0.25 * len(names)))
    axes = figure.subplots(1, len(evaluation.METRICS), sharey=True)
    for ax, metric in zip(axes, evaluation.METRICS, strict=True):
        values = [np.mean(metrics[f"{name}/{metric}"]) for name in names]
        colors = ["tab:blue" if name.startswith("lsnet") else "0.6" for name in names]
        ax.barh(range(len(names)), values, color=colors)
        for i, name in enumerate(names):
            source = settings.SOURCE.get(f"{name}/{metric}")
            if source is not None:
                label = "source, RGB-D" if name == "lsnet_15" else None
                ax.plot(source, i, "D", color="k", markersize=4, label=label)
        finite = sorted(values)
        ax.set_xlim(0, 1.2 * finite[-2])  # the longest bar may be cut off
        ax.set(xlabel=LABELS[metric])
        ax.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    if axes[0].get_legend_handles_labels()[1]:
        axes[0].legend(fontsize=8)
    figure.suptitle("Errors on unseen rooms; diamonds: the source's numbers on other data (RGB-D)")
    return figure


def _blocks(pairs: Any) -> Any:
    """The non-zero entries of J and J^T J at 8 x 6 depths; the paper's Fig. 2."""
    jacobian = blocks_of(jax.tree.map(jnp.asarray, pairs.take(slice(0, 1))))
    figure = runner.new_figure(figsize=(9, 5))
    axes = figure.subplots(1, 2)
    plot_pattern(axes[0], jacobian)
    axes[0].set(title="J", xlabel="inverse depths, motion", ylabel="residuals")
    plot_pattern(axes[1], jacobian.T @ jacobian)
    axes[1].set(title="JᵀJ", xlabel="inverse depths, motion")
    figure.suptitle("Non-zero entries at 8 x 6 depths and one motion")
    return figure


def blocks_of(pair: Any) -> np.ndarray:
    """J (48, 48 + 6) of the grey residuals of the first pair, its images resized to 32 x 24."""
    height, width = pair.target.shape[1:3]
    images = [jax.image.resize(x, (1, 24, 32, 3), "linear") for x in (pair.target, pair.source)]
    k = pair.intrinsics * jnp.array([[32 / width], [24 / height], [1.0]])
    views = quarter_views(images[0], images[1][:, None], k, "grey", True)
    z = jnp.full((6, 8), 1 / float(np.nanmedian(pair.depth)))
    own = views.target[0], views.sources[0, 0], views.intrinsics[0]
    terms = jax.jit(photometric_terms)(z, pair.motion[0], *own)
    return np.concatenate(
        [np.diag(np.ravel(terms.depth)), np.reshape(terms.motion, (-1, 6))], axis=1
    )
