"""Losses over several minima, since the lowest minimum may change with theta."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxcv.checks import argument_error, check_number, returning_arrays
from jaxcv.implicit.solution import Solution

__all__ = ["expected_over_minima"]


def expected_over_minima(loss: Callable, solution: Solution, temperature: Any) -> jax.Array:
    """The mean loss over minima, with Boltzmann weights.

        L = sum_k w_k loss(y_k),    w = softmax(-E_k / T)

    An implicit gradient follows one minimum and ignores that another may become the lowest. Here
    the gradient reaches theta through the minima and through the weights: dE_k/dtheta at a minimum
    is the partial derivative (the envelope theorem), so the weights need no Hessian. For T -> 0 the
    value is the loss of the lowest minimum.

    Args:
        loss: y -> scalar.
        solution: of `argmin(..., solver=MultiStart(solver, seeds, keep=k))`, k > 1.
        temperature: T > 0, in units of the energy; may be traced, and learned.

    Returns:
        () the expected loss; that of `solution.value` where no minimum is valid.

    Raises:
        ValueError: a solution without several minima, a temperature that is not positive.

    Example:
        >>> seeds = lambda theta, points: points
        >>> solver = MultiStart(Newton(), seeds, keep=8)
        >>> solution = argmin(energy, 0.0, theta, (points,), solver=solver)
        >>> expected_over_minima(lambda y: (y - target) ** 2, solution, 0.5)
    """
    if solution.minima is None:
        hint = "Solve with MultiStart(solver, seeds, keep=k), k > 1."
        raise argument_error("solution", "expected one with several minima", "one", hint)
    check_number("temperature", temperature)
    values, energies, valid, _ = solution.minima
    usable = jnp.any(valid)
    # The weights of rows that are not minima are zero, and so are their derivatives.
    lowest = jnp.min(jnp.where(valid, jax.lax.stop_gradient(energies), jnp.inf))
    level = jnp.where(valid, energies - jnp.where(usable, lowest, 0), 0) / temperature
    weights = jnp.where(valid, jnp.exp(-level), 0)
    weights = weights / jnp.where(usable, jnp.sum(weights), 1)
    values = jax.tree.map(
        lambda many, one: jnp.where(
            valid.reshape((-1,) + (1,) * (many.ndim - 1)), many, jax.lax.stop_gradient(one)[None]
        ),
        values,
        solution.value,
    )
    loss = returning_arrays("loss", loss)
    losses = jax.vmap(loss)(values)
    if losses.ndim != 1:
        raise argument_error("loss", "must return one scalar", losses.shape[1:])
    expected = jnp.sum(jnp.where(valid, weights * losses, 0))
    return jnp.where(usable, expected, loss(solution.value))
