"""The trust-region subproblem by an eigendecomposition: exact, for few unknowns."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.closure import together
from jaxcv.linear.dense import eigh, every, largest, times, total
from jaxcv.solvers.feasible import feasible
from jaxcv.solvers.trust_region import Proposal, Request

__all__ = ["first_radius", "free_proposal", "spectral_proposal"]

_SECULAR_STEPS = 4


class _Spectrum(NamedTuple):
    """The model in its eigenbasis: D^-1 M D^-1 = Q diag(h) Q^T, D^-1 g = unit * Q c."""

    h: jax.Array
    q: jax.Array
    c: jax.Array
    unit: jax.Array  # keeps g / D and its squares from overflow and underflow
    lift: jax.Array  # round-off of h
    flat: jax.Array  # (n,) bool, directions whose curvature and gain are round-off
    definite: jax.Array


class _Step(NamedTuple):
    p: jax.Array
    newton: jax.Array  # (n,) in the eigenbasis, in units of `unit`
    length: jax.Array  # () |D p| of the Newton step
    radius: jax.Array
    full: jax.Array
    predicted: jax.Array


def spectral_proposal(
    matrix: jax.Array, scale: jax.Array, request: Request, bounds: Any = None
) -> Proposal:
    """The global minimiser of the quadratic model in the ball |D p| <= radius.

    With A = D^-1 M D^-1 = Q diag(h) Q^T and c = Q^T D^-1 g the step is -D^-1 Q c / (h + mu), where
    mu is zero or solves |c / (h + mu)| = radius. Newton's method on 1 / radius - 1 / |c / (h + mu)|
    starts at max_i |c_i| / radius - h_i, from where it converges monotonically. In the hard case, a
    gradient orthogonal to the eigenvector of h_0 < 0, a multiple of that eigenvector is added.

    Args:
        matrix: (n, n) M.
        scale: (n,) D > 0.
        request: gradient, point and radius.
        bounds: as in `Problem`.
    """
    propose = lambda fixed: free_proposal(matrix, scale, request, fixed)
    return feasible(propose, lambda p: times(matrix, p), request, bounds)


def free_proposal(
    matrix: jax.Array, scale: jax.Array, request: Request, fixed: jax.Array | None
) -> Proposal:
    """`spectral_proposal` without bounds; the `fixed` (n,) bool unknowns do not move."""
    small = matrix.nbytes == 16
    spectrum = together(lambda: _spectrum(matrix, scale, request, fixed), small)
    step = together(lambda: _step(spectrum, scale, request), small)
    return together(lambda: _judged(spectrum, step, scale, request), small)


def _spectrum(matrix, scale, request, fixed) -> _Spectrum:
    gradient, n, eps = request.gradient, scale.size, float(jnp.finfo(scale.dtype).eps)
    unit = largest(jnp.abs(gradient))
    unit = jnp.where((unit > 0) & (unit < jnp.inf), unit, 1)
    # Clipping keeps XLA from dividing by unit * scale, which may underflow.
    g = jnp.clip(gradient / unit, -1, 1) / scale
    scaled = matrix / (scale[:, None] * scale[None, :])
    if fixed is not None:
        scaled = jnp.where(fixed[:, None] | fixed[None, :], jnp.eye(n, dtype=scale.dtype), scaled)
        g = jnp.where(fixed, 0, g)
    finite = every(jnp.isfinite(scaled)) & every(jnp.isfinite(gradient))
    h, q = eigh(jnp.where(finite, scaled, 0))
    c = times(q.T, jnp.where(finite, g, 0))
    top = largest(jnp.abs(h))
    lift = 4 * n * eps * top
    # Negative curvature up to 16 |g| / |y| is tolerated: the remaining gradient may cause it.
    extent = largest(scale * request.size)
    bend = 16 * unit * largest(jnp.abs(c)) / jnp.where(extent > 0, extent, 1)
    bend = jnp.maximum(lift, jnp.minimum(bend, eps**0.5 * top))
    # At curvature `lift` the gain of a flat direction is below the round-off of the energy.
    gain = jnp.sqrt(32 * eps * lift) * jnp.sqrt(jnp.abs(request.energy))
    flat = (h <= lift) & (jnp.abs(c) <= gain / unit)
    return _Spectrum(h, q, c, unit, lift, flat, (h[0] >= -bend) & (top > 0) & finite)


def _step(spectrum: _Spectrum, scale, request) -> _Step:
    h, q, c, unit, lift, flat, definite = spectrum
    newton = -c / jnp.where(h > 0, h, jnp.where(lift > 0, lift, 1))
    newton = jnp.where(flat, 0, newton)
    length = unit * jnp.sqrt(total(newton**2))
    start, top, size = largest(scale * request.start), largest(jnp.abs(h)), largest(jnp.abs(c))
    size = jnp.where(size > 0, size, 1)
    radius = first_radius(request.radius, definite, length, unit * size, top, start)
    full = definite & (length <= radius) & every((h > 0) | flat)
    ball = jnp.where(radius > 0, radius, unit) / unit
    ball = jnp.minimum(ball, jnp.finfo(ball.dtype).max / 16)
    bent = jnp.where(radius > 0, _on_the_sphere(h, c, ball, lift), 0)
    step = jnp.where(full, newton, bent)
    predicted = -total(unit * step * (unit * (c + 0.5 * h * step)))
    return _Step(unit * times(q, step) / scale, newton, length, radius, full, predicted)


def _on_the_sphere(h, c, ball, lift):
    """-c / (h + mu) of length `ball`; in the hard case extended along the first axis."""
    n, hard = c.size, h[0] < -lift
    if n == 1:
        return jnp.where(c > 0, -ball, jnp.where((c < 0) | hard, ball, 0))
    eps = jnp.finfo(c.dtype).eps
    low = jnp.maximum(jnp.where(hard, lift, eps * lift) - h[0], jnp.finfo(c.dtype).tiny)
    mu = jnp.maximum(largest(jnp.abs(c) / ball - h), low)

    def inverse(mu):
        return 1 / jnp.where(h + mu > 0, h + mu, 1)

    def advance(_, mu):
        r = c * inverse(mu)
        square, bend = total(r**2), total(r**2 * inverse(mu))
        more = square / jnp.where(bend > 0, bend, 1) * (jnp.sqrt(square) / ball - 1)
        return mu + jnp.maximum(more, 0)

    # The first step is at most sqrt(n) times too long.
    mu = advance(0, mu) if n == 2 else jax.lax.fori_loop(0, _SECULAR_STEPS, advance, mu)
    step = -c * inverse(mu)
    square = total((step / ball) ** 2)
    # Extend the step to the sphere along the first axis; shorten what round-off leaves outside.
    fill = ball * jnp.sqrt(jnp.maximum(jnp.where(hard, 1 - square, 0), 0))
    fill = jnp.where(c[0] > 0, -fill, fill)
    inside = 1 / jnp.sqrt(jnp.maximum(square, 1))
    return inside * (step + fill * (jnp.arange(n) == 0).astype(c.dtype))


def _judged(spectrum: _Spectrum, step: _Step, scale, request) -> Proposal:
    h, q, c, unit, lift, flat, definite = spectrum
    n, eps = scale.size, float(jnp.finfo(scale.dtype).eps)
    top, extent = largest(jnp.abs(h)), largest(scale * request.size)
    # Round-off of y moves c_i by eps sqrt(h_i h_max) |D y| where E is a sum of squares.
    limit = max(request.tolerance, eps) * extent
    met = every(jnp.abs(c) <= limit * (jnp.sqrt(top) * jnp.sqrt(jnp.abs(h)) / unit))
    noise = 4 * eps * top * extent
    quiet = 64 * eps * noise * extent  # (16 eps extent)^2 times the largest eigenvalue
    decrement = -0.5 * total(unit * step.newton * (unit * c))
    dropped = jnp.where(flat, c, 0)
    rounding = 4 * n * eps * largest(jnp.abs(c))
    seen = jnp.where(jnp.abs(dropped) > rounding, dropped, 0)
    hidden = unit * largest(jnp.abs(seen)) * extent
    rest = -unit * times(q, seen) / (scale * jnp.where(lift > 0, lift, 1))
    length = jnp.where(step.full, step.length, step.radius)
    near = length <= (eps * n) ** 0.5 * jnp.maximum(extent, largest(scale * request.start))
    blurred = definite & near & ~every((h > 0) | flat)
    return Proposal(
        step.p, step.predicted, decrement, length, step.radius, step.full, definite, met, noise,
        quiet, near, hidden, rest, blurred,
    )  # fmt: skip


def first_radius(radius, definite, length, size, top, extent):
    """`radius`; where it is negative, the radius of the first step.

    That is the length of the Newton step, at most `extent` = |D y0|; where the model is not convex,
    the length of a gradient step, `size` / `top`.
    """
    newton = jnp.where(extent > 0, jnp.minimum(length, extent), length)
    cautious = size / jnp.where(top > 0, top, 1)
    return jnp.where(radius < 0, jnp.where(definite, newton, cautious), radius)
