"""The one training loop: an experiment is a value, and this module runs it.

An experiment is a package. It defines a frozen dataclass of settings, a few pure functions, and in
its `__init__`::

    EXPERIMENT = runner.Experiment(name="robust_mean", config=Config, ...)

Its `__main__` calls `runner.main(EXPERIMENT)`.

From the command line::

    python -m experiments.robust_mean --workdir=runs/robust_mean --seed=1

or from a notebook, without flags::

    result = robust_mean.train(robust_mean.Config(seed=1), "runs/robust_mean")
    model = robust_mean.load("runs/robust_mean")

A training that was killed goes on from its last checkpoint when the same command is given again,
and ends with the same numbers, bit for bit on the same machine.
"""

from experiments.runner.command import define_flags, main
from experiments.runner.figures import new_figure, save_figures
from experiments.runner.records import DataError, data_error, data_errors, write_npz, write_text
from experiments.runner.results import Column, Result
from experiments.runner.run import (
    Experiment,
    bound,
    evaluate,
    export,
    in_turn,
    load,
    predict,
    train,
)
from experiments.runner.saved import save_model
from experiments.runner.settings import flag
from experiments.runner.sweeping import sweep
from experiments.runner.trials import Run, TrainedRun, TrainedRuns, chosen_trial, last_loss

__all__ = [
    "Column",
    "DataError",
    "Experiment",
    "Result",
    "Run",
    "TrainedRun",
    "TrainedRuns",
    "bound",
    "chosen_trial",
    "data_error",
    "data_errors",
    "define_flags",
    "evaluate",
    "export",
    "flag",
    "in_turn",
    "last_loss",
    "load",
    "main",
    "new_figure",
    "predict",
    "save_figures",
    "save_model",
    "sweep",
    "train",
    "write_npz",
    "write_text",
]
