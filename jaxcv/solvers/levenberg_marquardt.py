"""Damped Newton steps on any structure of the Hessian; the engine of Gauss-Newton and of arrows.

One iteration forms a matrix M of second derivatives at y and tries

    p = -(M + mu diag(M))^-1 dE/dy

with a rising mu until the energy falls: a rejected trial costs a factorisation and an evaluation,
not the second derivatives again. M may be a Gauss-Newton or an IRLS approximation, whose last steps
converge linearly; they are replaced by chord steps with one exact Hessian
(`jaxcv.solvers.lbfgs`), which is also what the backward pass needs. Where the approximation
crawls, as it does where residuals stay large, the exact Hessian serves for M, too.

Source: Marquardt 1963; Nielsen 1999 (how mu follows the gain).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.linear.dense import hessian_product, norm
from jaxcv.linear.structure import Structure
from jaxcv.solvers.lbfgs import CLOSE, chord_steps

__all__ = ["Ending", "levenberg"]

_TRIALS = 12  # at one point; mu grows by 2^(1 + ... + 12) in them
_FIRST_DAMPING = 1e-3
_ROUNDS = 4  # of chord steps, one Hessian each
_PATIENCE = 8  # approximate steps in which the gradient norm must halve


class Ending(NamedTuple):
    """Where the steps ended.

    Attributes:
        y: (n,).
        energy: () at y.
        gradient: (n,) at y.
        matrix: the exact Hessian: at y, or near y and positive definite where `finished`.
        steps: () int32.
        finished: () bool, whether y is a minimum to round-off.
    """

    y: jax.Array
    energy: jax.Array
    gradient: jax.Array
    matrix: Any
    steps: jax.Array
    finished: jax.Array


class _State(NamedTuple):
    y: jax.Array
    energy: jax.Array
    gradient: jax.Array
    mu: jax.Array  # 1 in the step size's stead where steps are not damped
    largest: jax.Array  # largest gradient norm seen, the scale of the tolerance
    steps: jax.Array
    best: jax.Array  # gradient norm, and how many steps ago it was met
    waited: jax.Array
    alive: jax.Array


def levenberg(
    energy: Callable[[jax.Array], jax.Array],
    curvature: Callable[[jax.Array], Any] | None,
    structure: Structure,
    start: jax.Array,
    tolerance: float,
    max_steps: int,
    damped: bool = True,
) -> Ending:
    """A local minimiser of `energy`.

    Args:
        energy: (n,) -> ().
        curvature: (n,) -> M, in the form of `structure`; None: the exact Hessian.
        structure: of M and of the exact Hessian.
        start: (n,).
        tolerance: of the gradient norm, relative to the largest seen.
        max_steps: accepted and rejected steps with each kind of M.
        damped: mu as above; else `curvature` alone, and the step is halved until the energy falls.
    """
    evaluate = jax.value_and_grad(energy)
    gradient_of = jax.grad(energy)
    eps = jnp.finfo(start.dtype).eps
    lift = 4 * structure.width * eps

    def hessian(y):
        return structure.matrix(hessian_product(gradient_of, y), start.dtype)

    def derivatives(y):
        return structure.convex(hessian(y))

    def propose(matrix, gradient, mu, undamped):
        """The step, the decrease that the model predicts, and whether there is a step."""
        scale = structure.scale(matrix)
        extra = jnp.where(undamped, lift, mu) * scale
        p = -structure.solve(structure.factor(structure.add(matrix, extra)), gradient)
        # Undamped steps are cut to the share mu.
        slope, share = jnp.vdot(gradient, p), jnp.where(undamped, mu, 1)
        square = -slope - jnp.vdot(p, extra * p)  # p^T M p
        predicted, p = -share * slope - 0.5 * share**2 * square, share * p
        good = jnp.all(jnp.isfinite(p)) & (slope < 0)
        return jnp.where(good, p, 0), jnp.where(good, predicted, 0), good

    def advance(second, undamped, goal, limit, state: _State) -> _State:
        matrix = second(state.y)

        def attempt(carry):
            mu, grow, _, _, _, tries, _ = carry
            p, predicted, good = propose(matrix, state.gradient, mu, undamped)
            trial = state.y + p
            energy, gradient = evaluate(trial)
            finite = jnp.isfinite(energy) & jnp.all(jnp.isfinite(gradient))
            # Below this the energy cannot tell better from worse: leave to the chord steps.
            noise = 4 * eps * jnp.abs(state.energy)
            blind = good & ((predicted <= noise) | (norm(p) <= 2 * eps * norm(state.y)))
            gain = (state.energy - energy) / jnp.where(predicted > 0, predicted, 1)
            accept = good & finite & (gain > 1e-4) & ~blind
            shrunk = mu * jnp.maximum(0.1, 1 - (2 * gain - 1) ** 3)
            if_damped = jnp.where(accept, shrunk, mu * grow)
            mu = jnp.where(undamped, jnp.where(accept, jnp.minimum(2 * mu, 1), mu / 2), if_damped)
            mu = jnp.clip(mu, eps, 1 / eps).astype(state.mu.dtype)
            take = lambda new, old: jnp.where(accept, new, old)
            moved = take(trial, state.y), take(energy, state.energy), take(gradient, state.gradient)
            return mu, 2 * grow, *moved, tries + 1, accept | blind

        two = jnp.asarray(2, state.mu.dtype)
        begin, no = (state.y, state.energy, state.gradient), jnp.asarray(False)
        carry = (state.mu, two, *begin, jnp.int32(0), no)
        limit = jnp.minimum(_TRIALS, limit - state.steps)
        mu, _, y, energy, gradient, tries, done = jax.lax.while_loop(
            lambda c: ~c[6] & (c[5] < limit), attempt, carry
        )
        slope = norm(gradient)
        largest = jnp.maximum(state.largest, slope)
        halved = slope <= 0.5 * state.best
        best, waited = jnp.where(halved, slope, state.best), jnp.where(halved, 0, state.waited + 1)
        alive = done & jnp.any(y != state.y) & (slope > goal * largest)
        return _State(y, energy, gradient, mu, largest, state.steps + tries, best, waited, alive)

    def round_(index, carry):
        """Damped steps, then chord steps by the exact Hessian; nothing where all is finished."""
        state, matrix, finished = carry
        last = index + 1 == rounds
        second = derivatives
        if curvature is not None:
            second = functools.partial(jax.lax.cond, index == 0, curvature, derivatives)
        undamped = (index == 0) & (not damped)
        goal = jnp.where(last, tolerance, max(tolerance, CLOSE)).astype(start.dtype)
        slope, limit = norm(state.gradient), state.steps + max_steps
        alive = ~finished & jnp.isfinite(state.energy) & (slope > goal * state.largest)
        first = jnp.where(undamped, 1, _FIRST_DAMPING).astype(start.dtype)
        state = state._replace(alive=alive, mu=first, best=slope, waited=jnp.int32(0))
        patience = jnp.where(last, max_steps, _PATIENCE)
        state = jax.lax.while_loop(
            lambda s: s.alive & (s.steps < limit) & (s.waited < patience),
            functools.partial(advance, second, undamped, goal, limit),
            state,
        )
        go = ~finished & jnp.isfinite(state.energy)
        carry = (state, matrix, finished, jnp.int32(0), go)
        state, matrix, finished, _, _ = jax.lax.while_loop(lambda c: c[4], finish, carry)
        return state, matrix, finished

    def finish(carry):
        """Chord steps; again with a new Hessian where this one gained, but not enough."""
        state, _, _, round_, _ = carry
        matrix = hessian(state.y)
        end = chord_steps(evaluate, structure, matrix, state, tolerance)
        last = round_ + 1 == _ROUNDS
        # The last Hessian stays that of the point, but where all is finished.
        keep = end.finished | ~last
        gained = norm(end.gradient) < 0.5 * norm(state.gradient)
        take = lambda new, old: jnp.where(keep, new, old)
        state = state._replace(
            y=take(end.y, state.y),
            energy=take(end.energy, state.energy),
            gradient=take(end.gradient, state.gradient),
            steps=take(end.steps, state.steps),
        )
        return state, matrix, end.finished, round_ + 1, gained & keep & ~end.finished

    least, gradient = evaluate(start)
    slope, zero = norm(gradient), jnp.int32(0)
    one, no = jnp.ones((), start.dtype), jnp.asarray(False)
    state = _State(start, least, gradient, one, slope, zero, slope, zero, no)
    empty = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(hessian, start)
    )
    # The number of a round is the same for all problems of a batch: a cond on it stays one.
    rounds = 1 if curvature is None else 2
    state, matrix, finished = jax.lax.fori_loop(0, rounds, round_, (state, empty, no))
    return Ending(state.y, state.energy, state.gradient, matrix, state.steps, finished)
