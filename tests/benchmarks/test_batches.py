"""Cost of the finished problems of a batch while the slowest continues.

pytest -m benchmark tests/benchmarks/test_batches.py -s

Under `jax.vmap` every step evaluates all problems, and those that have finished are frozen. Prints,
and writes to runs/benchmarks/batches.json, for 256 problems of one unknown and 64 regressions:

  vmap     the time of the batch, and the steps of its problems
  own      vmap x (mean steps / most steps): the time if each problem stopped at its own count
  two-stage at k: k steps for all, then the unfinished ones gathered into a smaller batch

A second stage restarts from the points of the first, without its curvature or trust region. The
vmap is timed again beside every pair of stages. Newton's limit does not count the warm start; if
all problems finish within the limit, there is no second stage. Nothing here asserts a time.
"""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv import argmin, solvers
from tests.benchmarks.measure import seconds_per_call
from tests.benchmarks.problems import bumps, regressions

FOLDER = pathlib.Path("runs/benchmarks")
SOLVERS = {"newton": solvers.Newton(), "lbfgs": solvers.LBFGS()}
QUANTILES = (0.5, 0.75, 0.9)  # of the steps: the limits of the first stage
MULTIPLE = 8  # the size of the second batch is padded to it


def batch(problem, solver):
    """(y0, data) -> `Solution` of all problems."""
    one = lambda y0, *data: argmin(problem.energy, y0, problem.theta, data, solver=solver)
    return lambda y0, data: jax.vmap(one)(y0, *data)


def two_stages(problem, solver, steps, size):
    """(y0, data) -> (values, converged): the second batch has `size` problems."""
    first = batch(problem, dataclasses.replace(solver, max_steps=steps))
    second = batch(problem, solver)

    def solve(y0, data):
        begun = first(y0, data)
        # Padding repeats problem 0, whose result is dropped.
        rest = jnp.nonzero(~begun.converged, size=size, fill_value=len(y0))[0]
        index = jnp.where(rest < len(y0), rest, 0)
        ended = second(begun.value[index], jax.tree.map(lambda x: x[index], data))
        put = lambda old, new: old.at[rest].set(new, mode="drop")
        return put(begun.value, ended.value), put(begun.converged, ended.converged)

    return solve


def compared(problem, solver):
    """The record of one solver on one batch."""
    arguments = jnp.asarray(problem.y0), problem.data
    whole = jax.jit(batch(problem, solver))
    solution = whole(*arguments)
    steps = np.asarray(solution.steps)
    record = {
        "problems": len(steps),
        "converged": int(np.sum(solution.converged)),
        "steps": {"mean": float(steps.mean()), "median": float(np.median(steps))},
        "vmap_ms": 1e3 * seconds_per_call(whole, *arguments),
        "two_stages": [],
    }
    record["steps"]["most"] = int(steps.max())
    record["own_ms"] = record["vmap_ms"] * steps.mean() / steps.max()
    for limit in sorted({int(np.quantile(steps, quantile)) for quantile in QUANTILES}):
        begun = jax.jit(batch(problem, dataclasses.replace(solver, max_steps=limit)))(*arguments)
        left = int(np.sum(~begun.converged))
        size = min(MULTIPLE * -(-left // MULTIPLE), len(steps))
        if size == 0:
            continue
        run = jax.jit(two_stages(problem, solver, limit, size))
        values, converged = run(*arguments)
        record["two_stages"].append(
            {
                "k": limit,
                "left": left,
                "second_batch": size,
                "ms": 1e3 * seconds_per_call(run, *arguments),
                "vmap_ms": 1e3 * seconds_per_call(whole, *arguments),
                "converged": int(np.sum(converged)),
                "difference": float(np.max(np.abs(values - solution.value))),
            }
        )
    return record


def show(name, record):
    """Prints one record."""
    steps = record["steps"]
    print(
        f"\n{name}: {record['converged']}/{record['problems']} converged, steps"
        f" mean {steps['mean']:.1f}, median {steps['median']:.0f}, most {steps['most']}"
    )
    print(f"  vmap {record['vmap_ms']:.2f} ms; own counts {record['own_ms']:.2f} ms")
    for row in record["two_stages"]:
        ratio = row["ms"] / row["vmap_ms"]
        pays = "pays" if ratio < 1 else "does not pay"
        print(
            f"  two stages, k = {row['k']:3d}: {row['left']} left in {row['second_batch']},"
            f" {row['ms']:.2f} ms ({ratio:.2f} of vmap, {pays}),"
            f" {row['converged']} converged, values differ by {row['difference']:.1e}"
        )


@pytest.mark.benchmark
def test_batches():
    table = {}
    for problem in (bumps(), regressions()):
        for label, solver in SOLVERS.items():
            name = f"{problem.name} {label}"
            table[name] = compared(problem, solver)
            show(name, table[name])
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "batches.json").write_text(json.dumps(table, indent=1, allow_nan=False) + "\n")
    for record in table.values():
        assert all(row["converged"] >= record["converged"] - 1 for row in record["two_stages"])
