"""Whether a point is a minimum, by products with the Hessian at that point alone."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxcv.linear.dense import dense_matrix, eigh, hessian_product, norm
from jaxcv.linear.krylov import lanczos_eigenvalues, random_like
from jaxcv.solvers.problem import Problem, Result, Status, held

__all__ = ["default_tolerance", "free_gradient", "judged", "small_decrement", "small_gradient"]

_PROBES = 12  # products that look for negative curvature
_DENSE = 16  # unknowns up to which a Hessian is formed instead


def default_tolerance(dtype: jnp.dtype) -> float:
    """Gradient, relative to |H| |y|, that solvers without a Hessian reach by default."""
    return 1e-10 if jnp.finfo(dtype).bits >= 64 else 1e-5


def free_gradient(problem: Problem, y: jax.Array, gradient: jax.Array) -> jax.Array:
    """The gradient (n,), zero where an unknown is held at a bound."""
    if problem.bounds is None:
        return gradient
    return jnp.where(held(gradient, y, problem.bounds), 0, gradient)


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


def small_decrement(decrement, energy, y, start, curvature) -> jax.Array:
    """() bool: what is expected to be gained is little of the energy, or of |H| |y|^2.

    Args:
        decrement: () half of g^T H^-1 g.
        energy: () at y.
        y: (n,).
        start: () the norm of y at the start, for a minimum at zero.
        curvature: () |H|.
    """
    eps = float(jnp.finfo(y.dtype).eps)
    extent = jnp.maximum(norm(y), eps * start)
    return decrement <= eps**0.5 * jnp.abs(energy) + curvature * (eps**0.5 * extent) ** 2


def _small_newton_step(gradient_of, matrix, energy, gradient, y, start, mask) -> jax.Array:
    """() bool: the Hessian is positive semi-definite, and the Newton step of each unknown small.

    A step that is not small against y, as near zero, must lead past a minimum and not an
    inflection: behind it the energy rises.
    """
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
    step = q @ jnp.where(flat, 0, c / jnp.where(h > 0, h, jnp.where(lift > 0, lift, 1))) / scale
    p = scale * jnp.abs(step)
    limit = scale * jnp.maximum(eps**0.25 * jnp.abs(y), eps * jnp.max(jnp.abs(start)))
    limit = jnp.maximum(limit, eps**0.5 * extent)
    # What the energy could fall by along directions whose curvature is round-off.
    rounding = 4 * n * eps * jnp.max(jnp.abs(c))
    hidden = jnp.max(jnp.where(flat, jnp.maximum(jnp.abs(c) - rounding, 0), 0)) * extent
    gain = jnp.sum(jnp.where(flat, 0, c * c / jnp.where(h > 0, h, 1))) / 2
    known = hidden <= eps**0.5 * jnp.abs(energy) + (16 * eps * extent) ** 2 * top
    known &= small_decrement(gain, energy, scale * y, norm(scale * start), top)
    far = y - 16 * mask * step
    behind = gradient_of(far)
    unit = jnp.max(jnp.abs(behind))
    risen = jnp.sum(behind / jnp.where(unit > 0, unit, 1) * (far - y)) > 0
    risen |= jnp.all(jnp.abs(step) <= eps**0.5 * jnp.abs(y))
    # The curvature itself is known up to what the rest of the gradient changes it by.
    bent = 16 * jnp.max(jnp.abs(c)) / jnp.where(extent > 0, extent, jnp.inf)
    bent = jnp.maximum(lift, jnp.minimum(bent, eps**0.5 * top))
    return (
        known & (h[0] >= -bent) & (top > 0) & risen & finite
        & jnp.all((p <= limit) | (mask == 0))
    )  # fmt: skip


def judged(
    problem: Problem,
    start: jax.Array,
    y: jax.Array,
    status: jax.Array,
    energy: Any = None,
    gradient: Any = None,
    start_energy: jax.Array | None = None,
    promote: bool = False,
) -> Result:
    """The result of a solver that keeps no Hessian; its `CONVERGED` stands where it is supported.

    Up to 16 unknowns the Hessian at y must be positive semi-definite and the Newton step that is
    left small (eps^1/4 of each unknown). Above, Ritz values of a few products must show no negative
    curvature, and the gradient must be small against |H| |y|. Else the claim becomes `STALLED`.

    Args:
        promote: `STALLED` becomes `CONVERGED` where the same holds, above 16 unknowns with eps^1/2.
    """
    status = jnp.asarray(status, jnp.int32)
    claim = status == Status.CONVERGED
    y = jnp.asarray(y, start.dtype)
    if start_energy is None:
        start_energy = problem.energy(start)
    if energy is None or gradient is None:
        energy, gradient = jax.value_and_grad(problem.energy)(y)
    finite = jnp.isfinite(energy) & jnp.all(jnp.isfinite(gradient))
    eps = float(jnp.finfo(y.dtype).eps)
    gradient_of = jax.grad(problem.energy)
    product = hessian_product(gradient_of, y)
    free = free_gradient(problem, y, gradient)
    mask = jnp.ones_like(y)
    if problem.bounds is not None:
        mask = jnp.where(free == gradient, 1, 0).astype(y.dtype)
    probed = lambda p: mask * product(mask * p)
    if y.size <= _DENSE:
        matrix = dense_matrix(probed, y.size, y.dtype)
        minimum = _small_newton_step(gradient_of, matrix, energy, free, y, start, mask)
    else:
        ritz = lanczos_eigenvalues(probed, mask * random_like(y), _PROBES)
        ritz = jnp.where(jnp.isfinite(ritz), ritz, 0)
        top = jnp.max(jnp.abs(ritz))
        size = norm(y)
        bent = 16 * norm(free) / jnp.where(size > 0, size, jnp.inf)
        bent = jnp.minimum(bent, eps**0.5 * top)
        minimum = (ritz[0] >= -jnp.maximum(16 * y.size * eps * top, bent)) & (top > 0)
        relative = jnp.where(claim, eps**0.25, eps**0.5)
        minimum &= small_gradient(free, y, norm(start), top, relative)
    if problem.bounds is not None:
        minimum |= jnp.all(mask == 0)
    claim |= promote & (status == Status.STALLED)
    verdict = jnp.where(minimum & finite, jnp.int32(Status.CONVERGED), jnp.int32(Status.STALLED))
    status = jnp.where(claim, verdict, status)
    status = jnp.where(jnp.isfinite(start_energy), status, jnp.int32(Status.NONFINITE))
    status = jnp.where(finite, status, jnp.int32(Status.NONFINITE))
    return Result(y, status, energy, gradient, start_energy)
