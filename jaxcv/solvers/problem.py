"""What a problem is, and how a solve can end."""

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["Minima", "Problem", "Result", "Status", "first_of", "held", "runaway"]


class Status(enum.IntEnum):
    """How a solve ended; one code per problem of a batch."""

    RUNNING = 0
    CONVERGED = 1
    STALLED = 2
    MAX_STEPS = 3
    NONFINITE = 4
    UNBOUNDED = 5

    @staticmethod
    def message(code: Any) -> str:
        """What a code means and what to do about it."""
        return _MESSAGES[Status(int(code))]


_MESSAGES = {
    Status.RUNNING: "still running",
    Status.CONVERGED: "converged to a local minimum",
    Status.STALLED: (
        "stalled: no further decrease in this precision, and the point is not shown to be a "
        "minimum. Scale the unknowns, use float64, or start elsewhere."
    ),
    Status.MAX_STEPS: "out of steps: raise max_steps, or start nearer",
    Status.NONFINITE: (
        "the energy or its gradient is not finite at the start: choose another start, or look for "
        "log or sqrt of negative numbers in the energy"
    ),
    Status.UNBOUNDED: "the energy falls without bound: add a prior or bounds",
}


def first_of(*verdicts: tuple[jax.Array, Status]) -> jax.Array:
    """() int32, the status of the first condition that holds; `RUNNING` where none does."""
    status = jnp.int32(Status.RUNNING)
    for condition, code in reversed(verdicts):
        status = jnp.where(condition, jnp.int32(code), status)
    return status


class Problem(NamedTuple):
    """What a solver is given: an energy of one flat vector, with no gradient to anything else.

    Attributes:
        energy: (n,) -> (), with theta and data inserted.
        theta: the caller's theta, gradients stopped.
        data: the caller's data tuple.
        ravel: y tree -> (n,); None where y lives on a manifold.
        unravel: (n,) -> y tree.
        method: how the Hessian is stored and solved with (`jaxcv.linear.resolve_method`).
        bounds: (lower (n,), upper (n,)), or None.
        residual: (n,) -> (m,) r of E = 1/2 sum rho(r^2), or None.
        weights: (m,) r -> (m,) rho', the weights of the Gauss-Newton matrix J^T W J; None: ones.
    """

    energy: Callable[[jax.Array], jax.Array]
    theta: Any
    data: tuple
    ravel: Callable[[Any], jax.Array] | None
    unravel: Callable[[jax.Array], Any]
    method: Any
    bounds: tuple[jax.Array, jax.Array] | None = None
    residual: Callable[[jax.Array], jax.Array] | None = None
    weights: Callable[[jax.Array], jax.Array] | None = None


def runaway(
    energy: jax.Array, start_energy: jax.Array, drop: jax.Array, first: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Whether an energy falls without bound: 1 / eps^2 times as far as its first decrease.

    Args:
        energy: () at the best point.
        start_energy: () at the start.
        drop: () |start_energy| and the first decrease, as returned by the step before.
        first: () bool, this is the first evaluation.

    Returns:
        (drop, () bool).
    """
    eps = float(jnp.finfo(energy.dtype).eps)
    size = jnp.abs(start_energy)
    drop = jnp.where(first, size, jnp.where(drop == size, size + (start_energy - energy), drop))
    return drop, jnp.isneginf(energy) | (energy < start_energy - drop / eps**2)


def held(gradient: jax.Array, y: jax.Array, bounds: tuple[jax.Array, jax.Array]) -> jax.Array:
    """(n,) bool, the unknowns at a bound that the energy pushes them against."""
    lower, upper = bounds
    return ((y <= lower) & (gradient > 0)) | ((y >= upper) & (gradient < 0))


class Minima(NamedTuple):
    """Several distinct minima, lowest first.

    Attributes:
        value: (k, n) from a solver, a tree with a leading axis k from `argmin`.
        energy: (k,).
        valid: (k,) bool; fewer minima than k may have been reached.
        from_seed: (S,) int32, the row that each seed led to; -1: none of them.
    """

    value: Any
    energy: jax.Array
    valid: jax.Array
    from_seed: jax.Array


class Result(NamedTuple):
    """Where a solver ended.

    Attributes:
        y: (n,).
        status: () int32, a `Status`.
        energy: () at y.
        gradient: (n,) at y.
        start_energy: () at the start.
        hessian: a `jaxcv.linear.SolverHessian`, or None. Spares the backward pass its own.
        minima: `Minima`, or None.
        steps: () int32.
        history: (energies (N,), gradient norms (N,)) after each step, inf behind the last; or None.
    """

    y: jax.Array
    status: jax.Array
    energy: jax.Array
    gradient: jax.Array
    start_energy: jax.Array
    hessian: Any = None
    minima: Minima | None = None
    steps: Any = 0
    history: tuple[jax.Array, jax.Array] | None = None
