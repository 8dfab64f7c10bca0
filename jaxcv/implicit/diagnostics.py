"""What is known of a minimiser and of the damped system at it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxcv.linear.damping import Damping, Diagnostics
from jaxcv.linear.dense import eigenvalues, hessian_product, norm
from jaxcv.linear.krylov import conjugate_gradient, lanczos_eigenvalues, random_like
from jaxcv.linear.structure import DenseStructure, Structure
from jaxcv.linear.system import (
    ConjugateGradient,
    Known,
    adjoint_residual,
    damped_system,
    while_once,
)

__all__ = ["diagnose"]

_EXACT = 16  # unknowns up to which all eigenvalues are no dearer than the smallest
_RITZ_STEPS = 12


def diagnose(
    gradient: Callable[[jax.Array], jax.Array],
    y: jax.Array,
    damping: Damping,
    method: Structure | ConjugateGradient,
    v: jax.Array | None = None,
    u: jax.Array | None = None,
    converged: jax.Array | None = None,
    known: Known | None = None,
    scale: jax.Array | None = None,
) -> Diagnostics:
    """The `Diagnostics` of the damped system at `y`; no host callback, one value under `vmap`.

    Args:
        gradient: (n,) -> (n,), dE/dy.
        y: (n,) the point.
        damping: as for `argmin`.
        method: what `resolve_method` returned.
        v, u: (n,) cotangent and its damped solution; without them the fields speak of a
            cotangent of norm one.
        converged: () bool, what the solver said; a point that is not is not certified.
        known: what the solver left of the Hessian; only an exact one is used.
        scale: () size of the unknowns; by default |y|.
    """
    g = gradient(y)
    dtype = y.dtype
    product = hessian_product(gradient, y)
    structure_error = jnp.zeros((), dtype)
    if isinstance(method, ConjugateGradient):
        # From the gradient itself a symmetric problem may hide negative curvature.
        spectrum = lanczos_eigenvalues(product, random_like(y))
        magnitude = jnp.max(jnp.abs(spectrum))
        floor = 4 * y.size * jnp.finfo(dtype).eps * magnitude
        negative = jnp.sum(spectrum < -floor)
        system = damped_system(product, g if v is None else v, damping, method)
        matrix = None
    else:
        if known is not None and known.exact is None:
            matrix = known.matrix
        else:
            matrix = method.matrix(product, dtype)
        finite = jnp.isfinite(sum(jnp.sum(leaf) for leaf in jax.tree.leaves(matrix)))
        sound = method.add(jax.tree.map(jnp.zeros_like, matrix), jnp.ones((), dtype))
        matrix = jax.tree.map(lambda x, one: jnp.where(finite, x, one), matrix, sound)
        magnitude = method.magnitude(matrix)
        floor = 4 * method.width * jnp.finfo(dtype).eps * magnitude
        spectrum, negative = _spectrum(method, matrix, damping, floor)
        spectrum = jnp.where(finite, spectrum, jnp.nan)
        multiply = lambda p: method.multiply(matrix, p)
        if not isinstance(method, DenseStructure):
            probe = random_like(y)
            image = product(probe)
            error = norm(image - multiply(probe)) / jnp.maximum(norm(image), jnp.finfo(dtype).tiny)
            structure_error = jnp.where(finite, error, jnp.nan)
            multiply = product
        system = damped_system(multiply, y, damping, method, Known(matrix))
    smallest = spectrum[0]
    least = jnp.maximum(floor, jnp.finfo(dtype).tiny)
    shift = jnp.maximum(system.shift, -smallest)  # of H', in mode `plain` too
    lifted = jnp.maximum(spectrum + shift, least)  # eigenvalues of H', kept off zero

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
    # A minimiser is known by its solver; without one only the step that is left can tell.
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
        if spectrum.size < y.size and matrix is not None:  # what is above the smallest decides
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
    """Eigenvalues (k,) of which the first is the smallest, and how many are below -floor."""
    indefinite = ~jnp.isfinite(structure.pivots(structure.factor(matrix)))
    if not isinstance(structure, DenseStructure):
        count = while_once(indefinite, lambda: structure.negative_eigenvalues(matrix, floor))
        return structure.smallest_eigenvalue(matrix)[None], count
    if structure.size <= _EXACT or damping.mode != "shift":
        spectrum = eigenvalues(matrix)
        return spectrum, jnp.sum(spectrum < -floor)
    # A factor spares the eigendecomposition: the inverse has its largest eigenvalue where the
    # matrix has its smallest, and far from the others.
    factor = structure.factor(matrix)
    probe = random_like(structure.diagonal(matrix))
    inverse = lanczos_eigenvalues(lambda p: structure.solve(factor, p), probe, _RITZ_STEPS)
    full = while_once(indefinite, lambda: eigenvalues(matrix))
    smallest = jnp.where(indefinite, full[0], 1 / inverse[-1])
    return smallest[None], jnp.where(indefinite, jnp.sum(full < -floor), 0)
