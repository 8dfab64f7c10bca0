"""The differentiation rules of a minimiser y*, for `argmin` and `attach`.

    g(y, theta) = dE/dy = 0  at y*   =>   H dy = -B dtheta,   H = dg/dy,   B = dg/dtheta,
    pullback:     theta_bar = -B^T f(H) y_bar,
    pushforward:  y_dot = -f(H) B theta_dot,

with the damped inverse f(H) of `jaxcv.linear.damping`, which is symmetric. B is never formed:
B^T u is the theta-gradient of <g(y, theta), u>, and B theta_dot a directional derivative of g.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxcv.checks import (
    argument_error,
    check_floating,
    check_scalar,
    check_structure,
    returning_arrays,
)
from jaxcv.closure import contained, hoist
from jaxcv.linear.dense import hessian_product
from jaxcv.linear.krylov import random_like
from jaxcv.linear.system import apply_filter, damped_system, filter_rest
from jaxcv.solvers.retraction import coordinates_at

__all__ = [
    "RULES",
    "Pulled",
    "Rule",
    "System",
    "cut",
    "make_system",
    "pullback",
    "pushforward",
]


class System(NamedTuple):
    """An energy as a pure function of leaves, with its closed-over arrays made explicit.

    Attributes:
        energy: (y tree, theta, data) -> ().
        theta: the differentiated leaves: of theta, and closed-over floating-point arrays.
        data: all other leaves.
    """

    energy: Callable
    theta: tuple
    data: list

    def flat_energy(self, to_point: Callable) -> Callable:
        """(n,) -> (), the energy as a function of coordinates, in their dtype."""
        return lambda flat: self.energy(to_point(flat), self.theta, self.data).astype(flat.dtype)


def make_system(energy: Callable, y: Any, theta: Any, data: tuple) -> System:
    """Traces the energy once and turns everything it closes over into arguments."""
    hoisted = hoist(returning_arrays("energy", energy), y, theta, *data)
    check_scalar("energy", hoisted.shape, "Sum or average the terms: jnp.sum(...).")
    theta_leaves, data_leaves = jax.tree.leaves(theta), jax.tree.leaves(data)
    num_data = len(data_leaves)

    def evaluate(y, theta, data):
        arguments = (y, theta[0], data[:num_data])
        return hoisted.call(arguments, theta[1], data[num_data:])

    return System(evaluate, (theta_leaves, hoisted.floating), data_leaves + hoisted.fixed)


def cut(tree: Any) -> Any:
    """`tree`, cut off from the computation that made it: no derivative, not even a zero one.

    Reverse mode never enters the loop that made `tree`, nor multiplies its NaN.
    """
    return jax.lax.stop_gradient(tree)


class Rule(NamedTuple):
    """The static settings of a rule.

    Attributes:
        energy: the energy of a `System`.
        method: method of the linear systems, from `resolve_method`.
        retract: as for `argmin`.
        init_gradient: `zero`, or `prox`: the start gets the derivative of proximal steps.
        solve: None, or a user's (y, theta, data, lambda, v) -> u on trees; see `attach`.
    """

    energy: Callable
    method: Any
    retract: Any = None
    init_gradient: str = "zero"
    solve: Callable | None = None


def _local(rule, y, theta, data):
    """Coordinates at y, (point, theta) -> (n,) dE/dy in them, and the product p -> H p at y."""
    local = coordinates_at(y, rule.retract)

    def gradient(flat, theta):
        energy = lambda x: rule.energy(local.to_point(x), theta, data).astype(x.dtype)
        return jax.grad(energy)(flat)

    product = hessian_product(lambda flat: gradient(flat, theta), local.origin)
    return local, gradient, product


class Pulled(NamedTuple):
    """The result of a pullback.

    Attributes:
        theta: theta_bar = -B^T u, a tree like theta.
        start: y0_bar = v - H' u (n,) for `init_gradient='prox'`, else None.
        u: (n,).
        v: (n,) the flat cotangent of y, in its tangent space.
    """

    theta: Any
    start: Any
    u: jax.Array
    v: jax.Array


def pullback(rule, y, theta, data, damping, y_bar, known=None) -> Pulled:
    """The damped pullback of the cotangent y_bar.

    A non-finite problem is replaced, not multiplied, by zero: first u, so that a finite u is pulled
    back, then the result, since B itself may not be finite.
    """
    local, gradient, product = _local(rule, y, theta, data)
    point = local.origin
    if rule.retract is None:
        v = ravel_pytree(y_bar)[0].astype(point.dtype)
    else:
        (v,) = jax.vjp(local.to_point, point)[1](y_bar)
    finite = jnp.all(jnp.isfinite(v))
    system, start = None, None
    if rule.solve is not None:
        solved = rule.solve(y, theta, data, damping.value, y_bar)
        hint = "It returns the solution u of (H + lambda I) u = v."
        check_structure("solve", solved, "y_star", local.tree, hint)
        check_floating("solve", solved, hint)
        u = ravel_pytree(solved)[0].astype(point.dtype)
    else:
        system = damped_system(product, v, damping, rule.method, known)
        u = apply_filter(system, damping, v)
    good = finite & jnp.all(jnp.isfinite(u))
    u = jnp.where(good, u, 0)
    if rule.init_gradient == "prox" and system is not None:
        start = filter_rest(system, damping, u, v)
    _, pull = jax.vjp(lambda theta: -gradient(point, theta), theta)
    ((leaves, captured),) = pull(u)
    for leaf in leaves:
        good = good & jnp.all(jnp.isfinite(leaf))
    # A captured array may be a constant whose derivative is unused and need not exist (sqrt at 0):
    # its non-finite gradient zeroes no other.
    masked = [jnp.where(good, leaf, 0) for leaf in leaves]
    apart = [jnp.where(jnp.all(jnp.isfinite(leaf)), leaf, 0) for leaf in captured]
    apart = [contained(good, leaf) for leaf in apart]
    if start is not None:
        start = jnp.where(good & jnp.all(jnp.isfinite(start)), start, 0)
    return Pulled((masked, apart), start, u, v)


def pushforward(rule, y, theta, data, damping, theta_dot, start_dot=None, known=None):
    """y_dot = -f(H) B theta_dot, a tree like y; flat y_dot (n,); flat -B theta_dot (n,).

    Adds `filter_rest` of the tangent `start_dot`, a tree like y, if given. Linear in the tangents
    and transposable. Zero where y or the gradient at y is not finite.
    """
    if rule.solve is not None:
        rule_name = "a custom solve has reverse mode only"
        raise argument_error("autodiff", rule_name, "'both'", "Use autodiff='reverse'.")
    local, gradient, product = _local(rule, y, theta, data)
    point = local.origin
    good = jnp.all(jnp.isfinite(ravel_pytree(y)[0])) & jnp.all(jnp.isfinite(gradient(point, theta)))
    theta_dot = jax.tree.map(lambda leaf: contained(good, leaf), theta_dot)
    _, v = jax.jvp(lambda theta: -gradient(point, theta), (theta,), (theta_dot,))
    # The system is made without tangents, so that u is linear in them.
    system = damped_system(product, random_like(point), damping, rule.method, known)
    u = apply_filter(system, damping, v)
    if start_dot is not None:
        moved = jnp.where(good, ravel_pytree(start_dot)[0], 0)
        u = u + filter_rest(system, damping, apply_filter(system, damping, moved), moved)
    u = jnp.where(good, u, 0)
    return jax.jvp(local.to_point, (point,), (u,))[1], u, v


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _reverse(rule, y, theta, data, damping, known):
    """y, with the pullback of the minimiser."""
    del rule, theta, data, damping, known
    return y


def _reverse_forward(rule, y, theta, data, damping, known):
    # Return the value with its rule: second derivatives see y*(theta), not the solver's loop.
    y = _reverse(rule, y, theta, data, damping, known)
    return y, (y, theta, data, damping, known)


def _reverse_backward(rule, residuals, y_bar):
    y, theta, data, damping, known = residuals
    pulled = pullback(rule, y, theta, data, damping, y_bar, known)
    start = None
    if rule.init_gradient == "prox":
        start = ravel_pytree(y)[1](pulled.start)
    return start, pulled.theta, None, None, None


_reverse.defvjp(_reverse_forward, _reverse_backward)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _both(rule, y, theta, data, damping, known):
    """y, with the pushforward of the minimiser, whose transpose is the pullback."""
    del rule, theta, data, damping, known
    return y


@_both.defjvp
def _both_jvp(rule, primals, tangents):
    y, theta, data, damping, known = primals
    y = _both(rule, y, theta, data, damping, known)
    start_dot = tangents[0] if rule.init_gradient == "prox" else None
    y_dot, _, _ = pushforward(rule, y, theta, data, damping, tangents[1], start_dot, known)
    return y, y_dot


RULES = {"reverse": _reverse, "both": _both}
