"""Least squares through the minimiser: a residual, a robust kernel, a structure, an exact gradient.

    y*(theta) = argmin_y E,    E = 1/2 sum_i rho(|r_i(y, theta)|^2)

The solvers step by Gauss-Newton curvature J^T W J, with the weights W = rho' of iteratively
reweighted least squares; their last steps and the gradient of y* use the exact Hessian

    H = J^T W J + (terms of rho'' and of r_i d2r_i),

without which the gradient of a robust problem with residual is wrong by tens of percent. The
damping of the forward steps (mu) never enters the backward pass, whose lambda is `Damping`'s.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxcv.checks import argument_error, check_choice, check_floating
from jaxcv.implicit.minimise import argmin
from jaxcv.least_squares.kernels import GemanMcClure, Huber, Kernel, PseudoHuber, Welsch
from jaxcv.linear.damping import Damping
from jaxcv.linear.structure import Arrow, BlockDiagonal
from jaxcv.linear.system import ConjugateGradient, Known
from jaxcv.solvers.algorithms import check_limits, solver_tolerance
from jaxcv.solvers.closure import hoist
from jaxcv.solvers.levenberg_marquardt import levenberg
from jaxcv.solvers.protocol import Problem, Solution, SolverResult
from jaxcv.solvers.retraction import Retraction

__all__ = [
    "Arrow",
    "BlockDiagonal",
    "GemanMcClure",
    "Huber",
    "PseudoHuber",
    "Welsch",
    "argmin_least_squares",
    "gauss_newton",
    "levenberg_marquardt",
]


@dataclasses.dataclass(frozen=True)
class levenberg_marquardt:
    """Damped Gauss-Newton steps, (J^T W J + mu diag) p = -dE/dy; the default of least squares.

    mu falls as the model predicts well and rises until a step lowers the energy. From a gradient
    of 1e-3 of the largest on, chord steps with one exact Hessian finish.

    Attributes:
        tolerance: gradient norm relative to the largest seen; None follows the dtype.
        max_steps: accepted and rejected steps, without the chord steps.

    Source: Levenberg 1944; Marquardt 1963; Nielsen 1999.
    """

    tolerance: float | None = None
    max_steps: int = 50

    _damped = True

    def __post_init__(self):
        check_limits(self)


@dataclasses.dataclass(frozen=True)
class gauss_newton:
    """Gauss-Newton steps, J^T W J p = -dE/dy, halved until the energy falls.

    For starts near the minimum of well-posed problems, where `levenberg_marquardt` would still be
    taking its damping back. Finishes as that does.

    Attributes:
        tolerance: gradient norm relative to the largest seen; None follows the dtype.
        max_steps: accepted and rejected steps, without the chord steps.
    """

    tolerance: float | None = None
    max_steps: int = 50

    _damped = False

    def __post_init__(self):
        check_limits(self)


def argmin_least_squares(
    residual: Callable,
    y0: Any,
    theta: Any,
    data: tuple = (),
    *,
    solver: Any = levenberg_marquardt(),
    kernel: Any = None,
    structure: Any = "dense",
    damping: Damping = Damping(),  # noqa: B008
    autodiff: str = "reverse",
    init_gradient: str = "zero",
    retract: Retraction | None = None,
) -> Solution:
    """The minimiser of a sum of squares, or of robust costs, differentiable in theta and kernel.

        E(y) = 1/2 sum_i rho(|r_i(y, theta, *data)|^2)

    What is said of `argmin` holds here, too: one damped solve with the exact Hessian for the
    gradient, problems of a batch that fail apart, a retrace for every new function object.

    Args:
        residual: `residual(y, theta, *data)` -> an array or a tree of arrays, pure.
        y0: start, a pytree of floating-point arrays; it gets a zero gradient.
        theta: pytree of parameters. Weights of residuals belong here and into the residual.
        data: tuple of anything else that the residual reads; no gradient.
        solver: `levenberg_marquardt` or `gauss_newton`.
        kernel: None for plain least squares; a kernel of `jaxcv.least_squares.kernels` for all
            residuals; or, where the residual returns a dictionary, a dictionary of the kernels of
            some of its entries, the others being plain: `{"match": Huber(2.0)}`. Their scales are
            differentiated through.
        structure: of the Hessian: `dense`, an `Arrow` or a `BlockDiagonal`. A residual that does
            not have it is reported by `diagnostics.structure_error` and never certified.
        damping, autodiff, init_gradient, retract: as for `argmin`.

    Returns:
        A `Solution`; its energy is E.

    Raises:
        ValueError: a residual that is not real and floating-point, a kernel or a solver that is
            none, a structure that does not fit y0, and whatever `argmin` raises.

    Example:
        >>> residual = lambda y, theta, x: theta * jnp.exp(-y * x) - jnp.exp(-x)
        >>> loss = lambda theta: argmin_least_squares(
        ...     residual, jnp.array(0.5), theta, (jnp.linspace(0, 1, 9),)).value
        >>> gradient = jax.grad(loss)(1.1)
    """
    if not callable(residual):
        raise argument_error("residual", "expected a function of (y, theta, *data)", repr(residual))
    if not hasattr(solver, "_damped") or isinstance(solver, type):
        way_out = "E.g. levenberg_marquardt(); other solvers minimise energies, see argmin."
        raise argument_error("solver", "expected a least-squares solver", repr(solver), way_out)
    for one in kernel.values() if isinstance(kernel, dict) else [kernel]:
        if one is not None and not isinstance(one, Kernel):
            raise argument_error("kernel", "expected a kernel", repr(one), "E.g. Huber(1.0).")
    if isinstance(structure, str):
        check_choice("structure", structure, ("dense",), "Or an Arrow or a BlockDiagonal.")
        structure = "cholesky"
    elif isinstance(structure, ConjugateGradient) or not hasattr(structure, "structure"):
        way_out = "E.g. 'dense' or Arrow(local='depth', shared='pose')."
        raise argument_error("structure", "expected a structure", repr(structure), way_out)
    return argmin(
        _Energy(residual),
        y0,
        (theta, _scales_like(kernel, y0)),
        data,
        solver=_OfResidual(residual, solver),
        damping=damping,
        linear=structure,
        autodiff=autodiff,
        init_gradient=init_gradient,
        retract=retract,
    )


@dataclasses.dataclass(frozen=True)
class _Energy:
    """E of a residual; equal for equal residuals."""

    residual: Callable

    def __call__(self, y, parameters, *data):
        theta, kernel = parameters
        terms = self.residual(y, theta, *data)
        check_floating("residual", terms, "It must return real arrays.")
        energies = []
        for leaf, own in _with_kernels(terms, kernel):
            squares = leaf**2 if own is None else own.rho(_squares(leaf, own))
            energies.append(0.5 * jnp.sum(squares))
        return sum(energies[1:], energies[0])


def _scales_like(kernel, y0):
    """The kernels with scales that are plain numbers in the precision of y0."""
    dtype = jnp.result_type(*jax.tree.leaves(y0))
    cast = lambda scale: jnp.asarray(scale, dtype) if isinstance(scale, float) else scale
    return jax.tree.map(cast, kernel)


def _with_kernels(terms, kernel):
    """(array, its kernel or None) for every leaf of the residual."""
    leaves = jax.tree_util.tree_leaves_with_path(terms)
    if not leaves:
        raise argument_error("residual", "must return at least one array", repr(terms))
    if not isinstance(kernel, dict):
        return [(jnp.asarray(leaf), kernel) for _, leaf in leaves]
    names = terms.keys() if isinstance(terms, dict) else ()
    unknown = sorted(set(kernel) - set(names))
    if unknown:
        rule = f"its names must be entries of the residual, {sorted(names)}"
        raise argument_error("kernel", rule, unknown, "Pass one kernel for all residuals.")
    return [(jnp.asarray(leaf), kernel.get(path[0].key)) for path, leaf in leaves]


def _squares(leaf, kernel):
    """|r_i|^2 of the blocks of one leaf of the residual."""
    if kernel.block_ndim > leaf.ndim:
        rule = f"every residual array must have {kernel.block_ndim} axes at least"
        raise argument_error("block_ndim", rule, f"the shape {leaf.shape}")
    return jnp.sum(leaf**2, axis=tuple(range(leaf.ndim - kernel.block_ndim, leaf.ndim)))


def _weights(terms, kernel):
    """rho' for every entry of the raveled residual (m,)."""
    weights = []
    for leaf, own in _with_kernels(terms, kernel):
        weight = jnp.ones_like(leaf)
        if own is not None:
            weight = own.weight(_squares(leaf, own))
            weight = weight.reshape(weight.shape + (1,) * own.block_ndim)
        weights.append(jnp.broadcast_to(weight, leaf.shape).ravel())
    return jnp.concatenate(weights)


