"""Matches of image features, by OpenCV (SIFT, ORB) or mahotas (SURF), as arrays."""

from typing import Any, NamedTuple

import numpy as np

from jaxcv.checks import argument_error, check_choice

__all__ = ["FEATURES", "Matches", "find_matches", "normalised", "padded"]

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


def find_matches(first: Any, second: Any, features: str = "sift", *, most: int = MOST) -> Matches:
    """Mutual nearest neighbours that pass the ratio test, best first.

    Args:
        first: (H, W, 3) in 8 bits (uint8).
        second: (H', W', 3).
        features: one of FEATURES; `surf` needs the package mahotas.
        most: features per image.
    """
    check_choice("features", features, FEATURES)
    points1, own1 = _described(first, features, most)
    points2, own2 = _described(second, features, most)
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


def _described(image: Any, features: str, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions (N, 2) u, v [px] and descriptors (N, D) of an image's features."""
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
        return found[:, 1::-1], found[:, 6:]
    make: Any = cv2.SIFT.create if features == "sift" else cv2.ORB.create
    keys, descriptors = make(most).detectAndCompute(grey, None)
    if descriptors is None:
        return np.zeros((0, 2)), np.zeros((0, 1))
    return np.array([key.pt for key in keys], float).reshape(-1, 2), descriptors


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
