"""Times, memory and errors of a batched solve and of its gradient."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.runner.timing import seconds_per_call
from jaxcv import argmin, argmin_least_squares, argmin_vjp
from tests.benchmarks.problems import BenchmarkProblem
from tests.helpers import UNDAMPED, flat, random_direction

__all__ = ["measure", "seconds_per_call"]

_STEP = 1e-4
_DIRECTIONS = 16


def measure(problem: BenchmarkProblem, minimise: Callable) -> dict[str, Any]:
    """Measures one row: `minimise(problem, y0, theta, data) -> y` on every problem of the batch.

    Returns:
        compile_s (trace and compile of value and gradient), forward_ms, forward_backward_ms,
        backward_ms (their difference), temp_bytes (XLA, of value and gradient), gradient_norm (the
        largest |dE/dy| at the result), gradient_error (relative, against float64 central
        differences of a re-solve from the result), certified (the fraction of the results that
        jaxcv certifies, for any solver).
    """
    loss = problem.loss(minimise)
    start = time.perf_counter()
    both = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(problem.theta).compile()
    compile_s = time.perf_counter() - start
    forward = jax.jit(lambda theta: loss(theta)[1])
    (_, values), gradient = both(problem.theta)
    slope = lambda y, *data: jax.grad(problem.energy)(y, problem.theta, *data)
    slopes = jax.tree.leaves(problem.over(slope)(values, *problem.data))
    count = len(slopes[0]) if problem.batched else 1
    squares = sum(np.sum(np.reshape(slope, (count, -1)) ** 2, axis=1) for slope in slopes)
    memory: Any = both.memory_analysis()
    forward_ms = 1e3 * seconds_per_call(forward, problem.theta)
    both_ms = 1e3 * seconds_per_call(both, problem.theta)
    return {
        "compile_s": compile_s,
        "forward_ms": forward_ms,
        "forward_backward_ms": both_ms,
        "backward_ms": both_ms - forward_ms,
        "temp_bytes": memory.temp_size_in_bytes,
        "gradient_norm": float(np.sqrt(np.max(squares))),
        "gradient_error": gradient_error(problem, values, gradient),
        "certified": certified(problem, values),
    }


def certified(problem: BenchmarkProblem, values: Any) -> float:
    """The fraction of the results that `argmin_vjp` certifies."""
    linear = (problem.arguments or {}).get("structure", "auto")

    def one(y, *data):
        bar = jax.tree.map(jnp.ones_like, y)
        _, report = argmin_vjp(
            problem.energy, y, problem.theta, bar, data, damping=UNDAMPED, linear=linear
        )
        return report.certified

    return float(np.mean(jax.jit(problem.over(one))(values, *problem.data)))


def gradient_error(problem: BenchmarkProblem, values: Any, gradient: Any) -> float:
    """|g - exact| / |exact|, estimated by root mean squares along random directions."""
    with jax.enable_x64(True):
        exact = problem.cast(jnp.float64)
        exact = exact._replace(y0=jax.tree.map(lambda y: jnp.asarray(np.asarray(y), float), values))
        loss = jax.jit(lambda theta: exact.loss(_resolve)(theta)[0])
        errors, quotients = [], []
        for seed in range(_DIRECTIONS):
            direction = random_direction(exact.theta, jax.random.key(seed))
            moved = lambda h: loss(jax.tree.map(lambda x, d: x + h * d, exact.theta, direction))  # noqa: B023
            quotient = float(moved(_STEP) - moved(-_STEP)) / (2 * _STEP)
            errors.append(float(np.dot(flat(gradient), flat(direction))) - quotient)
            quotients.append(quotient)
    return float(np.linalg.norm(errors) / np.linalg.norm(quotients))


def _resolve(problem, y0, theta, data):
    if problem.arguments is None:
        return argmin(problem.energy, y0, theta, data, damping=UNDAMPED).value
    settings = {name: value for name, value in problem.arguments.items() if name != "residual"}
    residual = problem.arguments["residual"]
    return argmin_least_squares(residual, y0, theta, data, damping=UNDAMPED, **settings).value
