"""The implicit gradient of a given minimiser, as a differentiation rule and as functions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.checks import check_callable, check_floating, check_structure
from jaxcv.closure import jit_on, spread
from jaxcv.implicit.arguments import check_linear, check_setting, checked, on_device, with_hint
from jaxcv.implicit.diagnostics import Diagnostics, diagnose_at
from jaxcv.implicit.rules import RULES, Rule, cut, make_system, pullback, pushforward
from jaxcv.linear.damping import Damping
from jaxcv.linear.system import check_mode, resolve_method
from jaxcv.solvers.retraction import Retraction, check_retraction, coordinates_at

__all__ = ["argmin_jvp", "argmin_vjp", "attach", "diagnose"]


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
    solve: Callable | None = None,
) -> Any:
    """`y_star` unchanged, with the gradient of the minimiser y*(theta) of the energy.

    For minimisers from any solver, inside or outside JAX. theta gets the damped implicit gradient
    of `argmin`; y_star and data get none, and the code that computed them is never differentiated.
    y_star must be a minimiser of energy(., theta, *data): check with `diagnose`.

    Args:
        energy, theta, data, damping, linear, autodiff, retract: as for `argmin`.
        y_star: the minimiser, a tree like y0.
        solve: None, or a custom solver of the damped system, for Hessians of special structure:
            `solve(y, theta, data, lambda, v) -> u` with (H + lambda I) u = v, u and v trees like y;
            `autodiff='reverse'` only. Pass a global function or a frozen value, since arrays that
            it closes over get no gradient.
    """
    y, theta = _checked("y_star", energy, y_star, theta, data, damping, linear, retract, autodiff)
    check_setting("solve", solve)
    if solve is not None:
        check_callable("solve", solve, "(y, theta, data, lambda, v)")
    static = (linear, autodiff, retract, solve)
    arguments = (cut(y), theta, cut(data), cut(on_device(damping)))
    return with_hint(jit_on(energy, _attach, static), *arguments)


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
    """The pullback of `attach` as a function, with diagnostics.

    Args:
        energy, theta, data, damping, linear, retract: as for `argmin`.
        y: the minimiser, a tree like y0.
        y_bar: the cotangent of y, the same tree.

    Returns:
        theta_bar = -B^T u, a tree like theta (zero where anything is not finite), and the
        `Diagnostics` of the solve for u.
    """
    y, theta = _checked("y", energy, y, theta, data, damping, linear, retract)
    check_structure("y_bar", y_bar, "y", y)
    check_floating("y_bar", y_bar, "It is the gradient of a real loss with respect to y.")
    arguments = (y, theta, y_bar, data, on_device(damping))
    return with_hint(jit_on(energy, _vjp, (linear, retract)), *arguments)


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
    """The pushforward of `attach` as a function, with diagnostics.

    Args:
        energy, theta, data, damping, linear, retract: as for `argmin`.
        y: the minimiser, a tree like y0.
        theta_dot: the direction in which theta moves, a tree like theta.

    Returns:
        y_dot = -f(H) B theta_dot, a tree like y (zero where y or dE/dy is not finite), and the
        `Diagnostics` of the solve, whose cotangent is -B theta_dot.
    """
    y, theta = _checked("y", energy, y, theta, data, damping, linear, retract)
    check_structure("theta_dot", theta_dot, "theta", theta)
    check_floating("theta_dot", theta_dot, "It is a direction in the space of theta.")
    theta_dot = jax.tree.map(lambda d, x: jnp.asarray(d, x.dtype), theta_dot, theta)
    arguments = (y, theta, theta_dot, data, on_device(damping))
    return with_hint(jit_on(energy, _jvp, (linear, retract)), *arguments)


def diagnose(
    energy: Callable,
    y: Any,
    theta: Any,
    data: tuple = (),
    *,
    damping: Damping = Damping(),  # noqa: B008
    linear: Any = "auto",
    retract: Retraction | None = None,
) -> Diagnostics:
    """The `Diagnostics` of a given minimiser, for a cotangent of norm one.

    Args:
        energy, theta, data, damping, linear, retract: as for `argmin`.
        y: the point, e.g. `solution.value`. It counts as converged if the remaining Newton step
            is below sqrt(eps) |y|, since the status of its solver is unknown.
    """
    y, theta = _checked("y", energy, y, theta, data, damping, linear, retract)
    arguments = (y, theta, data, on_device(damping))
    return with_hint(jit_on(energy, _diagnose, (linear, retract)), *arguments)


def _checked(name, energy, y, theta, data, damping, linear, retract, autodiff="reverse"):
    """(y, theta) as arrays, after checks of the arguments that the four functions share."""
    check_callable("energy", energy)
    y, theta = checked(name, y, theta, data, damping, autodiff)
    check_linear("linear", linear)
    check_retraction(retract, y)
    return y, theta


def _at(energy, linear, retract, y, theta, data, solve=None):
    """The system of the energy, coordinates at y and the rule there."""
    system, local = make_system(energy, y, theta, data), coordinates_at(y, retract)
    method = resolve_method(linear, local.tree)
    return system, local, Rule(system.energy, method, retract, solve=solve)


def _attach(energy, linear, autodiff, retract, solve, y, theta, data, damping):
    y, theta, _ = spread(energy, (y, theta, *data), y, theta, damping)
    packed = None
    if solve is not None:
        # A user's solve takes the user's trees, not the leaves of a system.
        structure = jax.tree.structure((theta, data))
        packed = _OwnSolve(solve, structure, len(jax.tree.leaves(data)))
    system, _, rule = _at(energy, linear, retract, y, theta, data, packed)
    if solve is None:
        check_mode(damping, rule.method)
    return RULES[autodiff](rule, y, system.theta, system.data, damping, None)


class _OwnSolve(NamedTuple):
    """A user's solve as a function of a system's leaves."""

    solve: Callable
    structure: Any
    num_data: int

    def __call__(self, y, theta, data, value, v):
        leaves = [*theta[0], *data[: self.num_data]]
        theta, data = jax.tree.unflatten(self.structure, leaves)
        return self.solve(y, theta, data, value, v)


def _vjp(energy, linear, retract, y, theta, y_bar, data, damping):
    y, theta, y_bar, _ = spread(energy, (y, theta, *data), y, theta, y_bar, damping)
    system, local, rule = _at(energy, linear, retract, y, theta, data)
    pulled = pullback(rule, y, system.theta, system.data, damping, y_bar)
    report = diagnose_at(system, local, y, damping, rule.method, pulled.v, pulled.u)
    theta_bar = jax.tree.unflatten(jax.tree.structure(theta), pulled.theta[0])
    return theta_bar, cut(report)


def _jvp(energy, linear, retract, y, theta, theta_dot, data, damping):
    y, theta, theta_dot, _ = spread(energy, (y, theta, *data), y, theta, theta_dot, damping)
    system, local, rule = _at(energy, linear, retract, y, theta, data)
    captured = jax.tree.map(jnp.zeros_like, system.theta[1])
    directions = (jax.tree.leaves(theta_dot), captured)
    y_dot, u, v = pushforward(rule, y, system.theta, system.data, damping, directions)
    report = diagnose_at(system, local, y, damping, rule.method, v, u)
    return y_dot, cut(report)


def _diagnose(energy, linear, retract, y, theta, data, damping):
    y, theta, _ = spread(energy, (y, theta, *data), y, theta, damping)
    system, local, rule = _at(energy, linear, retract, y, theta, data)
    return cut(diagnose_at(system, local, y, damping, rule.method))
