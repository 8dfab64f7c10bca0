"""What speaks for a relative pose: its evidence, its covariance, and what its matches support.

All functions take one pair, the pose {rotation (3, 3), direction (3,)} with log_focal () if
`theta.focal` is given, the parameters of `jaxcv.energies.epipolar`, and matches (N, 2) with a mask
(N,). None has a gradient worth taking.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxcv.energies.epipolar import (
    EpipolarParameters,
    at_focal,
    distances,
    epipolar_energy,
    kernel_of,
    squared_distances,
)
from jaxcv.geometry.epipolar import angle_behind
from jaxcv.geometry.manifolds import SO3, Product, Sphere
from jaxcv.solvers.retraction import LocalCoordinates, coordinates_at

__all__ = [
    "NEAR", "POSE", "behind", "inlier_probabilities", "linearised", "moved", "pose_covariance",
    "supported", "surprise",
]  # fmt: skip

POSE = Product(rotation=SO3(), direction=Sphere())
SAMPLE = 5  # matches that determine a pose
NEAR = 3.0  # standard deviations within which a match is an inlier
_EDGE = 1e-3  # smallest |z| in a projection
_USUAL = 1.0  # prior log odds that the cameras moved
_TURN_STEPS = 8
_RIDGE = 1e-3  # relative to the mean curvature


def _weights(theta: EpipolarParameters, valid: jax.Array) -> jax.Array:
    return jnp.where(valid, jnp.exp(theta.log_confidence), 0)


def _agreement(theta: EpipolarParameters, square: jax.Array) -> jax.Array:
    """Probabilities (N,) that residuals are of inliers, by their density.

    Welsch's kernel has no density; its weight stands for one.
    """
    if theta.density is None:
        return kernel_of(theta).weight(square)
    return 1 - theta.density.responsibilities(square)[:, -1]


def behind(
    pose: Any, theta: EpipolarParameters, points1: jax.Array, points2: jax.Array
) -> jax.Array:
    """Angles (N,) by which matches violate cheirality, in units of the noise: `angle_behind`."""
    angle = angle_behind(
        pose["rotation"], pose["direction"], *at_focal(pose, theta, points1, points2)
    )
    return angle * jnp.exp(-theta.log_noise)


def linearised(
    pose: Any, theta: EpipolarParameters, points1: jax.Array, points2: jax.Array, valid: jax.Array
) -> tuple[LocalCoordinates, jax.Array, jax.Array]:
    """Local coordinates, gradient (k,) and Gauss-Newton Hessian (k, k), reweighted; k is 5 or 6."""
    slope, tilt, distance, (chart, prior) = _slopes(pose, theta, points1, points2)
    kept = _weights(theta, valid) * kernel_of(theta).weight(distance**2)
    gradient = slope.T @ (kept * distance) + tilt.T @ prior
    return chart, gradient, slope.T @ (kept[:, None] * slope) + tilt.T @ tilt


def _slopes(pose, theta, points1, points2):
    """Slopes of the distances (N, k) and of the prior's residuals; the distances; the rest."""
    precision = jnp.exp(theta.log_precision)
    chart = coordinates_at(pose, POSE)

    def residuals(flat):
        own = chart.to_point(flat)
        turned = jnp.sqrt(precision[0] / 2) * (own["rotation"] - theta.rotation).ravel()
        moved = jnp.sqrt(precision[1]) * (own["direction"] - theta.direction)
        prior = [turned, moved]
        if theta.focal is not None:
            prior.append(jnp.exp(0.5 * theta.focal.log_precision) * own["log_focal"][None])
        out = distances(own, theta, points1, points2), jnp.concatenate(prior)
        return out, out

    (slope, tilt), (distance, prior) = jax.jacfwd(residuals, has_aux=True)(chart.origin)
    return slope, tilt, distance, (chart, prior)


