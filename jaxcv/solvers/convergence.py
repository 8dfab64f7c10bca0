"""Whether a point is a minimum, by products with the Hessian at that point alone."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxcv.linear.dense import dense_matrix, eigh, hessian_product, norm
from jaxcv.linear.krylov import lanczos_eigenvalues, random_like
from jaxcv.solvers.problem import Problem, Result, Status

__all__ = ["default_tolerance", "free_gradient", "judged", "small_gradient"]

_PROBES = 12  # products that look for negative curvature
_DENSE = 16  # unknowns up to which a Hessian is formed instead


def default_tolerance(dtype: jnp.dtype) -> float:
    """Gradient, relative to |H| |y|, that solvers without a Hessian reach by default."""
    return 1e-10 if jnp.finfo(dtype).bits >= 64 else 1e-5


def free_gradient(problem: Problem, y: jax.Array, gradient: jax.Array) -> jax.Array:
    """The gradient (n,), zero where an unknown is held at a bound."""
    if problem.bounds is None:
        return gradient
    lower, upper = problem.bounds
    fixed = ((y <= lower) & (gradient > 0)) | ((y >= upper) & (gradient < 0))
    return jnp.where(fixed, 0, gradient)


def small_gradient(gradient, y, start, curvature, tolerance) -> jax.Array:
    """() bool: |g| <= tolerance * |H| |y|, or tolerance^2.5 * |H| |start| for a minimum at zero.

    Args:
        gradient: (n,).
        y: (n,).
        start: () the norm of y at the start.
        curvature: () |H|, an estimate.
        tolerance: relative.
    """
    extent = jnp.maximum(tolerance * norm(y), tolerance**2.5 * start)
    return norm(gradient) <= curvature * extent


def _small_newton_step(matrix, energy, gradient, y, start, mask) -> jax.Array:
    """() bool: the Hessian is positive semi-definite, and the Newton step of each unknown small."""
    n, eps = y.size, float(jnp.finfo(y.dtype).eps)
    finite = jnp.all(jnp.isfinite(matrix)) & jnp.all(jnp.isfinite(gradient))
    matrix = jnp.where(finite, matrix, 0)
    diagonal = jnp.abs(jnp.diagonal(matrix))
    scale = jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1))
    h, q = eigh(matrix / (scale[:, None] * scale[None, :]))
    top = jnp.max(jnp.abs(h))
    c = q.T @ (jnp.where(finite, gradient, 0) / scale)
    lift = 4 * n * eps * top
    extent = jnp.max(scale * jnp.abs(y))
    noise = n * 4 * eps * top * extent
    flat = (h <= lift) & (jnp.abs(c) <= noise)
    p = jnp.abs(q @ jnp.where(flat, 0, c / jnp.where(h > 0, h, jnp.where(lift > 0, lift, 1))))
    limit = scale * jnp.maximum(eps**0.25 * jnp.abs(y), eps * jnp.max(jnp.abs(start)))
    # What the energy could fall by along directions whose curvature is round-off.
    hidden = jnp.max(jnp.where(flat, jnp.abs(c), 0)) * extent
    known = hidden <= eps**0.5 * jnp.abs(energy) + (16 * eps * extent) ** 2 * top
    return known & (h[0] >= -lift) & (top > 0) & jnp.all((p <= limit) | (mask == 0)) & finite


def judged(
    problem: Problem,
    start: jax.Array,
    y: jax.Array,
    status: jax.Array,
    energy: Any = None,
    gradient: Any = None,
    start_energy: jax.Array | None = None,
) -> Result:
    """The result of a solver that keeps no Hessian; its `CONVERGED` stands where it is supported.

    Up to 16 unknowns the Hessian at y must be positive semi-definite and the Newton step that is
    left small (eps^1/4 of each unknown). Above, Ritz values of a few products must show no negative
    curvature, and the gradient must be small against |H| |y|. Else the claim becomes `STALLED`.
    """
    status = jnp.asarray(status, jnp.int32)
    y = jnp.asarray(y, start.dtype)
    if start_energy is None:
        start_energy = problem.energy(start)
    if energy is None or gradient is None:
        energy, gradient = jax.value_and_grad(problem.energy)(y)
    finite = jnp.isfinite(energy) & jnp.all(jnp.isfinite(gradient))
    eps = float(jnp.finfo(y.dtype).eps)
    product = hessian_product(jax.grad(problem.energy), y)
    free = free_gradient(problem, y, gradient)
    mask = jnp.ones_like(y)
    if problem.bounds is not None:
        mask = jnp.where(free == gradient, 1, 0).astype(y.dtype)
    probed = lambda p: mask * product(mask * p)
    if y.size <= _DENSE:
        matrix = dense_matrix(probed, y.size, y.dtype)
        minimum = _small_newton_step(matrix, energy, free, y, start, mask)
    else:
        ritz = lanczos_eigenvalues(probed, mask * random_like(y), _PROBES)
        ritz = jnp.where(jnp.isfinite(ritz), ritz, 0)
        top = jnp.max(jnp.abs(ritz))
        minimum = (ritz[0] >= -16 * y.size * eps * top) & (top > 0)
        minimum &= small_gradient(free, y, norm(start), top, eps**0.25)
    if problem.bounds is not None:
        minimum |= jnp.all(mask == 0)
    status = jnp.where(
        (status == Status.CONVERGED) & ~(minimum & finite), jnp.int32(Status.STALLED), status
    )
    status = jnp.where(jnp.isfinite(start_energy), status, jnp.int32(Status.NONFINITE))
    status = jnp.where(finite, status, jnp.int32(Status.NONFINITE))
    return Result(y, status, energy, gradient, start_energy)
