"""The covariance of a least-squares estimate."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxcv.checks import (
    argument_error,
    check_callable,
    check_choice,
    check_data,
    check_unknowns,
    returning_arrays,
)
from jaxcv.closure import jit_on
from jaxcv.implicit.arguments import with_hint

__all__ = ["covariance"]


def covariance(
    residual: Callable, y: Any, theta: Any, data: tuple = (), *, scale: Any = "residual"
) -> jax.Array:
    """(n, n) s^2 (J^T J)^-1 at y, raveled in the order of its leaves.

    The square roots of its diagonal are the standard deviations of the unknowns. QR of J with
    columns of norm one makes the rank test independent of the scaling of the unknowns, and does not
    square the condition number of J.

    Args:
        residual, theta, data: as for `argmin_least_squares`; robust kernels are not supported.
        y: the estimate, e.g. `solution.value`.
        scale: "residual": s^2 = |r|^2 / (m - n), for unknown noise; "one": s = 1, for residuals in
            units of their standard deviation.

    Returns:
        The covariance. Unknowns that the residual does not determine have infinite variance.

    Raises:
        ValueError: `scale="residual"` with m <= n.

    Source: Seber and Wild, Nonlinear Regression, 1989, eq. 2.17.
    """
    check_callable("residual", residual)
    check_unknowns("y", y)
    check_data(data)
    check_choice("scale", scale, ("residual", "one"))
    y = jax.tree.map(jnp.asarray, y)
    return with_hint(jit_on(residual, _covariance, (scale,)), y, theta, data)


def _covariance(residual, scale, y, theta, data):
    residual = returning_arrays("residual", residual)
    flat, unravel = ravel_pytree(y)
    terms = lambda flat: ravel_pytree(residual(unravel(flat), theta, *data))[0]
    r, jacobian = terms(flat), jax.jacfwd(terms)(flat)
    m, n = jacobian.shape
    if scale == "residual" and m <= n:
        expected = "expected more residuals than unknowns"
        raise argument_error("residual", expected, f"{m} for {n}", 'Give their noise: scale="one".')
    norms = jnp.linalg.norm(jacobian, axis=0)
    unit = jnp.where(norms > 0, norms, 1)
    _, s, vt = jnp.linalg.svd(jnp.linalg.qr(jacobian / unit[None, :], mode="r"))
    s = jnp.zeros(n, s.dtype).at[: s.size].set(s)
    determined = s > max(m, n) * jnp.finfo(s.dtype).eps * s[0]
    inverse = jnp.where(determined, 1 / jnp.where(determined, s, 1), 0)
    half = (vt.T * inverse[None, :]) / unit[:, None]
    free = jnp.any((jnp.abs(vt) > jnp.sqrt(jnp.finfo(s.dtype).eps)) & ~determined[:, None], axis=0)
    noise = jnp.vdot(r, r) / (m - n) if scale == "residual" else 1
    out = noise * (half @ half.T)
    return jnp.where(jnp.eye(n, dtype=bool) & free[:, None], jnp.inf, out)
