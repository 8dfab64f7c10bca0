"""Joints of a hand by a kinematic energy between a network's joints and the depth image's points.

The energy is `jaxcv.energies.hand`'s. Its minimiser is differentiable in the network's joints, in
its confidences and in the scales of the energy's parts, so that all of them are learned from the
error of the refined joints. Points are assigned to the nearest cones and the hand is moved, in
turns; the last turn, with the assignment fixed, is the minimiser that is differentiated.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.core.checks import argument_error, check_shape
from jaxcv.core.damping import Damping
from jaxcv.core.kernels import Huber
from jaxcv.core.least_squares import argmin_least_squares, levenberg_marquardt
from jaxcv.energies.hand import HandScales, hand_of, hand_residuals, hand_start, nearest_cones
from jaxcv.geometry.hand import hand_joints
from jaxcv.geometry.manifolds import SO3, Product

__all__ = ["RefinedHand", "refine_hand"]

_FEW = 5  # steps of the turns before the last


class RefinedHand(NamedTuple):
    """A hand that minimises the energy.

    Attributes:
        joints: (..., 14, 3) [mm].
        points: (..., 28, 3) [mm], the ends of its bones.
        radii: (..., 28) [mm].
        converged: (...,) bool, whether the minimiser was reached.
        steps: (...,) that it took.
    """

    joints: jax.Array
    points: jax.Array
    radii: jax.Array
    converged: jax.Array
    steps: jax.Array


def refine_hand(
    joints: jax.Array,
    log_confidence: jax.Array,
    seen: jax.Array,
    scales: HandScales = HandScales(),  # noqa: B008, an immutable value
    *,
    damping: Damping = Damping(1e-3, relative=True),  # noqa: B008, an immutable value
    turns: int = 2,
    max_steps: int = 25,
) -> RefinedHand:
    """The hand that minimises the energy of `jaxcv.energies.hand`.

    Points further off than twice their scale count by the distance, not its square: of an arm, a
    sleeve, or another hand.

    Args:
        joints: (..., 14, 3) [mm] of a network.
        log_confidence: (..., 14), logarithms of the weights of their squares.
        seen: (..., P, 3) [mm] points of the depth image; (0, 0, 0): none.
        scales: of the parts; differentiable.
        damping: of the gradient.
        turns: of assigning and moving before the last one.
        max_steps: of the solver in its last turn; those before it take five.

    Raises:
        ValueError: shapes that do not fit.
    """
    check_shape("joints", joints, (14, 3))
    check_shape("log_confidence", log_confidence, (14,))
    check_shape("seen", seen, (None, 3))
    batch = joints.shape[:-2]
    if log_confidence.shape[:-1] != batch or seen.shape[:-2] != batch:
        came = joints.shape, log_confidence.shape, seen.shape
        raise argument_error("joints", "expected one batch shape of all", came)

    def one(joints, log_confidence, seen):
        valid = (seen[:, 2] > 0).astype(joints.dtype)
        middle = jax.lax.stop_gradient(jnp.mean(joints, axis=0))  # far from it floats are coarse
        seen = seen - middle
        theta = {"joints": joints - middle, "log_confidence": log_confidence, "scales": scales}
        solve = functools.partial(
            argmin_least_squares, hand_residuals, kernel={"points": Huber(2.0)},
            retract=Product(rotation=SO3()), damping=damping,
        )  # fmt: skip

        def turn(y, _):
            data = seen, valid, nearest_cones(y, seen)
            fixed = jax.lax.stop_gradient(theta)
            few = levenberg_marquardt(max_steps=_FEW)
            return jax.lax.stop_gradient(solve(y, fixed, data, solver=few).value), None

        start, _ = jax.lax.scan(turn, hand_start(theta["joints"]), length=turns)
        data = seen, valid, nearest_cones(start, seen)
        solution = solve(start, theta, data, solver=levenberg_marquardt(max_steps=max_steps))
        points, radii = hand_of(solution.value)
        points = points + middle
        return RefinedHand(hand_joints(points), points, radii, solution.converged, solution.steps)

    for _ in batch:
        one = jax.vmap(one)
    return one(joints, log_confidence, seen)
