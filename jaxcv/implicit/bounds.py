"""Bounds on the unknowns: their arrays, and the energy with the active unknowns held.

At a solution with active bounds b the free unknowns y_f solve dE/dy_f = 0 with y_a = b(theta):

    dy_f = -H_ff^-1 (H_fa db + B_f dtheta),    dy_a = db.

So a bound that depends on theta has a gradient. The gradient is one-sided: it holds for changes
that keep the active set. An unknown at a bound with dE/dy_a = 0 counts as free.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.flatten_util import ravel_pytree

from jaxcv.checks import argument_error, check_real

__all__ = ["bound_arrays", "held_energy", "held_value"]


def bound_arrays(bounds: Any, y0: Any) -> tuple[Any, Any]:
    """Trees (lower, upper) of arrays with the shapes of y0.

    Args:
        bounds: (lower, upper): trees like y0, or prefixes of them, whose leaves broadcast; None and
            infinities mean no bound.
        y0: the start.

    Raises:
        ValueError: not a pair, another tree, shapes that do not broadcast, lower > upper.
    """
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        hint = "Write bounds=(lower, upper); None for a side without bounds."
        raise argument_error("bounds", "expected a pair", repr(bounds), hint)
    out = []
    for name, bound, none in zip(("lower", "upper"), bounds, (-jnp.inf, jnp.inf), strict=True):
        try:
            wide = jax.tree.broadcast(bound, y0, is_leaf=lambda x: x is None)
        except ValueError as error:
            hint = "A bound is a tree like y0, one number, or None."
            raise argument_error(f"bounds.{name}", "expected the tree of y0", error, hint) from None

        check_real(f"bounds.{name}", bound)

        def full(leaf, like, name=name, none=none):
            leaf = jnp.asarray(none if leaf is None else leaf).astype(like.dtype)
            try:
                return jnp.broadcast_to(leaf, like.shape)
            except ValueError:
                expected = f"expected a shape that broadcasts to {like.shape} of y0"
                raise argument_error(f"bounds.{name}", expected, leaf.shape) from None

        out.append(jax.tree.map(full, wide, y0, is_leaf=lambda x: x is None))
    for low, high in zip(*map(jax.tree.leaves, out), strict=True):
        known = not (isinstance(low, Tracer) or isinstance(high, Tracer))
        if known and not bool(jnp.all(low <= high)):
            hint = "Under jit such a problem ends as NONFINITE."
            raise argument_error("bounds", "expected lower <= upper", f"{low}, {high}", hint)
    return out[0], out[1]


def _at_bounds(y: Any, lower: Any, upper: Any, sides: jax.Array) -> Any:
    """y, at the lower bound where `sides` (n,) is -1, at the upper bound where it is 1."""
    unravel = ravel_pytree(y)[1]
    flat, low, high = (ravel_pytree(tree)[0] for tree in (y, lower, upper))
    # The other side may be infinite: zero times its derivative would be nan.
    low, high = jnp.where(sides < 0, low, 0), jnp.where(sides > 0, high, 0)
    return unravel(jnp.where(sides < 0, low, jnp.where(sides > 0, high, flat)))


def held_energy(energy: Callable) -> Callable:
    """The energy of (y, (theta, lower, upper), sides, *data) with the active unknowns held.

    Held unknowns get curvature one and zero gradient, so that the system stays regular.
    """

    def held(y, theta, sides, *data):
        theta, lower, upper = theta
        value = energy(_at_bounds(y, lower, upper, sides), theta, *data)
        flat = ravel_pytree(y)[0]
        away = jnp.where(sides != 0, flat - jax.lax.stop_gradient(flat), 0)
        return value + 0.5 * jnp.sum(away**2).astype(value.dtype)

    return held


def held_value(y: Any, lower: Any, upper: Any, sides: jax.Array) -> Any:
    """y with the held unknowns replaced by the bounds; differentiable in the bounds."""
    return _at_bounds(y, lower, upper, sides)
