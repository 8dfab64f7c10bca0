"""Trust-region subproblems without eigendecompositions: by Cholesky factors, or by products."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxcv.closure import match_varying_axes, while_once
from jaxcv.linear.dense import norm
from jaxcv.linear.structure import Structure
from jaxcv.solvers.feasible import feasible
from jaxcv.solvers.spectral import first_radius
from jaxcv.solvers.trust_region import Proposal, Request

__all__ = ["factored_proposal", "krylov_proposal"]

_FACTORS = 10  # maximum factorisations per multiplier


def factored_proposal(
    structure: Structure, matrix: Any, scale: jax.Array, request: Request, bounds: Any = None
) -> Proposal:
    """p = -(M + mu D^2)^-1 g with |D p| near the radius, by a few factorisations.

    mu is zero up to round-off if that step fits; else a bracketed Newton's method on 1 / |D p(mu)|
    finds mu. The local blocks of an indefinite M are made positive definite first.

    Args:
        structure: of M.
        matrix: M.
        scale: (n,) D > 0.
        request: gradient, point and radius.
        bounds: as in `Problem`.
    """
    propose = lambda fixed: _factored(structure, matrix, scale, request, fixed)
    return feasible(propose, lambda p: structure.multiply(matrix, p), request, bounds)


def _factored(structure, matrix, scale, request, fixed) -> Proposal:
    gradient, y = request.gradient, request.y
    dtype, square = y.dtype, scale**2
    eps = float(jnp.finfo(dtype).eps)
    rounding = structure.multiply(jax.tree.map(jnp.abs, matrix), request.size)
    if fixed is not None:
        matrix = structure.restrict(matrix, ~fixed, square)
        gradient = jnp.where(fixed, 0, gradient)
    lift = 4 * structure.num_terms * eps

    def attempt(base, mu):
        factor = structure.factor(structure.add(base, mu * square))
        p = -structure.solve(factor, gradient)
        good = structure.definite(factor) & jnp.all(jnp.isfinite(p))
        p = jnp.where(good, p, 0)
        return factor, good, p, norm(scale * p)

    _, definite, newton, length = attempt(matrix, jnp.asarray(lift, dtype))
    # Negative curvature up to 16 |g| / |y| is tolerated: the remaining gradient may cause it.
    bend = 16 * jnp.max(jnp.abs(gradient) / scale) / jnp.max(scale * request.size)
    bend = jnp.clip(bend, lift, eps**0.5).astype(dtype)
    again = ~definite & jnp.isfinite(bend)
    bent = while_once(again, lambda: attempt(matrix, bend)[1:])
    definite, newton, length = jax.tree.map(
        lambda new, old: jnp.where(again, new, old), bent, (definite, newton, length)
    )
    size = norm(gradient / scale)
    largest = jnp.ones((), dtype)  # bound on diag(M) in units of D^2
    extent = norm(scale * request.start)
    radius = first_radius(request.radius, definite, length, size, largest, extent)
    ball = jnp.where(radius > 0, radius, 1)
    definite &= jnp.any(structure.diagonal(matrix) > 0)
    full = definite & (length <= radius)
    base = jax.tree.map(
        lambda convex, plain: jnp.where(definite, plain, convex), structure.convex(matrix), matrix
    )

    def advance(carry):
        mu, low, high, _, _, count = carry
        factor, good, p, length = attempt(base, mu)
        fits = good & (jnp.abs(length - ball) <= 0.2 * ball)
        short = good & (length < ball)
        low, high = jnp.where(short, low, jnp.maximum(low, mu)), jnp.where(short, mu, high)
        image = square * p
        bend = jnp.vdot(image, structure.solve(factor, image))
        update = mu + length**2 / jnp.where(bend > 0, bend, 1) * (length / ball - 1)
        inside = good & (update > low) & (update < high)
        closed = jnp.isfinite(high)
        middle = jnp.where(closed, jnp.sqrt(jnp.maximum(low, lift)) * jnp.sqrt(high), 8 * mu)
        # Accept a short step if the bracket is narrow, or if no smaller mu is known to fail.
        done = fits | (short & ((high <= 4 * low) | (low <= lift)))
        return jnp.where(inside, update, middle), low, high, done, p, count + 1

    zero, infinite = jnp.zeros((), dtype), jnp.asarray(jnp.inf, dtype)
    first = jnp.maximum(size / ball - 1, jnp.where(definite, 1e-3, 1e-2)).astype(dtype)
    carry = (first, zero, infinite, full | ~(radius > 0), newton, jnp.int32(0))
    carry = match_varying_axes(advance, carry)
    *_, found, p, _ = jax.lax.while_loop(lambda c: ~c[3] & (c[5] < _FACTORS), advance, carry)
    del found
    along = -gradient / square * (ball / jnp.where(size > 0, size, 1))
    p = jnp.where(full, newton, jnp.where(jnp.any(p != 0), p, along))
    p = jnp.where(radius > 0, p, 0)
    length = norm(scale * p)
    p = p * jnp.where(full, 1, jnp.minimum(1, ball / jnp.where(length > 0, length, 1)))
    predicted = -jnp.vdot(gradient, p) - 0.5 * jnp.vdot(p, structure.multiply(base, p))
    limit = max(request.tolerance, eps)
    met = jnp.all(jnp.abs(gradient) <= limit * rounding)
    noise = 4 * eps * jnp.max(rounding / scale)
    length = norm(scale * p)
    near = length <= eps**0.5 * jnp.maximum(extent, norm(scale * request.size))
    # The sum of (g_i / D_i)^2 for g = 16 times the round-off of the gradient.
    quiet = jnp.sum((16 * eps * rounding / scale) ** 2)
    return Proposal(
        p, predicted, -0.5 * jnp.vdot(gradient, newton), length, radius, full, definite, met,
        noise, quiet, near,
        jnp.zeros((), dtype), jnp.zeros_like(p), jnp.asarray(False),
    )  # fmt: skip


def krylov_proposal(product, request: Request, bounds: Any = None) -> Proposal:
    """Conjugate gradients on the Newton system, cut off at the radius or at negative curvature.

    Uses only products p -> H p; D = 1. `definite` is true where the iteration was not cut off.

    Source: Steihaug 1983.
    """
    return feasible(lambda fixed: _krylov(product, request, fixed), product, request, bounds)


def _krylov(product: Callable, request: Request, fixed: Any) -> Proposal:
    gradient, y = request.gradient, request.y
    if fixed is not None:
        gradient, whole = jnp.where(fixed, 0, gradient), product
        product = lambda p: jnp.where(fixed, 0, whole(jnp.where(fixed, 0, p)))
    dtype = y.dtype
    eps = float(jnp.finfo(dtype).eps)
    size = norm(gradient)
    size = jnp.where(size > 0, size, 1)  # solve for g / |g|, whose squares cannot underflow
    g = gradient / size
    slope = norm(g)
    curvature = jnp.vdot(g, product(g))
    square = jnp.where(slope > 0, slope**2, 1)
    cauchy = slope**3 / jnp.where(curvature > 0, curvature, square)
    radius = jnp.where(request.radius < 0, 10 * cauchy, request.radius / size)
    limit = min(2 * y.size, 500)

    def unfinished(state):
        _, r, _, step, cut, _ = state
        return ~cut & (norm(r) > 1e-3 * slope) & (step < limit)

    def advance(state):
        p, r, d, step, _, largest = state
        image = product(d)
        curvature, rho, length = jnp.vdot(d, image), jnp.vdot(r, r), jnp.vdot(d, d)
        alpha = rho / jnp.where(curvature > 0, curvature, 1)
        ahead = p + alpha * d
        cut = (curvature <= 0) | (norm(ahead) > radius)
        # The positive root of |p + tau d| = radius.
        b, c = jnp.vdot(p, d), jnp.vdot(p, p) - radius**2
        root = jnp.sqrt(jnp.maximum(b * b - length * c, 0))
        edge = p + (root - b) / jnp.where(length > 0, length, 1) * d
        r_new = r + alpha * image
        d_new = -r_new + jnp.vdot(r_new, r_new) / jnp.where(rho > 0, rho, 1) * d
        largest = jnp.maximum(largest, jnp.abs(curvature) / jnp.where(length > 0, length, 1))
        return jnp.where(cut, edge, ahead), r_new, d_new, step + 1, cut, largest

    zero = jnp.zeros_like(g)
    start = (zero, g, -g, jnp.int32(0), jnp.asarray(False), jnp.zeros((), dtype))
    start = match_varying_axes(advance, start)
    p, _, _, _, cut, largest = jax.lax.while_loop(unfinished, advance, start)
    largest = jnp.where(largest > 0, largest, 1)
    predicted = -jnp.vdot(g, p) - 0.5 * jnp.vdot(p, product(p))
    rounding = largest * norm(request.size)
    met = norm(gradient) <= max(request.tolerance, eps) * rounding
    near = size * norm(p) <= eps**0.5 * jnp.maximum(norm(request.size), norm(request.start))
    return Proposal(
        size * p, size * (size * predicted), size * (size * predicted), size * norm(p),
        size * radius, ~cut, ~cut, met, 4 * eps * rounding, (16 * eps * rounding) ** 2 / largest,
        near, jnp.zeros((), dtype), zero, jnp.asarray(False),
    )  # fmt: skip


def turn_by_product(product_at, wanted, trial, p, image):
    """(H(trial) - H(y)) p (n,), with image() = H(y) p; computed only where `wanted`."""
    return while_once(wanted, lambda: product_at(trial)(p) - image())
