"""Relative poses by feature matches: SIFT, ORB and SURF, five points and RANSAC, PoseLib.

One interface: `find_matches` of two images, `pose_of_matches` of the matches. The estimators draw
at random, with a seed; OpenCV's is global, so a call resets it.
"""

from typing import Any, NamedTuple

import numpy as np

from jaxcv.core.checks import argument_error, check_choice

__all__ = [
    "ESTIMATORS", "FEATURES", "Matches", "PoseGuess", "find_matches", "normalised", "padded",
    "pose_of_matches",
]  # fmt: skip

FEATURES = ("sift", "orb", "surf")
ESTIMATORS = ("ransac", "magsac", "poselib")
FEWEST = 5  # matches that an essential matrix needs
_RATIO = 0.8  # of the distances to the nearest and the second descriptor
_MOST = 2000  # features of an image
_CONFIDENCE = 0.99999
_LARGEST = 1.0  # [px] distance of an inlier


class Matches(NamedTuple):
    """M matches.

    Attributes:
        points1: (M, 2) u, v [px], pixel centres at whole numbers.
        points2: (M, 2).
        ratio: (M,) of the distances to the nearest and the second descriptor, in [0, 0.8).
    """

    points1: np.ndarray
    points2: np.ndarray
    ratio: np.ndarray


class PoseGuess(NamedTuple):
    """A pose x2 = R x1 + t, |t| = 1, and how many matches agree with it."""

    rotation: np.ndarray
    direction: np.ndarray
    inliers: int


def find_matches(first: Any, second: Any, features: str = "sift") -> Matches:
    """Matches that are nearest both ways and pass the ratio test, best first.

    Args:
        first: (H, W, 3) in 8 bits (uint8).
        second: (H', W', 3).
        features: one of FEATURES; `surf` needs the package mahotas.
    """
    check_choice("features", features, FEATURES)
    points1, own1 = _described(first, features)
    points2, own2 = _described(second, features)
    if min(len(own1), len(own2)) < 2:
        return Matches(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0))
    apart = _distances(own1, own2, binary=features == "orb")
    order = np.argsort(apart, axis=1, kind="stable")[:, :2]
    rows = np.arange(len(own1))
    nearest, other = apart[rows, order[:, 0]], apart[rows, order[:, 1]]
    ratio = nearest / np.maximum(other, 1e-9)
    mutual = apart.argmin(axis=0)[order[:, 0]] == rows
    kept = np.flatnonzero(mutual & (ratio < _RATIO))
    kept = kept[np.argsort(ratio[kept], kind="stable")]
    return Matches(points1[kept], points2[order[kept, 0]], ratio[kept])


def _described(image: Any, features: str) -> tuple[np.ndarray, np.ndarray]:
    """Places (N, 2) u, v [px] and descriptors (N, D) of an image's features."""
    import cv2

    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        came = f"{image.dtype} {image.shape}"
        raise argument_error("image", "expected (H, W, 3) in 8 bits", came)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if features == "surf":
        from mahotas.features import surf

        found = surf.surf(grey, threshold=0.1, max_points=_MOST)
        found = found.reshape(-1, 70)
        return found[:, 1::-1], found[:, 6:]
    make: Any = cv2.SIFT.create if features == "sift" else cv2.ORB.create
    keys, descriptors = make(_MOST).detectAndCompute(grey, None)
    if descriptors is None:
        return np.zeros((0, 2)), np.zeros((0, 1))
    return np.array([key.pt for key in keys], float).reshape(-1, 2), descriptors


def _distances(one: np.ndarray, other: np.ndarray, *, binary: bool) -> np.ndarray:
    """Distances (N, M) of descriptors: Euclidean, or how many bits differ."""
    if binary:
        bits = [np.unpackbits(x, axis=1).astype(np.float32) for x in (one, other)]
        sums = [x.sum(axis=1) for x in bits]
        return sums[0][:, None] + sums[1] - 2 * bits[0] @ bits[1].T
    one, other = one.astype(np.float32), other.astype(np.float32)
    square = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2 * one @ other.T
    return np.sqrt(np.maximum(square, 0))


