"""Several trainings of one experiment, one for each combination of some settings' values."""

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
    """Trains every combination of values, one after the other, each in a folder of its own.

    Settings that take several values themselves train side by side by `vmap`: give them in the
    config. A sweep that was stopped goes on with the same call.

    Args:
        experiment: what to run.
        config: the settings that are not swept.
        values: field -> its values.
        workdir: the folder of the folders, `<field>=<value>,...`; sweep.json in it holds the
            metrics of all.
        init_from: as of `train`.
        command: what started the run, for the record.

    Returns:
        Name of the folder -> its result.

    Raises:
        ValueError: as `train`, for all combinations before the first of them is trained.
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
        expected = "expected another folder than that of a training"
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
