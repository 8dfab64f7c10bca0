"""The differentiation rules of a minimiser: what `argmin` and `attach` put on y*.

    g(y, theta) = dE/dy = 0  at y*   =>   H dy = -B dtheta,   H = dg/dy,   B = dg/dtheta,
    pullback:     theta_bar = -B^T f(H) y_bar,
    pushforward:  y_dot = -f(H) B theta_dot,

with the damped inverse f(H) of `jaxcv.core.damping`, which is symmetric. B is never formed:
B^T u is the theta-gradient of <g(y, theta), u>, and B theta_dot a directional derivative of g.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxcv.core.checks import check_scalar
from jaxcv.core.closure import hoist
from jaxcv.core.krylov import random_like
from jaxcv.core.linear import apply_filter, damped_system

__all__ = [
    "RULES",
    "Pulled",
    "Rule",
    "System",
    "flat_gradient",
    "make_system",
    "pullback",
    "pushforward",
]


class System(NamedTuple):
    """An energy as a pure function of leaves, with whatever it closed over made explicit.

    Attributes:
        energy: (y tree, theta, data) -> ().
        gradient: the same -> (n,) dE/dy.
        theta: what is differentiated: theta's leaves, and the floating arrays closed over.
        data: the rest.
    """

    energy: Callable
    gradient: Callable
    theta: tuple
    data: list


def make_system(energy: Callable, y: Any, theta: Any, data: tuple) -> System:
    """Traces the energy once and turns everything it closes over into arguments."""
    hoisted = hoist(energy, y, theta, *data)
    check_scalar("energy", hoisted.shape, "Sum or average the terms: jnp.sum(...).")
    theta_leaves, data_leaves = jax.tree.leaves(theta), jax.tree.leaves(data)
    num_data = len(data_leaves)

    def evaluate(y, theta, data):
        arguments = (y, theta[0], data[:num_data])
        return hoisted.call(arguments, theta[1], data[num_data:])

    def gradient(y, theta, data):
        return ravel_pytree(jax.grad(evaluate)(y, theta, data))[0]

    return System(evaluate, gradient, (theta_leaves, hoisted.floating), data_leaves + hoisted.fixed)


def flat_gradient(system: System, y: Any) -> Callable:
    """(n,) -> (n,), dE/dy of the raveled y."""
    unravel = ravel_pytree(y)[1]
    return lambda flat: system.gradient(unravel(flat), system.theta, system.data)


def _slope(gradient, y, theta, data):
    """y raveled (n,), its unravel, (point, theta) -> (n,) and the product p -> H p at y."""
    point, unravel = ravel_pytree(y)
    slope = lambda flat, theta: gradient(unravel(flat), theta, data)
    product = lambda p: jax.jvp(lambda flat: slope(flat, theta), (point,), (p,))[1]
    return point, unravel, slope, product


class Pulled(NamedTuple):
    """A pulled back cotangent.

    Attributes:
        theta: theta_bar = -B^T u, a tree like theta.
        start: y0_bar = v - H' u (n,), for a start that the solver ends near.
        u: (n,).
        v: (n,) the flat cotangent of y.
    """

    theta: Any
    start: jax.Array
    u: jax.Array
    v: jax.Array


def pullback(gradient, linear, y, theta, data, damping, y_bar) -> Pulled:
    """The damped pullback of the cotangent y_bar.

    A problem with anything non-finite is replaced, not multiplied, by zero: first u, so that what
    is pulled back is harmless, then the result, since B itself may be what is not finite.
    """
    point, _, slope, product = _slope(gradient, y, theta, data)
    v = ravel_pytree(y_bar)[0].astype(point.dtype)
    u, rest = apply_filter(damped_system(product, v, damping, linear), damping, v)
    good = jnp.all(jnp.isfinite(v)) & jnp.all(jnp.isfinite(u))
    u = jnp.where(good, u, 0)
    _, pull = jax.vjp(lambda theta: -slope(point, theta), theta)
    ((leaves, captured),) = pull(u)
    for leaf in leaves:
        good = good & jnp.all(jnp.isfinite(leaf))
    # A captured array may be a plain constant whose derivative nobody wants and which need not
    # exist (sqrt at 0): it is judged by itself.
    masked = [jnp.where(good, leaf, 0) for leaf in leaves]
    apart = [jnp.where(good & jnp.all(jnp.isfinite(leaf)), leaf, 0) for leaf in captured]
    start = jnp.where(good & jnp.all(jnp.isfinite(rest)), rest, 0)
    return Pulled((masked, apart), start, u, v)


def pushforward(gradient, linear, y, theta, data, damping, theta_dot, start_dot=None):
    """y_dot = -f(H) B theta_dot, a tree like y, itself flat (n,), and the flat -B theta_dot (n,).

    With a tangent `start_dot`, a tree like y, the rest of the filter of it is added. Linear in the
    tangents and transposable. Zero where y or the gradient at y is not finite.
    """
    point, unravel, slope, product = _slope(gradient, y, theta, data)
    good = jnp.all(jnp.isfinite(point)) & jnp.all(jnp.isfinite(slope(point, theta)))
    theta_dot = jax.tree.map(lambda leaf: jnp.where(good, leaf, 0), theta_dot)
    _, v = jax.jvp(lambda theta: -slope(point, theta), (theta,), (theta_dot,))
    system = damped_system(product, random_like(point), damping, linear)  # not of a tangent
    u, _ = apply_filter(system, damping, v)
    if start_dot is not None:
        moved = jnp.where(good, ravel_pytree(start_dot)[0], 0)
        u = u + apply_filter(system, damping, moved)[1]
    u = jnp.where(good, u, 0)
    return unravel(u), u, v


class Rule(NamedTuple):
    """The static settings of a rule.

    Attributes:
        gradient: (y tree, theta, data) -> (n,) dE/dy.
        linear: method of the linear systems.
        init_gradient: `zero`, or `prox`: y has the derivative of proximal steps from it.
    """

    gradient: Callable
    linear: str
    init_gradient: str = "zero"


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _reverse(rule, y, theta, data, damping):
    """y, with the pullback of the minimiser."""
    del rule, theta, data, damping
    return y


def _reverse_forward(rule, y, theta, data, damping):
    # The ruled value, so that second derivatives see y*(theta) and never the solver's loop.
    y = _reverse(rule, y, theta, data, damping)
    return y, (y, theta, data, damping)


def _reverse_backward(rule, residuals, y_bar):
    y, theta, data, damping = residuals
    pulled = pullback(rule.gradient, rule.linear, y, theta, data, damping, y_bar)
    start = pulled.start if rule.init_gradient == "prox" else jnp.zeros_like(pulled.start)
    return ravel_pytree(y)[1](start), pulled.theta, None, None


_reverse.defvjp(_reverse_forward, _reverse_backward)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _both(rule, y, theta, data, damping):
    """y, with the pushforward of the minimiser, whose transpose is the pullback."""
    del rule, theta, data, damping
    return y


@_both.defjvp
def _both_jvp(rule, primals, tangents):
    y, theta, data, damping = primals
    y = _both(rule, y, theta, data, damping)
    start_dot = tangents[0] if rule.init_gradient == "prox" else None
    y_dot, _, _ = pushforward(
        rule.gradient, rule.linear, y, theta, data, damping, tangents[1], start_dot
    )
    return y, y_dot


RULES = {"reverse": _reverse, "both": _both}
