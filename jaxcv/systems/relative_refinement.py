"""A relative pose fitted to feature matches and a prior, as a differentiable minimiser.

The pose minimises `jaxcv.energies.epipolar` on SO(3) x S^2. With the prior's precision 0 and the
confidences equal this is the robust Sampson fit; without matches, the prior.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.energies.epipolar import (
    EpipolarParameters,
    at_focal,
    epipolar_energy,
    kernel_of,
    squared_distances,
)
from jaxcv.energies.residual_density import learned_shares
from jaxcv.geometry.planar import other_planar_pose, plane_of_pose
from jaxcv.implicit.minimise import argmin
from jaxcv.linear.damping import Damping
from jaxcv.solvers import Newton
from jaxcv.solvers.marquardt import MarquardtRule, marquardt_update
from jaxcv.systems.relative_evidence import (
    NEAR,
    POSE,
    inlier_probabilities,
    linearised,
    moved,
    pose_covariance,
    supported,
    surprise,
)

__all__ = [
    "NEAR_WIDTHS", "NO_PRIOR", "WIDTHS", "OtherPose", "RefinedPose", "refine_relative_pose",
]  # fmt: skip

NO_PRIOR = -30.0  # log precision of a missing prior
_BEGIN = 1e-3  # initial damping, relative to the mean curvature
_RULE = MarquardtRule(_BEGIN, minimum=1e-30, maximum=1e30)
_SEARCH_STEPS = 10  # with each kernel
_FIRST_STEPS, _KEPT = 5, 4  # from good starts: steps from all, and how many go on
_LEARNING_ROUNDS = 24  # of a density
_SLACK = 0.1  # of the log likelihood of a match, for errors that all matches share
_DISTINCT = 0.0873  # 5 degrees: the angle between minima that are answers of their own [rad]
# Factors on the kernel's width for the first steps: from distant starts, from nearby ones.
WIDTHS, NEAR_WIDTHS = (1.0, 3.0, 10.0, 30.0, 100.0), (1.0, 3.0)


class OtherPose(NamedTuple):
    """A second answer: rotation (3, 3) and direction (3,), x2 = R x1 + t."""

    rotation: Any
    direction: Any


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
        runner_up: rotation (3, 3) and direction (3,) of the second-best minimum that the search
            met, 5 degrees or more from the best; the best itself if there is none.
        odds: () its likelihood over that of the best, in [0, 1]; 0 if there is none. Of the
            difference of the logarithms .1 a match is left out: many matches with a common error
            (a lens, interpolation) would otherwise decide between poses that fit alike. With a
            density of residuals it is the smaller difference by that or by Welsch's kernel.
        covariance: (5, 5) of three angles of the rotation and two of the direction [rad^2]:
            `jaxcv.systems.relative_evidence.pose_covariance`.
        inliers: (N,) probabilities that the matches agree with the pose.
        share: () of the matches that agree.
        log_focal: () of the unknown focal length about the guess; 0 without one.
        density: of the residuals, as learned; None without one.
    """

    rotation: jax.Array
    direction: jax.Array
    energy: jax.Array
    converged: jax.Array
    min_eigenvalue: jax.Array
    moved: jax.Array
    supported: jax.Array
    runner_up: OtherPose
    odds: jax.Array
    covariance: jax.Array
    inliers: jax.Array
    share: jax.Array
    log_focal: jax.Array
    density: Any = None


