"""Least-squares solvers on the regression problems of NIST: digits, evaluations, false claims.

JAXCV_REAL_DATA=DIR pytest -m benchmark tests/benchmarks/test_nist.py -s

Solves every file DIR/nist/*.dat from both official starts, and from 10 and 100 times their distance
to the certified values. Writes runs/benchmarks/nist.json and .png below the current folder. Every
peer gets the exact Jacobian and the settings that solve most problems. The peers of SciPy and lmfit
call compiled functions from Python; compilation is never timed. Evaluations are those of the
residual: Jacobians are not counted. Nothing here asserts a time.
"""

import json
import os
import pathlib
import platform
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv import argmin_least_squares
from tests.problems.nist import MODELS, Problem, digits, read

FOLDER = pathlib.Path("runs/benchmarks")
FACTORS = (1.0, 10.0, 100.0)
MAX_STEPS = 2000
SOLVED, PRECISE = 4, 6  # digits
STATIONARY = 1e-4  # largest cosine between the residual and a column of the Jacobian
TIGHT = {"ftol": 1e-15, "xtol": 1e-15, "gtol": 1e-15}


class Result(NamedTuple):
    """End point (n,), claim of success, and number of evaluations of the residual."""

    value: Any
    success: Any
    evaluations: Any


class Tools:
    """The residual of a problem and compiled functions on NumPy arrays."""

    def __init__(self, problem: Problem):
        model = MODELS[problem.name]
        self.problem = problem
        self.data = jnp.asarray(problem.x), jnp.asarray(problem.y)
        self.residual = lambda b, x, y: model(b, x) - y
        residual = jax.jit(self.residual).lower(problem.certified, *self.data).compile()
        jacobian = jax.jit(jax.jacfwd(self.residual)).lower(problem.certified, *self.data).compile()
        self.terms = lambda b: np.asarray(residual(np.asarray(b, float), *self.data))
        self.jacobian = lambda b: np.array(jacobian(np.asarray(b, float), *self.data))

    def compiled(self, solve: Callable) -> Callable:
        """`solve(start, x, y) -> Result`, compiled, as a function of a start (n,)."""
        call = jax.jit(solve).lower(self.problem.certified, *self.data).compile()
        return lambda start: jax.block_until_ready(call(start, *self.data))


def jaxcv_default(tools: Tools) -> Callable:
    residual = lambda b, theta, x, y: tools.residual(b, x, y)

    def solve(start, x, y):
        sol = argmin_least_squares(residual, start, (), (x, y))
        return Result(sol.value, sol.converged, sol.steps + 1)

    return tools.compiled(solve)


def scipy_row(**settings) -> Callable:
    """`scipy.optimize.least_squares` with the scale of the Jacobian's columns."""

    def make(tools: Tools) -> Callable:
        from scipy.optimize import least_squares

        settings_ = {"x_scale": "jac", "max_nfev": MAX_STEPS, **settings}

        def solve(start):
            try:
                sol = least_squares(tools.terms, start, jac=tools.jacobian, **settings_)
            except (ValueError, np.linalg.LinAlgError):  # values that are not finite
                return Result(start, False, 1)
            return Result(sol.x, sol.success, sol.nfev)

        return solve

    return make


def lmfit_leastsq(tools: Tools) -> Callable:
    """`lmfit.Minimizer.leastsq` with an exact Jacobian; propagating NaN solves most."""
    import lmfit

    array = lambda params: np.array([param.value for param in params.values()])

    def solve(start):
        params = lmfit.Parameters()
        for i, value in enumerate(start, 1):
            params.add(f"b{i}", float(value))
        fit = lmfit.Minimizer(
            lambda params: tools.terms(array(params)), params, nan_policy="propagate"
        )
        sol = fit.leastsq(
            max_nfev=MAX_STEPS,
            Dfun=lambda params: tools.jacobian(array(params)),
            ftol=TIGHT["ftol"],
            xtol=TIGHT["xtol"],
        )
        return Result(array(sol.params), sol.success, sol.nfev)

    return solve


def optimistix_row(kind: str) -> Callable:
    def make(tools: Tools) -> Callable:
        import optimistix

        solver = getattr(optimistix, kind)(rtol=1e-10, atol=1e-10)

        def solve(start, x, y):
            sol = optimistix.least_squares(
                lambda b, data: tools.residual(b, *data),
                solver,
                start,
                (x, y),
                max_steps=MAX_STEPS,
                throw=False,
            )
            success = sol.result == optimistix.RESULTS.successful
            return Result(sol.value, success, sol.stats["num_steps"] + 1)

        return tools.compiled(solve)

    return make


