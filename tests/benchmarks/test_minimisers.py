"""Times of jaxcv's solvers beside jaxopt's and optimistix's, in one process.

pytest -m benchmark tests/benchmarks

Writes runs/benchmarks/minimisers.json and .png below the current folder. Compare ratios: absolute
times are those of the machine. Nothing here asserts a time.
"""

import json
import pathlib
import platform

import jax
import numpy as np
import pytest

from tests.benchmarks.measure import measure
from tests.benchmarks.peers import rows
from tests.benchmarks.problems import PROBLEMS

FOLDER = pathlib.Path("runs/benchmarks")


def draw(results):
    """Time of forward and backward against the gradient's error, one panel a problem."""
    figure_module = pytest.importorskip("matplotlib.figure")
    figure = figure_module.Figure(figsize=(5.5 * len(results), 5), layout="constrained")
    axes = figure.subplots(1, len(results), squeeze=False)[0]
    for ax, (name, table) in zip(axes, results.items(), strict=True):
        for label, row in table.items():
            ours = label.startswith("jaxcv")
            ax.plot(
                row["forward_backward_ms"],
                row["gradient_error"],
                "o" if ours else "x",
                color="tab:blue" if ours else "tab:gray",
                ms=9,
            )
            ax.annotate(
                label,
                (row["forward_backward_ms"], row["gradient_error"]),
                textcoords="offset points",
                xytext=(6, 4),
                fontsize=7,
            )
        ax.set(
            xscale="log",
            yscale="log",
            xlabel="forward and backward [ms]",
            ylabel="relative error of the gradient",
            title=f"problem {name}: lower left is better",
        )
        ax.margins(0.25)
        ax.grid(alpha=0.3)
    figure.savefig(FOLDER / "minimisers.png", dpi=120)


@pytest.mark.benchmark
def test_minimisers():
    pytest.importorskip("optimistix")
    results = {}
    for name, make in PROBLEMS.items():
        problem = make()
        results[name] = {label: measure(problem, run) for label, run in rows().items()}
        header = list(next(iter(results[name].values())))
        print(f"\n{name:32s}" + "".join(f"{column:>20s}" for column in header))
        for label, row in results[name].items():
            print(f"{label:32s}" + "".join(f"{value:20.3g}" for value in row.values()))
        # What the times are worth nothing without.
        assert results[name]["jaxcv newton"]["gradient_error"] < 1e-5
        assert np.isfinite([list(row.values()) for row in results[name].values()]).all()
    FOLDER.mkdir(parents=True, exist_ok=True)
    device = jax.devices()[0]
    record = {
        "machine": f"{platform.machine()}, {device.platform} {device.device_kind}",
        "jax": jax.__version__,
        "problems": results,
    }
    (FOLDER / "minimisers.json").write_text(json.dumps(record, indent=1) + "\n")
    draw(results)