def surprise(
    pose: Any, theta: EpipolarParameters, points1: jax.Array, points2: jax.Array, valid: jax.Array
) -> jax.Array:
    """Negative log evidence () of a minimum, by Laplace's approximation.

        E + log det(H + I) / 2 + cost of matches behind a camera

    I is about the precision of an unconstrained angle. The energy does not depend on the sign of t.
    Here a match behind a camera also pays for the angle by which its ray violates cheirality, under
    the same kernel and noise.
    """
    matches = points1, points2, valid
    _, _, hessian = linearised(pose, theta, *matches)
    _, log_volume = jnp.linalg.slogdet(hessian + jnp.eye(len(hessian), dtype=hessian.dtype))
    square = squared_distances(pose, theta, points1, points2)
    away = 0.5 * behind(pose, theta, points1, points2) ** 2
    rho = kernel_of(theta).rho
    more = _weights(theta, valid) * (rho(square + away) - rho(square))
    more = jnp.where(valid, more, 0)
    return epipolar_energy(pose, theta, *matches) + 0.5 * jnp.sum(more) + 0.5 * log_volume


def moved(
    pose: Any, theta: EpipolarParameters, points1: jax.Array, points2: jax.Array, valid: jax.Array
) -> jax.Array:
    """The probability () that the cameras translated, against a pure rotation.

    A rotation is fitted robustly to the n inliers. What remains is noise across the epipolar lines,
    and noise and parallax along them. With q the ratio of the two variances, by medians, the log
    odds are

        1 + .2 n max(q - 1 - log q, 0) - 1.5 log(n + 1)

    the prior's, half the likelihood ratio of two variances times the efficiency of medians, and
    the cost of three more unknowns. It does not depend on the size of the noise.
    """
    inlier = jnp.where(
        valid, _agreement(theta, squared_distances(pose, theta, points1, points2)), 0
    )
    one, other = at_focal(pose, theta, points1, points2)
    first = jnp.concatenate([one, jnp.ones_like(one[:, :1])], axis=-1)

    def projected(rotation):
        turned = first @ rotation.T
        z = jnp.where(jnp.abs(turned[:, 2:]) < _EDGE, _EDGE, turned[:, 2:])
        return turned[:, :2] / z

    middle = lambda x: jnp.nan_to_num(jnp.nanmedian(jnp.where(inlier > 0.5, x, jnp.nan)))
    least = jnp.finfo(points1.dtype).eps ** 2

    def step(_, rotation):
        gap = projected(rotation) - other
        square = jnp.sum(gap**2, axis=-1)
        kept = inlier / (1 + square / (middle(square) + least))
        place = lambda flat: SO3()(rotation, flat)
        origin = jnp.zeros(3, rotation.dtype)
        slope = jax.jacfwd(lambda flat: projected(place(flat)))(origin)  # (N, 2, 3)
        normal = jnp.einsum("n,nki,nkj->ij", kept, slope, slope)
        gradient = jnp.einsum("n,nki,nk->i", kept, slope, gap)
        ridge = _RIDGE * jnp.trace(normal) / 3 + jnp.finfo(gradient.dtype).tiny
        return place(-jnp.linalg.solve(normal + ridge * jnp.eye(3, dtype=origin.dtype), gradient))

    rotation = jax.lax.fori_loop(0, _TURN_STEPS, step, pose["rotation"])
    at = projected(rotation)
    line = pose["direction"][:2] - at * pose["direction"][2]
    length = jnp.linalg.norm(line, axis=-1, keepdims=True)
    line = line / jnp.where(length > 0, length, 1)
    gap = other - at
    along = jnp.sum(gap * line, axis=-1)
    across = line[:, 0] * gap[:, 1] - line[:, 1] * gap[:, 0]
    ratio = (middle(along**2) + least) / (middle(across**2) + least)
    ratio = jnp.maximum(ratio, 1)
    count = jnp.sum(inlier)
    gain = 0.2 * count * (ratio - 1 - jnp.log(ratio))
    return jax.nn.sigmoid(_USUAL + gain - 1.5 * jnp.log1p(count))