def refine_relative_pose(
    theta: EpipolarParameters,
    points1: jax.Array,
    points2: jax.Array,
    valid: jax.Array | None = None,
    *,
    start: tuple[Any, ...] | None = None,
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
    on the sign of t. A plane has a second pose: that of the best minimum takes part as well.
    Newton's method converges from there; only its minimum is differentiated. If theta has a
    density of residuals, its shares are learned at the first start, which must be a good one, and
    again at the selected minimum, without a gradient.

    Args:
        theta: prior, precisions, confidences and scales of one pair; batch with `jax.vmap`.
        points1: (N, 2), normalised by the intrinsics.
        points2: (N, 2).
        valid: (N,) mask of the matches; None: all.
        start: S starting points, rotations (S, 3, 3) and directions (S, 3), or a single one
            without the axis S; with an unknown focal length also its logarithms (S,), 0 if not
            given. None: the prior. No gradient.
        damping: of the implicit gradient, in 1/rad^2.
        max_steps: of the final Newton's method.
        widths: factors on the kernel's width for the first steps; without a density only.
    """
    valid = jnp.ones(points1.shape[0], bool) if valid is None else valid
    start = (theta.rotation, theta.direction) if start is None else start
    rotation = jnp.asarray(start[0]).reshape(-1, 3, 3)
    direction = jnp.asarray(start[1]).reshape(-1, 3)
    unit = direction / jnp.linalg.norm(direction, axis=-1, keepdims=True)  # a prior has any length
    y = {"rotation": rotation, "direction": unit}
    if theta.focal is not None:
        about = jnp.asarray(start[2]) if len(start) > 2 else jnp.zeros(len(unit), unit.dtype)
        y["log_focal"] = about.reshape(-1)
    y = jax.lax.stop_gradient(y)
    free = jax.lax.stop_gradient(theta)
    matches = points1, points2, valid

    if free.density is None:
        values, costs = _minima_of_distant_starts(y, widths, free, *matches)
    else:
        # Equal shares have a narrow part in which a few matches make minima of their own.
        first = jax.tree.map(lambda leaf: leaf[0], y)
        free = _with_learned_density(first, free, *matches, steps=0)[1]
        values, costs = _minima_of_good_starts(y, free, *matches)
    slack = _SLACK * jnp.sum(inlier_probabilities(_lowest(values, costs), free, *matches))
    coarse = costs
    if free.density is not None:  # also by the kernel of theta, which does not see small residuals
        plain = free._replace(density=None)
        coarse = jax.vmap(lambda y: surprise(y, plain, *matches))(values)
    y0, second, odds = jax.lax.stop_gradient(_best_two(values, costs, coarse, slack))
    if theta.density is not None:
        y0, free = _with_learned_density(y0, free, *matches, steps=1)
        theta = theta._replace(density=free.density)
    found = argmin(
        epipolar_energy, y0, theta, matches, solver=Newton(max_steps=max_steps), damping=damping,
        retract=POSE, diagnostics=True,
    )  # fmt: skip
    at = jax.lax.stop_gradient(found.value), free, *matches
    inliers = inlier_probabilities(*at)
    return RefinedPose(
        found.value["rotation"], found.value["direction"], found.energy, found.converged,
        found.diagnostics.min_eigenvalue, moved(*at), supported(*at),
        OtherPose(second["rotation"], second["direction"]), odds, pose_covariance(*at),
        inliers, jnp.sum(inliers) / jnp.maximum(jnp.sum(valid), 1),
        found.value.get("log_focal", jnp.zeros_like(odds)), free.density,
    )  # fmt: skip


def _minima_of_distant_starts(y, widths, theta, points1, points2, valid):
    """Minima and their `surprise`, from each start with each width of the kernel at first."""
    matches = points1, points2, valid

    def search(width, y):
        wide = theta._replace(log_width=theta.log_width + jnp.log(width))
        found = _go_down(_go_down(y, wide, *matches, _SEARCH_STEPS), theta, *matches, _SEARCH_STEPS)
        return found, surprise(found, theta, *matches)

    at = jnp.asarray(widths, points1.dtype)
    found = jax.vmap(lambda y: jax.vmap(lambda width: search(width, y))(at))(y)
    found = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), found)
    other = _other_of_plane(_lowest(*found), theta, *matches)
    near = jnp.asarray(NEAR_WIDTHS, points1.dtype)
    twins = jax.vmap(lambda width: search(width, other))(near)
    return jax.tree.map(lambda *both: jnp.concatenate(both), found, twins)


def _minima_of_good_starts(y, theta, points1, points2, valid):
    """Minima and their `surprise`: a few steps from each start, then more from the best ones."""
    matches = points1, points2, valid
    cost = jax.vmap(lambda y: surprise(y, theta, *matches))
    y = jax.vmap(lambda y: _go_down(y, theta, *matches, _FIRST_STEPS))(y)
    costs = cost(y)
    other = _other_of_plane(_lowest(y, costs), theta, *matches)
    costs = jnp.where(jnp.isfinite(costs), costs, jnp.inf)
    rows = jax.lax.top_k(-costs, min(_KEPT, costs.size))[1]
    y = jax.tree.map(lambda all, one: jnp.concatenate([all[rows], one[None]]), y, other)
    y = jax.vmap(lambda y: _go_down(y, theta, *matches, 2 * _SEARCH_STEPS - _FIRST_STEPS))(y)
    return y, cost(y)


def _with_learned_density(pose, theta, points1, points2, valid, *, steps: int) -> Any:
    """Pose and theta after rounds of `learned_shares` and of steps of the pose between them."""
    weight = jnp.where(valid, jnp.exp(theta.log_confidence), 0)

    def learn(carry, _):
        pose, theta = carry
        square = squared_distances(pose, theta, points1, points2)
        theta = theta._replace(density=learned_shares(theta.density, square, weight))
        if steps:
            pose = _go_down(pose, theta, points1, points2, valid, steps)
        return (pose, theta), None

    return jax.lax.scan(learn, (pose, theta), length=_LEARNING_ROUNDS)[0]


def _lowest(values: Any, costs: jax.Array) -> Any:
    """The pose of least cost; nan counts as infinite."""
    best = jnp.argmin(jnp.where(jnp.isfinite(costs), costs, jnp.inf))
    return jax.tree.map(lambda leaf: leaf[best], values)


def _other_of_plane(pose, theta, points1, points2, valid) -> Any:
    """The pose with the same homography of the plane that most of its matches lie on."""
    one, other = at_focal(pose, theta, points1, points2)
    square = squared_distances(pose, theta, points1, points2)
    weight = jnp.exp(theta.log_confidence) * kernel_of(theta).weight(square)
    weight = jnp.where(valid, weight, 0)
    noise = NEAR * jnp.exp(theta.log_noise)
    plane = plane_of_pose(pose["rotation"], pose["direction"], one, other, weight, noise=noise)
    rotation, move, normal = other_planar_pose(pose["rotation"], pose["direction"], plane)
    ahead = jnp.sign(one @ normal[:2] + normal[2]) @ weight  # t, n and -t, -n are the same
    move = jnp.where(ahead < 0, -move, move)
    square = jnp.vdot(move, move)
    real = (square > 0) & jnp.all(jnp.isfinite(rotation)) & jnp.isfinite(square)
    unit = move / jnp.sqrt(jnp.where(square > 0, square, 1))
    return pose | {
        "rotation": jnp.where(real, rotation, pose["rotation"]),
        "direction": jnp.where(real, unit, pose["direction"]),
    }


def _best_two(values: Any, costs: jax.Array, coarse: jax.Array, slack: Any) -> tuple:
    """The best minimum, the best one away from it, and the likelihood of the second over the first.

    The gap between them is the smaller of those of the costs and the coarse costs, less the slack:
    residuals below the errors that all matches share must not decide. Where the costs differ by
    less than the slack, the coarse costs tell which is the best.
    """
    costs, coarse = (jnp.where(jnp.isfinite(own), own, jnp.inf) for own in (costs, coarse))
    best = jnp.argmin(costs)
    cosine = jnp.einsum("nij,ij->n", values["rotation"], values["rotation"][best])
    aside = values["direction"] @ values["direction"][best]
    away = jnp.minimum(0.5 * (cosine - 1), aside) < jnp.cos(_DISTINCT)
    second = jnp.argmin(jnp.where(away, costs, jnp.inf))
    exists = away[second] & jnp.isfinite(costs[second])
    second = jnp.where(exists, second, best)
    gap, coarse_gap = costs[second] - costs[best], coarse[second] - coarse[best]
    swap = (gap < slack) & (coarse_gap < 0)
    gap = jnp.where(exists, jnp.minimum(gap, coarse_gap) - slack, jnp.inf)
    best, second = jnp.where(swap, second, best), jnp.where(swap, best, second)
    one, other = (jax.tree.map(lambda leaf, at=at: leaf[at], values) for at in (best, second))
    return one, other, jnp.exp(-jnp.maximum(gap, 0))


def _go_down(y, theta, points1, points2, valid, steps: int):
    """y after `steps` Levenberg-Marquardt steps on the energy, as reweighted least squares.

    A step that raises the energy is rejected, and the damping increases.
    """

    def energy(own):
        return epipolar_energy(own, theta, points1, points2, valid)

    def step(carry, _):
        own, lowest, damping = carry
        chart, gradient, hessian = linearised(own, theta, points1, points2, valid)
        size = len(hessian)
        ridge = damping * jnp.trace(hessian) / size + jnp.finfo(gradient.dtype).tiny
        move = -jnp.linalg.solve(hessian + ridge * jnp.eye(size, dtype=hessian.dtype), gradient)
        new = chart.to_point(move)
        below = energy(new)
        down = below < lowest  # false for nan
        kept_y = jax.tree.map(lambda a, b: jnp.where(down, a, b), new, own)
        return (
            kept_y, jnp.where(down, below, lowest), marquardt_update(damping, down, _RULE)
        ), None  # fmt: skip

    first = y, energy(y), jnp.asarray(_BEGIN, theta.direction.dtype)
    return jax.lax.scan(step, first, length=steps)[0][0]
