"""Checks the convention of relative-pose labels against feature matches.

Data sets differ in R and t: from the first camera to the second or back, y down or up, t with
either sign. Feature matches decide, without a trained model. (For the consistency of the rotations
see `jaxcv.metrics.motion.cycle_errors`.)
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.checks import argument_error
from jaxcv.data.relative_pose import inverse_pose
from jaxcv.geometry.epipolar import essential_matrix, sampson_distance, triangulate

__all__ = ["CONVENTIONS", "agreement", "check_labels", "relabelled"]

CONVENTIONS = ("as given", "t negated", "second to first", "y up", "second to first, y up")
_FLIP = np.diag([1.0, -1.0, -1.0])
_FEWEST = 12  # matches of a usable pair
_NEAR = 3.0  # [px]
_BETTER = 0.2  # margin by which another convention must fit better


def relabelled(rotation: Any, direction: Any, convention: str) -> tuple[np.ndarray, np.ndarray]:
    """Converts labels (N, 3, 3) and (N, 3) from `convention` to x2 = R x1 + t, y down."""
    r, t = np.asarray(rotation, float), np.asarray(direction, float)
    if convention.endswith("y up"):
        r, t = _FLIP @ r @ _FLIP, t @ _FLIP
    if convention.startswith("second to first"):
        r, t = inverse_pose(r, t)
    return r, -t if convention == "t negated" else t


@jax.jit
def _shares(points1, points2, valid, focal, rotation, direction):
    def one(p1, p2, valid, focal, rotation, direction):
        essential = essential_matrix(rotation, direction)
        near = jnp.abs(sampson_distance(essential, p1, p2)) < _NEAR / focal
        first, second = triangulate(rotation, direction, p1, p2)
        good = near & (first > 0) & (second > 0) & valid
        return jnp.sum(good) / jnp.maximum(jnp.sum(valid), 1)

    return jax.vmap(one)(points1, points2, valid, focal, rotation, direction)


def agreement(matches: Any, rotation: Any, direction: Any) -> dict[str, float]:
    """Convention -> median over pairs of the fraction of matches that agree with the labels.

    A match agrees within 3 px of its epipolar line and in front of both cameras.

    Args:
        matches: points1 (N, M, 2) and points2, normalised, valid (N, M) and focal (N,) [px].
        rotation: (N, 3, 3).
        direction: (N, 3).

    Returns:
        Fractions over the pairs with twelve matches or more; empty if there are none.
    """
    rows = np.asarray(matches.valid).sum(axis=1) >= _FEWEST
    if not rows.any():
        return {}
    own = [
        jnp.asarray(np.asarray(x)[rows])
        for x in (matches.points1, matches.points2, matches.valid, matches.focal)
    ]
    out = {}
    for convention in CONVENTIONS:
        r, t = relabelled(np.asarray(rotation)[rows], np.asarray(direction)[rows], convention)
        dtype = own[0].dtype
        out[convention] = float(
            np.median(_shares(*own, jnp.asarray(r, dtype), jnp.asarray(t, dtype)))
        )
    return out


def check_labels(matches: Any, rotation: Any, direction: Any, name: str = "labels") -> None:
    """Raises ValueError if another convention fits 20% more of the matches.

    Args:
        matches: as for `agreement`.
        rotation: (N, 3, 3).
        direction: (N, 3).
        name: of the labels.
    """
    shares = agreement(matches, rotation, direction)
    if not shares:
        return
    best = max(shares, key=lambda convention: shares[convention])
    if shares[best] > shares["as given"] + _BETTER:
        got = f"{shares['as given']:.0%} of the matches agree, {shares[best]:.0%} if {best!r}"
        hint = f"jaxcv.data.pose_labels.relabelled(.., {best!r}) converts them."
        expected = "expected x2 = R x1 + t with x right, y down, z forward"
        raise argument_error(name, expected, got, hint)
