"""HDF5 files: arrays by name, with checked shapes and values."""

import contextlib
import io
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxcv.checks import argument_error
from jaxcv.io.files import check_file, check_memory, write_bytes

if TYPE_CHECKING:
    import h5py

__all__ = ["load_arrays", "open_hdf5", "save_arrays"]

_DAMAGED = (  # exceptions of h5py for damaged files
    OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError,
    MemoryError,
)  # fmt: skip


@contextlib.contextmanager
def open_hdf5(path: str | os.PathLike[str], hint: str = "") -> Iterator["h5py.File"]:
    """An HDF5 file for reading; errors of reading a damaged one become ValueError.

    Raises:
        ValueError: no regular file, no HDF5 file, or a damaged part that the caller reads.
    """
    import h5py

    check_file(path, hint=hint)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except _DAMAGED as error:
        if isinstance(error, ValueError) and str(error).startswith("`"):
            raise  # of a check by the caller
        got = f"{type(error).__name__}: {error}"
        expected = "expected an HDF5 file that can be read"
        raise argument_error(os.fspath(path), expected, got, hint) from error


def load_arrays(
    path: str | os.PathLike[str], shapes: Mapping[str, tuple[int | None, ...]]
) -> dict[str, np.ndarray]:
    """Reads arrays of an HDF5 file by name; checks their shapes and values.

    Args:
        path: of the file.
        shapes: name -> shape; None is any size.

    Raises:
        ValueError: as `open_hdf5`; a missing name, another shape, nan or inf.
    """
    import h5py

    out = {}
    with open_hdf5(path) as file:
        for name, shape in shapes.items():
            if not isinstance(file.get(name), h5py.Dataset):
                listed = ", ".join(sorted(file)) or "nothing"
                raise argument_error(os.fspath(path), f"expected an array {name!r}", listed)
            stored: Any = file[name]
            fits = len(stored.shape) == len(shape) and all(
                want in (None, got) for want, got in zip(shape, stored.shape, strict=True)
            )
            if not fits:
                want = "(" + ", ".join("?" if size is None else str(size) for size in shape) + ")"
                raise argument_error(f"{path}: {name}", f"expected {want}", stored.shape)
            check_memory(f"{path}: {name}", float(stored.nbytes))
            array = np.asarray(stored)
            if not (np.issubdtype(array.dtype, np.number) and np.all(np.isfinite(array))):
                raise argument_error(f"{path}: {name}", "expected finite numbers", array.dtype)
            out[name] = array
    return out


def save_arrays(path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> None:
    """Writes an HDF5 file atomically.

    Args:
        path: of the file; an existing one is replaced.
        arrays: name -> array.

    Raises:
        ValueError: as `jaxcv.io.files.write_bytes`.
    """
    import h5py

    path, content = pathlib.Path(path), io.BytesIO()
    with h5py.File(content, "w") as file:
        for name, array in arrays.items():
            file[name] = np.asarray(array)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content.getvalue(), "Make room or give rights, then write it again.")
