"""Exports of models: one folder that runs where only jax and flatbuffers are installed."""

import contextlib
import datetime
import functools
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import math
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from jaxcv.checks import argument_error
from jaxcv.io.files import write_bytes
from jaxcv.io.interfaces import Interface, describe, input_specs, interface_of, is_double
from jaxcv.io.networks import Model, write_tree

__all__ = ["export", "register_for_export"]

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
FORMAT = "jaxcv-export/1"
TOLERANCE = 1e-6  # of a reloaded export, relative to the largest number of an output
GRADIENT_TOLERANCE = 1e-3  # an exported VJP is compiled apart from its function, which rounds again
_BACKENDS = {"gpu": ("cuda", "rocm"), "cpu": ("cpu",), "tpu": ("tpu",)}
_HINT = "Make room or give rights, then export it again."

_READER = """\
import hashlib, json, pathlib, sys
import numpy as np
from jax import export
folder = pathlib.Path(sys.argv[1])
card = json.loads((folder / "card.json").read_text())
blob = (folder / "function.jaxexport").read_bytes()
if hashlib.sha256(blob).hexdigest() != card["sha256"]["function.jaxexport"]:
    sys.exit("damaged file")
data = dict(np.load(sys.argv[2] if len(sys.argv) > 2 else folder / "example.npz"))
outputs = export.deserialize(bytearray(blob)).call(*(data[name] for name in card["inputs"]))
print({name: np.asarray(value) for name, value in outputs.items()})
"""
_X64 = 'import jax; jax.config.update("jax_enable_x64", True)\n'
_PARAMS = 'data = {**np.load(folder / "params.npz"), **data}\n'


_REGISTERED: set[type] = set()


def register_for_export() -> None:
    """Registers the named tuples of jaxcv with `jax.export`, as `jaxcv.<Name>`.

    For functions of your own that take or return them: `jax.export` refuses named tuples that are
    not registered. Reading such an export needs jaxcv, and this call. It covers the modules that
    are imported so far; calling it again is harmless.
    """
    modules = [m for name, m in sorted(sys.modules.items()) if name.split(".")[0] == "jaxcv"]
    for module in modules:
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name, None)
            if not (isinstance(value, type) and issubclass(value, tuple)):
                continue
            if hasattr(value, "_fields") and value not in _REGISTERED:
                named = f"jaxcv.{value.__name__}"
                jax_export.register_namedtuple_serialization(value, serialized_name=named)
                _REGISTERED.add(value)


def export(
    model: Model,
    folder: str | os.PathLike[str],
    *,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
    gradient: bool = False,
    params_as_input: bool = False,
) -> pathlib.Path:
    """Writes a model as a folder that runs without jaxcv.

    The folder holds `function.jaxexport` (StableHLO for all platforms), `params.safetensors`
    (read by `load_model`), `checkpoint/` (orbax, plain dictionaries), `card.json` (inputs in their
    order, outputs, versions, sha256 of the files), `example.npz` and `run_exported.py`, which runs
    the function: `python run_exported.py FOLDER [ARRAYS.npz]`. The export is read back and run on
    the example before the folder gets its name. The batch size is free; `jax.vmap` of a loaded
    function is not possible.

    jax reads an export up to 6 months newer or 3 weeks older than itself; parameters do not expire.

    Args:
        model: of `load_model` or `load_pretrained`.
        folder: to write; new, empty, or an earlier export, which is replaced.
        platforms: of `cpu`, `cuda`, `rocm`, `tpu`; with that of this process.
        gradient: also export the function's VJP, for `jax.grad`.
        params_as_input: take the parameters as the first inputs, instead of storing them in the
            function as constants. `run_exported.py` then reads them from `params.npz`.

    Returns:
        The folder.

    Raises:
        ValueError: a model of an unknown system, unknown platforms, a folder that holds something
            else or cannot be written, or an export whose results differ by more than 1e-6, or its
            gradients by more than 1e-3, of the largest number.
        ImportError: flatbuffers is not installed.
    """
    _check_platforms(platforms)
    _check_flatbuffers()
    interface = interface_of(model)
    folder = pathlib.Path(folder).expanduser().absolute()
    _check_target(folder)
    with jax.enable_x64(is_double(model.params)), _replacing(folder) as partial:
        names, arrays, function = _flat_function(interface, model.params, params_as_input)
        count = len(arrays) - len(interface.inputs)
        specs = [jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype) for x in arrays[:count]]
        exported = jax_export.export(jax.jit(function), platforms=tuple(platforms))(
            *specs, *input_specs(interface)
        )
        blob = bytes(exported.serialize(vjp_order=int(gradient)))
        want = jax.jit(function)(*arrays)
        _check_same(blob, function, arrays, want, gradient)
        _write(partial / "function.jaxexport", blob)
        _write(partial / "example.npz", _npz(dict(zip(names[count:], arrays[count:], strict=True))))
        if params_as_input:
            _write(partial / "params.npz", _npz(dict(zip(names[:count], arrays, strict=False))))
        _write(partial / "run_exported.py", _reader(model, params_as_input).encode())
        card = _card(model, describe(model), names, exported)
        card["gradient"] = gradient
        write_tree(
            partial / "params.safetensors", {"params": model.params},
            {**model.card, "settings": card["settings"]}, interface.types,
        )  # fmt: skip
        _write_checkpoint(partial / "checkpoint", model.params)
        card["sha256"] = {
            path.relative_to(partial).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(partial.rglob("*"))
            if path.is_file()
        }
        _write(partial / "card.json", (json.dumps(card, indent=1) + "\n").encode())
    return folder


