"""Whether labels of relative poses mean what this library takes them for.

Data sets differ in what R and t are: from the first camera to the second or back, y down or up, t
with either sign. Matches of features tell, without a trained model. (Whether rotations agree among
themselves: `jaxcv.metrics.motion.cycle_errors`.)
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
_FEWEST = 12  # matches of a pair that counts
_NEAR = 3.0  # [px]
_BETTER = 0.2  # by which another convention's share is to be greater


def relabelled(rotation: Any, direction: Any, convention: str) -> tuple[np.ndarray, np.ndarray]:
    """The labels (N, 3, 3) and (N, 3) as they should be if they are given in a convention."""
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
    """Convention -> the median share of a pair's matches that agree with its labels so read.

    A match agrees within 3 px of its epipolar line, before both cameras.

    Args:
        matches: points1 (N, M, 2) and points2, normalised, valid (N, M) and focal (N,) [px].
        rotation: (N, 3, 3).
        direction: (N, 3).

    Returns:
        Of the pairs with twelve matches or more; empty where there is none.
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
    """Raises ValueError where another convention fits the matches better by .2 of them.

    Args:
        matches: as of `agreement`.
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
        hint = f"jaxcv.data.pose_labels.relabelled(.., {best!r}) turns them."
        expected = "expected x2 = R x1 + t with x right, y down, z forward"
        raise argument_error(name, expected, got, hint)
