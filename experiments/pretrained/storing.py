"""The folder jaxcv/pretrained/: a finished training becomes a model with its card."""

import fnmatch
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import safetensors

from experiments.pretrained.recipes import Recipe
from experiments.runner import records
from jaxcv.io.files import read_json
from jaxcv.io.interfaces import describe
from jaxcv.systems import load_model, save_model
from jaxcv.systems.pretrained import FORMAT, PRETRAINED

__all__ = ["CARD", "LARGEST", "card_of", "comparison", "old_card", "store"]

LARGEST = 3_000_000  # bytes of a model's file
CARD = (
    "name", "version", "system", "settings", "inputs", "outputs", "parameters", "data", "command",
    "commit", "jax", "platform", "minutes", "metrics", "headline", "limits", "licence", "citation",
    "sha256",
)  # fmt: skip


def store(
    name: str, recipe: Recipe, workdir: pathlib.Path, *, force: bool = False,
    folder: pathlib.Path = PRETRAINED,
) -> str:  # fmt: skip
    """Stores the model of a finished training under `name`, and returns the comparison's lines.

    Args:
        name: of the model.
        recipe: its recipe.
        workdir: of its training.
        force: also if it is worse than the model before.
        folder: of the stored models.

    Raises:
        DataError: no finished training, no baseline, a file above 3 MB, or a worse model.
    """
    with records.data_errors():
        record = read_json(workdir / "results.json", "expected the results of a training")
        model = load_model(workdir, system=recipe.experiment)
    before = old_card(name, folder)
    card = card_of(name, recipe, record, model, before)
    lines, worse = comparison(recipe, before, card)
    if worse and not force:
        hint = "Train it longer, or store it with --force."
        raise records.data_error(name, "expected a model no worse than before", worse, hint)
    folder.mkdir(exist_ok=True)
    new = folder / f".{name}.safetensors"  # checked before it replaces the model
    try:
        save_model(new, model._replace(card={**model.card, **card}))
        size = new.stat().st_size
        if size > LARGEST:
            hint = "Train a smaller network."
            raise records.data_error(name, f"expected at most {LARGEST} bytes", size, hint)
        load_model(new)
        new.replace(folder / f"{name}.safetensors")
    finally:
        new.unlink(missing_ok=True)
    records.write_json(folder / f"{name}.json", header_card(folder / f"{name}.safetensors"))
    _write_index(folder)
    return lines


def header_card(path: pathlib.Path) -> dict[str, Any]:
    """The card in a model's file, as it stands there."""
    with safetensors.safe_open(path, framework="np") as file:
        return json.loads(file.metadata()["card"])


def old_card(name: str, folder: pathlib.Path = PRETRAINED) -> dict[str, Any] | None:
    """The card of the stored model of that name; None if there is none."""
    path = folder / f"{name}.json"
    return records.read_json(path, "Store it again.") if path.exists() else None


def card_of(
    name: str, recipe: Recipe, record: Mapping[str, Any], model: Any,
    before: Mapping[str, Any] | None,
) -> dict[str, Any]:  # fmt: skip
    """The entries CARD, without those that the file's writer adds: settings and sha256.

    Raises:
        DataError: the training has no headline metric, or none of the baselines.
    """
    metrics, config = record["metrics"], record["config"]
    for key in (recipe.headline, *recipe.baselines):
        if metrics.get(key) is None:
            hint = "A model is not stored without a baseline on its card."
            raise records.data_error(key, f"expected this metric of {name}", "none", hint)
    patterns = (recipe.headline, *recipe.baselines, *recipe.metrics)
    kept = {
        key: value
        for key, value in metrics.items()
        if any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)
    }
    environment, described = record["environment"], describe(model)
    leaves = jax.tree.leaves(model.params)
    flags = " ".join(("--workdir=DIR", *recipe.flags))
    return {
        "name": name,
        "version": 1 + int((before or {}).get("version", 0)),
        "system": recipe.experiment,
        "inputs": described["inputs"],
        "outputs": described["outputs"],
        "parameters": int(sum(np.size(leaf) for leaf in leaves)),
        "data": {
            "generator": recipe.generator,
            "sizes": {field: config[field] for field in recipe.sizes},
            "seeds": recipe.seeds,
        },
        "command": f"python -m experiments.{recipe.experiment} {flags}",
        "commit": environment["commit"],
        "jax": environment["versions"]["jax"],
        "platform": environment["device"],
        "minutes": round(environment["seconds"] / 60, 2),
        "metrics": kept,
        "headline": {
            "metric": recipe.headline,
            "value": float(np.mean(metrics[recipe.headline])),
            "half_interval": recipe.interval(metrics, config),
            "better": "higher" if recipe.higher else "lower",
            "baselines": {key: float(np.mean(metrics[key])) for key in recipe.baselines},
        },
        "limits": list(recipe.limits),
        "licence": "Apache-2.0",
        "citation": recipe.citation,
    }


def comparison(
    recipe: Recipe, before: Mapping[str, Any] | None, card: Mapping[str, Any]
) -> tuple[str, str]:
    """Old and new metrics as lines, and why the new model is worse; "" if it is not."""
    new, old = card["headline"], (before or {}).get("headline")
    names = [recipe.headline, *recipe.baselines]
    last = (before or {}).get("metrics", {})
    lines = [f"{'metric':40} {'before':>10} {'now':>10}"]
    for name in names:
        shown = [
            "-" if x is None else f"{np.mean(x):.4g}"
            for x in (last.get(name), card["metrics"].get(name, new["value"]))
        ]
        lines.append(f"{name:40} {shown[0]:>10} {shown[1]:>10}")
    if old is None or old.get("metric") != new["metric"]:
        return "\n".join(lines), ""
    loss = (old["value"] - new["value"]) * (1 if recipe.higher else -1)
    allowed = max(old["half_interval"], new["half_interval"])
    worse = f"{new['metric']} {new['value']:.4g}, before {old['value']:.4g} +- {allowed:.2g}"
    return "\n".join(lines), worse if not loss <= allowed else ""


def _write_index(folder: pathlib.Path) -> None:
    models = {
        path.stem: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in sorted(folder.glob("[!.]*.safetensors"))
    }
    records.write_json(folder / "index.json", {"format": FORMAT, "models": models})
