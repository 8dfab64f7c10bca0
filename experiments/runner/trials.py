"""A training configuration (`Run`) and its result (`TrainedRun`)."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.runner.settings import config_error
from jaxcv import training
from jaxcv.checks import argument_error

__all__ = [
    "Run",
    "TrainedRun",
    "TrainedRuns",
    "check_count",
    "checked_runs",
    "count_of",
    "trials_of",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One training: a static problem with a vmapped axis of trials.

    Different shapes or code need another run; different numbers are trials. The functions are pure
    and get one trial: `trial` is {name: scalar} of `trials`, always with `seed` (the config's,
    unless `trials` has the entry).

    Attributes:
        init: `init(key, trial) -> params`, or with `init_from` `init(key, trial, before)`.
        init_from: name of an earlier run with as many trials, whose params are `before`: a training
            in stages.
        loss: `loss(params, batch, key, trial) -> (scalar, {name: scalar})`.
        optimizer: `optimizer(**hyperparameters) -> optax.GradientTransformation`, called with
            traced scalars; it must not branch on their values.
        trials: name -> (M,) numbers. An empty mapping is one trial. Or a pure function of the
            earlier runs, {name: TrainedRun}, that returns the mapping, e.g. the next round of a
            search.
        hyperparameters: which trials go to `optimizer`, by keyword.
        steps: optimiser steps.
        data: a tree that lives on the device, shared by the trials; the loss's `batch` if
            `batches` is None.
        batches: `batches(step) -> tree of host arrays`, a pure function of the step, so that a
            resumed training needs no iterator state.
        project: `params -> params` after each update.
        validate: `validate(params, data, trial) -> {name: scalar}`, run at every log point.
        plateau: shrinks the steps when a metric of `validate` stops improving. The result is the
            best params, and the training ends when no trial improves any more.
        sequential: trials run one after the other, not by `vmap`: see `jaxcv.training.Sweep`.
        summaries: metric of the loss -> 'mean', 'last', 'min', 'max' or 'sum' over the steps
            since the last log point; the mean unless named ('skipped' is summed).
        log_every: steps per log point.
        checkpoint_every: steps per checkpoint, rounded up to a multiple of `log_every`.
        steps_per_call: steps per device call (`lax.scan`), at most `log_every`; None: as many as
            keep the stacked batches small. Give 1 for convolutional networks on the CPU, where XLA
            compiles a convolution inside a loop to slow code.
    """

    init: Callable[..., Any]
    loss: Callable[..., Any]
    optimizer: Callable[..., Any]
    init_from: str | None = None
    trials: Mapping[str, Any] | Callable[..., Mapping[str, Any]] = dataclasses.field(
        default_factory=dict
    )
    hyperparameters: tuple[str, ...] = ("learning_rate",)
    steps: int
    data: Any = None
    batches: Callable[[int], Any] | None = None
    project: Callable[[Any], Any] | None = None
    validate: Callable[..., Any] | None = None
    plateau: training.Plateau | None = None
    sequential: bool = False
    summaries: Mapping[str, str] = dataclasses.field(default_factory=dict)
    log_every: int = 100
    checkpoint_every: int = 1000
    steps_per_call: int | None = None


class TrainedRun(NamedTuple):
    """A run after its training.

    Attributes:
        params: the learned tree; every leaf has a leading axis of trials, (M, ...).
        history: `step` -> (L,), every metric -> (L, M), read from metrics.jsonl; nan where a
            number was not finite. Empty but for `step` if there is no such file.
        trials: name -> (M,), with `seed`.
        metadata: facts of the training data; one dictionary for all runs.
        seconds: the training took, compilation included, summed over interruptions.
    """

    params: Any
    history: dict[str, np.ndarray]
    trials: Mapping[str, np.ndarray]
    metadata: Mapping[str, Any]
    seconds: float = 0.0


class TrainedRuns(dict[str, TrainedRun]):
    """Name -> TrainedRun, with a cache shared by evaluation, figures and predictions.

    Attributes:
        metadata: facts of the training data, and numbers fitted to them after the training.
        trial: number of the requested trial; None: the model of the training.
    """

    def __init__(self, metadata: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.metadata: dict[str, Any] = dict(metadata or {})
        self.trial: int | None = None
        self._kept: dict[Any, Any] = {}

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """Returns `make()`, called once per key."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]


def checked_runs(experiment: Any, config: Any, data: Any) -> Mapping[str, Run]:
    """The runs of an experiment; raises ValueError unless their names and order are sound."""
    runs = experiment.runs(config, data)
    for name in runs:
        if not re.fullmatch(r"[A-Za-z0-9_.+=-]+", name) or name.startswith("."):
            expected = "expected names of runs that can be file names"
            raise argument_error(
                "runs", expected, repr(name), "Use letters, digits and _.+=- only."
            )
        _check_init_from(runs, name, config)
    return runs


def _check_init_from(runs: Mapping[str, Run], name: str, config: Any) -> None:
    init_from, names = runs[name].init_from, list(runs)
    if init_from is None:
        return
    if init_from not in names[: names.index(name)]:
        expected = f"expected one of the runs before it, {names[: names.index(name)]}"
        raise argument_error(f"{name}.init_from", expected, repr(init_from))
    trials = [runs[each].trials for each in (name, init_from)]
    if not any(callable(own) for own in trials):  # else when they are known
        own, other = (trials_of(runs[each], config, {}) for each in (name, init_from))
        check_count(name, runs[name], own, count_of(other))


def check_count(name: str, run: Run, trials: Mapping[str, np.ndarray], other: int) -> None:
    """Raises ValueError unless a run has as many trials as the one before it."""
    if count_of(trials) != other:
        expected = f"expected as many trials as the run {run.init_from!r} has, {other}"
        raise argument_error(
            f"{name}.trials", expected, count_of(trials), "Train one run for each."
        )


def trials_of(run: Run, config: Any, trained: Mapping[str, TrainedRun]) -> dict[str, np.ndarray]:
    """name -> (M,) numbers of a run, with `seed`."""
    given = run.trials(trained) if callable(run.trials) else run.trials
    trials = {name: np.asarray(values) for name, values in given.items()}
    if "seed" not in trials:
        count = max((values.size for values in trials.values()), default=1)
        trials["seed"] = np.full(count, config.seed)
    return training.check_trials(trials)


def chosen_trial(trial: int | None, scores: Any) -> int:
    """The number of the requested trial; for None, of the trial with the lowest score.

    Raises:
        ConfigError: there is no such trial.
    """
    scores = np.asarray(scores, float).ravel()
    if trial is None:
        return int(np.argmin(np.where(np.isfinite(scores), scores, np.inf)))
    if not 0 <= trial < scores.size:
        raise config_error("trial", f"expected a number from 0 to {scores.size - 1}", trial)
    return trial


def last_loss(run: TrainedRun) -> np.ndarray:
    """(M,) the mean training loss of the last tenth of the log points; inf where there is none."""
    losses = run.history.get("loss", np.zeros((0, count_of(run.trials))))
    if not len(losses):
        return np.full(count_of(run.trials), np.inf)
    return losses[-max(1, len(losses) // 10) :].mean(axis=0)


def count_of(trials: Mapping[str, np.ndarray]) -> int:
    """The number of trials."""
    return trials["seed"].size
