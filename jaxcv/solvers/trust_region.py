"""The trust-region engine of `Newton`, `LevenbergMarquardt` and `GaussNewton`.

One step evaluates the energy at a trial point, accepts or rejects it, and proposes the next one:

    p = argmin g^T p + p^T M p / 2   subject to   |D p| <= radius,

with M the Hessian or a Gauss-Newton matrix and D^2 the largest |diag M| seen, so that the units of
the unknowns do not matter (More 1978). Near a minimum energy differences are round-off; full Newton
steps are then accepted while they halve the gradient.

A point is a minimum (`CONVERGED`) where M is positive semi-definite to round-off, the Newton
decrement is below sqrt(eps) of the energy or round-off of y, and
  - the gradient is zero to round-off, |g| <= eps |M| |y|, or within the given tolerance of that;
  - or a full Newton step, along which the Hessian changes by less than a tenth of the gradient,
    lowers neither energy nor gradient: the precision is exhausted;
  - or no step changes y any more.
Where Newton's method converges linearly, at a degenerate minimum or an inflection, it ends when the
steps are eps^2 of the start, or follow a curvature that is round-off. Then a probe, one evaluation
far beyond the point, decides: if the energy rises there, the point is a minimum; if the energy
falls, the solve continues. No test depends on the size of the first gradient.

Source: More and Sorensen 1983; More 1978; Nocedal and Wright, ch. 4.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.closure import together
from jaxcv.linear.dense import every, largest, total
from jaxcv.solvers.feasible import inside
from jaxcv.solvers.problem import Status, first_of, held, runaway

__all__ = ["PROBE", "Local", "Proposal", "Request", "State", "begin", "rises", "step", "widened"]

_GAIN = 1e-4  # smallest ratio of the actual to the predicted decrease that is accepted
PROBE = 16  # length of a probe in steps: passes minima of degree 8 or less


class Proposal(NamedTuple):
    """A step, and properties of the quadratic model at its starting point.

    Attributes:
        p: (n,).
        predicted: () decrease of the model along p.
        decrement: () decrease of the model along the full Newton step.
        length: () |D p|.
        radius: () the radius used; chosen by the proposal if the request's is negative.
        full: () bool, p is the full Newton step.
        definite: () bool, M is positive semi-definite to round-off, and not zero.
        met: () bool, the gradient is within the tolerance.
        noise: () the round-off of g / D.
        quiet: () energy change from round-off of y: a smaller predicted decrease counts as none.
        near: () bool, p is small relative to y or the start: only the last digits change.
        hidden: () possible decrease along directions whose curvature is round-off.
        rest: (n,) the Newton step along these directions, at the smallest resolved curvature.
        blurred: () bool, near a minimum the step would follow a curvature that is round-off.
    """

    p: jax.Array
    predicted: jax.Array
    decrement: jax.Array
    length: jax.Array
    radius: jax.Array
    full: jax.Array
    definite: jax.Array
    met: jax.Array
    noise: jax.Array
    quiet: jax.Array
    near: jax.Array
    hidden: jax.Array
    rest: jax.Array
    blurred: jax.Array


class Request(NamedTuple):
    """The input of a proposal.

    Attributes:
        energy: () at y.
        gradient: (n,) at y.
        y: (n,).
        radius: (); negative: the proposal chooses one.
        start: (n,) |y| at the start of the solve; 1 in local coordinates of a manifold.
        size: (n,) |y|; |y| + 1 in local coordinates.
        tolerance: on the gradient, relative to |M| |y|.
    """

    energy: jax.Array
    gradient: jax.Array
    y: jax.Array
    radius: jax.Array
    start: jax.Array
    size: jax.Array
    tolerance: float


class Local(NamedTuple):
    """The four functions of a problem that the engine calls.

    Attributes:
        evaluate: y -> energy (), gradient (n,), and any tree of further derivatives.
        refresh: (accepted, reuse, point, derivatives, old matrices) -> matrices. `accepted`:
            the point is new; `reuse`: the old matrices may be kept. The point is (y, energy,
            gradient).
        turn: (wanted, trial, p, derivatives, matrices) -> (H(trial) - H(y)) p (n,), for
            p = trial - y and the matrices at y; used only where `wanted`.
        propose: (matrices, scale, request) -> `Proposal` and the new scale D (n,).
    """

    evaluate: Callable
    refresh: Callable
    turn: Callable
    propose: Callable


class Pending(NamedTuple):
    """The part of a proposal that is kept until its point is evaluated."""

    predicted: jax.Array
    length: jax.Array
    radius: jax.Array
    newton: jax.Array  # () bool, a full step at a minimum of the model
    near: jax.Array  # () bool, a step for the last digits, M likewise definite
    settled: jax.Array  # () bool, little can be gained; for a probe: it may show a minimum
    noise: jax.Array
    far: jax.Array  # (n,) the point of a probe
    probe: jax.Array  # () bool, the pending point is a probe


class State(NamedTuple):
    """The state between two evaluations."""

    y: jax.Array
    energy: jax.Array  # inf before the first evaluation
    gradient: jax.Array
    matrices: Any
    scale: jax.Array  # (n,) D
    trial: jax.Array
    extent: jax.Array  # (n,) |y| at the start
    pending: Pending
    start_energy: jax.Array
    drop: jax.Array  # |E| at the start + the first decrease, see `runaway`
    status: jax.Array


def begin(y: jax.Array, matrices: Any, local: bool = False) -> State:
    """The state before the first evaluation; `matrices` is a placeholder of the right shapes."""
    zero, no = jnp.zeros((), y.dtype), jnp.asarray(False)
    pending = Pending(zero, zero, zero - 1, no, no, no, zero, y, no)
    infinite = zero + jnp.inf
    return State(
        y, infinite, jnp.zeros_like(y), matrices, jnp.zeros_like(y), y, jnp.abs(y) + float(local),
        pending, infinite, zero, jnp.int32(Status.RUNNING),
    )  # fmt: skip


class _Decision(NamedTuple):
    """The outcome of an evaluation, before the next proposal."""

    accept: jax.Array
    reuse: jax.Array
    tried: jax.Array  # a rejected full Newton step, M definite
    point: tuple  # (y, energy, gradient)
    slope: jax.Array
    radius: jax.Array
    start: jax.Array
    drop: jax.Array
    crawling: jax.Array  # an accepted step for the last digits gained little
    failed: jax.Array
    falling: jax.Array


def _decide(s: State, energy: jax.Array, gradient: jax.Array, bounds: Any) -> _Decision:
    """Accepts by energy or, for a full Newton step at a similar energy, by gradient."""
    eps = jnp.finfo(s.y.dtype).eps
    first = jnp.isinf(s.energy)
    finite = jnp.isfinite(energy) & every(jnp.isfinite(gradient))
    previous, old_energy = s.pending, jnp.where(first, energy, s.energy)
    newton = previous.newton & ~previous.probe
    noise = 4 * eps * jnp.abs(old_energy)
    gain = jnp.where(finite, old_energy - energy, 0)
    level = gain >= -16 * noise
    # Equal energies carry no information: use the directional derivatives at both ends.
    slopes = -0.5 * total((jnp.where(finite, gradient, 0) + s.gradient) * (s.trial - s.y))
    seen = jnp.where(gain == 0, slopes, gain)
    predicted = previous.predicted
    ratio = seen / jnp.where(predicted > 0, predicted, 1)
    slope = jnp.where(first, jnp.inf, _size(s.gradient, s.scale, s.y, bounds))
    new_slope = _size(jnp.where(finite, gradient, 0), s.scale, s.trial, bounds)
    steeper = new_slope >= 0.5 * slope
    halved = newton & ~steeper & level
    lower = jnp.where(previous.probe, gain > noise, (ratio > _GAIN) & (predicted > noise))
    accept = finite & (first | lower | halved)
    take = lambda new, old: jnp.where(accept, new, old)

    crawling = accept & previous.near & steeper & (gain <= 0.1 * jnp.abs(old_energy))
    length = previous.length
    grown = jnp.where((ratio > 0.75) & (length > 0.8 * previous.radius), 2.5, 1)
    by_gain = jnp.where(ratio > 0.25, grown * previous.radius, 0.25 * length)
    by_gain = jnp.where(halved | previous.probe, previous.radius, by_gain)
    # After a full Newton step the radius is at most 16 times its length.
    by_gain = jnp.where(newton, jnp.minimum(by_gain, 16 * length), by_gain)
    radius = jnp.where(accept, by_gain, 0.25 * length)
    radius = jnp.where(first, -1, radius).astype(s.y.dtype)

    point = take(s.trial, s.y), take(energy, s.energy), take(gradient, s.gradient)
    start = jnp.where(first, energy, s.start_energy)
    drop, falling = runaway(point[1], start, s.drop, first)
    return _Decision(
        accept, accept & halved & ~first, newton & finite & ~accept, point, slope, radius, start,
        drop, crawling, first & ~finite, falling,
    )  # fmt: skip


def step(
    local: Local, s: State, tolerance: float, bounds: Any = None, coordinates: bool = False
) -> State:
    """One evaluation, one decision, one proposal."""
    energy, gradient, derivatives = local.evaluate(s.trial)
    few = 8 <= gradient.nbytes <= 32
    new = together(lambda: _decide(s, energy, gradient, bounds), few)
    y, new_energy, new_gradient = new.point
    turn = local.turn(new.tried, s.trial, s.trial - s.y, derivatives, s.matrices)
    matrices = local.refresh(new.accept, new.reuse, new.point, derivatives, s.matrices)
    size = jnp.abs(y) + float(coordinates)
    request = Request(new_energy, new_gradient, y, new.radius, s.extent, size, tolerance)
    proposal, scale = local.propose(matrices, s.scale, request)
    verdict = lambda: _verdict(s, new, gradient, turn, proposal, scale, bounds)
    trial, pending, status = together(verdict, few)
    return State(
        y, new_energy, new_gradient, matrices, scale, trial, s.extent, pending, new.start,
        new.drop, status,
    )  # fmt: skip


def _verdict(
    s: State, new: _Decision, gradient: jax.Array, turn: jax.Array, proposal: Proposal,
    scale: jax.Array, bounds: Any,
) -> tuple[jax.Array, Pending, jax.Array]:  # fmt: skip
    """The next point to evaluate, its `Pending`, and the `Status`.

    Args:
        s: the state before the evaluation.
        new: the outcome of the evaluation.
        gradient: (n,) at the evaluated point, accepted or not.
        turn: (n,) change of the Hessian along a rejected Newton step, times that step.
        proposal: the next step.
        scale: (n,) D of `proposal`.
        bounds: as in `Problem`.
    """
    y, new_energy, new_gradient = new.point
    turn = largest(jnp.abs(turn) / jnp.where(s.scale > 0, s.scale, 1))
    exhausted = new.tried & (new.slope > 0) & (turn <= 0.1 * new.slope + s.pending.noise)
    floor = exhausted & s.pending.near
    trial, newton = inside(y, proposal.p, bounds), proposal.full & proposal.definite
    moved = ~every(trial == y)

    # The Newton decrement must be small relative to the energy, or within round-off of y.
    eps = jnp.finfo(s.y.dtype).eps
    scarce = eps**0.5 * jnp.abs(new_energy)
    # Allow less for round-off of y where the curvature is round-off, too.
    quiet = jnp.where(proposal.blurred, 1e-2, 1) * proposal.quiet
    settled = proposal.decrement <= scarce + quiet
    settled &= proposal.hidden <= scarce + 1e-2 * proposal.quiet
    quick = _size(new_gradient, scale, y, bounds) <= 0.1 * new.slope
    little = _negligible(proposal, y, s.extent)
    resting = ~moved | proposal.blurred | new.crawling
    minimum = (exhausted & s.pending.settled) | (
        settled & ((newton & (proposal.met | (quick & little))) | (proposal.definite & resting))
    )
    blind = proposal.predicted <= 4 * eps * jnp.abs(new_energy)
    stuck = resting | floor | little | (blind & (new.tried | ~newton))
    # Before stalling at a minimum of the model, evaluate the energy on its far side: beyond a
    # degenerate minimum it rises, beyond an inflection it falls.
    far = inside(y, PROBE * (proposal.p + proposal.rest), bounds)
    far = jnp.where(new.tried, s.pending.far, far)
    probe = stuck & (newton | proposal.blurred | new.tried) & ~every(far == y)
    probed = s.pending.probe & ~new.accept
    bracketed = probed & rises(gradient, s.trial - y) & s.pending.settled
    perfect = jnp.abs(new_energy) <= 1e-2 * proposal.quiet  # zero to round-off of y
    settled = jnp.where(probe, ~new.tried & (little | perfect), settled)
    status = first_of(
        (new.failed, Status.NONFINITE), (minimum, Status.CONVERGED),
        (new.falling, Status.UNBOUNDED), (bracketed, Status.CONVERGED),
        (probed, Status.STALLED), (stuck & ~probe, Status.STALLED),
    )  # fmt: skip
    pending = Pending(
        proposal.predicted, proposal.length, proposal.radius, newton,
        proposal.near & proposal.definite, settled, proposal.noise, far, probe,
    )  # fmt: skip
    return jnp.where(probe, far, trial), pending, status


def _size(gradient, scale, y, bounds):
    """The largest |g_i / D_i|, without the unknowns held at a bound."""
    if bounds is not None:
        gradient = jnp.where(held(gradient, y, bounds), 0, gradient)
    return largest(jnp.abs(gradient) / jnp.where(scale > 0, scale, 1))


def widened(scale: jax.Array, diagonal: jax.Array) -> jax.Array:
    """D (n,): the largest sqrt |M_ii| seen so far; unknowns without curvature get the largest."""
    scale = jnp.maximum(scale, jnp.sqrt(jnp.abs(diagonal)))
    top = largest(scale)
    return jnp.where(scale > 0, scale, jnp.where(top > 0, top, 1))


def rises(gradient: jax.Array, move: jax.Array) -> jax.Array:
    """() bool: the energy rises along `move` (n,) where its gradient is `gradient` (n,)."""
    unit = largest(jnp.abs(gradient))
    return total(gradient / jnp.where(unit > 0, unit, 1) * move) > 0


def _negligible(proposal: Proposal, y: jax.Array, start: jax.Array) -> jax.Array:
    """() bool: a full Newton step below eps^2 of |y|, or of |y| at the start."""
    limit = float(jnp.finfo(y.dtype).eps) ** 2
    return proposal.full & every(jnp.abs(proposal.p) <= limit * jnp.maximum(jnp.abs(y), start))
