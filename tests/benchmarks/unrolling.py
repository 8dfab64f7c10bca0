"""(e) the gradient through a learned solver of 5, 15 and 45 steps: time and temporary memory.

Compares `unrolled_solve` with a plain `jax.lax.scan` and a scan of `jax.checkpoint(step)`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv import unrolled_solve
from tests.benchmarks.measure import seconds_per_call
from tests.helpers import relative_error

__all__ = ["unrolling"]

BATCH, UNKNOWNS, POINTS, HIDDEN = 64, 16, 128, 96


def step(state, theta, design, targets):
    """A recurrent network moves y (B, n) by the gradient of a least-squares energy."""
    y, hidden = state
    residual = jnp.einsum("bmn,bn->bm", design, y) - targets
    gradient = jnp.einsum("bmn,bm->bn", design, residual) / POINTS
    features = jnp.stack([gradient, y, jnp.tanh(gradient)], axis=-1)  # (B, n, 3)
    hidden = jnp.tanh(features @ theta["in"] + hidden @ theta["across"])
    hidden = hidden + jax.nn.silu(hidden @ theta["wide"]) @ theta["back"]
    return y - gradient * jax.nn.sigmoid(hidden @ theta["out"])[..., 0], hidden


def _scan(body):
    def run(state, theta, data, num_steps):
        def one(state, _):
            state = body(state, theta, *data)
            return state, state

        return jax.lax.scan(one, state, None, length=num_steps)[1]

    return run


def unrolling() -> dict[str, dict[str, Any]]:
    """Row -> ms_<k>, temp_bytes_<k> and difference_<k> (of the gradient, to plain) for k steps."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    data = draw(BATCH, POINTS, UNKNOWNS), draw(BATCH, POINTS)
    theta = {
        "in": draw(3, HIDDEN),
        "across": 0.1 * draw(HIDDEN, HIDDEN),
        "wide": 0.1 * draw(HIDDEN, 4 * HIDDEN),
        "back": 0.05 * draw(4 * HIDDEN, HIDDEN),
        "out": 0.1 * draw(HIDDEN, 1),
    }
    state = jnp.zeros((BATCH, UNKNOWNS)), jnp.zeros((BATCH, UNKNOWNS, HIDDEN))
    ours = lambda state, theta, data, k: unrolled_solve(step, state, theta, data, num_steps=k)
    checkpointed = _scan(jax.checkpoint(step))
    runs = {
        "jaxcv unrolled_solve": ours,
        "checkpointed scan": checkpointed,
        "plain scan": _scan(step),
    }
    rows: dict[str, dict[str, Any]] = {name: {} for name in runs}
    for k in (5, 15, 45):
        gradients = {}
        for name, run in runs.items():
            loss = lambda theta: jnp.mean(run(state, theta, data, k)[0] ** 2)  # noqa: B023
            compiled = jax.jit(jax.grad(loss)).lower(theta).compile()
            memory: Any = compiled.memory_analysis()
            rows[name][f"temp_bytes_{k}"] = memory.temp_size_in_bytes
            rows[name][f"ms_{k}"] = 1e3 * seconds_per_call(compiled, theta, repeats=8)
            gradients[name] = compiled(theta)
        for name in runs:
            error = relative_error(gradients[name], gradients["plain scan"])
            rows[name][f"difference_{k}"] = float(error)
    return rows
