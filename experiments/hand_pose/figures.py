"""The figures of the hand pose."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from experiments import runner
from experiments.hand_pose import comparison, evaluation, training
from experiments.hand_pose.config import networks
from jaxcv.data.hand import BONES, JOINTS, pixels_of_joints
from jaxcv.metrics.hand import THRESHOLDS, joint_errors, success_rate
from jaxcv.plots.hand import plot_joint_errors, plot_joints, plot_success

__all__ = ["draw_all"]

TITLES = {"seen": "subjects that were seen", "unseen": "other subjects"}
ELSEWHERE = {"seen": "other data, first subjects", "unseen": "other data, further subjects"}
PERCENTILES = (10, 50, 90, 98)
_SHOWN = 4  # frames of the figure of fingers
_COMPARED_BY_JOINT = (
    "mean_pose", "net1", "net6", "net8", "rgb", "fuse_conv", "refined_untrained", "refined",
)  # fmt: skip


def draw_all(config: Any, data: Any, trained: Any, metrics: Any) -> Iterable[tuple[str, Any]]:
    """(file name, Figure) of every figure."""
    found = {
        test: evaluation.joints_of_rows(config, data, trained, 0, test) for test in evaluation.TESTS
    }
    errors = {
        test: evaluation.errors_of_rows(config, data, trained, 0, test) for test in evaluation.TESTS
    }
    titles = TITLES if evaluation.same_data(config, data, trained) else ELSEWHERE
    yield "success.png", _success(errors, titles)
    yield "joints.png", _joints(errors, titles)
    names = list(networks(config))
    row = "net6" if "net6" in names else names[0]  # the thesis' Depth-Net is Net6
    for test in evaluation.TESTS:
        crops = evaluation.crops_of_row(config, data, row, test)
        yield f"hands_{test}.png", _hands(crops, data.frames[test], found[test][row], row,
                                          titles[test])  # fmt: skip
    if all(frames.color is not None for frames in data.frames.values()):
        yield "fingers.png", _fingers(data.frames)
    yield "training.png", _training(config, trained, metrics, titles)
    if len(names) > 1:
        yield "orders.png", _orders(config, metrics)


def _success(errors: Any, titles: dict[str, str]) -> Any:
    wide = len(errors["seen"]) > 6
    figure = runner.new_figure(figsize=(15 if wide else 12, max(4.6, 0.19 * len(errors["seen"]))))
    for ax, test in zip(figure.subplots(1, 2), evaluation.TESTS, strict=True):
        rows = sorted(errors[test].items(), key=lambda row: row[1].mean())
        curves = {f"{name}: {own.mean():.1f} mm": success_rate(own) for name, own in rows}
        plot_success(ax, curves, THRESHOLDS)
        ax.set_title(f"{titles[test]}, first seed")
    return figure


def _joints(errors: Any, titles: dict[str, str]) -> Any:
    figure = runner.new_figure(figsize=(13, 7.5))
    for ax, test in zip(figure.subplots(2, 1, sharey=True), evaluation.TESTS, strict=True):
        means = {n: e.mean(axis=0) for n, e in errors[test].items()}
        few = {n: e for n, e in means.items() if n in _COMPARED_BY_JOINT}
        if len(means) > 9 and len(few) > 1:  # too many bars to tell apart
            means = few
        plot_joint_errors(ax, means, JOINTS)
        ax.set_title(f"{titles[test]}, first seed")
        ax.legend(fontsize=8, ncols=4)
    return figure


def _hands(crops: Any, frames: Any, joints: np.ndarray, row: str, title: str) -> Any:
    """Predictions over the depth image, left, and among its points, right, as in the thesis'
    Figs. 4.10 and 4.11: at four percentiles of the errors, of the frames kept uncropped."""
    kept = len(frames.joints)
    errors = joint_errors(joints, crops.joints).mean(axis=1)[:kept]
    order = np.argsort(errors)
    figure = runner.new_figure(figsize=(8.6, 3.6 * len(PERCENTILES)))
    figure.set_layout_engine(None)  # it leaves too little room between axes in 3-D
    figure.subplots_adjust(left=0.04, right=0.9, bottom=0.05, top=0.93, wspace=0.15, hspace=0.25)
    for k, percentile in enumerate(PERCENTILES):
        i = order[int(percentile / 100 * (kept - 1))]
        both = ((crops.joints[i], "tab:green", "truth"), (joints[i], "tab:red", row))
        image = figure.add_subplot(len(PERCENTILES), 2, 1 + 2 * k)
        depth = np.where(frames.depth[i] > 0, frames.depth[i].astype(float), np.nan)
        shown = image.imshow(depth, cmap="gray")
        figure.colorbar(shown, ax=image, shrink=0.8, label="depth [mm]")
        space: Any = figure.add_subplot(len(PERCENTILES), 2, 2 + 2 * k, projection="3d")
        turned = lambda x: np.stack([x[..., 0], x[..., 2], -x[..., 1]], axis=-1)  # z up
        seen = turned(crops.points[i][crops.points[i][:, 2] > 0])
        space.scatter(*seen.T, s=4, color="tab:gray", label="depth image")
        for own, color, label in both:
            pixels = pixels_of_joints(own, frames.intrinsics[i])[:, :2]
            plot_joints(image, pixels, BONES, color=color, lw=1.6, marker="o", ms=3, label=label)
            plot_joints(space, turned(own), BONES, color=color, lw=2, label=label)
        image.set(xticks=[], yticks=[])
        height, width = depth.shape
        image.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        image.set_title(f"percentile {percentile}: {errors[i]:.1f} mm", fontsize=10)
        space.set(xlabel="x [mm]", ylabel="z [mm]", zlabel="-y [mm]")
        space.tick_params(labelsize=6)
        space.locator_params(nbins=4)
        space.set_aspect("equal")
        if not k:
            space.legend(fontsize=8, loc="upper left", bbox_to_anchor=(-0.1, 1.05))
    figure.suptitle(f"{row}, {title}, first seed: percentiles of the errors")
    return figure


def _fingers(frames: Any) -> Any:
    """Depth and colour of the frames whose fingers merge most, as in the thesis' Fig. 4.2."""
    columns = []
    for test in evaluation.TESTS:
        own = frames[test]
        columns += [(own, i) for i in _merged(own)[: _SHOWN // 2 + 1]]
    figure = runner.new_figure(figsize=(2.6 * len(columns), 5.6))
    axes = figure.subplots(2, len(columns), squeeze=False)
    for (top, bottom), (own, i) in zip(axes.T, columns, strict=True):
        pixels = pixels_of_joints(own.joints[i], own.intrinsics[i])[:, :2]
        ends = np.array(own.depth[i].shape[::-1]) - 0.5
        low = np.maximum(pixels.min(axis=0) - 8, -0.5)
        high = np.minimum(pixels.max(axis=0) + 8, ends)
        depth = np.where(own.depth[i] > 0, own.depth[i].astype(float), np.nan)
        top.imshow(depth, cmap="gray")
        bottom.imshow(own.color[i])
        for ax in (top, bottom):
            ax.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]), xticks=[], yticks=[])
    axes[0, 0].set_ylabel("depth")
    axes[1, 0].set_ylabel("colour")
    figure.suptitle("fingers side by side at one depth")
    return figure


