"""The messages at the start of a training: its runs, its folder, and an estimate of the time."""

import json
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

from experiments.runner import records, settings

__all__ = ["announce", "recorded_seconds"]

_logger = logging.getLogger(__name__)
RECORDS = pathlib.Path(__file__).parents[1] / "results"


def announce(experiment: str, config: Any, runs: Mapping[str, Any], folder: pathlib.Path) -> None:
    """Logs the runs with their steps, the folder and its state, and the time of the record."""
    steps = sorted({run.steps for run in runs.values()})
    span = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
    named = ", ".join(list(runs)[:4]) + (", ..." if len(runs) > 4 else "")
    plural = "s" if len(runs) > 1 else ""
    _logger.info("%s: trains %s (%d run%s of %s steps)", experiment, named, len(runs), plural, span)
    seconds = recorded_seconds(experiment, config)
    begun = (folder / records.CHECKPOINTS).is_dir()
    state = "goes on from its checkpoints" if begun else "is new"
    if seconds is None:
        _logger.info("%s %s", folder, state)
    else:
        minutes = f"{seconds / 60:.1f} min were recorded for a whole training of this kind"
        _logger.info("%s %s; %s", folder, state, minutes)


def recorded_seconds(experiment: str, config: Any) -> float | None:
    """Seconds of the committed record with the same settings but seed and data; None: no record."""
    free = {"seed", "data_dir", "cache_dir"}
    kept = lambda fields: {name: x for name, x in fields.items() if name not in free}
    now = kept(settings.config_to_dict(config))
    for path in sorted(RECORDS.glob(f"{experiment}*.json")):
        record = json.loads(path.read_text())
        saved = settings.as_of_today(type(config), record["config"])
        if record["experiment"] == experiment and kept(saved) == now:
            return float(record["environment"]["seconds"])
    return None
