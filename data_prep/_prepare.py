"""Prepares data sets into caches keyed by the contents of their files."""

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
    """The feature of a compressed array."""
    return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="zlib")


def config_name(values: Any) -> str:
    """Names the config of a builder by a hash of all settings that its data depend on."""
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]


def cache_folder(cache_dir: str | os.PathLike[str] | None, name: str) -> pathlib.Path:
    """The folder to prepare in: `cache_dir`, or jaxcv/<name> in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(cache_dir or pathlib.Path(home) / "jaxcv" / name)


def prepare_builder(
    make: Callable[[str], Any],
    manual_dir: str | os.PathLike[str],
    cache_dir: str | os.PathLike[str],
    files: Iterable[pathlib.Path],
) -> Any:
    """A builder prepared from the current contents of some files.

    The prepared data lie in `cache_dir/<fingerprint>/`, where the fingerprint is a hash of the
    names and contents of the files; they are reused only for the same contents. They are renamed
    into place when complete, so an interrupted preparation is repeated.

    Args:
        make: `make(data_dir)` -> a TFDS builder.
        manual_dir: the folder that contains the files.
        cache_dir: the folder to prepare in; created if missing.
        files: the files that the fingerprint covers.
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
        if not builder.is_prepared():  # else another process has prepared the same contents
            raise
    return builder


def prepare_generated(
    make: Callable[[str], Any], cache_dir: str | os.PathLike[str], sources: Iterable[str]
) -> Any:
    """A builder of generated data; the cache is keyed by the generating code.

    Args:
        make: `make(data_dir)` -> a TFDS builder.
        cache_dir: the folder to prepare in; created if missing.
        sources: names of the files of `jaxcv.data.synthetic` that generate the data.
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
    """Silences TFDS: its banners, progress bars, and the warning about a custom config."""
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