def _merged(frames: Any) -> np.ndarray:
    """Frames by the number of neighbouring fingers that touch at one depth, most first.

    Tips and middle knuckles of two fingers count as merged within 25 mm in the image plane and
    8 mm in depth; a thumb is no neighbour.
    """
    joints = np.asarray(frames.joints, float)
    apart = joints[:, [0, 1, 2, 3, 4, 5]] - joints[:, [2, 3, 4, 5, 6, 7]]
    near = (np.linalg.norm(apart[..., :2], axis=-1) < 25) & (np.abs(apart[..., 2]) < 8)
    distance = np.linalg.norm(apart, axis=-1).mean(axis=1)
    return np.lexsort((distance, -near.sum(axis=1)))


def _training(config: Any, trained: Any, metrics: Any, titles: dict[str, str]) -> Any:
    """Validation error by optimiser step, and the test errors of all rows."""
    figure = runner.new_figure(figsize=(13, 4.8))
    left, right = figure.subplots(1, 2)
    for k, name in enumerate(networks(config)):
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


def _orders(config: Any, metrics: Any) -> Any:
    """Validation losses beside the thesis', and relative changes of the error between rows."""
    names = {key.partition("/")[0] for key in metrics}
    key = "{}_over_{}/unseen_mean_error_mm_{}"
    pairs = [pair for pair in comparison.pairs(config, names)
             if key.format(*pair, "change") in metrics]  # fmt: skip
    figure = runner.new_figure(figsize=(13, max(5, 0.22 * len(pairs))))
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    nets = [f"net{k}" for k in range(1, 10)]
    for k, name in enumerate(nets):
        own = metrics.get(f"{name}/valid_loss_of_seeds", metrics.get(f"{name}/valid_loss", []))
        own = np.atleast_1d(np.asarray(own, float))
        left.plot(np.full(len(own), k - 0.1), own, "o", color="tab:red", ms=5)
        left.plot(k + 0.1, training.SOURCE[f"{name}/valid_loss"], "s", color="tab:gray", ms=6,
                  label="source, Table 4.3 (other data)" if k == 0 else None)  # fmt: skip
    left.plot([], [], "o", color="tab:red", ms=5, label="here, each seed")
    left.set_xticks(range(len(nets)), nets)
    left.set(ylabel="validation loss [half sides of the cube, squared]")
    left.set_ylim(bottom=0)
    left.grid(alpha=0.3)
    left.legend(fontsize=8)
    for k, pair in enumerate(reversed(pairs)):
        change = 100 * np.asarray(metrics[key.format(*pair, "change")])
        right.plot(change, np.full(len(change), k), "o", color="tab:red", ms=4)
        for low, high, color in (("low", "high", "tab:red"),
                                 ("frames_low", "frames_high", "tab:gray")):  # fmt: skip
            if key.format(*pair, low) in metrics:
                ends = [100 * metrics[key.format(*pair, end)] for end in (low, high)]
                right.plot(ends, [k, k], color=color, lw=2, alpha=0.5)
    right.axvline(0, color="k", lw=0.8)
    right.set_yticks(range(len(pairs)), [f"{a} over {b}" for a, b in reversed(pairs)], fontsize=8)
    right.set_xlabel(
        "change of the mean error on other subjects [%]\n"
        "dots: seeds; bar: 95%, red over seeds, grey over frames of one seed"
    )
    right.grid(alpha=0.3, axis="x")
    return figure
