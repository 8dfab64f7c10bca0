"""Damped symmetric systems: one interface over several methods and three modes.

`damped_system` takes the product v -> H v and returns a `DampedSystem` that solves. Its `solve` is
linear in v and differentiable in whatever the product closes over (`jax.lax.custom_linear_solve`,
so it transposes), while the shift, the floor of lambda and the factor carry no gradient.

| `linear=`              | for              | cost, and what an indefinite H costs in mode `shift`|
|------------------------|------------------|-----------------------------------------------------|
| `"auto"`               | any              | `cholesky` up to 256 unknowns, `cg` above           |
| `"scalar"`             | n = 1            | one product; h' = max(h, 0)                         |
| `"cholesky"`           | n <= ~256        | n products, n^3; an eigendecomposition              |
| `"cg"`                 | large n          | a product a step, O(n) memory; a short Lanczos run  |
| `ConjugateGradient(b)` | ... badly scaled | the same, preconditioned by blocks of b             |
| `BlockDiagonal(b)`     | many small ones  | b products, O(n b^2); a bisection                   |
| `Arrow(local, shared)` | ... that meet    | b + G products, O(n (b + G)^2); a bisection         |
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.checks import argument_error, check_choice
from jaxcv.linear.damping import Damping
from jaxcv.linear.dense import eigh, norm
from jaxcv.linear.krylov import conjugate_gradient, lanczos_eigenvalues
from jaxcv.linear.structure import BlockDiagonal, DenseStructure, Structure

__all__ = [
    "METHODS",
    "ConjugateGradient",
    "DampedSystem",
    "Known",
    "adjoint_residual",
    "apply_filter",
    "damped_system",
    "resolve_method",
    "while_once",
]

METHODS = ("auto", "scalar", "cholesky", "cg")
DENSE_LIMIT = 256
_PROBES = 8

Product = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class ConjugateGradient:
    """Conjugate gradients on products with the Hessian; O(n) memory.

    Attributes:
        block_size: 0: no preconditioner. b >= 1: the blocks of b consecutive unknowns on the
            diagonal of H, estimated by `probes` times b products with random signs, precondition.
            The estimate is exact where H is block-diagonal and noisy where other entries are
            large; it pays where the scales of the unknowns differ.
        probes: random vectors that the estimate averages over.

    Source: Bekas, Kokiopoulou, Saad 2007 (estimation of a diagonal).
    """

    block_size: int = 0
    probes: int = 8

    def __post_init__(self):
        for name, least in (("block_size", 0), ("probes", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise argument_error(name, f"expected an integer >= {least}", repr(value))


class Known(NamedTuple):
    """A Hessian that a solver leaves behind.

    Attributes:
        matrix: symmetric, as the structure of the problem stores it; no gradient.
        exact: () bool, whether it is that of the solver's result; else it is positive definite and
            near. None: it is exact.
    """

    matrix: Any
    exact: jax.Array | None = None


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


def resolve_method(method: Any, y: Any) -> Structure | ConjugateGradient:
    """The structure of the Hessian over the tree y, or `cg` or a `ConjugateGradient`."""
    size = sum(int(np.prod(jnp.shape(leaf))) for leaf in jax.tree.leaves(y))
    if isinstance(method, ConjugateGradient):
        BlockDiagonal(method.block_size).structure(y)
        return method
    if not isinstance(method, str) and hasattr(method, "structure"):
        return method.structure(y)
    check_choice("linear", method, METHODS, "Or an Arrow, BlockDiagonal or ConjugateGradient.")
    if method == "scalar" and size != 1:
        raise argument_error("linear", "'scalar' is for one unknown", f"{size}", "Use 'auto'.")
    if method == "cg" or (method == "auto" and size > DENSE_LIMIT):
        return ConjugateGradient()
    return DenseStructure(size)


def damped_system(
    product: Product, v: jax.Array, damping: Damping, method: Any, known: Known | None = None
) -> DampedSystem:
    """The damped system of the symmetric operator `product`.

    Args:
        product: (n,) -> (n,), v -> H v, linear and symmetric.
        v: (n,) the right-hand side to come, or any generic vector. Conjugate gradients look for
            negative curvature in its Krylov space and start from its solution; the others take
            only its size and dtype.
        damping: value, mode and whether relative; its order is the caller's business.
        method: what `resolve_method` returned.
        known: spares the products that form H.

    Raises:
        ValueError: mode `tikhonov` with a structure that has no eigendecomposition.
    """
    frozen = lambda p: jax.lax.stop_gradient(product(p))
    if isinstance(method, ConjugateGradient):
        return _cg_system(product, jax.lax.stop_gradient(v), damping, method)
    spectral = damping.mode == "tikhonov"
    if spectral and not isinstance(method, DenseStructure):
        way_out = "Use linear='cg', or mode='shift'."
        raise argument_error("damping.mode", "needs all eigenvalues", "'tikhonov'", way_out)
    if known is None or (known.exact is not None and spectral):
        known = Known(method.matrix(frozen, v.dtype))
    # The matrix serves to solve; derivatives see the product.
    if spectral:
        return _spectral_system(product, known.matrix, damping)
    if v.size == 1:
        return _scalar_system(product, known.matrix, damping)
    return _factored_system(product, known, damping, method)


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


def _scalar_system(product: Product, matrix: jax.Array, damping: Damping) -> DampedSystem:
    h = matrix[0, 0]
    magnitude = jnp.abs(h)
    value = _damping_value(damping, h.dtype, magnitude, _floor(1, magnitude))
    shift = jnp.zeros_like(h) if damping.mode == "plain" else -jnp.minimum(h, 0)
    denominator = h + shift + jax.lax.stop_gradient(value)
    matvec = lambda v: product(v) + (shift + value) * v
    return _linear_system(matvec, lambda v: v / denominator, damping, value, shift)


def _factored_system(
    product: Product, known: Known, damping: Damping, structure: Structure
) -> DampedSystem:
    matrix = known.matrix
    diagonal = structure.diagonal(matrix)
    magnitude, dtype = structure.magnitude(matrix), diagonal.dtype
    floor = _floor(structure.width, magnitude)
    value = _damping_value(damping, dtype, jnp.mean(jnp.abs(diagonal)), floor)
    fixed = jax.lax.stop_gradient(value)
    if damping.mode == "plain":
        shift = jnp.zeros((), dtype)
        damped = structure.add(matrix, fixed)
        solve = structure.indefinite_solver(damped)
    else:
        # Inertia test: H + (floor/2) I has a factor exactly where H is positive semi-definite
        # up to round-off. Only otherwise is an eigenvalue worth its price.
        lifted = structure.factor(structure.add(matrix, 0.5 * floor))
        indefinite = ~jnp.isfinite(structure.pivots(lifted)) & jnp.isfinite(magnitude)
        least = while_once(indefinite, lambda: structure.smallest_eigenvalue(matrix))
        shift = jnp.maximum(-least, 0)
        damped = structure.add(matrix, shift + fixed)
        factor = structure.factor(damped)
        solve = lambda v: structure.solve(factor, v)
    matvec = lambda v: product(v) + (shift + value) * v
    if known.exact is not None:
        solve = _corrected(matvec, solve, known.exact)
    elif not isinstance(structure, DenseStructure):
        # Sums over many blocks lose digits, and H may have more entries than the structure.
        if damping.mode == "plain":
            solve = functools.partial(
                _refined, functools.partial(structure.multiply, damped), solve
            )
        else:
            solve = _corrected(matvec, solve, jnp.asarray(False))
    return _linear_system(matvec, solve, damping, value, shift)


def _refined(multiply: Product, solve: Product, v: jax.Array) -> jax.Array:
    """`solve(v)` after one step of iterative refinement, where that lowers the residual."""
    u = solve(v)
    left = v - multiply(u)
    better = u + solve(left)
    return jnp.where(norm(v - multiply(better)) < norm(left), better, u)


def _corrected(matvec: Product, solve: Product, exact: jax.Array) -> Product:
    """Solves with `matvec`, by conjugate gradients on what `solve`, of a system near, leaves."""
    frozen = lambda p: jax.lax.stop_gradient(matvec(p))

    def corrected(v):
        u = solve(v)
        left = jnp.where(exact, 0, v - frozen(u))
        tolerance = 32 * jnp.finfo(v.dtype).eps * norm(v) / norm(left)
        return u + conjugate_gradient(frozen, left, precondition=solve, tolerance=tolerance)[0]

    return corrected


def _spectral_system(product: Product, matrix: jax.Array, damping: Damping) -> DampedSystem:
    """Mode `tikhonov`: the real part of (H + i lambda)^-1 = (H - i lambda) (H^2 + lambda^2)^-1.

    As the real system (H x - lambda z, lambda x + H z) = (v, 0), whose condition is not squared.
    """
    size, dtype = matrix.shape[0], matrix.dtype
    magnitude = jnp.max(jnp.sum(jnp.abs(matrix), axis=1))
    mean = jnp.mean(jnp.abs(jnp.diagonal(matrix)))
    value = _damping_value(damping, dtype, mean, _floor(size, magnitude))
    fixed = jax.lax.stop_gradient(value)
    finite = jnp.isfinite(magnitude)
    h, q = eigh(jnp.where(finite, matrix, 0))
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
        return jnp.concatenate([product(x) - value * z, value * x + product(z)])

    def apply(v):
        right = jnp.concatenate([v, jnp.zeros_like(v)])
        forward, transposed = (lambda _, v: solve(1, v)), (lambda _, v: solve(-1, v))
        return jax.lax.custom_linear_solve(matvec, right, forward, transposed)[:size]

    return DampedSystem(apply, product, value, jnp.zeros((), dtype))


def while_once(wanted: jax.Array, value: Callable[[], jax.Array]) -> jax.Array:
    """`value()`, an array, where `wanted`, else 0; no gradient.

    A while_loop of at most one trip, since under `jax.vmap` a cond would evaluate both branches:
    a batch without a wanted lane pays nothing.
    """
    zero = jnp.zeros_like(jax.eval_shape(value))
    return jax.lax.while_loop(
        lambda state: state[0],
        lambda state: (jnp.zeros_like(wanted), value()),
        (wanted, zero),
    )[1]


def _block_jacobi(
    product: Product, v: jax.Array, method: ConjugateGradient
) -> Callable[[jax.Array], Product]:
    """total -> a preconditioner of H + total I, by the blocks on the diagonal of H."""
    structure = BlockDiagonal(method.block_size).structure(v)
    signs = jax.random.rademacher(jax.random.key(1), (method.probes, v.size), v.dtype)
    # With random signs s the other entries of s H s have mean zero.
    probe = lambda s: structure.matrix(lambda p: s * product(s * p), v.dtype)
    blocks = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), jax.vmap(probe)(signs))
    diagonal = jnp.abs(structure.diagonal(blocks))
    least = 1e-3 * jnp.mean(diagonal)

    def preconditioner(total):
        factor = structure.factor(structure.add(blocks, total))
        good = jnp.all(jnp.isfinite(factor.local), axis=(1, 2), keepdims=True)
        rough = jnp.maximum(diagonal, least).reshape(factor.local.shape[:2]) + total
        rough = jnp.sqrt(rough)[..., None] * jnp.eye(method.block_size, dtype=v.dtype)
        factor = factor._replace(local=jnp.where(good, factor.local, rough))
        return lambda r: structure.solve(factor, r)

    return preconditioner


def _cg_system(
    product: Product, v: jax.Array, damping: Damping, method: ConjugateGradient
) -> DampedSystem:
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
        # For another right-hand side (order k, second derivatives) `first` may be no help at all.
        helps = norm(v - operator(first)) < norm(v)
        start = jnp.where(helps, first, 0)
        return conjugate_gradient(operator, v, start=start, precondition=precondition)[0]

    matvec = lambda p: product(p) + (shift + value) * p
    return _linear_system(matvec, solve, damping, value, shift)
