"""Training, evaluation, prediction and export of an `Experiment`."""

import contextlib
import dataclasses
import functools
import logging
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

import jaxcv.io
from experiments.runner import loop, records, saved, settings
from experiments.runner.figures import save_figures
from experiments.runner.messages import announce
from experiments.runner.metrics_file import MetricsFile
from experiments.runner.records import data_error
from experiments.runner.results import Column, Result
from experiments.runner.trials import (
    Run,
    TrainedRun,
    TrainedRuns,
    check_count,
    checked_runs,
    count_of,
    trials_of,
)
from jaxcv import training
from jaxcv.checks import argument_error
from jaxcv.systems.models import Model

__all__ = [
    "Experiment", "bound", "evaluate", "export", "in_turn", "load", "predict", "saved_config",
    "train",
]  # fmt: skip

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An experiment, as the runner sees it.

    Attributes:
        name: of the module; stands in results.json.
        config: a frozen dataclass with the fields `data`, `data_dir`, `steps` and `seed`.
        presets: name -> Config; `default` must be there.
        memory: `memory(config) -> {field: bytes}`, lower bounds of what the settings allocate;
            checked before anything is allocated.
        load: `load(config) -> data`, on the host; checks the values that enter.
        runs: `runs(config, data) -> {name: Run}`, trained in this order.
        evaluate: `evaluate(config, data, {name: TrainedRun}) -> {"<method>/<metric>": number or
            list}`. The mapping is `TrainedRuns`: its `once` keeps for `figures` what is computed.
        figures: `figures(config, data, {name: TrainedRun}, metrics) -> iterable of (file name,
            matplotlib Figure or a page as text)`; the runner saves and closes them.
        predict: `predict(config, data, {name: TrainedRun}, folder)`, writes files.
        predict_untrained: `predict_untrained(config, folder)`, the predictions that need no
            training: --mode=predict without --checkpoint.
        source: the published numbers, under the keys of the metrics.
        source_data: what these were measured on.
        x64: run wholly in double precision.
        metadata: `metadata(config, data) -> {name: JSON value}`, facts of the training data that
            the model needs. Saved as metadata.json; `evaluate`, `figures` and `predict` get it in
            `TrainedRun.metadata`, on any data.
        fixed_metadata: entries of the metadata that define the model; other data must have the
            same values.
        calibrate: `calibrate(config, data, {name: TrainedRun}) -> {name: JSON value}`, numbers
            fitted to the training data after the training; they join the metadata.
        model: `model(config, {name: TrainedRun}, trial) -> Model`, the best network, or that of
            trial number `trial`; needs no data.
        system: the entry `system` of the model's card; None: `name`.
        columns: of the table of results.
        rows: methods of the table, in this order; empty: all.
    """

    name: str
    config: type
    presets: Mapping[str, Any]
    load: Callable[[Any], Any]
    runs: Callable[[Any, Any], Mapping[str, Run]]
    evaluate: Callable[..., Mapping[str, Any]]
    figures: Callable[..., Iterable[tuple[str, Any]]]
    memory: Callable[[Any], Mapping[str, float]] | None = None
    predict: Callable[..., None] | None = None
    predict_untrained: Callable[[Any, pathlib.Path], None] | None = None
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    source_data: str = ""
    x64: bool = False
    metadata: Callable[[Any, Any], Mapping[str, Any]] | None = None
    fixed_metadata: tuple[str, ...] = ()
    calibrate: Callable[..., Mapping[str, Any]] | None = None
    model: Callable[..., Model] | None = None
    system: str | None = None
    columns: tuple[Column, ...] = ()
    rows: tuple[str, ...] = ()


def bound(experiment: Experiment) -> tuple[Callable[..., Result], Callable[..., Model]]:
    """`train` and `load` of an experiment's package."""
    return functools.partial(train, experiment), functools.partial(load, experiment)


