"""The differentiation rules of a minimiser: what `argmin` and `attach` put on y*.

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

from jaxcv.checks import check_scalar
from jaxcv.linear.dense import hessian_product
from jaxcv.linear.krylov import random_like
from jaxcv.linear.system import apply_filter, damped_system
from jaxcv.solvers.closure import hoist
from jaxcv.solvers.retraction import chart_at

__all__ = [
    "RULES",
    "Pulled",
    "Rule",
    "System",
    "make_system",
    "pullback",
    "pushforward",
]


class System(NamedTuple):
    """An energy as a pure function of leaves, with whatever it closed over made explicit.

    Attributes:
        energy: (y tree, theta, data) -> ().
        theta: what is differentiated: theta's leaves, and the floating arrays closed over.
        data: the rest.
    """

    energy: Callable
    theta: tuple
    data: list

    def flat_energy(self, place: Callable) -> Callable:
        """(n,) -> (), the energy of coordinates."""
        return lambda flat: self.energy(place(flat), self.theta, self.data)


def make_system(energy: Callable, y: Any, theta: Any, data: tuple) -> System:
    """Traces the energy once and turns everything it closes over into arguments."""
    hoisted = hoist(energy, y, theta, *data)
    check_scalar("energy", hoisted.shape, "Sum or average the terms: jnp.sum(...).")
    theta_leaves, data_leaves = jax.tree.leaves(theta), jax.tree.leaves(data)
    num_data = len(data_leaves)

    def evaluate(y, theta, data):
        arguments = (y, theta[0], data[:num_data])
        return hoisted.call(arguments, theta[1], data[num_data:])

    return System(evaluate, (theta_leaves, hoisted.floating), data_leaves + hoisted.fixed)


class Rule(NamedTuple):
    """The static settings of a rule.

    Attributes:
        energy: that of a `System`.
        method: of the linear systems, from `resolve_method`.
        retract: as for `argmin`.
        init_gradient: `zero`, or `prox`: y has the derivative of proximal steps from it.
    """

    energy: Callable
    method: Any
    retract: Any = None
    init_gradient: str = "zero"


def _slope(rule, y, theta, data):
    """The chart at y, (point, theta) -> (n,) dE/dy in it, and the product p -> H p at y."""
    chart = chart_at(y, rule.retract)
    slope = lambda flat, theta: jax.grad(lambda x: rule.energy(chart.place(x), theta, data))(flat)
    product = hessian_product(lambda flat: slope(flat, theta), chart.origin)
    return chart, slope, product


class Pulled(NamedTuple):
    """A pulled back cotangent.

    Attributes:
        theta: theta_bar = -B^T u, a tree like theta.
        start: y0_bar = v - H' u (n,), for a start that the solver ends near.
        u: (n,).
        v: (n,) the flat cotangent of y, in its tangent space.
    """

    theta: Any
    start: jax.Array
    u: jax.Array
    v: jax.Array


def pullback(rule, y, theta, data, damping, y_bar, known=None) -> Pulled:
    """The damped pullback of the cotangent y_bar.

    A problem with anything non-finite is replaced, not multiplied, by zero: first u, so that what
    is pulled back is harmless, then the result, since B itself may be what is not finite.
    """
    chart, slope, product = _slope(rule, y, theta, data)
    point = chart.origin
    if rule.retract is None:
        v = ravel_pytree(y_bar)[0].astype(point.dtype)
    else:
        (v,) = jax.vjp(chart.place, point)[1](y_bar)
    u, rest = apply_filter(damped_system(product, v, damping, rule.method, known), damping, v)
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


def pushforward(rule, y, theta, data, damping, theta_dot, start_dot=None, known=None):
    """y_dot = -f(H) B theta_dot, a tree like y, itself flat (n,), and the flat -B theta_dot (n,).

    With a tangent `start_dot`, a tree like y, the rest of the filter of it is added. Linear in the
    tangents and transposable. Zero where y or the gradient at y is not finite.
    """
    chart, slope, product = _slope(rule, y, theta, data)
    point = chart.origin
    good = jnp.all(jnp.isfinite(ravel_pytree(y)[0])) & jnp.all(jnp.isfinite(slope(point, theta)))
    theta_dot = jax.tree.map(lambda leaf: jnp.where(good, leaf, 0), theta_dot)
    _, v = jax.jvp(lambda theta: -slope(point, theta), (theta,), (theta_dot,))
    # Made with no tangent, so that what follows is linear in them.
    system = damped_system(product, random_like(point), damping, rule.method, known)
    u, _ = apply_filter(system, damping, v)
    if start_dot is not None:
        moved = jnp.where(good, ravel_pytree(start_dot)[0], 0)
        u = u + apply_filter(system, damping, moved)[1]
    u = jnp.where(good, u, 0)
    return jax.jvp(chart.place, (point,), (u,))[1], u, v


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _reverse(rule, y, theta, data, damping, known):
    """y, with the pullback of the minimiser."""
    del rule, theta, data, damping, known
    return y


def _reverse_forward(rule, y, theta, data, damping, known):
    # The ruled value, so that second derivatives see y*(theta) and never the solver's loop.
    y = _reverse(rule, y, theta, data, damping, known)
    return y, (y, theta, data, damping, known)


def _reverse_backward(rule, residuals, y_bar):
    y, theta, data, damping, known = residuals
    pulled = pullback(rule, y, theta, data, damping, y_bar, known)
    if rule.init_gradient == "prox":
        start = ravel_pytree(y)[1](pulled.start)
    else:
        start = jax.tree.map(jnp.zeros_like, y)
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