@dataclasses.dataclass(frozen=True)
class _OfResidual:
    """A solver of energies that knows the residual behind the energy."""

    residual: Callable
    solver: Any

    def __call__(self, problem: Problem, start: jax.Array) -> SolverResult:
        """Minimises `problem` from `start` (n,)."""
        theta, kernel = problem.theta
        # The residual may close over arrays that have a gradient; the steps have none.
        y = problem.unravel(start)
        hoisted = hoist(self.residual, y, theta, *problem.data)
        captured = jax.lax.stop_gradient((hoisted.floating, hoisted.fixed))
        flat_residual = lambda flat: jax.tree.map(
            jnp.asarray, hoisted.call((problem.unravel(flat), theta, problem.data), *captured)
        )
        structure, dtype = problem.method, start.dtype

        def curvature(flat):
            terms, rows = jax.linearize(flat_residual, flat)
            columns = jax.linear_transpose(rows, flat)
            unravel = ravel_pytree(terms)[1]
            return structure.gram(
                lambda p: ravel_pytree(rows(p))[0],
                lambda r: columns(unravel(r))[0],
                _weights(terms, kernel),
                dtype,
            )

        end = levenberg(
            problem.energy,
            curvature,
            structure,
            start,
            solver_tolerance(self.solver, dtype),
            self.solver.max_steps,
            self.solver._damped,
        )
        known = Known(end.matrix, ~end.finished)
        return SolverResult(end.y, end.steps, end.finished, end.energy, end.gradient, known)