def supported(
    pose: Any, theta: EpipolarParameters, points1: jax.Array, points2: jax.Array, valid: jax.Array
) -> jax.Array:
    """1 / (1 + NFA) of the k matches within `NEAR` of a pose and not behind its cameras.

    NFA = (n - 5) C(n, k) C(k, 5) a^(k - 5), the expected number of poses of five matches with
    which k of n agree by accident; a, the chance of one match, is the fraction of the image
    within that distance of a line.
    """
    near = NEAR * jnp.exp(theta.log_noise)
    close = squared_distances(pose, theta, points1, points2) < NEAR**2
    agrees = valid & close & (behind(pose, theta, points1, points2) < NEAR)
    n, k = (jnp.sum(x).astype(points1.dtype) for x in (valid, agrees))
    low = jnp.min(jnp.where(valid[:, None], points2, jnp.inf), axis=0)
    high = jnp.max(jnp.where(valid[:, None], points2, -jnp.inf), axis=0)
    size = jnp.where(n > 1, high - low, 1) + 2 * near
    chance = jnp.clip(2 * near * jnp.linalg.norm(size) / jnp.prod(size), 1e-9, 1.0)
    log = lambda a: jax.scipy.special.gammaln(a + 1)
    choices = log(n) - log(n - k) - log(jnp.maximum(k - SAMPLE, 0)) - log(float(SAMPLE))
    false = jnp.log(jnp.maximum(n - SAMPLE, 1)) + choices + (k - SAMPLE) * jnp.log(chance)
    return jnp.where(k > SAMPLE, jax.nn.sigmoid(-false), 0.0)


def inlier_probabilities(
    pose: Any, theta: EpipolarParameters, points1: jax.Array, points2: jax.Array, valid: jax.Array
) -> jax.Array:
    """Probabilities (N,) that matches agree with a pose; 0 for padding.

    The angle by which a match violates cheirality counts as a distance.
    """
    square = squared_distances(pose, theta, points1, points2)
    square = square + behind(pose, theta, points1, points2) ** 2
    return jnp.where(valid, _agreement(theta, square), 0)


def pose_covariance(
    pose: Any, theta: EpipolarParameters, points1: jax.Array, points2: jax.Array, valid: jax.Array
) -> jax.Array:
    """Covariance (5, 5) of a minimum [rad^2]: a rotation vector, then two angles of the direction.

        C = (sum_n p_n J_n^T J_n / v + P)^-1,   v = (1.48 median |r|)^2 n / (n - k)

    with J the slopes of the distances r, p the probabilities of inliers, n their sum, P the prior's
    Hessian and k the number of unknowns. The variance v is that of the inliers, not the energy's: C
    is that of least squares. (The energy's own Hessian follows single matches under a narrow
    density.) R is moved from the left by the rotation vector, in the second camera's frame; t along
    the great circle of its two angles, `jaxcv.geometry.manifolds.Sphere`. An unknown focal length
    is marginalised. inf where n <= k.
    """
    slope, tilt, distance, _ = _slopes(pose, theta, points1, points2)
    inlier = jnp.where(valid, _agreement(theta, distance**2), 0)
    size, count = slope.shape[1], jnp.sum(inlier)
    middle = jnp.nanmedian(jnp.where(inlier > 0.5, jnp.abs(distance), jnp.nan))
    variance = (1.4826 * middle) ** 2 * count / jnp.maximum(count - size, 1e-3)
    variance = jnp.where(variance > 0, variance, jnp.finfo(distance.dtype).eps)  # without noise
    information = slope.T @ (inlier[:, None] * slope) / variance + tilt.T @ tilt
    covariance = jnp.linalg.inv(information)
    rows = jnp.arange(size)
    rows = jnp.concatenate([rows[-3:], rows[:2]])  # leaves in order: direction, focal, rotation
    covariance = covariance[rows][:, rows]
    good = (count > size) & jnp.all(jnp.isfinite(covariance))
    return jnp.where(good, covariance, jnp.inf * jnp.eye(5, dtype=covariance.dtype))
