"""The figures of the tracker fusion."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.tracker_fusion import evaluation, minima_figure, training
from experiments.tracker_fusion.config import (
    ABLATIONS,
    METHODS,
    SOURCE,
    Method,
    initial_log_width,
    methods,
)
from experiments.tracker_fusion.data import folds_of, tracker_frames
from jaxcv.energies.tracker_fusion import UNIT, corner_energy, corner_terms, frame_unit
from jaxcv.metrics.tracking import OVERLAP_THRESHOLDS, success_curve
from jaxcv.plots.tracker_fusion import plot_energy_map, plot_parameters, plot_success
from jaxcv.systems import fuse_frame

__all__ = ["draw_all"]

STYLES = {
    "oracle": {"color": "black", "linestyle": ":"},
    "mean": {"color": "tab:brown"},
    "median": {"color": "tab:orange"},
    "rbf": {"color": "tab:green", "linewidth": 2},
    "undamped": {"color": "tab:red", "linestyle": "--"},
    "learned": {"color": "tab:blue", "linewidth": 2.5},
}


def draw_all(config: Any, data: Any, trained: Any, metrics: Any) -> Iterable[tuple[str, Any]]:
    """(file name, Figure) of every figure."""
    part, which = evaluation.scored(config, data, trained)
    ious = evaluation.per_frame_iou(config, part, trained, which)
    yield "energy_maps.png", _energy_maps(config, part, trained, which, ious)
    yield "success.png", _success(part, ious)
    yield "iou.png", _bars(config, data, metrics)
    yield "parameters.png", _parameters(config, data, trained)
    if config.minima:
        models = evaluation.chosen_models(config, trained, "learned")
        yield "minima.png", minima_figure.draw(config, part, which, models, ious, metrics)
    if config.ablation == "conditions":
        yield "conditions.png", _conditions(config, metrics)
    if all("loss" in run.history for run in trained.values()):
        yield "training.png", _training(config, trained)


def _energy_maps(config: Any, data: Any, trained: Any, which: np.ndarray, ious: Any) -> Any:
    """The frames of the largest gain in IoU, and of the median gain among those above 0.02."""
    gain = ious["learned"] - ious["rbf"]
    better = np.flatnonzero(gain > 0.02)
    typical = better[np.argsort(gain[better])[better.size // 2]] if better.size else 0
    figure = runner.new_figure(figsize=(13, 7))
    axes = figure.subplots(2, 4)
    models = evaluation.chosen_models(config, trained, "learned")
    equal = training.equal_width(data.frames.boxes.shape[1], models.rbf_width)
    image: Any = None
    for row, f in enumerate((int(np.argmax(gain)), int(typical))):
        frame = jax.tree.map(lambda leaf: leaf[f], tracker_frames(data.frames))  # noqa: B023
        name = data.sequences.names[data.frames.sequence[f]]
        for column, (title, stack, method) in enumerate((
            ("equal widths", equal, Method()),
            ("learned", models.parameters, methods(config)["learned"]),
        )):  # fmt: skip
            normalised = method.normalised
            parameters = jax.tree.map(lambda leaf: leaf[which[f]], stack)  # noqa: B023
            fused = np.asarray(
                fuse_frame(parameters, frame, normalised=normalised, solver=method.solver).box
            )
            terms = corner_terms(parameters, frame, normalised=normalised)
            origin, unit = (np.asarray(a) for a in frame_unit(frame, normalised=normalised))
            for corner in range(2):
                ax = axes[row, 2 * corner + column]
                one = jax.tree.map(lambda leaf: leaf[corner], terms)  # noqa: B023
                truth = data.frames.ground_truth[f].reshape(2, 2)[corner]
                estimate = fused.reshape(2, 2)[corner]
                shown = np.asarray(frame.boxes)[np.asarray(frame.reported)].reshape(-1, 2, 2)
                middle = np.concatenate([shown[:, corner], truth[None], estimate[None]])
                margin = 2 * float(frame_unit(frame)[1])
                low, high = middle.min(axis=0) - margin, middle.max(axis=0) + margin
                half = 0.5 * np.max(high - low)
                centre = 0.5 * (low + high)
                x = np.linspace(centre[0] - half, centre[0] + half, 160)
                y = np.linspace(centre[1] - half, centre[1] + half, 160)
                grid = (np.stack(np.meshgrid(x, y), -1) - origin) / unit
                energy = jax.vmap(jax.vmap(lambda p: corner_energy(p, one)))(  # noqa: B023
                    jnp.asarray(grid, jnp.float32)
                )
                share = np.asarray(energy) / float(jnp.sum(jnp.exp(one.log_weight)))
                image = plot_energy_map(ax, x, y, share, shown[:, corner], estimate, truth)
                iou = ious["learned" if column else "rbf"][f]
                side = ("top-left", "bottom-right")[corner]
                ax.set_title(f"{title}, {side}\n{name}, IoU {iou:.2f}", fontsize=9)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    figure.colorbar(image, ax=axes, label="energy (share of the weight, negative)", shrink=0.7)
    figure.suptitle("Energy over candidate corners: the largest gain (top) and a typical one")
    return figure


def _success(data: Any, ious: Any) -> Any:
    figure = runner.new_figure(figsize=(8, 6))
    ax = figure.subplots()
    for number, name in enumerate(data.sequences.trackers):
        curve = success_curve(ious[name])
        label = "single trackers" if number == 0 else "_"
        plot_success(
            ax, OVERLAP_THRESHOLDS, curve, label=label, color="lightgrey", linewidth=1, zorder=1
        )
    for name, style in STYLES.items():
        label = f"{name}: mean IoU {ious[name].mean():.3f}"
        plot_success(ax, OVERLAP_THRESHOLDS, success_curve(ious[name]), label=label, **style)
    ax.legend()
    ax.set_title(
        f"{len(data.sequences.names)} sequences, each scored by a model that has not seen it"
    )
    return figure


def _bars(config: Any, data: Any, metrics: Any) -> Any:
    """Mean IoU of all rows, split by sequence and by frame, beside the paper's where it has one."""
    names = sorted(data.sequences.trackers, key=lambda n: metrics[f"{n}/iou"])
    names += ["mean", "median", "rbf", *ABLATIONS[config.ablation]]
    competing = ("best_in_training", "weighted_median", "boosted_trees", "set_network")
    names += [name for name in competing if f"{name}/iou" in metrics]
    names += ["undamped", "learned", "oracle"]
    figure = runner.new_figure(figsize=(8, 1.5 + 0.3 * len(names)))
    ax = figure.subplots()
    place = np.arange(len(names))
    values = [metrics[f"{n}/iou"] for n in names]
    colors = [STYLES.get(n, {"color": "lightgrey"})["color"] for n in names]
    colors = ["tab:purple" if n in competing else c for n, c in zip(names, colors, strict=True)]
    ax.barh(place, values, color=colors, height=0.7)
    for p, name, value in zip(place, names, values, strict=True):
        end = max(value, metrics.get(f"{name}/iou_frames", value))
        ax.text(end + 0.008, float(p), f"{value:.3f}", va="center", fontsize=8)
    if f"{names[0]}/iou_frames" in metrics:
        ax.plot(
            [metrics[f"{n}/iou_frames"] for n in names], place, "k|", ms=12, label="split by frame"
        )
    source = [(p, SOURCE.get(f"{n}/iou")) for p, n in zip(place, names, strict=True)]
    source = [(p, s) for p, s in source if s is not None]
    ax.plot([s for _, s in source], [p for p, _ in source], "kD", ms=5,
            label="paper, on VOT2018")  # fmt: skip
    ax.set_yticks(place, names)
    ax.set(
        xlabel="mean IoU",
        xlim=(0, 1),
        title="Split by sequence (bars): mean IoU on unseen sequences",
    )
    ax.legend(loc="lower right")
    return figure