def train(
    experiment: Experiment,
    config: Any,
    workdir: Any,
    *,
    init_from: Any = None,
    command: str | None = None,
) -> Result:
    """Trains every run, evaluates, and writes the work folder.

    Finished runs are not trained again; an unfinished run continues from its last checkpoint. A
    config that differs only in having more steps lengthens the training.

    Args:
        experiment: what to run.
        config: an instance of `experiment.config`.
        workdir: the folder to write; made if need be.
        init_from: work folder of a training of any experiment. Each run starts with the parameters
            of the run of the same name there, or of the only run.
        command: what started the run, for the record.

    Returns:
        Metrics, parameters and paths.

    Raises:
        ValueError: before anything is computed: a setting is out of bounds; the folder cannot be
            written, belongs to another config or experiment, or is in use; or `init_from` holds no
            parameters of these shapes.
    """
    settings.check_config(experiment.config, config)
    settings.check_data_dir(config)
    config = settings.of_mode(config, "train")
    begin = None if init_from is None else records.run_folder(init_from, "init_from")
    claimed = records.open_workdir(
        workdir, experiment.name, config, training=True,
        init_from=None if begin is None else str(begin),
    )  # fmt: skip
    with claimed as folder, _precision(experiment):
        data = _loaded(experiment, config)
        metrics_file = MetricsFile(folder / "metrics.jsonl")
        metadata = dict(experiment.metadata(config, data)) if experiment.metadata else {}
        records.keep_metadata(folder, metadata)
        trained, seconds = TrainedRuns(metadata), 0.0
        started = {} if begin is None else saved.read_runs(begin, None, argument="init_from")
        lengthened = bool(records.read_config(folder).get("lengthened"))
        runs = checked_runs(experiment, config, data)
        announce(experiment.name, config, runs, folder)
        for name, run in runs.items():
            trials = trials_of(run, config, trained)
            if begin is not None and run.init_from is None:
                run, before = loop.begun_from(started, name, run, trials)
            else:
                before = _before(name, run, trials, trained)
            checkpoints = _checkpoints(experiment, config, folder, name)
            prepared = loop.PreparedRun(name, run, trials, checkpoints, before, lengthened)
            params, spent = loop.train_run(prepared, metrics_file)
            seconds += spent
            history = metrics_file.history(name, count_of(trials))
            trained[name] = TrainedRun(params, history, trials, trained.metadata, spent)
        if experiment.calibrate is not None:
            fitted = experiment.calibrate(config, data, trained)
            trained.metadata |= {key: records.json_tree(key, x) for key, x in fitted.items()}
        saved.write_model(folder, experiment, config, trained, metrics_file)
        return _finish(experiment, config, data, trained, folder, command, seconds)


def in_turn(trials_by: str) -> bool:
    """Whether trials train one after the other: `loop`, or `auto` on CPUs; else by `vmap`."""
    return trials_by == "loop" or (trials_by == "auto" and jax.default_backend() == "cpu")


def load(experiment: Experiment, workdir: Any, *, trial: int | None = None) -> Model:
    """The model of a finished training, without any data.

    Args:
        experiment: of the training.
        workdir: of the training.
        trial: number of a trial; None: the best on validation, see the experiment.

    Returns:
        Parameters and settings, for the function of `jaxcv.systems` that the card names.

    Raises:
        ValueError: no finished training of this experiment, or no such trial.
    """
    folder = records.run_folder(workdir, "workdir")
    config = saved_config(experiment, folder, {}, argument="workdir")
    with _precision(experiment):
        return saved.model_of(folder, experiment, config, trial)


def evaluate(
    experiment: Experiment,
    config: Any,
    workdir: Any,
    checkpoint: Any,
    *,
    command: str | None = None,
) -> Result:
    """Evaluates an earlier training; writes results.json and figures to `workdir`.

    Args:
        experiment: what to run.
        config: the settings; None for those of the training. They must describe the same model.
        workdir: the folder to write, not that of the training, which is only read.
        checkpoint: the work folder of the training.
        command: what started the run, for the record.

    Returns:
        Metrics, parameters and paths.

    Raises:
        ValueError: if there is no finished training, or it is of another experiment or model.
    """
    config, claimed, source = _open(experiment, config, workdir, checkpoint, "evaluate")
    with claimed as folder, _precision(experiment):
        data, trained = _restore(experiment, config, source)
        return _finish(
            experiment, config, data, trained, folder, command, 0.0, figures_may_fail=True
        )


def predict(
    experiment: Experiment, config: Any, workdir: Any, checkpoint: Any, *, trial: int | None = None
) -> pathlib.Path:
    """Writes the predictions of an earlier training to `workdir`, and returns that folder.

    The arguments and errors are those of `evaluate`; `trial` is that of `load`. With
    `checkpoint=None` the predictions are those that need no training, if the experiment has some.
    """
    if experiment.predict is None:
        expected = f"the experiment {experiment.name!r} makes no predictions"
        raise argument_error("mode", expected, "'predict'", "Use --mode=evaluate.")
    if checkpoint is None and experiment.predict_untrained is not None:
        if trial is not None:
            raise settings.config_error("trial", "goes with --checkpoint", trial)
        config = experiment.presets["default"] if config is None else config
        settings.check_config(experiment.config, config)
        config = settings.of_mode(config, "predict")
        claimed = records.open_workdir(workdir, experiment.name, config, training=False)
        with claimed as folder, _precision(experiment):
            experiment.predict_untrained(config, folder)
        return folder
    config, claimed, source = _open(experiment, config, workdir, checkpoint, "predict")
    with claimed as folder, _precision(experiment):
        data, trained = _restore(experiment, config, source)
        trained.trial = trial
        experiment.predict(config, data, trained, folder)
    return folder


def export(
    experiment: Experiment, workdir: Any, checkpoint: Any, *, trial: int | None = None
) -> pathlib.Path:
    """Writes the model of an earlier training as a folder that runs without jaxcv.

    Args:
        experiment: of the training.
        workdir: the folder to write, see `jaxcv.io.export`.
        checkpoint: the work folder of the training; its data are not needed.
        trial: that of `load`.

    Raises:
        ValueError: no finished training of this experiment, a system without export, or a folder
            that cannot be written or holds something else.
    """
    source = records.run_folder(checkpoint)
    config = saved_config(experiment, source, {})
    with _precision(experiment):
        model = saved.model_of(source, experiment, config, trial)
    try:
        with records.errors_as(records.FolderError):
            return jaxcv.io.export(model, workdir)
    except ImportError as error:
        raise settings.config_error("mode", "expected the packages of an export", error) from error


