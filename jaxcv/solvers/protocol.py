"""The types that the rooms of the core share: problems, solutions, and what a solver is."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax

from jaxcv.linear.damping import Diagnostics

__all__ = ["Energy", "Problem", "Solution", "Solver", "SolverResult"]


class Energy(Protocol):
    """`energy(y, theta, *data) -> scalar`: a pure function.

    y and theta are pytrees of real floating-point arrays; data is anything that the energy reads
    and that needs no gradient.
    """

    def __call__(self, y: Any, theta: Any, /, *data: Any) -> jax.Array:
        """The energy of `y`, shape ()."""
        ...


class Problem(NamedTuple):
    """What a solver sees: an energy of one flat vector, without gradient to anything else.

    Attributes:
        energy: (n,) -> (), the energy with theta and data inserted.
        theta: the caller's theta tree, gradients stopped.
        data: the caller's data tuple.
        ravel: y tree -> (n,); None where y lives on a manifold, whose points have no coordinates
            but those around the start.
        unravel: (n,) -> y tree.
        method: how the Hessian is stored and solved with, from `resolve_method`.
    """

    energy: Callable[[jax.Array], jax.Array]
    theta: Any
    data: tuple
    ravel: Callable[[Any], jax.Array] | None
    unravel: Callable[[jax.Array], Any]
    method: Any


class SolverResult(NamedTuple):
    """What a solver returns.

    Attributes:
        value: (n,), the best point found; the start where the energy is not finite there.
        steps: () int32, steps taken, rejected ones included.
        converged: () bool, whether the solver's own stopping rule was met.
        energy: () at `value`; None: to be computed.
        gradient: (n,) at `value`; None: to be computed.
        hessian: what is known of the Hessian near `value`; None: nothing. It spares the backward
            pass its own, and never changes what that computes but for round-off.
    """

    value: jax.Array
    steps: jax.Array
    converged: jax.Array
    energy: jax.Array | None = None
    gradient: jax.Array | None = None
    hessian: Any = None


@runtime_checkable
class Solver(Protocol):
    """A frozen, hashable value that minimises a `Problem` from a flat start."""

    def __call__(self, problem: Problem, start: jax.Array, /) -> SolverResult:
        """Minimises `problem` from `start` (n,)."""
        ...


class Solution(NamedTuple):
    """A minimiser and what is known of it; one value per problem under `jax.vmap`.

    Attributes:
        value: y*, the tree of y0; differentiable in theta, as aux is; every other field is not.
        steps: () int32, solver steps taken.
        energy: (), E(y*, theta).
        gradient_norm: (), |dE/dy| at y*, in units of E per unit of y.
        converged: () bool, whether the solver met its stopping rule at a finite point. Count the
            failures of a batch with `jnp.sum(~solution.converged)`. The rule of `newton` asks for
            a minimum; those of `lbfgs` and `gradient_descent` only for a small gradient, which a
            saddle, a maximum and a plateau have, too: see `diagnostics.min_eigenvalue`.
        diagnostics: `Diagnostics` of the damped system at y*, for a cotangent of norm one.
        aux: with `has_aux` what the energy returns besides, at y*; differentiable in theta, through
            y* too. None without.
    """

    value: Any
    steps: jax.Array
    energy: jax.Array
    gradient_norm: jax.Array
    converged: jax.Array
    diagnostics: Diagnostics
    aux: Any = None