def _parameters(config: Any, data: Any, trained: Any) -> Any:
    models = evaluation.chosen_models(config, trained, "learned").parameters
    names = data.sequences.trackers
    tested = len(folds_of(config).tested)
    flat = lambda leaf: np.asarray(leaf)[:tested].reshape(-1, len(names))
    start = float(np.exp(initial_log_width(config, methods(config)["learned"])))
    factor, unit = (1.0, "px") if config.energy == "raw" else (UNIT, "median box sizes")
    figure = runner.new_figure(figsize=(13, 8))
    axes = figure.subplots(2, 3)
    panels = (
        (factor * np.exp(flat(models.log_width)), factor * start, f"width [{unit}]"),
        (np.exp(flat(models.log_weight)), 1.0, "weight"),
        (np.exp(flat(models.log_scale)), 1.0, "factor on the box size"),
        (flat(models.drift), 0.0, "log weight per log(1 + t / 100)"),
        (flat(models.scale_change), 0.0, "log weight per |log change of size|"),
    )
    for ax, (values, start, label) in zip(axes.ravel(), panels, strict=False):
        plot_parameters(ax, names, values, start=start, label=label)
    axes[1, 2].axis("off")
    axes[1, 2].text(
        0, 0.5,
        f"dots: {tested} test fold(s), two corners\nbar: their mean\ndashed: before training",
        fontsize=11, va="center",
    )  # fmt: skip
    figure.suptitle("What was learned of each tracker")
    return figure


