"""Solvers made from an optax optimiser or from any function."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.checks import argument_error
from jaxcv.linear.dense import norm
from jaxcv.solvers.convergence import default_tolerance, free_gradient, judged, small_gradient
from jaxcv.solvers.problem import Problem, Result, Status
from jaxcv.solvers.protocol import check_limits

__all__ = ["Function", "Optax"]


class _State(NamedTuple):
    y: jax.Array
    energy: jax.Array
    gradient: jax.Array
    inner: Any
    curvature: jax.Array
    best: tuple  # energy, gradient and point of lowest energy
    start: tuple  # energy and norm of y
    status: jax.Array


@dataclasses.dataclass(frozen=True)
class Optax:
    """Steps of an optax optimiser, e.g. `Optax(optax.adam(1e-2), max_steps=2000)`.

    Attributes:
        optimizer: an `optax.GradientTransformation`; receives the value and the function of the
            energy, e.g. for line searches.
        tolerance: stop at |dE/dy| <= tolerance |H| |y|, all at the current point; None: 1e-10 in
            float64, 1e-5 in float32.
        max_steps: maximum number of optimiser steps.

    The point of lowest energy is returned.
    """

    optimizer: Any
    tolerance: float | None = None
    max_steps: int = 1000

    def __post_init__(self):
        if not all(callable(getattr(self.optimizer, name, None)) for name in ("init", "update")):
            hint = "E.g. optax.adam(1e-2)."
            expected = "expected an optax optimiser"
            raise argument_error("optimizer", expected, repr(self.optimizer), hint)
        check_limits(self)

    def init(self, problem: Problem, y: jax.Array) -> _State:
        """The state at the start, after one evaluation."""
        energy, gradient = jax.value_and_grad(problem.energy)(y)
        zero = jnp.zeros((), y.dtype)
        finite = jnp.isfinite(energy) & jnp.all(jnp.isfinite(gradient))
        code = jnp.where(finite, jnp.int32(Status.RUNNING), jnp.int32(Status.NONFINITE))
        return _State(
            y, energy, gradient, self.optimizer.init(y), zero, (energy, gradient, y),
            (energy, norm(y)), code,
        )  # fmt: skip

    def step(self, problem: Problem, s: _State) -> _State:
        """One step of the optimiser."""
        import optax

        update = optax.with_extra_args_support(self.optimizer).update
        moved, inner = update(
            s.gradient, s.inner, s.y, value=s.energy, grad=s.gradient, value_fn=problem.energy
        )
        y: Any = optax.apply_updates(s.y, moved)
        if problem.bounds is not None:
            y = jnp.clip(y, *problem.bounds)
        energy, gradient = jax.value_and_grad(problem.energy)(y)
        finite = jnp.isfinite(energy) & jnp.all(jnp.isfinite(gradient))
        length = norm(y - s.y)
        bend = norm(jnp.where(finite, gradient - s.gradient, 0))
        curvature = jnp.where(length > 0, bend / jnp.where(length > 0, length, 1), s.curvature)
        lower = finite & (energy <= s.best[0])
        best = tuple(
            jnp.where(lower, new, old)
            for new, old in zip((energy, gradient, y), s.best, strict=True)
        )
        tolerance = default_tolerance(y.dtype) if self.tolerance is None else self.tolerance
        free = free_gradient(problem, y, gradient)
        met = small_gradient(free, y, s.start[1], curvature, tolerance) & finite
        status = jnp.where(met, jnp.int32(Status.CONVERGED), jnp.int32(Status.RUNNING))
        status = jnp.where(jnp.isneginf(energy), jnp.int32(Status.UNBOUNDED), status)
        status = jnp.where(s.status == Status.RUNNING, status, s.status)
        return _State(y, energy, gradient, inner, curvature, best, s.start, status)

    def y(self, state: _State) -> jax.Array:
        """The point of lowest energy (n,)."""
        return state.best[2]

    def status(self, problem: Problem, state: _State) -> jax.Array:
        """The status after the last step."""
        del problem
        return state.status

    def result(self, problem: Problem, start: jax.Array, state: _State) -> Result:
        """The result; at a saddle point `CONVERGED` becomes `STALLED`."""
        energy, gradient, y = state.best
        return judged(problem, start, y, state.status, energy, gradient, state.start[0])


@dataclasses.dataclass(frozen=True)
class Function:
    """Any function as a solver: `minimise(energy, y0) -> y`, energy (n,) -> (), y0 and y (n,).

    For the solvers of other libraries:

        Function(lambda energy, y: jaxopt.LBFGS(energy).run(y).params)
        Function(lambda energy, y: optimistix.minimise(
            lambda y, _: energy(y), optimistix.BFGS(1e-6, 1e-6), y, throw=False).value)

    No gradient passes through `minimise`. Its point is `CONVERGED` where the gradient is small
    relative to |H| |y| and products with the Hessian show no negative curvature.
    """

    minimise: Callable
    max_steps: int = 1

    def __post_init__(self):
        if not callable(self.minimise):
            expected = "expected a function (energy, y0) -> y"
            raise argument_error("minimise", expected, repr(self.minimise))

    def init(self, problem: Problem, y: jax.Array) -> tuple:
        """The state before the solve."""
        del problem
        return y, jnp.int32(Status.RUNNING)

    def step(self, problem: Problem, state: tuple) -> tuple:
        """The whole solve."""
        y = jnp.asarray(self.minimise(problem.energy, state[0]), state[0].dtype)
        if problem.bounds is not None:
            y = jnp.clip(y, *problem.bounds)
        return y, jnp.int32(Status.CONVERGED) + 0 * state[1]

    def y(self, state: tuple) -> jax.Array:
        """The point (n,)."""
        return state[0]

    def status(self, problem: Problem, state: tuple) -> jax.Array:
        """`CONVERGED` after the solve: a claim that the loop tests."""
        del problem
        return state[1]
