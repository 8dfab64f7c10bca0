"""The solvers of jaxcv beside scipy's and optimistix' on published test problems, in float64.

pytest -m benchmark tests/benchmarks/test_problem_sets.py -s

Prints correct digits, evaluations and outcome of every method on every problem, then a summary;
writes runs/benchmarks/problem_sets.json. Evaluations:

| method            | counts                                                    |
|-------------------|-----------------------------------------------------------|
| jaxcv             | `Solution.steps`, the start and rejected steps included   |
| scipy lm, trf     | nfev; every accepted point has one Jacobian more          |
| scipy BFGS, ...   | nfev, each with its gradient; trust-exact nhev Hessians   |
| optimistix        | num_steps, rejected steps included                        |

scipy's methods run to tight tolerances, so `needed` counts only the evaluations up to the first
energy with six digits. It is unknown, and null, for optimistix.
"""

import json
import pathlib
import statistics
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jaxcv
from tests.problems import minimisation, more_garbow_hillstrom
from tests.problems.accuracy import SOLVED, digits, nature
from tests.problems.cases import CASES, Case, solve

FOLDER = pathlib.Path("runs/benchmarks")
MINIMISERS = {  # tolerances that double precision can just meet on well-scaled problems
    "scipy BFGS": ("BFGS", {"gtol": 1e-10, "maxiter": 10000}),
    "scipy L-BFGS-B": (
        "L-BFGS-B",
        {"gtol": 1e-10, "ftol": 1e-16, "maxiter": 10000, "maxfun": 20000},
    ),
    "scipy trust-exact": ("trust-exact", {"gtol": 1e-10, "maxiter": 2000}),
}
COMPARISONS = {
    "jaxcv Newton": ("scipy trust-exact", "scipy BFGS"),
    "jaxcv LBFGS": ("scipy L-BFGS-B", "scipy BFGS"),
    "jaxcv least squares": ("scipy lm", "scipy trf", "optimistix LM"),
}
HISTORY = 2000  # number of steps whose energies are kept; no solver takes more
SMALL = 12  # unknowns of the small problems, which have a summary of their own
SYMBOLS = {"listed": "*", "minimum": "m", "saddle": "s", "none": " "}


class Functions(NamedTuple):
    """Compiled functions of one problem, on NumPy arrays; `residual` is None where it has none."""

    energy: Callable
    gradient: Callable
    hessian: Callable
    residual: Callable | None
    jacobian: Callable | None
    start: np.ndarray
    minima: tuple[float, ...]
    start_energy: float


class Outcome(NamedTuple):
    """The result of a method: point, counts, claimed convergence and message."""

    value: Any
    evaluations: int
    converged: bool
    message: str
    gradients: int | None = None
    hessians: int | None = None
    needed: int | None = None


def functions(case: Case) -> Functions:
    """The compiled functions of a problem."""
    value, residual = jax.jit(case.energy), case.residual
    on_arrays = lambda function: lambda y: np.asarray(function(y))
    return Functions(
        lambda y: float(value(y)),
        on_arrays(jax.jit(jax.grad(case.energy))),
        on_arrays(jax.jit(jax.hessian(case.energy))),
        residual and on_arrays(jax.jit(residual)),
        residual and on_arrays(jax.jit(jax.jacfwd(residual))),
        case.start,
        case.minima,
        float(value(case.start)),
    )


class Counter:
    """Counts calls of an energy or residual, and notes the first one with six digits."""

    def __init__(self, function, f: Functions):
        self.function, self.f, self.count, self.needed = function, f, 0, None

    def __call__(self, y):
        self.count += 1
        result = self.function(y)
        if self.needed is None:
            energy = np.sum(result**2) / 2 if np.ndim(result) else result
            if digits(energy, self.f.start_energy, self.f.minima) >= SOLVED:
                self.needed = self.count
        return result


def of_jaxcv(problem, method: str) -> Outcome:
    """`argmin` or `argmin_least_squares`."""
    end = solve(method, problem.name, HISTORY)
    message = jaxcv.Status.message(int(end["status"]))
    first, minima = float(end["start_energy"]), CASES[problem.name].minima
    solved = [digits(energy, first, minima) >= SOLVED for energy in end["energies"]]
    return Outcome(
        end["value"],
        int(end["steps"]),
        bool(end["converged"]),
        message,
        needed=solved.index(True) + 1 if any(solved) else None,
    )


