"""Cost of tracing and compiling a minimiser with its gradient, beside optimistix.

pytest -m benchmark -s tests/benchmarks/test_compile.py

Each row is the first thing compiled in a fresh process: CPU seconds, and lines of StableHLO. Writes
runs/benchmarks/compile.json below the current folder. Nothing here asserts a time.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys

import pytest

FOLDER = pathlib.Path("runs/benchmarks")
REPEATS = 3
ROWS = {  # name -> (library, problem, unknowns, batched)
    "argmin, 2": ("argmin", 2, False),
    "argmin, 8": ("argmin", 8, False),
    "argmin, 64": ("argmin", 64, False),
    "argmin, arrow of 66": ("arrow", 64, False),
    "argmin, 2, vmap": ("argmin", 2, True),
    "optimistix BFGS, 2": ("bfgs", 2, False),
    "optimistix BFGS, 8": ("bfgs", 8, False),
    "optimistix BFGS, 64": ("bfgs", 64, False),
    "optimistix BFGS, 2, vmap": ("bfgs", 2, True),
    "argmin_least_squares, 2": ("squares", 2, False),
    "argmin_least_squares, 8": ("squares", 8, False),
    "optimistix LM, 2": ("lm", 2, False),
    "optimistix LM, 8": ("lm", 8, False),
}

SCRIPT = """
import json, sys, time
import jax, jax.numpy as jnp

kind, n, batched = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "True"
chain = lambda y, t: jnp.concatenate([1 - y[:-1], 10 * (y[1:] - y[:-1] ** 2), t * y])
energy = lambda y, t: 0.5 * jnp.sum(chain(y, t) ** 2)
arrow = lambda y, t: jnp.sum(jnp.cosh(y["z"] - t - y["p"][0])) + jnp.sum((y["p"] - 1) ** 2)
y0, theta = jnp.full(n, -1.2), jnp.linspace(0.1, 0.2, n)
if kind in ("bfgs", "lm"):
    import optimistix
    find, function, solver = optimistix.minimise, energy, optimistix.BFGS(1e-5, 1e-5)
    if kind == "lm":
        find, function = optimistix.least_squares, chain
        solver = optimistix.LevenbergMarquardt(1e-5, 1e-5)
    solve = lambda t: find(function, solver, y0, t, throw=False, max_steps=256).value
else:
    import jaxcv
    from jaxcv.linear import Arrow
    start = {"z": y0, "p": jnp.zeros(2)}
    solve = {
        "argmin": lambda t: jaxcv.argmin(energy, y0, t).value,
        "squares": lambda t: jaxcv.argmin_least_squares(chain, y0, t).value,
        "arrow": lambda t: jaxcv.argmin(arrow, start, t, linear=Arrow("z", "p")).value["z"],
    }[kind]
loss = lambda t: jnp.sum(solve(t))
if batched:
    theta = jnp.stack([theta] * 4)
    loss = lambda t: jnp.sum(jax.vmap(solve)(t))
jax.block_until_ready(jnp.ones(3) + 1)
begin = time.process_time()
lowered = jax.jit(jax.value_and_grad(loss)).lower(theta)
traced = time.process_time()
lowered.compile()
end = time.process_time()
lines = len(lowered.as_text().splitlines())
print(json.dumps([traced - begin, end - traced, lines]))
"""


@pytest.mark.benchmark
def test_compile_time():
    pytest.importorskip("optimistix")
    root = str(pathlib.Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "JAX_DISABLE_MOST_OPTIMIZATIONS": "false"}
    table = {}
    print(f"\n{'':28s}{'trace [s]':>12s}{'compile [s]':>12s}{'sum [s]':>10s}{'lines':>8s}")
    for name, arguments in ROWS.items():
        command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
        runs = []
        for _ in range(REPEATS):
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            assert done.returncode == 0, done.stderr
            runs.append(json.loads(done.stdout))
        trace, compiled, lines = (statistics.median(column) for column in zip(*runs, strict=True))
        table[name] = {"trace_s": trace, "compile_s": compiled, "lines": lines}
        print(f"{name:28s}{trace:12.2f}{compiled:12.2f}{trace + compiled:10.2f}{lines:8d}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "compile.json").write_text(json.dumps(table, indent=1) + "\n")
