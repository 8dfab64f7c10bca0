"""Checks of arguments, with one format for every error.

An error gives the argument, `expected`, `got` and a hint::

    `quaternion`: expected (..., 4), got (3,). For rotation vectors use `so3.exp`.

Shapes, dtypes, tree structures and settings are static and always checked. The values of settings
are checked unless they are tracers. NaN in data sets `status` and raises no error.
"""

from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

__all__ = [
    "argument_error",
    "check_arrays",
    "check_callable",
    "check_choice",
    "check_count",
    "check_data",
    "check_flag",
    "check_floating",
    "check_inexact",
    "check_number",
    "check_numbers",
    "check_pair",
    "check_real",
    "check_scalar",
    "check_shape",
    "check_structure",
    "check_unknowns",
    "described",
    "returning_arrays",
]


_LONGEST = 600  # characters of `got` in an error


def argument_error(name: str, expected: str, got: Any, hint: str = "") -> ValueError:
    """The error format of the library, in one line: ``` `name`: expected, got ... . hint ```.

    Args:
        name: the argument's name as the caller wrote it.
        expected: the rule, e.g. ``expected (..., 4)``.
        got: what was passed instead.
        hint: what to pass or call instead; a full sentence.
    """
    got = str(got)
    got = got if len(got) <= _LONGEST else f"{got[: _LONGEST - 100]} ... {got[-80:]}"
    return ValueError(" ".join(f"`{name}`: {expected}, got {got}. {hint}".split()))


def check_shape(name: str, x: Any, shape: tuple[int | None, ...], hint: str = "") -> None:
    """Raises ValueError unless the trailing dimensions of `x` are `shape` (None: any size)."""
    got = jnp.shape(x)
    tail = got[len(got) - len(shape) :] if len(got) >= len(shape) else None
    if tail is None or any(want not in (None, n) for want, n in zip(shape, tail, strict=True)):
        want = ", ".join("?" if size is None else str(size) for size in shape)
        raise argument_error(name, f"expected (..., {want})", got, hint)


def check_floating(name: str, tree: Any, hint: str = "") -> None:
    """Raises ValueError unless every leaf of `tree` is a real floating-point array."""
    _check_kind(name, tree, jnp.floating, "a real floating-point array", hint)


def check_inexact(name: str, tree: Any, hint: str = "") -> None:
    """Raises ValueError unless every leaf of `tree` is a floating-point or complex array."""
    _check_kind(name, tree, jnp.inexact, "a floating-point or complex array", hint)


def check_arrays(name: str, tree: Any, hint: str = "") -> None:
    """Raises ValueError unless every leaf of `tree` is an array that JAX can compute with."""
    _check_kind(name, tree, None, "an array", hint)


def check_real(name: str, tree: Any, hint: str = "") -> None:
    """Raises ValueError unless every leaf of `tree` is an array of real numbers."""
    _check_kind(name, tree, (jnp.floating, jnp.integer), "an array of real numbers", hint)


def check_unknowns(name: str, y: Any, hint: str = "") -> None:
    """Raises ValueError unless `y` holds real floating-point numbers, at least one."""
    check_floating(name, y, hint)
    if sum(jnp.size(leaf) for leaf in jax.tree.leaves(y)) == 0:
        raise argument_error(name, "expected at least one unknown", y)


def check_callable(name: str, function: Any, arguments: str = "(y, theta, *data)") -> None:
    """Raises ValueError unless `function` can be called."""
    if not callable(function):
        raise argument_error(name, f"expected a function of {arguments}", repr(function))


def returning_arrays(name: str, function: Callable) -> Callable:
    """`function`, but raises ValueError if the result is not a tree of arrays."""

    def checked(*arguments):
        out = function(*arguments)
        check_arrays(name, out, "It is what the function returns.")
        return out

    return checked


def _check_kind(name: str, tree: Any, kinds: Any, expected: str, hint: str) -> None:
    """Raises ValueError unless every leaf is an array of one of the `kinds` (None: any)."""
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        dtype = _dtype(leaf)
        fits = kinds == (None,) or any(jnp.issubdtype(dtype, kind) for kind in kinds)
        if dtype is None or not fits:
            where = name + jax.tree_util.keystr(path)
            got = getattr(leaf, "dtype", type(leaf)) if dtype is None else dtype
            raise argument_error(where, f"expected {expected}", got, hint)


def check_structure(name: str, tree: Any, like_name: str, like: Any, hint: str = "") -> None:
    """Raises ValueError unless `tree` has the structure and the leaf shapes of `like`."""
    got, want = jax.tree.structure(tree), jax.tree.structure(like)
    if got != want:
        raise argument_error(name, f"expected the tree of `{like_name}`, {want}", got, hint)
    for (path, leaf), other in zip(
        jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(like), strict=True
    ):
        if jnp.shape(leaf) != jnp.shape(other):
            where = name + jax.tree_util.keystr(path)
            expected = f"expected the shape {jnp.shape(other)} of `{like_name}`"
            raise argument_error(where, expected, jnp.shape(leaf), hint)


