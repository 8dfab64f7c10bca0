"""Levenberg-Marquardt and Gauss-Newton, for sums of squares and of robust costs."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxcv.checks import argument_error
from jaxcv.closure import vary_like
from jaxcv.linear.dense import hessian_product
from jaxcv.linear.structure import DenseStructure
from jaxcv.linear.system import ConjugateGradient
from jaxcv.solvers import trust_region
from jaxcv.solvers.convergence import free_gradient
from jaxcv.solvers.newton import SMALL, conclude, empty_matrix, structured
from jaxcv.solvers.problem import Problem, Result
from jaxcv.solvers.protocol import check_limits
from jaxcv.solvers.spectral import spectral_proposal
from jaxcv.solvers.trust_region import Local, widened

__all__ = ["GaussNewton", "LevenbergMarquardt"]

# The exact Hessian replaces J^T W J where the residual is nearly orthogonal to all columns of J
# (the last steps, which converge linearly otherwise), or where both matrices agree.
_ORTHOGONAL = 1e-3
_ALIKE = 1e-3
_GAIN = 1e-2  # predicted gain / energy below which larger problems change to the exact Hessian


@dataclasses.dataclass(frozen=True)
class LevenbergMarquardt:
    """Gauss-Newton curvature in a trust region; the default of `argmin_least_squares`.

        (J^T W J + mu D^2) p = -dE/dy,   D^2 = the largest diag(J^T W J) seen

    The radius determines mu; D makes the steps independent of the units of the unknowns. The last
    steps use the exact Hessian, which also decides whether the point is a minimum.

    Attributes:
        tolerance: stop at |dE/dy| <= tolerance |H| |y|, all at the current point; None: round-off.
        max_steps: maximum number of residual evaluations; curved valleys may take a thousand.

    Source: Levenberg 1944; Marquardt 1963; More 1978.
    """

    tolerance: float | None = None
    max_steps: int = 2000

    def __post_init__(self):
        check_limits(self)

    def init(self, problem: Problem, y: jax.Array) -> trust_region.State:
        """The state before the first evaluation."""
        _check(problem, self)
        if _is_small(problem):
            square = jnp.zeros((y.size, y.size), y.dtype)
            return trust_region.begin(y, (square, square), problem.ravel is None)
        return trust_region.begin(y, empty_matrix(problem, y), problem.ravel is None)

    def step(self, problem: Problem, state: trust_region.State) -> trust_region.State:
        """Evaluates one trial point, and accepts or rejects it."""
        tolerance = 0.0 if self.tolerance is None else self.tolerance
        local = _small(problem) if _is_small(problem) else structured(problem, _gram_of(problem))
        return trust_region.step(local, state, tolerance, problem.bounds, problem.ravel is None)

    def y(self, state: trust_region.State) -> jax.Array:
        """The best point (n,)."""
        return state.y

    def status(self, problem: Problem, state: trust_region.State) -> jax.Array:
        """The status after the last step."""
        del problem
        return state.status

    def result(self, problem: Problem, start: jax.Array, state: trust_region.State) -> Result:
        """The point and its exact Hessian."""
        del start
        matrix = state.matrices[1] if _is_small(problem) else state.matrices
        return conclude(problem, state, matrix, 0)


@dataclasses.dataclass(frozen=True)
class GaussNewton(LevenbergMarquardt):
    """Gauss-Newton steps, J^T W J p = -dE/dy, in an unlimited trust region.

    For starts near the minimum of well-posed problems: the first steps are full, however long.
    A step that raises the energy is shortened as in `LevenbergMarquardt`.
    """

    max_steps: int = 200

    def step(self, problem: Problem, state: trust_region.State) -> trust_region.State:
        """One step of `LevenbergMarquardt`; accepted steps do not limit the radius."""
        state = super().step(problem, state)
        pending = state.pending
        radius = jnp.maximum(pending.radius, 1e3 * pending.length)
        return state._replace(pending=pending._replace(radius=radius))


def _check(problem: Problem, solver: Any) -> None:
    name = type(solver).__name__
    if problem.residual is None:
        hint = "Call argmin_least_squares, or use Newton()."
        raise argument_error("solver", f"{name} needs a residual", "an energy", hint)
    if isinstance(problem.method, ConjugateGradient):
        hint = "Use structure='dense', an Arrow or a BlockDiagonal; or solver=Newton()."
        raise argument_error("structure", f"{name} factorises its matrix", "'cg'", hint)


def _is_small(problem: Problem) -> bool:
    return isinstance(problem.method, DenseStructure) and problem.method.size < SMALL


def _exact(gradient, diagonal, energy):
    """() bool: the cosines between the residual and the columns of J are all small."""
    column = jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1))
    residual = jnp.sqrt(2 * jnp.abs(energy))
    return jnp.max(jnp.abs(gradient) / column) <= _ORTHOGONAL * residual


def _small(problem: Problem) -> Local:
    """The engine's functions for few unknowns: J^T W J and Hessian from one linearisation."""
    residual: Any = problem.residual
    weights = problem.weights or jnp.ones_like

    def both(y):
        energy, gradient = jax.value_and_grad(problem.energy)(y)
        return residual(y), energy, gradient

    def evaluate(y):
        (r, energy, gradient), linear = jax.linearize(both, y)
        basis = jnp.eye(y.size, dtype=y.dtype)
        rows, _, hessian = jax.vmap(lambda p: linear(vary_like(p, y)))(basis)
        gram = (rows * weights(r)[None, :]) @ rows.T
        return energy, gradient, (gram, 0.5 * (hessian + hessian.T))

    def refresh(accepted, reuse, point, new, old):
        del reuse, point
        return jax.tree.map(lambda a, b: jnp.where(accepted, a, b), new, old)

    def turn(wanted, trial, p, new, old):
        del wanted, trial
        return (jnp.where(jnp.isfinite(new[1]), new[1], 0) - old[1]) @ p

    def propose(matrices, scale, request):
        gram, hessian = matrices
        diagonal = jnp.diagonal(gram)
        scale = widened(scale, diagonal)
        column = jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1))
        apart = jnp.max(jnp.abs(hessian - gram) / (column[:, None] * column[None, :]))
        free = free_gradient(problem, request.y, request.gradient)
        exact = _exact(free, diagonal, request.energy) | (apart <= _ALIKE)
        matrix = jnp.where(exact, hessian, gram)
        proposal = spectral_proposal(matrix, scale, request, problem.bounds)
        # J^T W J is never indefinite: it cannot confirm a minimum.
        return proposal._replace(definite=proposal.definite & exact), scale

    return Local(evaluate, refresh, turn, propose)


