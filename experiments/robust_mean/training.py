"""Settings and training of the robust mean."""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import runner
from jaxcv import Damping, argmin
from jaxcv.data.synthetic.robust_mean import PROTOCOLS, Protocol, draw
from jaxcv.energies.robust import rbf_energy
from jaxcv.solvers import LBFGS, FinalNewtonStep, MultiStart, Newton
from jaxcv.training.optimizers import averaged_sgd

NUM_INLIERS, NUM_OUTLIERS = 10, 100
OPTIMIZERS = {  # name -> (factory, learning rate); the released code trains with asgd
    "asgd": (averaged_sgd, 0.5),
    "sgd": (functools.partial(optax.sgd, momentum=0.999), 5e-4),
    "adam": (optax.adam, 0.1),
    "adadelta": (optax.adadelta, 1.0),
}
METHODS = {  # name -> (lambda, mode, order)
    "undamped": (0.0, "plain", 1),
    "damped": (0.1, "plain", 1),
    "shift": (0.1, "shift", 1),
    "order4": (0.1, "shift", 4),
}
DAMPINGS = {f"damping_{value:g}": (value, "plain", 1) for value in (1e-3, 1e-2, 1.0, 10.0)}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the robust mean; every field is a flag."""

    data: str = runner.flag(
        "synthetic", "Training samples, always generated.", choices=("synthetic",)
    )
    data_dir: str | None = runner.flag(
        None, "Folder of text files for --mode=predict: one sample a file, one number a line."
    )
    steps: int = runner.flag(3000, "Optimiser steps, of one sample each.", lower=1)
    seed: int = runner.flag(0, "First random seed.", lower=0, upper=2**31 - 10_000)
    num_seeds: int = runner.flag(
        10, "Seeds per method, from --seed on, trained in parallel.", lower=1, upper=10_000
    )
    protocol: tuple[str, ...] = runner.flag(
        tuple(PROTOCOLS), "Sample distributions: released code, paper.", choices=tuple(PROTOCOLS)
    )
    optimizer: tuple[str, ...] = runner.flag(
        tuple(OPTIMIZERS), "Optimisers of the width.", choices=tuple(OPTIMIZERS)
    )
    learning_rate: tuple[float, ...] = runner.flag(
        (), "Learning rates; none: the default of each optimiser.", lower=0.0
    )
    initial_scale: float = runner.flag(1.0, "Initial width s [units of the samples].", lower=1e-3)
    forward: str = runner.flag(
        "newton",
        "Solver: newton, or the paper's ten L-BFGS steps and one damped Newton step.",
        choices=("newton", "lbfgs"),
    )
    dampings: bool = runner.flag(False, "Also train with lambda of 0.001, 0.01, 1 and 10.")
    num_test: int = runner.flag(
        400, "Test samples for the loss of the final width.", lower=1, of_data=True
    )


_SGD_RATES = (5e-8, 1.6e-7, 5e-7, 1.6e-6, 5e-6, 1.6e-5, 5e-5, 1.6e-4, 5e-4)
PRESETS = {
    "default": Config(),
    "study": Config(steps=10_000, num_seeds=20),
    "paper": Config(steps=10_000, forward="lbfgs"),
    "dampings": Config(steps=10_000, optimizer=("asgd",), dampings=True),
    "narrow": Config(steps=10_000, optimizer=("asgd",), initial_scale=0.1),
    "wide": Config(steps=10_000, optimizer=("asgd",), initial_scale=10.0),
    # Learning rates, with exact minimisers and with the paper's solver.
    "sgd_rates": Config(steps=10_000, optimizer=("sgd",), learning_rate=_SGD_RATES),
    "sgd_rates_lbfgs": Config(
        steps=10_000, optimizer=("sgd",), learning_rate=_SGD_RATES, forward="lbfgs"
    ),
    "adam_rates": Config(
        steps=10_000, optimizer=("adam",), learning_rate=(0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
    ),
    "adadelta_rates": Config(
        steps=10_000, optimizer=("adadelta",), learning_rate=(0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
    ),
}


def memory(config: Config) -> dict[str, float]:
    """Bytes of the keys of the test samples, and of the samples of all trials in a step."""
    trials = len(config.protocol) * max(1, len(config.learning_rate)) * config.num_seeds
    return {"num_test": 64.0 * config.num_test, "num_seeds": 8.0 * trials * 110 * 110}


def _seeds(scale, points):
    del scale
    return points


def estimate(
    scale: jax.Array,
    points: jax.Array,
    method: str,
    forward: str = "newton",
    *,
    diagnostics: bool = False,
):
    """The `Solution` of the robust mean of points (n,) at kernel width `scale` ().

    Starts at the point of lowest energy, as the paper does. `newton` minimises to round-off;
    `lbfgs` is the paper's solver: ten L-BFGS steps and a Newton step with the method's damping.
    `diagnostics` as in `jaxcv.argmin`.
    """
    value, mode, order = (METHODS | DAMPINGS)[method]
    damping = Damping(value, order=order, mode=mode)
    solver = Newton()
    if forward == "lbfgs":
        last = Damping(value, mode=mode)
        solver = FinalNewtonStep(LBFGS(max_steps=10, step_size=1.0), last)
    start = jnp.zeros((), points.dtype)
    return argmin(
        rbf_energy, start, scale, (points,), solver=MultiStart(solver, _seeds), damping=damping,
        diagnostics=diagnostics,
    )  # fmt: skip


def protocol_of(trial: Any) -> Protocol:
    """The distribution of a trial's samples."""
    return Protocol(*(trial[name] for name in Protocol._fields))


