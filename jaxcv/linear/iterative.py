"""Damped systems by conjugate gradients: only products with the Hessian."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxcv.checks import check_count
from jaxcv.closure import while_once
from jaxcv.linear.damping import Damping
from jaxcv.linear.dense import Cholesky, norm
from jaxcv.linear.filter import DampedSystem, damping_value, linear_system, round_off_floor
from jaxcv.linear.krylov import conjugate_gradient, lanczos_eigenvalues
from jaxcv.linear.structure import BlockDiagonal

__all__ = ["ConjugateGradient", "cg_system"]

_PROBES = 8

Product = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class ConjugateGradient:
    """Conjugate gradients on products with the Hessian; O(n) memory.

    Attributes:
        block_size: 0: no preconditioner. b >= 1: block Jacobi, with blocks of b consecutive
            unknowns estimated by b * `probes` products, each with one random sign per block. The
            estimate is exact if H is block-diagonal; otherwise the error falls with the number of
            probes. Useful if the scales of the unknowns differ.
        probes: number of random vectors to average over.

    Source: Bekas, Kokiopoulou, Saad 2007 (estimation of a diagonal).
    """

    block_size: int = 0
    probes: int = 8

    def __post_init__(self):
        for name, minimum in (("block_size", 0), ("probes", 1)):
            object.__setattr__(self, name, check_count(name, getattr(self, name), minimum))


def _block_jacobi(
    product: Product, v: jax.Array, method: ConjugateGradient
) -> Callable[[jax.Array], Product]:
    """total -> the block-Jacobi preconditioner of H + total I."""
    structure = BlockDiagonal(method.block_size).structure(v)
    b = method.block_size
    signs = jax.random.rademacher(jax.random.key(1), (method.probes, v.size // b), v.dtype)
    signs = jnp.repeat(signs, b, axis=1)
    # One random sign per block: the entries of s H s between two blocks have mean zero.
    probe = lambda s: structure.matrix(lambda p: s * product(s * p), v.dtype)
    blocks = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), jax.vmap(probe)(signs))
    diagonal = jnp.abs(structure.diagonal(blocks))
    least = 1e-3 * jnp.mean(diagonal)

    def preconditioner(total):
        factor = structure.factor(structure.add(blocks, total))
        lower, pivot = factor.local
        rough = jnp.maximum(diagonal, least).reshape(lower.shape[:2]) + total
        rough = jnp.sqrt(rough)[..., None] * jnp.eye(method.block_size, dtype=v.dtype)[None]
        lower = jnp.where(pivot[:, None, None] > 0, lower, rough)
        factor = factor._replace(local=Cholesky(lower, pivot))
        return lambda r: structure.solve(factor, r)

    return preconditioner


def cg_system(
    product: Product, v: jax.Array, damping: Damping, method: ConjugateGradient
) -> DampedSystem:
    """`damped_system` by conjugate gradients; detects an indefinite H in the Krylov space of v."""
    frozen = lambda p: jax.lax.stop_gradient(product(p))
    # Products with random signs estimate trace and Frobenius norm without forming H.
    signs = jax.random.rademacher(jax.random.key(0), (_PROBES, v.size), v.dtype)
    if not damping.relative:
        signs = signs[:1]
    images = jax.vmap(frozen)(signs)
    frobenius = norm(images.ravel()) / len(signs) ** 0.5
    floor = round_off_floor(1, frobenius / v.size**0.5)
    trace = jnp.sum(signs * images) / len(signs)
    mean = jnp.maximum(jnp.abs(trace), frobenius) / v.size
    value = damping_value(damping, v.dtype, mean, floor)
    fixed = jax.lax.stop_gradient(value)
    zero = jnp.zeros((), v.dtype)
    if damping.mode == "tikhonov":
        squared = lambda p: product(product(p)) + value**2 * p
        inner = lambda p: jax.lax.stop_gradient(squared(p))
        solve_squared = lambda v: conjugate_gradient(inner, v)[0]
        system = linear_system(squared, solve_squared, Damping(mode="plain"), value, zero)
        return DampedSystem(lambda v: product(system.solve(v)), product, value, zero)
    near = lambda total: None
    if method.block_size:
        near = _block_jacobi(frozen, v, method)
    first, curvature = conjugate_gradient(
        lambda p: frozen(p) + fixed * p, v, precondition=near(fixed)
    )
    shift = zero
    if damping.mode == "shift":
        negative = curvature - fixed < -floor
        ritz = while_once(negative, lambda: lanczos_eigenvalues(frozen, v)[0])
        shift = jnp.maximum(-jnp.minimum(ritz, jnp.where(negative, curvature - fixed, 0)), 0)
        first = jnp.where(negative, 0, first)

    operator = lambda p: frozen(p) + (shift + fixed) * p
    precondition = near(shift + fixed)

    def solve(v):
        # `first` may be a poor start for other right-hand sides (order k, second derivatives).
        helps = norm(v - operator(first)) < norm(v)
        start = jnp.where(helps, first, 0)
        return conjugate_gradient(operator, v, start=start, precondition=precondition)[0]

    matvec = lambda p: product(p) + (shift + value) * p
    return linear_system(matvec, solve, damping, value, shift)
