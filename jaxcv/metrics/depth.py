"""Errors of depth maps as in DeMoN's benchmark: plain arrays in, one value per sample out.

Depths are in baselines: true ones are divided by |t|, predictions are used as given. A pixel counts
if both depths are finite and positive. L1-inv shrinks with the baseline, so a constant prediction
can score well: never report L1-inv alone.

Source: Ummenhofer et al., "DeMoN", CVPR 2017, section 6, and its evaluation code.
"""

from typing import Any

import numpy as np

from jaxcv.checks import argument_error

__all__ = ["depth_errors", "mask_by_second_view"]


def depth_errors(predicted: Any, target: Any, translation: Any = None) -> dict[str, np.ndarray]:
    """l1_inv, sc_inv and l1_rel (...), and `pixels`, the number of pixels that count.

        l1_inv = mean |1 / d - 1 / d*|,   l1_rel = mean |d - d*| / d*
        sc_inv = sqrt(mean l^2 - (mean l)^2),   l = log d - log d*

    Args:
        predicted: (..., H, W), in baselines.
        target: (..., H, W); nan or 0 where unknown.
        translation: (..., 3) in the unit of the target; its length divides the target. None: the
            target is in baselines.

    Returns:
        nan errors for a sample in which no pixel counts.

    Raises:
        ValueError: shapes that differ.
    """
    predicted, target = np.asarray(predicted, float), np.asarray(target, float)
    if predicted.shape != target.shape or predicted.ndim < 2:
        expected = "expected (..., H, W) and the same shape of `target`"
        raise argument_error("predicted", expected, (predicted.shape, target.shape))
    if translation is not None:
        length = np.linalg.norm(np.asarray(translation, float), axis=-1)
        target = target / length[..., None, None]
    known = np.isfinite(predicted) & np.isfinite(target)
    known &= np.where(known, (predicted > 0) & (target > 0), False)
    d, t = np.where(known, predicted, 1), np.where(known, target, 1)
    count = known.sum(axis=(-2, -1))

    def mean(values):
        total = np.sum(np.where(known, values, 0), axis=(-2, -1))
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    logs = np.log(d) - np.log(t)
    variance = mean(logs**2) - mean(logs) ** 2
    return {
        "l1_inv": mean(np.abs(1 / d - 1 / t)),
        "sc_inv": np.sqrt(np.maximum(variance, 0)),
        "l1_rel": mean(np.abs(d - t) / t),
        "pixels": count,
    }


def mask_by_second_view(depth: Any, intrinsics: Any, motion: Any) -> np.ndarray:
    """The depths (N, H, W), nan where the pixel does not project into the second image.

    The second image spans whole pixels, 0 to W and 0 to H; occlusion is ignored. The benchmark
    applies this mask to every data set except nyu2.

    Args:
        depth: (N, H, W).
        intrinsics: (N, 3, 3) [px] of both images, pixel centres at integers.
        motion: (N, 4, 4), first to second view, in the unit of the depth.
    """
    depth, k = np.asarray(depth, float), np.asarray(intrinsics, float)
    height, width = depth.shape[-2:]
    v, u = np.mgrid[:height, :width].astype(float)
    rays = np.einsum("nij,hwj->nhwi", np.linalg.inv(k), np.stack([u, v, np.ones_like(u)], -1))
    motion = np.asarray(motion, float)
    points = np.einsum("nij,nhwj->nhwi", motion[:, :3, :3], rays * depth[..., None])
    points = np.einsum("nij,nhwj->nhwi", k, points + motion[:, None, None, :3, 3])
    with np.errstate(invalid="ignore", divide="ignore"):
        x, y = points[..., 0] / points[..., 2] + 0.5, points[..., 1] / points[..., 2] + 0.5
        seen = (points[..., 2] > 0) & (x > 0) & (x < width) & (y > 0) & (y < height)
    return np.where(seen, depth, np.nan)
