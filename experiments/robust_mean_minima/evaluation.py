"""Evaluation of the robust mean over several minima, and the choice of the model's width."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.robust_mean_minima import training
from jaxcv.data.synthetic.robust_mean import PROTOCOLS, draw
from jaxcv.io import Model

__all__ = ["evaluate", "model"]


@functools.partial(jax.jit, static_argnums=(1,))
def _test_losses(scales, num_test, protocol):
    """Mean squared error (m,) of the lowest minimum at widths (m,), on the same fresh samples."""
    keys = jax.random.split(jax.random.key(2**31 - 1), num_test)

    def one(key):
        sample = draw(key, protocol)
        value = jax.vmap(lambda scale: training.solve(scale, sample.points).value)(scales)
        return (value - sample.target) ** 2

    return jnp.mean(jax.lax.map(one, keys, batch_size=64), axis=0)


def evaluate(config: training.Config, data: None, trained: Any) -> dict[str, Any]:
    """Per protocol: `sigma2` and `loss` of the scanned widths, and of each method's final widths.

    `excess` is a final loss / the lowest loss of all these widths - 1; `within` is the number of
    seeds with an excess of at most 2%.
    """
    del data
    metrics: dict[str, Any] = {}
    grid = np.geomspace(20.0, 800.0, config.num_widths)
    for name in config.protocol:
        number = list(PROTOCOLS).index(name)
        ends = {}
        for method in training.METHODS:
            index = np.flatnonzero(trained[method].trials["protocol"] == number)
            ends[method] = np.asarray(trained[method].params)[index] ** 2
        every = np.concatenate([grid, *ends.values()])
        losses = np.asarray(_test_losses(jnp.sqrt(every), config.num_test, PROTOCOLS[name]))
        metrics[f"{name}/scan/sigma2"], metrics[f"{name}/scan/loss"] = grid, losses[: grid.size]
        lowest = float(np.min(losses))
        metrics[f"{name}/scan/best_sigma2"] = float(every[np.argmin(losses)])
        metrics[f"{name}/scan/lowest_loss"] = lowest
        begin = grid.size
        for method, values in ends.items():
            mine = losses[begin : begin + values.size]
            begin += values.size
            metrics[f"{name}/{method}/sigma2"] = values
            metrics[f"{name}/{method}/loss"] = mine
            metrics[f"{name}/{method}/excess"] = mine / lowest - 1
            metrics[f"{name}/{method}/within"] = int(np.sum(mine <= 1.02 * lowest))
    return metrics


def model(config: training.Config, trained: Any, trial: int | None) -> Model:
    """The width learned with the expected loss over minima, on samples of the first protocol."""
    run = trained["expected"]
    number = list(PROTOCOLS).index(config.protocol[0])
    index = np.flatnonzero(run.trials["protocol"] == number)
    own = index[runner.chosen_trial(trial, runner.last_loss(run)[index])]
    return Model({"scale": jnp.asarray(run.params)[own]}, {}, {})
