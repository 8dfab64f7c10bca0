"""Shared posteriors: closed forms, moments of the mixture, gradients, who is averaged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.models.inverse_graphics import kl_divergence
from jaxcv.models.posteriors import adaptive_posterior, group_posterior, kl_between
from tests.helpers import assert_grad_matches

ACTIVE = np.array([True, False, False])
RNG = np.random.default_rng(0)
MEAN, LOG_VARIANCE = RNG.normal(size=(6, 3)), RNG.normal(size=(6, 3))


def test_averages_are_the_mean_of_means_and_of_variances():
    with jax.enable_x64(True):
        mean, log_variance = group_posterior(MEAN, LOG_VARIANCE, ACTIVE)
        np.testing.assert_array_equal(mean[:, 0], MEAN[:, 0])
        np.testing.assert_array_equal(log_variance[:, 0], LOG_VARIANCE[:, 0])
        want = np.broadcast_to(MEAN.mean(axis=0), MEAN.shape)
        np.testing.assert_allclose(mean[:, 1:], want[:, 1:], rtol=1e-12)
        variance = np.broadcast_to(np.exp(LOG_VARIANCE).mean(axis=0), MEAN.shape)
        np.testing.assert_allclose(np.exp(log_variance[:, 1:]), variance[:, 1:], rtol=1e-12)
        same = group_posterior(MEAN, LOG_VARIANCE, np.ones(3))
        np.testing.assert_array_equal(same, (MEAN, LOG_VARIANCE))
        huge = group_posterior(jnp.zeros((2, 1)), jnp.array([[900.0], [900.0]]), [False])[1]
        np.testing.assert_allclose(huge, 900.0)  # exp would overflow


def test_divergence_between_gaussians():
    with jax.enable_x64(True):
        zeros = jnp.zeros(())
        to_prior = kl_between(MEAN, LOG_VARIANCE, zeros, zeros).sum(axis=1)
        np.testing.assert_allclose(to_prior, kl_divergence(MEAN, LOG_VARIANCE), rtol=1e-12)
        np.testing.assert_array_equal(kl_between(MEAN, LOG_VARIANCE, MEAN, LOG_VARIANCE), 0)
        # E_q[log q - log p] of one pair by quadrature
        x = np.linspace(-40, 40, 400_001)
        log_normal = lambda m, v: -0.5 * (np.log(2 * np.pi) + v + (x - m) ** 2 * np.exp(-v))
        q, p = log_normal(0.3, -0.5), log_normal(-1.0, 0.7)
        want = np.trapezoid(np.exp(q) * (q - p), x)
        np.testing.assert_allclose(kl_between(0.3, -0.5, -1.0, 0.7), want, rtol=1e-9)


def test_pairs_share_the_latents_that_differ_little():
    with jax.enable_x64(True):
        mean = np.array([[0.0, 1.0, 5.0], [0.1, 1.0, -5.0], [2.0, 0.0, 0.0], [-2.0, 0.3, 0.1]])
        log_variance = np.zeros((4, 3))
        log_variance[:2, 1] = [0.0, 0.2]
        got, variance = adaptive_posterior(mean, log_variance)
        want = [[0.05, 1.0, 5.0], [0.05, 1.0, -5.0], [2.0, 0.15, 0.05], [-2.0, 0.15, 0.05]]
        np.testing.assert_allclose(got, want, atol=1e-12)
        np.testing.assert_allclose(variance[:2, 1], np.log((1 + np.exp(0.2)) / 2))
        np.testing.assert_array_equal(np.delete(variance, 1, axis=1), 0)
        # equal images have no latent below the threshold, and averages would change nothing
        np.testing.assert_allclose(
            adaptive_posterior(mean[[0, 0]], log_variance[[0, 0]])[0], mean[[0, 0]]
        )
        swapped = adaptive_posterior(mean[[1, 0, 3, 2]], log_variance[[1, 0, 3, 2]])[0]
        np.testing.assert_allclose(swapped, np.asarray(got)[[1, 0, 3, 2]], atol=1e-12)


@pytest.mark.parametrize("share", [lambda m, v: group_posterior(m, v, ACTIVE), adaptive_posterior])
def test_gradients_are_those_of_the_averages(share):
    def loss(theta):
        mean, log_variance = share(*theta)
        return jnp.sum(jnp.sin(mean) * jnp.arange(18.0).reshape(6, 3)) + jnp.sum(
            kl_divergence(mean, log_variance)
        )

    with jax.enable_x64(True):
        assert_grad_matches(loss, (jnp.asarray(MEAN), jnp.asarray(LOG_VARIANCE)), jax.random.key(0))


def test_bad_input():
    with pytest.raises(ValueError, match="`mean`: expected an even number of images"):
        adaptive_posterior(jnp.zeros((3, 2)), jnp.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"`mean`: expected mean and log variance \(B, D\)"):
        group_posterior(jnp.zeros((3, 2)), jnp.zeros((3, 1)), np.ones(2))
    with pytest.raises(ValueError, match=r"`active`: expected \(2,\), got \(3,\)"):
        group_posterior(jnp.zeros((3, 2)), jnp.zeros((3, 2)), np.ones(3))
