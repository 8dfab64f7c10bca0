"""Minimisers of energies and their damped implicit gradient.

The rule sits on the solution, not around the solver: `argmin` runs any solver without gradient and
hands its result to `attach`, an identity whose derivative is one damped solve
(`jaxcv.implicit.rules`).

Source: Toso, Campbell, Russell, "Wibergian learning of continuous energy functions",
NeurIPS 2019, eq. 8-9; Samuel and Tappen, CVPR 2009, for value 0.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxcv.checks import (
    argument_error,
    check_choice,
    check_data,
    check_floating,
    check_pair,
    check_structure,
)
from jaxcv.implicit.diagnostics import diagnose
from jaxcv.implicit.rules import RULES, Rule, make_system, pullback, pushforward
from jaxcv.linear.damping import Damping, Diagnostics
from jaxcv.linear.dense import norm
from jaxcv.linear.system import resolve_method
from jaxcv.solvers.algorithms import newton
from jaxcv.solvers.protocol import Problem, Solution, SolverResult
from jaxcv.solvers.retraction import Retraction, chart_at, check_retraction

__all__ = ["argmin", "argmin_jvp", "argmin_vjp", "attach"]


def argmin(
    energy: Callable,
    y0: Any,
    theta: Any,
    data: tuple = (),
    *,
    solver: Any = newton(),  # noqa: B008 (frozen and hashable)
    damping: Damping = Damping(),  # noqa: B008
    linear: Any = "auto",
    autodiff: str = "reverse",
    init_gradient: str = "zero",
    retract: Retraction | None = None,
    has_aux: bool = False,
) -> Solution:
    """A local minimiser y*(theta) of an energy, differentiable in theta.

        y* = argmin_y E(y, theta, *data),   theta_bar = -B^T (H' + lambda I)^-1 y_bar

    The gradient never explodes (|u| <= |y_bar| / lambda, see `Damping`) and costs one solve, no
    matter how many steps the solver took. It assumes that y* is a minimiser: look at
    `solution.converged` and `solution.diagnostics`. A problem of a vmapped batch that is not finite
    contributes a zero gradient and leaves the others alone.

    It is jitted on (energy, solver, linear): pass the same function object, not a new lambda a
    call, or everything is traced again. Arrays that the energy closes over are differentiated
    through as if they were part of theta. As under any `jax.jit`, a global or an attribute that is
    changed between calls is not read again: pass what changes as theta or data.

    The gradient of a problem with anything not finite is zero, and nothing but `converged` and the
    values themselves says so; one that has merely not converged keeps its gradient: mask it.
    Second derivatives are those of the formula above: with value 0 the true ones, with damping
    those of the damped gradient, which differ from differences of the minimiser.

    Args:
        energy: `energy(y, theta, *data) -> scalar`, pure.
        y0: start, a pytree of floating-point arrays. It picks the basin and gets a zero gradient.
        theta: pytree of parameters.
        data: tuple of anything else that the energy reads; no gradient, may hold integers.
        solver: a `Solver`, see `jaxcv.solvers.algorithms`.
        damping: the damping of the backward pass only.
        linear: how the Hessian is solved with: `auto`, `scalar`, `cholesky`, `cg`, or what y and
            the energy allow, an `Arrow`, a `BlockDiagonal`, a `ConjugateGradient`; see
            `jaxcv.linear.system`. `newton` takes its steps by it, too.
        autodiff: `reverse`, or `both`: the same numbers from a rule that has a forward mode too
            (`jax.jvp`, `jax.jacfwd`, `jax.hessian`). In reverse mode it contains failed problems
            by the finiteness of y and dE/dy alone, `reverse` also by that of the result.
        init_gradient: what y0 gets. `zero`; or `prox`: lambda^k (H' + lambda I)^-k y_bar, the
            derivative of k proximal steps of weight lambda from y0, for meta-learning a start
            that the energy is to stay near. It tends to zero with lambda, but for directions in
            which the energy is flat.
        retract: None: y lives in a vector space. A `Retraction` of the manifold that it lives on
            (`jaxcv.geometry.manifolds`): the Hessian and u are those of the tangent space at y*,
            and the solver works in coordinates around y0; where it fails there, around its end.
        has_aux: the energy returns (scalar, aux), and the solution holds aux at y*.

    Returns:
        A `Solution`.

    Raises:
        ValueError: an energy that does not return one real scalar, a y0 or theta that is not
            floating-point, an empty y0, data that is not a tuple, an unknown setting.

    Example:
        >>> energy = lambda y, theta: jnp.sum((y - theta) ** 2) + jnp.sum(y**4)
        >>> loss = lambda theta: jnp.sum(argmin(energy, jnp.zeros(2), theta).value)
        >>> gradient = jax.grad(loss)(jnp.array([1.0, 2.0]))
    """
    start, theta = _checked(energy, "y0", y0, theta, data, damping, linear, autodiff)
    check_choice("init_gradient", init_gradient, ("zero", "prox"), _ENTER_THROUGH_THETA)
    if init_gradient == "prox" and damping.mode == "tikhonov":
        way_out = "Use mode='shift'."
        raise argument_error(
            "damping.mode", "init_gradient='prox' is of proximal steps", "'tikhonov'", way_out
        )
    if init_gradient == "prox" and retract is not None:
        way_out = "Leave it at 'zero'."
        raise argument_error("init_gradient", "needs a vector space", "'prox'", way_out)
    if not callable(solver) or isinstance(solver, type):
        raise argument_error("solver", "expected a solver", repr(solver), "E.g. newton().")
    _check_hashable(solver)
    check_retraction(retract, start)
    static = (linear, autodiff, init_gradient, retract)
    if not has_aux:
        return _argmin(energy, solver, static, start, theta, data, damping)
    check_pair(jax.eval_shape(energy, start, theta, *data))
    solution = _argmin(_First(energy), solver, static, start, theta, data, damping)
    return solution._replace(aux=_aux(energy, solution.value, theta, data))


def attach(
    energy: Callable,
    y_star: Any,
    theta: Any,
    data: tuple = (),
    *,
    damping: Damping = Damping(),  # noqa: B008
    linear: Any = "auto",
    autodiff: str = "reverse",
    retract: Retraction | None = None,
) -> Any:
    """`y_star` unchanged, with the gradient of the minimiser y*(theta) of the energy.

    For a minimiser that any solver found, inside or outside JAX. theta gets the damped implicit
    gradient of `argmin`; y_star and data get none. The arguments are those of `argmin`; y_star
    must be a minimiser of energy(., theta, *data), which `argmin_vjp`'s diagnostics judge.
    """
    y, theta = _checked(energy, "y_star", y_star, theta, data, damping, linear, autodiff)
    check_retraction(retract, y)
    return _attach(energy, (linear, autodiff, retract), y, theta, data, damping)


def argmin_vjp(
    energy: Callable,
    y: Any,
    theta: Any,
    y_bar: Any,
    data: tuple = (),
    *,
    damping: Damping = Damping(),  # noqa: B008
    linear: Any = "auto",
    retract: Retraction | None = None,
) -> tuple[Any, Diagnostics]:
    """The pullback of `attach` as a function, with what is known of it.

    Args:
        energy, theta, data, damping, linear, retract: as for `argmin`.
        y: the minimiser, a tree like y0.
        y_bar: the cotangent of y, the same tree.

    Returns:
        theta_bar = -B^T u, a tree like theta (zero where anything is not finite), and the
        `Diagnostics` of the solve for u.
    """
    y, theta = _checked(energy, "y", y, theta, data, damping, linear)
    check_structure("y_bar", y_bar, "y", y)
    check_floating("y_bar", y_bar, "It is the gradient of a real loss with respect to y.")
    check_retraction(retract, y)
    return _argmin_vjp(energy, (linear, retract), y, theta, y_bar, data, damping)


def argmin_jvp(
    energy: Callable,
    y: Any,
    theta: Any,
    theta_dot: Any,
    data: tuple = (),
    *,
    damping: Damping = Damping(),  # noqa: B008
    linear: Any = "auto",
    retract: Retraction | None = None,
) -> tuple[Any, Diagnostics]:
    """The pushforward of `attach` as a function, with what is known of it.

    Args:
        energy, theta, data, damping, linear, retract: as for `argmin`.
        y: the minimiser, a tree like y0.
        theta_dot: the direction in which theta moves, a tree like theta.

    Returns:
        y_dot = -f(H) B theta_dot, a tree like y (zero where y or dE/dy is not finite), and the
        `Diagnostics` of the solve, whose cotangent is -B theta_dot.
    """
    y, theta = _checked(energy, "y", y, theta, data, damping, linear)
    check_structure("theta_dot", theta_dot, "theta", theta)
    check_floating("theta_dot", theta_dot, "It is a direction in the space of theta.")
    theta_dot = jax.tree.map(lambda d, x: jnp.asarray(d, x.dtype), theta_dot, theta)
    check_retraction(retract, y)
    return _argmin_jvp(energy, (linear, retract), y, theta, theta_dot, data, damping)


@dataclasses.dataclass(frozen=True)
class _First:
    """The scalar of an energy that returns (scalar, aux); equal for equal energies."""

    energy: Callable

    def __call__(self, y, theta, *data):
        return self.energy(y, theta, *data)[0]


@functools.partial(jax.jit, static_argnums=0)
def _aux(energy, y, theta, data):
    return energy(y, theta, *data)[1]


_ENTER_THROUGH_THETA = (
    "A start only picks the basin; let a network that should learn enter the energy through theta."
)


def _checked(
    energy: Any,
    name: str,
    y: Any,
    theta: Any,
    data: Any,
    damping: Any,
    linear: Any,
    autodiff: str = "reverse",
) -> tuple[Any, Any]:
    """y, known to the caller as `name`, and theta as arrays; checks what every function takes."""
    if not callable(energy):
        raise argument_error("energy", "expected a function of (y, theta, *data)", repr(energy))
    if not isinstance(damping, Damping):
        way_out = "Write damping=Damping(0.1)."
        raise argument_error("damping", "expected a Damping", repr(damping), way_out)
    if jnp.shape(damping.value) != ():
        came = f"an array of shape {jnp.shape(damping.value)}"
        way_out = "Sweep it with jax.vmap over Damping(values)."
        raise argument_error("damping.value", "expected one number", came, way_out)
    check_choice("autodiff", autodiff, RULES)
    check_data(data)
    _check_hashable((energy, linear))
    return _arrays(name, y), _arrays("theta", theta)


def _check_hashable(static: Any) -> None:
    try:
        hash(static)
    except TypeError as error:
        way_out = "Pass a plain function and a frozen solver; arrays belong in `theta` or `data`."
        raise argument_error(
            "energy", "it and the solver must be hashable", error, way_out
        ) from None


def _arrays(name: str, tree: Any) -> Any:
    check_floating(name, tree, "Convert it with jnp.asarray(x, float); integers belong in `data`.")
    if name != "theta" and sum(jnp.size(leaf) for leaf in jax.tree.leaves(tree)) == 0:
        raise argument_error(name, "expected at least one unknown", tree)
    tree = jax.tree.map(jnp.asarray, tree)
    low = [leaf.dtype for leaf in jax.tree.leaves(tree) if jnp.finfo(leaf.dtype).bits < 32]
    if name != "theta" and low:
        way_out = "Factorisations need it; cast to lower precision inside the energy."
        raise argument_error(name, "expected float32 or float64", low[0], way_out)
    return tree


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _argmin(energy, solver, static, y0, theta, data, damping):
    linear, autodiff, init_gradient, retract = static
    frozen = jax.lax.stop_gradient
    moving, y0 = y0, frozen(y0)
    system = make_system(energy, y0, theta, data)
    method = resolve_method(linear, chart_at(y0, retract).tree)
    still = system._replace(theta=frozen(system.theta), data=frozen(system.data))

    def solve(y):
        chart = chart_at(y, retract)
        ravel = None if retract is not None else lambda y: ravel_pytree(y)[0]
        flat_energy = still.flat_energy(chart.place)
        problem = Problem(flat_energy, frozen(theta), frozen(data), ravel, chart.place, method)
        return frozen(solver(problem, chart.origin)), chart

    if retract is None:
        result, chart = solve(y0)
        found = chart.place(result.value)
    else:
        found, result = _recentred(solve, y0)
    chart = chart_at(found, retract)
    least, gradient = result.energy, result.gradient
    if least is None or gradient is None:
        least, gradient = jax.value_and_grad(still.flat_energy(chart.place))(chart.origin)
    finite = jnp.isfinite(least) & jnp.all(jnp.isfinite(ravel_pytree(found)[0]))
    begun = found
    if init_gradient == "prox":  # found, as a function of y0 whose derivative the rule replaces
        begun = jax.tree.map(lambda x, y, fixed: x + (y - fixed), found, moving, y0)
    rule = Rule(system.energy, method, retract, init_gradient)
    value = RULES[autodiff](rule, begun, system.theta, system.data, damping, result.hessian)
    # An energy that is not finite may have finite derivatives (log below zero).
    value = jax.tree.map(lambda x, fixed: jnp.where(frozen(finite), x, fixed), value, found)
    diagnostics = _diagnose(
        still,
        chart,
        found,
        frozen(damping),
        method,
        converged=result.converged,
        known=result.hessian,
    )
    details = (result.steps, least, norm(gradient), result.converged & finite, diagnostics)
    return Solution(value, *jax.tree.map(frozen, details))


def _recentred(solve, y0):
    """The minimiser and its result; where the first coordinates failed, in those around its end."""

    def one(carry):
        y, steps, _, rounds = carry
        result, chart = solve(y)
        found = jax.tree.map(lambda new, old: new.astype(old.dtype), chart.place(result.value), y)
        return found, steps + result.steps, result.converged, rounds + 1

    carry = (y0, jnp.int32(0), jnp.asarray(False), jnp.int32(0))
    found, steps, converged, _ = jax.lax.while_loop(lambda c: ~c[2] & (c[3] < 2), one, carry)
    return jax.lax.stop_gradient(found), SolverResult(found, steps, converged)


def _diagnose(system, chart, y, *args, **more):
    gradient = jax.grad(system.flat_energy(chart.place))
    return diagnose(gradient, chart.origin, *args, **more, scale=norm(ravel_pytree(y)[0]))


def _at(energy, static, y, theta, data):
    """The system of the energy, the chart at y and the rule there; `static`: linear, retract."""
    linear, retract = static
    system, chart = make_system(energy, y, theta, data), chart_at(y, retract)
    return system, chart, Rule(system.energy, resolve_method(linear, chart.tree), retract)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _attach(energy, static, y, theta, data, damping):
    linear, autodiff, retract = static
    system, _, rule = _at(energy, (linear, retract), jax.lax.stop_gradient(y), theta, data)
    return RULES[autodiff](rule, y, system.theta, system.data, damping, None)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _argmin_vjp(energy, static, y, theta, y_bar, data, damping):
    system, chart, rule = _at(energy, static, y, theta, data)
    pulled = pullback(rule, y, system.theta, system.data, damping, y_bar)
    diagnostics = _diagnose(system, chart, y, damping, rule.method, pulled.v, pulled.u)
    theta_bar = jax.tree.unflatten(jax.tree.structure(theta), pulled.theta[0])
    return theta_bar, jax.lax.stop_gradient(diagnostics)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _argmin_jvp(energy, static, y, theta, theta_dot, data, damping):
    system, chart, rule = _at(energy, static, y, theta, data)
    captured = jax.tree.map(jnp.zeros_like, system.theta[1])
    directions = (jax.tree.leaves(theta_dot), captured)
    y_dot, u, v = pushforward(rule, y, system.theta, system.data, damping, directions)
    diagnostics = _diagnose(system, chart, y, damping, rule.method, v, u)
    return y_dot, jax.lax.stop_gradient(diagnostics)
