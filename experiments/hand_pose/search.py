"""Random search of learning rate, momentum and dropout, in rounds that narrow around the best."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments import runner
from experiments.hand_pose.config import RATES, Config
from jaxcv.training import SearchRange, draw_settings, shrink_ranges

__all__ = ["best_setting", "drawn", "holds_source", "ranges", "search_scores"]

SOURCE_RATES = {"learning_rate": 0.01, "momentum": 0.9, "dropout": 0.03}  # of the thesis


def ranges(config: Config) -> dict[str, SearchRange]:
    """The ranges of the first round; those of the thesis but for the momentum's scale and end.

    The thesis samples log(momentum) in (.8, 1), whose end diverges; `log` ends at .999.
    """
    momentum = {
        "complement": SearchRange(0.8, 0.995, "log_complement"),
        "log": SearchRange(0.8, 0.999, "log"),
    }[config.search_momentum]
    return {
        "learning_rate": SearchRange(1e-3, 1e-1, "log"),
        "momentum": momentum,
        "dropout": SearchRange(0.0, 0.1),
    }


def holds_source(config: Config) -> bool:
    """Whether the first setting of the first round is the thesis' one, and not random."""
    return config.search_momentum == "complement"


def search_scores(run: runner.TrainedRun) -> np.ndarray:
    """The lowest validation loss of every setting (K,); inf where it diverged."""
    losses = run.history["valid_loss"]
    return np.where(np.isfinite(losses), losses, np.inf).min(axis=0)


def drawn(config: Config, name: str, number: int, trained: Any) -> Mapping[str, np.ndarray]:
    """The settings of a round of a row's search."""
    first = ranges(config)
    now = dict(first)
    for k in range(number):
        before = trained[f"{name}.search{k}"]
        settings = {rate: np.asarray(before.trials[rate]) for rate in RATES}
        now = shrink_ranges(now, first, settings, search_scores(before))
    rng = np.random.default_rng([config.seed, number])
    out = draw_settings(rng, now, config.search_trials)
    if number == 0 and holds_source(config):
        out = {rate: np.r_[SOURCE_RATES[rate], values[1:]] for rate, values in out.items()}
    return {"seed": np.full(config.search_trials, config.seed)} | out


def best_setting(config: Config, name: str, trained: Any) -> dict[str, float]:
    """Rates with the lowest validation loss in all rounds of a row's search."""
    rounds = [trained[f"{name}.search{k}"] for k in range(config.search_rounds)]
    scores = np.concatenate([search_scores(one) for one in rounds])
    best = int(scores.argmin())
    values = {rate: np.concatenate([one.trials[rate] for one in rounds]) for rate in RATES}
    return {rate: float(each[best]) for rate, each in values.items()}
