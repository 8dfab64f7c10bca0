"""Errors of hand poses: plain arrays in, one value per sample out.

Published numbers compare joints in the camera's frame [mm] without any alignment. A frame is a
success at a threshold if its largest joint error is at most the threshold.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcv.checks import argument_error

__all__ = ["THRESHOLDS", "joint_errors", "lift_joints", "pose_scores", "success_rate"]

THRESHOLDS = np.arange(0.0, 81.0)  # [mm], of the published curves


def joint_errors(predicted: Any, target: Any, *, missing: bool = False) -> np.ndarray:
    """Euclidean distance of every joint, (..., J), in the unit of the input.

    The mean over frames and joints is the published mean error; over frames, that of each joint.

    Args:
        predicted: (..., J, 3).
        target: (..., J, 3).
        missing: whether joints may be nan; their errors are nan.

    Raises:
        ValueError: shapes that differ, or joints that are not finite without `missing`.
    """
    predicted, target = np.asarray(predicted, float), np.asarray(target, float)
    if predicted.shape != target.shape or predicted.ndim < 2 or predicted.shape[-1] != 3:
        expected = "expected (..., J, 3) and the same shape of `target`"
        raise argument_error("predicted", expected, (predicted.shape, target.shape))
    for name, value in (("predicted", predicted), ("target", target)):
        if not missing and not np.isfinite(value).all():
            at = tuple(int(i) for i in np.argwhere(~np.isfinite(value))[0])
            hint = "Set missing=True to get nan errors for such joints."
            raise argument_error(name, "expected finite joints", f"{value[at]} at {at}", hint)
    return np.linalg.norm(predicted - target, axis=-1)


def success_rate(errors: Any, thresholds: Any = THRESHOLDS) -> np.ndarray:
    """The fraction of frames whose largest error is at most a threshold, (T,).

    Args:
        errors: (N, J); those not finite are ignored; a frame with no finite error is a failure.
        thresholds: (T,), in the unit of the errors.

    Source: Taylor et al., The Vitruvian Manifold, CVPR 2012; Tang et al., CVPR 2014.
    """
    errors, thresholds = np.asarray(errors, float), np.asarray(thresholds, float)
    if errors.ndim != 2 or not errors.size:
        raise argument_error("errors", "expected (N, J) with a frame or more", errors.shape)
    seen = np.isfinite(errors)
    worst = np.where(seen, errors, -np.inf).max(axis=1)
    worst = np.where(seen.any(axis=1), worst, np.inf)
    return np.mean(worst[:, None] <= thresholds, axis=0)


def pose_scores(
    errors: Any,
    names: Sequence[str],
    thresholds: Sequence[int],
    *,
    tips: Sequence[int] = (),
    middles: Sequence[int] = (),
) -> dict[str, float]:
    """The usual numbers of a method, under the keys of a record.

    Args:
        errors: (N, J) [mm].
        names: of the J joints.
        thresholds: of the success rates [mm].
        tips: joints at the fingers' tips; with `middles` they add `tips_over_middles`.
        middles: joints at the fingers' middle.

    Returns:
        `mean_error_mm`, `success_<t>mm`, `joint_<name>_mm`; `tips_over_middles` is the ratio of
        the mean errors of both kinds of joints, left out where the latter is 0.
    """
    errors = np.asarray(errors, float)
    rates, means = success_rate(errors, thresholds), errors.mean(axis=0)
    out = {"mean_error_mm": float(errors.mean())}
    out |= {f"success_{t}mm": float(rate) for t, rate in zip(thresholds, rates, strict=True)}
    out |= {f"joint_{name}_mm": float(x) for name, x in zip(names, means, strict=True)}
    if len(tips) and len(middles) and (middle := means[list(middles)].mean()) > 0:
        out["tips_over_middles"] = float(means[list(tips)].mean() / middle)
    return out


def lift_joints(
    pixels: Any, depth: Any, target_depth: Any, palm_depth: Any, limit_mm: float = 150.0
) -> np.ndarray:
    """Joints (N, J, 3) (u, v [px], depth [mm]) of 2-D predictions, with depths of the sensor.

    Outside the image, or where its depth differs from the palm's by more than `limit_mm`
    (background or missing), the true depth is used. This published protocol favours 2-D methods.

    Args:
        pixels: (N, J, 2) u, v [px]; the depth is read at the nearest pixel.
        depth: (N, H, W) [mm], 0 where missing.
        target_depth: (N, J) [mm], of the labels.
        palm_depth: (N,) [mm], of the labels.
        limit_mm: largest difference from the palm's depth [mm].

    Source: Tompson et al., SIGGRAPH 2014, as Oberweger et al., CVWW 2015, score it.
    """
    pixels, depth = np.asarray(pixels, float), np.asarray(depth, float)
    target_depth, palm_depth = np.asarray(target_depth, float), np.asarray(palm_depth, float)
    n, j = pixels.shape[:2]
    if (
        pixels.shape != (n, j, 2) or depth.shape[:1] != (n,) or depth.ndim != 3
        or target_depth.shape != (n, j) or palm_depth.shape != (n,)
    ):  # fmt: skip
        expected = "expected (N, J, 2), depth (N, H, W), target_depth (N, J) and palm_depth (N,)"
        got = pixels.shape, depth.shape, target_depth.shape, palm_depth.shape
        raise argument_error("pixels", expected, got)
    height, width = depth.shape[1:]
    u, v = (np.floor(pixels[..., k] + 0.5).astype(int) for k in (0, 1))
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    frame = np.arange(n)[:, None]
    seen = depth[frame, np.clip(v, 0, height - 1), np.clip(u, 0, width - 1)]
    near = inside & (np.abs(seen - palm_depth[:, None]) <= limit_mm)
    return np.concatenate([pixels, np.where(near, seen, target_depth)[..., None]], axis=-1)
