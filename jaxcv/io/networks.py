"""The file format of networks: arrays and settings in one safetensors file; no code.

Keys of the arrays are paths joined by `/`. The header has one entry, `card`, a JSON object with the
format's version; safetensors would shuffle several entries. Named tuples and modules are stored by
class name, and restored only if the caller lists the class.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from jaxcv.checks import argument_error
from jaxcv.io.files import check_file, write_bytes

__all__ = ["Model", "read_tree", "restore_settings", "save_settings", "write_tree"]

FORMAT = "jaxcv/1"
_TYPE = "type"  # the entry of a settings object that names its class
_TYPES = "types"  # the entry of a card: path in the tree -> name of the named tuple there
_HINT = "Write it again."


class Model(NamedTuple):
    """A trained model.

    Attributes:
        params: a tree of arrays.
        settings: keyword arguments of the system's function, beside `params`.
        card: a JSON object: `system`, and the origin of the model.
    """

    params: Any
    settings: dict[str, Any]
    card: dict[str, Any]


def write_tree(
    path: str | os.PathLike[str], tree: Any, card: Mapping[str, Any], types: Iterable[type] = ()
) -> None:
    """Writes a tree of arrays atomically. Equal trees and cards give equal bytes.

    Args:
        path: of the file.
        tree: nested dictionaries and named tuples down to arrays; names without a slash.
        card: a JSON object, stored in the header.
        types: the classes of the named tuples.

    Raises:
        ValueError: a name with a slash, an unlisted class, or a dtype that the format lacks.
    """
    known = {each.__name__: each for each in types}
    arrays: dict[str, np.ndarray] = {}
    classes: dict[str, str] = {}

    def put(path: str, node: Any) -> None:
        if hasattr(node, "_asdict"):
            name = type(node).__name__
            if known.get(name) is not type(node):
                raise argument_error("tree", f"expected named tuples of {sorted(known)}", name)
            classes[path] = name
            node = node._asdict()
        if isinstance(node, Mapping):
            for name, child in node.items():
                if not isinstance(name, str) or "/" in name or not name:
                    raise argument_error("tree", "expected names without a slash", repr(name))
                put(f"{path}/{name}" if path else name, child)
        elif path:
            # `ascontiguousarray` would make 0-d arrays 1-d.
            arrays[path] = np.array(node, order="C")
        else:
            raise argument_error("tree", "expected a dictionary or a named tuple", type(node))

    put("", tree)
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf" or array.dtype.byteorder == ">":
            raise argument_error(f"tree['{name}']", "expected an array of numbers", array.dtype)
    arrays = dict(sorted(arrays.items()))
    card = {**card, "format": FORMAT, _TYPES: classes, "sha256": _digest(arrays)}
    header = json.dumps(card, sort_keys=True)
    content = safetensors.numpy.save(arrays, {"card": header})
    write_bytes(path, content, "Make room or give rights, then write it again.")


def read_tree(
    path: str | os.PathLike[str], types: Iterable[type] = ()
) -> tuple[Any, dict[str, Any]]:
    """The tree and the card of a file by `write_tree`. Nothing is unpickled.

    Args:
        path: of the file.
        types: allowed classes of named tuples.

    Raises:
        ValueError: no such file, another format, arrays that do not match the card's sha256, or
            named tuples of other classes.
    """
    path = pathlib.Path(path)
    expected = "expected a network's file (safetensors)"
    check_file(path)
    try:
        with safetensors.safe_open(path, framework="np") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in sorted(file.keys())}
        card = json.loads(header.get("card", "null"))
    except (
        OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError, RecursionError,
        safetensors.SafetensorError,
    ) as error:  # fmt: skip
        raise argument_error(str(path), expected, _first_line(error), _HINT) from error
    if not isinstance(card, dict) or card.pop("format", None) != FORMAT:
        raise argument_error(str(path), expected, f"a file without the format {FORMAT!r}", _HINT)
    classes, digest = (card.pop(name, None) for name in (_TYPES, "sha256"))
    if digest != _digest(arrays):
        raise argument_error(str(path), "expected the arrays of its sha256", "others", _HINT)
    try:
        return _tree_of(arrays, classes, {each.__name__: each for each in types}), card
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        expected = "expected a tree that fits its card"
        raise argument_error(str(path), expected, _first_line(error), _HINT) from error


def _tree_of(arrays: Mapping[str, np.ndarray], classes: Any, known: Mapping[str, type]) -> Any:
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = array
    for path in sorted(classes, key=lambda path: -path.count("/") if path else 1):
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node[parent]
        made = known[classes[path]](**(node[last] if path else tree))
        if not path:
            return made
        node[last] = made
    return tree


def save_settings(value: Any, types: Iterable[type] = ()) -> Any:
    """Settings as JSON; modules and named tuples become {"type": name, **fields}.

    Raises:
        ValueError: a value of another type.
    """
    known = {each.__name__: each for each in types}

    def convert(value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        name = type(value).__name__
        if known.get(name) is type(value):
            return {_TYPE: name} | {field: convert(x) for field, x in _fields(value).items()}
        if isinstance(value, Mapping):
            return {key: convert(each) for key, each in value.items()}
        if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
            return [convert(each) for each in value]
        if np.ndim(value) == 0 and hasattr(value, "dtype"):
            return np.asarray(value).item()
        raise argument_error("settings", f"expected JSON values or {sorted(known)}", repr(value))

    return convert(value)


def restore_settings(value: Any, types: Iterable[type] = ()) -> Any:
    """The inverse of `save_settings`; lists become tuples.

    Raises:
        ValueError: an unlisted class, or fields that the class lacks.
    """
    known = {each.__name__: each for each in types}

    def convert(value: Any) -> Any:
        if isinstance(value, list):
            return tuple(convert(each) for each in value)
        if not isinstance(value, dict):
            return value
        fields = {key: convert(each) for key, each in value.items() if key != _TYPE}
        if _TYPE not in value:
            return fields
        if value[_TYPE] not in known:
            got = repr(value[_TYPE])
            raise argument_error("settings", f"expected one of {sorted(known)}", got)
        try:
            return known[value[_TYPE]](**fields)
        except TypeError as error:
            raise argument_error("settings", f"expected a {value[_TYPE]}", str(error)) from error

    return convert(value)


def _fields(value: Any) -> dict[str, Any]:
    """The fields of a named tuple or a flax module."""
    if hasattr(value, "_asdict"):
        return value._asdict()
    names = (name for name in value.__dataclass_fields__ if name not in ("parent", "name"))
    return {name: getattr(value, name) for name in names}


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
