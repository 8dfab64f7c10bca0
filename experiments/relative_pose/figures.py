"""Figures of relative pose: cumulative errors, failures, epipolar lines, confidence."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.relative_pose import evaluation
from experiments.relative_pose.baselines import METHODS, matches_of
from experiments.relative_pose.data import Data
from experiments.relative_pose.scores import REGIMES, answered, errors_of, regimes_of
from jaxcv.geometry.epipolar import essential_matrix, sampson_distance
from jaxcv.metrics.motion import cumulative_histogram, pose_failures
from jaxcv.systems.feature_matches import normalised

__all__ = ["draw_all", "draw_matches", "extremes"]

_NAMES = {
    "constant": "constant", "cnnA": "cnnA", "cnnB": "cnnB", "cnnAspp": "cnnA-spp",
    "cnnBspp": "cnnB-spp", "sift_ransac": "SIFT, RANSAC", "sift_magsac": "SIFT, MAGSAC",
    "orb_ransac": "ORB, RANSAC", "surf_ransac": "SURF, RANSAC", "poselib": "SIFT, PoseLib",
    "refined_sampled": "energy, from samples", "refined_identity": "energy, from identity",
    "refined": "energy, prior of the network", "joint": "energy and network, trained jointly",
}  # fmt: skip
_NEAR = 3.0  # [px], largest distance of a match that agrees with the true pose
_SHOWN = 3  # pairs of each regime with lines
_LINES = 12
_LARGEST = 60.0  # end of the cumulative histograms [deg]


def _name(row: str) -> str:
    return _NAMES.get(row, row)


def _colours(names: Any) -> dict[str, Any]:
    from matplotlib import colormaps

    table = colormaps["tab20"].colors  # type: ignore[attr-defined]
    colours = {name: table[k % 20] for k, name in enumerate(dict.fromkeys((*_NAMES, *names)))}
    return {name: "black" if name == "joint" else colours[name] for name in names}


def draw_all(
    config: Any, data: Data, trained: Any, metrics: dict[str, Any]
) -> Iterator[tuple[str, Any]]:
    """All figures, one after the other."""
    poses = evaluation.answers(config, data, trained, 0)
    yield "cumulative.png", _cumulative(data, poses)
    yield "failures.png", _failures(poses, metrics)
    yield "lines.png", _lines(data, poses)
    feature_method = next((name for name in poses if name in METHODS), None)
    if feature_method is not None and answered(poses[feature_method]).any():
        yield "pairs.png", _pairs(data, poses, feature_method, config.net[-1])
    if config.refine:
        yield "confidence.png", _confidence(data, poses)
    yield "training.png", _training(config, trained)
    if len(config.net) > 1 and config.num_seeds > 1:
        yield "orders.png", _orders(config, data, metrics)


def _shown_regimes(data: Data) -> dict[str, np.ndarray]:
    regimes = regimes_of(data.test.pairs)
    return {name: rows for name, rows in regimes.items() if name != "all"}


def _cumulative(data: Data, poses: Any) -> Any:
    """Fraction of pairs below an error: rotation and translation, with and without texture."""
    regimes = _shown_regimes(data)
    figure = runner.new_figure(figsize=(12, 4.2 * len(regimes)))
    axes = figure.subplots(len(regimes), 2, sharex=True, sharey=True, squeeze=False)  # fmt: skip
    at, colours = np.linspace(0, _LARGEST, 200), _colours(poses)
    for row, (regime, rows) in zip(axes, regimes.items(), strict=True):
        # Further settings of the feature methods are in failures.png only.
        for name in (name for name in poses if name in _NAMES or name not in METHODS):
            own = poses[name]
            errors = errors_of(own, data.test.pairs)
            style = ":" if name == "constant" else "--" if name in METHODS else "-"
            for axis, error in zip(row, errors, strict=True):
                axis.plot(
                    at, cumulative_histogram(error[rows], at), style, color=colours[name],
                    label=_name(name),
                )  # fmt: skip
        for axis, what in zip(row, ("rotation", "direction of translation"), strict=True):
            axis.set(
                title=f"{what}, {regime} ({rows.sum()} pairs)", ylim=(0, 1), xlim=(0, _LARGEST)
            )
            axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("error [deg], sign not folded")
    for axis in axes[:, 0]:
        axis.set_ylabel("share of pairs below")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center")
    return figure


def _failures(poses: Any, metrics: dict[str, Any]) -> Any:
    """Fraction of failures (an angle above 20 degrees, or no pose), and the AUC at 10 degrees.

    Lines are 95% intervals of the failures over the test pairs.
    """
    regimes = [r for r in REGIMES if f"constant/{r}/failures" in metrics]
    names = list(poses)
    figure = runner.new_figure(figsize=(12, max(5.0, 0.3 * len(names))))
    axes = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(names))
    parts = (
        ("failures", "share of pairs that fail (lines: 95%)"),
        ("auc10", "AUC at 10 degrees, folded"),
    )
    for axis, (metric, label) in zip(axes, parts, strict=True):
        for k, regime in enumerate(regimes):
            values = [metrics[f"{name}/{regime}/{metric}"] for name in names]
            ends = None
            if metric == "failures":
                low, high = np.transpose(
                    [metrics[f"{n}/{regime}/failures_of_pairs"] for n in names]
                )
                ends = np.maximum([values - low, high - values], 0)
            bars = axis.barh(
                places + 0.4 * k - 0.2, values, 0.38, xerr=ends, label=regime,
                error_kw={"linewidth": 0.8},
            )  # fmt: skip
            axis.bar_label(bars, fmt="%.2f", padding=2, fontsize=7)
        axis.set(xlabel=label, xlim=(0, 1.1))
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(places, [_name(name) for name in names])
    axes[0].invert_yaxis()
    axes[1].legend(loc="upper right")
    return figure


def draw_matches(
    axes: Any, first: np.ndarray, second: np.ndarray, matches: Any, essential: Any, k1: Any, k2: Any
) -> None:
    """Draws some matches in two images, and the epipolar lines of each by a pose.

    Args:
        axes: two, of matplotlib.
        first: (H, W, 3).
        second: (H', W', 3).
        matches: `Matches` [px].
        essential: (3, 3).
        k1: (3, 3) of the first image.
        k2: (3, 3) of the second image.
    """
    fundamental = np.linalg.inv(k2).T @ np.asarray(essential) @ np.linalg.inv(k1)
    some = np.linspace(0, len(matches.ratio) - 1, min(_LINES, len(matches.ratio))).astype(int)
    from matplotlib import colormaps

    colours = colormaps["hsv"](np.linspace(0, 1, len(some) + 1))
    parts = (
        (axes[0], first, matches.points1, matches.points2, fundamental.T),
        (axes[1], second, matches.points2, matches.points1, fundamental),
    )
    for axis, image, own, other, matrix in parts:
        axis.imshow(image)
        height, width = image.shape[:2]
        for n, colour in zip(some, colours, strict=False):
            a, b, c = matrix @ np.append(other[n], 1)
            if a or b:  # the matrix is 0 if there is no pose
                axis.axline(*_on_line(a, b, c), color=colour, linewidth=0.8)
            axis.plot(*own[n], "o", color=colour, markersize=4, markeredgecolor="black")
        axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[])


def _on_line(a: float, b: float, c: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Two points of a x + b y + c = 0."""
    square = a * a + b * b
    x, y = -a * c / square, -b * c / square
    length = np.sqrt(square)
    return (x, y), (x - b / length, y + a / length)