def of_scipy(f: Functions, method: str, options: dict) -> Outcome:
    """`scipy.optimize.minimize` with exact derivatives."""
    energy = Counter(f.energy, f)
    hessian = f.hessian if method == "trust-exact" else None
    end = scipy.optimize.minimize(
        energy, f.start, jac=f.gradient, hess=hessian, method=method, options=options
    )
    nhev = int(end.nhev) if hessian else None
    return Outcome(
        end.x,
        int(end.nfev),
        bool(end.success),
        str(end.message),
        int(end.njev),
        nhev,
        energy.needed,
    )


def of_scipy_least_squares(f: Functions, method: str) -> Outcome:
    """`scipy.optimize.least_squares` with exact Jacobians and its scaling by their columns."""
    residual = Counter(f.residual, f)
    tight = dict.fromkeys(("xtol", "ftol", "gtol"), 1e-14)
    end = scipy.optimize.least_squares(
        residual, f.start, f.jacobian, method=method, x_scale="jac", max_nfev=5000, **tight
    )
    gradients = None if end.njev is None else int(end.njev)
    return Outcome(
        end.x, int(end.nfev), bool(end.success), str(end.message), gradients, None, residual.needed
    )


def of_optimistix(problem) -> Outcome:
    """`optimistix.LevenbergMarquardt`."""
    optimistix = pytest.importorskip("optimistix")
    solver = optimistix.LevenbergMarquardt(rtol=1e-10, atol=1e-12)
    end = optimistix.least_squares(
        lambda y, _: problem.residual(y),
        solver,
        jnp.asarray(problem.start),
        max_steps=2000,
        throw=False,
    )
    converged = bool(end.result == optimistix.RESULTS.successful)
    message = "converged" if converged else "not converged"
    return Outcome(np.asarray(end.value), int(end.stats["num_steps"]), converged, message)


def methods(problem, f: Functions) -> dict[str, Callable[[], Outcome]]:
    """Every method that fits the problem."""
    table = {}
    if f.residual is not None:
        table["jaxcv least squares"] = lambda: of_jaxcv(problem, "least_squares")
    table["jaxcv Newton"] = lambda: of_jaxcv(problem, "newton")
    table["jaxcv LBFGS"] = lambda: of_jaxcv(problem, "lbfgs")
    if f.residual is not None:
        table["scipy lm"] = lambda: of_scipy_least_squares(f, "lm")
        table["scipy trf"] = lambda: of_scipy_least_squares(f, "trf")
        table["optimistix LM"] = lambda: of_optimistix(problem)
    for label, (method, options) in MINIMISERS.items():
        table[label] = lambda method=method, options=options: of_scipy(f, method, options)
    return table


def judged(f: Functions, outcome: Outcome) -> dict[str, Any]:
    """The record of one method on one problem."""
    y = outcome.value
    value, gradient = f.energy(y), f.gradient(y)
    norm = float(np.linalg.norm(gradient))
    record = {
        "energy": value,
        "digits": digits(value, f.start_energy, f.minima),
        "nature": nature(value, gradient, f.hessian(y), f.start_energy, f.minima),
        "gradient_norm": norm,
        **outcome._asdict(),
    }
    del record["value"]
    finite = lambda x: None if isinstance(x, float) and not np.isfinite(x) else x
    return {key: finite(entry) for key, entry in record.items()}


