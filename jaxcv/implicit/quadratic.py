"""Closed forms for quadratic energies: minimisers and their pullbacks, for tests and for use.

Every function takes one problem; batch with `jax.vmap`. A is symmetric, and so is its cotangent
a_bar: dL = <a_bar, dA> for symmetric dA.

Sources: Toso, Campbell, Russell, NeurIPS 2019, whose supplement announces these forms; Golub and
Pereyra 1973 for the derivative of the pseudo-inverse.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.checks import check_shape

__all__ = [
    "LeastSquaresCotangents",
    "least_squares_minimiser",
    "least_squares_vjp",
    "minimum_norm_minimiser",
    "minimum_norm_vjp",
    "proximal_minimiser",
    "proximal_vjp",
    "quadratic_energy",
    "quadratic_minimiser",
    "quadratic_vjp",
]


def quadratic_energy(y: jax.Array, theta: tuple[jax.Array, jax.Array]) -> jax.Array:
    """E(y) = y^T A y / 2 - b^T y with theta = (A (n, n), b (n,)); in the form of an `Energy`."""
    a, b = theta
    return 0.5 * jnp.vdot(y, a @ y) - jnp.vdot(b, y)


def quadratic_minimiser(a: jax.Array, b: jax.Array) -> jax.Array:
    """y* = A^-1 b for a symmetric positive definite A (n, n) and b (n,)."""
    _check_system(a, b)
    return jax.scipy.linalg.solve(a, b, assume_a="pos")


def quadratic_vjp(a: jax.Array, b: jax.Array, y_bar: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Pullback of `quadratic_minimiser`: with u = A^-1 y_bar, b_bar = u and a_bar = -sym(u y*^T).

    From dy* = A^-1 (db - dA y*). Nothing needs damping: |u| <= |y_bar| / lambda_min(A).
    """
    _check_system(a, b)
    y, u = jax.scipy.linalg.solve(a, jnp.stack([b, y_bar], -1), assume_a="pos").T
    return -_symmetric(jnp.outer(u, y)), u


class LeastSquaresCotangents(NamedTuple):
    """Cotangents of `least_squares_minimiser`, in the order and the shapes of its arguments."""

    jacobian: jax.Array
    target: jax.Array
    regulariser: jax.Array
    regulariser_target: jax.Array
    row_weights: jax.Array


def least_squares_minimiser(
    jacobian: jax.Array,
    target: jax.Array,
    regulariser: jax.Array,
    regulariser_target: jax.Array,
    row_weights: jax.Array,
) -> jax.Array:
    """argmin_y |W (J y - r)|^2 / 2 + |D y - t|^2 / 2.

    Args:
        jacobian: (m, n) J.
        target: (m,) r.
        regulariser: (p, n) D.
        regulariser_target: (p,) t.
        row_weights: (m,) the diagonal of W.

    Returns:
        (n,) (J^T W^2 J + D^T D)^-1 (J^T W^2 r + D^T t); the matrix must be positive definite.
    """
    weighted = row_weights[:, None] * jacobian
    hessian = weighted.T @ weighted + regulariser.T @ regulariser
    right = weighted.T @ (row_weights * target) + regulariser.T @ regulariser_target
    return jax.scipy.linalg.solve(hessian, right, assume_a="pos")


def least_squares_vjp(
    jacobian: jax.Array,
    target: jax.Array,
    regulariser: jax.Array,
    regulariser_target: jax.Array,
    row_weights: jax.Array,
    y_bar: jax.Array,
) -> LeastSquaresCotangents:
    """Pullback of `least_squares_minimiser` for the cotangent y_bar (n,): one solve.

    With v = H^-1 y_bar and e = r - J y:

        r_bar = W^2 J v                 J_bar = W^2 (e v^T - (J v) y^T)
        t_bar = D v                     D_bar = (t - D y) v^T - (D v) y^T
        w_bar = 2 W e * (J v)
    """
    weighted = row_weights[:, None] * jacobian
    hessian = weighted.T @ weighted + regulariser.T @ regulariser
    right = weighted.T @ (row_weights * target) + regulariser.T @ regulariser_target
    y, v = jax.scipy.linalg.solve(hessian, jnp.stack([right, y_bar], -1), assume_a="pos").T
    error, image = target - jacobian @ y, jacobian @ v
    squared = (row_weights**2)[:, None]
    regulariser_error, regulariser_image = regulariser_target - regulariser @ y, regulariser @ v
    return LeastSquaresCotangents(
        jacobian=squared * (jnp.outer(error, v) - jnp.outer(image, y)),
        target=squared[:, 0] * image,
        regulariser=jnp.outer(regulariser_error, v) - jnp.outer(regulariser_image, y),
        regulariser_target=regulariser_image,
        row_weights=2 * row_weights * error * image,
    )


