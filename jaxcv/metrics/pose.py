"""Errors of 3-D poses: plain arrays in, one value per sample out.

Protocols differ between papers, and their numbers are not comparable:

| name here                        | alignment                          | also called             |
|----------------------------------|------------------------------------|-------------------------|
| `mpjpe` of poses about their root | translation to the root           | protocol 1, Human3.6M   |
| `mpjpe` with the true limb norm  | mean joint at the origin, true     | Wibergian learning,     |
|                                  | scale of the person, all 17 joints | Table 2                 |
| `aligned_mpjpe`                  | translation, optionally a rotation | N-MPJPE without scale   |
|                                  | about the vertical axis            |                         |
| `procrustes_mpjpe`               | rotation, translation and scale    | protocol 2, PA-MPJPE,   |
|                                  |                                    | over 17 or 14 joints    |
"""

from typing import Any

import numpy as np

from jaxcv.checks import argument_error

__all__ = ["aligned_mpjpe", "by_action", "mpjpe", "procrustes_align", "procrustes_mpjpe"]


def _pair(predicted: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
    predicted, target = np.asarray(predicted), np.asarray(target)
    if predicted.shape != target.shape or predicted.ndim < 2 or predicted.shape[-1] != 3:
        expected = "expected (..., J, 3) and the same shape of `target`"
        raise argument_error("predicted", expected, (predicted.shape, target.shape))
    return predicted, target


def mpjpe(predicted: Any, target: Any, visible: Any = None) -> np.ndarray:
    """Mean per-joint position error (...), in the unit of the input, without any alignment.

    Args:
        predicted: (..., J, 3).
        target: (..., J, 3).
        visible: (..., J) bool, the joints that count; a sample with none gives nan.

    Source: Ionescu et al., Human3.6M, PAMI 2014.
    """
    predicted, target = _pair(predicted, target)
    distance = np.linalg.norm(predicted - target, axis=-1)
    if visible is None:
        return distance.mean(axis=-1)
    visible = np.broadcast_to(visible, distance.shape)
    count = visible.sum(axis=-1)
    total = np.sum(np.where(visible, distance, 0), axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def aligned_mpjpe(predicted: Any, target: Any, *, vertical: bool = False) -> np.ndarray:
    """Mean per-joint position error (...) after the best translation.

    Args:
        predicted: (..., J, 3).
        target: (..., J, 3).
        vertical: also after the best rotation about the third axis, by least squares.
    """
    predicted, target = _pair(predicted, target)
    x, y = (each - each.mean(axis=-2, keepdims=True) for each in (predicted, target))
    if vertical:
        across = np.sum(x[..., 0] * y[..., 1] - x[..., 1] * y[..., 0], axis=-1)
        along = np.sum(x[..., :2] * y[..., :2], axis=(-2, -1))
        angle = np.arctan2(across, along)[..., None]
        c, s = np.cos(angle), np.sin(angle)
        turned = (c * x[..., 0] - s * x[..., 1], s * x[..., 0] + c * x[..., 1], x[..., 2])
        x = np.stack(turned, axis=-1)
    return np.linalg.norm(x - y, axis=-1).mean(axis=-1)


def procrustes_align(predicted: Any, target: Any) -> np.ndarray:
    """Predicted poses s R x + t (..., J, 3), aligned to the target by least squares.

    R is a rotation, never a reflection. A pose whose joints all coincide becomes the target's mean.

    Source: Umeyama, PAMI 1991.
    """
    predicted, target = _pair(predicted, target)
    mean = target.mean(axis=-2, keepdims=True)
    x, y = predicted - predicted.mean(axis=-2, keepdims=True), target - mean
    left, values, right = np.linalg.svd(np.swapaxes(y, -1, -2) @ x)
    sign = np.sign(np.linalg.det(left @ right))
    sign = np.where(sign == 0, 1, sign)
    flip = np.ones(values.shape)
    flip[..., 2] = sign
    rotation = (left * flip[..., None, :]) @ right
    square = np.sum(x**2, axis=(-2, -1))
    scale = np.sum(values * flip, axis=-1) / np.where(square > 0, square, 1)
    return scale[..., None, None] * (x @ np.swapaxes(rotation, -1, -2)) + mean


def procrustes_mpjpe(predicted: Any, target: Any, joints: Any = None) -> np.ndarray:
    """Mean per-joint position error (...) after the best rotation, translation and scale.

    Args:
        predicted: (..., J, 3).
        target: (..., J, 3).
        joints: indices of the joints that are scored; the alignment uses all. None: all.
    """
    predicted, target = _pair(predicted, target)
    distance = np.linalg.norm(procrustes_align(predicted, target) - target, axis=-1)
    return distance.mean(axis=-1) if joints is None else distance[..., list(joints)].mean(axis=-1)


def by_action(errors: Any, action: Any, names: Any) -> dict[str, float]:
    """Mean error of each action, and `average`, the mean over all frames.

    `average` weights each action by its frames, as in the source's tables; the mean of the actions'
    means differs. Actions without frames are omitted.

    Args:
        errors: (N,).
        action: (N,) int, index into `names`.
        names: of the actions.
    """
    errors, action = np.asarray(errors, float), np.asarray(action)
    if errors.shape != action.shape or errors.ndim != 1 or not errors.size:
        expected = "expected (N,) errors, one or more, and an action for each"
        raise argument_error("errors", expected, (errors.shape, action.shape))
    out = {
        name: float(errors[action == a].mean())
        for a, name in enumerate(names)
        if (action == a).any()
    }
    return out | {"average": float(errors.mean())}
