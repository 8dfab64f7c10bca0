"""The figures of the human pose."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from experiments import runner
from experiments.human_pose import evaluation, training
from experiments.human_pose.config import GRID, SOURCE, methods
from jaxcv.energies.human_pose import GROUPS, LIMBS
from jaxcv.metrics.pose import mpjpe
from jaxcv.plots.human_pose import plot_errors_by_action, plot_skeleton

__all__ = ["draw_all"]

STYLES = {
    "baseline": {"color": "tab:gray"},
    "body_model": {"color": "tab:orange"},
    "body_and_cameras": {"color": "tab:brown"},
    "l2": {"color": "tab:green"},
    "huber": {"color": "tab:blue"},
    "custom": {"color": "tab:purple"},
}
MORE = {
    "huber_weights": "tab:cyan",
    "huber_body_model": "tab:olive",
    "huber_unrolled": "tab:red",
    "huber_selected": "tab:pink",
}
PAPER = {"baseline": 91.8, "body_and_cameras": 57.8, "l2": 47.7, "huber": 46.1}
COMPARED = ("body_and_cameras", "l2", "huber")  # the rows of the paper's Fig. 4
OTHERS = {  # of --competitors and of one camera
    "triangulation": {"color": "tab:olive"},
    "triangulation_mean_cameras": {"color": "tab:pink"},
    "lifting": {"color": "tab:red"},
    "monocular_untrained": {"color": "silver"},
    "monocular": {"color": "tab:cyan"},
}


def draw_all(config: Any, data: Any, trained: Any, metrics: Any) -> Iterable[tuple[str, Any]]:
    """(file name, Figure) of every figure."""
    yield "skeletons.png", _skeletons(config, data, trained)
    yield "actions.png", _actions(config, metrics)
    yield "table.png", _table(config, metrics)
    yield "learned.png", _learned(config, trained, metrics)
    if set(COMPARED) <= set(methods(config, max(config.views))):
        yield "poses.png", _poses(config, data, trained)
    if config.competitors:
        yield "competitors.png", _competitors(config, metrics)


def _names(config: Any, views: int) -> list[str]:
    return [name for name in STYLES if name in evaluation.rows(config, views)]


def _skeletons(config: Any, data: Any, trained: Any) -> Any:
    """Three frames of the first seed: with a small, a median and a large error."""
    views = max(config.views)
    batch, frames = evaluation.batch_and_frames(config, data, 0, views)
    chosen = evaluation.rows(config, views)
    last = _names(config, views)[-1]
    pairs = [
        (name, evaluation.row_poses(config, trained, batch, 0, views, chosen[name]))
        for name in ("baseline", last)
    ]
    truth = np.asarray(batch.joints)
    order = np.argsort(np.nan_to_num(mpjpe(pairs[1][1], truth), nan=np.inf))
    figure = runner.new_figure(figsize=(13, 8.5))
    for column, share in enumerate((0.1, 0.5, 0.95)):
        i = order[int(share * (len(order) - 1))]
        for row, (name, poses) in enumerate(pairs):
            ax: Any = figure.add_subplot(2, 3, 1 + column + 3 * row, projection="3d")
            plot_skeleton(ax, truth[i], LIMBS, label="truth", color="black", lw=2)
            plot_skeleton(ax, poses[i], LIMBS, label=name, color=STYLES[name]["color"], lw=2)
            action = frames.actions[frames.action[i]]
            ax.set_title(f"{action}, frame {i}: {mpjpe(poses[i], truth[i]):.0f} mm")
            ax.legend(loc="upper left", fontsize=9)
            ax.tick_params(labelsize=7)
    figure.suptitle(f"{views} cameras; 10th, 50th and 95th percentile of the errors of {last}")
    return figure


def _poses(config: Any, data: Any, trained: Any) -> Any:
    """Poses of the paper's three rows for several cameras beside the true ones, same frames."""
    views = max(config.views)
    batch, frames = evaluation.batch_and_frames(config, data, 0, views)
    chosen = evaluation.rows(config, views)
    found = {
        name: evaluation.row_poses(config, trained, batch, 0, views, chosen[name])
        for name in COMPARED
    }
    truth = np.asarray(batch.joints)
    order = np.argsort(np.nan_to_num(mpjpe(found["huber"], truth), nan=np.inf))
    figure = runner.new_figure(figsize=(12, 12))
    for row, share in enumerate((0.1, 0.5, 0.95)):
        i = order[int(share * (len(order) - 1))]
        for column, (name, poses) in enumerate(found.items()):
            ax: Any = figure.add_subplot(3, 3, 1 + column + 3 * row, projection="3d")
            plot_skeleton(ax, truth[i], LIMBS, label="truth", color="black", lw=2)
            plot_skeleton(ax, poses[i], LIMBS, label=name, color=STYLES[name]["color"], lw=2)
            action = frames.actions[frames.action[i]]
            error = f"{mpjpe(poses[i], truth[i]):.0f} mm"
            ax.set_title(f"{action}, frame {i}: {error}\n(source's mean {PAPER[name]})", fontsize=9)
            ax.legend(loc="upper left", fontsize=8)
            ax.tick_params(labelsize=6)
    figure.suptitle(
        f"{views} cameras, unseen subjects; rows: 10th, 50th, 95th percentile of the errors of "
        "huber.\nThe source's means are those of Human3.6M."
    )
    return figure


