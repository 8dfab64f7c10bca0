"""Settings and training of the robust mean over several minima."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import runner
from jaxcv import argmin
from jaxcv.data.synthetic.robust_mean import PROTOCOLS, Protocol, draw
from jaxcv.energies.robust import rbf_energy
from jaxcv.implicit import expected_over_minima
from jaxcv.solvers import MultiStart, Newton

SEEDS = 32  # candidate starting points of the solver
METHODS = ("implicit", "expected")  # loss of the lowest minimum; expected loss over several


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the robust mean over several minima; every field is a flag."""

    data: str = runner.flag(
        "synthetic", "Training samples, always generated.", choices=("synthetic",)
    )
    data_dir: str | None = runner.flag(None, "Not used: the samples are generated.")
    steps: int = runner.flag(1000, "Optimiser steps.", lower=1)
    seed: int = runner.flag(0, "First random seed.", lower=0, upper=2**31 - 10_000)
    num_seeds: int = runner.flag(10, "Seeds per method, from --seed on.", lower=1, upper=1000)
    protocol: tuple[str, ...] = runner.flag(
        tuple(PROTOCOLS), "Sample distributions: released code, paper.", choices=tuple(PROTOCOLS)
    )
    batch_size: int = runner.flag(8, "Samples per step.", lower=1)
    learning_rate: float = runner.flag(0.3, "Adam learning rate (cosine decay to 0).", lower=0.0)
    temperature: float = runner.flag(0.5, "Temperature T in the weights exp(-E / T).", lower=1e-6)
    keep: int = runner.flag(8, "Lowest distinct minima in the expected loss.", lower=2, upper=110)
    initial_scale: float = runner.flag(1.0, "Initial width s [units of the samples].", lower=1e-3)
    num_test: int = runner.flag(
        15_000, "Test samples on which losses are compared.", lower=1, of_data=True
    )
    num_widths: int = runner.flag(60, "Kernel widths in the scan.", lower=2)


PRESETS = {"default": Config()}


def memory(config: Config) -> dict[str, float]:
    """Bytes of the test samples, and of a step of all trials."""
    trials = len(config.protocol) * config.num_seeds
    return {
        "num_test": 8.0 * 110 * config.num_test,
        "batch_size": 8.0 * trials * config.batch_size * SEEDS * 110,
    }


def _points(scale, points):
    """The points of lowest energy (SEEDS,): the lowest minima are near them."""
    energies = jax.vmap(rbf_energy, (0, None, None))(points, scale, points)
    return points[jnp.argsort(energies)[:SEEDS]]


def solve(scale: jax.Array, points: jax.Array, keep: int = 1):
    """The `Solution` of the robust mean of points (n,) at width `scale` ().

    With `keep` > 1, `Solution.minima` holds the `keep` lowest distinct minima.
    """
    solver = MultiStart(Newton(max_steps=25), _points, keep=keep)
    start = jnp.zeros((), points.dtype)
    return argmin(rbf_energy, start, scale, (points,), solver=solver)


def _protocol(trial: Any) -> Protocol:
    return Protocol(*(trial[name] for name in Protocol._fields))


def runs(config: Config, data: None) -> dict[str, runner.Run]:
    """One run per method; protocols and seeds are trials."""
    del data
    seeds = range(config.seed, config.seed + config.num_seeds)
    rows = [(name, seed) for name in config.protocol for seed in seeds]
    trials = {
        "protocol": np.array([list(PROTOCOLS).index(name) for name, _ in rows]),
        "seed": np.array([seed for _, seed in rows]),
        "learning_rate": np.full(len(rows), config.learning_rate),
    }
    for field in Protocol._fields:
        trials[field] = np.array([getattr(PROTOCOLS[name], field) for name, _ in rows])
    adam = lambda learning_rate: optax.adam(
        optax.cosine_decay_schedule(learning_rate, config.steps)
    )
    return {
        method: runner.Run(
            init=lambda key, trial: jnp.asarray(config.initial_scale),
            loss=functools.partial(_loss, config=config, method=method),
            optimizer=adam,
            trials=trials,
            steps=config.steps,
            summaries={"sigma2": "last"},
            log_every=max(1, config.steps // 50),
            checkpoint_every=max(1, config.steps // 5),
        )
        for method in METHODS
    }


def _loss(scale, batch, key, trial, *, config: Config, method: str):
    del batch

    def one(key):
        sample = draw(key, _protocol(trial))
        error = lambda y: (y - sample.target) ** 2
        if method == "implicit":
            return error(solve(scale, sample.points).value)
        solution = solve(scale, sample.points, config.keep)
        return expected_over_minima(error, solution, config.temperature)

    losses = jax.vmap(one)(jax.random.split(key, config.batch_size))
    return jnp.mean(losses), {"sigma2": scale**2}
