"""Small dense symmetric matrices: factors, solves, eigenvalues."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

__all__ = [
    "cholesky",
    "cholesky_solve",
    "dense_matrix",
    "eigenvalues",
    "eigh",
    "expand",
    "forward_solve",
    "hessian_product",
    "norm",
]

_UNROLL_LIMIT = 4  # up to this size a factorisation is a handful of fused elementwise operations

Product = Callable[[jax.Array], jax.Array]


def hessian_product(gradient: Product, y: jax.Array) -> Product:
    """p -> H p (n,), H the derivative of `gradient` at y (n,); one directional derivative each."""
    return lambda p: jax.jvp(gradient, (y,), (p,))[1]


def dense_matrix(product: Product, size: int, dtype: jnp.dtype) -> jax.Array:
    """The symmetric (n, n) matrix of `product`, by n products in one batch."""
    if size == 1:
        return product(jnp.ones(1, dtype))[None]
    matrix = jax.vmap(product)(jnp.eye(size, dtype=dtype))
    return 0.5 * (matrix + matrix.T)


def expand(
    energy: Callable[[jax.Array], jax.Array], y: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Energy (), gradient (n,) and Hessian (n, n) at y (n,), which share most of their work."""
    evaluate = jax.value_and_grad(energy)
    if y.size == 1:
        (least, gradient), (_, row) = jax.jvp(evaluate, (y,), (jnp.ones_like(y),))
        return least, gradient, row[None]
    (least, gradient), linear = jax.linearize(evaluate, y)
    return least, gradient, dense_matrix(lambda p: linear(p)[1], y.size, y.dtype)


def norm(v: jax.Array) -> jax.Array:
    """|v|_2, neither overflowing nor underflowing where v itself does not; 0 has gradient 0."""
    if v.size == 1:
        return jnp.abs(v.reshape(()))
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(v)))
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    square = jnp.sum((v / scale) ** 2)
    positive = square > 0
    return jnp.where(positive, scale * jnp.sqrt(jnp.where(positive, square, 1)), 0 * square)


def _one_by_one(function: Callable, matrix: jax.Array) -> Any:
    """`function(matrix)`, which under `jax.vmap` on a CPU takes one matrix after the other.

    jaxlib 0.10 shares out a batch of eigendecompositions or Cholesky factorisations among the
    threads that also run the program. As many such calls at a time as there are threads, such as
    a factorisation beside the eigenvalues of the diagnostics, wait for each other for ever. Calls
    for one matrix wait for nobody, and measure as fast.
    """
    one_by_one = jax.custom_batching.sequential_vmap(function)
    return jax.lax.platform_dependent(matrix, cpu=one_by_one, default=function)


def eigenvalues(matrix: jax.Array) -> jax.Array:
    """Eigenvalues (n,) of a symmetric matrix (n, n), ascending; in closed form up to n = 2."""
    if matrix.shape[0] == 1:
        return matrix[0]
    if matrix.shape[0] > 2:
        return _one_by_one(lambda matrix: jnp.linalg.eigvalsh(matrix), matrix)
    middle = 0.5 * (matrix[0, 0] + matrix[1, 1])
    half = jnp.stack([0.5 * (matrix[0, 0] - matrix[1, 1]), 0.5 * (matrix[0, 1] + matrix[1, 0])])
    return middle + jnp.array([-1, 1], matrix.dtype) * norm(half)


def eigh(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues (n,), ascending, and eigenvectors (n, n), one a column, of a symmetric matrix."""
    if matrix.shape[0] == 1:
        return matrix[0], jnp.ones_like(matrix)
    return _one_by_one(lambda matrix: tuple(jnp.linalg.eigh(matrix)), matrix)


def cholesky(matrix: jax.Array) -> jax.Array:
    """Lower Cholesky factor (n, n); NaN somewhere where the matrix is not positive definite.

    Small sizes are unrolled, which under `jax.vmap` is one fused loop over the batch instead of
    one library call a matrix.
    """
    n = matrix.shape[0]
    if n > _UNROLL_LIMIT:
        factorise = lambda matrix: jnp.linalg.cholesky(matrix, symmetrize_input=False)
        return _one_by_one(factorise, matrix)
    rows = [[jnp.zeros((), matrix.dtype)] * n for _ in range(n)]
    root = lambda pivot: jnp.sqrt(jnp.where(pivot > 0, pivot, jnp.nan))
    for i in range(n):
        for j in range(i + 1):
            rest = matrix[i, j] - sum(rows[i][k] * rows[j][k] for k in range(j))
            rows[i][j] = root(rest) if i == j else rest / rows[j][j]
    return jnp.stack([jnp.stack(row) for row in rows])


def forward_solve(factor: jax.Array, v: jax.Array) -> jax.Array:
    """L^-1 v for a lower factor (n, n) and a vector (n,)."""
    n = factor.shape[0]
    if n > _UNROLL_LIMIT:
        return jax.scipy.linalg.solve_triangular(factor, v, lower=True)
    w = [v[0]] * n
    for i in range(n):
        w[i] = (v[i] - sum(factor[i, k] * w[k] for k in range(i))) / factor[i, i]
    return jnp.stack(w)


def cholesky_solve(factor: jax.Array, v: jax.Array) -> jax.Array:
    """(L L^T)^-1 v for a lower factor (n, n) and a vector (n,)."""
    n = factor.shape[0]
    if n > _UNROLL_LIMIT:
        return jax.scipy.linalg.cho_solve((factor, True), v)
    w = list(forward_solve(factor, v))
    for i in reversed(range(n)):
        w[i] = (w[i] - sum(factor[k, i] * w[k] for k in range(i + 1, n))) / factor[i, i]
    return jnp.stack(w)