def _competitors(config: Any, metrics: Any) -> Any:
    """Errors of all rows on the same frames, before and after Procrustes alignment."""
    figure = runner.new_figure(figsize=(13, 5.5))
    axes = np.atleast_1d(figure.subplots(1, len(config.views)))
    styles = STYLES | OTHERS
    for ax, views in zip(axes, config.views, strict=True):
        kind = evaluation.kind(views)
        tail = f"/{kind}_mpjpe_mm"
        names = [key.removesuffix(tail) for key in metrics if key.endswith(tail)]
        names.sort(key=lambda n: -float(np.mean(metrics[n + tail])))
        for y, name in enumerate(names):
            color = styles.get(name, {"color": "lightsteelblue"})["color"]
            values = np.asarray(metrics[name + tail], float)
            ax.barh(y, values.mean(), color=color)
            ax.plot([values.min(), values.max()], [y, y], color="black", lw=1.5)
            aligned = float(np.mean(metrics[f"{name}/{kind}_procrustes_mm"]))
            ax.plot(aligned, y, "|", ms=14, mew=2.5, color="white")
            label = "after Procrustes alignment" if y == 0 else None
            ax.plot(aligned, y, "|", ms=14, mew=1.2, color="black", label=label)
            ax.text(values.max() + 1, y, f"{values.mean():.1f}", va="center", fontsize=8)
            if name + tail in SOURCE:
                ax.plot(SOURCE[name + tail], y, "kD", ms=5)
        ax.plot([], [], "kD", ms=5, label="source, on Human3.6M")
        ax.set_yticks(range(len(names)), names, fontsize=8)
        ax.set(xlabel="mean joint error [mm]", title=f"{views} camera(s), unseen subjects")
        ax.set_xlim(0, 1.15 * max(float(np.max(metrics[name + tail])) for name in names))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    figure.suptitle(f"bars: mean of {config.num_seeds} seed(s); lines: their range")
    return figure


def _actions(config: Any, metrics: Any) -> Any:
    figure = runner.new_figure(figsize=(12, 4.2 * len(config.views)))
    axes = np.atleast_1d(figure.subplots(len(config.views), 1))
    for ax, views in zip(axes, config.views, strict=True):
        prefix = f"/{evaluation.kind(views)}_mpjpe_mm"
        table = {}
        for name in _names(config, views):
            start = f"{name}{prefix}/"
            row = {
                key.removeprefix(start): float(np.mean(value))
                for key, value in metrics.items()
                if key.startswith(start)
            }
            table[name] = row | {"average": float(np.mean(metrics[name + prefix]))}
        plot_errors_by_action(ax, table, STYLES)
        ax.set_title(
            f"{evaluation.kind(views)}: unseen subjects, mean of {config.num_seeds} seed(s)"
        )
        ax.legend(ncols=len(table))
    return figure


