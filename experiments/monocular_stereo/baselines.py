"""Baselines of the learned solver: constant depth, features, flow, tracks, and dense stereo.

Every method maps pairs to depths (N, H, W) and motions (N, 4, 4) with |t| = 1. Pairs for which it
finds no motion get the identity and the constant depth. OpenCV's random samples are seeded.

| row                   | motion                    | depth                        |
|-----------------------|---------------------------|------------------------------|
| `constant`            | identity                  | median of the tuning pairs   |
| `sift`, `flow`, `klt` | essential matrix          | triangulated matches         |
| `oracle`, `sgm_true`  | the truth                 | plane sweep, semi-global     |
| `sweep_sift`, ...     | of `sift` or of `flow`    | plane sweep, semi-global     |
"""

import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.monocular_stereo import dense_stereo
from jaxcv import argmin_least_squares
from jaxcv.data.stereo import StereoPairs
from jaxcv.geometry import se3
from jaxcv.least_squares.kernels import Huber
from jaxcv.linear.structure import Arrow
from jaxcv.solvers import LevenbergMarquardt

__all__ = ["all_baselines"]

_logger = logging.getLogger(__name__)

POINTS = 256  # tracked points in the bundle adjustment, at most


def all_baselines(
    pairs: StereoPairs, tuning: StereoPairs, scale: int = 1
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], dict[str, tuple[float, ...]]]:
    """Row -> depths and motions; method -> settings chosen on the tuning pairs.

    Args:
        pairs: to reconstruct.
        tuning: pairs for the constant, the range of depths and the settings of dense stereo.
        scale: size of the images of `pairs`, in units of those of `tuning`.
    """
    inverse = 1 / tuning.depth[np.isfinite(tuning.depth)]
    constant = float(1 / np.median(inverse))
    limits = np.quantile(inverse, [0.001, 0.999])
    out = {"constant": _constant(pairs, constant)}
    matchers: dict[str, Callable] = {"sift": _sift, "flow": _flow, "klt": _klt}
    for name, match in matchers.items():
        found = [_two_views(pairs.take(i), match, constant) for i in range(len(pairs.depth))]
        failed = sum(one is None for one in found)
        if failed:
            _logger.info("%s: no motion for %d of %d pairs", name, failed, len(found))
        shape = pairs.depth.shape[1:]
        nothing = np.full(shape, constant), np.diag([1.0, 1.0, 1.0, 1.0])
        depths, motions = zip(*(one or nothing for one in found), strict=True)
        out[name] = np.stack(depths), np.stack(motions)
    settings = dense_stereo.tuned(tuning, limits)
    names = {"sweep_true": "oracle"}
    for name, method in dense_stereo.METHODS.items():
        motions = {"true": pairs.motion} | {row: out[row][1] for row in ("sift", "flow")}
        for row, motion in motions.items():
            depth = method.depths(pairs, motion, limits, *settings[name], scale=scale)
            lost = ~np.any(motion[:, :3, 3], axis=1)
            depth[lost] = constant
            out[names.get(f"{name}_{row}", f"{name}_{row}")] = depth, motion
    return out, settings


def _constant(pairs: StereoPairs, depth: float) -> tuple[np.ndarray, np.ndarray]:
    n = len(pairs.depth)
    return np.full(pairs.depth.shape, depth), np.tile(np.eye(4), (n, 1, 1))


def _opencv() -> Any:
    """The module cv2, imported on first use and untyped: its stubs are incomplete."""
    import cv2

    return cv2


def _grey(image: np.ndarray) -> np.ndarray:
    cv2 = _opencv()
    return cv2.cvtColor((255 * np.clip(image, 0, 1)).astype(np.uint8), cv2.COLOR_RGB2GRAY)


