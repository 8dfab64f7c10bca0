"""The figures of the tracker fusion."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.tracker_fusion import evaluation, training
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
    which = evaluation.model_of_frames(trained, data)
    ious = evaluation.per_frame_iou(config, data, trained, which)
    yield "energy_maps.png", _energy_maps(config, data, trained, which, ious)
    yield "success.png", _success(data, ious)
    yield "iou.png", _bars(config, data, metrics)
    yield "parameters.png", _parameters(config, data, trained)
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
        frame = jax.tree.map(lambda leaf: leaf[f], training.tracker_frames(data.frames))  # noqa: B023
        origin, unit = (np.asarray(a) for a in frame_unit(frame))
        name = data.sequences.names[data.frames.sequence[f]]
        for column, (title, stack) in enumerate(
            (("equal widths", equal), ("learned", models.parameters))
        ):
            parameters = jax.tree.map(lambda leaf: leaf[which[f]], stack)  # noqa: B023
            fused = np.asarray(fuse_frame(parameters, frame).box)
            terms = corner_terms(parameters, frame)
            for corner in range(2):
                ax = axes[row, 2 * corner + column]
                one = jax.tree.map(lambda leaf: leaf[corner], terms)  # noqa: B023
                truth = data.frames.ground_truth[f].reshape(2, 2)[corner]
                estimate = fused.reshape(2, 2)[corner]
                shown = np.asarray(frame.boxes)[np.asarray(frame.reported)].reshape(-1, 2, 2)
                middle = np.concatenate([shown[:, corner], truth[None], estimate[None]])
                low, high = middle.min(axis=0) - 2 * unit, middle.max(axis=0) + 2 * unit
                half = 0.5 * np.max(high - low)
                centre = 0.5 * (low + high)
                x = np.linspace(centre[0] - half, centre[0] + half, 160)
                y = np.linspace(centre[1] - half, centre[1] + half, 160)
                grid = (np.stack(np.meshgrid(x, y), -1) - origin) / unit
                energy = jax.vmap(jax.vmap(lambda p: corner_energy(p, one)))(  # noqa: B023
                    jnp.asarray(grid, jnp.float32)
                )
                image = plot_energy_map(
                    ax, x, y, np.asarray(energy), shown[:, corner], estimate, truth
                )
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
    names += ["mean", "median", "rbf", *training.ABLATIONS[config.ablation]]
    names += ["undamped", "learned", "oracle"]
    figure = runner.new_figure(figsize=(8, 1.5 + 0.3 * len(names)))
    ax = figure.subplots()
    place = np.arange(len(names))
    values = [metrics[f"{n}/iou"] for n in names]
    colors = [STYLES.get(n, {"color": "lightgrey"})["color"] for n in names]
    ax.barh(place, values, color=colors, height=0.7)
    for p, name, value in zip(place, names, values, strict=True):
        end = max(value, metrics.get(f"{name}/iou_frames", value))
        ax.text(end + 0.008, float(p), f"{value:.3f}", va="center", fontsize=8)
    if f"{names[0]}/iou_frames" in metrics:
        ax.plot(
            [metrics[f"{n}/iou_frames"] for n in names], place, "k|", ms=12, label="split by frame"
        )
    source = [(p, training.SOURCE.get(f"{n}/iou")) for p, n in zip(place, names, strict=True)]
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
    flat = lambda leaf: np.asarray(leaf)[: training.NUM_FOLDS].reshape(-1, len(names))
    figure = runner.new_figure(figsize=(13, 8))
    axes = figure.subplots(2, 3)
    panels = (
        (UNIT * np.exp(flat(models.log_width)), UNIT, "width [median box sizes]"),
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
        "dots: five folds, two corners\nbar: their mean\ndashed: before training",
        fontsize=11, va="center",
    )  # fmt: skip
    figure.suptitle("What was learned of each tracker")
    return figure


def _training(config: Any, trained: Any) -> Any:
    figure = runner.new_figure(figsize=(11, 4.2))
    left, right = figure.subplots(1, 2)
    for method in training.METHODS:
        run = trained[f"{method}.choose"]
        shape = (-1, len(config.strength), training.NUM_FOLDS)
        iou = (run.history["own_iou"] + run.history["next_iou"]).reshape(shape)[-1] / 2
        style = {"color": STYLES[method]["color"], "marker": "o"}
        left.plot(config.strength, iou.mean(axis=1), label=method, **style)
        gradient = trained[f"{method}.final"].history
        largest = np.nanmax(gradient["gradient_norm"], axis=1)
        right.plot(gradient["step"], largest, label=method, **style)
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