def check_scalar(name: str, shape_dtype: Any, hint: str = "") -> None:
    """Raises ValueError unless `shape_dtype` describes one real floating-point scalar."""
    leaves = jax.tree.leaves(shape_dtype)
    one = len(leaves) == 1 and leaves[0] is shape_dtype
    if not (one and leaves[0].shape == () and jnp.issubdtype(leaves[0].dtype, jnp.floating)):
        if isinstance(shape_dtype, tuple) and len(shape_dtype) == 2:
            hint = "For (value, aux) pass has_aux=True to argmin; elsewhere return the value alone."
        raise argument_error(name, "must return one real scalar", described(shape_dtype), hint)


def check_pair(shape: Any) -> None:
    """Raises ValueError unless an energy with aux returned a pair."""
    if not (isinstance(shape, tuple) and len(shape) == 2):
        hint = "Omit has_aux if the energy returns only a scalar."
        expected = "with has_aux it must return (scalar, aux)"
        raise argument_error("energy", expected, described(shape), hint)


def check_choice(name: str, value: Any, choices: Collection[Any], hint: str = "") -> None:
    """Raises ValueError unless `value` is one of `choices`."""
    if value not in tuple(choices):  # a tuple, since `value` may be unhashable
        listed = ", ".join(repr(choice) for choice in choices)
        raise argument_error(name, f"expected one of {listed}", repr(value), hint)


def check_count(name: str, value: Any, minimum: int = 1) -> int:
    """`value` as an int; raises ValueError unless an integer (also NumPy's) >= minimum."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < minimum:
        raise argument_error(name, f"expected an integer >= {minimum}", repr(value))
    return int(value)


def check_flag(name: str, value: Any) -> bool:
    """`value` as a bool; raises ValueError unless a bool (also NumPy's)."""
    if not isinstance(value, (bool, np.bool_)):
        raise argument_error(name, "expected True or False", repr(value))
    return bool(value)


def check_number(name: str, value: Any, *, zero: bool = False) -> None:
    """`check_numbers` for a single number, of shape ()."""
    check_numbers(name, value, "a finite number", zero=zero)
    if jnp.shape(value) != ():
        raise argument_error(name, "expected one number", f"the shape {jnp.shape(value)}")


def check_numbers(
    name: str, value: Any, noun: str = "finite numbers", *, zero: bool = False, hint: str = ""
) -> None:
    """Raises ValueError unless `value` holds finite real numbers > 0 (tracers: a real dtype).

    Args:
        name: the argument's name.
        value: a number or an array.
        noun: follows "expected" in the error.
        zero: allows 0.
        hint: the hint of the error.
    """
    expected = f"expected {noun} {'>=' if zero else '>'} 0"
    dtype = _dtype(value)
    if dtype is None or not any(jnp.issubdtype(dtype, k) for k in (jnp.floating, jnp.integer)):
        raise argument_error(name, expected, repr(value), hint)
    known = _known(value)
    if known is not None and not np.all(np.isfinite(known) & ((known > 0) | zero & (known == 0))):
        raise argument_error(name, expected, repr(value), hint)


def check_data(data: Any) -> None:
    """Raises ValueError unless `data` is a tuple of trees of arrays."""
    if not isinstance(data, tuple):
        got = type(data).__name__
        raise argument_error("data", "expected a tuple", got, "Write data=(x,) for one array.")
    check_arrays("data", data, "The function may close over anything else.")


def described(shapes: Any) -> str:
    """A tree of shapes and dtypes in one line."""
    return str(jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", shapes))


def _dtype(x: Any) -> Any:
    """The dtype of a number or array that JAX can compute with, else None."""
    if isinstance(x, (bool, int, float, complex)):
        return jax.dtypes.result_type(x)
    dtype = getattr(x, "dtype", None)
    if dtype is None or not getattr(dtype, "isnative", True):  # JAX needs native byte order
        return None
    kinds = (jnp.number, jnp.bool_, jax.dtypes.extended)  # extended: PRNG keys
    known = any(jnp.issubdtype(dtype, kind) for kind in kinds)
    return dtype if known or dtype == jax.dtypes.float0 else None


def _known(value: Any) -> np.ndarray | None:
    """The numbers in `value`; None for tracers and arrays with shards on other hosts."""
    if isinstance(value, Tracer) or (
        isinstance(value, jax.Array) and not value.is_fully_addressable
    ):
        return None
    return np.asarray(jax.device_get(value))