def _gram_of(problem: Problem) -> Any:
    """(point, last matrix) -> (M, exact), M = J^T W J or, near the minimum, the exact Hessian."""
    structure: Any = problem.method
    residual: Any = problem.residual
    weights = problem.weights or jnp.ones_like
    gradient_of = jax.grad(problem.energy)

    def curvature(point, last):
        y, energy, gradient = point
        gradient = free_gradient(problem, y, gradient)
        # The gain of separate steps along each unknown, to compare with the energy.
        diagonal = jnp.abs(structure.diagonal(last))
        gain = 0.5 * jnp.sum(gradient**2 / jnp.where(diagonal > 0, diagonal, jnp.inf))
        # For a perfect fit the energy is zero: compare with the round-off of y instead.
        eps = float(jnp.finfo(y.dtype).eps)
        near = gain <= eps * jnp.sum(diagonal * y**2)
        exact = ((gain <= _GAIN * energy) | near) & jnp.any(diagonal > 0)

        def gram():
            r, rows = jax.linearize(residual, y)
            columns = jax.linear_transpose(rows, y)
            along = lambda p: rows(vary_like(p, y))
            return structure.gram(along, lambda r: columns(r)[0], weights(r), y.dtype)

        def hessian():
            return structure.matrix(hessian_product(gradient_of, y), y.dtype)

        return jax.lax.cond(exact, hessian, gram), exact

    return curvature
