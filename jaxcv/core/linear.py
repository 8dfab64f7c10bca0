"""Damped symmetric systems (H' + lambda I) u = v: one interface over three methods.

`damped_system` takes the product v -> H v and returns a `DampedSystem` that solves. Its `solve` is
differentiable in whatever the product closes over (through `jax.lax.custom_linear_solve`), while
the shift, the floor of lambda and the factor carry no gradient.

| method     | for       | cost                                | indefinite H in mode `shift`     |
|------------|-----------|-------------------------------------|----------------------------------|
| `scalar`   | n = 1     | one product                         | h' = max(h, 0)                   |
| `cholesky` | n <= ~256 | n products and two factorisations   | one eigendecomposition, if needed|
| `cg`       | large n   | one product a step, O(n) memory     | shift by the smallest Ritz value |
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.core.checks import argument_error, check_choice
from jaxcv.core.damping import Damping

__all__ = [
    "METHODS",
    "DampedSystem",
    "cholesky",
    "cholesky_solve",
    "conjugate_gradient",
    "damped_adjoint",
    "damped_system",
    "dense_matrix",
    "eigenvalues",
    "forward_solve",
    "lanczos_eigenvalues",
    "norm",
    "random_like",
    "resolve_method",
]

METHODS = ("auto", "scalar", "cholesky", "cg")
DENSE_LIMIT = 256
_UNROLL_LIMIT = 4  # up to this size a factorisation is a handful of fused elementwise operations
_RITZ_STEPS = 40

Product = Callable[[jax.Array], jax.Array]


class DampedSystem(NamedTuple):
    """H' + lambda I, ready to solve with.

    Attributes:
        solve: (n,) -> (n,), v -> (H' + lambda I)^-1 v; differentiable in H and v.
        matvec: (n,) -> (n,), v -> (H' + lambda I) v.
        damping: () lambda, after `relative` and the precision's floor.
        shift: () s >= 0 of H' = H + s I.
    """

    solve: Product
    matvec: Product
    damping: jax.Array
    shift: jax.Array


def resolve_method(method: str, size: int) -> str:
    """The method that `auto` stands for at `size` unknowns; checks the others against it."""
    check_choice("linear", method, METHODS)
    if method == "auto":
        return "scalar" if size == 1 else "cholesky" if size <= DENSE_LIMIT else "cg"
    if method == "scalar" and size != 1:
        raise argument_error("linear", "'scalar' is for one unknown", f"{size}", "Use 'auto'.")
    return method


def damped_system(product: Product, v: jax.Array, damping: Damping, method: str) -> DampedSystem:
    """The damped system of the symmetric operator `product`.

    Args:
        product: (n,) -> (n,), v -> H v, linear and symmetric.
        v: (n,) the right-hand side to come. `cg` looks for negative curvature in its Krylov space
            and starts from its solution; the dense methods take only its size and dtype.
        damping: value, mode and whether relative; its order is the caller's business.
        method: one of `METHODS`.

    Raises:
        ValueError: an unknown method, or `scalar` for more than one unknown.
    """
    method = resolve_method(method, v.size)
    if method == "cg":
        return _cg_system(product, jax.lax.stop_gradient(v), damping)
    matrix = dense_matrix(product, v.size, v.dtype)
    return (_scalar_system if v.size == 1 else _dense_system)(matrix, damping)


def damped_adjoint(product: Product, v: jax.Array, damping: Damping, method: str) -> jax.Array:
    """u = sum_{j<k} lambda^j (H' + lambda I)^-(j+1) v, with |u| <= k |v| / lambda in `shift`.

    Args:
        product: (n,) -> (n,), p -> H p.
        v: (n,).
        damping, method: as for `damped_system`.
    """
    system = damped_system(product, v, damping, method)
    u = system.solve(v)
    for _ in range(damping.order - 1):
        u = system.solve(v + system.damping * u)
    if damping.mode == "plain":
        return u
    # The bound holds in exact arithmetic; the rescaling makes it hold in this one.
    tiny = jnp.finfo(v.dtype).tiny
    slack = 1 - 8 * v.size * jnp.finfo(v.dtype).eps
    bound = damping.order * norm(v) / jnp.maximum(system.damping, tiny)
    length = norm(u)
    over = length > slack * bound
    return u * jax.lax.stop_gradient(jnp.where(over, slack * bound / jnp.where(over, length, 1), 1))


def dense_matrix(product: Product, size: int, dtype: jnp.dtype) -> jax.Array:
    """The symmetric (n, n) matrix of `product`, by n products in one batch."""
    if size == 1:
        return product(jnp.ones(1, dtype))[None]
    matrix = jax.vmap(product)(jnp.eye(size, dtype=dtype))
    return 0.5 * (matrix + matrix.T)


def norm(v: jax.Array) -> jax.Array:
    """|v|_2, neither overflowing nor underflowing where v itself does not; 0 has gradient 0."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(v)))
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    square = jnp.sum((v / scale) ** 2)
    positive = square > 0
    return jnp.where(positive, scale * jnp.sqrt(jnp.where(positive, square, 1)), 0 * square)


def _one_by_one(function: Callable, matrix: jax.Array) -> jax.Array:
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


def random_like(v: jax.Array) -> jax.Array:
    """A generic direction, always the same one, with the shape and dtype of `v`."""
    return jax.random.normal(jax.random.key(0), v.shape, v.dtype)


def _floor(size: int, magnitude: jax.Array) -> jax.Array:
    """The smallest lambda for which a factorisation of H + lambda I can be trusted."""
    return 4 * size * jnp.finfo(magnitude.dtype).eps * magnitude


def _damping_value(damping: Damping, dtype, mean_diagonal, floor) -> jax.Array:
    value = jnp.asarray(damping.value, dtype)
    if damping.relative:
        value = value * jax.lax.stop_gradient(mean_diagonal)
    return value if damping.mode == "plain" else jnp.maximum(value, jax.lax.stop_gradient(floor))


def _scalar_system(matrix: jax.Array, damping: Damping) -> DampedSystem:
    h = matrix[0, 0]
    magnitude = jnp.abs(h)
    value = _damping_value(damping, h.dtype, magnitude, _floor(1, magnitude))
    shift = (
        jnp.zeros_like(h) if damping.mode == "plain" else jax.lax.stop_gradient(-jnp.minimum(h, 0))
    )
    return DampedSystem(
        lambda v: v / (h + shift + value), lambda v: (h + shift + value) * v, value, shift
    )


def _dense_system(matrix: jax.Array, damping: Damping) -> DampedSystem:
    size, dtype = matrix.shape[0], matrix.dtype
    frozen = jax.lax.stop_gradient(matrix)
    magnitude = jnp.max(jnp.sum(jnp.abs(frozen), axis=1))  # >= the spectral norm
    floor = _floor(size, magnitude)
    value = _damping_value(damping, dtype, jnp.mean(jnp.abs(jnp.diagonal(frozen))), floor)
    identity = jnp.eye(size, dtype=dtype)
    if damping.mode == "plain":
        shift = jnp.zeros((), dtype)
        factors = jax.scipy.linalg.lu_factor(frozen + value * identity)
        solve = lambda _, v: jax.scipy.linalg.lu_solve(factors, v)
    else:
        # Inertia test: H + (floor/2) I has a factor exactly where H is positive semi-definite
        # up to round-off. Only otherwise is the eigendecomposition worth its price.
        indefinite = ~jnp.all(jnp.isfinite(cholesky(frozen + 0.5 * floor * identity)))
        indefinite &= jnp.isfinite(magnitude)
        shift = jnp.maximum(-_while_once(indefinite, lambda: eigenvalues(frozen)[0]), 0)
        factor = cholesky(frozen + (shift + value) * identity)
        solve = lambda _, v: cholesky_solve(factor, v)
    matvec = lambda v: matrix @ v + (shift + value) * v
    return DampedSystem(
        lambda v: jax.lax.custom_linear_solve(matvec, v, solve, symmetric=True),
        matvec,
        value,
        shift,
    )


def _while_once(wanted: jax.Array, value: Callable[[], jax.Array]) -> jax.Array:
    """`value()`, a scalar, where `wanted`, else 0; no gradient.

    A while_loop of at most one trip, since under `jax.vmap` a cond would evaluate both branches:
    a batch without a wanted lane pays nothing.
    """
    zero = jnp.zeros_like(jax.eval_shape(value))
    return jax.lax.while_loop(
        lambda state: state[0],
        lambda state: (jnp.zeros_like(wanted), value()),
        (wanted, zero),
    )[1]


def _cg_system(product: Product, v: jax.Array, damping: Damping) -> DampedSystem:
    frozen = lambda p: jax.lax.stop_gradient(product(p))
    # The Rayleigh quotient of random signs estimates the mean diagonal without forming H.
    signs = jax.random.rademacher(jax.random.key(0), v.shape, v.dtype)
    image = frozen(signs)
    floor = _floor(1, norm(image) / norm(signs))
    value = _damping_value(damping, v.dtype, jnp.abs(jnp.vdot(signs, image)) / v.size, floor)
    first, curvature = conjugate_gradient(lambda p: frozen(p) + value * p, v)
    shift = jnp.zeros((), v.dtype)
    if damping.mode == "shift":
        negative = curvature - value < -floor
        ritz = _while_once(negative, lambda: lanczos_eigenvalues(frozen, v)[0])
        shift = jnp.maximum(-jnp.minimum(ritz, jnp.where(negative, curvature - value, 0)), 0)
        first = jnp.where(negative, 0, first)
    matvec = lambda p: product(p) + (shift + value) * p

    def solve(_, v):
        operator = lambda p: frozen(p) + (shift + value) * p
        # For another right-hand side (order k, second derivatives) `first` may be no help at all.
        near = norm(v - operator(first)) < norm(v)
        return conjugate_gradient(operator, v, start=jnp.where(near, first, 0))[0]

    return DampedSystem(
        lambda v: jax.lax.custom_linear_solve(matvec, v, solve, symmetric=True),
        matvec,
        value,
        shift,
    )


def conjugate_gradient(
    product: Product,
    v: jax.Array,
    *,
    start: jax.Array | None = None,
    tolerance: float | None = None,
    max_steps: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Solves A u = v for a symmetric positive definite product; O(n) memory, no gradient rule.

    Args:
        product: (n,) -> (n,).
        v: (n,) right-hand side.
        start: (n,) where to start, 0 by default.
        tolerance: stops where |A u - v| <= tolerance |v|; by default a few round-offs.
        max_steps: by default 2 n, at most 2000.

    Returns:
        u (n,) and () the smallest curvature p^T A p / p^T p met. A direction of curvature <= 0
        ends the run at the last good iterate.
    """
    limit = min(2 * v.size, 2000) if max_steps is None else max_steps
    tolerance = 32 * float(jnp.finfo(v.dtype).eps) if tolerance is None else tolerance
    size = norm(v)
    size = jnp.where(size > 0, size, 1)  # solved for v / |v|: squares of it cannot underflow
    target = tolerance**2

    def go_on(state):
        _, _, _, rho, smallest, step = state
        return (smallest > 0) & (rho > target) & (step < limit)

    def advance(state):
        u, r, p, rho, smallest, step = state
        image = product(p)
        curvature = jnp.vdot(p, image)
        good = curvature > 0
        alpha = jnp.where(good, rho / jnp.where(good, curvature, 1), 0)
        u, r = u + alpha * p, r - alpha * image
        new = jnp.vdot(r, r)
        smallest = jnp.minimum(smallest, curvature / jnp.vdot(p, p))
        return u, r, r + (new / rho) * p, new, smallest, step + 1

    u = jnp.zeros_like(v) if start is None else start / size
    r = v / size if start is None else v / size - product(u)
    state = (u, r, r, jnp.vdot(r, r), jnp.asarray(jnp.inf, v.dtype), jnp.int32(0))
    u, _, _, _, smallest, _ = jax.lax.while_loop(go_on, advance, state)
    return size * u, smallest


def lanczos_eigenvalues(product: Product, start: jax.Array, steps: int = _RITZ_STEPS) -> jax.Array:
    """Ritz values (ascending) of `steps` Lanczos steps from `start`, fully reorthogonalised.

    The smallest is never below the smallest eigenvalue and, with a generic start, close to it.
    Memory O(n steps). Where the Krylov space is exhausted earlier its values are repeated.
    """
    steps = min(steps, start.size)
    eps = jnp.finfo(start.dtype).eps

    def advance(carry, index):
        basis, q, alive = carry
        basis = basis.at[index].set(jnp.where(alive, q, 0))
        image = product(q)
        alpha = jnp.vdot(q, image)
        for _ in range(2):  # twice is enough
            image = image - basis.T @ (basis @ image)
        beta = norm(image)
        still = alive & (beta > eps * steps * jnp.abs(alpha)) & (beta > 0)
        q = jnp.where(still, image / jnp.where(still, beta, 1), q)
        return (basis, q, still), (alpha, jnp.where(still, beta, 0), alive)

    q = start / norm(start)
    basis = jnp.zeros((steps, start.size), start.dtype)
    _, (alpha, beta, alive) = jax.lax.scan(
        advance, (basis, q, jnp.asarray(True)), jnp.arange(steps)
    )
    alpha = jnp.where(alive, alpha, alpha[0])  # a repeat between the extremes changes neither
    off = beta[:-1]
    return jnp.linalg.eigvalsh(jnp.diag(alpha) + jnp.diag(off, 1) + jnp.diag(off, -1))
