"""Training, evaluation and prediction of an `Experiment`."""

import contextlib
import dataclasses
import logging
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from absl import app, flags
from absl import logging as absl_logging

from experiments.runner import loop, records, settings
from experiments.runner.figures import save_figures
from experiments.runner.records import DataError, data_error
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

__all__ = ["Experiment", "define_flags", "evaluate", "in_turn", "main", "predict", "train"]

USER_ERRORS = (settings.ConfigError, DataError, records.FolderError, training.CheckpointError)
_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that the runner needs to know of an experiment.

    Attributes:
        name: of the module; stands in results.json.
        config: a frozen dataclass with the fields `data`, `data_dir`, `steps` and `seed`.
        presets: name -> Config; `default` must be there.
        load: `load(config) -> data`, on the host; checks the values that enter.
        runs: `runs(config, data) -> {name: Run}`, trained in this order. Called as well to
            evaluate and to predict, for the shapes to restore into.
        evaluate: `evaluate(config, data, {name: TrainedRun}) -> {"<method>/<metric>": number or
            list}`. The mapping is `TrainedRuns`: its `once` keeps for `figures` what is computed.
        figures: `figures(config, data, {name: TrainedRun}, metrics) -> iterable of (file name,
            matplotlib Figure or a page as text)`; the runner saves and closes them.
        predict: `predict(config, data, {name: TrainedRun}, folder)`, writes files.
        source: the published numbers, under the keys of the metrics.
        x64: run wholly in double precision.
        metadata: `metadata(config, data) -> {name: JSON value}`, what of its data a training has to
            remember. Saved as metadata.json, and handed to `evaluate`, `figures` and `predict` in
            `TrainedRun.metadata`, whatever data these run on.
        fixed_metadata: entries of the metadata that define the model: data with another value are
            refused.
    """

    name: str
    config: type
    presets: Mapping[str, Any]
    load: Callable[[Any], Any]
    runs: Callable[[Any, Any], Mapping[str, Run]]
    evaluate: Callable[..., Mapping[str, Any]]
    figures: Callable[..., Iterable[tuple[str, Any]]]
    predict: Callable[..., None] | None = None
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    x64: bool = False
    metadata: Callable[[Any, Any], Mapping[str, Any]] | None = None
    fixed_metadata: tuple[str, ...] = ()


def train(
    experiment: Experiment, config: Any, workdir: Any, *, command: str | None = None
) -> dict[str, Any]:
    """Trains every run, evaluates, and writes the work folder.

    Runs that are finished are not trained again; an unfinished one goes on from its last
    checkpoint.

    Args:
        experiment: what to run.
        config: an instance of `experiment.config`.
        workdir: the folder to write; made if need be.
        command: what started the run, for the record.

    Returns:
        What results.json holds.

    Raises:
        ValueError: before anything is computed, if a setting is out of bounds, the folder cannot
            be written, it belongs to another config or experiment, or another process is
            training in it.
    """
    settings.check_config(experiment.config, config)
    settings.check_data_dir(config)
    config = settings.of_mode(config, "train")
    claimed = records.open_workdir(workdir, experiment.name, config, training=True)
    with claimed as folder, _precision(experiment):
        data = _loaded(experiment, config)
        metrics_file = records.MetricsFile(folder / "metrics.jsonl")
        metadata = dict(experiment.metadata(config, data)) if experiment.metadata else {}
        records.keep_metadata(folder, metadata)
        trained, seconds = TrainedRuns(), 0.0
        for name, run in checked_runs(experiment, config, data).items():
            trials = trials_of(run, config, trained)
            checkpoints = _checkpoints(experiment, config, folder, name)
            before = _before(name, run, trials, trained)
            prepared = loop.PreparedRun(name, run, trials, checkpoints, before)
            params, spent = loop.train_run(prepared, metrics_file)
            seconds += spent
            history = metrics_file.history(name, count_of(trials))
            trained[name] = TrainedRun(params, history, trials, metadata, spent)
        return _finish(experiment, config, data, trained, folder, command, seconds)


def in_turn(trials_by: str) -> bool:
    """Whether trials train one after the other: `loop`, or `auto` on CPUs; else by `vmap`."""
    return trials_by == "loop" or (trials_by == "auto" and jax.default_backend() == "cpu")


def evaluate(
    experiment: Experiment,
    config: Any,
    workdir: Any,
    checkpoint: Any,
    *,
    command: str | None = None,
) -> dict[str, Any]:
    """Evaluates an earlier training; writes results.json and figures to `workdir`.

    Args:
        experiment: what to run.
        config: the settings; None for those of the training. They must describe the same model.
        workdir: the folder to write, not that of the training, which is only read.
        checkpoint: the work folder of the training, or its checkpoints folder.
        command: what started the run, for the record.

    Returns:
        What results.json holds.

    Raises:
        ValueError: if there is no checkpoint, or it is of another experiment or model.
    """
    config, claimed, source = _open(experiment, config, workdir, checkpoint, "evaluate")
    with claimed as folder, _precision(experiment):
        data, trained = _restore(experiment, config, source)
        return _finish(
            experiment, config, data, trained, folder, command, 0.0, figures_may_fail=True
        )


def predict(experiment: Experiment, config: Any, workdir: Any, checkpoint: Any) -> pathlib.Path:
    """Writes the predictions of an earlier training to `workdir`, and returns that folder.

    The arguments and errors are those of `evaluate`.
    """
    if experiment.predict is None:
        expected = f"the experiment {experiment.name!r} makes no predictions"
        raise argument_error("mode", expected, "'predict'", "Use --mode=evaluate.")
    config, claimed, source = _open(experiment, config, workdir, checkpoint, "predict")
    with claimed as folder, _precision(experiment):
        data, trained = _restore(experiment, config, source)
        experiment.predict(config, data, trained, folder)
    return folder


def define_flags(experiment: Experiment, flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of an experiment: one per field of its Config, and the common ones."""
    settings.define_flags(experiment.config, experiment.presets, flag_values)