def _lines(data: Data, poses: Any) -> Any:
    """Matches and epipolar lines of the last method, with errors in the titles."""
    name = list(poses)[-1]
    own, full = poses[name], data.test.full
    turned, moved = errors_of(own, data.test.pairs)
    shown = [i for rows in _shown_regimes(data).values() for i in np.flatnonzero(rows)[:_SHOWN]]
    figure = runner.new_figure(figsize=(12, 6.2 * -(-len(shown) // 3)))
    axes = figure.subplots(-(-len(shown) // 3) * 2, 3, squeeze=False)  # fmt: skip
    for axis in axes.ravel():
        axis.set_axis_off()
    for n, i in enumerate(shown):
        pair = axes[2 * (n // 3), n % 3], axes[2 * (n // 3) + 1, n % 3]
        for axis in pair:
            axis.set_axis_on()
        essential = np.nan_to_num(np.asarray(essential_matrix(own.rotation[i], own.direction[i])))
        draw_matches(
            pair, full.first[i], full.second[i], data.test.found[i], essential,
            full.intrinsics1[i], full.intrinsics2[i],
        )  # fmt: skip
        pair[0].set_title(
            f"{len(data.test.found[i].ratio)} matches, "
            f"off by {turned[i]:.1f} and {moved[i]:.1f} deg",
            fontsize=9,
        )
    figure.suptitle(f"Matches and the epipolar lines of: {_name(name)}")
    return figure


def extremes(data: Data, features: Any, network: Any) -> list[int]:
    """Pairs where the network is most and middlingly better, and most worse, than the features.

    Compared are the larger of both errors [deg], on pairs that the features answer.
    """
    rows = np.flatnonzero(answered(features))
    larger = [np.max(errors_of(own, data.test.pairs), axis=0)[rows] for own in (features, network)]
    order = rows[np.argsort(larger[1] - larger[0], kind="stable")]
    return list(dict.fromkeys(int(order[k]) for k in (0, len(order) // 2, -1)))  # of few, fewer


def _pairs(data: Data, poses: Any, features: str, net: str) -> Any:
    """Three pairs with the matches of a feature method, its errors and the network's in brackets.

    Matches within 3 px of the true epipolar geometry are green, others red.
    """
    shown = extremes(data, poses[features], poses[net])
    errors = {name: errors_of(poses[name], data.test.pairs) for name in (features, net)}
    pairs, found = matches_of(data.test.take(shown), METHODS[features])
    figure = runner.new_figure(figsize=(9, 3.6 * len(shown)))
    axes = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
    for n, (i, axis) in enumerate(zip(shown, axes, strict=True)):
        axis.imshow(np.concatenate([pairs.first[n], pairs.second[n]], axis=1))
        k1, k2 = pairs.intrinsics1[n], pairs.intrinsics2[n]
        first, second = (
            jnp.asarray(normalised(p, k)) for p, k in zip(found[n][:2], (k1, k2), strict=True)
        )
        essential = essential_matrix(pairs.rotation[n], pairs.direction[n])
        distance = np.asarray(sampson_distance(essential, first, second))
        near = np.abs(distance) < _NEAR / k1[0, 0]
        start, end = found[n].points1, found[n].points2 + np.array([pairs.first[n].shape[1], 0])
        for one, other, good in zip(start, end, near, strict=True):
            axis.plot(*np.transpose([one, other]), color="tab:green" if good else "tab:red", lw=0.5)
        texts = [
            f"{what} {errors[features][k][i]:.1f}° ({errors[net][k][i]:.1f}°)"
            for k, what in enumerate(("rotation", "direction"))
        ]
        axis.set_title(f"{len(near)} matches, {', '.join(texts)}", fontsize=9)
        axis.set_axis_off()
    figure.suptitle(
        f"Errors of: {_name(features)} (in brackets: {_name(net)}), where the network is most "
        "ahead, in the middle, most behind", fontsize=9,
    )  # fmt: skip
    return figure


def _confidence(data: Data, poses: Any) -> Any:
    """Calibration: fraction of poses within 20 degrees against the stated confidence."""
    figure = runner.new_figure(figsize=(6, 5))
    axis = figure.subplots()
    edges = np.linspace(0, 1, 6)
    for name in ("refined_sampled", "refined", "joint"):
        if name not in poses:
            continue
        turned, moved = errors_of(poses[name], data.test.pairs)
        good = ~pose_failures(turned, moved)
        bins = np.clip(np.digitize(poses[name].confidence, edges) - 1, 0, 4)
        used = [b for b in range(5) if (bins == b).any()]
        stated = [poses[name].confidence[bins == b].mean() for b in used]
        found = [good[bins == b].mean() for b in used]
        sizes = [20 + 2 * (bins == b).sum() for b in used]
        axis.plot(stated, found, color=_colours([name])[name], label=_name(name))
        axis.scatter(stated, found, sizes, color=_colours([name])[name])
    axis.plot([0, 1], [0, 1], ":", color="grey", label="as often as stated")
    axis.set(
        xlabel="stated confidence (size: pairs)", ylabel="share within 20 degrees", xlim=(0, 1.02),
        ylim=(0, 1.02),
    )  # fmt: skip
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def _orders(config: Any, data: Data, metrics: dict[str, Any]) -> Any:
    """Errors of the networks by seed beside the constant's, and changes between networks."""
    figure = runner.new_figure(figsize=(14, 4.2))
    axes = figure.subplots(1, 3)
    whole = next(iter(regimes_of(data.test.pairs)))
    kinds = {"roe_median_deg": "rotation", "rte_median_deg": "direction of translation"}
    for axis, (metric, label) in zip(axes[:2], kinds.items(), strict=True):
        for k, net in enumerate(config.net):
            values = metrics[f"{net}/{whole}/{metric}_of_seeds"]
            axis.plot(np.full(len(values), k), values, "o", color="tab:red")
        floor = metrics[f"constant/{whole}/{metric}"]
        axis.axhline(floor, color="k", linestyle=":", label=f"constant, {floor:.1f}")
        axis.set_xticks(range(len(config.net)), [_name(net) for net in config.net])
        axis.set(ylabel=f"median error of the {label} [deg]", ylim=(0, None), xlim=(-0.5, None))
        axis.legend()
    key = "{}_over_{}/{}_{}"
    pairs = [
        p for p in evaluation.compared(config) if key.format(*p, "roe_median_deg", "low") in metrics
    ]
    for offset, (metric, label) in zip((0.12, -0.12), kinds.items(), strict=True):
        for k, pair in enumerate(reversed(pairs)):
            change = 100 * np.asarray(metrics[key.format(*pair, metric, "change")])
            ends = [100 * metrics[key.format(*pair, metric, end)] for end in ("low", "high")]
            colour = "tab:blue" if offset > 0 else "tab:orange"
            axes[2].plot(ends, [k + offset] * 2, color=colour, lw=2, alpha=0.5)
            axes[2].plot(change, np.full(len(change), k + offset), "o", ms=4, color=colour,
                         label=label if k == 0 else None)  # fmt: skip
    axes[2].axvline(0, color="k", linewidth=0.8)
    axes[2].set_yticks(range(len(pairs)), [f"{_name(a)}\nover {_name(b)}" for a, b in
                                           reversed(pairs)])  # fmt: skip
    axes[2].set_xlabel("change of the median error [%]\n(dots: seeds, bars: 95%)")
    axes[2].legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    for axis in axes:
        axis.grid(alpha=0.3)
    return figure


def _training(config: Any, trained: Any) -> Any:
    """Validation errors of the networks, and batch errors of the training through the energy."""
    count = 1 + bool(config.refine)
    figure = runner.new_figure(figsize=(6 * count, 4.2))
    axes = figure.subplots(1, count, squeeze=False)
    for net in config.net:
        history = trained[net].history
        line = axes[0, 0].plot(
            history["step"], history["valid_rotation_deg"][:, 0], label=f"{_name(net)}, rotation"
        )
        axes[0, 0].plot(
            history["step"], history["valid_direction_deg"][:, 0], "--", color=line[0].get_color(),
            label=f"{_name(net)}, direction",
        )  # fmt: skip
    axes[0, 0].set(xlabel="step", ylabel="median error on validation pairs [deg]", ylim=(0, None))
    if config.refine:
        history = trained["joint"].history
        for name, label in (("rotation", "rotation"), ("direction", "direction of translation")):
            axes[0, 1].plot(history["step"], history[f"refined_{name}_deg"][:, 0], label=label)
        axes[0, 1].set(
            xlabel="step through the energy", ylabel="median error in batches [deg]", ylim=(0, None)
        )
    for axis in axes.ravel():
        axis.grid(alpha=0.3)
        axis.legend()
    return figure
