"""The density of residuals as a mixture of Gaussians of several scales and of outliers.

    p(r) = (1 - a_0) sum_k a_k N(r; 0, s_k^2) + a_0 / w,    s_k = s 2^(k / 2),  k = -4 .. 6

A robust kernel whose shape is learned: of matches whose noise is known only to a factor of 30 it
takes the narrow part where residuals are small, and has the tails that real residuals have. With
equal shares it is nearly free of a scale. Learned shares are the mean, given the residuals, of a
family: normal in k about each scale, with spreads of 0 to 1.5 octaves. A pair with few matches has
too few residuals for eleven free shares. Squared residuals are in units of s^2.

Source: Andrews and Mallows, Scale mixtures of normal distributions, 1974, with an outlier term as
in robust estimation by mixtures, Torr and Zisserman, MLESAC, 2000.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["ResidualDensity", "learned_shares", "usual_density"]

_SCALES = 2.0 ** np.arange(-2, 3.5, 0.5)
_SPREADS = 0.0, 0.5, 1.0, 1.5  # of the members of the family [octaves]
_START = 0.5  # share of inliers
_LEAST = 1e-12  # share


def _family() -> np.ndarray:
    """(J, K) shares of the scales: normal about each scale, with each spread."""
    logs = np.log2(_SCALES)
    away = logs - logs[:, None]
    rows = [away == 0 if s == 0 else np.exp(-0.5 * (away / s) ** 2) for s in _SPREADS]
    rows = np.concatenate(rows).astype(float)
    return rows / rows.sum(axis=1, keepdims=True)


_FAMILY = _family()


class ResidualDensity(NamedTuple):
    """A density, with the interface of `jaxcv.least_squares.kernels`.

    Attributes:
        log_shares: (12,) log of (1 - a_0) a_k, and of a_0.
        log_range: () log of w / s.
    """

    log_shares: Any
    log_range: Any

    def _terms(self, square: jax.Array) -> jax.Array:
        """log of the terms of p s, (..., 12)."""
        far = jnp.broadcast_to(-self.log_range, (*square.shape, 1))
        return self.log_shares + jnp.concatenate([_log_gaussians(square), far], axis=-1)

    def log_density(self, square: jax.Array) -> jax.Array:
        """log(p(r) s), elementwise."""
        return jax.scipy.special.logsumexp(self._terms(square), axis=-1)

    def rho(self, square: jax.Array) -> jax.Array:
        """-2 log(p(r) / p(0)), elementwise."""
        highest = self.log_density(jnp.zeros((), square.dtype))
        return 2 * (highest - self.log_density(square))

    def weight(self, square: jax.Array) -> jax.Array:
        """d rho / d square, elementwise."""
        scales = jnp.asarray(_SCALES, square.dtype)
        return self.responsibilities(square)[..., :-1] @ scales**-2.0

    def responsibilities(self, square: jax.Array) -> jax.Array:
        """Probabilities (..., 12) that a residual comes from each term; the last: an outlier."""
        return jax.nn.softmax(self._terms(square), axis=-1)


def _log_gaussians(square: jax.Array) -> jax.Array:
    """log of the Gaussians of all scales, (..., 11)."""
    scales = jnp.asarray(_SCALES, square.dtype)
    return -0.5 * square[..., None] / scales**2 - jnp.log(scales * np.sqrt(2 * np.pi))


def usual_density(log_range: Any) -> ResidualDensity:
    """Half of the matches are outliers; the scales of the others have equal shares."""
    count = len(_SCALES)
    shares = np.append(np.full(count, _START / count), 1 - _START)
    return ResidualDensity(jnp.log(jnp.asarray(shares, jnp.result_type(log_range))), log_range)


def learned_shares(
    density: ResidualDensity, square: jax.Array, weights: jax.Array
) -> ResidualDensity:
    """The mean of the family's shares given residuals, after one step on the outliers' share.

    Args:
        density: before the step.
        square: (N,) squared residuals in units of s^2.
        weights: (N,) of the residuals, >= 0.
    """
    near = jnp.exp(_log_gaussians(square))
    far = jnp.exp(density.log_shares[-1] - density.log_range)
    inlier = -jnp.expm1(density.log_shares[-1])
    family = jnp.asarray(_FAMILY, square.dtype)
    likelihood = weights @ jnp.log(inlier * (near @ family.T) + far)
    shares = jax.nn.softmax(likelihood) @ family
    outlier = far / (inlier * (near @ shares) + far)
    share = (weights @ outlier + 1) / (jnp.sum(weights) + 2)
    learned = jnp.append((1 - share) * shares, share)
    return density._replace(log_shares=jnp.log(jnp.maximum(learned, _LEAST)))
