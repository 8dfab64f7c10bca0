"""Checks of arguments, with one format for every error.

An error names the argument, the rule, what came, and the way out::

    `quaternion`: expected (..., 4), got (3,). For rotation vectors use `so3.exp`.

Only what is static is checked here (shapes, dtypes, tree structures, settings); values such as
NaN are checked where data enter the program, and are status, not errors, under `jax.jit`.
"""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = [
    "argument_error",
    "check_choice",
    "check_count",
    "check_data",
    "check_floating",
    "check_inexact",
    "check_pair",
    "check_scalar",
    "check_shape",
    "check_structure",
]


def argument_error(name: str, rule: str, came: Any, way_out: str = "") -> ValueError:
    """The one error of the library: ``` `name`: rule, got came. way_out ```.

    Args:
        name: the argument's name as the caller wrote it.
        rule: what is expected, e.g. ``expected (..., 4)``.
        came: what was passed instead.
        way_out: what to pass or call instead; a full sentence.
    """
    return ValueError(f"`{name}`: {rule}, got {came}. {way_out}".rstrip())


def check_shape(name: str, x: Any, shape: tuple[int | None, ...], way_out: str = "") -> None:
    """Raises ValueError unless the trailing dimensions of `x` are `shape` (None: any size)."""
    came = jnp.shape(x)
    tail = came[len(came) - len(shape) :] if len(came) >= len(shape) else None
    if tail is None or any(want not in (None, got) for want, got in zip(shape, tail, strict=True)):
        want = ", ".join("?" if size is None else str(size) for size in shape)
        raise argument_error(name, f"expected (..., {want})", came, way_out)


def check_floating(name: str, tree: Any, way_out: str = "") -> None:
    """Raises ValueError unless every leaf of `tree` is a real floating-point array."""
    _check_kind(name, tree, jnp.floating, "a real floating-point array", way_out)


def check_inexact(name: str, tree: Any, hint: str = "") -> None:
    """Raises ValueError unless every leaf of `tree` is a floating-point or complex array."""
    _check_kind(name, tree, jnp.inexact, "a floating-point or complex array", hint)


def _check_kind(name: str, tree: Any, kind: Any, expected: str, hint: str) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        dtype = jax.dtypes.result_type(leaf) if _is_arraylike(leaf) else type(leaf)
        if not (_is_arraylike(leaf) and jnp.issubdtype(dtype, kind)):
            where = name + jax.tree_util.keystr(path)
            raise argument_error(where, f"expected {expected}", dtype, hint)


def check_structure(name: str, tree: Any, like_name: str, like: Any, way_out: str = "") -> None:
    """Raises ValueError unless `tree` has the structure and the leaf shapes of `like`."""
    came, want = jax.tree.structure(tree), jax.tree.structure(like)
    if came != want:
        raise argument_error(name, f"expected the tree of `{like_name}`, {want}", came, way_out)
    for (path, leaf), other in zip(
        jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(like), strict=True
    ):
        if jnp.shape(leaf) != jnp.shape(other):
            where = name + jax.tree_util.keystr(path)
            rule = f"expected the shape {jnp.shape(other)} of `{like_name}`"
            raise argument_error(where, rule, jnp.shape(leaf), way_out)


def check_scalar(name: str, shape_dtype: Any, way_out: str = "") -> None:
    """Raises ValueError unless `shape_dtype` describes one real floating-point scalar."""
    leaves = jax.tree.leaves(shape_dtype)
    one = len(leaves) == 1 and leaves[0] is shape_dtype
    if not (one and leaves[0].shape == () and jnp.issubdtype(leaves[0].dtype, jnp.floating)):
        came = jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", shape_dtype)
        raise argument_error(name, "must return one real scalar", came, way_out)


def check_pair(shape: Any) -> None:
    """Raises ValueError unless an energy with aux returned a pair."""
    if not (isinstance(shape, tuple) and len(shape) == 2):
        came = jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", shape)
        way_out = "Leave has_aux away if there is nothing to return besides."
        raise argument_error("energy", "with has_aux it must return (scalar, aux)", came, way_out)


def check_choice(name: str, value: Any, choices: Collection[Any], way_out: str = "") -> None:
    """Raises ValueError unless `value` is one of `choices`."""
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise argument_error(name, f"expected one of {listed}", repr(value), way_out)


def check_count(name: str, value: Any, minimum: int = 1) -> int:
    """`value` as an int; raises ValueError unless it is an integer (NumPy's too) >= minimum."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < minimum:
        raise argument_error(name, f"expected an integer >= {minimum}", repr(value))
    return int(value)


def check_data(data: Any) -> None:
    """Raises ValueError unless `data` is a tuple."""
    if not isinstance(data, tuple):
        came = type(data).__name__
        raise argument_error("data", "expected a tuple", came, "Write data=(x,) for one array.")


def _is_arraylike(x: Any) -> bool:
    return hasattr(x, "dtype") or isinstance(x, (bool, int, float, complex))