def normalised(points: np.ndarray, intrinsics: Any) -> np.ndarray:
    """K^-1 (u, v, 1) (M, 2) of pixels (M, 2)."""
    rays = np.c_[points, np.ones(len(points))] @ np.linalg.inv(np.asarray(intrinsics, float)).T
    return rays[:, :2] / rays[:, 2:]


def padded(
    matches: Matches, intrinsics1: Any, intrinsics2: Any, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The best matches as arrays of one size: normalised points (C, 2) twice, ratio, valid (C,)."""
    kept = min(count, len(matches.ratio))
    out = [np.zeros((count, 2), np.float32), np.zeros((count, 2), np.float32)]
    for rows, points, k in zip(out, matches[:2], (intrinsics1, intrinsics2), strict=True):
        rows[:kept] = normalised(points[:kept], k)
    ratio, valid = np.ones(count, np.float32), np.arange(count) < kept
    ratio[:kept] = matches.ratio[:kept]
    return out[0], out[1], ratio, valid


def pose_of_matches(
    matches: Matches, intrinsics1: Any, intrinsics2: Any, estimator: str = "ransac", seed: int = 0
) -> PoseGuess | None:
    """The pose that most matches agree with, or None: fewer than five matches, or no pose.

    Args:
        matches: of two images.
        intrinsics1: (3, 3) of the first [px].
        intrinsics2: (3, 3) of the second [px].
        estimator: `ransac` or `magsac` over OpenCV's five points, `poselib`, which needs the
            package poselib and refines what it finds.
        seed: of the draws.
    """
    check_choice("estimator", estimator, ESTIMATORS)
    if len(matches.ratio) < FEWEST:
        return None
    focal = np.mean([np.asarray(k, float)[[0, 1], [0, 1]] for k in (intrinsics1, intrinsics2)])
    points1 = normalised(matches.points1, intrinsics1)
    points2 = normalised(matches.points2, intrinsics2)
    if estimator == "poselib":
        return _by_poselib(points1, points2, _LARGEST / focal, seed)
    return _by_opencv(points1, points2, _LARGEST / focal, estimator, seed)


def _by_opencv(points1, points2, threshold, estimator, seed) -> PoseGuess | None:
    import cv2

    cv2.setRNGSeed(seed)
    method = cv2.RANSAC if estimator == "ransac" else cv2.USAC_MAGSAC
    try:
        essentials, mask = cv2.findEssentialMat(
            points1, points2, np.eye(3), method, _CONFIDENCE, threshold
        )
    except cv2.error:  # no model could be made, e.g. of equal points
        return None
    if essentials is None or not np.isfinite(essentials).all():
        return None
    best = None
    for essential in essentials.reshape(-1, 3, 3):  # five points may have several solutions
        count, rotation, move, _ = cv2.recoverPose(
            essential, points1, points2, np.eye(3), mask=mask.copy()
        )
        if count and (best is None or count > best.inliers):
            best = PoseGuess(rotation, move.ravel() / np.linalg.norm(move), int(count))
    return best


def _by_poselib(points1, points2, threshold, seed) -> PoseGuess | None:
    import poselib

    camera = {"model": "PINHOLE", "width": 2, "height": 2, "params": [1.0, 1.0, 0.0, 0.0]}
    options = {"max_epipolar_error": threshold, "success_prob": _CONFIDENCE, "seed": seed}
    pose, info = poselib.estimate_relative_pose(points1, points2, camera, camera, options, {})
    length = np.linalg.norm(pose.t)
    if not info["num_inliers"] or not length > 0:
        return None
    return PoseGuess(np.asarray(pose.R), np.asarray(pose.t) / length, int(info["num_inliers"]))
