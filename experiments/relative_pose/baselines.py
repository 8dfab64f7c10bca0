"""Relative poses from matches of SIFT, ORB or SURF, by five-point RANSAC, MAGSAC or PoseLib.

METHODS are the rows of the evaluation. `jaxcv.systems.feature_matches.find_matches` matches two
images, `pose_of_matches` estimates their pose. The estimators sample at random; every call sets the
seed, that of OpenCV globally.
"""

from typing import Any, NamedTuple

import numpy as np

from experiments.relative_pose.config import FEATURE_METHODS
from experiments.relative_pose.data import Matched, found_matches
from jaxcv.checks import check_choice
from jaxcv.systems.feature_matches import MOST, Matches, normalised
from jaxcv.systems.two_view import intrinsics_or_guess

__all__ = [
    "ESTIMATORS", "METHODS", "FeatureMethod", "PoseGuess", "feature_poses", "matches_of",
    "pose_of_matches",
]  # fmt: skip

ESTIMATORS = ("ransac", "magsac", "poselib")
FEWEST = 5  # matches that an essential matrix needs
CONFIDENCE = 0.99999
_LARGEST = 1.0  # largest distance of an inlier [px], which is OpenCV's default as well


class FeatureMethod(NamedTuple):
    """A feature method.

    Attributes:
        features: of `jaxcv.systems.feature_matches.FEATURES`.
        estimator: of ESTIMATORS.
        small: whether it sees the networks' images instead of the features'.
        most: features per image; 0: no limit, for SIFT only.
        confidence: of the estimator, at which it stops sampling.
        guessed: whether it guesses the intrinsics (`intrinsics_or_guess`) instead of having them.
    """

    features: str
    estimator: str
    small: bool = False
    most: int = MOST
    confidence: float = CONFIDENCE
    guessed: bool = False


_DEFAULTS = {  # OpenCV's own: SIFT keeps all features, ORB 500; findEssentialMat's confidence
    "sift": FeatureMethod("sift", "ransac", most=0, confidence=0.999),
    "orb": FeatureMethod("orb", "ransac", most=500, confidence=0.999),
}
METHODS = {
    "sift_ransac": FeatureMethod("sift", "ransac"), "sift_magsac": FeatureMethod("sift", "magsac"),
    "orb_ransac": FeatureMethod("orb", "ransac"), "surf_ransac": FeatureMethod("surf", "ransac"),
    "poselib": FeatureMethod("sift", "poselib"),
    "sift_ransac_small": FeatureMethod("sift", "ransac", small=True),
    "poselib_small": FeatureMethod("sift", "poselib", small=True),
    "orb_ransac_small": FeatureMethod("orb", "ransac", small=True),
    "orb_ransac_500": FeatureMethod("orb", "ransac", most=500),
    "sift_defaults": _DEFAULTS["sift"], "orb_defaults": _DEFAULTS["orb"],
    "sift_defaults_small": _DEFAULTS["sift"]._replace(small=True),
    "orb_defaults_small": _DEFAULTS["orb"]._replace(small=True),
    "sift_ransac_guessed": FeatureMethod("sift", "ransac", guessed=True),
    "poselib_guessed": FeatureMethod("sift", "poselib", guessed=True),
}  # fmt: skip
assert tuple(METHODS) == FEATURE_METHODS


class PoseGuess(NamedTuple):
    """A pose x2 = R x1 + t, |t| = 1, and how many matches agree with it."""

    rotation: np.ndarray
    direction: np.ndarray
    inliers: int


def pose_of_matches(
    matches: Matches, intrinsics1: Any, intrinsics2: Any, estimator: str = "ransac", seed: int = 0,
    confidence: float = CONFIDENCE,
) -> PoseGuess | None:  # fmt: skip
    """The pose with the most inliers; None if there are fewer than five matches, or no pose.

    Args:
        matches: of two images.
        intrinsics1: (3, 3) of the first [px].
        intrinsics2: (3, 3) of the second [px].
        estimator: `ransac` or `magsac` with OpenCV's five-point solver, or `poselib`, which needs
            the package poselib and refines the pose.
        seed: of the random samples.
        confidence: at which the estimator stops sampling.
    """
    check_choice("estimator", estimator, ESTIMATORS)
    if len(matches.ratio) < FEWEST:
        return None
    both = np.asarray([intrinsics1, intrinsics2], float)
    focal = np.abs(both[:, [0, 1], [0, 1]]).mean()
    points1 = normalised(matches.points1, intrinsics1)
    points2 = normalised(matches.points2, intrinsics2)
    if estimator == "poselib":
        return _by_poselib(points1, points2, _LARGEST / focal, seed, confidence)
    return _by_opencv(points1, points2, _LARGEST / focal, estimator, seed, confidence)


def _by_opencv(points1, points2, threshold, estimator, seed, confidence) -> PoseGuess | None:
    import cv2

    cv2.setRNGSeed(seed)
    method = cv2.RANSAC if estimator == "ransac" else cv2.USAC_MAGSAC
    try:
        essentials, mask = cv2.findEssentialMat(
            points1, points2, np.eye(3), method, confidence, threshold
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


def _by_poselib(points1, points2, threshold, seed, confidence) -> PoseGuess | None:
    import poselib

    camera = {"model": "PINHOLE", "width": 2, "height": 2, "params": [1.0, 1.0, 0.0, 0.0]}
    options = {"max_epipolar_error": threshold, "success_prob": confidence, "seed": seed}
    pose, info = poselib.estimate_relative_pose(points1, points2, camera, camera, options, {})
    length = np.linalg.norm(pose.t)
    if not info["num_inliers"] or not length > 0:
        return None
    return PoseGuess(np.asarray(pose.R), np.asarray(pose.t) / length, int(info["num_inliers"]))


def matches_of(test: Matched, method: FeatureMethod) -> tuple[Any, list[Matches]]:
    """The pairs that a method sees, and their matches."""
    pairs = test.pairs if method.small else test.full
    if (method.features, method.small, method.most) == ("sift", False, MOST):
        return pairs, test.found
    return pairs, found_matches(pairs, method.features, method.most)


def feature_poses(
    pairs: Any, found: list[Matches], method: FeatureMethod, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """R (N, 3, 3) and t (N, 3) of the matches of N pairs; nan without an answer."""
    count = len(found)
    rotation, direction = np.full((count, 3, 3), np.nan), np.full((count, 3), np.nan)
    for i, matches in enumerate(found):
        k1, k2 = pairs.intrinsics1[i], pairs.intrinsics2[i]
        if method.guessed:
            k1, k2 = (intrinsics_or_guess("K", None, own[i]) for own in (pairs.first, pairs.second))
        pose = pose_of_matches(matches, k1, k2, method.estimator, seed, method.confidence)
        if pose is not None:
            rotation[i], direction[i] = pose.rotation, pose.direction
    return rotation, direction
