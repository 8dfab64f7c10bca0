"""Opens prepared data sets, the folders that TFDS builders write, without TensorFlow."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import tensorflow_datasets as tfds

from jaxcv.checks import argument_error
from jaxcv.io.files import check_file, read_json

__all__ = ["open_prepared", "splits_of"]

_OWN = "tensorflow_datasets.core.features."
_AGAIN = "Remove the folder, and prepare the data set again; see data_prep/README.md."


def open_prepared(source: Any, split: str) -> Any:
    """Examples of a builder or of a prepared data set's folder; a sequence is returned as it is.

    Raises:
        ValueError: the folder is no prepared data set, is damaged, or names classes outside TFDS.
    """
    source = builder_of(source)
    if not hasattr(source, "as_data_source"):
        return source
    folder = source.data_dir
    try:
        found = source.as_data_source(split=split)
        len(found)
    except Exception as error:  # of many classes, e.g. for a truncated shard
        raise _damaged(folder, error) from error
    return _Examples(found, folder)


def splits_of(source: Any) -> list[str]:
    """Names of the splits of a builder or a folder; an empty list for other sequences."""
    return list(getattr(getattr(builder_of(source), "info", None), "splits", None) or ())


def builder_of(source: Any) -> Any:
    """The builder of a prepared data set's folder; other values are returned as they are."""
    if not isinstance(source, (str, os.PathLike)):
        return source
    folder = pathlib.Path(source)
    if not (folder / "dataset_info.json").is_file():
        expected = "expected the folder of a prepared data set, with a dataset_info.json"
        hint = "Prepare the data set first; see data_prep/README.md."
        raise argument_error("source", expected, str(folder), hint)
    for path in folder.iterdir():
        if not path.is_dir():
            check_file(path, hint=_AGAIN)  # reading a named pipe would block
    _check_features(folder / "features.json")
    try:
        return tfds.builder_from_directory(os.fspath(folder))
    except Exception as error:  # of many classes, with a page of text
        raise _damaged(folder, error) from error


def _check_features(path: pathlib.Path) -> None:
    """Refuses classes outside TFDS, because TFDS imports every class that the file names."""
    waiting: list[Any] = [read_json(path, "expected the features of a data set", hint=_AGAIN)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            name = node.get("pythonClassName")
            if name is not None and not str(name).startswith(_OWN):
                expected = f"expected features of {_OWN}*"
                raise argument_error(str(path), expected, repr(name)[:80], _AGAIN)
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _damaged(folder: Any, error: Exception) -> ValueError:
    got = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return argument_error(str(folder), "expected an undamaged prepared data set", got, _AGAIN)


class _Examples(Sequence):
    """The examples of a prepared data set; a damaged one raises an error of one line."""

    def __init__(self, source: Any, folder: Any):
        self._source, self._folder = source, folder

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            return self._source[index]
        except Exception as error:  # array_record, protobuf and TFDS share no base class
            raise _damaged(self._folder, error) from error
