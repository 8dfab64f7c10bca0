"""Checks shared by all readers: a regular file, a size that fits, valid JSON; atomic writes."""

import contextlib
import json
import os
import pathlib
from typing import Any

import numpy as np

from jaxcv.checks import argument_error

__all__ = [
    "check_file",
    "check_memory",
    "numbers",
    "path_in",
    "read_json",
    "read_text",
    "write_bytes",
]

_TEXT = 2**28  # bytes of the largest text that is read


def check_file(path: str | os.PathLike[str], name: str | None = None, hint: str = "") -> None:
    """Raises ValueError unless `path` is a regular file: reading a named pipe would block."""
    path = pathlib.Path(path)
    try:
        if path.is_file():
            return
        there = path.exists() or path.is_symlink()
    except (OSError, ValueError) as error:  # names that are too long, or hold a zero byte
        got = f"{type(error).__name__}: {error}"[:200]
        raise argument_error(name or str(path)[:80], "expected a file", got, hint) from error
    got = "something that is no regular file" if there else "no such file"
    raise argument_error(name or str(path), "expected a file", got, hint)


def read_text(path: str | os.PathLike[str], *, hint: str = "", encoding: str = "utf-8") -> str:
    """The text of a file.

    Raises:
        ValueError: no regular file, no text in this encoding, or more than 256 MB.
    """
    check_file(path, hint=hint)
    name = os.fspath(path)
    try:
        size = os.stat(path).st_size
        if size <= _TEXT:
            return pathlib.Path(path).read_text(encoding=encoding)
    except (OSError, UnicodeDecodeError) as error:
        got = f"{type(error).__name__}: {error}"[:200]
        raise argument_error(name, "expected a text file", got, hint) from error
    raise argument_error(name, f"expected a text of at most {_TEXT} bytes", size, hint)


def read_json(path: str | os.PathLike[str], expected: str, *, hint: str = "") -> dict[str, Any]:
    """The object in a JSON file; `expected` is the phrase of the error message.

    Raises:
        ValueError: as `read_text`; or no JSON; or JSON that is no object.
    """
    text = read_text(path, hint=hint)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        got = f"{type(error).__name__}: {error}"[:200]
        raise argument_error(os.fspath(path), expected, got, hint) from error
    if not isinstance(found, dict):
        raise argument_error(os.fspath(path), expected, type(found).__name__, hint)
    return found


def numbers(name: str, value: Any, shape: tuple[int, ...], hint: str = "") -> np.ndarray:
    """An array of the given shape from JSON numbers; text and booleans are refused.

    Raises:
        ValueError: other types, another shape, or non-finite numbers.
    """
    expected = f"expected finite numbers of shape {shape}" if shape else "expected a finite number"

    def check(value: Any) -> None:
        if isinstance(value, (list, tuple)):
            for each in value:
                check(each)
        elif isinstance(value, (bool, str)) or not isinstance(value, (int, float)):
            raise argument_error(name, expected, _short(value), hint)

    try:
        check(value)
    except RecursionError as error:
        raise argument_error(name, expected, "lists in lists without end", hint) from error
    try:
        array = np.asarray(value, float)
    except (TypeError, ValueError, OverflowError) as error:  # rows that differ, huge integers
        raise argument_error(name, expected, _short(value), hint) from error
    if array.shape != shape or not np.isfinite(array).all():
        got = array.shape if array.shape != shape else "nan or inf"
        raise argument_error(name, expected, got, hint)
    return array


def path_in(folder: pathlib.Path, name: str, value: Any, hint: str = "") -> pathlib.Path:
    """The path of a file in `folder` named by a JSON entry; raises ValueError for no name."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise argument_error(name, "expected the name of a file", _short(value), hint)
    return folder / value


def write_bytes(path: str | os.PathLike[str], content: bytes, hint: str) -> None:
    """Writes a file atomically: a reader sees the old file or the new one.

    Raises:
        ValueError: the file cannot be written, e.g. on a full disk; the old one stays.
    """
    path = pathlib.Path(path)
    partial = path.with_name(f".{path.name}.partial")  # a fixed name: a killed process leaves one
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # a missing folder, or a name that is too long
            partial.unlink(missing_ok=True)
        got = error.strerror or error
        raise argument_error(str(path), "expected to write it", got, hint) from error


def check_memory(name: str, size: float, hint: str = "") -> None:
    """Raises ValueError if `size` bytes exceed the memory of this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if not size <= memory:
        expected = f"expected what fits into the {memory / 2**30:.0f} GiB of this machine"
        got = f"{size / 2**30:.4g} GiB"
        raise argument_error(name, expected, got, hint)


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**20 else "a huge integer"
    return text if len(text) <= 80 else text[:77] + "..."