def _check_platforms(platforms: Sequence[str]) -> None:
    if isinstance(platforms, str) or not platforms or set(platforms) - set(PLATFORMS):
        expected = f"expected some of {PLATFORMS}"
        raise argument_error("platforms", expected, repr(platforms), 'E.g. platforms=("cpu",).')
    here = _BACKENDS.get(jax.default_backend(), (jax.default_backend(),))
    if not set(here) & set(platforms):
        expected = f"expected {here[0]!r} among them, on which the export is checked"
        raise argument_error("platforms", expected, tuple(platforms), "Add it.")


def _check_flatbuffers() -> None:
    if importlib.util.find_spec("flatbuffers") is None:
        raise ImportError('export needs flatbuffers: pip install "jaxcv[export]"')


def _check_target(folder: pathlib.Path) -> None:
    hint = "Give a new folder."
    try:
        if not folder.exists():
            return
        if not folder.is_dir():
            raise argument_error("folder", "expected a folder", f"the file {folder}", hint)
        inside = sorted(path.name for path in folder.iterdir())
        if inside and not _is_export(folder / "card.json"):
            expected = "expected a new or empty folder, or an earlier export"
            raise argument_error("folder", expected, f"{folder} with {inside[:5]}", hint)
    except OSError as error:
        raise argument_error(
            "folder", "expected a folder", error.strerror or error, hint
        ) from error


def _is_export(path: pathlib.Path) -> bool:
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("format") == FORMAT
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


