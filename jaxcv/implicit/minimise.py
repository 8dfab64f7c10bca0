"""Minimisers of energies and their damped implicit gradient.

The rule belongs to the solution, not to the solver: `argmin` runs any solver without gradient and
passes the result to an identity whose derivative is one damped solve (`jaxcv.implicit.rules`).

Source: Toso, Campbell, Russell, "Fixing implicit derivatives: trust-region based learning of
continuous energy functions", NeurIPS 2019, eq. 10; for value 0, eq. 9, Samuel and Tappen, CVPR
2009.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxcv.checks import (
    argument_error,
    check_callable,
    check_choice,
    check_count,
    check_flag,
    check_pair,
    returning_arrays,
)
from jaxcv.closure import hoist, jit_on, match_varying_axes, spread
from jaxcv.implicit.arguments import (
    called,
    check_linear,
    check_setting,
    checked,
    on_device,
    with_hint,
)
from jaxcv.implicit.bounds import bound_arrays, held_energy, held_value
from jaxcv.implicit.diagnostics import diagnose_at
from jaxcv.implicit.rules import RULES, Rule, cut, make_system
from jaxcv.implicit.solution import Solution
from jaxcv.linear.damping import Damping
from jaxcv.linear.dense import norm
from jaxcv.linear.system import check_mode, resolve_method
from jaxcv.solvers.newton import Newton
from jaxcv.solvers.problem import Minima, Problem, Result, Status, held
from jaxcv.solvers.protocol import check_solver, solve
from jaxcv.solvers.retraction import Retraction, check_retraction, coordinates_at

__all__ = ["argmin"]


def argmin(
    energy: Callable,
    y0: Any,
    theta: Any,
    data: tuple = (),
    *,
    solver: Any = Newton(),  # noqa: B008 (frozen and hashable)
    damping: Damping = Damping(),  # noqa: B008
    linear: Any = "auto",
    bounds: Any = None,
    autodiff: str = "reverse",
    init_gradient: str = "zero",
    retract: Retraction | None = None,
    has_aux: bool = False,
    diagnostics: bool = False,
    history: int = 0,
) -> Solution:
    """A local minimiser y*(theta) of an energy, differentiable in theta.

        y* = argmin_y E(y, theta, *data),   theta_bar = -B^T (H' + lambda I)^-1 y_bar

    The gradient never explodes (|u| <= |y_bar| / lambda, see `Damping`) and costs one solve, no
    matter how many steps the solver took. It assumes that y* is a minimiser: check
    `solution.converged`; `solution.status` has the reason. A problem of a vmapped batch that
    is not finite contributes a zero gradient and leaves the others alone.

    `argmin` is compiled once per energy function and cached while that function lives: pass the
    same function object, not a new lambda per call. Arrays that the energy closes over are
    differentiated through as if they were part of theta. As under any `jax.jit`, a global or an
    attribute that changes between calls is not read again: pass changing values as theta or data.

    A problem with non-finite values gets a zero gradient, which only `status` and the values
    themselves reveal. A problem that has merely not converged keeps its gradient: mask it.
    Second derivatives differentiate the formula above: they are exact with value 0; with damping
    they belong to the damped gradient and differ from finite differences of the minimiser.

    Args:
        energy: `energy(y, theta, *data) -> scalar`, pure.
        y0: start, a pytree of floating-point arrays. It picks the basin and gets a zero gradient.
        theta: pytree of parameters.
        data: tuple of anything else that the energy reads; no gradient, may hold integers.
        solver: a `Solver`, see `jaxcv.solvers`; `Newton()` by default.
        damping: the damping of the backward pass only.
        linear: method of the linear solves: `auto`, `scalar`, `cholesky`, `cg`, or, where the
            energy allows, an `Arrow`, a `BlockDiagonal` or a `ConjugateGradient`; see
            `jaxcv.linear.system`. The steps of `Newton` use the same method.
        bounds: None, or (lower, upper): trees like y0 (or prefixes of it) whose leaves broadcast;
            None and infinities mean no bound. Bounds may depend on theta. Active unknowns follow
            their bounds; the gradient is one-sided there. `solution.active` counts them.
        autodiff: `reverse`, or `both`: the same numbers from a rule that has a forward mode too
            (`jax.jvp`, `jax.jacfwd`, `jax.hessian`). In reverse mode `both` zeroes a problem if y
            or dE/dy is not finite, `reverse` also if the gradient itself is not.
        init_gradient: the gradient of y0: `zero`, or `prox`: lambda^k (H' + lambda I)^-k y_bar,
            the derivative of k proximal steps of weight lambda from y0, for meta-learning the
            start. `prox` tends to zero with lambda, except in directions in which the energy is
            flat.
        retract: None: y is in a vector space. Or a `Retraction` of the manifold of y
            (`jaxcv.geometry.manifolds`): the Hessian and u belong to the tangent space at y*. The
            solver uses coordinates around y0; if it fails, once more around its end point.
        has_aux: the energy returns (scalar, aux), and the solution holds aux at y*.
        diagnostics: compute `solution.diagnostics`; costs a Hessian or a Lanczos run.
        history: N: record energies and gradient norms of the first N steps; costs one more
            evaluation per step.

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
    return minimise(
        energy, None, y0, theta, data, solver=solver, damping=damping, linear=linear,
        bounds=bounds, autodiff=autodiff, init_gradient=init_gradient, retract=retract,
        has_aux=has_aux, diagnostics=diagnostics, history=history,
    )  # fmt: skip


class Terms(NamedTuple):
    """The energy that least squares makes from a residual function, and its parts.

    Attributes:
        energy: (function, y, theta, *data) -> ().
        residual: (function, y, theta, *data) -> (m,).
        weights: (shapes of the function's result, theta, r (m,)) -> (m,) rho'.
        weighted: theta -> bool, false if all weights are one.
    """

    energy: Callable
    residual: Callable
    weights: Callable
    weighted: Callable


class _Settings(NamedTuple):
    """The static settings of a call; hashable."""

    terms: Terms | None
    solver: tuple  # treedef and static leaves
    linear: Any
    autodiff: str
    init_gradient: str
    retract: Any
    has_aux: bool
    diagnostics: bool
    history: int
    bounded: bool


def minimise(
    function: Callable, terms: Terms | None, y0: Any, theta: Any, data: tuple, **settings: Any
) -> Solution:
    """`argmin` of an energy, or of the energy that `terms` make; the arguments are `argmin`'s."""
    damping, linear, autodiff = (settings[name] for name in ("damping", "linear", "autodiff"))
    init_gradient, retract = settings["init_gradient"], settings["retract"]
    check_callable("energy" if terms is None else "residual", function)
    y0, theta = checked("y0", y0, theta, data, damping, autodiff)
    check_linear("linear", linear)
    check_choice("init_gradient", init_gradient, ("zero", "prox"), _ENTER_THROUGH_THETA)
    if init_gradient == "prox":
        if damping.mode == "tikhonov":
            expected = "init_gradient='prox' needs a proximal step"
            raise argument_error("damping.mode", expected, "'tikhonov'", "Use mode='shift'.")
        if retract is not None or settings["bounds"] is not None:
            expected = "needs a vector space without bounds"
            raise argument_error("init_gradient", expected, "'prox'", "Leave it at 'zero'.")
    check_solver(settings["solver"])
    check_retraction(retract, y0)
    bounds = settings["bounds"]
    if bounds is not None:
        if retract is not None:
            hint = "Use a prior, or unknowns without a manifold."
            raise argument_error("bounds", "needs a vector space", "a retraction", hint)
        bounds = bound_arrays(bounds, y0)
    history = check_count("history", settings["history"], 0)
    has_aux = check_flag("has_aux", settings["has_aux"])
    diagnostics = check_flag("diagnostics", settings["diagnostics"])
    if has_aux:
        check_pair(jax.eval_shape(returning_arrays("energy", function), y0, theta, *data))
    leaves, treedef = jax.tree.flatten(settings["solver"])
    traced = [x for x in leaves if hasattr(x, "dtype")]
    fixed = tuple(None if hasattr(x, "dtype") else x for x in leaves)
    check_setting("solver", fixed)
    static = _Settings(
        terms, (treedef, fixed), linear, autodiff, init_gradient, retract, has_aux,
        diagnostics, history, bounds is not None,
    )  # fmt: skip
    # Cut non-differentiable arguments here, outside all transformations that follow.
    if init_gradient == "zero":
        y0 = cut(y0)
    arguments = (y0, theta, cut(data), cut(on_device(damping)), bounds, cut(traced))
    return with_hint(jit_on(function, _argmin, (static,)), *arguments)


_ENTER_THROUGH_THETA = (
    "A start only picks the basin; a network that is to be trained belongs in theta."
)


def _argmin(function, static, y0, theta, data, damping, bounds, traced):
    treedef, fixed = static.solver
    given = iter(traced)
    solver = jax.tree.unflatten(treedef, [next(given) if x is None else x for x in fixed])
    energy = called(function, None if static.terms is None else static.terms.energy)
    scalar = (lambda *args: energy(*args)[0]) if static.has_aux else energy
    spread_over = (y0, theta, *data)
    moving, theta, bounds, _, _ = spread(scalar, spread_over, y0, theta, bounds, damping, traced)
    y0 = cut(moving)
    system = make_system(scalar, y0, theta, data)
    method = resolve_method(static.linear, coordinates_at(y0, static.retract).tree)
    check_mode(damping, method)
    still = system._replace(theta=cut(system.theta), data=cut(system.data))
    flat_bounds: Any = None
    if bounds is not None:
        flat_bounds = tuple(ravel_pytree(cut(bound))[0] for bound in bounds)
        y0 = jax.tree.map(jnp.clip, y0, *cut(bounds))

    def solved(y):
        local = coordinates_at(y, static.retract)
        ravel = None if static.retract is not None else lambda y: ravel_pytree(y)[0]
        problem = Problem(
            still.flat_energy(local.to_point), cut(theta), data, ravel, local.to_point, method,
            flat_bounds,
        )  # fmt: skip
        if static.terms is not None:
            problem = _with_residual(problem, static.terms, function, y, cut(theta), data)
        return solve(solver, problem, local.origin, static.history), local

    if static.retract is None:
        result, local = solved(y0)
        found = local.to_point(result.y)
    else:
        found, result = _recentred(solved, y0)
        local = coordinates_at(found, static.retract)
        flat_energy = still.flat_energy(local.to_point)
        value, gradient = jax.value_and_grad(flat_energy)(local.origin)
        result = result._replace(energy=value, gradient=gradient)
    result = cut(result)
    found = cut(found)
    finite = jnp.isfinite(result.energy) & jnp.all(jnp.isfinite(ravel_pytree(found)[0]))

    rule = Rule(system.energy, method, static.retract, static.init_gradient)
    attach: Any = RULES[static.autodiff]
    slope, active, sides = result.gradient, None, None
    if bounds is None:
        begun = found
        if static.init_gradient == "prox":  # value of found, derivative of y0
            begun = jax.tree.map(lambda x, y, fix: x + (y - fix), found, moving, y0)
        value = attach(rule, begun, system.theta, system.data, damping, result.hessian)
    else:
        sides = _sides(result.y, result.gradient, flat_bounds)
        active = jnp.sum(sides != 0).astype(jnp.int32)
        slope = jnp.where(sides != 0, 0, slope)
        held: Any = held_energy(scalar)
        inner = make_system(held, found, (theta, *bounds), (sides, *data))
        rule = rule._replace(energy=inner.energy)
        value = attach(rule, found, inner.theta, inner.data, damping, None)
        value = held_value(value, bounds[0], bounds[1], sides)
    # An energy that is not finite may have finite derivatives (log below zero).
    value = jax.tree.map(lambda x, fixed: jnp.where(finite, x, fixed), value, found)
    if flat_bounds is not None:
        finite &= jnp.all(flat_bounds[0] <= flat_bounds[1])
    status = jnp.where(
        finite | (result.status != Status.CONVERGED), result.status, jnp.int32(Status.NONFINITE)
    )
    report = None
    if static.diagnostics:
        report = cut(
            diagnose_at(
                still, coordinates_at(found, static.retract), found, damping, method,
                converged=status == Status.CONVERGED,
            )
        )  # fmt: skip
    minima = None
    if result.minima is not None:
        minima = _attached_minima(result, rule, attach, system, local, damping)
    aux = energy(value, theta, *data)[1] if static.has_aux else None
    return Solution(
        value, status, result.steps, result.energy, result.start_energy, norm(slope), report,
        result.history, minima, active, aux,
    )  # fmt: skip


def _with_residual(problem, terms, function, y, theta, data):
    # The residual may close over differentiable arrays; the steps have no gradient.
    hoisted = hoist(called(function, terms.residual), y, theta, *data)
    captured = cut((hoisted.floating, hoisted.fixed))
    shapes = jax.eval_shape(lambda *args: function(*args), y, theta[0], *data)

    def residual(flat):
        return hoisted.call((problem.unravel(flat), theta, data), *captured).astype(flat.dtype)

    weights = functools.partial(terms.weights, shapes, theta) if terms.weighted(theta) else None
    return problem._replace(residual=residual, weights=weights)


def _sides(y, gradient, bounds):
    """(n,) int32: -1 held at the lower bound, 1 at the upper, 0 free."""
    side = jnp.where(gradient > 0, jnp.int32(-1), jnp.int32(1))
    return jnp.where(held(gradient, y, bounds), side, 0)


def _attached_minima(result: Result, rule, attach, system, local, damping) -> Minima:
    """Each minimum with its implicit gradient, each energy with that of the envelope theorem."""
    minima: Any = result.minima

    def one(flat):
        y = local.to_point(flat)
        value = attach(rule, y, system.theta, system.data, damping, None)
        return value, system.energy(y, system.theta, system.data).astype(flat.dtype)

    values, energies = jax.vmap(one)(minima.value)
    kept = minima.valid & jnp.isfinite(cut(energies))
    return minima._replace(value=values, energy=jnp.where(kept, energies, jnp.inf), valid=kept)


def _recentred(solved, y0):
    """The minimiser and its result; a failed solve is repeated in coordinates around its end."""
    first, local = jax.eval_shape(lambda y: solved(y)[0], y0), None
    del local
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), first)
    empty = empty._replace(status=jnp.int32(Status.RUNNING), hessian=None, minima=None)

    def one(carry):
        y, before, rounds = carry
        result, local = solved(y)
        found = jax.tree.map(lambda new, old: new.astype(old.dtype), local.to_point(result.y), y)
        start = jnp.where(rounds == 0, result.start_energy, before.start_energy)
        result = result._replace(
            steps=before.steps + result.steps, start_energy=start, hessian=None, minima=None
        )
        return found, result, rounds + 1

    def unfinished(carry):
        _, result, rounds = carry
        failed = (result.status != Status.CONVERGED) & (result.status != Status.NONFINITE)
        return failed & (rounds < 2)

    carry = match_varying_axes(one, (y0, empty, jnp.int32(0)))
    found, result, _ = jax.lax.while_loop(unfinished, one, carry)
    return found, result
