"""The figures of the hand pose."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from experiments import runner
from experiments.hand_pose import evaluation, training
from jaxcv.data.hand import BONES, JOINTS, pixels_of_joints
from jaxcv.metrics.hand import THRESHOLDS, joint_errors, success_rate
from jaxcv.plots.hand import plot_joint_errors, plot_joints, plot_success

__all__ = ["draw_all"]

TITLES = {"seen": "subjects that were seen", "unseen": "other subjects"}
ELSEWHERE = {"seen": "other data, first subjects", "unseen": "other data, further subjects"}
_SHOWN = 4  # hands of each test
_COMPARED_BY_JOINT = (
    "mean_pose", "net1", "net6", "net8", "rgb", "fuse_conv", "refined_untrained", "refined",
)  # fmt: skip


def draw_all(config: Any, data: Any, trained: Any, metrics: Any) -> Iterable[tuple[str, Any]]:
    """(file name, Figure) of every figure."""
    found = {
        test: evaluation.joints_of_rows(config, data, trained, 0, test) for test in evaluation.TESTS
    }
    titles = TITLES if evaluation.same_data(config, data, trained) else ELSEWHERE
    yield "success.png", _success(data, found, titles)
    yield "joints.png", _joints(data, found, titles)
    networks = list(training.networks(config))
    row = "net6" if "net6" in networks else networks[0]  # the thesis' Depth-Net is Net6
    yield "images.png", _images(data, found, row, titles)
    yield "points.png", _points(data, found, row, titles)
    yield "training.png", _training(config, trained, metrics, titles)
    if len(training.networks(config)) > 1:
        yield "orders.png", _orders(metrics)


def _errors(data: Any, found: Any, test: str) -> dict[str, np.ndarray]:
    truth = getattr(data, test).joints
    return {name: joint_errors(joints, truth) for name, joints in found[test].items()}


def _success(data: Any, found: Any, titles: dict[str, str]) -> Any:
    wide = len(found["seen"]) > 6
    figure = runner.new_figure(figsize=(15 if wide else 12, 4.6))
    for ax, test in zip(figure.subplots(1, 2), evaluation.TESTS, strict=True):
        rows = sorted(_errors(data, found, test).items(), key=lambda row: row[1].mean())
        curves = {f"{name}: {errors.mean():.1f} mm": success_rate(errors) for name, errors in rows}
        plot_success(ax, curves, THRESHOLDS)
        ax.set_title(f"{titles[test]}, first seed")
    return figure


def _joints(data: Any, found: Any, titles: dict[str, str]) -> Any:
    figure = runner.new_figure(figsize=(13, 7.5))
    for ax, test in zip(figure.subplots(2, 1, sharey=True), evaluation.TESTS, strict=True):
        errors = {n: e.mean(axis=0) for n, e in _errors(data, found, test).items()}
        if len(errors) > 9:  # too many bars to tell apart
            errors = {n: e for n, e in errors.items() if n in _COMPARED_BY_JOINT}
        plot_joint_errors(ax, errors, JOINTS)
        ax.set_title(f"{titles[test]}, first seed")
        ax.legend(fontsize=8, ncols=4)
    return figure


def _chosen(data: Any, found: Any, row: str, test: str) -> np.ndarray:
    """Frames at the 10th, 50th, 90th and 98th percentile of the errors, of those kept uncropped."""
    kept = len(data.frames[test].joints)
    errors = joint_errors(found[test][row], getattr(data, test).joints).mean(axis=1)[:kept]
    order = np.argsort(errors)
    return order[[int(share * (kept - 1)) for share in (0.1, 0.5, 0.9, 0.98)]]


def _images(data: Any, found: Any, row: str, titles: dict[str, str]) -> Any:
    """Predictions over the depth images, as in the thesis' Fig. 4.10."""
    figure = runner.new_figure(figsize=(13, 6.4))
    axes = figure.subplots(2, _SHOWN)
    for line, test in zip(axes, evaluation.TESTS, strict=True):
        frames, truth = data.frames[test], getattr(data, test).joints
        for ax, i in zip(line, _chosen(data, found, row, test), strict=True):
            depth = np.where(frames.depth[i] > 0, frames.depth[i].astype(float), np.nan)
            shown = ax.imshow(depth, cmap="gray")
            figure.colorbar(shown, ax=ax, shrink=0.7, label="depth [mm]")
            for joints, color, label in (
                (truth[i], "tab:green", "truth"), (found[test][row][i], "tab:red", row)
            ):  # fmt: skip
                pixels = pixels_of_joints(joints, frames.intrinsics[i])[:, :2]
                plot_joints(ax, pixels, BONES, color=color, lw=1.6, marker="o", ms=3, label=label)
            error = joint_errors(found[test][row][i], truth[i]).mean()
            ax.set(title=f"{titles[test]},\n{error:.1f} mm", xticks=[], yticks=[])
    axes[0, 0].legend(fontsize=8, loc="lower left")
    figure.suptitle(f"{row}: 10th, 50th, 90th and 98th percentile of the errors")
    return figure


