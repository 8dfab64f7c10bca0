"""The solvers on published test problems: a listed minimum is reached, or nobody says so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcv
from tests.problems.accuracy import SOLVED, digits
from tests.problems.cases import CASES, METHODS, group, solve
from tests.problems.more_garbow_hillstrom import PROBLEMS

# Numbers of problems solved to six digits: of all, and of the small ones that are not marked slow.
SOLVED_NEWTON, SOLVED_NEWTON_SMALL = 60, 15
SOLVED_LBFGS, SOLVED_LBFGS_SMALL = 50, 12
SOLVED_LEAST_SQUARES, SOLVED_LEAST_SQUARES_SMALL = 36, 10

SMALL = {"newton": 2, "lbfgs": 2, "least_squares": 3}  # unknowns of the small problems
MINIMUM_COUNTS = {
    "newton": (SOLVED_NEWTON_SMALL, SOLVED_NEWTON),
    "lbfgs": (SOLVED_LBFGS_SMALL, SOLVED_LBFGS),
    "least_squares": (SOLVED_LEAST_SQUARES_SMALL, SOLVED_LEAST_SQUARES),
}
# Norms of the residuals at the start, as printed by the test program of MINPACK-1.
START_NORMS = {
    "rosenbrock": 4.919350,
    "helical_valley": 50.0,
    "powell_singular": 14.66288,
    "freudenstein_roth": 20.01250,
    "bard": 6.456136,
    "kowalik_osborne": 0.07289151,
    "meyer": 41153.47,
    "watson_6": 5.477226,
    "watson_12": 5.477226,
    "box_three_dimensional": 32.11158,
    "jennrich_sampson": 64.58562,
    "brown_dennis": 2815.438,
    "chebyquad_8": 0.1965139,
    "chebyquad_10": 0.1837478,
    "brown_almost_linear": 16.53022,
    "osborne_1": 0.9375640,
    "osborne_2": 1.446865,
}


def result(method, name):
    """Correct digits, `converged` and the status of one method on one problem."""
    end = solve(method, name)
    accuracy = digits(float(end["energy"]), float(end["start_energy"]), CASES[name].minima)
    return accuracy, bool(end["converged"]), int(end["status"])


def sizes(method, small):
    """The numbers of unknowns of the small or of the other problems."""
    every = {CASES[name].start.size for name in CASES}
    return sorted(n for n in every if (n <= SMALL[method]) == small and group(method, n))


def parameters():
    for method in METHODS:
        for n in sizes(method, True) + sizes(method, False):
            marks = [] if n <= SMALL[method] else [pytest.mark.slow]
            for name in group(method, n):
                yield pytest.param(method, name, marks=marks, id=f"{method}-{name}")


@pytest.mark.parametrize("name", START_NORMS)
def test_more_garbow_hillstrom_starts(name):
    with jax.enable_x64(True):
        problem = PROBLEMS[name]
        norm = np.linalg.norm(problem.residual(jnp.asarray(problem.start)))
    np.testing.assert_allclose(norm, START_NORMS[name], rtol=1e-6)


@pytest.mark.parametrize(("method", "name"), list(parameters()))
def test_convergence_is_at_a_listed_minimum(method, name):
    accuracy, converged, status = result(method, name)
    text = f"{accuracy:.1f} digits, {jaxcv.Status.message(status)}"
    assert accuracy >= SOLVED or not converged, text


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("small", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_number_of_solved_problems(method, small):
    names = [name for n in sizes(method, True) for name in group(method, n)]
    if not small:
        names += [name for n in sizes(method, False) for name in group(method, n)]
    failed = [name for name in names if result(method, name)[0] < SOLVED]
    minimum = MINIMUM_COUNTS[method][0 if small else 1]
    assert len(names) - len(failed) >= minimum, f"{len(failed)} not solved: {failed}"
