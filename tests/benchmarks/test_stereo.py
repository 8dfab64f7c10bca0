"""Two-view stereo: iterations of LS-Net and of Levenberg-Marquardt, by size of the problem.

pytest -m benchmark tests/benchmarks/test_stereo.py

The LS-Net paper states 532 ms for the sparse inverse of one Levenberg-Marquardt iteration at 128 x
96 and 25 ms for a pass of LS-Net, on unnamed hardware. Temporary memory is XLA's, for 15 iterations
and, in training, for their gradient by `unrolled_solve` and by a plain scan. Prints one table;
nothing here asserts a time.
"""

import functools
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from experiments.monocular_stereo.config import SIZES
from jaxcv.data.synthetic.stereo import generate_pairs
from jaxcv.systems import stereo as system
from jaxcv.systems.stereo_marquardt import StereoMarquardt, solve_stereo_by_marquardt
from tests.benchmarks.measure import seconds_per_call
from tests.benchmarks.photometric import stereo as sparse_against_arrow
from tests.helpers import relative_error

FOLDER = pathlib.Path("runs/benchmarks")
PROBLEMS = {"small": (24, 32), "medium": (48, 64), "large": (96, 128)}  # unknown depths
STEPS = 15


def plain_scan(step, state, theta, data, *, num_steps):
    """The same as `unrolled_solve`, by automatic differentiation of a scan."""

    def one(state, _):
        state = step(state, theta, *data)
        return state, state

    return jax.lax.scan(one, state, None, length=num_steps)[1]


def iteration_ms(run):
    """Time [ms] of one step of `run(num_steps)`, from the difference of 16 steps and 1."""
    long, short = (jax.jit(functools.partial(run, k)) for k in (16, 1))
    return 1e3 * (seconds_per_call(long, repeats=7) - seconds_per_call(short, repeats=7)) / 15


def lsnet(params, views, start, network, num_steps):
    return system.solve_stereo(params, views, start, network._replace(num_steps=num_steps))


def temp_megabytes(function, *args):
    memory: Any = jax.jit(function).lower(*args).compile().memory_analysis()
    return memory.temp_size_in_bytes / 1e6


@pytest.mark.benchmark
def test_stereo(monkeypatch):
    out: dict[str, Any] = {}
    for problem, (height, width) in PROBLEMS.items():
        pairs = generate_pairs(jax.random.key(0), 1, (4 * height, 4 * width))
        for residual in ("grey", "rgb"):
            views = system.quarter_views(
                pairs.target, pairs.source[:, None], pairs.intrinsics, residual, True
            )
            z = jnp.full((1, height, width), 0.05)
            start = system.StereoEstimate(z, jnp.asarray(pairs.motion)[:, None])
            settings = StereoMarquardt(prior_weight=1.0)
            run = lambda k: solve_stereo_by_marquardt(views, start, settings, num_steps=k)  # noqa: B023
            out[f"{problem}/lm_{residual}/ms_an_iteration"] = iteration_ms(run)
            out[f"{problem}/lm_{residual}/temp_MB"] = temp_megabytes(lambda: run(STEPS))  # noqa: B023
        for size, encoding in (
            ("small", "gauss_newton"),
            ("cpu", "gradient"),
            ("paper", "gradient"),
        ):
            network = system.StereoNetwork(size=SIZES[size], encoding=encoding)
            params = system.init_stereo_network(jax.random.key(0), network)
            solve = functools.partial(lsnet, params, views, start, network)
            name = f"{problem}/lsnet_{size}"
            out[f"{name}/temp_MB"] = temp_megabytes(functools.partial(solve, STEPS))
            if size != "paper" or problem == "large":
                out[f"{name}/ms_an_iteration"] = iteration_ms(solve)
            if size == "paper" and problem != "small":
                continue

            def loss(params):
                found = system.solve_stereo(params, views, start, network)  # noqa: B023
                return jnp.mean(found.inverse_depth**2) + jnp.mean(found.motion[..., :3, :] ** 2)

            gradients = {}
            for kind in ("unrolled_solve", "plain scan"):
                with monkeypatch.context() as patch:
                    if kind == "plain scan":
                        patch.setattr(system, "unrolled_solve", plain_scan)
                    jax.clear_caches()  # else the cached trace of the other would be used
                    compiled = jax.jit(jax.grad(loss)).lower(params).compile()
                memory: Any = compiled.memory_analysis()
                out[f"{name}/{kind}: training_temp_MB"] = memory.temp_size_in_bytes / 1e6
                if size != "paper":
                    seconds = seconds_per_call(compiled, params, repeats=3)
                    out[f"{name}/{kind}: training_ms"] = 1e3 * seconds
                    gradients[kind] = compiled(params)
            if gradients:
                error = relative_error(*gradients.values())
                out[f"{name}/gradient_difference"] = error
                assert 0 < error < 1e-3  # not the same program twice
    arrow = sparse_against_arrow()
    out |= {f"large/arrow/{name}": value for name, value in arrow.items()}
    print(json.dumps(out, indent=1))
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "stereo.json").write_text(json.dumps(out, indent=1, default=float) + "\n")
    assert out["large/arrow/solve_ratio"] > 100
