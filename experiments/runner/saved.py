"""The folder `model/` of a training: its model, and the parameters of all its runs.

Reading either needs neither the training's data nor its machine.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from experiments.runner import records, settings
from experiments.runner.metrics_file import MetricsFile
from experiments.runner.records import FolderError, errors_as, folder_error
from experiments.runner.trials import TrainedRun, TrainedRuns, count_of
from jaxcv.io.networks import read_tree, write_tree
from jaxcv.systems import models
from jaxcv.systems.models import FILE, TYPES, Model, load_model, on_device

__all__ = ["model_of", "read_runs", "save_model", "write_model"]

FOLDER, RUNS, SECONDS = "model", "runs.safetensors", "seconds.json"


def write_model(
    folder: pathlib.Path,
    experiment: Any,
    config: Any,
    trained: TrainedRuns,
    metrics_file: MetricsFile,
) -> None:
    """Writes the parameters of all runs, and the model among them.

    Times have a file of their own, so that equal trainings write equal other files.
    """
    inside = folder / FOLDER
    about = {
        "experiment": experiment.name,
        "config": settings.config_to_dict(config),
        "metadata": dict(trained.metadata),
        "runs": list(trained),
        "history": {name: metrics_file.digest(name) for name in trained},
    }
    tree = {
        name: {"params": jax.device_get(run.params), "trials": dict(run.trials)}
        for name, run in trained.items()
    }
    try:
        inside.mkdir(exist_ok=True)
    except OSError as error:
        hint = "Make room or give rights, then give the command again."
        raise folder_error(str(inside), "expected to write it", error, hint) from error
    with errors_as(FolderError):
        write_tree(inside / RUNS, tree, about, TYPES)
    records.write_json(inside / SECONDS, {name: run.seconds for name, run in trained.items()})
    if experiment.model is not None:
        model = experiment.model(config, trained, None)
        save_model(inside / FILE, model._replace(card=about | model.card), _system(experiment))


def _system(experiment: Any) -> str:
    return experiment.system or experiment.name


def _of_system(model: Model, system: str) -> Model:
    return model._replace(card={**model.card, "system": system})


def save_model(path: pathlib.Path, model: Model, system: str) -> None:
    """`jaxcv.systems.save_model`, with FolderError if the file cannot be written."""
    with errors_as(FolderError):
        models.save_model(path, _of_system(model, system))


def read_runs(
    folder: pathlib.Path, experiment: str | None, *, argument: str = "checkpoint"
) -> TrainedRuns:
    """All runs of a finished training, without its data; experiment None: of any.

    Errors call the folder `argument`.

    Raises:
        FolderError: no finished training of this experiment, or a damaged file.
    """
    path = folder / FOLDER / RUNS
    if not path.exists():
        expected = f"expected a finished training in {folder}"
        hint = "Finish the training first: give its command again."
        raise folder_error(argument, expected, f"no {FOLDER}/{RUNS}", hint)
    with errors_as(FolderError):
        tree, card = read_tree(path, TYPES)
    try:
        found, metadata = str(card["experiment"]), dict(card["metadata"])
        parts = {name: (tree[name]["params"], dict(tree[name]["trials"])) for name in card["runs"]}
        digests = dict(card["history"])
        counts = {name: count_of(trials) for name, (_, trials) in parts.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        expected = "expected the runs of a training"
        raise folder_error(str(path), expected, type(error).__name__, "Train again.") from error
    if experiment is not None and found != experiment:
        expected = f"expected a training of {experiment!r} in {folder}"
        hint = "Give the --workdir of a training of this experiment."
        raise folder_error(argument, expected, repr(found), hint)
    metrics_file = MetricsFile(folder / "metrics.jsonl", read_only=True)
    seconds = _seconds(folder / FOLDER / SECONDS)
    trained = TrainedRuns(metadata)
    for name, (params, trials) in parts.items():
        if metrics_file.path.exists():
            metrics_file.check_digest(name, str(digests.get(name)))
        history = metrics_file.history(name, counts[name])
        params = jax.tree.map(on_device, params)
        trained[name] = TrainedRun(
            params, history, trials, trained.metadata, seconds.get(name, np.nan)
        )
    return trained


def _seconds(path: pathlib.Path) -> Mapping[str, float]:
    return records.read_json(path, "Train again.") if path.exists() else {}


def model_of(folder: pathlib.Path, experiment: Any, config: Any, trial: int | None) -> Model:
    """The model of a finished training, or that of one of its trials."""
    if experiment.model is None:
        expected = f"the experiment {experiment.name!r} has no model"
        raise folder_error("workdir", expected, folder, "Evaluate it: --mode=evaluate.")
    if trial is None:
        with errors_as(FolderError):
            return load_model(folder, system=_system(experiment))
    model = experiment.model(config, read_runs(folder, experiment.name, argument="workdir"), trial)
    return _of_system(model, _system(experiment))
