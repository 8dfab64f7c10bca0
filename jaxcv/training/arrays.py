"""A tree of arrays in one .npz file: what is handed on to others, without any code in it."""

import json
import os
import pathlib
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcv.checks import argument_error

__all__ = ["as_tuples", "load_arrays", "save_arrays", "write_npz"]

_ABOUT = "about"
_BROKEN = (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error)


def save_arrays(path: str | os.PathLike[str], tree: Mapping[str, Any], about: Any = None) -> None:
    """Writes nested dictionaries of arrays, at once: a reader sees the old file or the new one.

    Args:
        path: ends in .npz.
        tree: dictionaries down to arrays; names without a slash.
        about: what JSON can hold, kept beside.
    """
    flat: dict[str, np.ndarray] = {}

    def put(prefix, node):
        for name, child in node.items():
            if "/" in name or (not prefix and name == _ABOUT):
                expected = f"expected names without a slash, other than {_ABOUT!r}"
                raise argument_error("tree", expected, repr(name))
            if isinstance(child, Mapping):
                put(f"{prefix}{name}/", child)
            else:
                flat[f"{prefix}{name}"] = np.asarray(child)

    put("", tree)
    write_npz(path, flat | {_ABOUT: np.asarray(json.dumps(about))})


def write_npz(path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> None:
    """Writes `arrays` to a compressed .npz file, at once."""
    path = pathlib.Path(path)
    temporary = path.with_name(f"{path.name}.part")
    with temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
    temporary.replace(path)


def load_arrays(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Any]:
    """What `save_arrays` wrote: the nested dictionaries and `about`. Nothing is unpickled.

    Raises:
        ValueError: no such file, or not one of these.
    """
    expected, hint = "expected a file that save_arrays wrote", "Write it again."
    try:
        with np.load(os.fspath(path), allow_pickle=False) as file:
            flat = {name: file[name] for name in file.files}
        about = json.loads(str(flat.pop(_ABOUT)))
    except _BROKEN as error:
        raise argument_error(str(path), expected, repr(error), hint) from error
    tree: dict[str, Any] = {}
    for name, array in flat.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = array
    return tree, about


def as_tuples(value: Any) -> Any:
    """What JSON made of a tree of settings, with tuples in place of lists."""
    if isinstance(value, list):
        return tuple(as_tuples(each) for each in value)
    if isinstance(value, Mapping):
        return {name: as_tuples(each) for name, each in value.items()}
    return value
