"""Damped symmetric systems: one interface over three methods and three modes.

`damped_system` takes the product v -> H v and returns a `DampedSystem` that solves. Its `solve` is
linear in v and differentiable in whatever the product closes over (`jax.lax.custom_linear_solve`,
so it transposes), while the shift, the floor of lambda and the factor carry no gradient.

| method     | for       | cost                                | indefinite H in mode `shift`     |
|------------|-----------|-------------------------------------|----------------------------------|
| `scalar`   | n = 1     | one product                         | h' = max(h, 0)                   |
| `cholesky` | n <= ~256 | n products and two factorisations   | one eigendecomposition, if needed|
| `cg`       | large n   | one product a step, O(n) memory     | shift by the smallest Ritz value |
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.core.checks import argument_error, check_choice
from jaxcv.core.damping import Damping
from jaxcv.core.dense import cholesky, cholesky_solve, dense_matrix, eigenvalues, eigh, norm
from jaxcv.core.krylov import conjugate_gradient, lanczos_eigenvalues

__all__ = [
    "METHODS",
    "DampedSystem",
    "adjoint_residual",
    "apply_filter",
    "damped_system",
    "resolve_method",
]

METHODS = ("auto", "scalar", "cholesky", "cg")
DENSE_LIMIT = 256
_PROBES = 8

Product = Callable[[jax.Array], jax.Array]


class DampedSystem(NamedTuple):
    """A damped system, ready to solve with.

    Attributes:
        solve: (n,) -> (n,), v -> (H' + lambda I)^-1 v; in mode `tikhonov`
            v -> H (H^2 + lambda^2 I)^-1 v. Differentiable in H and v. Zero where it is not finite.
        matvec: (n,) -> (n,), v -> (H' + lambda I) v; in mode `tikhonov` v -> H v.
        damping: () lambda, after `relative` and the precision's floor.
        shift: () s >= 0 of H' = H + s I.
    """

    solve: Product
    matvec: Product
    damping: jax.Array
    shift: jax.Array


def resolve_method(method: str, size: int) -> str:
    """The method that `auto` stands for at `size` unknowns; checks the others against it."""
    check_choice("linear", method, METHODS)
    if method == "auto":
        return "scalar" if size == 1 else "cholesky" if size <= DENSE_LIMIT else "cg"
    if method == "scalar" and size != 1:
        raise argument_error("linear", "'scalar' is for one unknown", f"{size}", "Use 'auto'.")
    return method


def damped_system(product: Product, v: jax.Array, damping: Damping, method: str) -> DampedSystem:
    """The damped system of the symmetric operator `product`.

    Args:
        product: (n,) -> (n,), v -> H v, linear and symmetric.
        v: (n,) the right-hand side to come, or any generic vector. `cg` looks for negative
            curvature in its Krylov space and starts from its solution; the dense methods take
            only its size and dtype.
        damping: value, mode and whether relative; its order is the caller's business.
        method: one of `METHODS`.

    Raises:
        ValueError: an unknown method, or `scalar` for more than one unknown.
    """
    method = resolve_method(method, v.size)
    if method == "cg":
        return _cg_system(product, jax.lax.stop_gradient(v), damping)
    matrix = dense_matrix(product, v.size, v.dtype)
    if damping.mode == "tikhonov":
        return _spectral_system(matrix, damping)
    return (_scalar_system if v.size == 1 else _dense_system)(matrix, damping)


def apply_filter(
    system: DampedSystem, damping: Damping, v: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """u = f_k(H) v (n,), the filter of order k of `Damping`, and what it leaves of v, v - H' u.

    |u| is within the bound of its mode. In the modes `shift` and `plain` the rest (n,) is
    lambda^k (H' + lambda I)^-k v, the derivative of k proximal steps with respect to their start.

    Args:
        system: of H, made with `damping`. The function is linear in v where v had no part in it.
        damping: its order and mode.
        v: (n,).
    """
    u = system.solve(v)
    for _ in range(damping.order - 1):
        if damping.mode == "tikhonov":
            u = u + system.solve(v - system.matvec(u))
        else:
            u = system.solve(v + system.damping * u)
    product_of_u = system.matvec(u)
    if damping.mode != "tikhonov":
        product_of_u = product_of_u - system.damping * u
    return u, v - product_of_u


def adjoint_residual(
    system: DampedSystem, damping: Damping, u: jax.Array, v: jax.Array
) -> jax.Array:
    """() the relative residual of u = f_k(H) v.

    With A = H' + lambda I the filter of order k solves A^k u = sum_j lambda^j A^(k-1-j) v, and in
    mode `tikhonov` the same with A = H^2 + lambda^2 I, lambda^2 and H v.
    """
    apply, lam, right = system.matvec, system.damping, v
    if damping.mode == "tikhonov":
        lam, right = system.damping**2, system.matvec(v)
        apply = lambda p: system.matvec(system.matvec(p)) + lam * p
    left, first = apply(u), right
    for j in range(1, damping.order):
        left, right = apply(left), apply(right) + lam**j * first
    return norm(left - right) / jnp.maximum(norm(right), jnp.finfo(v.dtype).tiny)


def _floor(size: int, magnitude: jax.Array) -> jax.Array:
    """The smallest lambda for which a factorisation of H + lambda I can be trusted."""
    return 4 * size * jnp.finfo(magnitude.dtype).eps * magnitude


def _damping_value(damping: Damping, dtype, mean_diagonal, floor) -> jax.Array:
    value = jnp.asarray(damping.value, dtype)
    if damping.relative:
        value = value * jax.lax.stop_gradient(mean_diagonal)
    return value if damping.mode == "plain" else jnp.maximum(value, jax.lax.stop_gradient(floor))


def _bounded(u: jax.Array, v: jax.Array, damping: Damping, value: jax.Array) -> jax.Array:
    """u, rescaled to the bound of its mode; zero where it is not finite.

    The bound holds in exact arithmetic; the rescaling makes it hold in this one. Only for use
    inside a solve that is known to be linear, since this is not.
    """
    u = jnp.where(jnp.all(jnp.isfinite(u)), u, 0)
    if damping.mode == "plain":
        return u
    eps, tiny = jnp.finfo(v.dtype).eps, jnp.finfo(v.dtype).tiny
    limit = (1 - (8 * v.size + 4 * damping.order) * eps) * norm(v) / jnp.maximum(value, tiny)
    if damping.mode == "tikhonov":
        limit = 0.5 * limit
    length = norm(u)
    over = length > limit
    return u * jnp.where(over, limit / jnp.where(over, length, 1), 1)


def _linear_system(matvec, solve, damping, value, shift) -> DampedSystem:
    """The system of `matvec`, solved by `solve(v)`, which sees no tracer of a derivative."""
    bounded = lambda _, v: _bounded(solve(v), v, damping, jax.lax.stop_gradient(value))
    return DampedSystem(
        lambda v: jax.lax.custom_linear_solve(matvec, v, bounded, symmetric=True),
        matvec,
        value,
        shift,
    )


def _scalar_system(matrix: jax.Array, damping: Damping) -> DampedSystem:
    h = matrix[0, 0]
    magnitude = jnp.abs(h)
    value = _damping_value(damping, h.dtype, magnitude, _floor(1, magnitude))
    frozen = jax.lax.stop_gradient(h)
    shift = jnp.zeros_like(h) if damping.mode == "plain" else -jnp.minimum(frozen, 0)
    denominator = frozen + shift + jax.lax.stop_gradient(value)
    matvec = lambda v: (h + shift + value) * v
    return _linear_system(matvec, lambda v: v / denominator, damping, value, shift)


def _dense_system(matrix: jax.Array, damping: Damping) -> DampedSystem:
    size, dtype = matrix.shape[0], matrix.dtype
    frozen = jax.lax.stop_gradient(matrix)
    magnitude = jnp.max(jnp.sum(jnp.abs(frozen), axis=1))  # >= the spectral norm
    floor = _floor(size, magnitude)
    value = _damping_value(damping, dtype, jnp.mean(jnp.abs(jnp.diagonal(frozen))), floor)
    identity = jnp.eye(size, dtype=dtype)
    fixed = jax.lax.stop_gradient(value)
    if damping.mode == "plain":
        shift = jnp.zeros((), dtype)
        factors = jax.scipy.linalg.lu_factor(frozen + fixed * identity)
        solve = lambda v: jax.scipy.linalg.lu_solve(factors, v)
    else:
        # Inertia test: H + (floor/2) I has a factor exactly where H is positive semi-definite
        # up to round-off. Only otherwise is the eigendecomposition worth its price.
        indefinite = ~jnp.all(jnp.isfinite(cholesky(frozen + 0.5 * floor * identity)))
        indefinite &= jnp.isfinite(magnitude)
        shift = jnp.maximum(-_while_once(indefinite, lambda: eigenvalues(frozen)[0]), 0)
        factor = cholesky(frozen + (shift + fixed) * identity)
        solve = lambda v: cholesky_solve(factor, v)
    matvec = lambda v: matrix @ v + (shift + value) * v
    return _linear_system(matvec, solve, damping, value, shift)


def _spectral_system(matrix: jax.Array, damping: Damping) -> DampedSystem:
    """Mode `tikhonov`: the real part of (H + i lambda)^-1 = (H - i lambda) (H^2 + lambda^2)^-1.

    As the real system (H x - lambda z, lambda x + H z) = (v, 0), whose condition is not squared.
    """
    size, dtype = matrix.shape[0], matrix.dtype
    frozen = jax.lax.stop_gradient(matrix)
    magnitude = jnp.max(jnp.sum(jnp.abs(frozen), axis=1))
    mean = jnp.mean(jnp.abs(jnp.diagonal(frozen)))
    value = _damping_value(damping, dtype, mean, _floor(size, magnitude))
    fixed = jax.lax.stop_gradient(value)
    finite = jnp.isfinite(magnitude)
    h, q = eigh(jnp.where(finite, frozen, 0))
    scale = jnp.hypot(h, fixed)

    def solve(sign, v):
        a, b = q.T @ v[:size] / scale, q.T @ v[size:] / scale
        c, s = h / scale, sign * fixed / scale
        x, z = q @ (c * a + s * b), q @ (c * b - s * a)
        if sign > 0:
            x = _bounded(x, v[:size], damping, fixed)
        pair = jnp.concatenate([x, z])
        return jnp.where(finite & jnp.all(jnp.isfinite(pair)), pair, 0)

    def matvec(p):
        x, z = p[:size], p[size:]
        return jnp.concatenate([matrix @ x - value * z, value * x + matrix @ z])

    def apply(v):
        right = jnp.concatenate([v, jnp.zeros_like(v)])
        forward, transposed = (lambda _, v: solve(1, v)), (lambda _, v: solve(-1, v))
        return jax.lax.custom_linear_solve(matvec, right, forward, transposed)[:size]

    return DampedSystem(apply, lambda v: matrix @ v, value, jnp.zeros((), dtype))


def _while_once(wanted: jax.Array, value: Callable[[], jax.Array]) -> jax.Array:
    """`value()`, a scalar, where `wanted`, else 0; no gradient.

    A while_loop of at most one trip, since under `jax.vmap` a cond would evaluate both branches:
    a batch without a wanted lane pays nothing.
    """
    zero = jnp.zeros_like(jax.eval_shape(value))
    return jax.lax.while_loop(
        lambda state: state[0],
        lambda state: (jnp.zeros_like(wanted), value()),
        (wanted, zero),
    )[1]


def _cg_system(product: Product, v: jax.Array, damping: Damping) -> DampedSystem:
    frozen = lambda p: jax.lax.stop_gradient(product(p))
    # Products with random signs estimate trace and Frobenius norm without forming H.
    signs = jax.random.rademacher(jax.random.key(0), (_PROBES, v.size), v.dtype)
    if not damping.relative:
        signs = signs[:1]
    images = jax.vmap(frozen)(signs)
    frobenius = norm(images.ravel()) / len(signs) ** 0.5
    floor = _floor(1, frobenius / v.size**0.5)
    trace = jnp.sum(signs * images) / len(signs)
    mean = jnp.maximum(jnp.abs(trace), frobenius) / v.size
    value = _damping_value(damping, v.dtype, mean, floor)
    fixed = jax.lax.stop_gradient(value)
    zero = jnp.zeros((), v.dtype)
    if damping.mode == "tikhonov":
        squared = lambda p: product(product(p)) + value**2 * p
        inner = lambda p: jax.lax.stop_gradient(squared(p))
        solve_squared = lambda v: conjugate_gradient(inner, v)[0]
        system = _linear_system(squared, solve_squared, Damping(mode="plain"), value, zero)
        return DampedSystem(lambda v: product(system.solve(v)), product, value, zero)
    first, curvature = conjugate_gradient(lambda p: frozen(p) + fixed * p, v)
    shift = zero
    if damping.mode == "shift":
        negative = curvature - fixed < -floor
        ritz = _while_once(negative, lambda: lanczos_eigenvalues(frozen, v)[0])
        shift = jnp.maximum(-jnp.minimum(ritz, jnp.where(negative, curvature - fixed, 0)), 0)
        first = jnp.where(negative, 0, first)

    def solve(v):
        operator = lambda p: frozen(p) + (shift + fixed) * p
        # For another right-hand side (order k, second derivatives) `first` may be no help at all.
        near = norm(v - operator(first)) < norm(v)
        return conjugate_gradient(operator, v, start=jnp.where(near, first, 0))[0]

    matvec = lambda p: product(p) + (shift + value) * p
    return _linear_system(matvec, solve, damping, value, shift)
