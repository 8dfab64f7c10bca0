"""Competitors of the learned energy that train no energy: triangulation of each joint.

A joint is triangulated from the pair of views whose point all views support best, and refined by
reweighted least squares with Cauchy weights. Joints seen by fewer than two views, as the neck, are
the conditional mean of a normal distribution of the training poses.
"""

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.human_pose.data import Batch
from jaxcv.data.human_pose import PoseFrames
from jaxcv.energies.human_pose import LIMBS, limb_norm, normalise_points
from jaxcv.metrics.pose import mpjpe

__all__ = ["Completion", "projections", "redetected", "triangulate", "triangulated_poses"]

# Tried for the width of the Cauchy weights, on training frames.
WIDTHS_PX = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
WIDTHS_NORMALISED = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
_FRAMES = 200  # training frames on which a width is chosen
_PASSES = 20


def projections(rotations: Any, centres: Any, intrinsics: Any) -> np.ndarray:
    """K [R | -R c] (..., 3, 4) of pinhole cameras, of centres (..., 3) in the world."""
    rotations, centres = np.asarray(rotations), np.asarray(centres)
    moved = -np.einsum("...ab,...b->...a", rotations, centres)
    return np.asarray(intrinsics) @ np.concatenate([rotations, moved[..., None]], axis=-1)


