"""Trained models that come with jaxcv."""

import hashlib
import os
import pathlib

from jaxcv.checks import argument_error
from jaxcv.io.files import check_file, read_json
from jaxcv.io.networks import Model
from jaxcv.systems.models import load_model

__all__ = ["PRETRAINED", "load_pretrained"]

PRETRAINED = pathlib.Path(__file__).parents[1] / "pretrained"
FORMAT = "jaxcv-pretrained/1"
_HINT = "Install jaxcv again."


def load_pretrained(name: str | os.PathLike[str]) -> Model:
    """Loads a model that comes with jaxcv.

    Its card says what it was trained on, how well it does beside a baseline, and what it cannot do:
    `print(load_pretrained("curves").card["limits"])`.

    Args:
        name: of a model, or a path as `load_model` takes it: a file, a run's folder `model`, or its
            work folder.

    Returns:
        `Model(params, settings, card)` for the argument `model` of the system's function.

    Raises:
        ValueError: an unknown name, or a damaged file.

    Example:
        >>> model = load_pretrained("curves")
    """
    models = _index()
    if str(name) in models:
        return _shipped(str(name), models[str(name)])
    if os.path.exists(name):
        return load_model(name)
    expected = f"expected one of {', '.join(sorted(models))}, or the path of a model"
    raise argument_error("name", expected, repr(str(name)), "Train one: python -m experiments.")


def _index() -> dict[str, dict[str, str]]:
    path = PRETRAINED / "index.json"
    index = read_json(path, "expected the index of the models", hint=_HINT)
    if index.get("format") != FORMAT or not isinstance(index.get("models"), dict):
        raise argument_error(str(path), f"expected the format {FORMAT!r}", "another", _HINT)
    return index["models"]


def _shipped(name: str, entry: dict[str, str]) -> Model:
    path = PRETRAINED / f"{name}.safetensors"
    check_file(path, hint=_HINT)
    if hashlib.sha256(path.read_bytes()).hexdigest() != entry.get("sha256"):
        raise argument_error(str(path), "expected the file of its index", "another", _HINT)
    return load_model(path)