def _open(
    experiment: Experiment, config: Any, workdir: Any, checkpoint: Any, mode: str
) -> tuple[Any, contextlib.AbstractContextManager[pathlib.Path], pathlib.Path]:
    """Config, folder to write (to be entered), folder of the training."""
    source = records.run_folder(checkpoint)
    before = saved_config(experiment, source, {})
    config = before if config is None else config
    settings.check_config(experiment.config, config)
    settings.check_evaluated(before, config)
    config = settings.of_mode(config, mode)
    claimed = records.open_workdir(workdir, experiment.name, config, training=False)
    return config, claimed, source


def saved_config(
    experiment: Experiment,
    folder: pathlib.Path,
    changes: Mapping[str, Any],
    *,
    argument: str = "checkpoint",
) -> Any:
    """The config of the training in `folder`, which errors call `argument`, with some changes."""
    found = records.read_config(folder)
    if found["experiment"] != experiment.name:
        expected = f"expected a training of {experiment.name!r} in {folder}"
        hint = "Give the --workdir of a training of this experiment."
        raise records.folder_error(argument, expected, repr(found["experiment"]), hint)
    config = settings.config_from_dict(
        experiment.config, found["config"], complete="digest" in found
    )
    config = dataclasses.replace(config, **changes)
    settings.check_config(experiment.config, config)
    return config


def _loaded(experiment: Experiment, config: Any) -> Any:
    sizes = experiment.memory(config) if experiment.memory else {}
    for name, size in sizes.items():
        settings.check_memory(name, size)
    try:
        return experiment.load(config)
    except ModuleNotFoundError as error:
        missing = str(error.name)
        if missing.split(".")[0] in ("jaxcv", "experiments", "data_prep"):
            raise
        hint = 'pip install ".[experiments,data]" installs the readers of all data sets.'
        expected = "expected the package that reads this data set"
        raise data_error(missing, expected, "none of that name", hint) from error


def _restore(experiment: Experiment, config: Any, folder: pathlib.Path) -> tuple[Any, TrainedRuns]:
    """The data to work on, and the trained runs."""
    trained = saved.read_runs(folder, experiment.name)
    data = _loaded(experiment, config)
    if experiment.fixed_metadata:
        now = dict(experiment.metadata(config, data)) if experiment.metadata else {}
        for name in experiment.fixed_metadata:
            if now.get(name) != trained.metadata.get(name):
                expected = f"the model in {folder} was trained with {trained.metadata.get(name)}"
                hint = f"Give data with the same {name}, or train a model on these."
                raise data_error(name, expected, now.get(name), hint)
    return data, trained


def _before(name: str, run: Run, trials: Any, trained: Mapping[str, TrainedRun]) -> Any:
    """The initial parameters of a run, from an earlier run; None: draw them."""
    if run.init_from is None:
        return None
    before = trained[run.init_from]
    check_count(name, run, trials, count_of(before.trials))
    return before.params


def _finish(
    experiment: Experiment,
    config: Any,
    data: Any,
    trained: TrainedRuns,
    folder: pathlib.Path,
    command: str | None,
    seconds: float,
    *,
    figures_may_fail: bool = False,
) -> Result:
    start = time.perf_counter()
    metrics = experiment.evaluate(config, data, trained)
    record = {
        "experiment": experiment.name,
        "config": settings.config_to_dict(config),
        "metrics": {key: records.json_ready(key, value) for key, value in metrics.items()},
        "source": {key: records.json_ready(key, v) for key, v in experiment.source.items()},
        "environment": records.environment(command, config, seconds + time.perf_counter() - start),
    }
    records.write_json(folder / "results.json", record)
    try:
        save_figures(experiment.figures(config, data, trained, metrics), folder / "figures")
    except records.FolderError:
        raise
    except Exception as error:
        if not figures_may_fail and all(_finite(one.params) for one in trained.values()):
            raise
        told = f"{type(error).__name__}: {error}"
        _logger.warning("the other figures cannot be made (%s)", told)
    params = {name: run.params for name, run in trained.items()}
    return Result(
        experiment.name, record["metrics"], record["source"], params, folder, record,
        experiment.columns, experiment.rows, experiment.source_data,
    )  # fmt: skip


def _finite(params: Any) -> bool:
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
    return all(np.all(np.isfinite(x)) for x in leaves if np.issubdtype(x.dtype, np.floating))


def _precision(experiment: Experiment) -> contextlib.AbstractContextManager:
    return jax.enable_x64(True) if experiment.x64 else contextlib.nullcontext()


def _checkpoints(
    experiment: Experiment, config: Any, folder: pathlib.Path, run: str
) -> training.Checkpoints:
    identity = {
        "experiment": experiment.name,
        "run": run,
        "config_hash": records.config_hash(config, without=("steps",)),
    }
    return training.Checkpoints(folder / records.CHECKPOINTS / run, identity)
