"""Coordinates of y: the vector space of its leaves, or the tangent space of a manifold at a point.

A retraction moves a point of the manifold along a tangent vector, `retract(y, delta)`, with

    retract(y, 0) = y,    d retract(y, delta) / d delta at 0 = the inclusion of the tangent space.

At a minimiser the gradient vanishes, so that the Hessian in tangent coordinates is the same for
every retraction, and the implicit function theorem holds in them unchanged.

Source: Absil, Mahony, Sepulchre, Optimization Algorithms on Matrix Manifolds, 2008, ch. 4-5.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxcv.checks import argument_error
from jaxcv.closure import vary_like

__all__ = ["LocalCoordinates", "Retraction", "check_retraction", "coordinates_at"]


@runtime_checkable
class Retraction(Protocol):
    """A frozen, hashable value that moves points of a manifold."""

    def tangent(self, y: Any, /) -> Any:
        """The zero tangent vector at the tree y: any tree of floating-point arrays."""
        ...

    def __call__(self, y: Any, delta: Any, /) -> Any:
        """y moved along delta, a tree like y."""
        ...


class LocalCoordinates(NamedTuple):
    """Flat coordinates around a point.

    Attributes:
        origin: (n,) the coordinates of the point.
        tree: the coordinates as a tree.
        to_point: (n,) -> the tree y that has these coordinates.
    """

    origin: jax.Array
    tree: Any
    to_point: Callable[[jax.Array], Any]


def coordinates_at(y: Any, retract: Retraction | None) -> LocalCoordinates:
    """The coordinates in which y is differentiated: its leaves, or its tangent space."""
    if retract is None:
        return LocalCoordinates(ravel_pytree(y)[0], y, ravel_pytree(y)[1])
    tangent = vary_like(retract.tangent(y), y)
    origin, unravel = ravel_pytree(tangent)
    return LocalCoordinates(origin, tangent, lambda flat: retract(y, unravel(flat)))


def check_retraction(retract: Any, y: Any) -> None:
    """Raises ValueError unless `retract` is None or moves y to a tree like y."""
    if retract is None:
        return
    if not isinstance(retract, Retraction) or isinstance(retract, type):
        hint = "E.g. jaxcv.geometry.manifolds.SO3()."
        raise argument_error("retract", "expected a Retraction", repr(retract), hint)
    moved = jax.eval_shape(lambda y: retract(y, retract.tangent(y)), y)
    shapes = lambda tree: jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), tree)
    if shapes(moved) != shapes(y):
        hint = "Its points must have the shapes of y0; batch with jax.vmap."
        raise argument_error(
            "retract", f"must return a tree like y, {shapes(y)}", shapes(moved), hint
        )
