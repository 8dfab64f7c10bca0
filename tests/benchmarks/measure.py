"""Times, memory and errors of a batched solve and of its gradient."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv import argmin
from tests.benchmarks.problems import BatchedProblem
from tests.helpers import UNDAMPED, flat, random_direction

__all__ = ["measure", "seconds_per_call"]

_STEP = 1e-4
_DIRECTIONS = 16


def seconds_per_call(call: Callable, *args: Any, repeats: int = 20, limit: float = 20.0) -> float:
    """Median wall time of `call(*args)` after a warm-up, in at most about `limit` seconds."""
    jax.block_until_ready(call(*args))
    times, begin = [], time.perf_counter()
    while len(times) < repeats and (len(times) < 3 or time.perf_counter() - begin < limit):
        start = time.perf_counter()
        jax.block_until_ready(call(*args))
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def measure(problem: BatchedProblem, minimise: Callable) -> dict[str, float]:
    """One row: `minimise(energy, y0, theta, data) -> y` on every problem of the batch.

    Returns:
        compile_s (trace and compile of value and gradient), forward_ms, forward_backward_ms,
        temp_bytes (XLA, of value and gradient), gradient_norm (the largest |dE/dy| at the result),
        gradient_error (relative, against float64 central differences of a re-solve from the
        result).
    """
    loss = problem.loss(minimise)
    start = time.perf_counter()
    both = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(problem.theta).compile()
    compile_s = time.perf_counter() - start
    forward = jax.jit(lambda theta: loss(theta)[1])
    (_, values), gradient = both(problem.theta)
    slopes = jax.vmap(lambda y, *data: jax.grad(problem.energy)(y, problem.theta, *data))(
        values, *problem.data
    )
    norms = np.linalg.norm(np.reshape(slopes, (len(values), -1)), axis=1)
    memory: Any = both.memory_analysis()
    return {
        "compile_s": compile_s,
        "forward_ms": 1e3 * seconds_per_call(forward, problem.theta),
        "forward_backward_ms": 1e3 * seconds_per_call(both, problem.theta),
        "temp_bytes": memory.temp_size_in_bytes,
        "gradient_norm": float(norms.max()),
        "gradient_error": gradient_error(problem, values, gradient),
    }


def gradient_error(problem: BatchedProblem, values: jax.Array, gradient: Any) -> float:
    """|g - exact| / |exact|, estimated in the root mean square along random directions."""
    with jax.enable_x64(True):
        exact = problem.cast(jnp.float64)._replace(y0=jnp.asarray(np.asarray(values), float))
        resolve = lambda energy, y0, theta, data: (
            argmin(energy, y0, theta, data, damping=UNDAMPED).value
        )
        loss = jax.jit(lambda theta: exact.loss(resolve)(theta)[0])
        errors, quotients = [], []
        for seed in range(_DIRECTIONS):
            direction = random_direction(exact.theta, jax.random.key(seed))
            moved = lambda h: loss(jax.tree.map(lambda x, d: x + h * d, exact.theta, direction))  # noqa: B023
            quotient = float(moved(_STEP) - moved(-_STEP)) / (2 * _STEP)
            errors.append(float(np.dot(flat(gradient), flat(direction))) - quotient)
            quotients.append(quotient)
    return float(np.linalg.norm(errors) / np.linalg.norm(quotients))
