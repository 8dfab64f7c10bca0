"""Test pairs by difficulty: angle between the cameras, overlap, area and number of the matches."""

import itertools
from typing import Any

import numpy as np

from experiments.relative_pose.data import Matched

__all__ = ["conditions_of", "covered_area"]

ANGLES = (0, 10, 20, 30, 45, 180)  # between the cameras [deg]
PERCENT = (0, 20, 40, 60, 80, 100)  # of the first image


def covered_area(points: Any, shape: tuple[int, int]) -> float:
    """Fraction of an image (H, W) inside the convex hull of points (M, 2) [px]."""
    from scipy.spatial import ConvexHull, QhullError

    points = np.asarray(points, float)
    if len(points) < 3:
        return 0.0
    try:
        return float(ConvexHull(points).volume / (shape[0] * shape[1]))  # an area, in the plane
    except QhullError:  # points on a line
        return 0.0


def conditions_of(test: Matched) -> dict[str, np.ndarray]:
    """Name -> mask (N,) of the textured pairs whose value lies in a range; empty ones left out.

    `angle_<a>_<b>` [deg], `overlap_<a>_<b>` and `area_<a>_<b>` [%]: the angle of the true rotation,
    the share of the first image that the second one sees, and of the hull of the SIFT matches.
    `matches_quarter_<n>`: from the quarter of all pairs with the fewest SIFT matches (1) to that
    with the most (4).
    """
    pairs = test.pairs
    trace = np.trace(np.asarray(pairs.rotation), axis1=1, axis2=2)
    shape = test.full.first.shape[1:3]
    values = {
        "angle": np.rad2deg(np.arccos(np.clip((trace - 1) / 2, -1, 1))),
        "overlap": 100 * np.asarray(pairs.overlap, float),
        "area": 100 * np.array([covered_area(one.points1, shape) for one in test.found]),
    }
    textured = np.asarray(pairs.textured)
    out = {}
    for name, own in values.items():
        for low, high in itertools.pairwise(ANGLES if name == "angle" else PERCENT):
            inside = textured & (own >= low) & ((own < high) | (high == own))
            if inside.any():
                out[f"{name}_{low}_{high}"] = inside
    counts = [len(one.ratio) for one in test.found]
    quarters = np.array_split(np.argsort(counts, kind="stable"), 4)
    for number, rows in enumerate(quarters, 1):
        if len(rows):
            out[f"matches_quarter_{number}"] = np.isin(np.arange(len(counts)), rows)
    return out
