"""Limited-memory BFGS: gradients only, O(n) memory."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.checks import argument_error, check_count
from jaxcv.linear.dense import norm
from jaxcv.solvers.convergence import default_tolerance, judged, small_decrement, small_gradient
from jaxcv.solvers.problem import Problem, Result, Status, first_of, runaway
from jaxcv.solvers.protocol import check_limits, solve

__all__ = ["LBFGS", "warm_start"]

_NEAR = 1e-3  # gradient norm / the largest so far, at which Newton's method takes over


@dataclasses.dataclass(frozen=True)
class LBFGS:
    """Limited-memory BFGS with one evaluation per step.

    A step that does not lower the energy is cut to the minimum of the interpolating parabola.
    Where energy differences are round-off, a smaller gradient counts as progress.

    Attributes:
        tolerance: stop at |dE/dy| <= tolerance |H| |y|, all at the current point; None: 1e-10 in
            float64, 1e-5 in float32.
        max_steps: maximum number of energy evaluations.
        history: number of (step, gradient change) pairs kept, at most n.
        step_size: 0: backtracking line search; > 0: a fixed step size, as in the released code of
            Wibergian learning (1.0); the energy may then rise above its initial value.

    Source: Liu and Nocedal 1989.
    """

    tolerance: float | None = None
    max_steps: int = 1000
    history: int = 10
    step_size: float = 0.0

    def __post_init__(self):
        check_limits(self)
        object.__setattr__(self, "history", check_count("history", self.history))

    def init(self, problem: Problem, y: jax.Array) -> "LBFGSState":
        """The state before the first evaluation."""
        if problem.bounds is not None:
            hint = "Use Newton(), LevenbergMarquardt() or GradientDescent()."
            raise argument_error("solver", "LBFGS takes no bounds", "bounds", hint)
        return _begin(y, min(self.history, y.size))

    def step(self, problem: Problem, state: "LBFGSState") -> "LBFGSState":
        """Evaluates one trial point, and accepts or rejects it."""
        tolerance = self.tolerance
        if tolerance is None:
            tolerance = default_tolerance(state.y.dtype)

        def near(energy, gradient, direction, y, curvature, largest):
            del largest
            # |H| may belong to a stiff direction: the step and the decrement must be small as well.
            limit = tolerance**0.5 * jnp.maximum(jnp.abs(y), tolerance * state.extent)
            short = jnp.all(jnp.abs(direction) <= limit)
            decrement = -0.5 * jnp.vdot(gradient, direction)
            short &= small_decrement(decrement, energy, y, state.extent, curvature, tolerance)
            return short & small_gradient(gradient, y, state.extent, curvature, tolerance)

        return _step(problem.energy, state, near, self.step_size)

    def y(self, state: "LBFGSState") -> jax.Array:
        """The best point (n,)."""
        return state.y

    def status(self, problem: Problem, state: "LBFGSState") -> jax.Array:
        """The status after the last step."""
        del problem
        return state.status

    def result(self, problem: Problem, start: jax.Array, state: "LBFGSState") -> Result:
        """The result; at a saddle point `CONVERGED` becomes `STALLED`."""
        # A stalled solve counts as converged where the Hessian confirms a minimum.
        return judged(
            problem, start, state.y, state.status, state.energy, state.gradient,
            state.start_energy, promote=True, tolerance=self.tolerance,
        )  # fmt: skip


class LBFGSState(NamedTuple):
    """The state between two evaluations."""

    y: jax.Array
    energy: jax.Array  # inf before the first evaluation
    gradient: jax.Array
    moves: jax.Array  # (m, n) unit vectors, newest last; zeros where there is none
    turns: jax.Array  # (m, n) changes of the gradient per unit length along `moves`
    trial: jax.Array
    direction: jax.Array
    size: jax.Array  # step size of the trial along the direction
    curvature: jax.Array  # () |change of the gradient| / |step|, the newest
    largest: jax.Array  # () largest gradient norm so far; only for the warm start
    extent: jax.Array  # () norm of y at the start
    start_energy: jax.Array
    drop: jax.Array
    status: jax.Array


@dataclasses.dataclass(frozen=True)
class _WarmStart(LBFGS):
    """L-BFGS until |dE/dy| is 1e-3 of its maximum, or the predicted gain is round-off."""

    history: int = 8

    def step(self, problem: Problem, state: LBFGSState) -> LBFGSState:
        def near(energy, gradient, direction, y, curvature, largest):
            del energy, direction, y, curvature
            return norm(gradient) <= _NEAR * largest

        return _step(problem.energy, state, near, 0.0, patient=False)

    def result(self, problem: Problem, start: jax.Array, state: LBFGSState) -> Result:
        return Result(state.y, state.status, state.energy, state.gradient, state.start_energy)


def warm_start(problem: Problem, y: jax.Array, max_steps: int) -> tuple[jax.Array, jax.Array]:
    """The end point (n,) of an L-BFGS warm start for Newton's method, and the steps taken."""
    solver: Any = _WarmStart(max_steps=max_steps)
    result = solve(solver, problem, y)
    return result.y, result.steps