def attempt(f: Functions, run: Callable[[], Outcome]) -> dict[str, Any]:
    """The record, with the message of an error if one was raised."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return judged(f, run())
        except (ValueError, FloatingPointError, np.linalg.LinAlgError, RuntimeError) as error:
            kept = {"digits": 0.0, "evaluations": None, "needed": None, "nature": "none"}
            return {**kept, "converged": False, "message": f"{type(error).__name__}: {error}"}


def show_header(title: str, labels: list[str]) -> None:
    """Prints the first lines of a table."""
    print(f"\n{title}: digits, evaluations; * listed minimum, m other, s saddle; c says converged")
    print(f"{'':27s}" + "".join(f"{label.replace('scipy ', ''):>20s}" for label in labels))


def show(name: str, row: dict[str, dict]) -> None:
    """Prints one problem."""
    text = ""
    for entry in row.values():
        flags = SYMBOLS[entry["nature"]] + ("c" if entry["converged"] else " ")
        evaluations = "-" if entry["evaluations"] is None else entry["evaluations"]
        text += f"{entry['digits']:9.1f}{evaluations:>8}{flags:>3s}"
    print(f"{name:27s}{text}", flush=True)
    for label, entry in row.items():
        if label.startswith("jaxcv") and not entry["converged"]:
            print(f"    {label}: {entry['message']}")


def summary(table: dict[str, dict[str, dict]]) -> dict[str, dict]:
    """Per method: problems solved, claims, false claims, and evaluations against the peers'.

    A claim is false where the result is a saddle or no stationary point. `ratio/<peer>` is the
    median ratio of evaluations over problems that both solve, `ratio_needed/<peer>` that of
    `needed`.
    """
    result = {}
    for label in next(iter(table.values())):
        rows = {name: row[label] for name, row in table.items()}
        claims = [name for name, row in rows.items() if row["converged"]]
        result[label] = {
            "problems": len(rows),
            "solved": sum(row["digits"] >= SOLVED for row in rows.values()),
            "claims": len(claims),
            "other_minima": [name for name in claims if rows[name]["nature"] == "minimum"],
            "false_claims": [n for n in claims if rows[n]["nature"] in ("saddle", "none")],
        }
        for peer in COMPARISONS.get(label, ()):
            if peer not in next(iter(table.values())):
                continue
            both = [row for row in table.values() if row[label]["digits"] >= SOLVED]
            both = [row for row in both if row[peer]["digits"] >= SOLVED]
            for key, count in (("ratio", "evaluations"), ("ratio_needed", "needed")):
                ratios = [
                    row[label][count] / row[peer][count]
                    for row in both
                    if row[label][count] and row[peer][count]
                ]
                if ratios:
                    result[label][f"{key}/{peer}"] = statistics.median(ratios)
    return result


def show_summary(title: str, rows: dict[str, dict]) -> None:
    """Prints the summary of one set."""
    print(f"\n{title}")
    for label, row in rows.items():
        solved = f"{row['solved']}/{row['problems']} solved, {row['claims']} claims"
        false = f", false: {row['false_claims']}" if row["false_claims"] else ""
        other = f", other minima: {row['other_minima']}" if row["other_minima"] else ""
        print(f"{label:22s}{solved}{false}{other}")
        for key, value in row.items():
            if key.startswith("ratio"):
                print(f"{'':24s}{key} {value:.2f}")


@pytest.mark.benchmark
def test_problem_sets():
    pytest.importorskip("optimistix")
    sets = {
        "more_garbow_hillstrom": more_garbow_hillstrom.PROBLEMS,
        "minimisation": minimisation.PROBLEMS,
    }
    record = {"jax": jax.__version__, "scipy": scipy.__version__, "problems": {}, "summary": {}}
    with jax.enable_x64(True):
        for title, problems in sets.items():
            table = {}
            for name, problem in problems.items():
                f = functions(CASES[name])
                runs = methods(problem, f)
                if not table:
                    show_header(title, list(runs))
                table[name] = {label: attempt(f, run) for label, run in runs.items()}
                show(name, table[name])
            record["problems"][title] = table
            record["summary"][title] = summary(table)
            show_summary(title, record["summary"][title])
            few = {name: row for name, row in table.items() if problems[name].n <= SMALL}
            record["summary"][f"{title}, n <= {SMALL}"] = summary(few)
            show_summary(f"{title}, n <= {SMALL}", summary(few))
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "problem_sets.json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    # If no method reaches a listed minimum, the problem is wrong.
    for table in record["problems"].values():
        for name, row in table.items():
            assert max(entry["digits"] for entry in row.values()) >= SOLVED, name
