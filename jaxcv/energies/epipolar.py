"""The energy of a relative pose of two cameras: point matches and a prior pose.

For R in SO(3) and a unit vector t, with r_n the Sampson distance of match n (normalised points) and
rho a robust kernel, Welsch's or the negative logarithm of a density of residuals,

    E = sum_n w_n rho(r_n^2) / (2 s^2) + 1/2 p_R |R - R_0|^2 / 2 + 1/2 p_t |t - t_0|^2.

If a focal length is unknown, its logarithm f about a guess is a further unknown, with 1/2 p_f f^2
added. The points stay normalised by the guess, and r_n is the distance to

    D_2 hat(t) R D_1,   D_i = diag(e^-f, e^-f, 1) for a camera of unknown focal length, else I.

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

from jaxcv.energies.residual_density import ResidualDensity
from jaxcv.geometry.epipolar import essential_matrix, sampson_distance
from jaxcv.least_squares.kernels import Welsch

__all__ = [
    "EpipolarParameters", "UnknownFocal", "at_focal", "distances", "epipolar_energy",
    "kernel_of", "squared_distances",
]  # fmt: skip


class UnknownFocal(NamedTuple):
    """A focal length that is unknown, of one camera or shared by both.

    Attributes:
        shares: (2,) 1 for a camera that has it, 0 for one whose focal length is known.
        log_precision: () log of p_f, of its logarithm about the guess.
    """

    shares: Any
    log_precision: Any


class EpipolarParameters(NamedTuple):
    """Parameters of the energy of one pair.

    Attributes:
        rotation: (3, 3) R_0.
        direction: (3,) t_0, of length 1.
        log_precision: (2,) log of p_R and p_t [1/rad^2].
        log_confidence: (N,) log of w_n.
        log_noise: () log of s, in normalised units.
        log_width: () log of the kernel's scale over s; matches beyond it are outliers.
        focal: None: the focal lengths are known.
        density: of the residuals in units of s, in place of Welsch's kernel; None: that kernel.
    """

    rotation: Any
    direction: Any
    log_precision: Any
    log_confidence: Any
    log_noise: Any
    log_width: Any
    focal: UnknownFocal | None = None
    density: ResidualDensity | None = None


def kernel_of(theta: EpipolarParameters) -> Welsch | ResidualDensity:
    """The kernel of theta: a cost `rho` of squared distances, and its derivative `weight`."""
    return Welsch(jnp.exp(theta.log_width)) if theta.density is None else theta.density


def epipolar_energy(
    y: dict[str, jax.Array],
    theta: EpipolarParameters,
    points1: jax.Array,
    points2: jax.Array,
    valid: jax.Array,
) -> jax.Array:
    """E of a pose {rotation (3, 3), direction (3,)}, with log_focal () if theta has `focal`.

    Args:
        y: the pose, x2 = R x1 + t.
        theta: prior, precisions, confidences and scales.
        points1: (N, 2), normalised by the intrinsics.
        points2: (N, 2).
        valid: (N,) bool, False for padding.

    Returns:
        ().
    """
    costs = kernel_of(theta).rho(squared_distances(y, theta, points1, points2))
    matches = 0.5 * jnp.sum(jnp.where(valid, jnp.exp(theta.log_confidence) * costs, 0))
    turned = 0.5 * jnp.sum((y["rotation"] - theta.rotation) ** 2)
    moved = jnp.sum((y["direction"] - theta.direction) ** 2)
    prior = 0.5 * jnp.vdot(jnp.exp(theta.log_precision), jnp.stack([turned, moved]))
    if theta.focal is not None:
        prior = prior + 0.5 * jnp.exp(theta.focal.log_precision) * y["log_focal"] ** 2
    return matches + prior


def _scales(y: dict[str, jax.Array], theta: EpipolarParameters) -> jax.Array:
    """e^f (2,) of both cameras; 1 where the focal length is known."""
    assert theta.focal is not None
    return jnp.exp(theta.focal.shares * y["log_focal"])


def at_focal(
    y: dict[str, jax.Array], theta: EpipolarParameters, points1: jax.Array, points2: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The points (N, 2) of both cameras, normalised by the focal lengths of y."""
    if theta.focal is None:
        return points1, points2
    scales = _scales(y, theta)
    return points1 / scales[0], points2 / scales[1]


def distances(
    y: dict[str, jax.Array], theta: EpipolarParameters, points1: jax.Array, points2: jax.Array
) -> jax.Array:
    """r_n / s (N,): signed Sampson distances of the matches, in units of the noise."""
    essential = essential_matrix(y["rotation"], y["direction"])
    if theta.focal is not None:
        third = jnp.ones((2, 1), essential.dtype)
        scales = 1 / jnp.concatenate([jnp.tile(_scales(y, theta)[:, None], 2), third], axis=1)
        essential = scales[1][:, None] * essential * scales[0]
    return sampson_distance(essential, points1, points2) * jnp.exp(-theta.log_noise)


def squared_distances(
    y: dict[str, jax.Array], theta: EpipolarParameters, points1: jax.Array, points2: jax.Array
) -> jax.Array:
    """r_n^2 / s^2 (N,): squared Sampson distances of the matches, in units of the noise."""
    return distances(y, theta, points1, points2) ** 2
