"""The energy of a relative pose of two cameras: point matches and a prior pose.

For R in SO(3) and a unit vector t, with r_n the Sampson distance of match n (normalised points) and
rho Welsch's kernel,

    E = sum_n w_n rho(r_n^2) / (2 s^2) + 1/2 p_R |R - R_0|^2 / 2 + 1/2 p_t |t - t_0|^2.

Distances are in units of their noise s, so E is a negative log likelihood. To second order
|R - R_0|^2 / 2 is the squared angle between the rotations and |t - t_0|^2 that between the
directions, so precisions p are 1 / angle^2. A network gives the prior, its precisions and the
matches' confidences; all are learned through the minimiser.

Source: the future work of Melekhov et al. 2017; Sampson 1982; Welsch's kernel in
`jaxcv.least_squares.kernels`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.geometry.epipolar import essential_matrix, sampson_distance
from jaxcv.least_squares.kernels import Welsch

__all__ = ["EpipolarParameters", "epipolar_energy", "squared_distances"]


class EpipolarParameters(NamedTuple):
    """Parameters of the energy of one pair.

    Attributes:
        rotation: (3, 3) R_0.
        direction: (3,) t_0, of length 1.
        log_precision: (2,) log of p_R and p_t [1/rad^2].
        log_confidence: (N,) log of w_n.
        log_noise: () log of s, in normalised units.
        log_width: () log of the kernel's scale over s; matches beyond it are outliers.
    """

    rotation: Any
    direction: Any
    log_precision: Any
    log_confidence: Any
    log_noise: Any
    log_width: Any


def epipolar_energy(
    y: dict[str, jax.Array],
    theta: EpipolarParameters,
    points1: jax.Array,
    points2: jax.Array,
    valid: jax.Array,
) -> jax.Array:
    """E of a pose {rotation (3, 3), direction (3,)}.

    Args:
        y: the pose, x2 = R x1 + t.
        theta: prior, precisions, confidences and scales.
        points1: (N, 2), normalised by the intrinsics.
        points2: (N, 2).
        valid: (N,) bool, False for padding.

    Returns:
        ().
    """
    costs = Welsch(jnp.exp(theta.log_width)).rho(squared_distances(y, theta, points1, points2))
    matches = 0.5 * jnp.sum(jnp.where(valid, jnp.exp(theta.log_confidence) * costs, 0))
    turned = 0.5 * jnp.sum((y["rotation"] - theta.rotation) ** 2)
    moved = jnp.sum((y["direction"] - theta.direction) ** 2)
    prior = 0.5 * jnp.vdot(jnp.exp(theta.log_precision), jnp.stack([turned, moved]))
    return matches + prior


def squared_distances(
    y: dict[str, jax.Array], theta: EpipolarParameters, points1: jax.Array, points2: jax.Array
) -> jax.Array:
    """r_n^2 / s^2 (N,): squared Sampson distances of the matches, in units of the noise."""
    essential = essential_matrix(y["rotation"], y["direction"])
    return sampson_distance(essential, points1, points2) ** 2 * jnp.exp(-2 * theta.log_noise)
