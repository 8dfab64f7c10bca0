"""Trains an experiment once for every combination of some settings' values."""

import dataclasses
import itertools
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.runner import records, results, settings
from experiments.runner.run import Experiment, train

__all__ = ["sweep"]

_logger = logging.getLogger(__name__)


def sweep(
    experiment: Experiment,
    config: Any,
    values: Mapping[str, Sequence[Any]],
    workdir: Any,
    *,
    init_from: Any = None,
    command: str | None = None,
) -> dict[str, results.Result]:
    """Trains every combination of values in sequence, each in its own folder.

    Settings that accept several values train them in one run by `vmap`: give those in the config.
    The same call resumes an interrupted sweep.

    Args:
        experiment: what to run.
        config: the settings that are not swept.
        values: field -> its values.
        workdir: the parent of the folders `<field>=<value>,...`; its sweep.json holds the
            metrics of all runs.
        init_from: as for `train`.
        command: command line that started the run, for the record.

    Returns:
        Name of the folder -> its result.

    Raises:
        ValueError: as `train`; all combinations are checked before the first is trained.
    """
    rows = itertools.product(*values.values())
    combinations = [dict(zip(values, row, strict=True)) for row in rows]
    named = {_folder_name(one): dataclasses.replace(config, **one) for one in combinations}
    if len(named) != len(combinations):
        got = ", ".join(f"{name} {list(own)}" for name, own in values.items())
        raise settings.config_error("sweep", "expected values that differ", got)
    for one in named.values():
        settings.check_config(experiment.config, one)
        settings.check_data_dir(one)
    folder = records.made_folder(workdir)
    if (folder / "config.json").exists():
        expected = "expected a folder without a training"
        raise records.folder_error("workdir", expected, folder, "Use another --workdir.")
    found = {}
    for number, (name, one) in enumerate(named.items(), 1):
        _logger.info("%d of %d: %s", number, len(named), name)
        found[name] = train(experiment, one, folder / name, init_from=init_from, command=command)
    record = {
        "experiment": experiment.name,
        "swept": {name: [records.json_tree(name, x) for x in own] for name, own in values.items()},
        "metrics": {name: result.metrics for name, result in found.items()},
    }
    records.write_json(folder / "sweep.json", record)
    return found


def _folder_name(values: Mapping[str, Any]) -> str:
    text = ",".join(f"{name}={value}" for name, value in values.items())
    return re.sub(r"[^A-Za-z0-9_.,=+-]", "_", text)[:200]
