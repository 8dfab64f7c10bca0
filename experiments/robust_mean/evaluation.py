"""Evaluation of the robust mean, and the choice of the width that is the model."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.robust_mean import training
from jaxcv.data.synthetic.robust_mean import PROTOCOLS, Protocol, draw
from jaxcv.io import Model

__all__ = ["ROWS", "evaluate", "key_of", "model", "selected"]


SCANNED = np.geomspace(1.0, 1e4, 61)  # sigma^2


@functools.partial(jax.jit, static_argnums=(2, 3))
def _test_losses(scales, trials, forward, num_test):
    """Mean squared error (m,) of m widths on the same samples, whose keys no training uses."""
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


def _scan(config: training.Config, protocol: str) -> tuple[np.ndarray, np.ndarray, float]:
    """sigma^2 (m,) and test loss (m,) of fixed widths, and the loss of the plain mean."""
    own = {field: getattr(PROTOCOLS[protocol], field) for field in Protocol._fields}
    sigma2 = np.append(SCANNED, 1e8)  # so wide that the robust mean is the plain one
    trials = {field: jnp.full(sigma2.size, value) for field, value in own.items()}
    loss = np.asarray(
        _test_losses(jnp.sqrt(sigma2), trials, config.forward, config.num_test), float
    )
    return SCANNED, loss[:-1], float(loss[-1])


def _by_rate(key: str, rates: np.ndarray, over: np.ndarray) -> dict[str, Any]:
    """Loss over the least per learning rate, and the rate with the lowest median over seeds."""
    own = {rate: over[rates == rate] for rate in np.unique(rates)}
    out: dict[str, Any] = {f"{key}@{rate:g}/loss_over_least": x for rate, x in own.items()}
    out |= {f"{key}@{rate:g}/within_10_percent": float(np.mean(x < 1.1)) for rate, x in own.items()}
    medians = {rate: np.median(np.where(np.isfinite(x), x, np.inf)) for rate, x in own.items()}
    best = min(medians, key=lambda rate: medians[rate])
    out[f"{key}/best_rate"] = float(best)
    out[f"{key}/best_rate_loss_over_least"] = own[best]
    out[f"{key}/best_rate_within_10_percent"] = float(np.mean(own[best] < 1.1))
    return out


def selected(trained: Any, method: str, optimizer: str, protocol: str):
    """The run of a method and optimiser, and the indices of its trials with a protocol."""
    run = trained[f"{optimizer}.{method}"]
    number = list(PROTOCOLS).index(protocol)
    return run, np.flatnonzero(run.trials["protocol"] == number)


def key_of(protocol: str, optimizer: str, method: str) -> str:
    """Prefix of the metrics: [paper/][optimizer/]method; `released` and `asgd` are left out."""
    prefix = "paper/" if protocol == "paper" else ""
    return prefix + ("" if optimizer == "asgd" else f"{optimizer}/") + method


# Of the table: first the paper's data and optimiser, then the released code's.
ROWS = tuple(
    key_of(protocol, optimizer, method)
    for protocol, optimizer, method in itertools.product(
        ("paper", "released"),
        ("sgd", "asgd", "adam", "adadelta"),
        (*training.METHODS, *training.DAMPINGS),
    )
)


def evaluate(config: training.Config, data: None, trained: Any) -> dict[str, Any]:
    """Per method, optimiser and protocol: lists over the learning rates and seeds.

    `sigma2` is s^2 after the training and `largest_sigma2` its maximum; `largest_gradient` is the
    maximum of |d loss / d s|; `min_eigenvalue` is the smallest Hessian eigenvalue, also of the
    first and last tenth of the training (`early_min_eigenvalue`, `late_min_eigenvalue`), as
    `early_largest_gradient` and `late_largest_gradient` are those of the gradients;
    `unconverged` is the fraction of such solves, `skipped` the number of skipped updates, and
    `loss` the mean squared error on test samples. `loss_over_least` divides it by the least loss
    of fixed widths on the same samples (`scan/`), and `within_10_percent` is the fraction of
    trainings with a ratio below 1.1; with several learning rates also for each rate, and for the
    one with the lowest median. `undamped_over_damped` holds the ratio of the largest gradients, by
    seed and pooled over the seeds. `key_of` gives the prefix of the keys.
    """
    del data
    metrics: dict[str, Any] = {}
    least = {}
    for protocol in config.protocol:
        sigma2, losses, plain = _scan(config, protocol)
        prefix = key_of(protocol, "asgd", "scan")
        least[protocol] = float(losses.min())
        metrics |= {
            f"{prefix}/sigma2": sigma2,
            f"{prefix}/loss": losses,
            f"{prefix}/least_loss": least[protocol],
            f"{prefix}/best_sigma2": float(sigma2[losses.argmin()]),
            f"{prefix}/plain_mean_loss": plain,
        }
    for protocol, optimizer, method in itertools.product(
        config.protocol, config.optimizer, training.methods(config)
    ):
        run, index = selected(trained, method, optimizer, protocol)
        key = key_of(protocol, optimizer, method)
        trial = {k: jnp.asarray(v[index]) for k, v in run.trials.items()}
        scale = jnp.asarray(run.params)[index]
        losses = np.asarray(_test_losses(scale, trial, config.forward, config.num_test), float)
        over = losses / least[protocol]
        metrics[f"{key}/loss"] = losses
        metrics[f"{key}/loss_over_least"] = over
        metrics[f"{key}/within_10_percent"] = float(np.mean(over < 1.1))
        if len(config.learning_rate) > 1:
            metrics |= _by_rate(key, run.trials["learning_rate"][index], over)
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
            largest = history["gradient_norm"]
            metrics[f"{key}/early_largest_gradient"] = np.nanmax(largest[:tenth], axis=0)
            metrics[f"{key}/late_largest_gradient"] = np.nanmax(largest[-tenth:], axis=0)
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

    Each step draws a new sample, so the loss of the last tenth of the training validates.
    """
    run, index = selected(trained, "damped", config.optimizer[0], config.protocol[0])
    own = index[runner.chosen_trial(trial, runner.last_loss(run)[index])]
    return Model({"scale": jnp.asarray(run.params)[own]}, {}, {})
