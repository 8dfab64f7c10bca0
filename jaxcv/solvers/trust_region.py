"""The trust-region engine of `Newton`, `LevenbergMarquardt` and `GaussNewton`.

One step evaluates the energy at a trial point, accepts or rejects it, and proposes the next one:

    p = argmin g^T p + p^T M p / 2   subject to   |D p| <= radius,

with M the Hessian or a Gauss-Newton matrix and D^2 the largest |diag M| seen, so that the units of
the unknowns do not matter (More 1978). Near a minimum the energy has no digits left and full Newton
steps are accepted for as long as they halve the gradient.

A point is a minimum (`CONVERGED`) where M is positive semi-definite to round-off and either
  - the gradient is zero to round-off, |g| <= eps |M| |y|, or within the given tolerance of that;
  - or a full Newton step, along which the Hessian changes by less than a tenth of the gradient,
    lowers neither energy nor gradient: the precision is exhausted;
and the Newton decrement is below sqrt(eps) of the energy, or round-off of y. Where a step of eps^2
of the start is all that is left, as at a degenerate minimum or an inflection at zero, nothing more
is to be learned (`STALLED`). Nothing is compared with gradients met on the way.

Source: More and Sorensen 1983; More 1978; Nocedal and Wright, ch. 4.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.closure import together
from jaxcv.linear.dense import every, largest
from jaxcv.solvers.problem import Status

__all__ = ["Local", "Proposal", "Request", "State", "begin", "held", "step", "widened"]

_GAIN = 1e-4  # smallest ratio of the actual to the predicted decrease that is accepted


class Proposal(NamedTuple):
    """A step, and what the quadratic model says at the point that it starts from.

    Attributes:
        p: (n,).
        predicted: () decrease of the model along p.
        length: () |D p|.
        radius: () that was used; chosen here where it came in negative.
        full: () bool, p is the full Newton step.
        definite: () bool, M is positive semi-definite to round-off, and not zero.
        met: () bool, the gradient is within the tolerance.
        noise: () the round-off of g / D.
        quiet: () what round-off of y makes of the energy: a smaller predicted decrease is none.
        near: () bool, p is small against y or the start: the last digits are at stake.
        hidden: () what the energy could fall by along directions whose curvature is round-off.
    """

    p: jax.Array
    predicted: jax.Array
    length: jax.Array
    radius: jax.Array
    full: jax.Array
    definite: jax.Array
    met: jax.Array
    noise: jax.Array
    quiet: jax.Array
    near: jax.Array
    hidden: jax.Array


class Request(NamedTuple):
    """What a proposal is asked for.

    Attributes:
        gradient: (n,) at y.
        y: (n,).
        radius: (); below zero: to be chosen.
        start: (n,) |y| at the start of the solve; in local coordinates of a manifold 1.
        size: (n,) |y|; in local coordinates 1 more.
        tolerance: of the gradient, relative to |M| |y|.
    """

    gradient: jax.Array
    y: jax.Array
    radius: jax.Array
    start: jax.Array
    size: jax.Array
    tolerance: float


class Local(NamedTuple):
    """A problem as the engine sees it: four functions.

    Attributes:
        evaluate: y -> energy (), gradient (n,), and derivatives that come with them, any tree.
        refresh: (accepted, reuse, point, derivatives, old matrices) -> matrices. `accepted` says
            that the point is new; `reuse`, that the old matrices served well and may serve again.
            The point is (y, energy, gradient).
        turn: (wanted, trial, p, derivatives, matrices) -> (H(trial) - H(y)) p (n,), for
            p = trial - y and the matrices at y; read where `wanted`.
        propose: (matrices, energy, scale, request) -> `Proposal` and the new scale D (n,).
    """

    evaluate: Callable
    refresh: Callable
    turn: Callable
    propose: Callable


class State(NamedTuple):
    """Between two evaluations."""

    y: jax.Array
    energy: jax.Array  # inf before the first evaluation
    gradient: jax.Array
    matrices: Any
    scale: jax.Array  # (n,) D
    trial: jax.Array
    extent: jax.Array  # (n,) |y| at the start
    proposal: Proposal
    start_energy: jax.Array
    drop: jax.Array  # |E| at the start and the first decrease: the unit of "unbounded"
    status: jax.Array


def begin(y: jax.Array, matrices: Any, local: bool = False) -> State:
    """The state before the first evaluation; `matrices` has the right shapes and is not read."""
    zero, no = jnp.zeros((), y.dtype), jnp.asarray(False)
    proposal = Proposal(jnp.zeros_like(y), zero, zero, zero - 1, no, no, no, zero, zero, no, zero)
    infinite = zero + jnp.inf
    return State(
        y, infinite, jnp.zeros_like(y), matrices, jnp.zeros_like(y), y, jnp.abs(y) + local,
        proposal, infinite, zero, jnp.int32(Status.RUNNING),
    )  # fmt: skip


class _Decision(NamedTuple):
    """What an evaluation decides before the next proposal."""

    accept: jax.Array
    reuse: jax.Array
    tried: jax.Array  # a full Newton step at a minimum, rejected
    point: tuple  # (y, energy, gradient)
    slope: jax.Array
    radius: jax.Array
    start: jax.Array
    drop: jax.Array
    failed: jax.Array
    falling: jax.Array


def _decide(s: State, energy: jax.Array, gradient: jax.Array, bounds: Any) -> _Decision:
    """By energy; and, for a full Newton step, by gradient where energies are alike."""
    eps = jnp.finfo(s.y.dtype).eps
    first = jnp.isinf(s.energy)
    finite = jnp.isfinite(energy) & every(jnp.isfinite(gradient))
    previous, old_energy = s.proposal, jnp.where(first, energy, s.energy)
    noise = 4 * eps * jnp.abs(old_energy)
    gain = jnp.where(finite, old_energy - energy, 0)
    predicted = previous.predicted
    ratio = gain / jnp.where(predicted > 0, predicted, 1)
    slope = jnp.where(first, jnp.inf, _size(s.gradient, s.scale, s.y, bounds))
    new_slope = _size(jnp.where(finite, gradient, 0), s.scale, s.trial, bounds)
    halved = previous.full & previous.definite & (new_slope < 0.5 * slope)
    level = gain >= -16 * noise
    accept = finite & (first | ((ratio > _GAIN) & (predicted > noise)) | (halved & level))
    take = lambda new, old: jnp.where(accept, new, old)
    tried = previous.full & previous.definite & finite & ~accept

    length = previous.length
    grown = jnp.where((ratio > 0.75) & (length > 0.8 * previous.radius), 2.5, 1)
    by_gain = jnp.where(ratio > 0.25, grown * previous.radius, 0.25 * length)
    radius = jnp.where(accept, jnp.where(halved & level, previous.radius, by_gain), 0.25 * length)
    radius = jnp.where(first, -1, radius).astype(s.y.dtype)

    point = take(s.trial, s.y), take(energy, s.energy), take(gradient, s.gradient)
    start = jnp.where(first, energy, s.start_energy)
    drop = jnp.where(first, jnp.abs(energy), s.drop)
    drop = jnp.where(accept & (s.drop == jnp.abs(s.start_energy)), drop + gain, drop)
    falling = jnp.isneginf(energy) | (point[1] < start - drop / eps**2)
    return _Decision(
        accept, accept & halved & ~first, tried, point, slope, radius, start, drop,
        first & ~finite, falling,
    )  # fmt: skip


def step(
    local: Local, s: State, tolerance: float, bounds: Any = None, coordinates: bool = False
) -> State:
    """One evaluation, one decision, one proposal."""
    energy, gradient, derivatives = local.evaluate(s.trial)
    new = together(lambda: _decide(s, energy, gradient, bounds), 8 <= gradient.nbytes <= 32)
    y, new_energy, new_gradient = new.point
    turn = local.turn(new.tried, s.trial, s.trial - s.y, derivatives, s.matrices)
    turn = largest(jnp.abs(turn) / jnp.where(s.scale > 0, s.scale, 1))
    eps = jnp.finfo(s.y.dtype).eps
    floor = new.tried & (turn <= 0.1 * new.slope + s.proposal.noise) & s.proposal.near

    matrices = local.refresh(new.accept, new.reuse, new.point, derivatives, s.matrices)
    size = jnp.abs(y) + coordinates
    request = Request(new_gradient, y, new.radius, s.extent, size, tolerance)
    proposal, scale = local.propose(matrices, new_energy, s.scale, request)
    trial = y + proposal.p
    if bounds is not None:
        trial = jnp.clip(trial, *bounds)
    moved = ~every(trial == y)

    # The Newton decrement: what is still expected must be little of the energy, or round-off of y.
    scarce = eps**0.5 * jnp.abs(new_energy)
    settled = lambda p: p.predicted + p.hidden <= scarce + p.quiet
    minimum = (floor & settled(s.proposal)) | (
        proposal.definite & proposal.full & (proposal.met | ~moved) & settled(proposal)
    )
    # At a minimum at zero nothing is small against y, but steps of Newton's method gain digits.
    quick = _size(new_gradient, scale, y, bounds) <= 0.1 * new.slope
    minimum |= proposal.definite & quick & negligible(proposal, y, s.extent)
    blind = proposal.predicted <= 4 * eps * jnp.abs(new_energy)
    stuck = (
        ~moved
        | floor
        | negligible(proposal, y, s.extent)
        | (blind & (new.tried | ~(proposal.full & proposal.definite)))
    )
    verdicts = (
        (new.failed, Status.NONFINITE), (minimum, Status.CONVERGED),
        (new.falling, Status.UNBOUNDED), (stuck, Status.STALLED),
    )  # fmt: skip
    status = jnp.int32(Status.RUNNING)
    for condition, code in reversed(verdicts):
        status = jnp.where(condition, jnp.int32(code), status)
    return State(
        y, new_energy, new_gradient, matrices, scale, trial, s.extent, proposal, new.start,
        new.drop, status,
    )  # fmt: skip


def _size(gradient, scale, y, bounds):
    """The largest entry of g / D; at a bound only of what points inwards."""
    if bounds is not None:
        gradient = jnp.where(held(gradient, y, bounds), 0, gradient)
    return largest(jnp.abs(gradient) / jnp.where(scale > 0, scale, 1))


def widened(scale: jax.Array, diagonal: jax.Array) -> jax.Array:
    """D (n,): the largest sqrt |M_ii| seen so far; unknowns without curvature get the largest."""
    scale = jnp.maximum(scale, jnp.sqrt(jnp.abs(diagonal)))
    top = largest(scale)
    return jnp.where(scale > 0, scale, jnp.where(top > 0, top, 1))


def negligible(proposal: Proposal, y: jax.Array, start: jax.Array) -> jax.Array:
    """() bool: a full Newton step below eps^2 of the unknowns, or of what they were."""
    limit = float(jnp.finfo(y.dtype).eps) ** 2
    return proposal.full & every(jnp.abs(proposal.p) <= limit * jnp.maximum(jnp.abs(y), start))


def held(gradient: jax.Array, y: jax.Array, bounds: Any) -> jax.Array:
    """(n,) bool, the unknowns at a bound that the energy pushes them against."""
    lower, upper = bounds
    return ((y <= lower) & (gradient > 0)) | ((y >= upper) & (gradient < 0))
