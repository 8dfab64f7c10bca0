"""jaxcv beside scipy on ten problems with active bounds, in float64.

pytest -m benchmark tests/benchmarks/test_bounds.py -s

Prints final energies above the best one, distances to the best point, evaluations, claims and
numbers of active unknowns, and writes runs/benchmarks/bounds.json. Evaluations are those of
jaxcv's `Solution.steps` + 1 and scipy's nfev, rejected steps included.
"""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy

import jaxcv
from tests.problems.bounded import PROBLEMS, Outcome, scipy_lbfgsb, scipy_trf

FOLDER = pathlib.Path("runs/benchmarks")
NEAR = 1e-7  # of 1 + |y|: largest distance at which an unknown counts as at its bound


def of_jaxcv(problem, solver) -> tuple[Outcome, str]:
    """Outcome and status of `argmin`, or of `argmin_least_squares` if the solver is None."""
    bounds = problem.bounds(problem.theta)
    start = jnp.asarray(problem.start)
    if solver is None:
        solution = jaxcv.argmin_least_squares(problem.residual, start, problem.theta, bounds=bounds)
    else:
        solution = jaxcv.argmin(problem.energy, start, problem.theta, bounds=bounds, solver=solver)
    end = Outcome(np.asarray(solution.value), int(solution.steps) + 1, bool(solution.converged))
    return end, jaxcv.Status(int(solution.status)).name


def methods(problem) -> dict[str, Any]:
    """Every method that fits the problem: () -> `Outcome` and a status text."""
    told = lambda outcome: (outcome, "success" if outcome.success else "no success")
    table = {
        "jaxcv Newton": lambda: of_jaxcv(problem, jaxcv.solvers.Newton()),
        "jaxcv LBFGS": lambda: of_jaxcv(problem, jaxcv.solvers.LBFGS()),
        "scipy L-BFGS-B": lambda: told(scipy_lbfgsb(problem)),
    }
    if problem.residual is not None:
        table["jaxcv least squares"] = lambda: of_jaxcv(problem, None)
        table["scipy trf"] = lambda: told(scipy_trf(problem))
    return table


def attempt(run) -> tuple[Outcome | None, str]:
    """The outcome, or None and the error of a solver that takes no bounds."""
    try:
        return run()
    except ValueError as error:
        return None, str(error).split(". ")[0]


def compared(problem) -> dict[str, dict[str, Any]]:
    """Method -> its record."""
    ends = {label: attempt(run) for label, run in methods(problem).items()}
    energy = lambda y: float(problem.energy(y, problem.theta))
    points = [end.value for end, _ in ends.values() if end is not None]
    best = min(points, key=energy)
    lower, upper = map(np.asarray, problem.bounds(problem.theta))
    records = {}
    for label, (end, message) in ends.items():
        if end is None:
            records[label] = {"message": message}
            continue
        inside = np.minimum(end.value - lower, upper - end.value)
        records[label] = {
            "energy": energy(end.value),
            "excess": (energy(end.value) - energy(best)) / abs(energy(best)),
            "distance": float(np.linalg.norm(end.value - best) / np.linalg.norm(best)),
            "evaluations": end.evaluations,
            "active": int(np.sum(inside <= NEAR * (1 + np.abs(end.value)))),
            "at_bound": int(np.sum(inside <= 0)),
            "claims": end.success,
            "message": message,
        }
    return records


def show(name, records):
    """Prints one problem."""
    print(f"\n{name}")
    for label, row in records.items():
        if "energy" not in row:
            print(f"  {label:20s} {row['message']}")
            continue
        print(
            f"  {label:20s} E {row['energy']:<20.13g} excess {row['excess']:8.1e}"
            f"  distance {row['distance']:7.1e}  evaluations {row['evaluations']:5d}"
            f"  active {row['active']} (exactly {row['at_bound']})  {row['message']}"
        )


@pytest.mark.benchmark
def test_bounds():
    with jax.enable_x64(True):
        table = {name: compared(problem) for name, problem in PROBLEMS.items()}
    for name, records in table.items():
        show(name, records)
    record = {"jax": jax.__version__, "scipy": scipy.__version__, "problems": table}
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "bounds.json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    for name, records in table.items():
        for label in ("jaxcv Newton", "jaxcv least squares"):
            assert records.get(label, {"excess": 0})["excess"] <= 1e-8, (name, label)
