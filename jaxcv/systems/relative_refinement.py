"""A relative pose fitted to feature matches and a prior, as a differentiable minimiser.

The pose minimises `jaxcv.energies.epipolar` on SO(3) x S^2. With the prior's precision 0 and the
confidences equal this is the robust Sampson fit; without matches, the prior.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.energies.epipolar import EpipolarParameters, epipolar_energy, squared_distances
from jaxcv.geometry.epipolar import (
    angle_behind,
    essential_matrix,
    essential_pose,
    sampson_distance,
)
from jaxcv.geometry.manifolds import SO3, Product, Sphere
from jaxcv.implicit.minimise import argmin
from jaxcv.least_squares.kernels import Welsch
from jaxcv.linear.damping import Damping
from jaxcv.solvers import Newton
from jaxcv.solvers.marquardt import MarquardtRule, marquardt_update
from jaxcv.solvers.retraction import coordinates_at

__all__ = [
    "NEAR_WIDTHS",
    "NO_PRIOR",
    "WIDTHS",
    "RefinedPose",
    "refine_relative_pose",
    "sampled_poses",
]

_POSE = Product(rotation=SO3(), direction=Sphere())
_SAMPLE = 5  # matches per sample
_SAMPLE_STEPS = 8  # Levenberg-Marquardt steps per sample
_EDGE = 1e-3  # smallest |z| in a projection
_NEAR = 3.0  # standard deviations within which a match is an inlier
_USUAL = 3.0  # prior log odds that the cameras moved
NO_PRIOR = -30.0  # log precision of a missing prior
_WIDEST = 15.0  # log kernel width at which Welsch is least squares
_BEGIN = 1e-3  # initial damping, relative to the mean curvature
_RULE = MarquardtRule(_BEGIN, minimum=1e-30, maximum=1e30)
_SEARCH_STEPS = 10  # with each kernel
# Factors on the kernel's width for the first steps: from distant starts, from nearby ones.
WIDTHS, NEAR_WIDTHS = (1.0, 3.0, 10.0, 30.0, 100.0), (1.0, 3.0)


class RefinedPose(NamedTuple):
    """A minimiser of the energy, and its diagnostics.

    Attributes:
        rotation: (3, 3), x2 = R x1 + t.
        direction: (3,), of length 1.
        energy: ().
        converged: () bool.
        min_eigenvalue: () of the Hessian in five angles [1/rad^2]: the least certain direction.
            Near the prior's precision where the matches do not constrain that direction.
        moved: () probability, from the matches, that the cameras translated. Under pure rotation
            every direction of t fits, and the smallest eigenvalue only reflects noise.
        supported: () probability that the agreement of the matches is no accident: 1 / (1 + NFA),
            with the number of false alarms of Moisan and Stival, IJCV 2004.
    """

    rotation: jax.Array
    direction: jax.Array
    energy: jax.Array
    converged: jax.Array
    min_eigenvalue: jax.Array
    moved: jax.Array
    supported: jax.Array


def refine_relative_pose(
    theta: EpipolarParameters,
    points1: jax.Array,
    points2: jax.Array,
    valid: jax.Array | None = None,
    *,
    start: tuple[Any, Any] | None = None,
    damping: Damping = Damping(value=1.0),  # noqa: B008, an immutable value
    max_steps: int = 20,
    widths: tuple[float, ...] = WIDTHS,
) -> RefinedPose:
    """The pose of least energy, differentiable in theta.

    Far from the pose all matches are outliers. Each start therefore takes Levenberg-Marquardt
    steps with the kernel widened by each of `widths`, then with the kernel itself. Evidence, not
    energy, selects the minimum. By Laplace's approximation it has the least
    E + log det(H + I) / 2, plus a cost of matches behind a camera: on a narrow minimum some
    matches always agree by accident, a wide one holds more probability, and E does not depend
    on the sign of t. Newton's method converges from there; only its minimum is differentiated.

    Args:
        theta: prior, precisions, confidences and scales of one pair; batch with `jax.vmap`.
        points1: (N, 2), normalised by the intrinsics.
        points2: (N, 2).
        valid: (N,) mask of the matches; None: all.
        start: S starting points, rotations (S, 3, 3) and directions (S, 3), or a single one
            without the axis S. None: the prior. No gradient.
        damping: of the implicit gradient, in 1/rad^2.
        max_steps: of the final Newton's method.
        widths: factors on the kernel's width for the first steps; (1.0,) if the start is good.
    """
    valid = jnp.ones(points1.shape[0], bool) if valid is None else valid
    rotation, direction = (theta.rotation, theta.direction) if start is None else start
    rotation = jnp.asarray(rotation).reshape(-1, 3, 3)
    direction = jnp.asarray(direction).reshape(-1, 3)
    unit = direction / jnp.linalg.norm(direction, axis=-1, keepdims=True)  # a prior has any length
    y = jax.lax.stop_gradient({"rotation": rotation, "direction": unit})
    free = jax.lax.stop_gradient(theta)
    matches = points1, points2, valid

    def search(width, y):
        wide = free._replace(log_width=free.log_width + jnp.log(width))
        found = _go_down(_go_down(y, wide, *matches, _SEARCH_STEPS), free, *matches, _SEARCH_STEPS)
        return found, _surprise(found, free, *matches)

    at = jnp.asarray(widths, unit.dtype)
    found = jax.vmap(lambda y: jax.vmap(lambda width: search(width, y))(at))(y)
    values, surprise = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), found)
    best = jnp.argmin(jnp.where(jnp.isfinite(surprise), surprise, jnp.inf))
    y0 = jax.lax.stop_gradient(jax.tree.map(lambda leaf: leaf[best], values))
    found = argmin(
        epipolar_energy, y0, theta, matches, solver=Newton(max_steps=max_steps), damping=damping,
        retract=_POSE, diagnostics=True,
    )  # fmt: skip
    return RefinedPose(
        found.value["rotation"], found.value["direction"], found.energy, found.converged,
        found.diagnostics.min_eigenvalue, _moved(y0, free, *matches),
        _supported(y0, free, *matches),
    )  # fmt: skip


def _moved(pose, theta, points1, points2, valid) -> jax.Array:
    """The probability of an epipolar geometry, against a pure rotation, by Torr's GRIC.

    Matches have four dimensions, the models three and two: half the difference of the residual
    costs must exceed n log(4) / 2. The prior log odds, `_USUAL`, favour moving cameras.
    """
    weight = jnp.where(valid, jnp.exp(theta.log_confidence), 0)
    kernel = Welsch(jnp.exp(theta.log_width))
    first = jnp.concatenate([points1, jnp.ones_like(points1[:, :1])], axis=-1)

    def away(rotation):
        turned = first @ rotation.T
        z = jnp.where(jnp.abs(turned[:, 2:]) < _EDGE, _EDGE, turned[:, 2:])
        return (turned[:, :2] / z - points2) * jnp.exp(-theta.log_noise) / jnp.sqrt(2.0)

    def step(rotation, _):
        place = lambda flat: SO3()(rotation, flat)
        origin = jnp.zeros(3, rotation.dtype)
        distance = away(rotation)
        slope = jax.jacfwd(lambda flat: away(place(flat)))(origin)  # (N, 2, 3)
        kept = weight * kernel.weight(jnp.sum(distance**2, axis=-1))
        hessian = jnp.einsum("n,nki,nkj->ij", kept, slope, slope)
        gradient = jnp.einsum("n,nki,nk->i", kept, slope, distance)
        ridge = _BEGIN * jnp.trace(hessian) / 3 + jnp.finfo(gradient.dtype).tiny
        return place(
            -jnp.linalg.solve(hessian + ridge * jnp.eye(3, dtype=origin.dtype), gradient)
        ), None

    rotation, _ = jax.lax.scan(step, pose["rotation"], length=_SEARCH_STEPS)
    turned = 0.5 * weight @ kernel.rho(jnp.sum(away(rotation) ** 2, axis=-1))
    square = squared_distances(pose, theta, points1, points2)
    count = weight @ kernel.weight(square)
    gain = turned - 0.5 * weight @ kernel.rho(square)
    return jax.nn.sigmoid(_USUAL + gain - 0.5 * count * jnp.log(4.0))


def _supported(pose, theta, points1, points2, valid) -> jax.Array:
    """1 / (1 + NFA) of the k matches within `_NEAR` of a pose and not behind its cameras.

    NFA = (n - 5) C(n, k) C(k, 5) a^(k - 5), the expected number of poses of five matches with
    which k of n agree by accident; a, the chance of one match, is the fraction of the image
    within that distance of a line.
    """
    near = _NEAR * jnp.exp(theta.log_noise)
    behind = angle_behind(pose["rotation"], pose["direction"], points1, points2)
    close = squared_distances(pose, theta, points1, points2) < _NEAR**2
    agrees = valid & close & (behind < near)
    n, k = (jnp.sum(x).astype(points1.dtype) for x in (valid, agrees))
    low = jnp.min(jnp.where(valid[:, None], points2, jnp.inf), axis=0)
    high = jnp.max(jnp.where(valid[:, None], points2, -jnp.inf), axis=0)
    size = jnp.where(n > 1, high - low, 1) + 2 * near
    chance = jnp.clip(2 * near * jnp.linalg.norm(size) / jnp.prod(size), 1e-9, 1.0)
    log = lambda a: jax.scipy.special.gammaln(a + 1)
    choices = log(n) - log(n - k) - log(jnp.maximum(k - _SAMPLE, 0)) - log(float(_SAMPLE))
    false = jnp.log(jnp.maximum(n - _SAMPLE, 1)) + choices + (k - _SAMPLE) * jnp.log(chance)
    return jnp.where(k > _SAMPLE, jax.nn.sigmoid(-false), 0.0)


def _linearised(own, theta, points1, points2, valid):
    """Local coordinates, gradient (5,) and Gauss-Newton Hessian (5, 5), reweighted."""
    weight = jnp.where(valid, jnp.exp(theta.log_confidence), 0)
    kernel = Welsch(jnp.exp(theta.log_width))
    precision = jnp.exp(theta.log_precision)
    chart = coordinates_at(own, _POSE)

    def residuals(flat):
        own = chart.to_point(flat)
        essential = essential_matrix(own["rotation"], own["direction"])
        distance = sampson_distance(essential, points1, points2) * jnp.exp(-theta.log_noise)
        turned = jnp.sqrt(precision[0] / 2) * (own["rotation"] - theta.rotation).ravel()
        moved = jnp.sqrt(precision[1]) * (own["direction"] - theta.direction)
        out = distance, jnp.concatenate([turned, moved])
        return out, out

    (slope, tilt), (distance, prior) = jax.jacfwd(residuals, has_aux=True)(chart.origin)
    kept = weight * kernel.weight(distance**2)
    gradient = slope.T @ (kept * distance) + tilt.T @ prior
    return chart, gradient, slope.T @ (kept[:, None] * slope) + tilt.T @ tilt


def _surprise(own, theta, points1, points2, valid) -> jax.Array:
    """Negative log evidence of a minimum; I is about the precision of an unconstrained angle.

    The energy does not depend on the sign of t. Here a match behind a camera also pays for the
    angle by which its ray violates cheirality, under the same kernel and noise.
    """
    matches = points1, points2, valid
    _, _, hessian = _linearised(own, theta, *matches)
    _, log_volume = jnp.linalg.slogdet(hessian + jnp.eye(5, dtype=hessian.dtype))
    square = squared_distances(own, theta, points1, points2)
    behind = angle_behind(own["rotation"], own["direction"], points1, points2)
    away = 0.5 * behind**2 * jnp.exp(-2 * theta.log_noise)
    rho = Welsch(jnp.exp(theta.log_width)).rho
    more = jnp.where(valid, jnp.exp(theta.log_confidence) * (rho(square + away) - rho(square)), 0)
    return epipolar_energy(own, theta, *matches) + 0.5 * jnp.sum(more) + 0.5 * log_volume


def _go_down(y, theta, points1, points2, valid, steps: int):
    """y after `steps` Levenberg-Marquardt steps on the energy, as reweighted least squares.

    A step that raises the energy is rejected, and the damping increases.
    """

    def energy(own):
        return epipolar_energy(own, theta, points1, points2, valid)

    def step(carry, _):
        own, lowest, damping = carry
        chart, gradient, hessian = _linearised(own, theta, points1, points2, valid)
        ridge = damping * jnp.trace(hessian) / 5 + jnp.finfo(gradient.dtype).tiny
        move = -jnp.linalg.solve(hessian + ridge * jnp.eye(5, dtype=hessian.dtype), gradient)
        new = chart.to_point(move)
        below = energy(new)
        down = below < lowest  # false for nan
        kept_y = jax.tree.map(lambda a, b: jnp.where(down, a, b), new, own)
        return (
            kept_y, jnp.where(down, below, lowest), marquardt_update(damping, down, _RULE)
        ), None  # fmt: skip

    first = y, energy(y), jnp.asarray(_BEGIN, theta.direction.dtype)
    return jax.lax.scan(step, first, length=steps)[0][0]


def sampled_poses(
    key: jax.Array,
    theta: EpipolarParameters,
    points1: jax.Array,
    points2: jax.Array,
    valid: jax.Array | None = None,
    *,
    num_samples: int = 256,
    count: int = 3,
) -> tuple[jax.Array, jax.Array]:
    """Starting poses without a prior: of the poses of random samples, those of least energy.

    Each sample has five matches, drawn in proportion to their confidence. Levenberg-Marquardt,
    from the prior's rotation and a random direction, fits the pose's five angles to their Sampson
    distances. Of the four poses of that essential matrix, the one with most of the five before
    both cameras is scored by the energy of all matches. (The linear eight-point method fails on
    matches in one plane, as on a wall.)

    Args:
        key: PRNG key.
        theta: prior, precisions, confidences and scales of one pair; batch with `jax.vmap`.
        points1: (N, 2), normalised by the intrinsics, N of 5 or more.
        points2: (N, 2).
        valid: (N,) mask of the matches; None: all.
        num_samples: number of samples.
        count: number of poses returned.

    Returns:
        Rotations (count, 3, 3), directions (count, 3); unreliable with fewer than five matches.
    """
    valid = jnp.ones(points1.shape[0], bool) if valid is None else valid
    theta = jax.lax.stop_gradient(theta)
    weight = jnp.where(valid, theta.log_confidence, -jnp.inf)
    alike = theta._replace(  # for a sample: no prior, no outliers
        log_precision=jnp.full_like(theta.log_precision, NO_PRIOR),
        log_confidence=jnp.zeros(_SAMPLE, points1.dtype),
        log_width=theta.log_width + _WIDEST,
    )

    def one(key):
        keys = jax.random.split(key)
        # The largest sums with Gumbel noise are a draw without replacement.
        _, rows = jax.lax.top_k(weight + jax.random.gumbel(keys[0], weight.shape), _SAMPLE)
        some = points1[rows], points2[rows]
        direction = jax.random.normal(keys[1], (3,), points1.dtype)
        y = {"rotation": theta.rotation, "direction": direction / jnp.linalg.norm(direction)}
        found = _go_down(y, alike, *some, valid[rows], _SAMPLE_STEPS)
        essential = essential_matrix(found["rotation"], found["direction"])
        rotation, direction = essential_pose(essential, *some)
        y = {"rotation": rotation, "direction": direction}
        energy = epipolar_energy(y, theta, points1, points2, valid)
        return y, jnp.where(jnp.isfinite(energy), energy, jnp.inf)

    poses, energies = jax.vmap(one)(jax.random.split(key, num_samples))
    _, best = jax.lax.top_k(-energies, count)
    return poses["rotation"][best], poses["direction"][best]
