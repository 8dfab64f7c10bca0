"""Reduces the step size when the validation stops improving, and restarts from the best point.

After `patience` validations without improvement, parameters and optimiser state return to those of
the best validation, and later steps are scaled by `factor`. At the plateau after `returns` such
reductions, training stops. All of this is part of the optimiser's state: resuming is exact, and
each trial of a sweep has its own schedule.

Source: Kazakos, MSc thesis, 2017, section 2.7.2.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcv.checks import argument_error
from jaxcv.training.state import TrainState

__all__ = ["Plateau", "PlateauState"]


class PlateauState(NamedTuple):
    """State of the optimiser that `Plateau.wrap` returns.

    Attributes:
        inner: state of the optimiser.
        scale: factor on its updates.
        best: lowest value of the metric; inf before the first finite one.
        best_params: parameters there.
        best_inner: the optimiser's state there.
        waited: validations since the last improvement or reduction.
        returned: number of reductions.
        stopped: whether training has stopped.
    """

    inner: Any
    scale: jax.Array
    best: jax.Array
    best_params: Any
    best_inner: Any
    waited: jax.Array
    returned: jax.Array
    stopped: jax.Array


@dataclasses.dataclass(frozen=True)
class Plateau:
    """Schedule of step-size reductions and of the stop.

    Attributes:
        metric: name of the validation metric to minimise.
        patience: validations without improvement before a reduction.
        factor: of the step size at each reduction.
        returns: number of reductions; the next plateau stops the training.
        threshold: fraction of |best| by which an improvement must be lower.
    """

    metric: str
    patience: int = 5
    factor: float = 0.5
    returns: int = 4
    threshold: float = 0.0

    def __post_init__(self):
        if self.patience < 1 or self.returns < 0:
            expected = "expected a patience of 1 or more, and returns of 0 or more"
            raise argument_error("patience, returns", expected, (self.patience, self.returns))
        if not 0 < self.factor < 1 or not 0 <= self.threshold < 1:
            expected = "expected a factor within (0, 1), and a threshold within [0, 1)"
            raise argument_error("factor, threshold", expected, (self.factor, self.threshold))

    def wrap(self, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
        """The optimiser with its updates scaled by the plateau, to zero once stopped."""
        inner = optax.with_extra_args_support(optimizer)

        def init(params):
            state = inner.init(params)
            zero, copy = jnp.zeros((), jnp.int32), lambda tree: jax.tree.map(jnp.array, tree)
            return PlateauState(
                state, jnp.ones(()), jnp.full((), jnp.inf), copy(params), copy(state), zero, zero,
                jnp.zeros((), bool),
            )  # fmt: skip

        def update(updates, state, params=None, **extra):
            updates, moved = inner.update(updates, state.inner, params, **extra)
            scale = lambda u: jnp.where(state.stopped, 0, (state.scale * u).astype(u.dtype))
            moved = _where(state.stopped, state.inner, moved)
            return jax.tree.map(scale, updates), state._replace(inner=moved)

        return optax.GradientTransformationExtraArgs(init, update)

    def observe(self, state: TrainState, value: jax.Array) -> TrainState:
        """The state of one trial after a validation of `state.params`.

        A nan or inf is no improvement.
        """
        own: PlateauState = state.optimizer_state
        value = jnp.asarray(value, own.best.dtype)
        margin = jnp.where(jnp.isfinite(own.best), self.threshold * jnp.abs(own.best), 0)
        better = (value < own.best - margin) & ~own.stopped
        best = jnp.where(better, value, own.best)
        best_params = _where(better, state.params, own.best_params)
        best_inner = _where(better, own.inner, own.best_inner)
        waited = jnp.where(better, 0, own.waited + 1)
        saturated = (waited >= self.patience) & ~own.stopped
        stop = saturated & (own.returned >= self.returns)
        back = saturated & ~stop
        after = PlateauState(
            inner=_where(saturated, best_inner, own.inner),
            scale=jnp.where(back, self.factor * own.scale, own.scale),
            best=best,
            best_params=best_params,
            best_inner=best_inner,
            waited=jnp.where(saturated, 0, waited),
            returned=own.returned + back,
            stopped=own.stopped | stop,
        )
        params = _where(saturated, best_params, state.params)
        return state._replace(params=params, optimizer_state=after)


def _where(condition: jax.Array, one: Any, other: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), one, other)
