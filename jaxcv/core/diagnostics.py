"""What is known of a minimiser and of the damped system at it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxcv.core.damping import Damping, Diagnostics
from jaxcv.core.dense import cholesky, cholesky_solve, dense_matrix, eigenvalues, norm
from jaxcv.core.krylov import conjugate_gradient, lanczos_eigenvalues, random_like
from jaxcv.core.linear import adjoint_residual, damped_system, resolve_method

__all__ = ["diagnose"]


def diagnose(
    gradient: Callable[[jax.Array], jax.Array],
    y: jax.Array,
    damping: Damping,
    linear: str,
    v: jax.Array | None = None,
    u: jax.Array | None = None,
    converged: jax.Array | None = None,
) -> Diagnostics:
    """The `Diagnostics` of the damped system at `y`; no host callback, one value under `vmap`.

    Args:
        gradient: (n,) -> (n,), dE/dy.
        y: (n,) the point.
        damping, linear: as for `argmin`.
        v, u: (n,) cotangent and its damped solution; without them the fields speak of a
            cotangent of norm one.
        converged: () bool, what the solver said; a point that is not is not certified.
    """
    g = gradient(y)
    product = lambda p: jax.jvp(gradient, (y,), (p,))[1]
    method = resolve_method(linear, y.size)
    if method == "cg":
        # From the gradient itself a symmetric problem may hide negative curvature.
        spectrum = lanczos_eigenvalues(product, random_like(y))
        system = damped_system(product, g if v is None else v, damping, linear)
        matrix = None
    else:
        matrix = dense_matrix(product, y.size, y.dtype)
        finite = jnp.all(jnp.isfinite(matrix))
        matrix = jnp.where(finite, matrix, jnp.eye(y.size, dtype=y.dtype))
        spectrum = jnp.where(finite, eigenvalues(matrix), jnp.nan)
        system = damped_system(lambda p: matrix @ p, y, damping, linear)
    magnitude = jnp.max(jnp.abs(spectrum))
    floor = 4 * y.size * jnp.finfo(y.dtype).eps * magnitude
    smallest = spectrum[0]
    least = jnp.maximum(floor, jnp.finfo(y.dtype).tiny)
    shift = jnp.maximum(system.shift, -smallest)  # of H', in mode `plain` too
    lifted = jnp.maximum(spectrum + shift, least)  # eigenvalues of H', kept off zero

    # The Newton step on H', and how much the Hessian changes along it.
    if matrix is None:
        step, _ = conjugate_gradient(lambda p: product(p) + shift * p, g)
        length = norm(step)
        along = jax.jvp(gradient, (y - step,), (step,))[1] - product(step)
        change = jnp.where(length > 0, norm(along) / jnp.where(length > 0, length, 1), 0)
    else:
        raised = jnp.where(smallest + shift > floor, 0, least)
        identity = jnp.eye(y.size, dtype=y.dtype)
        factor = cholesky(matrix + (shift + raised) * identity)
        step = cholesky_solve(factor, g)
        moved = lambda p: jax.jvp(gradient, (y - step,), (p,))[1]
        moved_matrix = dense_matrix(moved, y.size, y.dtype)
        change = norm((moved_matrix - matrix).ravel())
    decrement = jnp.sqrt(jnp.maximum(jnp.vdot(g, step), 0))
    kantorovich = change / lifted[0]
    # A minimiser is known by its solver; without one only the step that is left can tell.
    root = jnp.sqrt(jnp.finfo(y.dtype).eps)
    settled = norm(step) <= root * norm(y) if converged is None else converged

    lam, order = system.damping, damping.order
    size = jnp.ones((), y.dtype) if v is None else norm(v)
    if damping.mode == "shift":
        bound = order * size / lam
        bias = (lam / (lifted[0] + lam)) ** order
    elif damping.mode == "tikhonov":
        bound = min(order / 2, order**0.5) * size / lam
        closest = jnp.min(jnp.abs(spectrum)) / jnp.maximum(lam, jnp.finfo(y.dtype).tiny)
        bias = 1 / (1 + closest**2) ** order
    else:
        low = smallest - floor + lam
        terms = sum(lam**j / low ** (j + 1) for j in range(order))
        # A Ritz value is never below the smallest eigenvalue, so it bounds nothing.
        known = (low > 0) & (method != "cg")
        bound = jnp.where(known, size * terms, jnp.inf)
        bias = jnp.max(jnp.abs(lam / (spectrum + lam))) ** order
    residual = jnp.zeros((), y.dtype)
    if v is not None and u is not None:
        residual = adjoint_residual(system, damping, u, v)
    certified = (smallest > floor) & (kantorovich <= 0.5) & settled & (method != "cg")
    return Diagnostics(
        gradient_norm=norm(g),
        newton_decrement=decrement,
        min_eigenvalue=smallest,
        negative_eigenvalues=jnp.sum(spectrum < -floor).astype(jnp.int32),
        damping_used=lam,
        gradient_bound=bound,
        bias_estimate=bias,
        error_estimate=bias + kantorovich + residual,
        adjoint_residual=residual,
        certified=certified,
    )