def _sift(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cv2 = _opencv()
    detector = cv2.SIFT_create(contrastThreshold=0.01)
    (a, da), (b, db) = (detector.detectAndCompute(image, None) for image in (first, second))
    if da is None or db is None or len(a) < 2 or len(b) < 2:
        return np.zeros((0, 2)), np.zeros((0, 2))
    pairs = [m for m in cv2.BFMatcher().knnMatch(da, db, k=2) if len(m) == 2]
    kept = [m for m, other in pairs if m.distance < 0.8 * other.distance]
    points = [[a[m.queryIdx].pt for m in kept], [b[m.trainIdx].pt for m in kept]]
    return tuple(np.asarray(p, float).reshape(-1, 2) for p in points)  # type: ignore[return-value]


def _flow(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cv2 = _opencv()
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(first, second, None)
    v, u = np.mgrid[: first.shape[0], : first.shape[1]]
    start = np.stack([u, v], axis=-1).reshape(-1, 2).astype(float)
    return start, start + flow.reshape(-1, 2)


def _klt(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cv2 = _opencv()
    start = cv2.goodFeaturesToTrack(first, POINTS, 0.001, 3)
    if start is None:
        return np.zeros((0, 2)), np.zeros((0, 2))
    end, status, _ = cv2.calcOpticalFlowPyrLK(first, second, start, None)
    back, again, _ = cv2.calcOpticalFlowPyrLK(second, first, end, None)
    same = np.linalg.norm(back - start, axis=-1)[:, 0] < 0.5
    good = (status[:, 0] > 0) & (again[:, 0] > 0) & same
    return start[good, 0].astype(float), end[good, 0].astype(float)


def _two_views(pair: StereoPairs, match: Callable, constant: float) -> Any:
    """Depth and motion of one pair from its matches; None where they give no motion."""
    cv2 = _opencv()
    cv2.setRNGSeed(0)
    k = np.asarray(pair.intrinsics, float)
    first, second = match(_grey(pair.target), _grey(pair.source))
    if len(first) < 8:
        return None
    if match is _flow:  # normalised eight-point algorithm on the inliers of all pixels
        fundamental, inliers = cv2.findFundamentalMat(first, second, cv2.FM_RANSAC, 0.5, 0.999)
        if fundamental is None or fundamental.shape != (3, 3):
            return None
        kept = inliers[:, 0] > 0
        fundamental, _ = cv2.findFundamentalMat(first[kept], second[kept], cv2.FM_8POINT)
        if fundamental is None:
            return None
        essential = k.T @ fundamental @ k
        mask = inliers.copy()
    else:
        essential, mask = cv2.findEssentialMat(first, second, k, cv2.RANSAC, 0.999, 0.5)
        if essential is None or essential.shape != (3, 3):
            return None
    # By default `recoverPose` leaves out points beyond 50 baselines.
    count, rotation, t, mask, _ = cv2.recoverPose(
        essential, first, second, k, distanceThresh=1e3, mask=mask
    )
    if count < 8:
        return None
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = rotation, t[:, 0]
    kept = mask[:, 0] > 0
    if match is _klt:
        motion = _adjust(first[kept], second[kept], k, motion)
    z = triangulate(first[kept], second[kept], k, motion)
    good = np.isfinite(z) & (z > 1e-3) & (z < 10)
    if good.sum() < 4:
        return np.full(pair.depth.shape, constant), motion
    return 1 / _interpolate(first[kept][good], z[good], pair.depth.shape), motion


def triangulate(first: Any, second: Any, k: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """Inverse depths (P,) in the first view: least squares of x2 x (R x1 + z t) = 0."""
    lift = lambda points: np.c_[points, np.ones(len(points))] @ np.linalg.inv(k).T
    a, b = lift(first) @ motion[:3, :3].T, lift(second)
    top, bottom = np.cross(b, a), np.cross(b, motion[:3, 3])
    return -np.sum(top * bottom, axis=1) / np.maximum(np.sum(bottom**2, axis=1), 1e-12)


def _interpolate(points: np.ndarray, z: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Inverse depths of all pixels: linear between the points, nearest-neighbour outside."""
    from scipy.interpolate import griddata

    v, u = np.mgrid[: shape[0], : shape[1]]
    if len(points) == v.size:
        return np.clip(z.reshape(shape), 1e-3, 10)
    near = griddata(points, z, (u, v), method="nearest")
    try:
        linear = griddata(points, z, (u, v), method="linear")
    except Exception:  # qhull: all points on a line
        return near
    return np.where(np.isfinite(linear), linear, near)


def _reprojection(y, theta, first, second):
    """Reprojection errors in the second view [px], and a residual for the motion's length."""
    motion = se3.exp(y["motion"])
    x = first @ motion[:3, :3].T + y["inverse_depth"][:, None] * motion[:3, 3]
    depth = jnp.where(x[:, 2:] > 1e-3, x[:, 2:], 1e-3)
    away = theta["focal"] * (x[:, :2] / depth - second)
    length = jnp.sum(y["motion"][:3] ** 2) - 1
    return {"points": theta["weight"][:, None] * away, "length": 100 * length[None]}


@jax.jit
def _adjusted(start, theta, first, second):
    solution = argmin_least_squares(
        _reprojection, start, theta, (first, second),
        solver=LevenbergMarquardt(max_steps=30), kernel={"points": Huber(1.0, block_ndim=1)},
        structure=Arrow(local="inverse_depth", shared="motion"),
    )  # fmt: skip
    return solution.value["motion"]


def _adjust(first: Any, second: Any, k: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """Motion (4, 4) from two-view bundle adjustment by robust reprojection errors."""
    z = np.clip(np.nan_to_num(triangulate(first, second, k, motion), nan=0.05), 1e-3, 10)
    inverse = np.linalg.inv(k)
    fill = lambda x: np.concatenate([x, np.zeros((POINTS - len(x), *x.shape[1:]))])
    lift = lambda points: np.c_[points, np.ones(len(points))] @ inverse.T
    with jax.enable_x64(True):
        start = {
            "inverse_depth": jnp.asarray(fill(z)),
            "motion": se3.log(jnp.asarray(motion)),
        }
        theta = {
            "focal": jnp.asarray([k[0, 0], k[1, 1]]),
            "weight": jnp.asarray(fill(np.ones(len(z)))),
        }
        one = fill(lift(first))
        one[len(z) :, 2] = 1
        xi = _adjusted(start, theta, jnp.asarray(one), jnp.asarray(fill(lift(second))[:, :2]))
        found = np.array(se3.exp(xi))
    length = np.linalg.norm(found[:3, 3])
    if not np.isfinite(found).all() or length < 1e-6:
        return motion
    found[:3, 3] /= length
    return found
