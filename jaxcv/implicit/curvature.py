"""The Hessian at a minimum, its Cholesky factor and its Laplace covariance."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxcv.checks import argument_error, check_callable
from jaxcv.closure import jit_on, spread
from jaxcv.implicit.arguments import checked, on_device, with_hint
from jaxcv.implicit.rules import make_system
from jaxcv.linear.damping import Damping
from jaxcv.linear.dense import cholesky, cholesky_solve, expand
from jaxcv.linear.structure import DenseStructure
from jaxcv.linear.system import SolverHessian, damped_system

__all__ = ["Curvature", "curvature"]


class Curvature(NamedTuple):
    """Second derivatives of an energy at a point, for y raveled in the order of its leaves.

    Attributes:
        hessian: (n, n) H, symmetric.
        factor: (n, n) lower Cholesky factor of H' + lambda I.
        covariance: (n, n) (H' + lambda I)^-1: where the energy is a negative log-density, the
            covariance of its Laplace approximation, in squared units of y.
        damping_used: () lambda, after `relative` and the round-off floor.
        shift: () s >= 0 of H' = H + s I; if positive, the point is not a minimum.
    """

    hessian: jax.Array
    factor: jax.Array
    covariance: jax.Array
    damping_used: jax.Array
    shift: jax.Array


def curvature(
    energy: Callable,
    y: Any,
    theta: Any,
    data: tuple = (),
    *,
    damping: Damping = Damping(0.0),  # noqa: B008
) -> Curvature:
    """The curvature of `energy(., theta, *data)` at y; dense, O(n^2) memory, no gradient.

    Args:
        energy, theta, data: as for `argmin`.
        y: the point, any pytree of floating-point arrays.
        damping: mode `shift`; with value 0 lambda is at most a few n eps |H|.

    Raises:
        ValueError: a y that is not floating-point, data that is not a tuple, a wrong mode.

    Source: Laplace approximation, e.g. Bishop, Pattern Recognition and Machine Learning, 4.4.
    """
    check_callable("energy", energy)
    y, theta = checked("y", y, theta, data, damping)
    if damping.mode != "shift":
        hint = "Only `shift` makes a damped Hessian with a Cholesky factor from every H."
        raise argument_error("damping.mode", "expected 'shift'", repr(damping.mode), hint)
    return with_hint(jit_on(energy, _curvature, ()), y, theta, data, on_device(damping))


def _curvature(energy, y, theta, data, damping):
    y, theta, data = jax.lax.stop_gradient((y, theta, data))
    y, theta, _ = spread(energy, (y, theta, *data), y, theta, damping)
    point = ravel_pytree(y)[0]
    flat_energy = make_system(energy, y, theta, data).flat_energy(ravel_pytree(y)[1])
    _, _, hessian = expand(flat_energy, point)
    dense = DenseStructure(point.size)
    system = damped_system(lambda p: hessian @ p, point, damping, dense, SolverHessian(hessian))
    identity = jnp.eye(point.size, dtype=point.dtype)
    factor = cholesky(hessian + (system.shift + system.damping) * identity)
    columns = jax.vmap(functools.partial(cholesky_solve, factor))(identity)
    # Both are nan for a non-finite Hessian.
    covariance, lower = (
        jnp.where(factor.definite, x, jnp.nan) for x in (0.5 * (columns + columns.T), factor.lower)
    )
    return Curvature(hessian, lower, covariance, system.damping, system.shift)
