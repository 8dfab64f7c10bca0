"""The cheap way to a minimum of medium size: L-BFGS, then one Hessian for all the last steps.

A Hessian of n unknowns costs n products, so a Newton iteration is worth about n gradients. L-BFGS
takes the gradient norm down by a few orders of magnitude; there a single factor of the Hessian
serves every remaining step,

    y <- y - H(y_1)^-1 dE/dy,

which gains a fixed number of digits each, for one gradient and two triangular solves.

Source: Liu and Nocedal 1989; Shamanskii 1967 (the method of chords).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.linear.dense import hessian_product, norm
from jaxcv.linear.structure import DenseStructure, Structure

__all__ = ["CLOSE", "Approach", "Chords", "approach", "chord_steps"]

_HISTORY = 8
CLOSE = 1e-3  # gradient norm, relative to the largest seen, at which the Hessian takes over
_CHORD_STEPS = 12


class Approach(NamedTuple):
    """Where the cheap phases have come to.

    Attributes:
        y: (n,) the point, never above the start in energy but for round-off.
        largest: () largest gradient norm seen.
        steps: () int32 steps taken.
        matrix: (n, n) the Hessian where the chord steps began.
        finished: () bool, whether y is a minimum to round-off and nothing is left to do.
    """

    y: jax.Array
    largest: jax.Array
    steps: jax.Array
    matrix: jax.Array
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
    dense = DenseStructure(start.size)
    matrix = dense.matrix(hessian_product(jax.grad(energy), state.y), start.dtype)
    end = chord_steps(evaluate, dense, matrix, state, tolerance)
    return Approach(end.y, state.largest, end.steps, matrix, end.finished)


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
            (size > CLOSE * largest) & ~blind,
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


class Chords(NamedTuple):
    """Where chord steps ended; the fields are those of `Approach`, with E and dE/dy at y."""

    y: jax.Array
    energy: jax.Array
    gradient: jax.Array
    steps: jax.Array
    finished: jax.Array


def chord_steps(
    evaluate: Callable, structure: Structure, matrix: Any, state: Any, tolerance: float
) -> Chords:
    """Steps with one factor of `matrix` while each at least halves the gradient.

    Args:
        evaluate: (n,) -> E, dE/dy.
        structure: of the matrix.
        matrix: the Hessian at the start.
        state: where to start, with y, energy, gradient, largest and steps.
        tolerance: of the gradient norm, relative to `state.largest`.
    """
    eps = jnp.finfo(state.y.dtype).eps
    factor = structure.factor(matrix)
    pivot = structure.pivots(factor)
    definite = pivot > 4 * structure.width * eps * structure.magnitude(matrix)  # not where NaN
    level = state.energy + 64 * eps * jnp.abs(state.energy)

    def advance(carry):
        (y, energy, gradient, steps, _), slope, rate, reach, _ = carry
        p = structure.solve(factor, gradient)
        trial = y - p
        trial_energy, trial_gradient = evaluate(trial)
        trial_slope = norm(trial_gradient)
        better = (trial_energy <= level) & (trial_slope < 0.5 * slope)
        take = lambda new, old: jnp.where(better, new, old)
        # The first step shows how steady the Hessian is; later ones end in round-off.
        first = trial_slope / jnp.where(slope > 0, slope, 1)
        rate = jnp.where(jnp.isinf(rate) & (trial_energy <= level), first, rate)
        moved = take(trial, y), take(trial_energy, energy), take(trial_gradient, gradient)
        at = Chords(*moved, steps + 1, definite)
        reach = jnp.where(jnp.isinf(reach), norm(p), reach)
        return at, take(trial_slope, slope), rate, reach, better & (trial_slope > 0)

    slope = norm(state.gradient)
    go = definite & jnp.isfinite(state.energy) & jnp.isfinite(slope)
    at = Chords(state.y, state.energy, state.gradient, state.steps, definite)
    begin, unknown = slope, jnp.asarray(jnp.inf, slope.dtype)
    carry = (at, slope, unknown, unknown, go & (slope > 0))
    limit = state.steps + _CHORD_STEPS
    at, slope, rate, reach, _ = jax.lax.while_loop(
        lambda c: c[4] & (c[0].steps < limit), advance, carry
    )
    # y is rounded, and dE/dy cannot be closer to zero than that moves it.
    rounding = structure.multiply(jax.tree.map(jnp.abs, matrix), jnp.abs(at.y))
    goal = jnp.maximum(tolerance * state.largest, 2 * eps * norm(rounding))
    # A first step that gains a digit was a correction: y is a minimum where H is what it was. So
    # it is where there was nothing to gain, and the step hardly one.
    settled = (begin <= goal) & ((reach <= eps**0.75 * norm(at.y)) | (begin == 0))
    return at._replace(finished=go & (slope <= goal) & ((rate <= 0.1) | settled))
