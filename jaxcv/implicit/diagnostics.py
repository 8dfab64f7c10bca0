"""Diagnostics of a minimiser and of its damped system."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxcv.closure import while_once
from jaxcv.linear.damping import Damping
from jaxcv.linear.dense import eigenvalues, hessian_product, norm
from jaxcv.linear.krylov import conjugate_gradient, lanczos_eigenvalues, random_like
from jaxcv.linear.structure import DenseStructure, Structure
from jaxcv.linear.system import (
    ConjugateGradient,
    SolverHessian,
    adjoint_residual,
    damped_system,
)

__all__ = ["Diagnostics", "diagnose_at", "diagnose_gradient"]

_EXACT = 16  # up to this size all eigenvalues cost no more than the smallest
_RITZ_STEPS = 12


class Diagnostics(NamedTuple):
    """Diagnostics of a minimiser and of its damped system; no field has a gradient.

    `argmin` evaluates them for a cotangent of norm one, `argmin_vjp` for the given cotangent.

    Attributes:
        gradient_norm: |dE/dy| at y.
        newton_decrement: sqrt(g^T H'^-1 g): its square is twice the decrease of the energy that a
            Newton step predicts.
        min_eigenvalue: smallest eigenvalue of H. Above 16 unknowns, if H is positive definite and
            the mode is `shift`, from a short Lanczos run on H^-1; with `Arrow` and
            `BlockDiagonal` a lower bound by bisection, to a relative 1e-3; with `linear="cg"` an
            upper bound, the smallest Ritz value of a short Lanczos run.
        negative_eigenvalues: number of eigenvalues of H below minus round-off; with `linear="cg"`,
            of Ritz values.
        damping_used: the lambda used, after `relative` and the round-off floor.
        gradient_bound: rigorous bound on |u|. `shift`: k |v| / lambda. `tikhonov`:
            min(k / 2, sqrt(k)) |v| / lambda. `plain`: from the smallest eigenvalue; infinite where
            H + lambda I is not positive definite, and with `linear="cg"`.
        bias_estimate: (lambda / (h + lambda))^k at the smallest eigenvalue h of H' (`tikhonov`:
            (lambda^2 / (h^2 + lambda^2))^k at the smallest |h|): the largest relative error that
            damping causes in any direction of u.
        error_estimate: estimate of the relative error of u: the sum of `bias_estimate`, the change
            of H along the remaining Newton step over the smallest eigenvalue of H',
            `adjoint_residual` and `structure_error`.
        adjoint_residual: relative residual of the system that u solves; 0 where no cotangent was
            given.
        certified: y is finite, its solver has converged (without a solver, as in `argmin_vjp`: the
            Newton step is below sqrt(eps) |y|), H is positive definite, and the
            Newton-Kantorovich test |H^-1| |H^-1 g| K <= 1/2 holds. The Lipschitz constant K of H
            is estimated along the Newton step, so this is not a proof. Never true with
            `linear="cg"`, where the smallest eigenvalue is unknown, nor where `structure_error`
            is above sqrt(eps).
        structure_error: |H p - M p| / |H p| for a random p and the matrix M of the structure that
            `linear` declares (`Arrow`, `BlockDiagonal`); 0 for the other methods. Values far above
            round-off: the energy does not have that structure.
    """

    gradient_norm: jax.Array
    newton_decrement: jax.Array
    min_eigenvalue: jax.Array
    negative_eigenvalues: jax.Array
    damping_used: jax.Array
    gradient_bound: jax.Array
    bias_estimate: jax.Array
    error_estimate: jax.Array
    adjoint_residual: jax.Array
    certified: jax.Array
    structure_error: jax.Array


def diagnose_at(system: Any, local: Any, y: Any, *args: Any, **more: Any) -> Diagnostics:
    """`diagnose_gradient` of a system's energy at y in local coordinates."""
    gradient = jax.grad(system.flat_energy(local.to_point))
    scale = norm(ravel_pytree(y)[0])
    return diagnose_gradient(gradient, local.origin, *args, **more, scale=scale)


