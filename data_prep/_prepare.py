"""A preparation that is never stale, shared by the builders."""

import contextlib
import hashlib
import io
import logging
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import tensorflow_datasets as tfds

from jaxcv.data import synthetic
from jaxcv.io.files import check_file

__all__ = [
    "ArrayRecordBuilder", "cache_folder", "config_name", "prepare_builder", "prepare_generated",
    "tensor",
]  # fmt: skip


class ArrayRecordBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A builder whose files are read and written without TensorFlow."""

    def __init__(self, **kwargs: Any):
        kwargs.setdefault("file_format", "array_record")
        super().__init__(**kwargs)


def tensor(shape: tuple[int | None, ...], dtype: Any) -> tfds.features.Tensor:
    """The feature of an array, compressed."""
    return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="zlib")


def config_name(values: Any) -> str:
    """A name for the config of a builder: a hash of everything that its data depend on."""
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]


def cache_folder(cache_dir: str | os.PathLike[str] | None, name: str) -> pathlib.Path:
    """Where a data set is prepared: `cache_dir`, or jaxcv/<name> in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(cache_dir or pathlib.Path(home) / "jaxcv" / name)


def prepare_builder(
    make: Callable[[str], Any],
    manual_dir: str | os.PathLike[str],
    cache_dir: str | os.PathLike[str],
    files: Iterable[pathlib.Path],
) -> Any:
    """A builder whose data are those of some files as they are now.

    The prepared files lie in `cache_dir/<fingerprint>/`, where the fingerprint is a hash of the
    names and contents of the files. A preparation is reused only for the same contents; it gets
    its final name when it is complete, so that a killed one is done again.

    Args:
        make: `make(data_dir)` -> a TFDS builder.
        manual_dir: the folder that the files lie in.
        cache_dir: where to prepare; made if it does not exist.
        files: all files that are read.
    """
    cache = pathlib.Path(cache_dir) / _fingerprint(pathlib.Path(manual_dir), files)
    with _quiet():
        builder = make(os.fspath(cache))
    try:
        with _quiet():
            builder.download_and_prepare(
                download_dir=os.fspath(cache / "downloads"),
                download_config=tfds.download.DownloadConfig(manual_dir=os.fspath(manual_dir)),
            )
    except OSError:
        builder = make(os.fspath(cache))
        if not builder.is_prepared():  # else another process was faster, with the same contents
            raise
    return builder


def prepare_generated(
    make: Callable[[str], Any], cache_dir: str | os.PathLike[str], sources: Iterable[str]
) -> Any:
    """A builder whose data are generated; nothing is generated twice by the same code.

    Args:
        make: `make(data_dir)` -> a TFDS builder.
        cache_dir: where to prepare; made if it does not exist.
        sources: the files of `jaxcv.data.synthetic` that generate.
    """
    root = pathlib.Path(next(iter(synthetic.__path__)))
    return prepare_builder(make, root, cache_dir, [root / name for name in sources])


def _fingerprint(root: pathlib.Path, files: Iterable[pathlib.Path]) -> str:
    """Hash of the relative paths and the contents of files."""
    total = hashlib.sha256()
    for path in files:
        check_file(path)
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(root).as_posix()}\0{content}\n".encode())
    return total.hexdigest()[:16]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without TFDS's banners, its bar for each shard, and its warning of a config of our own."""
    from tensorflow_datasets.core.utils import tqdm_utils

    shown = getattr(tqdm_utils, "_active", True)
    tfds.disable_progress_bar()
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.display_progress_bar(shown)
        logger.setLevel(level)
