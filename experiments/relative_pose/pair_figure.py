"""The figure of a pair: matches that agree with its pose and that do not, and epipolar lines."""

from typing import Any

import numpy as np

from experiments import runner
from experiments.relative_pose.figures import draw_matches
from jaxcv.geometry.epipolar import essential_matrix
from jaxcv.systems import RelativePose
from jaxcv.systems.feature_matches import Matches

__all__ = ["INLIER", "draw_pair"]

INLIER = 0.5  # weight from which a match agrees with the pose
_LINES = 120  # matches that are joined by lines, of each kind
_WIDTH = 12.0  # of the figure [inch]
_GAP = 0.02  # between the images, over their width


def draw_pair(
    names: tuple[str, str],
    images: tuple[np.ndarray, np.ndarray],
    matches: Matches,
    weights: np.ndarray,
    pose: RelativePose,
    intrinsics: tuple[np.ndarray, np.ndarray],
) -> Any:
    """A matplotlib Figure of a pair.

    Above, lines join the matches: green where they agree with the pose, pale red where not. Below
    are some of those that agree (of all, if none does), with the epipolar lines of their matches.

    Args:
        names: of both images.
        images: (H, W, 3) and (H', W', 3) in 8 bits.
        matches: M matches [px] in these images.
        weights: (M,) in [0, 1], from `inlier_weights`.
        pose: of the pair.
        intrinsics: (3, 3) of each image.
    """
    first, second = images
    agree = weights >= INLIER
    # Both images get one height; the wider pair decides that of the figure.
    widths = [image.shape[1] / image.shape[0] for image in images]
    height = _WIDTH / (sum(widths) * (1 + _GAP))
    figure = runner.new_figure(figsize=(_WIDTH, 2 * height + 1.0), dpi=110)
    grid = figure.add_gridspec(2, 2, width_ratios=widths)
    _draw_lines(figure.add_subplot(grid[0, :]), first, second, matches, agree)
    below = [figure.add_subplot(grid[1, n]) for n in range(2)]
    there = bool(np.isfinite(pose.rotation).all())
    essential = np.asarray(essential_matrix(pose.rotation, pose.direction))
    essential = essential if there else np.zeros((3, 3))
    shown = Matches(*(leaf[agree] if agree.any() else leaf for leaf in matches))
    draw_matches(below, first, second, shown, essential, *intrinsics)
    for axis, name in zip(below, names, strict=True):
        axis.set_xlabel(name if len(name) <= 60 else f"...{name[-57:]}", fontsize=8)
    figure.suptitle(_title(pose, agree, there), fontsize=11)
    return figure


def _title(pose: RelativePose, agree: np.ndarray, there: bool) -> str:
    counts = f"{agree.sum()} of {len(agree)} matches agree"
    if not there:
        return f"no pose; {len(agree)} matches"
    cosine = np.clip((np.trace(pose.rotation) - 1) / 2, -1, 1)
    direction = ", ".join(f"{x:+.2f}" for x in np.asarray(pose.direction))
    return (
        f"confidence {float(pose.confidence):.2f}; {counts}; rotation by "
        f"{np.rad2deg(np.arccos(cosine)):.1f}°, translation along ({direction})"
    )


def _draw_lines(
    axis: Any, first: np.ndarray, second: np.ndarray, matches: Matches, agree: np.ndarray
) -> None:
    from matplotlib.collections import LineCollection

    height = first.shape[0]
    scale = height / second.shape[0]  # of the second image, which is drawn as high as the first
    left = first.shape[1] * (1 + _GAP)
    width = left + scale * second.shape[1]
    for image, start, stop in ((first, 0, first.shape[1]), (second, left, width)):
        pale = 0.35 + 0.65 * image.mean(axis=2) / 255  # in grey, so that the lines are seen
        extent = (start - 0.5, stop - 0.5, height - 0.5, -0.5)
        axis.imshow(pale, cmap="gray", vmin=0, vmax=1, extent=extent)
    end = (matches.points2 + 0.5) * scale - 0.5 + np.array([left, 0])
    for rows, colour, alpha in ((~agree, "tab:red", 0.25), (agree, "forestgreen", 0.8)):
        rows = np.flatnonzero(rows)
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), _LINES)).astype(int)]
        lines = np.stack([matches.points1[rows], end[rows]], axis=1)
        axis.add_collection(LineCollection(list(lines), colors=colour, alpha=alpha, linewidths=0.6))
        axis.plot(*lines.reshape(-1, 2).T, ".", color=colour, alpha=alpha, markersize=2)
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[])
    axis.set_frame_on(False)