def diagnose_gradient(
    gradient: Callable[[jax.Array], jax.Array],
    y: jax.Array,
    damping: Damping,
    method: Structure | ConjugateGradient,
    v: jax.Array | None = None,
    u: jax.Array | None = None,
    converged: jax.Array | None = None,
    scale: jax.Array | None = None,
) -> Diagnostics:
    """The `Diagnostics` of the damped system at `y`; no host callback, one value under `vmap`.

    Args:
        gradient: (n,) -> (n,), dE/dy.
        y: (n,) the point.
        damping: as for `argmin`.
        method: the result of `resolve_method`.
        v, u: (n,) cotangent and its damped solution; without them the fields are for a cotangent
            of norm one.
        converged: () bool, from the solver; an unconverged point is not certified.
        scale: () size of the unknowns; by default |y|.
    """
    g = gradient(y)
    dtype = y.dtype
    product = hessian_product(gradient, y)
    structure_error = jnp.zeros((), dtype)
    if isinstance(method, ConjugateGradient):
        # A random start: from the gradient, symmetry may hide negative curvature.
        spectrum = lanczos_eigenvalues(product, random_like(y))
        magnitude = jnp.max(jnp.abs(spectrum))
        floor = 4 * y.size * jnp.finfo(dtype).eps * magnitude
        negative = jnp.sum(spectrum < -floor)
        system = damped_system(product, g if v is None else v, damping, method)
        matrix = None
    else:
        matrix = method.matrix(product, dtype)
        total = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(matrix))  # nan or inf if any is
        finite = jnp.isfinite(total)
        sound = method.add(jax.tree.map(jnp.zeros_like, matrix), jnp.ones((), dtype))
        matrix = jax.tree.map(lambda x, one: jnp.where(finite, x, one), matrix, sound)
        magnitude = method.magnitude(matrix)
        floor = 4 * method.num_terms * jnp.finfo(dtype).eps * magnitude
        spectrum, negative = _spectrum(method, matrix, damping, floor)
        spectrum = jnp.where(finite, spectrum, total)
        multiply = lambda p: method.multiply(matrix, p)
        if not isinstance(method, DenseStructure):
            probe = random_like(y)
            image = product(probe)
            error = norm(image - multiply(probe)) / jnp.maximum(norm(image), jnp.finfo(dtype).tiny)
            structure_error = jnp.where(finite, error, total)
            multiply = product
        system = damped_system(multiply, y, damping, method, SolverHessian(matrix))
    smallest = spectrum[0]
    least = jnp.maximum(floor, jnp.finfo(dtype).tiny)
    shift = jnp.maximum(system.shift, -smallest)  # of H', also in mode `plain`
    lifted = jnp.maximum(spectrum + shift, least)  # eigenvalues of H', kept away from zero

    # The Newton step on H', and how much the Hessian changes along it.
    if isinstance(method, ConjugateGradient):
        step, _ = conjugate_gradient(lambda p: product(p) + shift * p, g)
        length = norm(step)
        along = hessian_product(gradient, y - step)(step) - product(step)
        change = jnp.where(length > 0, norm(along) / jnp.where(length > 0, length, 1), 0)
    else:
        raised = jnp.where(smallest + shift > floor, 0, least)
        step = method.solve(method.factor(method.add(matrix, shift + raised)), g)
        moved = hessian_product(gradient, y - step)
        change = method.distance(method.matrix(moved, dtype), matrix)
    decrement = jnp.sqrt(jnp.maximum(jnp.vdot(g, step), 0))
    kantorovich = change / lifted[0]
    # Without a solver's status, a small remaining Newton step counts as converged.
    root = jnp.sqrt(jnp.finfo(dtype).eps)
    size_of_y = norm(y) if scale is None else scale
    settled = norm(step) <= root * size_of_y if converged is None else converged

    lam, order = system.damping, damping.order
    size = jnp.ones((), dtype) if v is None else norm(v)
    if damping.mode == "shift":
        bound = order * size / lam
        bias = (lam / (lifted[0] + lam)) ** order
    elif damping.mode == "tikhonov":
        bound = min(order / 2, order**0.5) * size / lam
        closest = jnp.min(jnp.abs(spectrum)) / jnp.maximum(lam, jnp.finfo(dtype).tiny)
        bias = 1 / (1 + closest**2) ** order
    else:
        low = smallest - floor + lam
        terms = sum(lam**j / low ** (j + 1) for j in range(order))
        # A Ritz value is never below the smallest eigenvalue, so it bounds nothing.
        bounded = (low > 0) & (matrix is not None)
        bound = jnp.where(bounded, size * terms, jnp.inf)
        bias = jnp.max(jnp.abs(lam / (spectrum + lam))) ** order
        if spectrum.size < y.size and matrix is not None:  # an unknown eigenvalue may be near -lam
            bias = jnp.where(low > 0, bias, jnp.inf)
    residual = jnp.zeros((), dtype)
    if v is not None and u is not None:
        residual = adjoint_residual(system, damping, u, v)
    certified = (smallest > floor) & (kantorovich <= 0.5) & settled & (matrix is not None)
    certified &= structure_error <= root
    return Diagnostics(
        gradient_norm=norm(g),
        newton_decrement=decrement,
        min_eigenvalue=smallest,
        negative_eigenvalues=negative.astype(jnp.int32),
        damping_used=lam,
        gradient_bound=bound,
        bias_estimate=bias,
        error_estimate=bias + kantorovich + residual + structure_error,
        adjoint_residual=residual,
        certified=certified,
        structure_error=structure_error,
    )


def _spectrum(structure, matrix, damping, floor) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues (k,), the smallest first, and the number of eigenvalues below -floor."""
    indefinite = ~structure.definite(structure.factor(matrix))
    if not isinstance(structure, DenseStructure):
        count = while_once(indefinite, lambda: structure.negative_eigenvalues(matrix, floor))
        return structure.smallest_eigenvalue(matrix)[None], count
    if structure.size <= _EXACT or damping.mode != "shift":
        spectrum = eigenvalues(matrix)
        return spectrum, jnp.sum(spectrum < -floor)
    # Lanczos instead of an eigendecomposition: the largest eigenvalue of the inverse belongs to the
    # smallest of the matrix and is well separated.
    factor = structure.factor(matrix)
    probe = random_like(structure.diagonal(matrix))
    inverse = lanczos_eigenvalues(lambda p: structure.solve(factor, p), probe, _RITZ_STEPS)
    full = while_once(indefinite, lambda: eigenvalues(matrix))
    smallest = jnp.where(indefinite, full[0], 1 / inverse[-1])
    return smallest[None], jnp.where(indefinite, jnp.sum(full < -floor), 0)
