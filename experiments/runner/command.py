"""An experiment on the command line: flags, messages, exit status."""

import dataclasses
import logging
import sys

from absl import app, flags
from absl import logging as absl_logging

from experiments.runner import loop, records, settings
from experiments.runner.help import help_text
from experiments.runner.records import DataError
from experiments.runner.run import Experiment, evaluate, export, predict, saved_config, train
from experiments.runner.sweeping import sweep
from jaxcv import training

__all__ = ["define_flags", "main"]

USER_ERRORS = (settings.ConfigError, DataError, records.FolderError, training.CheckpointError)
_logger = logging.getLogger(__name__)


def define_flags(experiment: Experiment, flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of an experiment: one per field of its Config, and the common ones."""
    settings.define_flags(experiment.config, experiment.presets, flag_values)


def main(experiment: Experiment) -> None:
    """Runs an experiment as a command: parses the flags, then trains, evaluates, ..."""
    define_flags(experiment)
    if any(word in ("--help", "-help", "-h", "--helpshort", "-?") for word in sys.argv[1:]):
        print(help_text(experiment, sys.modules["__main__"].__doc__))
        sys.exit(0)

    def run(argv):
        if not flags.FLAGS["verbosity"].present:
            absl_logging.set_verbosity(absl_logging.WARNING)  # orbax writes a page per checkpoint
            logging.getLogger("experiments").setLevel(logging.INFO)
        if len(argv) > 1:
            raise app.UsageError(f"expected flags only, got {argv[1:]}")
        try:
            _run(experiment, flags.FLAGS)
        except USER_ERRORS as error:
            sys.exit(f"error: {error}")  # a user's mistake: no traceback
        except KeyboardInterrupt as error:
            told = f"{error}. " if isinstance(error, loop.Interrupted) else ""
            print(f"stopped: {told}Run the same command to resume.", file=sys.stderr)
            sys.exit(130)  # as shells report SIGINT

    app.run(run)


def _run(experiment: Experiment, values: flags.FlagValues) -> None:
    command = records.command_line()
    given = settings.given_fields(experiment.config, values)
    workdir, checkpoint = values["workdir"].value, values["checkpoint"].value
    mode, preset = str(values["mode"].value), str(values["preset"].value)
    trial = settings.given_trial(values, mode)
    swept = settings.swept_fields(experiment.config, values)
    if mode == "train":
        if checkpoint is not None:
            raise settings.config_error(
                "checkpoint", "goes with --mode=evaluate, predict or export", repr(checkpoint),
                "Training resumes from the checkpoints in its --workdir by itself; --init_from "
                "starts from the parameters of another run.",
            )  # fmt: skip
        config = dataclasses.replace(experiment.presets[preset], **given)
        own = "init_from" in {field.name for field in dataclasses.fields(experiment.config)}
        more = {"init_from": None if own else values["init_from"].value, "command": command}
        if swept:
            for result in sweep(experiment, config, swept, workdir, **more).values():
                print(f"{result}\n")
        else:
            print(train(experiment, config, workdir, **more))
        return
    if swept:
        expected = f"expected one value with --mode={mode}"
        raise settings.config_error(min(swept), expected, "several")
    if mode == "predict" and checkpoint is None and experiment.predict_untrained is not None:
        config = dataclasses.replace(experiment.presets[preset], **given)
        folder = predict(experiment, config, workdir, None, trial=trial)
        _logger.info("predictions: %s", folder)
        return
    if values["preset"].present:
        _logger.info("--preset is ignored: the settings are those of the checkpoint")
    if mode == "export":
        if given:
            name, value = next(iter(given.items()))
            raise settings.config_error(name, "does not go with --mode=export", repr(value))
        folder = export(experiment, workdir, checkpoint, trial=trial)
        print(f"export: {folder}\nrun it: python {folder}/run_exported.py {folder}")
        return
    config = saved_config(experiment, records.run_folder(checkpoint), given)
    if mode == "evaluate":
        print(evaluate(experiment, config, workdir, checkpoint, command=command))
    else:
        folder = predict(experiment, config, workdir, checkpoint, trial=trial)
        _logger.info("predictions: %s", folder)
