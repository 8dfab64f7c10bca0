"""Least-squares minimisers: robust kernels, structured Hessians and exact gradients.

    y*(theta) = argmin_y E,    E = 1/2 sum_i rho(|r_i(y, theta)|^2)

The solvers step by Gauss-Newton curvature J^T W J, with the weights W = rho' of iteratively
reweighted least squares; their last steps and the gradient of y* use the exact Hessian

    H = J^T W J + (terms of rho'' and of r_i d2r_i),

since without these terms the gradient of a robust problem with a nonzero residual is wrong by tens
of percent. The backward pass uses lambda of `Damping`, never the damping mu of the forward steps.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxcv.checks import (
    argument_error,
    check_choice,
    check_floating,
    check_inexact,
    check_unknowns,
)
from jaxcv.implicit.arguments import check_linear
from jaxcv.implicit.minimise import Terms, minimise
from jaxcv.implicit.solution import Solution
from jaxcv.least_squares.kernels import Kernel
from jaxcv.linear.damping import Damping
from jaxcv.linear.system import ConjugateGradient
from jaxcv.solvers.levenberg_marquardt import LevenbergMarquardt
from jaxcv.solvers.retraction import Retraction

__all__ = ["TERMS", "argmin_least_squares", "squares_energy"]


def argmin_least_squares(
    residual: Callable,
    y0: Any,
    theta: Any,
    data: tuple = (),
    *,
    solver: Any = LevenbergMarquardt(),  # noqa: B008 (frozen and hashable)
    kernel: Any = None,
    structure: Any = "dense",
    damping: Damping = Damping(),  # noqa: B008
    bounds: Any = None,
    autodiff: str = "reverse",
    init_gradient: str = "zero",
    retract: Retraction | None = None,
    diagnostics: bool = False,
    history: int = 0,
) -> Solution:
    """The minimiser of a sum of squares, or of robust costs, differentiable in theta and kernel.

        E(y) = 1/2 sum_i rho(|r_i(y, theta, *data)|^2)

    As for `argmin`, the gradient is one damped solve with the exact Hessian, problems of a batch
    fail independently, and every new function object is traced again.

    Args:
        residual: `residual(y, theta, *data)` -> an array or a tree of arrays, pure.
        y0: start, a pytree of floating-point arrays; it gets a zero gradient.
        theta: pytree of parameters. Put weights of residuals here and apply them in the residual.
        data: tuple of anything else that the residual reads; no gradient.
        solver: `LevenbergMarquardt` or `GaussNewton`; other solvers minimise E as a plain energy.
        kernel: None for plain least squares; a kernel of `jaxcv.least_squares.kernels` for all
            residuals; or, if the residual returns a dictionary, kernels for some of its entries:
            `{"match": Huber(2.0)}`; the other entries are plain. The scales are differentiated
            through.
        structure: structure of the Hessian: `dense`, an `Arrow` or a `BlockDiagonal`; `cg` for
            solvers that form no matrix. A residual of another structure shows in
            `diagnostics.structure_error` and is never certified.
        damping, bounds, autodiff, init_gradient, retract, diagnostics, history: as for `argmin`.

    Returns:
        A `Solution`; its energy is E.

    Raises:
        ValueError: a residual that is not real and floating-point, an invalid kernel or
            solver, a structure that does not fit y0, and whatever `argmin` raises.

    Example:
        >>> residual = lambda y, theta, x: theta * jnp.exp(-y * x) - jnp.exp(-x)
        >>> loss = lambda theta: argmin_least_squares(
        ...     residual, jnp.array(0.5), theta, (jnp.linspace(0, 1, 9),)).value
        >>> gradient = jax.grad(loss)(1.1)
    """
    for one in kernel.values() if isinstance(kernel, dict) else [kernel]:
        if one is not None and not isinstance(one, Kernel):
            raise argument_error("kernel", "expected a kernel", repr(one), "E.g. Huber(1.0).")
    if isinstance(structure, str):
        check_choice("structure", structure, ("dense", "cg"), "Or an Arrow or a BlockDiagonal.")
        structure = "cholesky" if structure == "dense" else structure
    check_linear("structure", structure)
    if isinstance(structure, str):
        pass
    elif not isinstance(structure, ConjugateGradient) and not hasattr(structure, "structure"):
        hint = "E.g. 'dense' or Arrow(local='depth', shared='pose')."
        raise argument_error("structure", "expected a structure", repr(structure), hint)
    check_inexact("theta", theta, "Integers belong in `data`.")
    return minimise(
        residual, TERMS, y0, (theta, _scales_like(kernel, y0)), data, solver=solver,
        damping=damping, linear=structure, bounds=bounds, autodiff=autodiff,
        init_gradient=init_gradient, retract=retract, has_aux=False, diagnostics=diagnostics,
        history=history,
    )  # fmt: skip


def squares_energy(residual: Callable, y: Any, parameters: Any, *data: Any) -> jax.Array:
    """E of a residual at y; parameters = (theta, kernel)."""
    theta, kernel = parameters
    terms = residual(y, theta, *data)
    check_floating("residual", terms, "It must return real arrays.")
    energies = []
    for leaf, own in _with_kernels(terms, kernel):
        squares = leaf**2 if own is None else own.rho(_squares(leaf, own))
        energies.append(0.5 * jnp.sum(squares))
    return sum(energies[1:], energies[0])


def _flat_residual(residual, y, parameters, *data):
    return ravel_pytree(residual(y, parameters[0], *data))[0]


def _scales_like(kernel, y0):
    """The kernels with scales in the dtype of y0."""
    check_unknowns("y0", y0, "Convert it with jnp.asarray(x, float).")
    dtype = jnp.result_type(*jax.tree.leaves(y0))
    return jax.tree.map(lambda scale: jax.device_put(scale).astype(dtype), kernel)


def _with_kernels(terms, kernel):
    """(array, its kernel or None) for every leaf of the residual."""
    leaves = jax.tree_util.tree_leaves_with_path(terms)
    if sum(jnp.size(leaf) for _, leaf in leaves) == 0:
        raise argument_error("residual", "must return at least one number", repr(terms))
    if not isinstance(kernel, dict):
        return [(jnp.asarray(leaf), kernel) for _, leaf in leaves]
    names = terms.keys() if isinstance(terms, dict) else ()
    unknown = sorted(set(kernel) - set(names))
    if unknown:
        expected = f"its names must be entries of the residual, {sorted(names)}"
        raise argument_error("kernel", expected, unknown, "Pass one kernel for all residuals.")
    return [(jnp.asarray(leaf), kernel.get(path[0].key)) for path, leaf in leaves]


def _squares(leaf, kernel):
    """|r_i|^2 of the blocks of one leaf of the residual."""
    if kernel.block_ndim > leaf.ndim:
        expected = f"every residual array must have {kernel.block_ndim} axes at least"
        raise argument_error("block_ndim", expected, f"the shape {leaf.shape}")
    squares = jnp.sum(leaf**2, axis=tuple(range(leaf.ndim - kernel.block_ndim, leaf.ndim)))
    scale = jnp.shape(kernel.scale)
    fits = len(scale) <= squares.ndim and all(
        n in (1, size) for n, size in zip(scale[::-1], squares.shape[::-1], strict=False)
    )
    if not fits:
        expected = (
            f"expected a shape that broadcasts to the blocks of the residual, {squares.shape}"
        )
        raise argument_error("scale", expected, scale)
    return squares


def _weights(shapes, parameters, r):
    """rho' for every entry of the raveled residual r (m,)."""
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    terms = ravel_pytree(zeros)[1](r)
    weights = []
    for leaf, own in _with_kernels(terms, parameters[1]):
        weight = jnp.ones_like(leaf)
        if own is not None:
            weight = own.weight(_squares(leaf, own))
            weight = weight.reshape(weight.shape + (1,) * own.block_ndim)
        weights.append(jnp.broadcast_to(weight, leaf.shape).ravel())
    return jnp.concatenate(weights).astype(r.dtype)


TERMS = Terms(
    squares_energy, _flat_residual, _weights, lambda parameters: parameters[1] is not None
)
