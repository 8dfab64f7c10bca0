"""The command that trains, stores and checks the models."""

import pathlib
import subprocess
import sys

from absl import app, flags

from experiments.pretrained import storing
from experiments.pretrained.checks import CHECKS, COUNT
from experiments.pretrained.recipes import RECIPES
from experiments.runner import records, settings
from jaxcv.systems import load_pretrained
from jaxcv.systems.pretrained import PRETRAINED

__all__ = ["check", "main"]

LIMIT = 3.0  # standard errors by which a new sample may be worse than the card
ERRORS = (records.DataError, records.FolderError, settings.ConfigError)

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the trainings, one in each. Required.")
_ONLY = flags.DEFINE_multi_string("only", [], "Name of a model; repeat the flag for several.")
_CHECK = flags.DEFINE_boolean("check", False, "Evaluate the stored models on new samples.")
_FORCE = flags.DEFINE_boolean("force", False, "Store a model that is worse than the one before.")


def main() -> None:
    """Runs the command."""
    settings.show_in_help(("workdir", "only", "check", "force"))
    app.run(_main)


def _main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"expected flags only, got {argv[1:]}")
    try:
        for name in _ONLY.value:
            if name not in RECIPES:
                expected = f"expected one of {', '.join(RECIPES)}"
                raise settings.config_error("only", expected, repr(name))
        if _CHECK.value:
            sys.exit(check(_ONLY.value))
        if _WORKDIR.value is None:
            raise settings.config_error("workdir", "expected a folder", "none", "--workdir=DIR.")
        folder = records.made_folder(_WORKDIR.value)
        for name in _ONLY.value or RECIPES:
            _train(name, folder / name)
            print(storing.store(name, RECIPES[name], folder / name, force=_FORCE.value))
    except ERRORS as error:
        sys.exit(f"error: {error}")


def _train(name: str, workdir: pathlib.Path) -> None:
    recipe = RECIPES[name]
    program = [sys.executable, "-m", f"experiments.{recipe.experiment}"]
    print(f"{name}: python -m experiments.{recipe.experiment} --workdir={workdir}", flush=True)
    try:
        done = subprocess.run([*program, f"--workdir={workdir}", *recipe.flags], check=False)
    except KeyboardInterrupt:
        sys.exit(130)
    if done.returncode:
        sys.exit(done.returncode)  # the training has said why


def check(names: list[str] | tuple[str, ...] = (), count: int = COUNT) -> str | None:
    """Prints each stored model's headline metric on new samples beside that of its card.

    Returns:
        The models that are worse by more than LIMIT standard errors and the card's interval; None
        if there are none.
    """
    stored = sorted(path.stem for path in PRETRAINED.glob("*.safetensors"))
    failed = []
    print(f"{'model':16} {'metric':32} {'card':>9} {f'{count} new':>9} {'allowed':>9}")
    for name in names or stored:
        if name not in CHECKS:
            print(f"{name:16} has no check")
            continue
        model = load_pretrained(name)
        headline = model.card["headline"]
        value, error = CHECKS[name](model, count)
        sign = 1 if headline["better"] == "higher" else -1
        allowed = LIMIT * error + headline["half_interval"]
        good = sign * (headline["value"] - value) <= allowed
        failed += [] if good else [name]
        numbers = f"{headline['value']:9.4g} {value:9.4g} {allowed:9.2g}"
        print(f"{name:16} {headline['metric']:32} {numbers} {'ok' if good else 'WORSE'}")
    return f"error: worse than their cards: {', '.join(failed)}" if failed else None