def _points(data: Any, found: Any, row: str, titles: dict[str, str]) -> Any:
    """Predictions among the points of the depth image, as in the thesis' Fig. 4.11."""
    figure = runner.new_figure(figsize=(14, 8.4))
    figure.set_layout_engine("none")  # it leaves too little room between axes in 3-D
    figure.subplots_adjust(left=0.02, right=0.96, bottom=0.06, top=0.9, wspace=0.25, hspace=0.28)
    for k, test in enumerate(evaluation.TESTS):
        crops = getattr(data, test)
        for j, i in enumerate(_chosen(data, found, row, test)):
            ax: Any = figure.add_subplot(2, _SHOWN, 1 + j + _SHOWN * k, projection="3d")
            turned = lambda x: np.stack([x[..., 0], x[..., 2], -x[..., 1]], axis=-1)  # z up
            seen = turned(crops.points[i][crops.points[i][:, 2] > 0])
            ax.scatter(*seen.T, s=3, color="tab:gray", label="depth image")
            plot_joints(ax, turned(crops.joints[i]), BONES, color="tab:green", lw=2, label="truth")
            plot_joints(ax, turned(found[test][row][i]), BONES, color="tab:red", lw=2, label=row)
            error = joint_errors(found[test][row][i], crops.joints[i]).mean()
            ax.set(xlabel="x [mm]", ylabel="z [mm]", zlabel="-y [mm]")
            ax.set_title(f"{titles[test]}, {error:.1f} mm", fontsize=10)
            ax.tick_params(labelsize=6)
            ax.locator_params(nbins=4)
            ax.set_aspect("equal")
            if not (k or j):
                ax.legend(fontsize=8)
    figure.suptitle(f"{row}: 10th, 50th, 90th and 98th percentile of the errors")
    return figure


def _training(config: Any, trained: Any, metrics: Any, titles: dict[str, str]) -> Any:
    """Validation error by optimiser step, and the test errors of all rows."""
    figure = runner.new_figure(figsize=(13, 4.8))
    left, right = figure.subplots(1, 2)
    for k, name in enumerate(training.networks(config)):
        history = trained[name].history
        for i, values in enumerate(history["valid_error_mm"].T):
            label = name if i == 0 else None
            left.plot(history["step"], values, color=f"C{k}", label=label, lw=1.2)
    left.set(xlabel="optimiser steps", ylabel="mean error of the validation [mm]", yscale="log")
    left.yaxis.set_major_formatter("{x:.0f}")
    left.yaxis.set_minor_formatter("{x:.0f}")
    left.grid(alpha=0.3, which="both")
    left.legend(fontsize=8)
    names = [k.removesuffix("/mean_error_mm") for k in metrics if k.endswith("/mean_error_mm")]
    names = sorted(names, key=lambda name: -metrics[f"{name}/unseen_mean_error_mm"])
    places = np.arange(len(names))
    for offset, prefix, test in ((0.2, "", "seen"), (-0.2, "unseen_", "unseen")):
        values = [metrics[f"{name}/{prefix}mean_error_mm"] for name in names]
        right.barh(places + offset, values, 0.4, label=titles[test])
        for place, value in zip(places, values, strict=True):
            right.annotate(f"{value:.1f}", (value, place + offset), va="center", fontsize=7)
        spread = [metrics.get(f"{name}/{prefix}mean_error_mm_of_seeds") for name in names]
        for place, each in zip(places, spread, strict=True):
            if each:
                right.plot(each, np.full(len(each), place + offset), "k.", ms=4)
    right.set_yticks(places, names)
    right.set(xlabel="mean error [mm]; dots: seeds")
    right.legend(fontsize=8)
    return figure


def _orders(metrics: Any) -> Any:
    """Validation losses beside the thesis', and relative changes of the error between rows."""
    figure = runner.new_figure(figsize=(13, 5))
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    nets = [name for name in (f"net{k}" for k in range(1, 10)) if f"{name}/valid_loss" in metrics]
    for k, name in enumerate(nets):
        own = metrics.get(f"{name}/valid_loss_of_seeds", [metrics[f"{name}/valid_loss"]])
        left.plot(np.full(len(own), k - 0.1), own, "o", color="tab:red", ms=5,
                  label="here, each seed" if k == 0 else None)  # fmt: skip
        left.plot(k + 0.1, training.SOURCE[f"{name}/valid_loss"], "s", color="tab:gray", ms=6,
                  label="source, Table 4.3 (other data)" if k == 0 else None)  # fmt: skip
    left.set_xticks(range(len(nets)), nets)
    left.set(ylabel="validation loss [half sides of the cube, squared]")
    left.set_ylim(bottom=0)
    left.grid(alpha=0.3)
    left.legend(fontsize=8)
    key = "{}_over_{}/unseen_mean_error_mm_{}"
    pairs = [pair for pair in evaluation.COMPARED if key.format(*pair, "change") in metrics]
    for k, pair in enumerate(reversed(pairs)):
        change = 100 * np.asarray(metrics[key.format(*pair, "change")])
        right.plot(change, np.full(len(change), k), "o", color="tab:red", ms=4)
        if key.format(*pair, "low") in metrics:
            ends = [100 * metrics[key.format(*pair, end)] for end in ("low", "high")]
            right.plot(ends, [k, k], color="tab:red", lw=2, alpha=0.5)
    right.axvline(0, color="k", lw=0.8)
    right.set_yticks(range(len(pairs)), [f"{a} over {b}" for a, b in reversed(pairs)])
    right.set_xlabel("change of the mean error on other subjects [%]; dots: seeds, bar: 95%")
    right.grid(alpha=0.3, axis="x")
    return figure
