"""Robust location: an energy of a candidate mean in which outliers saturate."""

import jax
import jax.numpy as jnp

__all__ = ["rbf_energy"]


def rbf_energy(
    y: jax.Array, scale: jax.Array, points: jax.Array, weights: jax.Array | None = None
) -> jax.Array:
    """Sum of radial basis functions around the points; its minimiser is a robust mean.

        E(y; s) = -sum_i w_i exp(-|y - x_i|^2 / s_i^2)

    The exponent has no factor 2, as in the source. Only scale**2 enters, so the sign of `scale`
    does not matter: an unconstrained optimiser may step across zero, but `scale` = 0 is invalid.

    Args:
        y: () or (d,) the candidate, in the units of the points.
        scale: () or (n,) s, in the same units.
        points: (n,) or (n, d) x_i.
        weights: (n,) w_i, 1 by default; a weight of 0 removes its point.

    Returns:
        () in [-sum(w), 0], without unit.

    Source: Toso, Campbell, Russell, NeurIPS 2019, section 3; Dennis and Welsch 1978.
    """
    if points.ndim == 1:
        square = (points - y) ** 2
    else:  # one array per coordinate: a reduction over a short last axis would not vectorise
        square = sum((points[:, i] - y[i]) ** 2 for i in range(points.shape[1]))
    terms = jnp.exp(-square / scale**2)
    return -jnp.sum(terms if weights is None else weights * terms)
