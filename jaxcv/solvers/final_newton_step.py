"""A solver followed by one damped Newton step, as in the paper."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxcv.checks import argument_error
from jaxcv.linear.damping import Damping, check_damping
from jaxcv.linear.dense import hessian_product
from jaxcv.linear.system import damped_system, resolve_method
from jaxcv.pytree import register
from jaxcv.solvers.convergence import free_gradient
from jaxcv.solvers.problem import Problem, Result
from jaxcv.solvers.protocol import Solver, check_solver, result_of

__all__ = ["FinalNewtonStep"]


@dataclasses.dataclass(frozen=True)
class FinalNewtonStep:
    """A solver followed by one damped Newton step, y <- y - (H' + lambda I)^-1 dE/dy.

    The paper ends every solve with this step, and its gradient differentiates the step.

    Attributes:
        solver: the solver that runs first.
        damping: damping of the step; its value must be a number. The paper uses mode `plain` with
            0.1, and with 0 for its undamped baseline, whose step may be very long. The other modes
            reject a step that raises the energy: far from a minimum g / lambda is unreliable.

    Source: Toso, Campbell, Russell, NeurIPS 2019, section 3.
    """

    solver: Solver
    damping: Damping = Damping(0.1)  # noqa: RUF009 (frozen)

    def __post_init__(self):
        check_solver(self.solver)
        check_damping(self.damping)
        try:
            hash(self.damping)
        except TypeError:
            hint = "It is static: float(value)."
            got = repr(self.damping.value)
            raise argument_error("damping.value", "expected a number", got, hint) from None

    @property
    def max_steps(self) -> int:
        """`max_steps` of the solver."""
        return self.solver.max_steps

    def init(self, problem: Problem, y: jax.Array) -> Any:
        """`init` of the solver."""
        return self.solver.init(problem, y)

    def step(self, problem: Problem, state: Any) -> Any:
        """`step` of the solver."""
        return self.solver.step(problem, state)

    def y(self, state: Any) -> jax.Array:
        """`y` of the solver."""
        return self.solver.y(state)

    def status(self, problem: Problem, state: Any) -> jax.Array:
        """`status` of the solver."""
        return self.solver.status(problem, state)

    def result(self, problem: Problem, start: jax.Array, state: Any) -> Result:
        """The result of the solver, moved by the damped Newton step."""
        before = result_of(self.solver, problem, start, state)
        gradient, y = jax.grad(problem.energy), before.y
        whole = hessian_product(gradient, y)
        slope = free_gradient(problem, y, before.gradient)
        free = slope == before.gradient
        product = lambda p: jnp.where(free, whole(jnp.where(free, p, 0)), p)
        if problem.bounds is None:
            product = whole
        system = damped_system(product, y, self.damping, resolve_method("auto", y))
        value = y - system.solve(slope)
        if problem.bounds is not None:
            value = jnp.clip(value, *problem.bounds)
        energy, slope = jax.value_and_grad(problem.energy)(value)
        good = jnp.isfinite(energy) & jnp.all(jnp.isfinite(value))
        if self.damping.mode != "plain":
            noise = 4 * jnp.finfo(value.dtype).eps * jnp.abs(before.energy)
            good &= ~(energy > before.energy + noise)
        take = lambda new, old: jnp.where(good, new, old)
        return before._replace(
            y=take(value, y), energy=take(energy, before.energy),
            gradient=take(slope, before.gradient), hessian=None, steps=before.steps + 1,
        )  # fmt: skip


register(FinalNewtonStep, ("solver",))
