"""Checks of the arguments that the functions share, and the hint for forward mode."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxcv.checks import (
    argument_error,
    check_choice,
    check_data,
    check_inexact,
    check_unknowns,
)
from jaxcv.implicit.rules import RULES
from jaxcv.linear.damping import Damping, check_damping

__all__ = ["called", "check_linear", "check_setting", "checked", "on_device", "with_hint"]


def called(function: Callable, term: Callable | None) -> Callable:
    """`function`, or `term` with `function` as its first argument."""
    return function if term is None else functools.partial(term, function)


def check_setting(name: str, static: Any) -> None:
    """Raises ValueError unless a static setting can be hashed."""
    try:
        hash(static)
    except TypeError as error:
        hint = "Settings are frozen; arrays belong in `theta` or `data`."
        raise argument_error(name, "must be hashable", error, hint) from None


def check_linear(name: str, linear: Any) -> None:
    """Raises ValueError for the class of a structure, or for one that cannot be hashed."""
    if isinstance(linear, type):
        hint = "Call it: BlockDiagonal(), ConjugateGradient()."
        raise argument_error(name, "expected a name or a structure", repr(linear), hint)
    check_setting(name, linear)


def checked(
    name: str, y: Any, theta: Any, data: Any, damping: Any, autodiff: str = "reverse"
) -> tuple[Any, Any]:
    """y (`name` in errors) and theta as arrays, after checks of the shared arguments."""
    check_damping(damping)
    check_choice("autodiff", autodiff, RULES)
    check_data(data)
    check_unknowns(name, y, "Convert it with jnp.asarray(x, float); complex numbers in two parts.")
    check_inexact("theta", theta, "Integers belong in `data`.")
    y, theta = jax.tree.map(jnp.asarray, (y, theta))
    low = [leaf.dtype for leaf in jax.tree.leaves(y) if jnp.finfo(leaf.dtype).bits < 32]
    if low:
        hint = "Factorisations need it; cast to lower precision inside the energy."
        raise argument_error(name, "expected float32 or float64", low[0], hint)
    return y, theta


def on_device(damping: Damping) -> Damping:
    """The damping with its value on a device, transferred explicitly (`jax.transfer_guard`)."""
    if isinstance(damping.value, jax.Array):
        return damping
    return dataclasses.replace(damping, value=jax.device_put(damping.value))


def with_hint(function: Callable, *arguments: Any, hint: str = "") -> Any:
    """`function(*arguments)`; adds a hint to JAX's error about forward mode."""
    try:
        return function(*arguments)
    except TypeError as error:
        if "forward-mode" not in str(error):
            raise
        hint = hint or 'Pass autodiff="both" to the inner call.'
        raise TypeError(
            "`autodiff`: the rule 'reverse' has no forward mode (jax.jvp, jax.jacfwd, jax.hessian, "
            f"an argmin inside an energy). {hint}"
        ) from error