def _begin(y: jax.Array, history: int) -> LBFGSState:
    zero, rows = jnp.zeros((), y.dtype), jnp.zeros((history, y.size), y.dtype)
    return LBFGSState(
        y, zero + jnp.inf, jnp.zeros_like(y), rows, rows, y, jnp.zeros_like(y), zero, zero, zero,
        norm(y), zero + jnp.inf, zero, jnp.int32(Status.RUNNING),
    )  # fmt: skip


def _direction(gradient, moves, turns):
    """-B g by the two-loop recursion; the newest pair scales the identity."""
    inner = jnp.sum(moves * turns, axis=1)
    used = inner > 0
    rho = jnp.where(used, 1 / jnp.where(used, inner, 1), 0)
    pairs = moves, turns, rho

    def back(q, pair):
        move, turn, rho = pair
        alpha = rho * jnp.vdot(move, q)
        return q - alpha * turn, alpha

    def forth(q, pair):
        (move, turn, rho), alpha = pair
        return q + (alpha - rho * jnp.vdot(turn, q)) * move, None

    unroll = moves.shape[0] if moves.shape[0] <= 2 else 1
    q, alphas = jax.lax.scan(back, gradient, pairs, reverse=True, unroll=unroll)
    square = jnp.vdot(turns[-1], turns[-1])
    q = q * jnp.where(square > 0, inner[-1] / jnp.where(square > 0, square, 1), 1)
    return -jax.lax.scan(forth, q, (pairs, alphas), unroll=unroll)[0]


def _step(energy_of, s: LBFGSState, near, step_size: float, patient: bool = True) -> LBFGSState:
    dtype = s.y.dtype
    eps = float(jnp.finfo(dtype).eps)
    energy, gradient = jax.value_and_grad(energy_of)(s.trial)
    first = jnp.isinf(s.energy)
    finite = jnp.isfinite(energy) & jnp.all(jnp.isfinite(gradient))
    old = jnp.where(first, energy, s.energy)
    gain = s.size * jnp.vdot(s.direction, s.gradient)  # <= 0: by the linear model
    noise = 4 * eps * jnp.abs(old)
    blind = jnp.abs(gain) <= noise
    slope, new_slope = norm(s.gradient), norm(jnp.where(finite, gradient, 0))
    lower = energy <= old + 1e-4 * gain
    flatter = (energy <= old + noise) & (new_slope < 0.9 * slope)
    accept = finite & (first | jnp.where(blind, flatter, lower))
    if step_size > 0:
        accept = finite
    excess = energy - old - gain
    parabola = finite & (excess > 0)
    cut = jnp.where(parabola, -gain / (2 * jnp.where(parabola, excess, 1)), 0.1)
    shorter = s.size * jnp.clip(cut, 0.1, 0.5)

    move, turn = s.trial - s.y, jnp.where(finite, gradient, 0) - s.gradient
    length = norm(move)
    inner = jnp.vdot(move, turn)
    keep = accept & ~first & (inner > eps * length * norm(turn))
    push = lambda rows, row: jnp.where(keep, jnp.concatenate([rows[1:], row[None]]), rows)
    # Per unit length of the step, so that squares do not overflow.
    unit = jnp.where(length > 0, length, 1)
    moves, turns = push(s.moves, move / unit), push(s.turns, turn / unit)
    curvature = jnp.where(accept & ~first & (length > 0), norm(turn) / unit, s.curvature)
    take = lambda new, old: jnp.where(accept, new, old)
    y, energy, gradient = take(s.trial, s.y), take(energy, s.energy), take(gradient, s.gradient)
    direction = _direction(gradient, moves, turns)
    downhill = jnp.vdot(direction, gradient) < 0
    size = norm(gradient)
    reach = 0.1 * jnp.maximum(1, s.extent) / jnp.where(size > 0, size, 1)
    if step_size > 0:
        total = jnp.sum(jnp.abs(gradient))
        reach = jnp.minimum(1, 1 / jnp.where(total > 0, total, 1))
    unscaled = jnp.all(turns[-1] == 0) | ~downhill
    direction = take(jnp.where(unscaled, -reach * gradient, direction), s.direction)
    largest = jnp.maximum(s.largest, size)
    full = jnp.where(unscaled, 1, step_size) if step_size > 0 else 1
    next_size = jnp.where(accept, full, shorter).astype(dtype)
    trial = y + next_size * direction
    if step_size > 0:
        met = size == 0
    else:
        met = near(energy, gradient, direction, y, curvature, largest)
        met &= accept & (~first | (size == 0))
    stuck = jnp.all(trial == y) | (blind & ~accept & ~first)
    if not patient:
        ahead = next_size * jnp.vdot(direction, gradient)
        stuck = stuck | (jnp.abs(ahead) <= 4 * eps * jnp.abs(energy))
    start_energy = jnp.where(first, old, s.start_energy)
    drop, falling = runaway(energy, start_energy, s.drop, first)
    status = first_of(
        (first & ~finite, Status.NONFINITE), (met, Status.CONVERGED),
        (falling, Status.UNBOUNDED), (stuck & (step_size <= 0), Status.STALLED),
    )  # fmt: skip
    return LBFGSState(
        y, energy, gradient, moves, turns, trial, direction, next_size, curvature, largest,
        s.extent, start_energy, drop, status,
    )  # fmt: skip
