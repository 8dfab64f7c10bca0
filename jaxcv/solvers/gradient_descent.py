"""Steepest descent with an adaptive step size: a reference without curvature."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.linear.dense import norm
from jaxcv.solvers.convergence import default_tolerance, free_gradient, judged, small_gradient
from jaxcv.solvers.problem import Problem, Result, Status, first_of, runaway
from jaxcv.solvers.protocol import check_limits

__all__ = ["GradientDescent"]


class _State(NamedTuple):
    y: jax.Array
    energy: jax.Array  # inf before the first evaluation
    gradient: jax.Array
    trial: jax.Array
    size: jax.Array
    curvature: jax.Array
    start_energy: jax.Array
    drop: jax.Array
    extent: jax.Array
    status: jax.Array


@dataclasses.dataclass(frozen=True)
class GradientDescent:
    """Steepest descent: accepted steps grow the step size, rejected ones halve it.

    Attributes:
        tolerance: stop at |dE/dy| <= tolerance |H| |y|, all at the current point; None: 1e-10 in
            float64, 1e-5 in float32.
        max_steps: maximum number of energy evaluations.
        step_size: the initial step size; 0: max(1, |y0|) / (10 |gradient|).

    Source: Armijo 1966 (sufficient decrease 1e-4).
    """

    tolerance: float | None = None
    max_steps: int = 1000
    step_size: float = 0.0

    def __post_init__(self):
        check_limits(self)

    def init(self, problem: Problem, y: jax.Array) -> _State:
        """The state before the first evaluation."""
        del problem
        zero = jnp.zeros((), y.dtype)
        return _State(
            y, zero + jnp.inf, jnp.zeros_like(y), y, zero, zero, zero + jnp.inf, zero, norm(y),
            jnp.int32(Status.RUNNING),
        )  # fmt: skip

    def step(self, problem: Problem, s: _State) -> _State:
        """Evaluates one trial point, and accepts or rejects it."""
        eps = float(jnp.finfo(s.y.dtype).eps)
        energy, gradient = jax.value_and_grad(problem.energy)(s.trial)
        first = jnp.isinf(s.energy)
        finite = jnp.isfinite(energy) & jnp.all(jnp.isfinite(gradient))
        old = jnp.where(first, energy, s.energy)
        move = s.trial - s.y
        gain, noise = jnp.vdot(s.gradient, move), 4 * eps * jnp.abs(old)
        # Where energy differences are round-off, a smaller gradient counts as progress.
        level = (energy <= old + noise) & (energy <= s.start_energy)
        flatter = level & (norm(gradient) < norm(s.gradient))
        lower = jnp.where(jnp.abs(gain) <= noise, flatter, energy <= old + 1e-4 * gain)
        accept = finite & (first | lower)
        length = norm(move)
        bend = norm(jnp.where(finite, gradient, 0) - s.gradient)
        measured = accept & ~first & (length > 0)
        curvature = jnp.where(measured, bend / jnp.where(length > 0, length, 1), s.curvature)
        take = lambda new, old: jnp.where(accept, new, old)
        y, energy, gradient = take(s.trial, s.y), take(energy, s.energy), take(gradient, s.gradient)
        free = free_gradient(problem, y, gradient)
        slope = norm(free)
        reach = 0.1 * jnp.maximum(1, s.extent) / jnp.where(slope > 0, slope, 1)
        begin = jnp.where(self.step_size > 0, self.step_size, reach)
        size = jnp.where(first, begin, s.size * jnp.where(accept, 1.5, 0.5)).astype(s.y.dtype)
        trial = y - size * free
        if problem.bounds is not None:
            trial = jnp.clip(trial, *problem.bounds)
        tolerance = default_tolerance(y.dtype) if self.tolerance is None else self.tolerance
        met = small_gradient(free, y, s.extent, curvature, tolerance) & (~first | (slope == 0))
        start_energy = jnp.where(first, old, s.start_energy)
        drop, falling = runaway(energy, start_energy, s.drop, first)
        status = first_of(
            (first & ~finite, Status.NONFINITE), (met & accept, Status.CONVERGED),
            (falling, Status.UNBOUNDED), (jnp.all(trial == y), Status.STALLED),
        )  # fmt: skip
        return _State(
            y, energy, gradient, trial, size, curvature, start_energy, drop, s.extent, status
        )

    def y(self, state: _State) -> jax.Array:
        """The best point (n,)."""
        return state.y

    def status(self, problem: Problem, state: _State) -> jax.Array:
        """The status after the last step."""
        del problem
        return state.status

    def result(self, problem: Problem, start: jax.Array, state: _State) -> Result:
        """The result; at a saddle point `CONVERGED` becomes `STALLED`."""
        return judged(
            problem, start, state.y, state.status, state.energy, state.gradient,
            state.start_energy, promote=True, tolerance=self.tolerance,
        )  # fmt: skip
