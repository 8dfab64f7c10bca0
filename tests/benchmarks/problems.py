"""Problems that every solver is measured on: batches of energies with shared parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["PROBLEMS", "BatchedProblem", "bumps", "regressions"]


class BatchedProblem(NamedTuple):
    """A batch of problems in one energy, to be solved from y0 by vmap.

    Attributes:
        name: key in the results.
        energy: energy(y, theta, *data) -> ().
        y0: (B, ...) starts.
        theta: parameters, shared by the batch.
        data: tuple of arrays (B, ...).
    """

    name: str
    energy: Callable
    y0: jax.Array
    theta: Any
    data: tuple

    def loss(self, minimise: Callable) -> Callable:
        """theta -> (), of the values of `minimise(energy, y0, theta, data)`; and the values."""

        def loss(theta):
            one = lambda y0, *data: minimise(self.energy, y0, theta, data)
            values = jax.vmap(one)(self.y0, *self.data)
            return jnp.sum(jnp.sin(values) + 0.1 * values**2), values

        return loss

    def cast(self, dtype) -> "BatchedProblem":
        """The same problem in another precision."""
        arrays = jax.tree.map(
            lambda x: jnp.asarray(np.asarray(x), dtype), (self.y0, self.theta, self.data)
        )
        return self._replace(y0=arrays[0], theta=arrays[1], data=arrays[2])


def bump_energy(y, weights, points):
    """-sum_k w_k exp(-(y - x_k)^2 / 2) + y^2 / 100 of y ()."""
    return -jnp.sum(weights * jnp.exp(-0.5 * (y - points) ** 2)) + 0.01 * y**2


def bumps(batch: int = 256) -> BatchedProblem:
    """(a) one unknown and 110 bumps, started at the bump's centre nearest to the median."""
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(size=(batch, 40)), rng.uniform(-8, 8, (batch, 70))], axis=1)
    y0 = np.median(points, axis=1)
    weights = rng.uniform(0.5, 1.5, 110)
    return BatchedProblem("a", bump_energy, y0, weights, (points,)).cast(jnp.float32)


def regression_energy(y, theta, design, targets):
    """Weighted pseudo-Huber regression of y (64,) on 512 points, with a weighted ridge."""
    residual = (design @ y - targets) / 0.3
    terms = jnp.exp(theta["log_weights"]) * (jnp.sqrt(1 + residual**2) - 1)
    return jnp.mean(terms) + 0.005 * jnp.sum(jnp.exp(theta["log_ridge"]) * y**2)


def regressions(batch: int = 64) -> BatchedProblem:
    """(b) 64 unknowns and 512 points, a fifth of them outliers, started at zero."""
    rng = np.random.default_rng(1)
    design = rng.normal(size=(batch, 512, 64))
    truth = rng.normal(size=(batch, 64))
    outliers = 10 * rng.normal(size=(batch, 512)) * (rng.random((batch, 512)) < 0.2)
    targets = np.einsum("bij,bj->bi", design, truth) + 0.1 * rng.normal(size=(batch, 512))
    theta = {"log_weights": 0.1 * rng.normal(size=512), "log_ridge": 0.1 * rng.normal(size=64)}
    problem = BatchedProblem(
        "b", regression_energy, np.zeros((batch, 64)), theta, (design, targets + outliers)
    )
    return problem.cast(jnp.float32)


PROBLEMS = {"a": bumps, "b": regressions}
