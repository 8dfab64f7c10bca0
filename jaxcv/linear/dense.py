"""Small dense symmetric matrices: factors, solves, eigenvalues. Finite input never gives NaN."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.closure import vary_like

__all__ = [
    "Cholesky",
    "cholesky",
    "cholesky_solve",
    "dense_matrix",
    "diagonal_of",
    "eigenvalues",
    "eigh",
    "every",
    "expand",
    "hessian_product",
    "largest",
    "norm",
    "times",
    "total",
]

_UNROLL_LIMIT = 4  # up to this size a factorisation is a handful of fused elementwise operations

Product = Callable[[jax.Array], jax.Array]


def hessian_product(gradient: Product, y: jax.Array) -> Product:
    """p -> H p (n,), with H the Jacobian of `gradient` at y (n,); one JVP per product."""
    return lambda p: jax.jvp(gradient, (y,), (vary_like(p, y),))[1]


def dense_matrix(product: Product, size: int, dtype: jnp.dtype) -> jax.Array:
    """The symmetric (n, n) matrix of `product`, by n products in one batch."""
    if size == 1:
        return product(jnp.ones(1, dtype))[None]
    matrix = jax.vmap(product)(jnp.eye(size, dtype=dtype))
    return 0.5 * (matrix + matrix.T)


def expand(
    energy: Callable[[jax.Array], jax.Array], y: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Energy (), gradient (n,) and Hessian (n, n) at y (n,), from one linearisation."""
    evaluate = jax.value_and_grad(energy)
    if y.size == 1:
        (value, gradient), (_, row) = jax.jvp(evaluate, (y,), (vary_like(jnp.ones_like(y), y),))
        return value, gradient, row[None]
    (value, gradient), linear = jax.linearize(evaluate, y)
    return value, gradient, dense_matrix(lambda p: linear(vary_like(p, y))[1], y.size, y.dtype)


def _reduced(unrolled: Callable, whole: Callable, x: jax.Array) -> jax.Array:
    """Reduces x; a few numbers as scalars, which XLA fuses with the surrounding operations."""
    if x.size > _UNROLL_LIMIT:
        return whole(x)
    parts = [x[i] for i in range(x.size)] if x.ndim == 1 else [x[i] for i in np.ndindex(x.shape)]
    return functools.reduce(unrolled, parts)


def total(x: jax.Array) -> jax.Array:
    """The sum of all entries."""
    return _reduced(jnp.add, jnp.sum, x)


def largest(x: jax.Array) -> jax.Array:
    """The largest entry."""
    return _reduced(jnp.maximum, jnp.max, x)


def every(x: jax.Array) -> jax.Array:
    """() bool: all entries are true."""
    return _reduced(jnp.logical_and, jnp.all, x)


def diagonal_of(matrix: jax.Array) -> jax.Array:
    """(n,) the diagonal of a matrix (n, n)."""
    n = matrix.shape[0]
    if n > _UNROLL_LIMIT:
        return jnp.diagonal(matrix)
    return jnp.stack([matrix[i, i] for i in range(n)])


def times(matrix: jax.Array, v: jax.Array) -> jax.Array:
    """A v for a matrix (n, n) and a vector (n,)."""
    n = v.shape[0]
    if n > _UNROLL_LIMIT:
        return matrix @ v
    return functools.reduce(jnp.add, [matrix[:, i] * v[i] for i in range(n)])


def norm(v: jax.Array) -> jax.Array:
    """|v|_2, without overflow or underflow of the squares; the gradient at 0 is 0."""
    if v.size == 1:
        return jnp.abs(v.reshape(()))
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(v)))
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    square = jnp.sum((v / scale) ** 2)
    positive = square > 0
    return jnp.where(positive, scale * jnp.sqrt(jnp.where(positive, square, 1)), 0 * square)