def main(experiment: Experiment) -> None:
    """All that an experiment module does when it is run: flags, then train, evaluate or predict."""
    define_flags(experiment)

    def run(argv):
        if not flags.FLAGS["verbosity"].present:
            absl_logging.set_verbosity(absl_logging.WARNING)  # orbax writes a page per checkpoint
            logging.getLogger("experiments").setLevel(logging.INFO)
        if len(argv) > 1:
            raise app.UsageError(f"expected flags only, got {argv[1:]}")
        try:
            _run(experiment, flags.FLAGS)
        except USER_ERRORS as error:
            sys.exit(f"error: {error}")  # the user's to mend: no traceback
        except KeyboardInterrupt as error:
            told = f"{error}. " if isinstance(error, loop.Interrupted) else ""
            print(f"stopped: {told}The same command goes on.", file=sys.stderr)
            sys.exit(130)  # as a shell reports it

    app.run(run)


def _run(experiment: Experiment, values: flags.FlagValues) -> None:
    command = records.command_line()
    given = settings.given_fields(experiment.config, values)
    workdir, checkpoint = values["workdir"].value, values["checkpoint"].value
    mode, preset = str(values["mode"].value), str(values["preset"].value)
    if mode == "train":
        if checkpoint is not None:
            raise settings.config_error(
                "checkpoint", "goes with --mode=evaluate or --mode=predict", repr(checkpoint),
                "A training goes on from the checkpoints in its --workdir by itself.",
            )  # fmt: skip
        config = dataclasses.replace(experiment.presets[preset], **given)
        train(experiment, config, workdir, command=command)
        return
    if values["preset"].present:
        _logger.info("--preset is not read: the settings are those of the checkpoint")
    config = _saved_config(experiment, records.run_folder(checkpoint), given)
    if mode == "evaluate":
        evaluate(experiment, config, workdir, checkpoint, command=command)
    else:
        predict(experiment, config, workdir, checkpoint)


def _open(
    experiment: Experiment, config: Any, workdir: Any, checkpoint: Any, mode: str
) -> tuple[Any, contextlib.AbstractContextManager[pathlib.Path], pathlib.Path]:
    """Config, folder to write (to be entered), folder of the training."""
    source = records.run_folder(checkpoint)
    saved = _saved_config(experiment, source, {})
    config = saved if config is None else config
    settings.check_config(experiment.config, config)
    settings.check_evaluated(saved, config)
    config = settings.of_mode(config, mode)
    claimed = records.open_workdir(workdir, experiment.name, config, training=False)
    return config, claimed, source


