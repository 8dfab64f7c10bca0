"""Tests of whether a point is a minimum, by products with the Hessian at that point."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxcv.linear.dense import dense_matrix, hessian_product, norm
from jaxcv.linear.krylov import lanczos_eigenvalues, random_like
from jaxcv.solvers.problem import Problem, Result, Status, held
from jaxcv.solvers.spectral import free_proposal
from jaxcv.solvers.trust_region import PROBE, Request, rises

__all__ = ["default_tolerance", "free_gradient", "judged", "small_decrement", "small_gradient"]

_PROBES = 12  # Lanczos steps that look for negative curvature
_DENSE = 16  # up to this size a Hessian is formed instead


def default_tolerance(dtype: jnp.dtype) -> float:
    """The default of |dE/dy| / (|H| |y|) at which solvers without a Hessian stop."""
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


def small_decrement(decrement, energy, y, start, curvature, tolerance) -> jax.Array:
    """() bool: decrement <= sqrt(eps) |E| + 100 tolerance^2 |H| |y|^2.

    Args:
        decrement: () half of g^T H^-1 g.
        energy: () at y.
        y: (n,).
        start: () the norm of y at the start, for a minimum at zero.
        curvature: () |H|.
        tolerance: relative.
    """
    eps = float(jnp.finfo(y.dtype).eps)
    extent = tolerance * jnp.maximum(norm(y), eps * start)
    return decrement <= eps**0.5 * jnp.abs(energy) + 100 * curvature * extent**2


def _newton_step_is_small(
    problem, matrix, energy, gradient, y, start, fixed, tolerance
) -> jax.Array:
    """() bool: the Hessian is positive semi-definite, the Newton step and its gain are small.

    Unless the step is tiny relative to y, the energy must rise at `PROBE` times the step: it rises
    beyond a minimum and falls beyond an inflection.
    """
    eps = float(jnp.finfo(y.dtype).eps)
    finite = jnp.all(jnp.isfinite(matrix)) & jnp.all(jnp.isfinite(gradient))
    matrix, gradient = jnp.where(finite, matrix, 0), jnp.where(finite, gradient, 0)
    diagonal = jnp.abs(jnp.diagonal(matrix))
    scale = jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1))
    size, begin = jnp.abs(y), jnp.abs(start)
    radius = jnp.asarray(jnp.finfo(y.dtype).max, y.dtype)
    request = Request(energy.astype(y.dtype), gradient, y, radius, begin, size, 0.0)
    step = free_proposal(matrix, scale, request, fixed)
    p = jnp.where(fixed, 0, step.p)

    extent = jnp.max(scale * size)
    known = step.hidden <= eps**0.5 * jnp.abs(energy) + 1e-2 * step.quiet
    begun = norm(scale * begin)
    known &= small_decrement(step.decrement, energy, scale * y, begun, 1.0, tolerance)
    limit = jnp.maximum(eps**0.25 * size, eps * jnp.max(begin))
    short = jnp.all(scale * jnp.abs(p) <= jnp.maximum(scale * limit, eps**0.5 * extent))
    far = y + PROBE * p
    risen = rises(jax.grad(problem.energy)(far), far - y)
    risen |= jnp.all(jnp.abs(p) <= eps**0.5 * size)
    return step.definite & step.full & known & short & risen & finite


def judged(
    problem: Problem,
    start: jax.Array,
    y: jax.Array,
    status: jax.Array,
    energy: Any = None,
    gradient: Any = None,
    start_energy: jax.Array | None = None,
    promote: bool = False,
    tolerance: float | None = None,
) -> Result:
    """The result of a solver without a Hessian, after a test of its claim of `CONVERGED`.

    Up to 16 unknowns the Hessian at y must be positive semi-definite and the remaining Newton step
    small (eps^1/4 of each unknown). Above, a few Ritz values must show no negative curvature, and
    |dE/dy| <= eps^1/4 |H| |y|. Otherwise the claim becomes `STALLED`.

    Args:
        tolerance: as in `small_decrement`; None: `default_tolerance`.
        promote: also tests `STALLED`, which becomes `CONVERGED`; above 16 unknowns with eps^1/2.
    """
    tolerance = default_tolerance(start.dtype) if tolerance is None else tolerance
    status = jnp.asarray(status, jnp.int32)
    claim = status == Status.CONVERGED
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
        minimum = _newton_step_is_small(
            problem, matrix, energy, free, y, start, mask == 0, tolerance
        )
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
