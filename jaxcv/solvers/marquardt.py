"""One Levenberg-Marquardt step at a time, for trajectories that are compared step by step.

    p = -(H + lambda diag(H))^-1 g;   y <- y + p and lambda / f where the energy falls, else
    lambda * r

`argmin_least_squares` minimises; this is its textbook core as a step function, e.g. for
`jax.lax.scan` or `unrolled_solve`, where a learned solver is measured against it iteration by
iteration.

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
    """How lambda follows success and failure.

    Attributes:
        initial: the first lambda.
        decrease: f, after a step that was taken.
        increase: r, after one that was not.
        minimum: lambda is never below.
        maximum: nor above.
    """

    initial: Any = 1e-2
    decrease: Any = 10.0
    increase: Any = 10.0
    minimum: float = 1e-7
    maximum: float = 1e7


class MarquardtState(NamedTuple):
    """Between two trials.

    Attributes:
        y: the unknowns, any tree.
        damping: (), lambda of the next trial.
        accepted: () bool, whether the last trial was taken.
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
    """One trial.

    Args:
        state: before.
        propose: (y, lambda) -> the trial, which need not be finite.
        change: (y, trial) -> (), the energy of the trial less that of y; nan refuses it.
        rule: of lambda.
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
        floor: what keeps the step finite where H has no diagonal; 0: it is then nan.
    """
    (a, b), (_, c) = hessian
    a, c = (entry * (1 + damping) + floor for entry in (a, c))
    first, second = gradient
    return -jnp.stack([c * first - b * second, a * second - b * first]) / (a * c - b * b)