def _saved_config(experiment: Experiment, folder: pathlib.Path, changes: Mapping[str, Any]) -> Any:
    saved = records.read_config(folder)
    if saved["experiment"] != experiment.name:
        expected = f"expected a training of {experiment.name!r} in {folder}"
        hint = "Give the --workdir of a training of this experiment."
        raise records.folder_error("checkpoint", expected, repr(saved["experiment"]), hint)
    config = settings.config_from_dict(experiment.config, saved["config"])
    config = dataclasses.replace(config, **changes)
    settings.check_config(experiment.config, config)
    return config


def _loaded(experiment: Experiment, config: Any) -> Any:
    try:
        return experiment.load(config)
    except ModuleNotFoundError as error:
        missing = str(error.name)
        if missing.split(".")[0] in ("jaxcv", "experiments", "data_prep"):
            raise
        hint = 'pip install ".[experiments,data]" installs all that data sets need.'
        expected = "expected the package, which these data are read with"
        raise data_error(missing, expected, "none of that name", hint) from error


def _restore(experiment: Experiment, config: Any, folder: pathlib.Path) -> tuple[Any, TrainedRuns]:
    saved = _saved_config(experiment, folder, {})
    data = _loaded(experiment, config)
    metadata = records.read_metadata(folder)
    now = dict(experiment.metadata(config, data)) if experiment.metadata else {}
    for name in experiment.fixed_metadata:
        if now.get(name) != metadata.get(name):
            expected = f"the model in {folder} was trained with {metadata.get(name)}"
            hint = f"Give data with the same {name}, or train a model on these."
            raise data_error(name, expected, now.get(name), hint)
    metrics_file = records.MetricsFile(folder / "metrics.jsonl", read_only=True)
    trained = TrainedRuns()
    for name, run in checked_runs(experiment, config, data).items():
        trials = trials_of(run, config, trained)
        checkpoints = _checkpoints(experiment, saved, folder, name)
        before = _before(name, run, trials, trained)
        prepared = loop.PreparedRun(name, run, trials, checkpoints, before)
        restored = prepared.checkpoints.restore(prepared.sweep.shapes(trials, before))
        if restored is None:
            expected = f"expected a checkpoint of the run {name!r} that can be read"
            got = f"none in {prepared.checkpoints.folder}"
            hint = "Finish the training first: give its command again."
            raise records.folder_error("checkpoint", expected, got, hint)
        if not prepared.finished(restored.state):
            _logger.warning("%s is at step %d of %d", name, restored.step, run.steps)
        params = jax.device_put(prepared.sweep.result(restored.state))
        history = metrics_file.history(name, count_of(trials))
        trained[name] = TrainedRun(params, history, trials, metadata, restored.seconds)
    return data, trained


def _before(name: str, run: Run, trials: Any, trained: Mapping[str, TrainedRun]) -> Any:
    """The params that the run goes on from; None if it begins anew."""
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
) -> dict[str, Any]:
    start = time.perf_counter()
    metrics = experiment.evaluate(config, data, trained)
    results = {
        "experiment": experiment.name,
        "config": settings.config_to_dict(config),
        "metrics": {key: records.json_ready(key, value) for key, value in metrics.items()},
        "source": {key: records.json_ready(key, v) for key, v in experiment.source.items()},
        "environment": records.environment(command, config, seconds + time.perf_counter() - start),
    }
    records.write_json(folder / "results.json", results)
    _logger.info("%s", folder / "results.json")
    try:
        save_figures(experiment.figures(config, data, trained, metrics), folder / "figures")
    except Exception as error:
        if not figures_may_fail and all(_finite(one.params) for one in trained.values()):
            raise
        told = f"{type(error).__name__}: {error}"
        _logger.warning("the other figures cannot be made (%s)", told)
    return results


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
        "config_hash": records.config_hash(config),
    }
    return training.Checkpoints(folder / records.CHECKPOINTS / run, identity)
