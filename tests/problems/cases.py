"""Both problem sets as energies, and jaxcv's solvers on them: `CASES` and `solve`."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxcv
from tests.problems import minimisation, more_garbow_hillstrom

__all__ = ["CASES", "METHODS", "Case", "chosen_energy", "chosen_residual", "group", "solve"]

METHODS = {  # None: argmin_least_squares with its default solver
    "least_squares": lambda: None,
    "newton": lambda: jaxcv.solvers.Newton(),
    "lbfgs": lambda: jaxcv.solvers.LBFGS(max_steps=2000),
}


class Case(NamedTuple):
    """One problem.

    Attributes:
        name: key in `CASES`.
        energy: (n,) -> (); half the sum of squares where there are residuals.
        residual: (n,) -> (m,), or None.
        start: (n,) the standard start.
        minima: the energy at the known local minima.
    """

    name: str
    energy: Callable
    residual: Callable | None
    start: np.ndarray
    minima: tuple[float, ...]


def _cases():
    for problem in more_garbow_hillstrom.PROBLEMS.values():
        energy = lambda y, residual=problem.residual: jnp.sum(residual(y) ** 2) / 2
        halves = tuple(minimum / 2 for minimum in problem.minima)
        yield Case(problem.name, energy, problem.residual, problem.start, halves)
    for problem in minimisation.PROBLEMS.values():
        yield Case(problem.name, problem.energy, None, problem.start, problem.minima)


CASES = {case.name: case for case in _cases()}


def group(method: str, n: int) -> list[str]:
    """The names of the problems of a method with n unknowns."""
    cases = (case for case in CASES.values() if case.start.size == n)
    return [case.name for case in cases if case.residual or method != "least_squares"]


def chosen_energy(cases: Sequence) -> Callable:
    """(y, index) -> the energy of one of the cases, so that these share a program."""
    return lambda y, index: jax.lax.switch(index, [case.energy for case in cases], y)


def chosen_residual(cases: Sequence) -> Callable:
    """(y, index) -> the residual of one of the cases, padded with zeros to the longest."""

    def residual(y, index):
        longest = max(jax.eval_shape(case.residual, y).size for case in cases)
        pad = lambda r: jnp.pad(r, (0, longest - r.size))
        return jax.lax.switch(index, [lambda y, c=c: pad(c.residual(y)) for c in cases], y)

    return residual


@functools.cache
def _program(method, n, history):
    cases = [CASES[name] for name in group(method, n)]
    solver = METHODS[method]()
    energy_of, residual_of = chosen_energy(cases), chosen_residual(cases)
    energy = lambda y, _, index: energy_of(y, index)
    residual = lambda y, _, index: residual_of(y, index)

    @jax.jit
    def run(start, index):
        if solver is None:
            solution = jaxcv.argmin_least_squares(residual, start, (), (index,), history=history)
        else:
            solution = jaxcv.argmin(energy, start, (), (index,), solver=solver, history=history)
        first, last = energy(start, (), index), energy(solution.value, (), index)
        return {
            "value": solution.value,
            "start_energy": first,
            "energy": last,
            "steps": solution.steps,
            "converged": solution.converged,
            "status": solution.status,
            "energies": solution.history and solution.history[0],
        }

    return run


@functools.cache
def solve(method: str, name: str, history: int = 0) -> dict[str, Any]:
    """The result of a method of `METHODS` on a problem, in float64.

    Problems of one size share a program, because compiling takes most of the time: the energy is a
    `jax.lax.switch`, and residuals are padded with zeros.

    Returns:
        value (n,), start_energy, energy (of `value`), steps, converged, status; energies (history,)
        after every step, inf behind the last, or None.
    """
    start = CASES[name].start
    with jax.enable_x64(True):
        index = jnp.asarray(group(method, start.size).index(name))
        return jax.device_get(_program(method, start.size, history)(jnp.asarray(start), index))