def methods(config: Config) -> tuple[str, ...]:
    """The rows that are trained."""
    return (*METHODS, *(DAMPINGS if config.dampings else ()))


def runs(config: Config, data: None) -> dict[str, runner.Run]:
    """One run per optimiser and method; protocols, learning rates and seeds are trials."""
    del data
    seeds = range(config.seed, config.seed + config.num_seeds)
    out = {}
    for optimizer, method in itertools.product(config.optimizer, methods(config)):
        factory, own_rate = OPTIMIZERS[optimizer]
        rows = list(itertools.product(config.protocol, config.learning_rate or (own_rate,), seeds))
        trials = {
            "protocol": np.array([list(PROTOCOLS).index(row[0]) for row in rows]),
            "learning_rate": np.array([row[1] for row in rows]),
            "seed": np.array([row[2] for row in rows]),
        }
        for field in Protocol._fields:
            trials[field] = np.array([getattr(PROTOCOLS[row[0]], field) for row in rows])
        out[f"{optimizer}.{method}"] = runner.Run(
            init=lambda key, trial: jnp.asarray(config.initial_scale),
            loss=functools.partial(_loss, method=method, forward=config.forward),
            optimizer=factory,
            trials=trials,
            steps=config.steps,
            summaries={
                "gradient_norm": "max",
                "min_eigenvalue": "min",
                "sigma2": "last",
                "largest_sigma2": "max",
            },
            log_every=max(1, config.steps // 100),
            checkpoint_every=max(1, config.steps // 5),
        )
    return out


def _loss(scale, batch, key, trial, *, method: str, forward: str):
    del batch
    sample = draw(key, protocol_of(trial), num_inliers=NUM_INLIERS, num_outliers=NUM_OUTLIERS)
    solution = estimate(scale, sample.points, method, forward, diagnostics=True)
    metrics = {
        "sigma2": scale**2,
        "largest_sigma2": scale**2,
        "min_eigenvalue": solution.diagnostics.min_eigenvalue,
        "unconverged": jnp.where(solution.converged, 0.0, 1.0),
    }
    return (solution.value - sample.target) ** 2, metrics
