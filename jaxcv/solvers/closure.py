"""Functions whose closed-over arrays are made explicit."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

__all__ = ["Hoisted", "hoist", "rare_while_loop"]


class Hoisted(NamedTuple):
    """A function traced once, and what it closed over.

    Attributes:
        call: (arguments, floating, fixed) -> the function's result; `arguments` is any tree with
            the leaves, in order, of the arguments that it was traced with.
        floating: closed-over floating-point and complex arrays, which may have gradients.
        fixed: the other closed-over arrays.
        shape: the result as a tree of `jax.ShapeDtypeStruct`.
    """

    call: Callable
    floating: list
    fixed: list
    shape: Any


def hoist(function: Callable, *arguments: Any) -> Hoisted:
    """Traces `function` on `arguments` and turns everything it closes over into arguments.

    `jax.custom_vjp` cannot see closed-over tracers; explicit ones work under vmap, jit and grad.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
    moves = [jnp.issubdtype(jax.typeof(c).dtype, jnp.inexact) for c in closed.consts]
    floating = [c for c, move in zip(closed.consts, moves, strict=True) if move]
    fixed = [c for c, move in zip(closed.consts, moves, strict=True) if not move]
    treedef = jax.tree.structure(shape)

    def call(arguments, floating, fixed):
        captured = {True: iter(floating), False: iter(fixed)}
        consts = [next(captured[move]) for move in moves]
        leaves = jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, consts))(*jax.tree.leaves(arguments))
        return jax.tree.unflatten(treedef, leaves)

    return Hoisted(call, floating, fixed, shape)


def rare_while_loop(condition: Callable, body: Callable, carry: Any) -> Any:
    """`jax.lax.while_loop` for a loop that is seldom entered, and then pays for all its work.

    XLA computes ahead of a loop what does not change in it, which for a Hessian is everything that
    is linear in its basis, whether or not the loop is ever entered. Here the arrays that `body`
    closes over count as changing.
    """
    hoisted = hoist(body, carry)

    def tied(carry):
        carry, floating, fixed = jax.lax.optimization_barrier(
            (carry, hoisted.floating, hoisted.fixed)
        )
        return hoisted.call((carry,), floating, fixed)

    return jax.lax.while_loop(condition, tied, carry)