@contextlib.contextmanager
def _replacing(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder that gets the name of `folder` when the block ends, and none after an error."""
    partial, old = (folder.with_name(f".{folder.name}.{kind}") for kind in ("partial", "old"))
    try:
        for left in (partial, old):  # of a killed process
            shutil.rmtree(left, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        got = error.strerror or error
        raise argument_error(str(folder), "expected to write it", got, _HINT) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not folder.exists():
            old.rename(folder)


def _flat_function(
    interface: Interface, params: Any, params_as_input: bool
) -> tuple[list[str], list[np.ndarray], Callable[..., dict[str, jax.Array]]]:
    """Names, example arrays, and the function of flat arrays."""
    names = list(interface.inputs)
    arrays = [one.example for one in interface.inputs.values()]
    params = jax.tree.map(jnp.asarray, params)
    if not params_as_input:
        return names, arrays, lambda *inputs: dict(interface.function(params, *inputs))
    leaves, tree = jax.tree_util.tree_flatten_with_path(params)
    path_of = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
    own, count = [f"params/{path_of(path)}" for path, _ in leaves], len(leaves)

    def function(*inputs):
        return dict(interface.function(tree.unflatten(inputs[:count]), *inputs[count:]))

    return own + names, [np.asarray(leaf) for _, leaf in leaves] + arrays, function


def _check_same(
    blob: bytes, function: Callable, arrays: Sequence[Any], want: Mapping[str, Any], gradient: bool
) -> None:
    """Raises ValueError unless the export, read back, computes what the function does."""
    again: Any = jax_export.deserialize(bytearray(blob)).call
    _check_equal("", again(*arrays), want, TOLERANCE)
    if gradient:
        slopes = _slopes(again, arrays), _slopes(function, arrays)
        _check_equal("the gradient in ", *slopes, GRADIENT_TOLERANCE)


def _check_equal(
    what: str, got: Mapping[str, Any], want: Mapping[str, Any], tolerance: float
) -> None:
    for name, value in want.items():
        error = _difference(np.asarray(got[name]), np.asarray(value))
        if not error <= tolerance:
            expected = f"expected an export that equals the model within {tolerance:g}"
            raise argument_error("model", expected, f"{error:.1e} in {what}{name}")


def _slopes(function: Callable, arrays: Sequence[Any]) -> dict[str, jax.Array]:
    """Gradients of the sum of all finite real outputs in the real inputs, by number."""
    real = [i for i, x in enumerate(arrays) if np.issubdtype(np.asarray(x).dtype, np.floating)]

    def total(*chosen):
        inputs = list(arrays)
        for i, x in zip(real, chosen, strict=True):
            inputs[i] = x
        outputs = [x for x in function(*inputs).values() if jnp.issubdtype(x.dtype, jnp.floating)]
        return sum(jnp.sum(jnp.where(jnp.isfinite(x), x, 0)) for x in outputs)

    found = jax.jit(jax.grad(total, argnums=tuple(range(len(real)))))(*(arrays[i] for i in real))
    return {f"input {i}": slope for i, slope in zip(real, found, strict=True)}


def _difference(got: np.ndarray, want: np.ndarray) -> float:
    """Largest difference over the largest number; inf for other shapes, types or nan elsewhere."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return math.inf
    if want.dtype.kind not in "fc":
        return 0.0 if np.array_equal(got, want) else math.inf
    finite = np.isfinite(want)
    if not np.array_equal(got[~finite], want[~finite], equal_nan=True):
        return math.inf
    if not finite.any():
        return 0.0
    scale = max(float(np.abs(want[finite]).max()), np.finfo(want.dtype).tiny)
    return float(np.abs(got[finite] - want[finite]).max()) / scale


def _reader(model: Model, params_as_input: bool) -> str:
    lines = _READER.splitlines(keepends=True)
    if params_as_input:
        lines.insert(-2, _PARAMS)
    if is_double(model.params):
        lines.insert(3, _X64)
    return "".join(lines)


def _card(
    model: Model, described: Mapping[str, Any], names: Sequence[str], exported: Any
) -> dict[str, Any]:
    """The model's card and what is known of the export, without the files' sha256."""
    inputs = {
        name: described["inputs"].get(name)
        or {"shape": str(aval.shape), "dtype": str(aval.dtype), "unit": "", "range": "parameters"}
        for name, aval in zip(names, exported.in_avals, strict=True)
    }
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "jaxcv")}
    return {
        **model.card,
        **described,
        "format": FORMAT,
        "inputs": inputs,
        "platforms": list(exported.platforms),
        "params_as_input": len(names) > len(described["inputs"]),
        "versions": versions,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _write(path: pathlib.Path, content: bytes) -> None:
    write_bytes(path, content, _HINT)


def _npz(arrays: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{name: np.asarray(array) for name, array in arrays.items()})  # type: ignore[arg-type]
    return buffer.getvalue()


def _write_checkpoint(path: pathlib.Path, params: Any) -> None:
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, _plain(params))
    # Names the folder before its renaming; only object stores, which cannot rename, need it.
    (path / "commit_success.txt").unlink(missing_ok=True)


def _plain(tree: Any) -> Any:
    """A tree of dictionaries of arrays: without the classes of named tuples."""
    if hasattr(tree, "_asdict"):
        tree = tree._asdict()
    if isinstance(tree, Mapping):
        return {name: _plain(child) for name, child in tree.items()}
    return np.asarray(tree)
