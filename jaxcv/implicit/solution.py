"""The result of a solve: the minimiser, its status, and a short report when printed."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer

from jaxcv.solvers.problem import Minima, Status

__all__ = ["Solution"]


class Solution(NamedTuple):
    """A minimiser with its status and energy; one value per problem under `jax.vmap`.

    Attributes:
        value: y*, a tree like y0. Only `value`, `aux` and `minima` are differentiable in theta.
        status: () int32, a `Status`; `Status.message(code)` explains it.
        steps: () int32, solver steps taken.
        energy: (), E(y*, theta).
        start_energy: (), E(y0, theta).
        gradient_norm: (), |dE/dy| at y*, in units of E per unit of y; with bounds, of the free
            unknowns.
        diagnostics: `Diagnostics` of the damped system at y*, for a cotangent of norm one; None
            without `diagnostics=True`. `jaxcv.diagnose` computes them later.
        history: energies (N,) and gradient norms (N,) after the first N steps, inf after the last;
            None without `history=N`.
        minima: `Minima` of a `MultiStart` with `keep` above one, else None.
        active: () int32, number of unknowns held at a bound; None without bounds.
        aux: the energy's aux at y*; None without `has_aux`.
    """

    value: Any
    status: jax.Array
    steps: jax.Array
    energy: jax.Array
    start_energy: jax.Array
    gradient_norm: jax.Array
    diagnostics: Any = None
    history: tuple[jax.Array, jax.Array] | None = None
    minima: Minima | None = None
    active: jax.Array | None = None
    aux: Any = None

    @property
    def converged(self) -> jax.Array:
        """() bool, `status == Status.CONVERGED`: a local minimum to round-off, or to `tolerance`.

        Count the failures of a batch with `jnp.sum(~solution.converged)`.
        """
        return self.status == Status.CONVERGED

    def __repr__(self) -> str:
        """A report of a few lines; for a batch, a summary."""
        leaves = jax.tree.leaves((self.status, self.steps, self.energy))
        if any(isinstance(x, Tracer) or not hasattr(x, "dtype") for x in leaves):
            return f"Solution(value={self.value!r}, status={self.status!r})"
        status, steps = np.asarray(self.status), np.asarray(self.steps)
        first, last = np.asarray(self.start_energy), np.asarray(self.energy)
        slope = np.asarray(self.gradient_norm)
        if status.ndim == 0:
            lines = [
                f"status         {Status(int(status)).name}: {Status.message(status)}",
                f"steps          {int(steps)}",
                f"energy         {first:.6g} -> {last:.6g}",
                f"gradient norm  {slope:.3g}",
            ]
        else:
            counts = {code.name: int(np.sum(status == code)) for code in Status}
            told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
            lines = [
                f"problems       {status.size}: {told}",
                f"steps          {np.median(steps):g} in the median, {steps.max()} at most",
                f"energy         {np.median(first):.6g} -> {np.median(last):.6g} in the median",
                f"gradient norm  {np.median(slope):.3g} in the median, {slope.max():.3g} at most",
            ]
        if self.active is not None:
            lines.append(f"at a bound     {np.asarray(self.active)}")
        return "Solution\n  " + "\n  ".join(lines)

    __str__ = __repr__
