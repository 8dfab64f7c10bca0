"""The damped system H' + lambda I: its solution, bound and filter, common to all methods."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.closure import together
from jaxcv.linear.damping import Damping
from jaxcv.linear.dense import norm

__all__ = [
    "DampedSystem",
    "adjoint_residual",
    "apply_filter",
    "bounded_to",
    "damping_value",
    "filter_rest",
    "linear_system",
    "round_off_floor",
]

Product = Callable[[jax.Array], jax.Array]


class DampedSystem(NamedTuple):
    """A damped system and its solver.

    Attributes:
        solve: (n,) -> (n,), v -> u = (H' + lambda I)^-1 v; in mode `tikhonov`
            u = H (H^2 + lambda^2 I)^-1 v. Differentiable in H and v. Zero where u is not finite.
        matvec: (n,) -> (n,), v -> (H' + lambda I) v; in mode `tikhonov` v -> H v.
        damping: () lambda, after `relative` and the round-off floor.
        shift: () s >= 0 of H' = H + s I.
    """

    solve: Product
    matvec: Product
    damping: jax.Array
    shift: jax.Array


def apply_filter(system: DampedSystem, damping: Damping, v: jax.Array) -> jax.Array:
    """u = f_k(H) v (n,), the filter of order k of `Damping`; |u| is within the bound of its mode.

    Args:
        system: of H, made with `damping`. u is linear in v if the system was made without v.
        damping: only order and mode are read.
        v: (n,).
    """
    u = system.solve(v)
    for _ in range(damping.order - 1):
        if damping.mode == "tikhonov":
            u = u + system.solve(v - system.matvec(u))
        else:
            u = system.solve(v + system.damping * u)
    return u


def filter_rest(system: DampedSystem, damping: Damping, u: jax.Array, v: jax.Array) -> jax.Array:
    """v - H' u (n,), the residual of u in the undamped system.

    In the modes `shift` and `plain` this is lambda^k (H' + lambda I)^-k v, the derivative of k
    proximal steps with respect to their start.
    """
    product_of_u = system.matvec(u)
    if damping.mode != "tikhonov":
        product_of_u = product_of_u - system.damping * u
    return v - product_of_u


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


def round_off_floor(size: int, magnitude: jax.Array) -> jax.Array:
    """The smallest lambda for which a factorisation of H + lambda I can be trusted."""
    return 4 * size * jnp.finfo(magnitude.dtype).eps * magnitude


def damping_value(damping: Damping, dtype, mean_diagonal, floor: Any = 0) -> jax.Array:
    """lambda (): times `mean_diagonal` if relative, >= `floor` unless `plain`; no gradient."""
    value = jax.lax.stop_gradient(jnp.asarray(damping.value, dtype))
    if damping.relative:
        value = value * jax.lax.stop_gradient(mean_diagonal)
    return value if damping.mode == "plain" else jnp.maximum(value, jax.lax.stop_gradient(floor))


def bounded_to(u: jax.Array, v: jax.Array, damping: Damping, value: jax.Array) -> jax.Array:
    """u, scaled down to the bound of its mode; zero where u is not finite.

    The bound holds in exact arithmetic; rescaling enforces it in floating point. Rescaling is not
    linear: use it only inside a solve that is declared linear.
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


def linear_system(matvec, solve, damping, value, shift, small=False) -> DampedSystem:
    """The system of `matvec`, solved by `solve(v)`, which is never differentiated."""
    fixed = jax.lax.stop_gradient(value)
    bounded = lambda _, v: together(lambda: bounded_to(solve(v), v, damping, fixed), small)
    return DampedSystem(
        lambda v: jax.lax.custom_linear_solve(matvec, v, bounded, symmetric=True),
        matvec,
        value,
        shift,
    )
