"""Refines a network's hand joints on the depth image's points, by a kinematic energy.

The energy is `jaxcv.energies.hand`'s. Its minimiser is differentiable in the network's joints and
confidences and in the scales of the energy's terms, so all of them can be trained on the error of
the refined joints. The first steps each reassign the points to the nearest cones; the final,
differentiated minimisation keeps the last assignment, with which the energy is smooth.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxcv.checks import argument_error, check_shape
from jaxcv.energies.hand import HandScales, hand_of, hand_residuals, hand_start, nearest_cones
from jaxcv.geometry.hand import hand_joints
from jaxcv.geometry.manifolds import SO3, Product
from jaxcv.io.networks import Model
from jaxcv.least_squares.kernels import Huber
from jaxcv.least_squares.minimise import argmin_least_squares
from jaxcv.linear.damping import Damping
from jaxcv.solvers import LevenbergMarquardt
from jaxcv.solvers.marquardt import MarquardtRule, MarquardtState, marquardt_step
from jaxcv.systems.arguments import check_system

__all__ = ["RefinedHand", "refine_hand"]

ROBUST = 2.0  # Huber threshold of the points, in their scale
CHART = Product(rotation=SO3())


class RefinedHand(NamedTuple):
    """The hand that minimises the energy.

    Attributes:
        joints: (..., 14, 3) [mm].
        points: (..., 28, 3) [mm], the ends of its cones.
        radii: (..., 28) [mm].
        converged: (...,) bool, whether the final solver converged.
        steps: (...,) of the final solver.
    """

    joints: jax.Array
    points: jax.Array
    radii: jax.Array
    converged: jax.Array
    steps: jax.Array


def _near_start(theta: Any, seen: jax.Array, valid: jax.Array, trials: int) -> Any:
    """Unknowns near the minimum, from predicted joints; no gradient."""
    theta = jax.lax.stop_gradient(theta)
    start = hand_start(theta["joints"])
    zero, unravel = ravel_pytree(CHART.tangent(start))

    def terms(y, step, nearest):
        moved = CHART(y, unravel(step))
        parts = hand_residuals(moved, theta, seen, valid, nearest)
        points = parts.pop("points")
        return jnp.concatenate([points, ravel_pytree(parts)[0]])

    count = seen.shape[0]
    huber = Huber(ROBUST)

    def energy(y, nearest):
        squares = terms(y, zero, nearest) ** 2
        return 0.5 * jnp.sum(huber.rho(squares[:count])) + 0.5 * jnp.sum(squares[count:])

    def propose(y, damping):
        near = functools.partial(terms, y, nearest=nearest_cones(y, seen))
        residual, jacobian = near(zero), jax.jacfwd(near)(zero)
        weight = jnp.ones_like(residual).at[:count].set(huber.weight(residual[:count] ** 2))
        hessian = jacobian.T @ (weight[:, None] * jacobian)
        gradient = jacobian.T @ (weight * residual)
        damped = hessian + damping * jnp.diag(jnp.diag(hessian))
        factor = jax.scipy.linalg.cho_factor(damped, lower=True)
        return CHART(y, unravel(-jax.scipy.linalg.cho_solve(factor, gradient)))

    def change(before, after):
        return energy(after, nearest_cones(after, seen)) - energy(
            before, nearest_cones(before, seen)
        )

    rule = MarquardtRule(1e-2, 3.0, 4.0)
    state = MarquardtState(start, jnp.asarray(rule.initial, zero.dtype), jnp.asarray(True))
    step = lambda state, _: (marquardt_step(state, propose, change, rule), None)
    return jax.lax.scan(step, state, length=trials)[0].y


def refine_hand(
    joints: jax.Array,
    log_confidence: jax.Array,
    seen: jax.Array,
    scales: HandScales | None = None,
    *,
    model: Model | None = None,
    damping: Damping = Damping(1e-3, relative=True),  # noqa: B008, an immutable value
    trials: int = 15,
    max_steps: int = 5,
) -> RefinedHand:
    """The hand that minimises the energy of `jaxcv.energies.hand`.

    Beyond twice their scale, points count by their distance, not its square: they may belong to
    an arm, a sleeve, or another hand.

    Args:
        joints: (..., 14, 3) [mm] of a network.
        log_confidence: (..., 14), log weights of the joints' squared residuals.
        seen: (..., P, 3) [mm] points of the depth image; (0, 0, 0): none.
        scales: of the terms; differentiable. None: those of `model`, or `HandScales()`.
        model: of a training with --refine, which learned the scales.
        damping: of the implicit gradient.
        trials: Levenberg-Marquardt steps; each reassigns the points.
        max_steps: of the final solver, with a fixed assignment.

    Raises:
        ValueError: shapes that do not fit, or a model without scales.
    """
    scales = _scales_of(model) if scales is None else scales
    check_shape("joints", joints, (14, 3))
    check_shape("log_confidence", log_confidence, (14,))
    check_shape("seen", seen, (None, 3))
    batch = joints.shape[:-2]
    if log_confidence.shape[:-1] != batch or seen.shape[:-2] != batch:
        got = joints.shape, log_confidence.shape, seen.shape
        raise argument_error("joints", "expected one batch shape of all", got)
    return _refined(joints, log_confidence, seen, scales, damping, trials, max_steps)


def _scales_of(model: Model | None) -> HandScales:
    if model is None:
        return HandScales()
    check_system(model, "hand_pose")
    scales = model.settings.get("scales")
    if scales is None:
        hint = "Train it with --refine, or give scales=HandScales()."
        raise argument_error("model", "expected a model with `scales`", None, hint)
    return scales


@functools.partial(jax.jit, static_argnames=("trials", "max_steps"))
def _refined(joints, log_confidence, seen, scales, damping, trials, max_steps):
    """`refine_hand` of checked arrays, compiled once per shape."""

    def one(joints, log_confidence, seen):
        valid = (seen[:, 2] > 0).astype(joints.dtype)
        middle = jax.lax.stop_gradient(jnp.mean(joints, axis=0))  # float32 is coarse far from 0
        seen = seen - middle
        theta = {"joints": joints - middle, "log_confidence": log_confidence, "scales": scales}
        start = jax.lax.stop_gradient(_near_start(theta, seen, valid, trials))
        data = seen, valid, nearest_cones(start, seen)
        solution = argmin_least_squares(
            hand_residuals, start, theta, data, kernel={"points": Huber(ROBUST)},
            retract=CHART, damping=damping, solver=LevenbergMarquardt(max_steps=max_steps),
        )  # fmt: skip
        points, radii = hand_of(solution.value)
        points = points + middle
        return RefinedHand(hand_joints(points), points, radii, solution.converged, solution.steps)

    for _ in joints.shape[:-2]:
        one = jax.vmap(one)
    return one(joints, log_confidence, seen)
