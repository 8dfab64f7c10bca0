"""Error of a gradient through a minimiser, against tolerance and conditioning.

pytest -m benchmark tests/benchmarks/test_accuracy.py

Writes runs/benchmarks/accuracy.json and .png below the current folder.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv import Damping, argmin
from jaxcv.solvers import Newton
from tests.benchmarks.peers import jaxopt_row, optimistix_row
from tests.benchmarks.problems import BenchmarkProblem
from tests.helpers import UNDAMPED, relative_error

FOLDER = pathlib.Path("runs/benchmarks")
N, POINTS = 8, 40
TOLERANCES = [1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-8, 1e-10]
CONDITIONS = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5]
LAMBDAS = [0.0, 1e-3, 1e-2, 0.1]
ORDERS = [1, 4, 8]


def energy(y, theta, design):
    """Mean pseudo-Huber regression of y (n,); the Hessian's largest eigenvalue is about 1."""
    return jnp.mean(jnp.sqrt(1 + (design @ y - theta) ** 2) - 1)


def problem(condition):
    """y0, theta, data for a design whose Hessian at zero residual has this condition."""
    rng = np.random.default_rng(0)
    left, _ = np.linalg.qr(rng.normal(size=(POINTS, N)))
    right, _ = np.linalg.qr(rng.normal(size=(N, N)))
    design = POINTS**0.5 * (left * np.geomspace(1, condition**-0.5, N)) @ right
    theta = design @ rng.normal(size=N) + 0.5 * rng.normal(size=POINTS)
    return jnp.zeros(N), jnp.asarray(theta), (jnp.asarray(design),)


def gradient(minimise, y0, theta, data):
    """The gradient of sum(sin(y*)) in theta (m,)."""
    one = BenchmarkProblem("accuracy", energy, y0, theta, data, batched=False)
    loss = lambda theta: jnp.sum(jnp.sin(minimise(one, y0, theta, data)))
    return jax.jit(jax.grad(loss))(theta)


def ours(damping=UNDAMPED, tolerance=None):
    """The minimiser of a row of jaxcv."""
    return lambda problem, y0, theta, data: (
        argmin(energy, y0, theta, data, solver=Newton(tolerance), damping=damping).value
    )


def draw(record):
    """Plots the error against tolerance, and against conditioning."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 5.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (name, errors), style in zip(record["tolerance"].items(), ("o-", "s--", "^:"), strict=True):
        left.plot(TOLERANCES, np.maximum(errors, 1e-16), style, label=name)
    left.set(xlabel="stopping tolerance", title="condition 100, no damping")
    left.invert_xaxis()
    colors = dict(zip(LAMBDAS, ("k", "tab:green", "tab:blue", "tab:red"), strict=True))
    styles = dict(zip(ORDERS, ("-", "--", ":"), strict=True))
    for lam in LAMBDAS:
        for order in ORDERS if lam else ORDERS[:1]:
            errors = np.maximum(record["condition"][f"{lam:g}, {order}"], 1e-16)
            label = f"$\\lambda$={lam:g}" + (f", order {order}" if lam else "")
            right.plot(CONDITIONS, errors, styles[order], color=colors[lam], label=label)
    for name, marker in (("jaxopt", "x"), ("optimistix", "+")):
        errors = np.maximum(record["condition"][name], 1e-16)
        right.plot(CONDITIONS, errors, marker, color="tab:gray", ms=9, label=f"{name}, tol. 1e-6")
    right.set(xlabel="condition of the Hessian", title="largest eigenvalue about 1")
    for ax in (left, right):
        ax.set(xscale="log", yscale="log", ylabel="relative error of the gradient")
        ax.grid(alpha=0.3)
    left.legend(fontsize=8)
    right.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


@pytest.mark.benchmark
def test_accuracy():
    pytest.importorskip("optimistix")
    peers = {
        "jaxopt": lambda tolerance: jaxopt_row("LBFGS", tolerance, "solve_cg", maxiter=1000),
        "optimistix": lambda tolerance: optimistix_row("BFGS", tolerance),
    }
    with jax.enable_x64(True):
        record = {"tolerance": {"jaxcv newton": []}, "condition": {}}
        record["tolerance"] |= {name: [] for name in peers}
        setting = problem(100.0)
        exact = gradient(ours(), *setting)
        for tolerance in TOLERANCES:
            rows = {"jaxcv newton": ours(tolerance=tolerance)}
            rows |= {name: make(tolerance) for name, make in peers.items()}
            for name, row in rows.items():
                record["tolerance"][name].append(relative_error(gradient(row, *setting), exact))
        for condition in CONDITIONS:
            setting = problem(condition)
            exact = gradient(ours(), *setting)
            rows = {name: make(1e-6) for name, make in peers.items()}
            rows |= {
                f"{lam:g}, {order}": ours(Damping(lam, order=order))
                for lam in LAMBDAS
                for order in (ORDERS if lam else ORDERS[:1])
            }
            for name, row in rows.items():
                error = relative_error(gradient(row, *setting), exact)
                record["condition"].setdefault(name, []).append(error)
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "accuracy.json").write_text(json.dumps(record, indent=1) + "\n")
    draw(record).savefig(FOLDER / "accuracy.png", dpi=120)
    # The error of y*, at most the tolerance, is multiplied by the condition.
    errors = np.asarray(record["tolerance"]["jaxcv newton"])
    assert np.all(errors <= 100 * np.asarray(TOLERANCES))
    assert errors[-1] < 1e-9
    worst = np.max([record["condition"]["0, 1"]])
    assert worst < 1e-6
    # Order k is never worse than order 1 at the same lambda.
    for lam in LAMBDAS[1:]:
        first = np.asarray(record["condition"][f"{lam:g}, 1"])
        for order in ORDERS[1:]:
            assert np.all(np.asarray(record["condition"][f"{lam:g}, {order}"]) <= first)
