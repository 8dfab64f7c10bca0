"""What a solve says of itself: nothing is called converged that is no minimum."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv import Status, argmin, argmin_least_squares, solvers
from jaxcv.solvers.convergence import default_tolerance
from tests.problems.cases import chosen_energy, chosen_residual
from tests.problems.limits import PROBLEMS

METHODS = {
    "newton": solvers.Newton(),
    "lbfgs": solvers.LBFGS(),
    "gradient_descent": solvers.GradientDescent(),
    "levenberg_marquardt": solvers.LevenbergMarquardt(),
    "gauss_newton": solvers.GaussNewton(),
}
ALL = tuple(METHODS)
CURVED = tuple(name for name in METHODS if name != "gradient_descent")  # with curvature
QUADRATIC = tuple(name for name in CURVED if name != "lbfgs")  # which condition does not slow
BLIND = {"float32": 1e6, "float64": 1e12}  # a constant that leaves the energy few digits


class Cell(NamedTuple):
    """One solve of energy_scale * energy(y / unknown_scale) + constant.

    Attributes:
        name: id of the test.
        problem: key of `PROBLEMS`.
        start: of y / unknown_scale; one number for all unknowns, or all of them.
        found: methods that must say CONVERGED, which the others may.
        energy_scale, unknown_scale: factors.
        blind: whether the constant is `BLIND`, else 0.
        status: the only status that is allowed; None: any that is true.
    """

    name: str
    problem: str
    start: tuple[float, ...]
    found: tuple[str, ...] = ()
    energy_scale: float = 1.0
    unknown_scale: float = 1.0
    blind: bool = False
    status: Status | None = None


def scaled(problem, start, found):
    for factor in (1e12, 1e-12):
        yield Cell(f"{problem}-energy-{factor:g}", problem, start, found, energy_scale=factor)
    for factor in (1e8, 1e-8):
        yield Cell(f"{problem}-unknowns-{factor:g}", problem, start, found, unknown_scale=factor)


def of_size(n):
    yield Cell(f"rosenbrock-{n}", f"rosenbrock_{n}", (-1.2, 1.0) * (n // 2))
    yield Cell(f"gauge-{n}", f"gauge_{n}", (0.5,), QUADRATIC)
    yield Cell(f"gauge-{n}-far", f"gauge_{n}", (1e3,))
    yield Cell(f"saddle-{n}", f"saddle_{n}", (0.0,))
    yield Cell(f"saddle-{n}-beside", f"saddle_{n}", (0.1,), CURVED)
    yield Cell(f"endless-{n}", f"endless_{n}", (1.0,) * (n - 1) + (0.0,))
    yield Cell(f"endless-{n}-beside", f"endless_{n}", (1.0,))


CELLS = [
    Cell("quartic", "quartic", (1e3,)),
    Cell("quartic-at-minimum", "quartic", (0.0,)),
    Cell("shifted-quartic", "shifted_quartic", (1e3,)),
    Cell("shifted-quartic-at-minimum", "shifted_quartic", (1.0,)),
    Cell("exponential", "exponential", (0.0,)),
    Cell("exponential-far", "exponential", (30.0,)),
    Cell("lorentzian", "lorentzian", (1.0,)),
    Cell("softplus", "softplus", (0.0,)),
    Cell("cubic", "cubic", (1.0,)),
    Cell("cubic-at-inflection", "cubic", (0.0,)),
    Cell("cosine-at-maximum", "cosine", (0.0,)),
    Cell("cosine-beside-maximum", "cosine", (0.01,), ALL),
    Cell("cosine-at-minimum", "cosine", (np.pi,), ALL),
    Cell("cosh", "cosh", (3.0,), ALL),
    Cell("cosh-at-minimum", "cosh", (0.0,), ALL),
    Cell("cosh-blind", "cosh", (3.0,), ALL, blind=True),
    Cell("cosh-blind-at-minimum", "cosh", (0.0,), ALL, blind=True),
    Cell("nan-start", "cosh", (np.nan,), status=Status.NONFINITE),
    Cell("nan-energy", "logarithm", (-1.0,), status=Status.NONFINITE),
    Cell("rosenbrock", "rosenbrock", (-1.2, 1.0), CURVED),
    Cell("rosenbrock-far", "rosenbrock", (1e3, -1e3)),
    Cell("rosenbrock-farther", "rosenbrock", (1e5, 1e5)),
    *scaled("rosenbrock", (-1.2, 1.0), CURVED),
    Cell("quadratic", "quadratic", (5.0, 7.0), ALL),
    Cell("quadratic-at-minimum", "quadratic", (3.0, -2.0), ALL),
    *scaled("quadratic", (5.0, 7.0), ALL),
    Cell("valley", "valley", (3.0, -1.0), ALL),
    Cell("valley-far", "valley", (1e4, 1e4 + 1)),
    Cell("hyperbola", "hyperbola", (2.0, 3.0)),
    Cell("hyperbola-at-saddle", "hyperbola", (0.0, 0.0)),
    Cell("saddle", "saddle", (0.0, 0.0)),
    Cell("saddle-on-the-ridge", "saddle", (1.0, 0.0)),
    Cell("saddle-beside", "saddle", (1.0, 1e-3), ALL),
    Cell("monkey", "monkey", (0.0, 0.0)),
    Cell("monkey-on-the-ridge", "monkey", (1.0, 0.0)),
    Cell("fenced-monkey", "fenced_monkey", (0.0, 0.0)),
    Cell("fenced-monkey-on-the-ridge", "fenced_monkey", (1.0, 0.0)),
    Cell("gauge-3", "gauge_3", (0.5,), ALL),
    Cell("gauge-3-far", "gauge_3", (1e3,)),
    Cell("endless-3", "endless_3", (1.0, 1.0, 0.0)),
    Cell("endless-3-beside", "endless_3", (1.0, 1.0, 1e-3)),
    *of_size(40),
    *of_size(300),
]
SLOW = {(method, n) for method in METHODS for n in (3, 40, 300)}
SLOW |= {("gauss_newton", 1), ("gauss_newton", 2), ("levenberg_marquardt", 1)}


def problems_of(method, n):
    """The problems of n unknowns that a method can solve."""
    wants_residual = method in ("levenberg_marquardt", "gauss_newton")
    problems = (problem for problem in PROBLEMS.values() if problem.n == n)
    return [p for p in problems if p.residual is not None or not wants_residual]


@functools.cache
def program(method, n, dtype):
    """(start, index, scales) -> `Solution`; the problems of one size share a program."""
    problems = problems_of(method, n)
    of_squares = method in ("levenberg_marquardt", "gauss_newton")
    chosen = (chosen_residual if of_squares else chosen_energy)(problems)

    def scaled(y, scales, index):
        energy_scale, unknown_scale, constant = scales
        factor = jnp.sqrt(energy_scale) if of_squares else energy_scale
        return factor * chosen(y / unknown_scale, index) + constant

    solve = argmin_least_squares if of_squares else argmin
    return jax.jit(
        lambda start, index, scales: solve(scaled, start, scales, (index,), solver=METHODS[method])
    )


def parameters():
    for method in METHODS:
        for dtype in ("float32", "float64"):
            for cell in CELLS:
                problem = PROBLEMS[cell.problem]
                if problem not in problems_of(method, problem.n):
                    continue
                if cell.blind and method in ("levenberg_marquardt", "gauss_newton"):
                    continue
                # Rosenbrock is the hard one of the small problems; float32 is the hard type.
                quick = dtype == "float32" or cell.problem == "rosenbrock"
                slow = (method, problem.n) in SLOW or not quick
                marks = [pytest.mark.slow] if slow else []
                name = f"{method}-{dtype}-{cell.name}"
                yield pytest.param(method, dtype, cell, marks=marks, id=name)


def run(method, dtype, cell):
    """The solution of a cell, and y / unknown_scale in float64."""
    problem = PROBLEMS[cell.problem]
    with jax.enable_x64(dtype == "float64"):
        start = np.broadcast_to(cell.start, problem.n) * cell.unknown_scale
        scales = cell.energy_scale, cell.unknown_scale, BLIND[dtype] if cell.blind else 0.0
        index = problems_of(method, problem.n).index(problem)
        arguments = jnp.asarray(start, dtype), jnp.asarray(index), jnp.asarray(scales, dtype)
        solution = jax.device_get(program(method, problem.n, dtype)(*arguments))
    return solution, np.asarray(solution.value, float) / cell.unknown_scale


def distance(method, dtype, cell, y):
    """|y - nearest minimiser|, and what may remain of it in this precision."""
    problem, eps = PROBLEMS[cell.problem], float(np.finfo(dtype).eps)
    assert problem.nearest is not None, f"{y} has no minimum near it"
    minimiser = problem.nearest(y)
    # A minimum at zero has no size of its own: that of the start remains.
    size = np.linalg.norm(minimiser) or np.linalg.norm(np.broadcast_to(cell.start, problem.n))
    allowed = 4 * eps**problem.order
    if method in ("lbfgs", "gradient_descent"):  # whose gradient is small against |H| |y|
        allowed = max(allowed, problem.condition * default_tolerance(jnp.dtype(dtype)))
    return np.linalg.norm(y - minimiser), allowed * size


def unresolved(cell, dtype, y):
    """Whether the energy at y is that of the minimum, in the digits that a constant leaves."""
    if not cell.blind:
        return False
    problem = PROBLEMS[cell.problem]
    with jax.enable_x64(True):
        excess = float(problem.energy(y)) - float(problem.energy(problem.nearest(y)))
    return excess <= 4 * np.finfo(dtype).eps * BLIND[dtype]


@pytest.mark.parametrize(("method", "dtype", "cell"), list(parameters()))
def test_status_is_true(method, dtype, cell):
    solution, y = run(method, dtype, cell)
    status = Status(int(solution.status))
    if cell.status is not None:
        assert status == cell.status
    if method in cell.found:
        assert status == Status.CONVERGED
    if status == Status.CONVERGED:
        error, allowed = distance(method, dtype, cell, y)
        assert error <= allowed or unresolved(cell, dtype, y)
    if status == Status.UNBOUNDED:
        assert PROBLEMS[cell.problem].nearest is None
    # No step raises the energy.
    if status != Status.NONFINITE:
        assert solution.energy <= solution.start_energy
