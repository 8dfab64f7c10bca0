"""The trust-region subproblem by an eigendecomposition: exact, for few unknowns."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxcv.linear.dense import eigh, every, largest, times, total
from jaxcv.solvers.trust_region import Proposal, Request, held

__all__ = ["limited", "spectral_proposal"]

_SECULAR_STEPS = 4


def spectral_proposal(
    matrix: jax.Array, scale: jax.Array, request: Request, bounds: Any = None
) -> Proposal:
    """The global minimiser of the quadratic model in the ball |D p| <= radius.

    With A = D^-1 M D^-1 = Q diag(h) Q^T and c = Q^T D^-1 g the step is -D^-1 Q c / (h + mu), where
    mu is zero or solves |c / (h + mu)| = radius. Newton's method on 1 / radius - 1 / |c / (h + mu)|
    starts at max_i |c_i| / radius - h_i, from where it converges monotonically. Where the gradient
    does not see the lowest, negative eigenvalue (the hard case), that eigenvector fills the ball.

    Args:
        matrix: (n, n) M.
        scale: (n,) D > 0.
        request: gradient, point and radius.
        bounds: as in `Problem`; unknowns that are held at a bound do not move.
    """
    gradient, y = request.gradient, request.y
    n, dtype = y.size, y.dtype
    eps = float(jnp.finfo(dtype).eps)
    scaled, g = matrix / (scale[:, None] * scale[None, :]), gradient / scale
    if bounds is not None:
        fixed = held(gradient, y, bounds)
        scaled = jnp.where(fixed[:, None] | fixed[None, :], jnp.eye(n, dtype=dtype), scaled)
        g = jnp.where(fixed, 0, g)
    finite = every(jnp.isfinite(scaled)) & every(jnp.isfinite(g))
    h, q = eigh(jnp.where(finite, scaled, 0))
    c = times(q.T, jnp.where(finite, g, 0))
    top = largest(jnp.abs(h))
    lift = 4 * n * eps * top
    definite = (h[0] >= -lift) & (top > 0) & finite

    # Round-off of y moves c_i by eps sqrt(h_i h_max) |D y| where E is a sum of squares.
    extent = largest(scale * request.size)
    limit = max(request.tolerance, eps)
    met = every(jnp.abs(c) <= limit * jnp.sqrt(top * jnp.abs(h)) * extent)
    noise = 4 * eps * top * extent
    flat = (h <= lift) & (jnp.abs(c) <= n * noise)

    # In units of the largest entry of c, squares neither overflow nor vanish.
    unit = largest(jnp.abs(c))
    unit = jnp.where(unit > 0, unit, 1)
    c = c / unit
    stiff = jnp.where(h > 0, h, jnp.where(lift > 0, lift, 1))
    newton = jnp.where(flat, 0, -c / stiff)
    length = unit * jnp.sqrt(total(newton**2))
    start = largest(scale * request.start)
    radius = first_radius(request.radius, definite, length, unit, top, start)
    full = definite & (length <= radius)
    ball = jnp.where(radius > 0, radius, unit) / unit
    bent = jnp.where(radius > 0, _on_the_sphere(h, c, ball, lift), 0)
    step = jnp.where(full, newton, bent)
    predicted = -total(unit * step * (unit * (c + 0.5 * h * step)))
    p = unit * times(q, step) / scale
    length = jnp.where(full, length, radius)
    # `quiet`, `near` and `hidden` are for `limited`: few operations compile as one piece.
    return Proposal(p, predicted, length, radius, full, definite, met, noise, noise, full, noise)


def _on_the_sphere(h, c, ball, lift):
    """-c / (h + mu) of length `ball`, in the hard case with what fills the ball."""
    n, hard = c.size, h[0] < -lift
    if n == 1:
        return jnp.where(c > 0, -ball, jnp.where((c < 0) | hard, ball, 0))
    low = jnp.maximum(lift - h[0], jnp.finfo(c.dtype).tiny)
    mu = jnp.maximum(largest(jnp.abs(c) / ball - h), low)

    def inverse(mu):
        return 1 / jnp.where(h + mu > 0, h + mu, 1)

    def advance(_, mu):
        r = c * inverse(mu)
        square, bend = total(r**2), total(r**2 * inverse(mu))
        more = square / jnp.where(bend > 0, bend, 1) * (jnp.sqrt(square) / ball - 1)
        return mu + jnp.maximum(more, 0)

    # The first guess is within a factor of sqrt(n).
    mu = advance(0, mu) if n == 2 else jax.lax.fori_loop(0, _SECULAR_STEPS, advance, mu)
    step = -c * inverse(mu)
    square = total((step / ball) ** 2)
    # What fills the ball along the first eigenvector, and what round-off leaves outside of it.
    fill = ball * jnp.sqrt(jnp.maximum(jnp.where(hard, 1 - square, 0), 0))
    fill = jnp.where(c[0] > 0, -fill, fill)
    inside = 1 / jnp.sqrt(jnp.maximum(square, 1))
    return inside * (step + fill * (jnp.arange(n) == 0).astype(c.dtype))


def limited(
    proposal: Proposal, matrix: jax.Array, scale: jax.Array, request: Request, bounds: Any = None
) -> Proposal:
    """The proposal with `quiet`, `near` and `hidden`.

    What a full Newton step leaves of the gradient, g + M p, lies along the directions that it
    dropped, whose curvature is round-off.
    """
    eps, n = float(jnp.finfo(scale.dtype).eps), scale.size
    extent = largest(scale * request.size)
    near = (eps * n) ** 0.5 * jnp.maximum(extent, largest(scale * request.start))
    quiet = 64 * eps * proposal.noise * extent  # (16 eps extent)^2 times the largest eigenvalue
    left = jnp.abs(request.gradient + times(matrix, proposal.p)) / scale
    if bounds is not None:
        left = jnp.where(held(request.gradient, request.y, bounds), 0, left)
    return proposal._replace(
        quiet=quiet, near=proposal.length <= near, hidden=largest(left) * extent
    )


def first_radius(radius, definite, length, size, top, extent):
    """`radius`; where it is negative, that of the first step.

    The Newton step, but no longer than the start is, |D y0| = `extent`; where the model is not
    convex, a step along the gradient.
    """
    newton = jnp.where(extent > 0, jnp.minimum(length, extent), length)
    cautious = size / jnp.where(top > 0, top, 1)
    return jnp.where(radius < 0, jnp.where(definite, newton, cautious), radius)