def jaxopt_lm(tools: Tools) -> Callable:
    """The best settings among QR, Cholesky, LU, both stopping rules, tolerances 1e-13 to 1e-3."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import jaxopt

    solver = jaxopt.LevenbergMarquardt(
        tools.residual,
        maxiter=MAX_STEPS,
        solver="qr",
        materialize_jac=True,
        stop_criterion="madsen-nielsen",
        xtol=1e-13,
        gtol=0.0,
    )

    def solve(start, x, y):
        sol = solver.run(start, x, y)
        steps, gradient_norm = sol.state.iter_num, sol.state.error
        # jaxopt makes no claim: success is a stop before the last step, with a finite gradient.
        success = (steps < MAX_STEPS) & jnp.isfinite(gradient_norm)
        return Result(sol.params, success, steps + 1)

    return tools.compiled(solve)


METHODS = {
    "jaxcv": jaxcv_default,
    "scipy lm": scipy_row(method="lm", **TIGHT),
    "scipy lm, default tol": scipy_row(method="lm"),
    "scipy trf": scipy_row(method="trf", **TIGHT),
    "scipy trf, default tol": scipy_row(method="trf"),
    "optimistix LM": optimistix_row("LevenbergMarquardt"),
    "optimistix Dogleg": optimistix_row("Dogleg"),
    "jaxopt LM": jaxopt_lm,
    "lmfit leastsq": lmfit_leastsq,
}


def is_stationary(tools: Tools, value: np.ndarray) -> bool:
    """True if the residual is orthogonal to the Jacobian's columns, as also on a plateau."""
    terms, jacobian = tools.terms(value), tools.jacobian(value)
    if not (np.all(np.isfinite(terms)) and np.all(np.isfinite(jacobian))):
        return False
    norms = np.linalg.norm(jacobian, axis=0) * np.linalg.norm(terms)
    cosines = np.abs(jacobian.T @ terms) / np.where(norms > 0, norms, 1)
    vanishes = np.linalg.norm(terms) < 1e-10 * np.linalg.norm(tools.problem.y)
    return bool(vanishes or np.max(cosines) < STATIONARY)


def same_sum(tools: Tools, value: np.ndarray) -> bool:
    """True if the certified residual sum is reached, e.g. with exponentials in another order."""
    terms = tools.terms(value)
    floor = 1e-20 * np.sum(tools.problem.y**2)  # of a fit without residual
    return bool(terms @ terms <= tools.problem.residual_sum * (1 + 1e-6) + floor)


def solve_all(paths: list[pathlib.Path]) -> list[dict[str, Any]]:
    """One record per problem, method, start and factor."""
    records = []
    for path in paths:
        tools = Tools(read(path))
        for name, make in METHODS.items():
            solve = make(tools)
            solve(tools.problem.certified)  # imports and compiles the rest
            for factor in FACTORS:
                for index in (0, 1):
                    start = tools.problem.start(index, factor)
                    begin = time.perf_counter()
                    result = solve(start)
                    seconds = time.perf_counter() - begin
                    value = np.asarray(result.value, float)
                    finite = bool(np.all(np.isfinite(value)))
                    records.append(
                        {
                            "problem": tools.problem.name,
                            "method": name,
                            "start": index + 1,
                            "factor": factor,
                            "digits": digits(value, tools.problem.certified),
                            "success": bool(result.success) and finite,
                            "evaluations": int(result.evaluations),
                            "seconds": seconds,
                            "same_sum": finite and same_sum(tools, value),
                            "stationary": finite and is_stationary(tools, value),
                        }
                    )
    return records


def select(records, **fields):
    """Records whose fields have these values."""
    return [r for r in records if all(r[key] == value for key, value in fields.items())]


def evaluation_ratio(ours, theirs):
    """Median ratio of our evaluations to theirs, over runs that both solve; None without any."""
    pairs = zip(ours, theirs, strict=True)
    both = [(a, b) for a, b in pairs if min(a["digits"], b["digits"]) >= SOLVED]
    ratios = [a["evaluations"] / b["evaluations"] for a, b in both]
    return float(np.median(ratios)) if ratios else None


def summary(records, factor):
    """Method -> its numbers over all problems and both starts."""
    ours = select(records, method="jaxcv", factor=factor)
    table = {}
    for name in METHODS:
        runs = select(records, method=name, factor=factor)
        wrong = [r for r in runs if r["success"] and r["digits"] < SOLVED]
        table[name] = {
            "runs": len(runs),
            "solved": sum(r["digits"] >= SOLVED for r in runs),
            "precise": sum(r["digits"] >= PRECISE for r in runs),
            "wrong": len(wrong),
            "wrong_same_sum": sum(r["same_sum"] for r in wrong),
            "wrong_not_stationary": sum(not r["stationary"] for r in wrong),
            "median_evaluations": float(np.median([r["evaluations"] for r in runs])),
            "our_evaluations_ratio": evaluation_ratio(ours, runs),
            "seconds": sum(r["seconds"] for r in runs),
        }
    return table


