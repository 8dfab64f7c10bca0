"""How the robust mean is scored, and which of its widths is the model."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.robust_mean import training
from jaxcv.data.synthetic.robust_mean import PROTOCOLS, draw
from jaxcv.io import Model

__all__ = ["evaluate", "key_of", "model", "selected"]


@functools.partial(jax.jit, static_argnums=(2, 3))
def _test_losses(scales, trials, forward, num_test):
    """Mean squared error (m,) of m widths on the same fresh samples: keys that no training uses."""
    keys = jax.random.split(jax.random.key(2**31 - 1), num_test)

    def one(scale, trial, key):
        sample = draw(
            key,
            training.protocol_of(trial),
            num_inliers=training.NUM_INLIERS,
            num_outliers=training.NUM_OUTLIERS,
        )
        value = training.estimate(scale, sample.points, "damped", forward).value
        return (value - sample.target) ** 2

    per_trial = jax.vmap(one, in_axes=(0, 0, None))
    return jnp.mean(jax.lax.map(lambda key: per_trial(scales, trials, key), keys), axis=0)


def selected(trained: Any, method: str, optimizer: str, protocol: str):
    """The run of a method and its trials (by number) of one protocol."""
    run = trained[f"{optimizer}.{method}"]
    number = list(PROTOCOLS).index(protocol)
    return run, np.flatnonzero(run.trials["protocol"] == number)


def key_of(protocol: str, optimizer: str, method: str) -> str:
    """The first part of the metrics' keys; that of the released protocol with asgd is bare."""
    prefix = "paper/" if protocol == "paper" else ""
    return prefix + ("" if optimizer == "asgd" else f"{optimizer}/") + method


def evaluate(config: training.Config, data: None, trained: Any) -> dict[str, Any]:
    """Per method, optimiser and protocol: lists over the learning rates and seeds.

    `sigma2` at the end and `largest_sigma2` on the way, the `largest_gradient` of the loss in s,
    the smallest Hessian eigenvalue `min_eigenvalue` (of the first and the last tenth of the
    training: `early_min_eigenvalue`, `late_min_eigenvalue`), the share of `unconverged` solves, and
    the `loss` (mean squared error) on fresh samples. `undamped_over_damped` is the ratio of the
    largest gradients seed by seed, and pooled over the seeds. The keys without prefix are those of
    the released protocol trained with asgd.
    """
    del data
    metrics = {}
    for protocol, optimizer, method in itertools.product(
        config.protocol, config.optimizer, training.METHODS
    ):
        run, index = selected(trained, method, optimizer, protocol)
        key = key_of(protocol, optimizer, method)
        trial = {k: jnp.asarray(v[index]) for k, v in run.trials.items()}
        scale = jnp.asarray(run.params)[index]
        metrics[f"{key}/loss"] = _test_losses(scale, trial, config.forward, config.num_test)
        metrics[f"{key}/sigma2"] = scale**2
        history = {name: v[:, index] for name, v in run.history.items() if name != "step"}
        for name, source, reduce in (
            ("largest_sigma2", "largest_sigma2", np.nanmax),
            ("largest_gradient", "gradient_norm", np.nanmax),
            ("min_eigenvalue", "min_eigenvalue", np.nanmin),
            ("unconverged", "unconverged", np.nanmean),
            ("skipped", "skipped", np.nansum),
        ):
            if source in history:
                metrics[f"{key}/{name}"] = reduce(history[source], axis=0)
        if "min_eigenvalue" in history:
            lows = history["min_eigenvalue"]
            tenth = max(1, len(lows) // 10)
            metrics[f"{key}/early_min_eigenvalue"] = np.nanmin(lows[:tenth], axis=0)
            metrics[f"{key}/late_min_eigenvalue"] = np.nanmin(lows[-tenth:], axis=0)
    for protocol, optimizer in itertools.product(config.protocol, config.optimizer):
        largest = [
            np.asarray(metrics.get(f"{key_of(protocol, optimizer, m)}/largest_gradient", np.nan))
            for m in ("undamped", "damped")
        ]
        name = key_of(protocol, optimizer, "undamped_over_damped")
        metrics[f"{name}/largest_gradient"] = largest[0] / largest[1]
        metrics[f"{name}/largest_gradient_pooled"] = largest[0].max() / largest[1].max()
    return metrics


def model(config: training.Config, trained: Any, trial: int | None) -> Model:
    """The width that the damped gradient learned, with the first optimiser and protocol.

    Each step draws a fresh sample, so the loss of the last tenth of the training is validation.
    """
    run, index = selected(trained, "damped", config.optimizer[0], config.protocol[0])
    own = index[runner.chosen_trial(trial, runner.last_loss(run)[index])]
    return Model({"scale": jnp.asarray(run.params)[own]}, {}, {})
