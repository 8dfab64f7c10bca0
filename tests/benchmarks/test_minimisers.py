"""jaxcv beside jaxopt, optimistix, scipy and JAX's own scans, in one process.

pytest -m benchmark tests/benchmarks

Writes runs/benchmarks/benchmarks.json and .png below the current folder. Compare ratios: absolute
times are those of the machine. Nothing here asserts a time.
"""

import json
import os
import pathlib
import platform
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests.benchmarks.figure import draw
from tests.benchmarks.measure import measure
from tests.benchmarks.peers import rows
from tests.benchmarks.photometric import stereo
from tests.benchmarks.problems import PROBLEMS
from tests.benchmarks.unrolling import unrolling

FOLDER = pathlib.Path("runs/benchmarks")
LIMIT = 60  # seconds that one solve and its compilation may take
SUSPECT = ("Newton", "LM", "unrolled", "2000")  # words in names of rows to try apart first

TRIAL = """
import sys, jax
from tests.benchmarks.peers import rows
from tests.benchmarks.problems import PROBLEMS
problem = PROBLEMS[sys.argv[1]]()
loss = problem.loss(rows(problem)[sys.argv[2]])
jax.block_until_ready(jax.jit(jax.value_and_grad(loss, has_aux=True))(problem.theta))
"""


def finishes(problem, row):
    """True if a row finishes within `LIMIT` seconds in its own process, or is not in SUSPECT."""
    if row.startswith("jaxcv") or not any(word in row for word in SUSPECT):
        return True
    root = str(pathlib.Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    try:
        command = [sys.executable, "-c", TRIAL, problem, row]
        subprocess.run(command, timeout=LIMIT, check=True, capture_output=True, env=environment)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        return False
    return True


def show(name, table):
    """Prints a table, one line per row."""
    header = list(next(row for row in table.values() if row))
    print(f"\n{name:32s}" + "".join(f"{column:>20s}" for column in header))
    for label, row in table.items():
        text = "".join(f"{value:20.3g}" for value in row.values())
        print(f"{label:32s}" + (text or f"  not finished in {LIMIT} s, or an error"))


@pytest.mark.benchmark
def test_minimisers():
    pytest.importorskip("optimistix")
    problems = {}
    for name, make in PROBLEMS.items():
        problem = make()
        table = problems[name] = {}
        for label, run in rows(problem).items():
            table[label] = measure(problem, run) if finishes(name, label) else {}
        show(name, table)
    device = jax.devices()[0]
    record = {
        "machine": f"{platform.machine()}, {device.platform} {device.device_kind}",
        "jax": jax.__version__,
        "problems": problems,
        "stereo": stereo(),
        "unrolling": unrolling(),
    }
    print("\nstereo", json.dumps(record["stereo"], indent=1))
    show("unrolling", record["unrolling"])
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "benchmarks.json").write_text(json.dumps(record, indent=1) + "\n")
    draw(record).savefig(FOLDER / "benchmarks.png", dpi=120)
    # Without these the times mean nothing.
    for name, row in (("a", "newton"), ("b", "newton"), ("c", "levenberg_marquardt")):
        ours = problems[name]["jaxcv " + row]
        assert ours["gradient_error"] < 1e-5
        assert ours["certified"] == 1
    assert record["stereo"]["solve_difference"] < 1e-9
    for row in record["unrolling"].values():
        assert row["difference_45"] < 1e-4
    assert np.isfinite(record["stereo"]["energy"])
