"""The input of a solver, its result, and its status."""

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["Minima", "Problem", "Result", "Status", "first_of", "held", "runaway"]


class Status(enum.IntEnum):
    """The outcome of a solve; one code per problem of a batch."""

    RUNNING = 0
    CONVERGED = 1
    STALLED = 2
    MAX_STEPS = 3
    NONFINITE = 4
    UNBOUNDED = 5

    @staticmethod
    def message(code: Any) -> str:
        """The meaning of a code and what to do about it."""
        return _MESSAGES[Status(int(code))]


_MESSAGES = {
    Status.RUNNING: "still running",
    Status.CONVERGED: "converged to a local minimum",
    Status.STALLED: (
        "stalled: no further decrease at this precision, and the tests do not confirm a minimum. "
        "Scale the unknowns, use float64, or start elsewhere."
    ),
    Status.MAX_STEPS: "out of steps: raise max_steps, or start closer",
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
    """The input of a solver: an energy of one flat vector; theta and data get no gradient.

    Attributes:
        energy: (n,) -> (), with theta and data inserted.
        theta: the caller's theta, gradients stopped.
        data: the caller's data tuple.
        ravel: y tree -> (n,); None where y lives on a manifold.
        unravel: (n,) -> y tree.
        method: storage and solver of the Hessian, from `jaxcv.linear.system.resolve_method`.
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
    """Tests whether an energy is unbounded: fell by more than `drop` / eps^2.

    Args:
        energy: () at the best point.
        start_energy: () at the start.
        drop: () |start_energy| + the first decrease, as returned by the previous step.
        first: () bool, this is the first evaluation.

    Returns:
        (drop, () bool: the energy falls without bound).
    """
    eps = float(jnp.finfo(energy.dtype).eps)
    size = jnp.abs(start_energy)
    drop = jnp.where(first, size, jnp.where(drop == size, size + (start_energy - energy), drop))
    return drop, jnp.isneginf(energy) | (energy < start_energy - drop / eps**2)


def held(gradient: jax.Array, y: jax.Array, bounds: tuple[jax.Array, jax.Array]) -> jax.Array:
    """(n,) bool, the unknowns at a bound against which -`gradient` pushes."""
    lower, upper = bounds
    return ((y <= lower) & (gradient > 0)) | ((y >= upper) & (gradient < 0))


class Minima(NamedTuple):
    """Several distinct minima, lowest first.

    Attributes:
        value: (k, n) from a solver, a tree with a leading axis k from `argmin`.
        energy: (k,).
        valid: (k,) bool; false in the last rows if fewer than k minima were reached.
        from_seed: (S,) int32, the row of the minimum that each seed reached; -1: none.
    """

    value: Any
    energy: jax.Array
    valid: jax.Array
    from_seed: jax.Array


class Result(NamedTuple):
    """The result of a solver.

    Attributes:
        y: (n,).
        status: () int32, a `Status`.
        energy: () at y.
        gradient: (n,) at y.
        start_energy: () at the start.
        hessian: a `jaxcv.linear.SolverHessian` for the backward pass, or None.
        minima: `Minima`, or None.
        steps: () int32.
        history: (energies (N,), gradient norms (N,)) after each step, inf after the last; or None.
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
