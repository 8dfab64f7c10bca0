"""The files of a work folder: config.json, metadata.json, results.json, and atomic writes."""

import contextlib
import hashlib
import importlib.metadata
import io
import json
import math
import numbers
import os
import pathlib
import platform
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments.runner import settings
from jaxcv.checks import argument_error
from jaxcv.io import files

__all__ = ["FolderError", "config_hash", "environment", "json_ready", "write_json"]

CHECKPOINTS = "checkpoints"

_PACKAGES = ("jaxcv", "jax", "jaxlib", "numpy", "flax", "optax", "orbax-checkpoint")


class FolderError(ValueError):
    """A work folder cannot be used: not writable, of another config, or incomplete."""


def folder_error(name: str, expected: str, got: Any, hint: str) -> FolderError:
    """A `FolderError` with the text of `argument_error`."""
    return FolderError(str(argument_error(name, expected, got, hint)))


class DataError(ValueError):
    """A file or folder of the user's data is missing or malformed."""


@contextlib.contextmanager
def errors_as(kind: type[ValueError]) -> Iterator[None]:
    """Turns ValueError and OSError into `kind`, which the command line prints as one line."""
    try:
        yield
    except (DataError, FolderError):
        raise
    except ValueError as error:
        raise kind(str(error)) from error
    except OSError as error:  # rights, too many open files, a device that fails
        name, got = str(error.filename or "file"), error.strerror or str(error)
        raise kind(str(argument_error(name, "expected to read it", got))) from error


def data_errors() -> contextlib.AbstractContextManager[None]:
    """Turns errors of readers of the user's data into `DataError`."""
    return errors_as(DataError)


def data_error(name: str, expected: str, got: Any, hint: str) -> DataError:
    """A `DataError` with the text of `argument_error`; `name` is the file or the flag."""
    return DataError(str(argument_error(name, expected, got, hint)))


@contextlib.contextmanager
def open_workdir(
    workdir: Any, experiment: str, config: Any, *, training: bool, init_from: str | None = None
) -> Iterator[pathlib.Path]:
    """Creates and locks the work folder; writes config.json, or checks the existing one.

    A refused command changes nothing in the folder. A training may be given more steps.

    Raises:
        FolderError: the folder cannot be written, holds another config, is locked by another
            process, or (unless `training`) holds a training.
    """
    folder = made_folder(workdir)
    if not training and (folder / CHECKPOINTS).exists():
        expected = "expected a folder without a training"
        raise folder_error(
            "workdir", expected, folder, "Use another --workdir for evaluations and predictions."
        )
    with only_writer(folder):
        config = settings.config_to_dict(config)
        now = {"experiment": experiment, "config": config, "digest": _digest(config)}
        if init_from is not None:
            now["init_from"] = init_from
        _keep_config(folder, now, training)
        yield folder


def made_folder(workdir: Any) -> pathlib.Path:
    """Creates the folder of a path; raises FolderError if it cannot be created or written."""
    folder = pathlib.Path(workdir).expanduser().absolute()
    hint = "Give a folder that can be created and written as --workdir."
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(workdir)):
        expected = "expected a local folder"
        raise folder_error("workdir", expected, workdir, "Copy the folder to a bucket afterwards.")
    try:
        if folder.exists() and not folder.is_dir():
            raise folder_error("workdir", "expected a folder", f"the file {folder}", hint)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        expected = "expected a folder that can be written"
        raise folder_error("workdir", expected, f"{folder} ({error})"[:300], hint) from error
    return folder


def _keep_config(folder: pathlib.Path, now: dict[str, Any], training: bool) -> None:
    path, experiment = folder / "config.json", now["experiment"]
    if not path.exists():
        write_json(path, now)
        return
    before = read_config(folder)
    if before["experiment"] != experiment:
        expected = f"expected a folder of the experiment {experiment!r}"
        raise folder_error(
            "workdir", expected, repr(before["experiment"]), "Use another --workdir."
        )
    old, new = (one["config"] | {"init_from": one.get("init_from")} for one in (before, now))
    differing = [
        f"{name} = {old.get(name, 'nothing')!r} there, {new.get(name, 'nothing')!r} here"
        for name in sorted(old.keys() | new.keys())
        if old.get(name, "nothing") != new.get(name, "nothing")
    ]
    begun = any((folder / name).exists() for name in (CHECKPOINTS, "metrics.jsonl", "results.json"))
    if differing and not begun:  # only a refused command was here before
        write_json(path, now)
    elif training and _only_more_steps(old, new):
        write_json(path, now | {"lengthened": True})
    elif differing:
        expected = f"{folder} was begun with another config"
        raise folder_error("workdir", expected, "; ".join(differing), "Use another --workdir.")


def _only_more_steps(old: dict[str, Any], new: dict[str, Any]) -> bool:
    steps = old.get("steps")
    return isinstance(steps, int) and new == old | {"steps": new["steps"]} and new["steps"] > steps


@contextlib.contextmanager
def only_writer(folder: pathlib.Path) -> Iterator[None]:
    """Locks the work folder; the lock ends with the process, even if it is killed.

    Raises:
        FolderError: another process holds the lock.
    """
    with (folder / ".lock").open("a") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            expected = "expected a folder that no other process uses"
            hint = "Wait for it or end it, or use another --workdir."
            raise folder_error("workdir", expected, folder, hint) from None
        except (ImportError, OSError):  # not every system or file system has locks
            pass
        yield


