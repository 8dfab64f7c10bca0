"""Krylov methods for a symmetric operator that is given by its products."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxcv.closure import match_varying_axes
from jaxcv.linear.dense import norm

__all__ = ["conjugate_gradient", "lanczos_eigenvalues", "random_like"]

_RITZ_STEPS = 40

Product = Callable[[jax.Array], jax.Array]


def random_like(v: jax.Array) -> jax.Array:
    """A fixed pseudo-random direction with the shape and dtype of `v`."""
    return jax.random.normal(jax.random.key(0), v.shape, v.dtype)


def conjugate_gradient(
    product: Product,
    v: jax.Array,
    *,
    start: jax.Array | None = None,
    tolerance: float | jax.Array | None = None,
    max_steps: int | None = None,
    precondition: Product | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Solves A u = v for a symmetric positive definite product; O(n) memory, no gradient rule.

    Args:
        product: (n,) -> (n,).
        v: (n,) right-hand side.
        start: (n,) starting point, 0 by default.
        tolerance: stops where |A u - v| <= tolerance |v|; 32 eps by default.
        max_steps: by default 2 n, at most 2000.
        precondition: (n,) -> (n,), r -> M^-1 r for a symmetric positive definite M near A.

    Returns:
        u (n,) and () the smallest curvature p^T A p / p^T p of the search directions. A curvature
        <= 0 stops the iteration at the last iterate before that direction.
    """
    limit = min(2 * v.size, 2000) if max_steps is None else max_steps
    tolerance = 32 * float(jnp.finfo(v.dtype).eps) if tolerance is None else tolerance
    size = norm(v)
    size = jnp.where(size > 0, size, 1)  # solve for v / |v|, whose squares cannot underflow
    target = tolerance**2

    better = (lambda r: r) if precondition is None else precondition

    def go_on(state):
        _, r, _, rho, smallest, step = state
        left = rho if precondition is None else jnp.vdot(r, r)
        return (smallest > 0) & (left > target) & (step < limit)

    def advance(state):
        u, r, p, rho, smallest, step = state
        image = product(p)
        curvature = jnp.vdot(p, image)
        good = curvature > 0
        alpha = jnp.where(good, rho / jnp.where(good, curvature, 1), 0)
        u, r = u + alpha * p, r - alpha * image
        z = better(r)
        new = jnp.vdot(r, z)
        square = jnp.vdot(p, p)
        smallest = jnp.minimum(smallest, curvature / jnp.where(square > 0, square, 1))
        turn = new / jnp.where(rho == 0, 1, rho)
        return u, r, z + turn * p, new, smallest, step + 1

    u = jnp.zeros_like(v) if start is None else start / size
    r = v / size if start is None else v / size - product(u)
    z = better(r)
    state = (u, r, z, jnp.vdot(r, z), jnp.asarray(jnp.inf, v.dtype), jnp.int32(0))
    state = match_varying_axes(advance, state)
    u, _, _, _, smallest, _ = jax.lax.while_loop(go_on, advance, state)
    return size * u, smallest


def lanczos_eigenvalues(product: Product, start: jax.Array, steps: int = _RITZ_STEPS) -> jax.Array:
    """Ritz values (ascending) of `steps` Lanczos steps from `start`, fully reorthogonalised.

    The smallest Ritz value is never below the smallest eigenvalue and, for a generic start, close
    to it. Memory O(n steps). After an early breakdown, start^T A start / |start|^2 fills the rest.
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

    length = norm(start)
    q = start / jnp.where(length > 0, length, 1)
    basis = jnp.zeros((steps, start.size), start.dtype)
    carry = (basis, q, jnp.asarray(True))
    carry = match_varying_axes(lambda carry: advance(carry, 0)[0], carry)
    _, (alpha, beta, alive) = jax.lax.scan(advance, carry, jnp.arange(steps))
    alpha = jnp.where(alive, alpha, alpha[0])  # lies between the extremes, changes neither
    off = beta[:-1]
    return jnp.linalg.eigvalsh(jnp.diag(alpha) + jnp.diag(off, 1) + jnp.diag(off, -1))
