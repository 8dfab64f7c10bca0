"""Errors of relative camera motions, in degrees: plain arrays in, one value per sample out."""

from typing import Any

import numpy as np

__all__ = ["rotation_error", "translation_error"]


def rotation_error(predicted: Any, target: Any) -> np.ndarray:
    """The angle (...) of R_p R_t^T [deg], for rotations (..., 3, 3).

    By the chord, 2 asin(|R_p - R_t| / (2 sqrt 2)), which loses nothing at small angles.
    """
    chord = np.linalg.norm(np.asarray(predicted, float) - np.asarray(target, float), axis=(-2, -1))
    return np.rad2deg(2 * np.arcsin(np.clip(chord / np.sqrt(8), 0, 1)))


def translation_error(predicted: Any, target: Any) -> np.ndarray:
    """The angle (...) between directions (..., 3) [deg], from 0 to 180; 90 for a length of zero.

    As in DeMoN's benchmark a predicted translation of a length up to 1e-6 is no direction.
    """
    p, t = np.asarray(predicted, float), np.asarray(target, float)
    length = np.linalg.norm(p, axis=-1, keepdims=True)
    p = np.where(length > 1e-6, p / np.maximum(length, 1e-6), 0)
    t = t / np.linalg.norm(t, axis=-1, keepdims=True)
    angle = 2 * np.arctan2(np.linalg.norm(p - t, axis=-1), np.linalg.norm(p + t, axis=-1))
    return np.rad2deg(np.where(length[..., 0] > 1e-6, angle, np.pi / 2))