def _solved(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Least-squares points (..., 3) of rows (..., n, 4) . (x, 1) = 0 with weights (..., n)."""
    a, b = rows[..., :3], -rows[..., 3]
    normal = np.einsum("...ni,...n,...nj->...ij", a, weights, a)
    ridge = 1e-12 * np.trace(normal, axis1=-2, axis2=-1)[..., None, None] + 1e-300
    right = np.einsum("...ni,...n,...n->...i", a, weights, b)
    return np.linalg.solve(normal + ridge * np.eye(3), right[..., None])[..., 0]


def _residuals(cameras: np.ndarray, points: np.ndarray, x: np.ndarray) -> tuple[Any, Any]:
    """Distances (N, V, J) of projected x (N, J, 3), and depths (N, V, J)."""
    whole = np.concatenate([x, np.ones((*x.shape[:-1], 1))], axis=-1)
    seen = np.einsum("nvab,njb->nvja", cameras, whole)
    depth = np.where(np.abs(seen[..., 2]) > 1e-9, seen[..., 2], 1e-9)
    return np.linalg.norm(seen[..., :2] / depth[..., None] - points, axis=-1), depth


def triangulate(
    cameras: np.ndarray, points: np.ndarray, visible: np.ndarray, width: float
) -> np.ndarray:
    """Robust triangulation of joints (N, J, 3); NaN where fewer than two views see one.

    Minimises sum_v log(1 + (r_v / width)^2) over the distances r_v in the images, from the best of
    all pairs of views.

    Args:
        cameras: (N, V, 3, 4) projections; a last row (0, 0, 0, 1) is a parallel projection.
        points: (N, V, J, 2) in the images' unit.
        visible: (N, V, J) bool.
        width: of the Cauchy kernel, in the images' unit.
    """
    points = np.where(visible[..., None], points, 0.0)
    # (N, J, V, 2, 4): u P3 - P1 and v P3 - P2 vanish at the joint.
    first = cameras[:, :, None, :2] - points[..., None] * cameras[:, :, None, 2:]
    rows = np.moveaxis(first, 2, 1)
    seen = np.moveaxis(visible, 2, 1)  # (N, J, V)

    def solve(weights: np.ndarray) -> np.ndarray:  # (N, J, V)
        flat = rows.reshape(*rows.shape[:2], -1, 4)
        return _solved(flat, np.repeat(weights, 2, axis=-1))

    def cost(x: np.ndarray) -> np.ndarray:
        distance, _ = _residuals(cameras, points, x)
        return np.sum(np.where(visible, np.log1p((distance / width) ** 2), 0), axis=1)  # (N, J)

    best = np.full((*seen.shape[:2], 3), np.nan)
    lowest = np.full(seen.shape[:2], np.inf)
    for pair in itertools.combinations(range(seen.shape[2]), 2):
        both = seen[..., pair[0]] & seen[..., pair[1]]
        weights = np.zeros(seen.shape)
        weights[..., pair] = 1.0
        x = solve(weights)
        value = np.where(both, cost(x), np.inf)
        better = value < lowest
        best[better], lowest[better] = x[better], value[better]
    known = np.isfinite(lowest)
    x = np.where(known[..., None], best, 0.0)
    for _ in range(_PASSES):
        distance, depth = _residuals(cameras, points, x)
        weights = np.where(visible, 1 / (1 + (distance / width) ** 2) / depth**2, 0)
        moved = solve(np.moveaxis(weights, 2, 1))
        value = cost(moved)
        better = known & (value < lowest)
        x[better], lowest[better] = moved[better], value[better]
    return np.where(known[..., None], x, np.nan)


class Completion:
    """Fills missing joints from a normal distribution of training poses about an unknown place."""

    def __init__(self, joints: np.ndarray):
        centred = joints - joints.mean(axis=1, keepdims=True)
        flat = centred.reshape(len(joints), -1)
        self.mean = flat.mean(axis=0)
        place = np.tile(np.eye(3), (joints.shape[1], joints.shape[1]))
        size = float(np.mean(flat**2))
        # The place of a pose is unknown, and measured joints are exact to a small part of its size.
        self.covariance = np.cov(flat.T) + 1e4 * size * place + 1e-6 * size * np.eye(flat.shape[1])
        first, second = (list(column) for column in zip(*LIMBS, strict=True))
        self.limbs = first, second
        self.lengths = np.linalg.norm(joints[:, first] - joints[:, second], axis=-1).mean(axis=0)

    def scale_of(self, poses: np.ndarray) -> np.ndarray:
        """(N,) training size over that of each pose, by the median of its limbs that are known."""
        lengths = np.linalg.norm(poses[:, self.limbs[0]] - poses[:, self.limbs[1]], axis=-1)
        ratio = self.lengths / np.where(lengths > 0, lengths, np.nan)
        known = np.isfinite(ratio).any(axis=1)
        out = np.ones(len(poses))
        out[known] = np.nanmedian(ratio[known], axis=1)
        return out

    def __call__(self, poses: np.ndarray) -> np.ndarray:
        """Poses (N, J, 3) [mm] without NaN, but where no joint is known."""
        flat = poses.reshape(len(poses), -1).copy()
        missing = np.isnan(flat)
        patterns, of = np.unique(missing, axis=0, return_inverse=True)
        for i, lost in enumerate(patterns):
            if not lost.any() or lost.all():
                continue
            rows = np.flatnonzero(of.ravel() == i)
            known = self.covariance[np.ix_(~lost, ~lost)]
            gain = np.linalg.solve(known, self.covariance[np.ix_(~lost, lost)])
            away = flat[np.ix_(rows, np.flatnonzero(~lost))] - self.mean[~lost]
            flat[np.ix_(rows, np.flatnonzero(lost))] = self.mean[lost] + away @ gain
        return flat.reshape(poses.shape)


def _cameras_and_points(
    frames: PoseFrames, batch: Batch, mean_cameras: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Projections (N, V, 3, 4), points (N, V, 17, 2) and their mask: of the true cameras, or of
    parallel projections by the mean cameras (V, 3, 3).
    """
    views = batch.points.shape[1]
    if mean_cameras is None:
        assert frames.centres is not None
        assert frames.intrinsics is not None
        own = projections(frames.cameras, frames.centres, frames.intrinsics)[:, :views]
        return own[frames.subject], np.asarray(batch.points), np.asarray(batch.visible)
    points, visible = (np.asarray(x) for x in normalise_points(batch.points, batch.visible))
    # The points are turned by half a turn: the pose is found with the opposite sign.
    one = np.zeros((views, 3, 4))
    one[:, :2, :3], one[:, 2, 3] = -mean_cameras[:, :2], 1.0
    return np.broadcast_to(one, (len(points), views, 3, 4)), points, visible


def triangulated_poses(
    train: PoseFrames,
    train_batch: Batch,
    test: PoseFrames,
    batch: Batch,
    mean_cameras: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
    """Poses (N, 17, 3) [mm] about their mean, as large as found, and the width that was chosen.

    The width of the Cauchy weights is the best on evenly spaced training frames. With mean cameras
    the size is that of the training's limbs.
    """  # fmt: skip
    complete = Completion(np.asarray(train_batch.joints))

    def solve(frames: PoseFrames, own: Batch, width: float) -> np.ndarray:
        found = triangulate(*_cameras_and_points(frames, own, mean_cameras), width)
        if mean_cameras is not None:
            found = complete.scale_of(found)[:, None, None] * found
        found = complete(found)
        return found - found.mean(axis=1, keepdims=True)

    num = len(train.joints)
    index = np.linspace(0, num - 1, min(_FRAMES, num)).astype(int)
    few = train.take(index)
    few_batch = Batch(*(leaf[index] for leaf in train_batch))
    scores = {}
    for width in WIDTHS_PX if mean_cameras is None else WIDTHS_NORMALISED:
        poses = with_norm(solve(few, few_batch, width), few_batch.limb_norm)
        scores[width] = float(np.nanmean(mpjpe(poses, few_batch.joints)))
    width = min(scores, key=lambda one: scores[one])
    return solve(test, batch, width), width


def with_norm(poses: np.ndarray, norm: Any) -> np.ndarray:
    """Poses (N, 17, 3) scaled to limb norms (N,)."""
    own = np.asarray(limb_norm(jnp.asarray(poses)))
    return (np.asarray(norm) / own)[:, None, None] * poses


def redetected(frames: PoseFrames, seed: int, noise: float = 3.0) -> PoseFrames | None:
    """The same frames as another detector sees them; None where the cameras are not known.

    Normal errors of `noise` [px], no lost joints and no exchanged limbs; the neck is not detected.
    """
    if frames.centres is None or frames.intrinsics is None or not len(frames.joints):
        return None
    cameras = projections(frames.cameras, frames.centres, frames.intrinsics)[frames.subject]
    whole = np.concatenate([frames.joints, np.ones((*frames.joints.shape[:2], 1))], axis=-1)
    seen = np.einsum("nvab,njb->nvja", cameras, whole)
    points = seen[..., :2] / seen[..., 2:]
    rng = np.random.default_rng([seed, 3])
    visible = np.ones(points.shape[:-1], bool)
    visible[..., 9] = False
    return frames._replace(points=points + noise * rng.normal(size=points.shape), visible=visible)
