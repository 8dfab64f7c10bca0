"""The cheap way to a minimum of medium size: L-BFGS, then one Hessian for all the last steps.

A Hessian of n unknowns costs n products, so a Newton iteration is worth about n gradients. L-BFGS
takes the gradient norm down by a few orders of magnitude; there a single factor of the Hessian
serves every remaining step,

    y <- y - H(y_1)^-1 dE/dy,

which gains a fixed number of digits each, for one gradient and two triangular solves.

Source: Liu and Nocedal 1989; Shamanskii 1967 (the method of chords).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.core.dense import cholesky, cholesky_solve, dense_matrix, norm

__all__ = ["Approach", "approach"]

_HISTORY = 8
_CLOSE = 1e-3  # gradient norm, relative to the largest seen, at which the Hessian takes over
_CHORD_STEPS = 12


class Approach(NamedTuple):
    """Where the cheap phases have come to.

    Attributes:
        y: (n,) the point, never above the start in energy but for round-off.
        largest: () largest gradient norm seen.
        steps: () int32 steps taken.
        finished: () bool, whether y is a minimum to round-off and nothing is left to do.
    """

    y: jax.Array
    largest: jax.Array
    steps: jax.Array
    finished: jax.Array


class _State(NamedTuple):
    y: jax.Array
    energy: jax.Array
    gradient: jax.Array
    moves: jax.Array  # (m, n) newest last; zeros where there is none
    turns: jax.Array  # (m, n) changes of the gradient along them
    direction: jax.Array
    size: jax.Array  # step size to try along the direction
    largest: jax.Array
    steps: jax.Array
    alive: jax.Array


def approach(
    energy: Callable[[jax.Array], jax.Array], start: jax.Array, tolerance: float, max_steps: int
) -> Approach:
    """L-BFGS from `start` (n,), then chord steps; the rest is for Newton's method.

    Args:
        energy: (n,) -> ().
        start: (n,).
        tolerance: of the gradient norm, relative to the largest seen.
        max_steps: of L-BFGS, rejected ones included.
    """
    evaluate = jax.value_and_grad(energy)
    state = _lbfgs(evaluate, start, max_steps)
    gradient_of = jax.grad(energy)
    product = lambda p: jax.jvp(gradient_of, (state.y,), (p,))[1]
    matrix = dense_matrix(product, start.size, start.dtype)
    return _chords(evaluate, matrix, state, tolerance)


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

    q, alphas = jax.lax.scan(back, gradient, pairs, reverse=True)
    square = jnp.vdot(turns[-1], turns[-1])
    q = q * jnp.where(square > 0, inner[-1] / jnp.where(square > 0, square, 1), 1)
    return -jax.lax.scan(forth, q, (pairs, alphas))[0]


def _lbfgs(evaluate, start, max_steps) -> _State:
    """One evaluation an iteration, so that the problems of a batch do not wait in line searches."""
    dtype = start.dtype
    eps = jnp.finfo(dtype).eps
    energy, gradient = evaluate(start)
    slope = norm(gradient)
    reach = 0.1 * jnp.maximum(1, norm(start))

    def advance(state: _State) -> _State:
        slope = jnp.vdot(state.direction, state.gradient)
        trial = state.y + state.size * state.direction
        energy, gradient = evaluate(trial)
        finite = jnp.isfinite(energy) & jnp.all(jnp.isfinite(gradient))
        gain = state.size * slope
        accept = finite & (energy <= state.energy + 1e-4 * gain)
        # A rejected step is cut to the minimum of the parabola through what is known.
        excess = energy - state.energy - gain
        cut = jnp.where(finite & (excess > 0), -gain / (2 * jnp.where(excess > 0, excess, 1)), 0.1)
        shorter = state.size * jnp.clip(cut, 0.1, 0.5)

        move, turn = trial - state.y, gradient - state.gradient
        inner = jnp.vdot(move, turn)
        keep = accept & (inner > eps * norm(move) * norm(turn))
        push = lambda rows, row: jnp.where(keep, jnp.concatenate([rows[1:], row[None]]), rows)
        moves, turns = push(state.moves, move), push(state.turns, turn)
        take = lambda new, old: jnp.where(accept, new, old)
        gradient = take(gradient, state.gradient)
        direction = _direction(gradient, moves, turns)
        downhill = jnp.vdot(direction, gradient) < 0
        direction = jnp.where(downhill, direction, -gradient)
        size = norm(gradient)
        largest = jnp.maximum(state.largest, size)
        first = jnp.all(turns[-1] == 0) | ~downhill
        full = jnp.where(first, reach / jnp.where(size > 0, size, 1), 1).astype(dtype)
        noise = 4 * eps * jnp.abs(state.energy)
        blind = jnp.abs(gain) <= noise  # the energy cannot tell better from worse
        return _State(
            take(trial, state.y),
            take(energy, state.energy),
            gradient,
            moves,
            turns,
            take(direction, state.direction),
            jnp.where(accept, full, shorter),
            largest,
            state.steps + 1,
            (size > _CLOSE * largest) & ~blind,
        )

    empty = jnp.zeros((_HISTORY, start.size), dtype)
    state = _State(
        start,
        energy,
        gradient,
        empty,
        empty,
        -gradient,
        (reach / jnp.where(slope > 0, slope, 1)).astype(dtype),
        slope,
        jnp.int32(0),
        jnp.isfinite(energy) & jnp.isfinite(slope) & (slope > 0),
    )
    return jax.lax.while_loop(lambda s: s.alive & (s.steps < max_steps), advance, state)


def _chords(evaluate, matrix, state: _State, tolerance) -> Approach:
    """Steps with one factor while each at least halves the gradient."""
    n, dtype = state.y.size, state.y.dtype
    eps = jnp.finfo(dtype).eps
    lift = 4 * n * eps * jnp.max(jnp.sum(jnp.abs(matrix), axis=1))
    factor = cholesky(matrix)
    definite = jnp.all(jnp.isfinite(factor)) & (jnp.min(jnp.diagonal(factor)) ** 2 > lift)
    factor = jnp.where(definite, factor, jnp.eye(n, dtype=dtype))
    level = state.energy + 64 * eps * jnp.abs(state.energy)

    def advance(carry):
        y, gradient, slope, steps, rate, _ = carry
        trial = y - cholesky_solve(factor, gradient)
        energy, trial_gradient = evaluate(trial)
        trial_slope = norm(trial_gradient)
        better = (energy <= level) & (trial_slope < 0.5 * slope)
        take = lambda new, old: jnp.where(better, new, old)
        # The first step shows how steady the Hessian is; later ones end in round-off.
        first = trial_slope / jnp.where(slope > 0, slope, 1)
        rate = jnp.where(steps == 0, jnp.where(energy <= level, first, jnp.inf), rate)
        carry = take(trial, y), take(trial_gradient, gradient), take(trial_slope, slope)
        return *carry, steps + 1, rate, better & (trial_slope > 0)

    slope = norm(state.gradient)
    go = definite & jnp.isfinite(state.energy) & jnp.isfinite(slope) & (slope > 0)
    carry = (
        state.y,
        state.gradient,
        slope,
        jnp.int32(0),
        jnp.asarray(jnp.inf, dtype),
        go,
    )
    y, _, slope, steps, rate, _ = jax.lax.while_loop(
        lambda c: c[5] & (c[3] < _CHORD_STEPS), advance, carry
    )
    # A first step that gains a digit was a correction: y is a minimum where H is what it was.
    met = slope <= tolerance * state.largest
    return Approach(y, state.largest, state.steps + steps, go & met & (rate <= 0.1))
