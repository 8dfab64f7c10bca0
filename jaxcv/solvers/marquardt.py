"""Single Levenberg-Marquardt steps, for comparing trajectories step by step.

    p = -(H + lambda diag(H))^-1 g
    y <- y + p and lambda <- lambda / f if the energy falls, else lambda <- lambda * r

To minimise, use `argmin_least_squares`. This is the textbook method as a step function, e.g. for
`jax.lax.scan` or `unrolled_solve`: a baseline of learned solvers, iteration by iteration.

Source: Marquardt 1963.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

__all__ = [
    "MarquardtRule",
    "MarquardtState",
    "damped_step_2x2",
    "marquardt_step",
    "marquardt_update",
]


class MarquardtRule(NamedTuple):
    """The update rule of lambda.

    Attributes:
        initial: the first lambda.
        decrease: f, the divisor after an accepted step.
        increase: r, the factor after a rejected step.
        minimum: lower bound of lambda.
        maximum: upper bound of lambda.
    """

    initial: Any = 1e-2
    decrease: Any = 10.0
    increase: Any = 10.0
    minimum: float = 1e-7
    maximum: float = 1e7


class MarquardtState(NamedTuple):
    """The state between two candidates.

    Attributes:
        y: the unknowns, any tree.
        damping: (), lambda of the next candidate.
        accepted: () bool, the last candidate was accepted.
    """

    y: Any
    damping: jax.Array
    accepted: jax.Array


def marquardt_step(
    state: MarquardtState,
    propose: Callable[[Any, jax.Array], Any],
    change: Callable[[Any, Any], jax.Array],
    rule: MarquardtRule,
) -> MarquardtState:
    """Accepts or rejects one candidate, and updates lambda.

    Args:
        state: the state before the step.
        propose: (y, lambda) -> the candidate, which need not be finite.
        change: (y, candidate) -> (), E(candidate) - E(y); nan rejects the candidate.
        rule: the update rule of lambda.
    """
    trial = propose(state.y, state.damping)
    accept = change(state.y, trial) < 0
    y = jax.tree.map(lambda new, old: jnp.where(accept, new, old), trial, state.y)
    return MarquardtState(y, marquardt_update(state.damping, accept, rule), accept)


def marquardt_update(damping: jax.Array, accepted: jax.Array, rule: MarquardtRule) -> jax.Array:
    """lambda () of the next candidate."""
    new = jnp.where(accepted, damping / rule.decrease, damping * rule.increase)
    return jnp.clip(new, rule.minimum, rule.maximum).astype(damping.dtype)


def damped_step_2x2(
    hessian: jax.Array, gradient: jax.Array, damping: Any, floor: float = 0.0
) -> jax.Array:
    """-(H + lambda diag H + floor I)^-1 g, (2,), by the closed form of a 2 x 2 inverse.

    Args:
        hessian: (2, 2).
        gradient: (2,).
        damping: lambda.
        floor: keeps the step finite where diag(H) = 0; with floor 0 the step is then nan.
    """
    (a, b), (_, c) = hessian
    a, c = (entry * (1 + damping) + floor for entry in (a, c))
    first, second = gradient
    return -jnp.stack([c * first - b * second, a * second - b * first]) / (a * c - b * b)
