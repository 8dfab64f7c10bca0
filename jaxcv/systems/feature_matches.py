"""Matches of image features, by OpenCV (SIFT, ORB) or mahotas (SURF), as arrays."""

from typing import Any, NamedTuple

import numpy as np

from jaxcv.checks import argument_error, check_choice

__all__ = [
    "FEATURES", "Features", "Matches", "find_features", "find_matches", "match_features",
    "normalised", "padded",
]  # fmt: skip

FEATURES = ("sift", "orb", "surf")
_RATIO = 0.8  # largest nearest / second-nearest distance
MOST = 2000  # features per image


class Matches(NamedTuple):
    """M matches of two images.

    Attributes:
        points1: (M, 2) u, v [px], pixel centres at whole numbers.
        points2: (M, 2).
        ratio: (M,) nearest / second-nearest descriptor distance, in [0, 0.8).
    """

    points1: np.ndarray
    points2: np.ndarray
    ratio: np.ndarray


class Features(NamedTuple):
    """N features of an image.

    Attributes:
        points: (N, 2) u, v [px], pixel centres at whole numbers.
        descriptors: (N, D); of 8 bits if they are binary (ORB), compared by Hamming's distance.
    """

    points: np.ndarray
    descriptors: np.ndarray


def find_matches(first: Any, second: Any, features: str = "sift", *, most: int = MOST) -> Matches:
    """Mutual nearest neighbours that pass the ratio test, best first.

    `find_features` and `match_features` are its two halves, for images that are in several pairs.

    Args:
        first: (H, W, 3) in 8 bits (uint8).
        second: (H', W', 3).
        features: one of FEATURES; `surf` needs the package mahotas.
        most: features per image.
    """
    one, other = (find_features(image, features, most=most) for image in (first, second))
    rows, ratio = match_features(one, other)
    return Matches(one.points[rows[:, 0]], other.points[rows[:, 1]], ratio)


def find_features(image: Any, features: str = "sift", *, most: int = MOST) -> Features:
    """Features of an image, by OpenCV or mahotas.

    Args:
        image: (H, W, 3) in 8 bits (uint8).
        features: one of FEATURES; `surf` needs the package mahotas.
        most: of the strongest features to keep; 0: all, for SIFT only.

    Raises:
        ValueError: another shape or type, or an unknown name of features.
        ImportError: OpenCV or mahotas is missing.
    """
    check_choice("features", features, FEATURES)
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        got = f"{image.dtype} {image.shape}"
        raise argument_error("image", "expected (H, W, 3) in 8 bits", got)
    try:
        import cv2

        if features == "surf":
            from mahotas.features import surf
    except ImportError as error:
        package = error.name or features
        raise ImportError(
            f"features={features!r} needs {package}: pip install opencv-python-headless mahotas"
        ) from error
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if features == "surf":
        found = surf.surf(grey, threshold=0.1, max_points=most)
        found = found.reshape(-1, 70)
        return Features(found[:, 1::-1], found[:, 6:])
    make: Any = cv2.SIFT.create if features == "sift" else cv2.ORB.create
    keys, descriptors = make(most).detectAndCompute(grey, None)
    if descriptors is None:
        return Features(np.zeros((0, 2)), np.zeros((0, 1)))
    return Features(np.array([key.pt for key in keys], float).reshape(-1, 2), descriptors)


def match_features(first: Features, second: Features) -> tuple[np.ndarray, np.ndarray]:
    """Mutual nearest neighbours that pass the ratio test, best first.

    Args:
        first: N features.
        second: N' features of the same kind.

    Returns:
        Indices (M, 2) of the matched features in both images, and the ratios (M,) of `Matches`.
    """
    own1, own2 = first.descriptors, second.descriptors
    if min(len(own1), len(own2)) < 2:
        return np.zeros((0, 2), int), np.zeros(0)
    apart = _distances(own1, own2, binary=own1.dtype == np.uint8)
    rows = np.arange(len(own1))
    match, back = apart.argmin(axis=1), apart.argmin(axis=0)
    nearest = apart[rows, match]
    apart[rows, match] = np.inf
    ratio = nearest / np.maximum(apart.min(axis=1), 1e-9)
    kept = np.flatnonzero((back[match] == rows) & (ratio < _RATIO))
    kept = kept[np.argsort(ratio[kept], kind="stable")]
    return np.stack([kept, match[kept]], axis=1), ratio[kept]


def _distances(one: np.ndarray, other: np.ndarray, *, binary: bool) -> np.ndarray:
    """Distances (N, M) of descriptors: Euclidean, or Hamming if binary."""
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
