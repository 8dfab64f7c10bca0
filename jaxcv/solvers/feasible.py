"""Trust-region steps that stay within bounds."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxcv.closure import match_varying_axes
from jaxcv.solvers.problem import held

__all__ = ["feasible", "inside"]

_NEAR = 1e-2  # an unknown that meets its bound within this fraction of its step stops there


def inside(y: jax.Array, p: jax.Array, bounds: Any) -> jax.Array:
    """y + p (n,), clipped to the bounds; a point within round-off of a bound moves onto it."""
    point = y + p
    if bounds is None:
        return point
    lower, upper = bounds
    rounding = 4 * jnp.finfo(y.dtype).eps * (jnp.abs(y) + jnp.abs(p))
    point = jnp.where(point <= lower + rounding, lower, point)
    return jnp.where(point >= upper - rounding, upper, point)


def feasible(propose: Callable, product: Callable, request: Any, bounds: Any) -> Any:
    """A proposal whose step stays within bounds, with the decrease of the model along that step.

    Unknowns that the energy pushes against a bound are fixed. An unknown that meets a bound within
    1 % of its step is put on that bound and the others are solved again, until no more do. A step
    that still leaves the bounds is clipped or, if the model falls further, ends at the first bound.

    Args:
        propose: fixed (n,) bool, or None without bounds -> `Proposal`.
        product: p -> M p.
        request: gradient and point.
        bounds: as in `Problem`.
    """
    if bounds is None:
        return propose(None)
    lower, upper = bounds
    gradient, y = request.gradient, request.y

    def room(p):
        return jnp.where(p < 0, lower - y, upper - y) / jnp.where(p == 0, 1, p)

    def within(p):
        return jnp.clip(p, lower - y, upper - y)

    def advance(carry):
        fixed, ends, _, _ = carry
        proposal = propose(fixed)
        p = jnp.where(fixed, ends, proposal.p)
        stopped = ~fixed & (p != 0) & (room(p) < _NEAR)
        ends = jnp.where(stopped, within(p), ends)
        return fixed | stopped, ends, proposal._replace(p=p), jnp.any(stopped)

    fixed = held(gradient, y, bounds)
    shapes = jax.eval_shape(propose, fixed)
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    carry = match_varying_axes(advance, (fixed, jnp.zeros_like(y), empty, jnp.asarray(True)))
    last, _, proposal, _ = jax.lax.while_loop(lambda carry: carry[3], advance, carry)

    p = proposal.p
    cut = within(p)
    whole = p * jnp.minimum(1, jnp.min(jnp.where(p == 0, jnp.inf, room(p))))
    decrease = lambda s: -jnp.vdot(gradient, s) - 0.5 * jnp.vdot(s, product(s))
    by_cut, by_whole = decrease(cut), decrease(whole)
    touched = jnp.any(cut != p)
    return proposal._replace(
        p=jnp.where(by_cut >= by_whole, cut, whole),
        predicted=jnp.where(touched, jnp.maximum(by_cut, by_whole), proposal.predicted),
        full=proposal.full & ~touched & jnp.all(last == fixed),
    )