def _training(config: Any, trained: Any) -> Any:
    figure = runner.new_figure(figsize=(11, 4.2))
    left, right = figure.subplots(1, 2)
    for method in METHODS:
        style = {"color": STYLES[method]["color"], "marker": "o"}
        if len(config.strength) > 1:
            run = trained[f"{method}.choose"]
            shape = (-1, len(config.strength), folds_of(config).count)
            iou = (run.history["own_iou"] + run.history["next_iou"]).reshape(shape)[-1] / 2
            left.plot(config.strength, iou.mean(axis=1), label=method, **style)
        gradient = trained[f"{method}.final"].history
        if len(config.strength) == 1:
            loss = gradient["distance"].mean(axis=1)
            left.plot(gradient["step"], loss, label=method, **style)
        largest = np.nanmax(gradient["gradient_norm"], axis=1)
        right.plot(gradient["step"], largest, label=method, **style)
    if len(config.strength) == 1:
        unit = "px" if config.loss == "pixels" else "true box sizes"
        left.set(xlabel="step", ylabel=f"training loss, mean of all models [{unit}]")
    else:
        if min(config.strength) > 0:
            left.set(xscale="log")
        else:
            left.set_xscale("symlog", linthresh=1e-4)
        left.set(xlabel="strength of the shrinkage", ylabel="IoU on validation folds")
    right.set(
        yscale="log", xlabel="step", ylabel="largest gradient norm since last point, all models"
    )
    left.legend()
    right.legend()
    return figure


def _conditions(config: Any, metrics: Any) -> Any:
    """IoU and failed trainings of every combination of the conditions, damped and undamped."""
    stems = [name.removeprefix("damped_") for name in ABLATIONS["conditions"] if name[0] == "d"]
    figure = runner.new_figure(figsize=(12, 6.5))
    left, right = figure.subplots(1, 2, sharey=True)
    place = np.arange(len(stems))
    for offset, method in ((-0.2, "damped"), (0.2, "undamped")):
        color = STYLES["learned" if method == "damped" else "undamped"]["color"]
        keys = [f"{method}_{stem}" for stem in stems]
        left.barh(place + offset, [metrics[f"{k}/iou"] for k in keys], 0.38, color=color)
        if f"{keys[0]}/failures" in metrics:
            failed = [(metrics[f"{k}/failures"], metrics[f"{k}/trainings"]) for k in keys]
            share = [100 * a / b for a, b in failed]
            right.barh(place + offset, share, 0.38, color=color, label=method)
            for y, x, (a, b) in zip(place + offset, share, failed, strict=True):
                right.text(x + 1, y, f"{a} of {b}", va="center", fontsize=7)
    left.axvline(metrics["rbf/iou"], color="tab:green", label="equal widths, untrained")
    left.axvline(metrics["learned/iou"], color="black", linestyle=":", label="learned, this preset")
    left.set_yticks(place, [stem.replace("_", ", ") for stem in stems])
    left.set(xlim=(0, 1), xlabel="mean IoU on unseen sequences")
    left.set_ylabel("solver, energy, loss, learning rate")
    right.set(xlim=(0, 118), xlabel="trainings with a loss above the untrained one [%]")
    handles = [*left.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    figure.suptitle("Training under the paper's conditions and today's (paper: undamped N/A)")
    return figure
