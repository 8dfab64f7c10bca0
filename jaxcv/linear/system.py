"""Damped symmetric systems: one interface over several methods and three modes.

`damped_system` takes the product v -> H v and returns a `DampedSystem`. Its `solve` is linear in v,
transposable (`jax.lax.custom_linear_solve`) and differentiable in the arrays that the product
closes over. The shift, the floor of lambda and the factor carry no gradient.

| `linear=`              | for                 | cost; extra for an indefinite H in mode `shift`  |
|------------------------|---------------------|--------------------------------------------------|
| `"auto"`               | any                 | `cholesky` up to 256 unknowns, `cg` above        |
| `"scalar"`             | n = 1               | one product; h' = max(h, 0)                      |
| `"cholesky"`           | n <= ~256           | n products, n^3; an eigendecomposition           |
| `"cg"`                 | large n             | one product per step, O(n) memory; a Lanczos run |
| `ConjugateGradient(b)` | large, badly scaled | as `cg`, with a block-Jacobi preconditioner      |
| `BlockDiagonal(b)`     | uncoupled blocks    | b products, O(n b^2); a bisection                |
| `Arrow(local, shared)` | blocks that share G | b + G products, O(n (b + G)^2); a bisection      |
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.checks import argument_error, check_choice
from jaxcv.closure import together, while_once
from jaxcv.linear.damping import Damping
from jaxcv.linear.dense import eigh, norm
from jaxcv.linear.filter import (
    DampedSystem,
    adjoint_residual,
    apply_filter,
    bounded_to,
    damping_value,
    filter_rest,
    linear_system,
    round_off_floor,
)
from jaxcv.linear.iterative import ConjugateGradient, cg_system
from jaxcv.linear.krylov import conjugate_gradient
from jaxcv.linear.structure import BlockDiagonal, DenseStructure, Structure

__all__ = [
    "METHODS",
    "ConjugateGradient",
    "DampedSystem",
    "SolverHessian",
    "adjoint_residual",
    "apply_filter",
    "check_mode",
    "damped_system",
    "filter_rest",
    "resolve_method",
]

METHODS = ("auto", "scalar", "cholesky", "cg")
DENSE_LIMIT = 256

Product = Callable[[jax.Array], jax.Array]


class SolverHessian(NamedTuple):
    """A Hessian that a solver returns.

    Attributes:
        matrix: symmetric, as the structure of the problem stores it; no gradient.
        exact: () bool, `matrix` is the Hessian at the solver's result. False: at a nearby point;
            conjugate gradients with exact products then correct each solve. None: exact.
    """

    matrix: Any
    exact: jax.Array | None = None


def resolve_method(method: Any, y: Any) -> Structure | ConjugateGradient:
    """The `Structure` of the Hessian over the tree y, or a `ConjugateGradient`."""
    size = sum(int(np.prod(jnp.shape(leaf))) for leaf in jax.tree.leaves(y))
    if isinstance(method, ConjugateGradient):
        if method.block_size:
            BlockDiagonal(method.block_size).structure(y)
        return method
    if not isinstance(method, str) and hasattr(method, "structure"):
        return method.structure(y)
    check_choice("linear", method, METHODS, "Or an Arrow, BlockDiagonal or ConjugateGradient.")
    if method == "scalar" and size != 1:
        raise argument_error("linear", "'scalar' is for one unknown", f"{size}", "Use 'auto'.")
    if method == "cg" or (method == "auto" and size > DENSE_LIMIT):
        return ConjugateGradient()
    return DenseStructure(size)


def check_mode(damping: Damping, method: Any) -> None:
    """Raises ValueError for mode `tikhonov` with a structure that has no eigendecomposition."""
    if damping.mode == "tikhonov" and not isinstance(method, (DenseStructure, ConjugateGradient)):
        hint = "Use linear='cg', or mode='shift'."
        raise argument_error("damping.mode", "needs all eigenvalues", "'tikhonov'", hint)


def damped_system(
    product: Product,
    v: jax.Array,
    damping: Damping,
    method: Any,
    known: SolverHessian | None = None,
) -> DampedSystem:
    """The damped system of the symmetric operator `product`.

    Args:
        product: (n,) -> (n,), v -> H v, linear and symmetric.
        v: (n,) a right-hand side, or any generic vector. Conjugate gradients look for negative
            curvature in the Krylov space of v and start later solves from its solution; the other
            methods use only its size and dtype.
        damping: value, mode and relative; the caller applies the order (`apply_filter`).
        method: the result of `resolve_method`.
        known: the Hessian, if a solver has formed it already.

    Raises:
        ValueError: mode `tikhonov` with a structure that has no eigendecomposition.
    """
    frozen = lambda p: jax.lax.stop_gradient(product(p))
    if isinstance(method, ConjugateGradient):
        return cg_system(product, jax.lax.stop_gradient(v), damping, method)
    check_mode(damping, method)
    spectral = damping.mode == "tikhonov"
    whole = spectral or damping.relative or v.size == 1  # needs exact entries of H
    if known is None or (known.exact is not None and whole):
        known = SolverHessian(method.matrix(frozen, v.dtype))
    # The matrix is for solving, the product for differentiation.
    if spectral:
        return _spectral_system(product, known.matrix, damping)
    if v.size == 1 and isinstance(method, DenseStructure):
        return _scalar_system(product, known.matrix, damping)
    return _factored_system(product, known, damping, method)


def _scalar_system(product: Product, matrix: jax.Array, damping: Damping) -> DampedSystem:
    h = matrix[0, 0]
    magnitude = jnp.abs(h)
    value = damping_value(damping, h.dtype, magnitude, round_off_floor(1, magnitude))
    shift = jnp.zeros_like(h) if damping.mode == "plain" else -jnp.minimum(h, 0)
    denominator = h + shift + jax.lax.stop_gradient(value)
    denominator = jnp.where(denominator == 0, jnp.inf, denominator)
    matvec = lambda v: product(v) + (shift + value) * v
    return linear_system(matvec, lambda v: v / denominator, damping, value, shift)


def _factored_system(
    product: Product, known: SolverHessian, damping: Damping, structure: Structure
) -> DampedSystem:
    matrix = known.matrix
    diagonal = structure.diagonal(matrix)
    dtype = diagonal.dtype
    small = isinstance(structure, DenseStructure) and matrix.nbytes == 16
    small = small and known.exact is None and damping.mode == "shift"
    if damping.mode == "plain":
        mean = jnp.mean(jnp.abs(diagonal)) if damping.relative else None
        value = damping_value(damping, dtype, mean)
        shift = jnp.zeros((), dtype)
        damped = structure.add(matrix, jax.lax.stop_gradient(value))
        solve = structure.indefinite_solver(damped)
    else:
        given, matrix = jax.lax.stop_gradient((jnp.asarray(damping.value, dtype), matrix))
        held = dataclasses.replace(damping, value=given)

        def factorised():
            # Inertia test: raised by its round-off, H has a Cholesky factor where it is positive
            # semi-definite; otherwise the smallest eigenvalue is computed. lambda is raised only
            # where a pivot is all round-off.
            diagonal = structure.diagonal(matrix)
            lift = 2 * structure.num_terms * float(jnp.finfo(dtype).eps)
            factor = structure.factor(structure.add(matrix, lift * jnp.abs(diagonal)))
            magnitude = structure.magnitude(matrix)
            sound = structure.pivots(factor) > 4 * lift
            floor = jnp.where(sound, 0, round_off_floor(structure.num_terms, magnitude))
            mean = jnp.mean(jnp.abs(diagonal)) if damping.relative else None
            value = damping_value(held, dtype, mean, floor)
            indefinite = ~structure.definite(factor) & jnp.isfinite(magnitude)
            smallest = while_once(indefinite, lambda: structure.smallest_eigenvalue(matrix))
            shift = jnp.maximum(-smallest, 0)
            damped = structure.add(matrix, shift + value)
            return value, shift, structure.factor(damped)

        value, shift, factor = together(factorised, small)
        # An H that is not finite has no factor.
        solve = lambda v: jnp.where(structure.definite(factor), structure.solve(factor, v), 0)
    matvec = lambda v: product(v) + (shift + value) * v
    if known.exact is not None:
        solve = _corrected(matvec, solve, known.exact)
    elif not isinstance(structure, DenseStructure):
        # Sums over many blocks lose digits, and H may have entries outside the structure.
        if damping.mode == "plain":
            solve = functools.partial(
                _refined, functools.partial(structure.multiply, damped), solve
            )
        else:
            solve = _corrected(matvec, solve, jnp.asarray(False))
    return linear_system(matvec, solve, damping, value, shift, small)


def _refined(multiply: Product, solve: Product, v: jax.Array) -> jax.Array:
    """`solve(v)`, with one step of iterative refinement if that lowers the residual."""
    u = solve(v)
    left = v - multiply(u)
    better = u + solve(left)
    return jnp.where(norm(v - multiply(better)) < norm(left), better, u)


def _corrected(matvec: Product, solve: Product, exact: jax.Array) -> Product:
    """`solve`, of a nearby system, corrected by conjugate gradients on `matvec` unless `exact`."""
    frozen = lambda p: jax.lax.stop_gradient(matvec(p))

    def corrected(v):
        u = solve(v)
        left = jnp.where(exact, 0, v - frozen(u))
        size = norm(left)
        tolerance = 32 * jnp.finfo(v.dtype).eps * norm(v) / jnp.where(size > 0, size, 1)
        return u + conjugate_gradient(frozen, left, precondition=solve, tolerance=tolerance)[0]

    return corrected


def _spectral_system(product: Product, matrix: jax.Array, damping: Damping) -> DampedSystem:
    """Mode `tikhonov`: the real part of (H + i lambda)^-1 = (H - i lambda) (H^2 + lambda^2)^-1.

    Solves the real system (H x - lambda z, lambda x + H z) = (v, 0); the condition is not squared.
    """
    size, dtype = matrix.shape[0], matrix.dtype
    magnitude = jnp.max(jnp.sum(jnp.abs(matrix), axis=1))
    mean = jnp.mean(jnp.abs(jnp.diagonal(matrix)))
    value = damping_value(damping, dtype, mean, round_off_floor(size, magnitude))
    fixed = jax.lax.stop_gradient(value)
    finite = jnp.isfinite(magnitude)
    h, q = eigh(jnp.where(finite, matrix, 0))
    scale = jnp.hypot(h, fixed)
    scale = jnp.where(scale > 0, scale, jnp.inf)

    def solve(sign, v):
        a, b = q.T @ v[:size] / scale, q.T @ v[size:] / scale
        c, s = h / scale, sign * fixed / scale
        x, z = q @ (c * a + s * b), q @ (c * b - s * a)
        if sign > 0:
            x = bounded_to(x, v[:size], damping, fixed)
        pair = jnp.concatenate([x, z])
        return jnp.where(finite & jnp.all(jnp.isfinite(pair)), pair, 0)

    def matvec(p):
        x, z = p[:size], p[size:]
        return jnp.concatenate([product(x) - value * z, value * x + product(z)])

    def apply(v):
        right = jnp.concatenate([v, jnp.zeros_like(v)])
        forward, transposed = (lambda _, v: solve(1, v)), (lambda _, v: solve(-1, v))
        return jax.lax.custom_linear_solve(matvec, right, forward, transposed)[:size]

    return DampedSystem(apply, product, value, jnp.zeros((), dtype))
