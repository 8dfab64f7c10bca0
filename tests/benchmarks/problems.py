"""Benchmark problems of all solvers: batches of energies with shared parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.least_squares.kernels import PseudoHuber
from jaxcv.linear.structure import Arrow

__all__ = ["PROBLEMS", "BenchmarkProblem", "arrow", "bumps", "regressions"]


class BenchmarkProblem(NamedTuple):
    """One energy, or a batch of them with shared parameters that is solved by vmap.

    Attributes:
        name: key in the results.
        energy: energy(y, theta, *data) -> ().
        y0: the starting point, with a leading axis of problems if `batched`.
        theta: parameters, shared by a batch.
        data: tuple of arrays, with the same leading axis.
        batched: True if y0 and data have this axis.
        residual: array whose half sum of squares is the energy, for the peers' least-squares
            solvers; None if there is no such array.
        arguments: residual and settings of `argmin_least_squares`, as a user would write them.
    """

    name: str
    energy: Callable
    y0: Any
    theta: Any
    data: tuple
    batched: bool = True
    residual: Callable | None = None
    arguments: dict | None = None

    def loss(self, minimise: Callable) -> Callable:
        """theta -> (loss (), values), for the values of `minimise(problem, y0, theta, data)`."""

        def loss(theta):
            one = lambda y0, *data: minimise(self, y0, theta, data)
            values = (jax.vmap(one) if self.batched else one)(self.y0, *self.data)
            leaves = jax.tree.leaves(values)
            return sum(jnp.sum(jnp.sin(leaf) + 0.1 * leaf**2) for leaf in leaves), values

        return loss

    def over(self, function: Callable) -> Callable:
        """Maps function(y, *data) over the problems of the batch."""
        return jax.vmap(function) if self.batched else function

    def cast(self, dtype) -> "BenchmarkProblem":
        """The same problem in another precision."""
        arrays = jax.tree.map(
            lambda x: jnp.asarray(np.asarray(x), dtype), (self.y0, self.theta, self.data)
        )
        return self._replace(y0=arrays[0], theta=arrays[1], data=arrays[2])


def bump_energy(y, weights, points):
    """-sum_k w_k exp(-(y - x_k)^2 / 2) + y^2 / 100 of y ()."""
    return -jnp.sum(weights * jnp.exp(-0.5 * (y - points) ** 2)) + 0.01 * y**2


def bumps(batch: int = 256) -> BenchmarkProblem:
    """(a) one unknown and 110 bumps, started at the median of their centres."""
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(size=(batch, 40)), rng.uniform(-8, 8, (batch, 70))], axis=1)
    y0 = np.median(points, axis=1)
    weights = rng.uniform(0.5, 1.5, 110)
    return BenchmarkProblem("a", bump_energy, y0, weights, (points,)).cast(jnp.float32)


def regression_energy(y, theta, design, targets):
    """Weighted pseudo-Huber regression of y (64,) on 512 points, with a weighted ridge."""
    residual = (design @ y - targets) / 0.3
    terms = jnp.exp(theta["log_weights"]) * (jnp.sqrt(1 + residual**2) - 1)
    return jnp.mean(terms) + 0.005 * jnp.sum(jnp.exp(theta["log_ridge"]) * y**2)


def regressions(batch: int = 64) -> BenchmarkProblem:
    """(b) 64 unknowns and 512 points, a fifth of them outliers, started at zero."""
    rng = np.random.default_rng(1)
    design = rng.normal(size=(batch, 512, 64))
    truth = rng.normal(size=(batch, 64))
    outliers = 10 * rng.normal(size=(batch, 512)) * (rng.random((batch, 512)) < 0.2)
    targets = np.einsum("bij,bj->bi", design, truth) + 0.1 * rng.normal(size=(batch, 512))
    theta = {"log_weights": 0.1 * rng.normal(size=512), "log_ridge": 0.1 * rng.normal(size=64)}
    problem = BenchmarkProblem(
        "b",
        regression_energy,
        np.zeros((batch, 64)),
        theta,
        (design, targets + outliers),
        residual=regression_residual,
        arguments={"residual": regression_residual},
    )
    return problem.cast(jnp.float32)


def regression_residual(y, theta, design, targets):
    """`regression_energy` as half a sum of squares, smooth at zero."""
    residual = (design @ y - targets) / 0.3
    root = residual / jnp.sqrt(1 + jnp.sqrt(1 + residual**2))  # sqrt(sqrt(1 + r^2) - 1)
    scale = jnp.sqrt(2 * jnp.exp(theta["log_weights"]) / len(targets))
    ridge = jnp.sqrt(0.01 * jnp.exp(theta["log_ridge"]))
    return jnp.concatenate([scale * root, ridge * y])


SCALE = 0.3  # of the pseudo-Huber kernel of (c)


def arrow_residual(y, theta, rays, gains):
    """Four observations of each of 12,288 local unknowns, six shared ones, and priors."""
    along = rays @ y["p"]
    seen = gains * jnp.tanh(y["z"])[:, None] * (1 + 0.1 * along) + jnp.sin(along)
    return {
        "match": jnp.exp(theta["log_weights"]) * (seen - theta["targets"]),
        "local": 0.3 * (y["z"] - theta["prior"]),
        "shared": theta["ridge"] * y["p"],
    }


def arrow_energy(y, theta, rays, gains):
    """Pseudo-Huber on the observations, squares on the priors."""
    terms = arrow_residual(y, theta, rays, gains)
    robust = SCALE**2 * jnp.sum(jnp.sqrt(1 + (terms["match"] / SCALE) ** 2) - 1)
    return robust + 0.5 * (jnp.sum(terms["local"] ** 2) + jnp.sum(terms["shared"] ** 2))


def arrow(locals_: int = 12_288) -> BenchmarkProblem:
    """(c) an arrow: 12,288 local and 6 shared unknowns, 61,446 residuals, 5% outliers."""
    rng = np.random.default_rng(3)
    rays, gains = rng.normal(size=(locals_, 4, 6)), rng.uniform(0.5, 1.5, (locals_, 4))
    truth, shared = rng.normal(size=locals_), 0.3 * rng.normal(size=6)
    along = rays @ shared
    targets = gains * np.tanh(truth)[:, None] * (1 + 0.1 * along) + np.sin(along)
    targets += 0.1 * rng.normal(size=targets.shape)
    targets += 2 * rng.normal(size=targets.shape) * (rng.random(targets.shape) < 0.05)
    theta = {
        "log_weights": 0.1 * rng.normal(size=4),
        "targets": targets,
        "prior": truth + 0.2 * rng.normal(size=locals_),
        "ridge": np.full(6, 0.5),
    }
    y0 = {"z": np.zeros(locals_), "p": np.zeros(6)}
    settings = {"kernel": {"match": PseudoHuber(SCALE)}, "structure": Arrow("z", "p")}
    return BenchmarkProblem(
        "c",
        arrow_energy,
        y0,
        theta,
        (rays, gains),
        batched=False,
        arguments={"residual": arrow_residual, **settings},
    ).cast(jnp.float32)


PROBLEMS = {"a": bumps, "b": regressions, "c": arrow}
