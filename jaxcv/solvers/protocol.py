"""The protocol of solvers, and the loop that runs any solver.

A solver is a frozen, hashable dataclass of settings. This solver takes Newton steps of one unknown:

    >>> @dataclasses.dataclass(frozen=True)
    ... class Scalar:
    ...     max_steps: int = 50
    ...
    ...     def init(self, problem, y):
    ...         return y, jax.grad(problem.energy)(y)
    ...
    ...     def step(self, problem, state):
    ...         y, gradient = state
    ...         _, curvature = jax.jvp(jax.grad(problem.energy), (y,), (jnp.ones_like(y),))
    ...         y = y - gradient / curvature
    ...         return y, jax.grad(problem.energy)(y)
    ...
    ...     def y(self, state):
    ...         return state[0]
    ...
    ...     def status(self, problem, state):
    ...         small = jnp.max(jnp.abs(state[1])) < 1e-5
    ...         return jnp.where(small, Status.CONVERGED, Status.RUNNING)

`argmin(energy, y0, theta, solver=Scalar())` runs the solver, also with `retract` and under
`jax.vmap`, and adds the implicit gradient. The energy is flat, (n,) -> (); bounds are in
`problem.bounds`.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxcv.checks import (
    argument_error,
    check_callable,
    check_count,
    check_data,
    check_scalar,
    check_unknowns,
    returning_arrays,
)
from jaxcv.closure import match_varying_axes
from jaxcv.linear.dense import norm
from jaxcv.linear.system import resolve_method
from jaxcv.solvers.convergence import judged
from jaxcv.solvers.problem import Problem, Result, Status

__all__ = [
    "Progress",
    "Solver",
    "check_limits",
    "check_solver",
    "result_of",
    "run",
    "solve",
]


@runtime_checkable
class Solver(Protocol):
    """Settings of an algorithm: frozen and hashable. The module docstring has an example.

    A solver may also have a method `result(problem, start, state) -> Result`, called once after the
    last step. Without it the loop evaluates energy, gradient and curvature at the end, and accepts
    a claim of `CONVERGED` only if they confirm a minimum.
    """

    @property
    def max_steps(self) -> int:
        """The maximum number of steps."""
        ...

    def init(self, problem: Problem, y: jax.Array, /) -> Any:
        """The state before the first step, a pytree of arrays."""
        ...

    def step(self, problem: Problem, state: Any, /) -> Any:
        """The next state, of the same shapes."""
        ...

    def y(self, state: Any, /) -> jax.Array:
        """The point (n,) of a state."""
        ...

    def status(self, problem: Problem, state: Any, /) -> jax.Array:
        """A `Status`; the loop continues while `RUNNING`, up to `max_steps` (`MAX_STEPS`)."""
        ...


def check_limits(solver: Any) -> None:
    """Checks `tolerance` and `max_steps`; NumPy integers become integers."""
    object.__setattr__(solver, "max_steps", check_count("max_steps", solver.max_steps))
    tolerance = solver.tolerance
    if tolerance is None:
        return
    number = isinstance(tolerance, (int, float, np.number)) and not isinstance(tolerance, bool)
    if not number or not 0 <= tolerance < float("inf"):
        hint = "None follows the dtype."
        raise argument_error("tolerance", "expected a number >= 0", repr(tolerance), hint)
    object.__setattr__(solver, "tolerance", float(tolerance))


def check_solver(solver: Any) -> None:
    """Raises ValueError unless `solver` has the methods of a solver."""
    if not isinstance(solver, Solver) or isinstance(solver, type):
        expected = "expected a solver with init, step, y, status and max_steps"
        hint = "E.g. Newton(). A function that minimises: Function(minimise)."
        raise argument_error("solver", expected, repr(solver), hint)


def result_of(solver: Solver, problem: Problem, start: jax.Array, state: Any) -> Result:
    """The result of the last state, from the solver's `result` if it has one, else `judged`."""
    method: Any = getattr(solver, "result", None)
    if method is not None:
        return method(problem, start, state)
    return judged(problem, start, solver.y(state), solver.status(problem, state))


class Progress(NamedTuple):
    """One step of a solve.

    Attributes:
        step: the number of the step, from 1.
        y: the best point so far, a tree like y0.
        energy: () at y.
        gradient_norm: () at y.
        status: a `Status`.
    """

    step: int
    y: Any
    energy: jax.Array
    gradient_norm: jax.Array
    status: Status


def run(
    solver: Solver, energy: Callable, y0: Any, theta: Any = (), data: tuple = ()
) -> Iterator[Progress]:
    """Runs a solver step by step from Python, e.g. to print its progress; no gradient.

    Args:
        solver: any `Solver`.
        energy, y0, theta, data: as for `argmin`.

    Yields:
        `Progress` after each step, the last one with the final status.

    Example:
        >>> for progress in run(Newton(), energy, jnp.zeros(2), theta):
        ...     print(progress.step, progress.energy)
    """
    check_solver(solver)
    check_callable("energy", energy)
    check_unknowns("y0", y0)
    check_data(data)
    y0 = jax.tree.map(jnp.asarray, y0)
    check_scalar("energy", jax.eval_shape(returning_arrays("energy", energy), y0, theta, *data))
    y, unravel = ravel_pytree(y0)
    method = resolve_method("auto", y0)
    flat = lambda y: jnp.asarray(energy(unravel(y), theta, *data), y.dtype)
    problem = Problem(flat, theta, data, lambda y: ravel_pytree(y)[0], unravel, method)

    @jax.jit
    def advance(state):
        state = solver.step(problem, state)
        y = solver.y(state)
        value, gradient = jax.value_and_grad(flat)(y)
        return state, y, value, norm(gradient), solver.status(problem, state)

    state = solver.init(problem, y)
    status = Status(int(solver.status(problem, state)))
    for step in range(1, solver.max_steps + 1):
        if status != Status.RUNNING:
            return
        state, y, value, size, code = advance(state)
        status = Status(int(code))
        if status == Status.RUNNING and step == solver.max_steps:
            status = Status.MAX_STEPS
        yield Progress(step, unravel(y), value, size, status)


def solve(solver: Solver, problem: Problem, y: jax.Array, history: int = 0) -> Result:
    """Runs a solver to its end in one `while_loop`. No gradient passes through the loop."""
    empty = jnp.full((history,), jnp.inf, y.dtype)

    def recorded(records, steps, state):
        if not history:
            return records
        energy, gradient = jax.value_and_grad(problem.energy)(solver.y(state))
        index = jnp.where(steps < history, steps, history)  # out of range: dropped
        pair = (energy.astype(y.dtype), norm(gradient))
        return tuple(r.at[index].set(x, mode="drop") for r, x in zip(records, pair, strict=True))

    def body(carry):
        state, steps, records = carry
        state = solver.step(problem, state)
        return state, steps + 1, recorded(records, steps, state)

    def unfinished(carry):
        state, steps, _ = carry
        running = solver.status(problem, state) == Status.RUNNING
        return running & (steps < solver.max_steps)

    carry = (solver.init(problem, y), jnp.int32(0), (empty, empty) if history else ())
    carry = match_varying_axes(body, carry)
    state, steps, records = jax.lax.while_loop(unfinished, body, carry)
    result = result_of(solver, problem, y, state)
    status = jnp.asarray(result.status, jnp.int32)
    status = jnp.where(status == Status.RUNNING, jnp.int32(Status.MAX_STEPS), status)
    return result._replace(
        status=status, steps=steps + result.steps, history=records if history else None
    )
