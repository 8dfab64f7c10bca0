"""Functions whose closed-over arrays are made explicit, and loops that know where they run."""

import functools
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

__all__ = [
    "Hoisted",
    "contained",
    "hoist",
    "jit_on",
    "match_varying_axes",
    "spread",
    "together",
    "vary_like",
    "while_once",
]


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
    # A function of its own: JAX caches traces by function, and must not keep the caller's.
    closed, shape = jax.make_jaxpr(lambda *args: function(*args), return_shape=True)(*arguments)
    moves = [jnp.issubdtype(jax.typeof(c).dtype, jnp.inexact) for c in closed.consts]
    floating = [c for c, move in zip(closed.consts, moves, strict=True) if move]
    fixed = [c for c, move in zip(closed.consts, moves, strict=True) if not move]
    treedef = jax.tree.structure(shape)
    jaxpr = closed.jaxpr

    def call(arguments, floating, fixed):
        captured = {True: iter(floating), False: iter(fixed)}
        consts = [next(captured[move]) for move in moves]
        leaves = jaxpr_as_fun(ClosedJaxpr(jaxpr, consts))(*jax.tree.leaves(arguments))
        return jax.tree.unflatten(treedef, leaves)

    return Hoisted(call, floating, fixed, shape)


def match_varying_axes(body: Callable, carry: Any) -> Any:
    """The carry of a loop, marked as varying over the manual axes that `body` makes it vary over.

    Inside `jax.shard_map` a loop's carry must have one type, and constants vary over no axis.
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return carry
    for _ in range(3):
        leaves, treedef = jax.tree.flatten(carry)
        out, out_treedef = jax.tree.flatten(jax.eval_shape(body, carry))
        if out_treedef != treedef:  # no loop yet: the caller reports it
            return carry
        missing = [
            tuple(_varying(want) - _varying(jax.typeof(leaf)))
            for leaf, want in zip(leaves, out, strict=True)
        ]
        if not any(missing):
            break
        carry = jax.tree.unflatten(
            treedef,
            [
                jax.lax.pcast(leaf, axes, to="varying") if axes else leaf
                for leaf, axes in zip(leaves, missing, strict=True)
            ],
        )
    return carry


def while_once(wanted: jax.Array, value: Callable[[], Any]) -> Any:
    """`value()`, a tree of arrays, where `wanted`, else zeros; no gradient.

    A while_loop of at most one trip, since under `jax.vmap` a cond would evaluate both branches:
    a batch without a wanted problem pays nothing. XLA moves what does not change in a loop ahead of
    it, entered or not; the barrier keeps the work of `value` inside.
    """
    hoisted = hoist(value)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), hoisted.shape)

    def body(carry):
        if not jax.sharding.get_abstract_mesh().manual_axes:  # where it would mix their types
            carry = jax.lax.optimization_barrier(carry)
        _, _, floating, fixed = carry
        return jnp.zeros_like(wanted), hoisted.call((), floating, fixed), floating, fixed

    carry = (wanted, zeros, hoisted.floating, hoisted.fixed)
    carry = match_varying_axes(body, carry)
    return jax.lax.while_loop(lambda carry: carry[0], body, carry)[1]


def together(value: Callable[[], Any], small: bool = True) -> Any:
    """`value()`, a tree of arrays, compiled in one piece on a CPU where it is `small`; no gradient.

    XLA:CPU compiles each fused operation by itself, in about ten milliseconds, but as a whole a
    loop whose operations read and write less than a kilobyte. So this is a loop of one trip, and
    the barrier keeps XLA from seeing that it is. For many operations on few numbers.
    """
    if not small or jax.default_backend() != "cpu":
        return value()
    return while_once(jax.lax.optimization_barrier(jnp.asarray(True)), value)


def vary_like(tree: Any, *others: Any) -> Any:
    """`tree`, marked as varying over every manual axis that `others` vary over."""
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return tree
    axes = frozenset().union(*(_varying(jax.typeof(leaf)) for leaf in jax.tree.leaves(others)))

    def cast(leaf):
        missing = tuple(axes - _varying(jax.typeof(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(cast, tree)


def spread(function: Callable, arguments: tuple, *trees: Any) -> Any:
    """`trees`, marked as varying over all that `arguments`, `trees` or what `function` reads do.

    Otherwise the derivative of a device's own value is summed over all devices by JAX.
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return trees
    hoisted = hoist(function, *arguments)
    return vary_like(trees, arguments, trees, hoisted.floating, hoisted.fixed)


def contained(good: jax.Array, bar: jax.Array) -> jax.Array:
    """The tangent or cotangent `bar` where a problem is `good`, else zeros.

    Inside `jax.shard_map` that of a constant is one for all devices, and stays as it is.
    """
    if _varying(jax.typeof(good)) - _varying(jax.typeof(bar)):
        return bar
    return jnp.where(good, bar, jnp.zeros_like(bar))


def _varying(aval: Any) -> frozenset:
    """The manual axes that an array of this type varies over; older releases of JAX say `vma`."""
    kind = getattr(aval, "manual_axis_type", None)
    return frozenset(getattr(aval, "vma", ()) if kind is None else kind.varying)


# JAX keeps what it compiled for as long as the function lives, with every array that the function
# closed over. One jitted function per user's function, held by that function's life.
_jitted: dict[int, tuple[Any, dict]] = {}


def jit_on(function: Callable, implementation: Callable, static: tuple) -> Callable:
    """`jax.jit` of (*arguments) -> implementation(function, *static, *arguments).

    The compiled function is kept as long as `function` is alive and no longer. Bound methods live
    as long as their object, partials as long as themselves.

    Args:
        function: the user's.
        implementation: a function of the library.
        static: hashable settings.
    """
    owner = getattr(function, "__self__", None)
    owner = function if owner is None or isinstance(owner, type(jax)) else owner
    part = getattr(function, "__func__", None)
    try:
        entry = _jitted.get(id(owner))
        if entry is None or entry[0]() is not owner:
            key = id(owner)
            reference = weakref.ref(owner, lambda _: _jitted.pop(key, None))
            entry = _jitted[key] = (reference, {})
    except TypeError:  # no weak references: traced again by every call
        return jax.jit(functools.partial(implementation, function, *static))
    reference, compiled = entry
    key_ = (part, implementation, static)
    if key_ not in compiled:
        # The closure must not keep the user's function alive: the table would never lose it.
        def call(*arguments):
            alive = reference()
            target = alive if part is None else part.__get__(alive)
            return implementation(target, *static, *arguments)

        compiled[key_] = jax.jit(call)
    return compiled[key_]
