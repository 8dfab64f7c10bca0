"""The density of residuals as a mixture of Gaussians of several scales and of outliers.

    p(r) = sum_k a_k N(r; 0, s_k^2) + a_0 / w,    s_k = s 2^k,  k = -2 .. 3

A robust kernel whose shape is learned: of matches whose noise is known only to a factor of 30 it
takes the narrow part where residuals are small, and has the tails that real residuals have. With
equal shares it is nearly free of a scale. Squared residuals are in units of s^2.

Source: Andrews and Mallows, Scale mixtures of normal distributions, 1974, with an outlier term as
in robust estimation by mixtures, Torr and Zisserman, MLESAC, 2000.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["ResidualDensity", "learned_shares", "usual_density"]

_SCALES = 2.0 ** np.arange(-2, 4)
_FIRM = 8.0  # pseudo-observations of the equal shares
_START = 0.5  # share of inliers


class ResidualDensity(NamedTuple):
    """A density, with the interface of `jaxcv.least_squares.kernels`.

    Attributes:
        log_shares: (7,) log of a_k, the outliers' last.
        log_range: () log of w / s.
    """

    log_shares: Any
    log_range: Any

    def _terms(self, square: jax.Array) -> jax.Array:
        """log of the terms of p s, (..., 7)."""
        scales = jnp.asarray(_SCALES, square.dtype)
        near = -0.5 * square[..., None] / scales**2 - jnp.log(scales * np.sqrt(2 * np.pi))
        far = jnp.broadcast_to(-self.log_range, (*square.shape, 1))
        return self.log_shares + jnp.concatenate([near, far], axis=-1)

    def rho(self, square: jax.Array) -> jax.Array:
        """-2 log(p(r) / p(0)), elementwise."""
        log = jax.scipy.special.logsumexp
        highest = log(self._terms(jnp.zeros((), square.dtype)), axis=-1)
        return 2 * (highest - log(self._terms(square), axis=-1))

    def weight(self, square: jax.Array) -> jax.Array:
        """d rho / d square, elementwise."""
        scales = jnp.asarray(_SCALES, square.dtype)
        return self.responsibilities(square)[..., :-1] @ scales**-2.0

    def responsibilities(self, square: jax.Array) -> jax.Array:
        """Probabilities (..., 7) that a residual comes from each term; the last: an outlier."""
        return jax.nn.softmax(self._terms(square), axis=-1)


def usual_density(log_range: Any) -> ResidualDensity:
    """Half of the matches are outliers; the scales of the others have equal shares."""
    count = len(_SCALES)
    shares = np.append(np.full(count, _START / count), 1 - _START)
    return ResidualDensity(jnp.log(jnp.asarray(shares, jnp.result_type(log_range))), log_range)


def learned_shares(
    density: ResidualDensity, square: jax.Array, weights: jax.Array
) -> ResidualDensity:
    """One step of expectation maximisation on the shares, which stay near equal ones if few.

    Args:
        density: before the step.
        square: (N,) squared residuals in units of s^2.
        weights: (N,) of the residuals, >= 0.
    """
    counts = weights @ density.responsibilities(square)
    prior = np.append(np.full(len(_SCALES), _FIRM / len(_SCALES)), 1.0)
    counts = counts + jnp.asarray(prior, counts.dtype)
    return density._replace(log_shares=jnp.log(counts / jnp.sum(counts)))
