"""Relative poses from matches of SIFT, ORB or SURF, by five-point RANSAC, MAGSAC or PoseLib.

`jaxcv.systems.feature_matches.find_matches` matches two images, `pose_of_matches` estimates their
pose. The estimators sample at random; every call sets the seed, that of OpenCV globally.
"""

from typing import Any, NamedTuple

import numpy as np

from jaxcv.checks import check_choice
from jaxcv.systems.feature_matches import Matches, normalised

__all__ = ["ESTIMATORS", "PoseGuess", "pose_of_matches"]

ESTIMATORS = ("ransac", "magsac", "poselib")
FEWEST = 5  # matches that an essential matrix needs
_CONFIDENCE = 0.99999
_LARGEST = 1.0  # largest distance of an inlier [px]


class PoseGuess(NamedTuple):
    """A pose x2 = R x1 + t, |t| = 1, and how many matches agree with it."""

    rotation: np.ndarray
    direction: np.ndarray
    inliers: int


def pose_of_matches(
    matches: Matches, intrinsics1: Any, intrinsics2: Any, estimator: str = "ransac", seed: int = 0
) -> PoseGuess | None:
    """The pose with the most inliers; None if there are fewer than five matches, or no pose.

    Args:
        matches: of two images.
        intrinsics1: (3, 3) of the first [px].
        intrinsics2: (3, 3) of the second [px].
        estimator: `ransac` or `magsac` with OpenCV's five-point solver, or `poselib`, which needs
            the package poselib and refines the pose.
        seed: of the random samples.
    """
    check_choice("estimator", estimator, ESTIMATORS)
    if len(matches.ratio) < FEWEST:
        return None
    both = np.asarray([intrinsics1, intrinsics2], float)
    focal = np.abs(both[:, [0, 1], [0, 1]]).mean()
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