def _table(config: Any, metrics: Any) -> Any:
    """Errors by action, as in the paper's Table 2, beside the paper's averages."""
    lines, labels, columns = [], [], []
    for views in config.views:
        kind = f"/{evaluation.kind(views)}_mpjpe_mm"
        for name in evaluation.rows(config, views):
            start = f"{name}{kind}/"
            columns = [key.removeprefix(start) for key in metrics if key.startswith(start)]
            values = [float(np.mean(metrics[start + c])) for c in columns]
            average = np.asarray(metrics[name + kind])
            spread = f" ({average.min():.1f} to {average.max():.1f})" if average.size > 1 else ""
            published = SOURCE.get(name + kind)
            lines.append(
                [f"{v:.1f}" for v in values]
                + [f"{average.mean():.1f}{spread}", "" if published is None else f"{published}"]
            )
            labels.append(f"{evaluation.kind(views)}, {name}")
    figure = runner.new_figure(figsize=(15, 0.6 + 0.3 * len(lines)))
    ax = figure.subplots()
    ax.axis("off")
    header = [*columns, "average", "source (Human3.6M)"]
    drawn = ax.table(lines, rowLabels=labels, colLabels=header, loc="center")
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(8)
    drawn.auto_set_column_width(list(range(len(header))))
    drawn.scale(1, 1.3)
    ax.set_title("mean joint error [mm], true limb norm, unseen subjects", fontsize=10)
    return figure


def _count(params: Any, groups: Any) -> int:
    fields = [name for group in groups for name in GROUPS[group]]
    return sum(np.asarray(getattr(params, name))[0].size for name in fields)


def _learned(config: Any, trained: Any, metrics: Any) -> Any:
    """Training error against training time, and test error against the number of parameters."""
    views = max(config.views)
    figure = runner.new_figure(figsize=(13, 4.8))
    left, right = figure.subplots(1, 2)
    kind = f"/{evaluation.kind(views)}_mpjpe_mm"
    marks = ["o", "s", "D", "^", "v", "P", "X"]
    grid = int(np.prod([len(v) for v in GRID.values()]))
    error = np.mean(metrics["baseline" + kind])
    right.plot(
        2, error, "*", ms=14, color="tab:gray", label=f"baseline: grid of {grid} x 2 kernels"
    )
    for i, (name, method) in enumerate(methods(config, views).items()):
        run = trained[training.run_name(name, views, 0)]
        color = STYLES[name]["color"] if name in STYLES else MORE.get(name, f"C{i}")
        if "loss" in run.history:
            share = run.history["step"] / max(run.history["step"][-1], 1)
            minutes = run.seconds / 60 * share
            left.plot(minutes, run.history["loss"][:, 0], label=name, color=color)
        count = _count(run.params["parameters"], method.groups)
        right.plot(
            count, np.mean(metrics[name + kind]), marks[i % 7], ms=9, color=color, label=name
        )
        if name in PAPER:
            right.plot(count, PAPER[name], marks[i % 7], ms=9, mfc="none", color=color)
    right.plot(2, PAPER["baseline"], "*", ms=14, mfc="none", color="tab:gray")
    right.plot([], [], "o", mfc="none", color="black", label="source, on Human3.6M")
    left.set(
        xlabel="training time [min]", ylabel="training error [mm]",
        title=f"{views} cameras, first seed, {config.steps} steps",
    )  # fmt: skip
    left.set_ylim(bottom=0)
    right.set(
        xscale="log", ylim=(0, None), xlabel="parameters learned",
        ylabel="error on unseen subjects [mm]",
        title=f"a grid of 5 values each: 5^2 = 25 runs, or 5^6662 = 10^{6662 * np.log10(5):.0f}",
    )  # fmt: skip
    for ax in (left, right):
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    return figure
