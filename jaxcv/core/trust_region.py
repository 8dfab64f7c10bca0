"""Newton's method in a trust region, for one flat energy; the engine of `solvers.newton`."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.core.dense import cholesky, cholesky_solve, dense_matrix, forward_solve, norm
from jaxcv.core.krylov import lanczos_eigenvalues, random_like
from jaxcv.core.quasi_newton import Approach

__all__ = ["minimise"]

_SECULAR_STEPS = 12
_POLISH_STEPS = 8


class _State(NamedTuple):
    y: jax.Array
    energy: jax.Array
    gradient: jax.Array
    radius: jax.Array  # < 0: not chosen yet
    largest: jax.Array  # largest gradient norm seen, the scale of the tolerance
    steps: jax.Array
    done: jax.Array


def minimise(
    energy: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    tolerance: float,
    max_steps: int,
    dense: bool,
    before: Approach | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A local minimiser (n,), the steps taken and whether it converged.

    Args:
        energy: (n,) -> ().
        start: (n,).
        tolerance: of the gradient norm, relative to the largest seen.
        max_steps: trust-region steps, rejected ones included.
        dense: factorise the Hessian, or use products with it only.
        before: how `start` was found; nothing is done where that has finished.
    """
    eps = jnp.finfo(start.dtype).eps
    evaluate = jax.value_and_grad(energy)
    gradient_of = jax.grad(energy)

    def product_at(y):
        return lambda p: jax.jvp(gradient_of, (y,), (p,))[1]

    def propose(y, gradient, radius):
        if not dense:
            return _steihaug(product_at(y), gradient, radius)[:3]
        matrix = dense_matrix(product_at(y), y.size, y.dtype)
        return (_scalar_step if y.size == 1 else _secular_step)(matrix, gradient, radius)

    def advance(state: _State) -> _State:
        p, predicted, radius = propose(state.y, state.gradient, state.radius)
        length = norm(p)
        trial = state.y + p
        trial_energy, trial_gradient = evaluate(trial)
        # Below this the energy cannot tell better from worse: leave to the polish.
        noise = 4 * eps * jnp.abs(state.energy)
        stalled = (predicted <= noise) | (length <= 2 * eps * norm(state.y))
        ratio = (state.energy - trial_energy) / jnp.where(predicted > 0, predicted, 1)
        finite = jnp.isfinite(trial_energy) & jnp.all(jnp.isfinite(trial_gradient))
        accept = finite & (ratio > 1e-4) & ~stalled
        radius = jnp.where(
            ~finite | ~(ratio > 0.25),
            0.25 * length,
            jnp.where((ratio > 0.75) & (length > 0.8 * radius), 2.5 * radius, radius),
        )
        take = lambda new, old: jnp.where(accept, new, old)
        gradient = take(trial_gradient, state.gradient)
        largest = jnp.maximum(state.largest, norm(gradient))
        met = norm(gradient) <= tolerance * largest
        return _State(
            take(trial, state.y),
            take(trial_energy, state.energy),
            gradient,
            radius,
            largest,
            state.steps + 1,
            met | stalled,
        )

    energy0, gradient0 = evaluate(start)
    slope = norm(gradient0)
    finite = jnp.isfinite(energy0) & jnp.isfinite(slope)
    finished = jnp.asarray(False) if before is None else before.finished
    state = _State(
        start,
        energy0,
        gradient0,
        -jnp.ones((), start.dtype),
        slope if before is None else jnp.maximum(slope, before.largest),
        jnp.int32(0),
        ~finite | finished,
    )
    state = jax.lax.while_loop(lambda s: ~s.done & (s.steps < max_steps), advance, state)
    polished = finite & ~finished
    y, slope, minimum = _polish(product_at, gradient_of, energy, state, polished, tolerance, dense)
    steps = state.steps if before is None else state.steps + before.steps
    return y, steps, (minimum | finished) & finite & jnp.isfinite(slope)