def show(table, factor):
    """Prints a summary."""
    print(f"\nstart at {factor:g} times the distance")
    print(
        f"{'':24s}{'runs':>6s}{'>= 4':>6s}{'>= 6':>6s}{'wrong':>7s}{'same sum':>10s}"
        f"{'not stat.':>11s}{'evaluations':>13s}{'ours / its':>12s}{'seconds':>9s}"
    )
    for name, row in table.items():
        ratio = row["our_evaluations_ratio"]
        print(
            f"{name:24s}{row['runs']:6d}{row['solved']:6d}{row['precise']:6d}{row['wrong']:7d}"
            f"{row['wrong_same_sum']:10d}{row['wrong_not_stationary']:11d}"
            f"{row['median_evaluations']:13.0f}{'-' if ratio is None else f'{ratio:.2f}':>12s}"
            f"{row['seconds']:9.2f}"
        )


def show_problems(records):
    """Prints digits / evaluations of every official start; ! marks a wrong claim of success."""
    print("\ndigits / evaluations, official starts; ! marks a claim of success with < 4 digits")
    names = [name.replace("scipy ", "").replace("default ", "")[:12] for name in METHODS]
    print(f"{'':12s}" + "".join(f"{name:>14s}" for name in names))
    for problem in dict.fromkeys(r["problem"] for r in records):
        for start in (1, 2):
            cells = []
            for run in select(records, problem=problem, start=start, factor=1.0):
                mark = "!" if run["success"] and run["digits"] < SOLVED else ""
                cells.append(f"{mark}{run['digits']:.1f} / {run['evaluations']}")
            print(f"{problem:10s}{start:2d}" + "".join(f"{cell:>14s}" for cell in cells))


STYLES = {  # marker and colour; default tolerances are dashed
    "jaxcv": ("o", "tab:blue"),
    "scipy lm": ("s", "tab:orange"),
    "scipy lm, default tol": ("s", "tab:orange"),
    "scipy trf": ("D", "tab:red"),
    "scipy trf, default tol": ("D", "tab:red"),
    "optimistix LM": ("^", "tab:green"),
    "optimistix Dogleg": ("v", "tab:olive"),
    "jaxopt LM": ("P", "tab:purple"),
    "lmfit leastsq": ("X", "tab:gray"),
}


def draw(tables):
    """Fractions of solved runs and of wrong claims against the distance of the start."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, (name, (marker, color)) in enumerate(STYLES.items()):
        style = {
            "marker": marker,
            "color": color,
            "ls": "--" if "default" in name else "-",
            "mfc": "none" if "default" in name else color,
            "lw": 3 if name == "jaxcv" else 1.5,
            "ms": 9 if name == "jaxcv" else 7,
            "label": name,
        }
        rows = [table[name] for table in tables.values()]
        factors = np.array(list(tables)) * 1.02 ** (i - len(STYLES) // 2)  # lines that coincide
        for ax, key in ((left, "solved"), (right, "wrong")):
            ax.plot(factors, [100 * row[key] / row["runs"] for row in rows], **style)
    runs = next(iter(tables.values()))["jaxcv"]["runs"]
    left.set(title=f"(a) solved to 4 digits, {runs} runs per point", ylabel="runs [%]")
    right.set(title="(b) success claimed with fewer than 4 digits", ylabel="runs [%]")
    for ax in (left, right):
        ax.set(xscale="log", xlabel="distance of the start from the certified values [x official]")
        ax.set_xticks(list(tables), [f"{factor:g}" for factor in tables])
        ax.minorticks_off()
        ax.set_ylim(-3, 103)
        ax.grid(alpha=0.3)
    left.legend(fontsize=9)
    return figure


@pytest.mark.benchmark
@pytest.mark.real_data
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_nist(real_data):
    for package in ("jaxopt", "lmfit", "matplotlib", "optimistix", "scipy"):
        pytest.importorskip(package)
    paths = sorted((real_data / "nist").glob("*.dat"))
    with jax.enable_x64(True), np.errstate(all="ignore"):
        records = solve_all(paths)
    tables = {factor: summary(records, factor) for factor in FACTORS}
    show_problems(records)
    for factor, table in tables.items():
        show(table, factor)
    record = {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "jax": jax.__version__,
        "summary": {f"{factor:g}": table for factor, table in tables.items()},
        "runs": records,
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "nist.json").write_text(json.dumps(record, indent=1) + "\n")
    draw(tables).savefig(FOLDER / "nist.png", dpi=120)
    ours = tables[1.0]["jaxcv"]
    assert ours["solved"] == ours["runs"]
    assert ours["wrong"] == 0