def read_config(folder: pathlib.Path) -> dict[str, Any]:
    """The content of config.json: {"experiment": name, "config": fields, "init_from": folder}.

    "digest" tells that nothing was changed in the fields; folders of older versions have none.
    """
    path = folder / "config.json"
    saved = read_json(path, "Give the work folder of a training, or train into an empty one.")
    config = saved.get("config")
    if not isinstance(saved.get("experiment"), str) or not isinstance(config, dict):
        expected, hint = "expected config.json from a training", "Train into an empty folder."
        raise folder_error(str(path), expected, f"the entries {sorted(saved)}", hint)
    if "digest" in saved and saved["digest"] != _digest(config):
        expected = "expected the settings as the training wrote them"
        hint = "Undo the change. Other settings need another --workdir."
        raise folder_error(str(path), expected, "changed ones", hint)
    return saved


def _digest(config: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def read_json(path: pathlib.Path, hint: str) -> dict[str, Any]:
    """The JSON object in a file of a work folder."""
    with errors_as(FolderError):
        return files.read_json(path, f"expected {path.name} from a training", hint=hint)


def keep_metadata(folder: pathlib.Path, metadata: Mapping[str, Any]) -> None:
    """Writes metadata.json, or checks the existing one.

    Raises:
        DataError: the training in this folder was begun with other metadata.
    """
    path, metadata = folder / "metadata.json", json.loads(json.dumps(dict(metadata)))
    if not path.exists():
        write_json(path, metadata)
        return
    before = read_metadata(folder)
    for name in sorted(before.keys() | metadata.keys()):
        if before.get(name) != metadata.get(name):
            expected = f"{folder} was begun with data whose {name} is {before.get(name)}"
            raise data_error("data", expected, metadata.get(name), "Use another --workdir.")


def read_metadata(folder: pathlib.Path) -> dict[str, Any]:
    """The content of metadata.json; empty if a training was killed before it wrote one."""
    path = folder / "metadata.json"
    return read_json(path, "Train again in another --workdir.") if path.exists() else {}


def run_folder(checkpoint: Any, name: str = "checkpoint") -> pathlib.Path:
    """The work folder of `checkpoint`, which may also name its `checkpoints` or `model` folder.

    Raises:
        FolderError: the folder holds no training; `name` is the argument in the error.
    """
    expected, hint = (
        "expected the work folder of a training",
        f"Give --{name} the --workdir of an earlier training.",
    )
    if not checkpoint:
        raise folder_error(name, expected, repr(checkpoint), hint)
    folder = pathlib.Path(checkpoint).expanduser().absolute()
    if folder.name in (CHECKPOINTS, "model"):
        folder = folder.parent
    if not any((folder / inside).is_dir() for inside in (CHECKPOINTS, "model")):
        got = f"{checkpoint}, which " + (
            f"has no folder {CHECKPOINTS!r}" if folder.is_dir() else "is not there"
        )
        raise folder_error(name, expected, got, hint)
    return folder


def config_hash(config: Any, *, without: Sequence[str] = ()) -> str:
    """Sixteen hexadecimal digits that identify a config; the fields in `without` do not count."""
    fields = settings.config_to_dict(config).items()
    kept = {name: value for name, value in fields if name not in without}
    return _digest(kept)[:16]


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes `value` to `path` atomically: a reader sees the old file or the new one."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    write_text(path, text)


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes `text` to `path` atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes `content` to `path` atomically.

    Raises:
        FolderError: the file cannot be written, e.g. on a full disk; the old one stays.
    """
    with errors_as(FolderError):
        files.write_bytes(path, content, "Make room or give rights, then give the command again.")


def write_npz(path: pathlib.Path, arrays: Mapping[str, Any]) -> None:
    """Writes `arrays` to a compressed .npz file atomically."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def json_ready(name: str, value: Any) -> Any:
    """`value` as JSON: numbers and nested lists of numbers; a non-finite number becomes None.

    Raises:
        ValueError: `value` holds anything else.
    """
    if value is None:
        return None
    if isinstance(value, (np.ndarray, jax.Array)):
        value = np.asarray(value).tolist()
    if isinstance(value, (bool, np.bool_, numbers.Integral)):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [json_ready(name, one) for one in value]
    raise argument_error(name, "expected a number or a list of numbers", repr(value))


def json_tree(name: str, value: Any) -> Any:
    """As `json_ready`, but text and dictionaries are allowed too."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return {str(key): json_tree(f"{name}.{key}", each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_tree(name, each) for each in value]
    return json_ready(name, value)


def environment(command: str | None, config: Any, seconds: float) -> dict[str, Any]:
    """The entry `environment` of results.json: commit, command, versions, device, seconds.

    Without a config there is no hash of one.
    """
    return {
        "commit": _commit(),
        "command": command,
        "config_hash": None if config is None else config_hash(config),
        "versions": {"python": platform.python_version()} | _versions(),
        "device": ", ".join(sorted({f"{d.platform} {d.device_kind}" for d in jax.devices()}))
        + f" ({os.cpu_count()} CPU cores)",
        "seconds": round(float(seconds), 3),
    }


def command_line() -> str:
    """The shell command that started this process."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = ["python", sys.argv[0]]
    if spec is not None:
        program = ["python", "-m", spec.name.removesuffix(".__main__")]
    return shlex.join([*program, *sys.argv[1:]])


def _versions() -> dict[str, str | None]:
    out: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            out[name] = None
    return out


def _commit() -> str | None:
    """The commit of the code that runs, with `-dirty` if it was changed; None outside git."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=pathlib.Path(__file__).parent, check=True,
            capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        return done.stdout.strip()

    try:
        # An installed copy may lie inside an unrelated repository.
        if not git("ls-files", pathlib.Path(__file__).name):
            return None
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None