def _polish(product_at, gradient_of, energy, state: _State, finite, tolerance, dense):
    """Newton steps on the gradient alone while each at least halves it: the energy is blind here.

    Returns the point, its gradient norm and whether it is a minimum, as far as second derivatives
    tell: H is positive semi-definite up to round-off, and the Newton step that is left stays where
    H is what it was. Without the second a flat or a shifted energy passes for converged anywhere.
    """
    eps = jnp.finfo(state.y.dtype).eps

    def advance(carry):
        y, gradient, slope, steps, _, _ = carry
        product = product_at(y)
        p, definite = _newton_step(product, gradient, dense)
        trial = y + p
        trial_gradient = gradient_of(trial)
        trial_slope = norm(trial_gradient)
        # H p at both ends: relative change 0 for a quadratic, 0.56 for y^4, 1 - 1/e = 0.63 for an
        # exponential, which has no minimum.
        change = norm(product_at(trial)(p) - product(p))
        noise = 16 * eps * norm(p) * norm(product(gradient)) / jnp.where(slope > 0, slope, 1)
        steady = lambda share: change <= share * slope + noise
        # The step must stay a correction: not a jump to another stationary point.
        level = energy(trial) <= state.energy + 64 * eps * jnp.abs(state.energy)
        better = definite & level & steady(0.62) & (trial_slope < 0.5 * slope)
        met = slope <= tolerance * state.largest
        minimum = definite & jnp.where(met, steady(0.62), steady(0.1))
        take = lambda new, old: jnp.where(better, new, old)
        return (
            take(trial, y),
            take(trial_gradient, gradient),
            take(trial_slope, slope),
            steps + 1,
            better & (trial_slope > 0),
            minimum,
        )

    carry = (
        state.y,
        state.gradient,
        norm(state.gradient),
        jnp.int32(0),
        finite & state.done,
        jnp.asarray(False),
    )
    y, _, slope, _, _, minimum = jax.lax.while_loop(
        lambda c: c[4] & (c[3] < _POLISH_STEPS), advance, carry
    )
    return y, slope, minimum


def _newton_step(product, gradient, dense):
    """-H^-1 g, and whether H is positive semi-definite up to round-off, and not zero."""
    n, dtype = gradient.size, gradient.dtype
    eps = jnp.finfo(dtype).eps
    if not dense:
        p, _, _, inside = _steihaug(product, gradient, jnp.asarray(jnp.inf, dtype))
        # The gradient's own Krylov space may miss negative curvature.
        ritz = lanczos_eigenvalues(product, random_like(gradient), 20)
        return p, inside & (ritz[-1] > 0) & (ritz[0] >= -4 * n * eps * ritz[-1])
    matrix = dense_matrix(product, n, dtype)
    magnitude = jnp.max(jnp.sum(jnp.abs(matrix), axis=1))
    lift = 4 * n * eps * magnitude
    strict = cholesky(matrix)
    sound = jnp.all(jnp.isfinite(strict)) & (jnp.min(jnp.diagonal(strict)) ** 2 > lift)
    factor = cholesky(matrix + jnp.where(sound, 0, lift) * jnp.eye(n, dtype=dtype))
    good = jnp.all(jnp.isfinite(factor))
    return -cholesky_solve(jnp.where(good, factor, jnp.eye(n, dtype=dtype)), gradient), good


# Each of the following returns the step p (n,), the decrease -g^T p - p^T H p / 2 that the model
# predicts, and the radius used (chosen here where it came in negative).


def _scalar_step(matrix, gradient, radius):
    h, g = matrix[0, 0], gradient[0]
    magnitude = jnp.where(h == 0, 1, jnp.abs(h))
    newton = -g / magnitude
    radius = jnp.where(radius < 0, jnp.abs(newton), radius)
    p = jnp.clip(newton, -radius, radius)
    return p[None], -g * p - 0.5 * h * p * p, radius


