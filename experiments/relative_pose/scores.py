"""Scores of poses: errors, failures, answers; by texture, condition and scene."""

from typing import Any, NamedTuple

import numpy as np

from experiments.relative_pose.conditions import conditions_of
from experiments.relative_pose.data import Data
from jaxcv.metrics.motion import (
    folded,
    pose_auc,
    pose_failures,
    rotation_error,
    translation_error,
)

__all__ = [
    "REGIMES", "Poses", "answered", "by_condition", "by_scene", "errors_of", "regimes_of", "scores",
]  # fmt: skip

REGIMES = ("textured", "textureless")


class Poses(NamedTuple):
    """Poses of N pairs by one method.

    Attributes:
        rotation: (N, 3, 3); nan where the method gives no pose.
        direction: (N, 3).
        confidence: (N,) in [0, 1]; nan for a method without confidence.
    """

    rotation: np.ndarray
    direction: np.ndarray
    confidence: np.ndarray


def errors_of(poses: Poses, pairs: Any) -> tuple[np.ndarray, np.ndarray]:
    """Errors (N,) of rotation and direction [deg]; 180 where there is no pose."""
    none = ~answered(poses)
    turned = rotation_error(poses.rotation, pairs.rotation)
    moved = translation_error(poses.direction, pairs.direction)
    return np.where(none, 180.0, turned), np.where(none, 180.0, moved)


def answered(poses: Poses) -> np.ndarray:
    """Mask (N,) of the pairs with a pose."""
    return ~np.isnan(poses.direction[:, 0])


def regimes_of(pairs: Any) -> dict[str, np.ndarray]:
    """Regime -> mask (N,) of its pairs; `all` is added if there are several regimes."""
    textured = np.asarray(pairs.textured)
    out = dict(zip(REGIMES, (textured, ~textured), strict=True))
    out = {name: rows for name, rows in out.items() if rows.any()}
    return out if len(out) < 2 else {"all": np.ones(len(textured), bool)} | out


def scores(poses: Poses, pairs: Any) -> dict[str, float]:
    """Scores by regime; `confident_failures` is nan if no pose is confident.

    A pair without an answer counts with 180 degrees, but in `answered_...`.
    """
    out, given, both = {}, answered(poses), errors_of(poses, pairs)
    for regime, rows in regimes_of(pairs).items():
        turned, moved = (error[rows] for error in both)
        unsigned = np.where(~given[rows], 90.0, folded(moved))  # the largest folded angle
        auc = pose_auc(turned, unsigned)
        failed = pose_failures(turned, moved)
        own = {
            "roe_median_deg": np.median(turned), "rte_median_deg": np.median(moved),
            "rte_folded_median_deg": np.median(unsigned),
            "auc5": auc[0], "auc10": auc[1], "auc20": auc[2], "failures": failed.mean(),
        }  # fmt: skip
        rows_given = given[rows]
        own["answered"] = rows_given.mean()
        if rows_given.any():
            own["answered_roe_median_deg"] = np.median(turned[rows_given])
            own["answered_rte_median_deg"] = np.median(moved[rows_given])
        if np.isfinite(poses.confidence[rows]).all():
            confident = poses.confidence[rows] >= 0.5
            own["confident"] = confident.mean()
            own["confident_failures"] = failed[confident].mean() if confident.any() else np.nan
        out |= {f"{regime}/{name}": float(value) for name, value in own.items()}
    return out


def by_condition(data: Data, poses: dict[str, Poses]) -> dict[str, Any]:
    """Failures of the first seed by the conditions of the pairs, and their numbers."""
    out: dict[str, Any] = {}
    failed = {
        method: pose_failures(*errors_of(own, data.test.pairs)) for method, own in poses.items()
    }
    for name, rows in conditions_of(data.test).items():
        out[f"pairs/{name}"] = int(rows.sum())
        for method, own in failed.items():
            out[f"{method}/{name}/failures"] = float(own[rows].mean())
    return out


def by_scene(data: Data, poses: dict[str, Poses]) -> dict[str, Any]:
    """Median errors, failures and answers of the first seed in each test scene; its pairs.

    Nothing if the scenes are not known.
    """
    scenes = data.test.scenes
    if scenes is None:
        return {}
    errors = {method: errors_of(own, data.test.pairs) for method, own in poses.items()}
    out: dict[str, Any] = {}
    for scene in sorted(set(scenes.tolist())):
        rows = scenes == scene
        out[f"pairs/scene_{scene}"] = int(rows.sum())
        for method, own in poses.items():
            turned, moved = (error[rows] for error in errors[method])
            values = {
                "roe_median_deg": np.median(turned), "rte_median_deg": np.median(moved),
                "failures": pose_failures(turned, moved).mean(),
                "answered": answered(own)[rows].mean(),
            }  # fmt: skip
            out |= {f"{method}/scene_{scene}/{key}": float(value) for key, value in values.items()}
    return out
