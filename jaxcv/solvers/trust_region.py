"""Newton's method in a trust region, for one flat energy; the engine of `solvers.newton`."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.linear.dense import (
    cholesky,
    cholesky_solve,
    dense_matrix,
    expand,
    forward_solve,
    hessian_product,
    norm,
)
from jaxcv.linear.krylov import lanczos_eigenvalues, random_like
from jaxcv.solvers.closure import rare_while_loop
from jaxcv.solvers.lbfgs import Approach

__all__ = ["minimise"]

_SECULAR_STEPS = 12
_POLISH_STEPS = 8


class _State(NamedTuple):
    y: jax.Array
    energy: jax.Array
    gradient: jax.Array
    matrix: jax.Array  # (n, n) the last Hessian; (0, 0) where only products are taken
    radius: jax.Array  # < 0: not chosen yet
    largest: jax.Array  # largest gradient norm seen, the scale of the tolerance
    steps: jax.Array
    done: jax.Array


class _Local:
    """An energy around a point.

    Small problems carry the Hessian of their point along, since with the energy and the gradient
    it comes almost free; medium ones compute it when a step needs it; large ones never do.
    """

    def __init__(self, energy, size: int, dense: bool, small: bool):
        self.energy, self.gradient = energy, jax.grad(energy)
        self.size, self.dense, self.small = size, dense, small

    def evaluate(self, y, matrix):
        """E, dE/dy and the Hessian to carry, which is `matrix` where none is computed."""
        if self.small:
            return expand(self.energy, y)
        return *jax.value_and_grad(self.energy)(y), matrix

    def product(self, y):
        return hessian_product(self.gradient, y)

    def hessian(self, y, matrix):
        """The Hessian at y; `matrix` where that is carried, or where there is none."""
        if self.small or not self.dense:
            return matrix
        return dense_matrix(self.product(y), self.size, y.dtype)


class Minimum(NamedTuple):
    """Where the trust region ended.

    Attributes:
        y: (n,).
        energy: () at y.
        gradient: (n,) at y.
        matrix: (n, n) the Hessian at y, but where nothing was left to do that of `before`; (0, 0)
            where only products were taken.
        steps: () int32.
        converged: () bool.
    """

    y: jax.Array
    energy: jax.Array
    gradient: jax.Array
    matrix: jax.Array
    steps: jax.Array
    converged: jax.Array


def minimise(
    energy: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    tolerance: float,
    max_steps: int,
    dense: bool,
    before: Approach | None = None,
) -> Minimum:
    """A local minimiser of `energy`.

    Args:
        energy: (n,) -> ().
        start: (n,).
        tolerance: of the gradient norm, relative to the largest seen.
        max_steps: trust-region steps, rejected ones included.
        dense: factorise the Hessian, or use products with it only.
        before: how `start` was found; nothing is done where that has finished.
    """
    eps = jnp.finfo(start.dtype).eps
    local = _Local(energy, start.size, dense, small=dense and before is None)

    def propose(state, matrix):
        if not dense:
            return _steihaug(local.product(state.y), state.gradient, state.radius)[:3]
        step = _scalar_step if state.y.size == 1 else _secular_step
        return step(matrix, state.gradient, state.radius)

    def advance(state: _State) -> _State:
        matrix = local.hessian(state.y, state.matrix)
        p, predicted, radius = propose(state, matrix)
        length = norm(p)
        trial = state.y + p
        trial_energy, trial_gradient, trial_matrix = local.evaluate(trial, matrix)
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
            take(trial_matrix, matrix),
            radius,
            largest,
            state.steps + 1,
            met | stalled,
        )

    # Medium problems come with a Hessian near their start.
    matrix = jnp.zeros((0, 0), start.dtype) if before is None else before.matrix
    energy0, gradient0, matrix = local.evaluate(start, matrix)
    slope = norm(gradient0)
    finite = jnp.isfinite(energy0) & jnp.isfinite(slope)
    finished = jnp.asarray(False) if before is None else before.finished
    state = _State(
        start,
        energy0,
        gradient0,
        matrix,
        -jnp.ones((), start.dtype),
        slope if before is None else jnp.maximum(slope, before.largest),
        jnp.int32(0),
        ~finite | finished,
    )
    while_loop = jax.lax.while_loop if before is None else rare_while_loop
    state = while_loop(lambda s: ~s.done & (s.steps < max_steps), advance, state)
    # Those that ran out of steps go there, too, for the Hessian at their last point.
    state, minimum = _polish(local, state, finite & ~finished, tolerance, while_loop)
    steps = state.steps if before is None else state.steps + before.steps
    converged = (minimum | finished) & finite & jnp.isfinite(norm(state.gradient))
    return Minimum(state.y, state.energy, state.gradient, state.matrix, steps, converged)


def _polish(local: _Local, state: _State, wanted, tolerance, while_loop):
    """Newton steps on the gradient alone while each at least halves it: the energy is blind here.

    Returns the state and whether its point is a minimum, as far as second derivatives tell: H is
    positive semi-definite up to round-off, and the Newton step that is left stays where H is what
    it was. Without the second a flat or a shifted energy passes for converged anywhere.
    """
    eps = jnp.finfo(state.y.dtype).eps
    # The step must stay a correction: not a jump to another stationary point.
    level = state.energy + 64 * eps * jnp.abs(state.energy)

    def advance(carry):
        state, steps, _, _ = carry
        slope = norm(state.gradient)
        matrix = local.hessian(state.y, state.matrix)
        product = (lambda v: matrix @ v) if local.dense else local.product(state.y)
        newton_step = _dense_step if local.dense else _krylov_step
        p, definite = newton_step(product, matrix, state.gradient)
        trial = state.y + p
        trial_energy, trial_gradient, trial_matrix = local.evaluate(trial, matrix)
        trial_slope = norm(trial_gradient)
        # H p at both ends: relative change 0 for a quadratic, 0.56 for y^4, 1 - 1/e = 0.63 for an
        # exponential, which has no minimum.
        ahead = trial_matrix @ p if local.small else local.product(trial)(p)
        change = norm(ahead - product(p))
        size = norm(product(state.gradient)) / jnp.where(slope > 0, slope, 1)
        noise = 16 * eps * norm(p) * size
        steady = lambda share: change <= share * slope + noise
        good = (trial_energy <= level) & state.done & (steps + 1 < _POLISH_STEPS)
        better = definite & good & steady(0.62) & (trial_slope < 0.5 * slope)
        met = slope <= tolerance * state.largest
        minimum = definite & jnp.where(met, steady(0.62), steady(0.1))
        take = lambda new, old: jnp.where(better, new, old)
        state = state._replace(
            y=take(trial, state.y),
            energy=take(trial_energy, state.energy),
            gradient=take(trial_gradient, state.gradient),
            matrix=take(trial_matrix, matrix),
        )
        return state, steps + 1, better, minimum & state.done

    carry = (state, jnp.int32(0), wanted, jnp.asarray(False))
    state, _, _, minimum = while_loop(lambda c: c[2], advance, carry)
    return state, minimum


# Each of the following returns -H^-1 g, and whether H is positive semi-definite up to round-off,
# and not zero.


def _krylov_step(product, matrix, gradient):
    del matrix
    n, eps = gradient.size, jnp.finfo(gradient.dtype).eps
    p, _, _, inside = _steihaug(product, gradient, jnp.asarray(jnp.inf, gradient.dtype))
    # The gradient's own Krylov space may miss negative curvature.
    ritz = lanczos_eigenvalues(product, random_like(gradient), 20)
    return p, inside & (ritz[-1] > 0) & (ritz[0] >= -4 * n * eps * ritz[-1])


def _dense_step(product, matrix, gradient):
    del product
    n, dtype = gradient.size, gradient.dtype
    eps = jnp.finfo(dtype).eps
    if n == 1:
        h = matrix[0, 0]
        good = h > 0
        return -gradient / jnp.where(good, h, 1), good
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