def _secular_step(matrix, gradient, radius):
    """More-Sorensen: the multiplier mu >= 0 with |(H + mu I)^-1 g| = radius, by safeguarded Newton.

    One factorisation where the Newton step fits; the loop runs only for lanes where it does not.
    """
    n, dtype = gradient.size, gradient.dtype
    identity = jnp.eye(n, dtype=dtype)
    slope = norm(gradient)
    row_sums = jnp.sum(jnp.abs(matrix), axis=1)
    magnitude = jnp.max(row_sums)
    diagonal = jnp.diagonal(matrix)

    def attempt(mu):
        factor = cholesky(matrix + mu * identity)
        good = jnp.all(jnp.isfinite(factor))
        p = -cholesky_solve(jnp.where(good, factor, identity), gradient)
        return factor, good, p, norm(p)

    _, definite, newton, length = attempt(jnp.zeros((), dtype))
    cautious = slope / jnp.where(magnitude > 0, magnitude, 1)
    fitting = definite & jnp.isfinite(length)
    radius = jnp.where(radius < 0, jnp.where(fitting, length, cautious), radius)
    interior = definite & (length <= radius)
    safe_radius = jnp.where(radius > 0, radius, 1)

    gershgorin = jnp.min(diagonal - (row_sums - jnp.abs(diagonal)))
    low = jnp.maximum(0, jnp.maximum(-jnp.min(diagonal), slope / safe_radius - magnitude))
    high = jnp.maximum(slope / safe_radius - gershgorin, low) + jnp.finfo(dtype).eps * magnitude
    first = jnp.where(definite, jnp.maximum(low, 1e-3 * high), jnp.sqrt(low * high) + 1e-3 * high)

    def advance(carry):
        mu, low, high, _, _, step = carry
        factor, good, p, length = attempt(mu)
        fits = good & (jnp.abs(length - safe_radius) <= 0.1 * safe_radius)
        low = jnp.where(good & (length < safe_radius), low, jnp.maximum(low, mu))
        high = jnp.where(good & (length < safe_radius), jnp.minimum(high, mu), high)
        # Newton on 1/|p(mu)| - 1/radius, which is nearly linear in mu.
        w = forward_solve(jnp.where(good, factor, identity), p)
        w_square = jnp.maximum(jnp.vdot(w, w), jnp.finfo(dtype).tiny)
        update = mu + (length**2 / w_square) * (length - safe_radius) / safe_radius
        inside = good & (update > low) & (update < high)
        middle = jnp.maximum(jnp.sqrt(low * high), low + 0.01 * (high - low))
        return jnp.where(fits, mu, jnp.where(inside, update, middle)), low, high, fits, p, step + 1

    carry = (first, low, high, interior, newton, jnp.int32(0))
    mu, _, high, fits, p, _ = jax.lax.while_loop(
        lambda c: ~c[3] & (c[5] < _SECULAR_STEPS), advance, carry
    )
    # Not found in time (or the hard case): the upper end is positive definite.
    _, good, fallback, _ = attempt(high)
    p = jnp.where(
        fits, p, jnp.where(good, fallback, -gradient / jnp.where(magnitude > 0, magnitude, 1))
    )
    length = norm(p)
    p = jnp.where(length > radius, p * (radius / jnp.where(length > 0, length, 1)), p)
    p = jnp.where(interior, newton, p)
    predicted = -jnp.vdot(gradient, p) - 0.5 * jnp.vdot(p, matrix @ p)
    del mu
    return p, predicted, radius


def _steihaug(product, gradient, radius):
    """Conjugate gradients on the Newton system, cut off at the radius or at negative curvature.

    Returns, besides, whether it was not cut off.
    """
    size = norm(gradient)
    size = jnp.where(size > 0, size, 1)  # solved for g / |g|: squares of it cannot underflow
    gradient, radius = gradient / size, radius / size
    slope = norm(gradient)
    image = product(gradient)
    curvature = jnp.vdot(gradient, image)
    square = slope * slope
    cauchy = slope * square / jnp.where(curvature > 0, curvature, square)
    unlimited = radius < 0
    radius = jnp.where(unlimited, 10 * cauchy, radius)
    target = 1e-3 * slope
    limit = min(2 * gradient.size, 500)

    def go_on(state):
        _, r, _, step, stop, _ = state
        return ~stop & (norm(r) > target) & (step < limit)

    def advance(state):
        p, r, d, step, _, _ = state
        image = product(d)
        curvature = jnp.vdot(d, image)
        rho = jnp.vdot(r, r)
        alpha = rho / jnp.where(curvature > 0, curvature, 1)
        ahead = p + alpha * d
        leaves = (curvature <= 0) | (norm(ahead) > radius)
        # The positive root of |p + tau d| = radius.
        a, b, c = jnp.vdot(d, d), jnp.vdot(p, d), jnp.vdot(p, p) - radius**2
        root = jnp.sqrt(jnp.maximum(b * b - a * c, 0))
        edge = p + (root - b) / jnp.where(a > 0, a, 1) * d
        r_new = r + alpha * image
        d_new = -r_new + jnp.vdot(r_new, r_new) / jnp.where(rho > 0, rho, 1) * d
        return jnp.where(leaves, edge, ahead), r_new, d_new, step + 1, leaves, leaves

    zero = jnp.zeros_like(gradient)
    start = (zero, gradient, -gradient, jnp.int32(0), jnp.asarray(False), jnp.asarray(False))
    p, _, _, _, _, cut = jax.lax.while_loop(go_on, advance, start)
    predicted = -jnp.vdot(gradient, p) - 0.5 * jnp.vdot(p, product(p))
    return size * p, size * (size * predicted), size * radius, ~cut