def _one_by_one(function: Callable, matrix: jax.Array) -> Any:
    """`function(matrix)`; under `jax.vmap` on a CPU, one matrix after the other.

    jaxlib 0.10 distributes a batch of eigendecompositions over the threads that also run the
    program. With as many concurrent calls as threads they deadlock. Calls for one matrix do not,
    and measure as fast.
    """
    one_by_one = jax.custom_batching.sequential_vmap(function)
    return jax.lax.platform_dependent(matrix, cpu=one_by_one, default=function)


def eigenvalues(matrix: jax.Array) -> jax.Array:
    """Eigenvalues (n,) of a symmetric matrix (n, n), ascending; in closed form up to n = 2."""
    if matrix.shape[0] <= 2:
        return eigh(matrix)[0]
    return _one_by_one(lambda matrix: jnp.linalg.eigvalsh(matrix), matrix)


def eigh(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues (n,), ascending, and eigenvectors (n, n), in columns, of a symmetric matrix."""
    if matrix.shape[0] == 1:
        return matrix[0], jnp.ones_like(matrix)
    if matrix.shape[0] > 2:
        return _one_by_one(lambda matrix: tuple(jnp.linalg.eigh(matrix)), matrix)
    a, b, c = matrix[0, 0], matrix[0, 1], matrix[1, 1]
    # A Jacobi rotation; (x, y) is the eigenvector of the larger eigenvalue. Where the square
    # overflows, the tangent is zero to round-off.
    angle = (0.5 * a - 0.5 * c) / jnp.where(b == 0, 1, b)
    tangent = jnp.sign(b) / (jnp.abs(angle) + jnp.sqrt(1 + angle**2))
    cosine = jax.lax.rsqrt(1 + tangent**2)
    first, second = cosine, tangent * cosine
    x, y = jnp.where(a < c, second, first), jnp.where(a < c, first, second)
    values = jnp.stack([jnp.minimum(a, c) - tangent * b, jnp.maximum(a, c) + tangent * b])
    return values, jnp.stack([-y, x, x, y]).reshape(2, 2)


class Cholesky(NamedTuple):
    """A Cholesky factorisation A = L L^T, or its failure.

    Attributes:
        lower: (n, n) L; the identity where A is not positive definite.
        pivot: () the smallest L_ii^2 / A_ii, invariant to the scaling of the unknowns; <= 0 where
            A is not positive definite or not finite.
    """

    lower: jax.Array
    pivot: jax.Array

    @property
    def definite(self) -> jax.Array:
        """() bool: A is positive definite."""
        return self.pivot > 0


def cholesky(matrix: jax.Array, diagonal: jax.Array | None = None) -> Cholesky:
    """Factorises a symmetric (n, n) matrix; reports failure by `pivot`, not by NaN as JAX does.

    Small sizes are unrolled: under `jax.vmap` a batch is one fused loop. Larger sizes are
    factorised in panels of columns.

    Args:
        matrix: (n, n).
        diagonal: (n,) the reference of `Cholesky.pivot`; by default the diagonal of the matrix.
    """
    n = matrix.shape[0]
    diagonal = diagonal_of(matrix) if diagonal is None else diagonal
    unit = jnp.where((diagonal > 0) & (diagonal < jnp.inf), diagonal, 1)
    if n > _UNROLL_LIMIT:
        return _cholesky_by_panels(matrix, unit)
    rows, pivots, _ = _rows(matrix)
    pivot = _smallest(pivots, unit)
    lower = jnp.stack([jnp.stack(row) for row in rows])
    return Cholesky(jnp.where(pivot > 0, lower, jnp.eye(n, dtype=matrix.dtype)), pivot)


def _rows(matrix: jax.Array) -> tuple[list, list, list]:
    """The factor's entries, its pivots, and flags: all pivots so far are positive.

    After a failed pivot the entries off the diagonal are zero, so that nothing grows.
    """
    n = matrix.shape[0]
    rows = [[jnp.zeros((), matrix.dtype)] * n for _ in range(n)]
    pivots, alive = [], []
    for i in range(n):
        for j in range(i + 1):
            rest = matrix[i, j]
            for k in range(j):
                rest = rest - rows[i][k] * rows[j][k]
            if i == j:
                positive = (rest > 0) & (rest < jnp.inf)
                alive.append(positive if i == 0 else alive[-1] & positive)
                pivots.append(rest)
                rows[i][i] = jnp.sqrt(jnp.where(positive, rest, 1))
            else:
                rows[i][j] = jnp.where(alive[j], rest / rows[j][j], 0)
    return rows, pivots, alive


def _smallest(pivots: list, unit: jax.Array) -> jax.Array:
    """The smallest relative pivot; a non-finite pivot counts as -1."""
    stacked = jnp.stack(pivots)
    return jnp.min(jnp.where(jnp.isfinite(stacked), stacked / unit, -1))


def _cholesky_by_panels(matrix: jax.Array, unit: jax.Array) -> Cholesky:
    """Left-looking Cholesky: one product updates each panel of four columns."""
    size, dtype, width = matrix.shape[0], matrix.dtype, _UNROLL_LIMIT
    count = -(-size // width)
    n = count * width
    identity = jnp.eye(size, dtype=dtype)
    finite = jnp.all(jnp.isfinite(matrix))
    matrix = jnp.where(finite, matrix, identity)
    if n > size:
        padding = (jnp.arange(n) >= size).astype(dtype)
        matrix = jnp.pad(matrix, (0, n - size)) + jnp.diag(padding)
        unit = jnp.pad(unit, (0, n - size), constant_values=1)
    below, columns_of = jnp.arange(n), jnp.arange(width)

    def panel_at(index, carry):
        lower, pivot = carry
        begin = index * width
        panel = jax.lax.dynamic_slice(matrix, (0, begin), (n, width))
        done = jax.lax.dynamic_slice(lower, (begin, 0), (width, n))
        panel = panel - lower @ done.T
        rows, pivots, alive = _rows(jax.lax.dynamic_slice(panel, (begin, 0), (width, width)))
        units = jax.lax.dynamic_slice(unit, (begin,), (width,))
        pivot = jnp.minimum(pivot, _smallest(pivots, units))
        columns = []
        for j in range(width):
            column = panel[:, j]
            for k in range(j):
                column = column - columns[k] * rows[j][k]
            columns.append(jnp.where(alive[j], column / rows[j][j], 0))
        kept = (below[:, None] >= begin + columns_of[None, :]) & (pivot > 0)
        panel = jnp.where(kept, jnp.stack(columns, axis=1), 0)
        return jax.lax.dynamic_update_slice(lower, panel, (0, begin)), pivot

    carry = (jnp.zeros_like(matrix), jnp.asarray(jnp.inf, dtype) + 0 * matrix[0, 0])
    lower, pivot = jax.lax.fori_loop(0, count, panel_at, carry)
    pivot = jnp.where(finite, pivot, -1).astype(dtype)
    return Cholesky(jnp.where(pivot > 0, lower[:size, :size], identity), pivot)


def _forward_solve(lower: jax.Array, v: jax.Array) -> list:
    n = lower.shape[0]
    w = [v[0]] * n
    for i in range(n):
        rest = v[i]
        for k in range(i):
            rest = rest - lower[i, k] * w[k]
        w[i] = rest / lower[i, i]
    return w


def cholesky_solve(factor: Cholesky, v: jax.Array) -> jax.Array:
    """(L L^T)^-1 v for a factor and a vector (n,)."""
    lower, n = factor.lower, factor.lower.shape[0]
    if n > _UNROLL_LIMIT:
        return jax.scipy.linalg.cho_solve((lower, True), v)
    w = _forward_solve(lower, v)
    for i in reversed(range(n)):
        rest = w[i]
        for k in range(i + 1, n):
            rest = rest - lower[k, i] * w[k]
        w[i] = rest / lower[i, i]
    return jnp.stack(w)