def minimum_norm_minimiser(
    a: jax.Array, b: jax.Array, *, threshold: float | None = None
) -> jax.Array:
    """y* = A^+ b, the minimiser of least norm where A >= 0 is singular and b is in its range.

    Args:
        a: (n, n).
        b: (n,).
        threshold: eigenvalues below threshold * lambda_max count as zero; by default 10 n eps.
    """
    _check_system(a, b)
    return _pseudo_inverse(a, threshold) @ b


def minimum_norm_vjp(
    a: jax.Array, b: jax.Array, y_bar: jax.Array, *, threshold: float | None = None
) -> tuple[jax.Array, jax.Array]:
    """Pullback of `minimum_norm_minimiser` among problems of the same rank with b in range(A).

    From dy* = A^+ (db - dA y*) + P dA A^+ y* with P = I - A A^+:

        b_bar = A^+ y_bar,   a_bar = sym(-(A^+ y_bar) y*^T + (P y_bar) (A^+ y*)^T).

    As lambda -> 0, mode `tikhonov` tends to this without the last term, the rotation of the null
    space, which the energy does not determine.
    """
    _check_system(a, b)
    inverse = _pseudo_inverse(a, threshold)
    y, u = inverse @ b, inverse @ y_bar
    null = y_bar - a @ u
    return _symmetric(-jnp.outer(u, y) + jnp.outer(null, inverse @ y)), u


def proximal_minimiser(a: jax.Array, b: jax.Array, y0: jax.Array, damping: float) -> jax.Array:
    """y = (A + lambda I)^-1 (b + lambda y0): the minimiser of E(y) + lambda |y - y0|^2 / 2.

    Defined for any A >= 0 and any b where lambda > 0.
    """
    _check_system(a, b)
    return jax.scipy.linalg.solve(
        a + damping * jnp.eye(b.size, dtype=b.dtype), b + damping * y0, assume_a="pos"
    )


def proximal_vjp(
    a: jax.Array, b: jax.Array, y0: jax.Array, damping: float, y_bar: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Pullback (a_bar, b_bar, y0_bar) of `proximal_minimiser`, bounded by |y_bar| / lambda.

    With u = (A + lambda I)^-1 y_bar: b_bar = u, a_bar = -sym(u y^T), y0_bar = lambda u. At a
    minimiser y0 = y* of the undamped energy these are the damped rule of `jaxcv.argmin`, which
    differentiates one proximal step exactly.
    """
    _check_system(a, b)
    damped = a + damping * jnp.eye(b.size, dtype=b.dtype)
    y, u = jax.scipy.linalg.solve(
        damped, jnp.stack([b + damping * y0, y_bar], -1), assume_a="pos"
    ).T
    return -_symmetric(jnp.outer(u, y)), u, damping * u


def _check_system(a: jax.Array, b: jax.Array) -> None:
    check_shape("b", b, (None,), "One problem at a time: batch with jax.vmap.")
    check_shape("a", a, (b.shape[-1], b.shape[-1]), "A is square, of the size of b.")


def _symmetric(matrix: jax.Array) -> jax.Array:
    return 0.5 * (matrix + matrix.T)


def _pseudo_inverse(a: jax.Array, threshold: float | None) -> jax.Array:
    values, vectors = jnp.linalg.eigh(a)
    relative = 10 * a.shape[0] * jnp.finfo(a.dtype).eps if threshold is None else threshold
    kept = values > relative * jnp.max(jnp.abs(values))
    return (vectors * jnp.where(kept, 1 / jnp.where(kept, values, 1), 0)) @ vectors.T
