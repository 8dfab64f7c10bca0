"""Gaussian posteriors of latents that several images share.

With N(m_b, v_b) the posterior of a latent by image b of a group of B, the averaged posterior is

    N(m, v),   m = 1/B sum_b m_b,   v = 1/B sum_b v_b.

Gradients are the ordinary ones of these averages.

Sources: Hosoya, Group-based learning of disentangled representations with generalizability for
novel contents, IJCAI 2019 (Group-VAE); Locatello et al., Weakly-supervised disentanglement without
compromises, ICML 2020 (Ada-GVAE).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.checks import argument_error

__all__ = ["adaptive_posterior", "group_posterior", "kl_between"]


def group_posterior(
    mean: jax.Array, log_variance: jax.Array, active: Any
) -> tuple[jax.Array, jax.Array]:
    """Averages the posteriors of inactive latents over the batch (Group-VAE).

    Args:
        mean: (B, D).
        log_variance: (B, D).
        active: (D,) true for latents that keep the posterior of each image.

    Returns:
        Mean and log variance (B, D).
    """
    _check(mean, log_variance)
    active = jnp.asarray(active).astype(bool)
    if active.shape != mean.shape[1:]:
        raise argument_error("active", f"expected {mean.shape[1:]}", active.shape)
    shared_mean, shared_log_variance = _average(mean, log_variance)
    return (
        jnp.where(active, mean, shared_mean),
        jnp.where(active, log_variance, shared_log_variance),
    )


def adaptive_posterior(mean: jax.Array, log_variance: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Averages, in each pair of images, the posteriors of latents that seem equal (Ada-GVAE).

    Images 2 i and 2 i + 1 are a pair. With d_k the KL divergence of latent k between both images,
    the latents with d_k < (max_k d_k + min_k d_k) / 2 are averaged. The choice has no gradient.

    Args:
        mean: (B, D), with an even B.
        log_variance: (B, D).

    Returns:
        Mean and log variance (B, D).
    """
    _check(mean, log_variance)
    if mean.shape[0] % 2:
        raise argument_error("mean", "expected an even number of images, in pairs", mean.shape)
    pairs = mean.reshape(-1, 2, mean.shape[1]), log_variance.reshape(-1, 2, mean.shape[1])
    first, second = ((pairs[0][:, i], pairs[1][:, i]) for i in range(2))
    apart = jax.lax.stop_gradient(kl_between(*first, *second))  # (B / 2, D)
    ends = apart.max(axis=1, keepdims=True) + apart.min(axis=1, keepdims=True)
    shared = (apart < 0.5 * ends)[:, None]
    averages = jax.vmap(_average)(*pairs)
    return tuple(  # type: ignore[return-value]
        jnp.where(shared, average[:, None], own).reshape(mean.shape)
        for average, own in zip(averages, pairs, strict=True)
    )


def kl_between(
    mean: jax.Array, log_variance: jax.Array, other_mean: jax.Array, other_log_variance: jax.Array
) -> jax.Array:
    """KL of N(m, exp v) from N(n, exp w), 1/2 (exp(v - w) + (m - n)^2 exp(-w) - 1 + w - v)."""
    ratio = log_variance - other_log_variance
    squared = (mean - other_mean) ** 2 * jnp.exp(-other_log_variance)
    return 0.5 * (jnp.expm1(ratio) - ratio + squared)


def _average(mean: jax.Array, log_variance: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and log variance (D,) of the average of (B, D)."""
    total = jax.nn.logsumexp(log_variance, axis=0)
    return mean.mean(axis=0), total - np.log(mean.shape[0])


def _check(mean: jax.Array, log_variance: jax.Array) -> None:
    if mean.ndim != 2 or mean.shape != log_variance.shape:
        expected = "expected mean and log variance (B, D)"
        raise argument_error("mean", expected, (mean.shape, log_variance.shape))
