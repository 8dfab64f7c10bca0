"""Densities of residuals: normalised, with the slope of their cost, learned by likelihood."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.energies.residual_density import learned_shares, usual_density


def test_the_density_of_inliers_has_area_one_and_the_weight_is_the_slope():
    with jax.enable_x64(True):
        density = usual_density(jnp.log(1000.0))
        at = np.linspace(-100, 100, 200_001)
        terms = np.exp(np.asarray(density._terms(jnp.asarray(at**2))))
        area = terms.sum(axis=0) * (at[1] - at[0])
        np.testing.assert_allclose(area[:-1], np.exp(density.log_shares[:-1]), rtol=1e-3)
        np.testing.assert_allclose(area[-1], 0.5 * 200 / 1000, rtol=1e-3)
        square = jnp.array([0.0, 0.3, 4.0, 90.0])
        assert density.rho(square)[0] == 0
        slope = (density.rho(square + 1e-5) - density.rho(square)) / 1e-5
        np.testing.assert_allclose(density.weight(square), slope, rtol=1e-3)
        assert density.responsibilities(jnp.array(1e6))[-1] > 1 - 1e-9


def _learned(residuals):
    density, square = usual_density(jnp.log(1000.0)), jnp.asarray(residuals**2)
    for _ in range(40):
        density = jax.jit(learned_shares)(density, square, jnp.ones(len(residuals)))
    return density


def _cross_entropy(density, residuals):
    return -float(np.mean(density.log_density(jnp.asarray(residuals**2))))


def test_shares_follow_the_residuals():
    rng = np.random.default_rng(0)
    outliers = rng.uniform(-500, 500, 300)
    density = _learned(np.concatenate([rng.normal(size=700), outliers]))
    shares = np.exp(density.log_shares)
    np.testing.assert_allclose(shares.sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(shares[-1], 0.3, atol=0.02)
    assert shares[3:6].sum() > 0.65  # scales near 1
    heavy = _learned(np.concatenate([rng.standard_t(2, size=700), outliers]))
    shares = np.exp(heavy.log_shares)
    assert shares[6:-1].sum() > 0.15  # tails


@pytest.mark.parametrize("scale", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("freedom", [2, 1000])
def test_few_residuals_suffice(scale, freedom):
    """30 residuals give a density that fits new ones nearly as well as one of 3,000 does."""
    rng = np.random.default_rng(1)
    new = scale * rng.standard_t(freedom, size=20_000)
    best = _cross_entropy(_learned(scale * rng.standard_t(freedom, size=3000)), new)
    lost = [
        _cross_entropy(_learned(scale * rng.standard_t(freedom, size=30)), new) - best
        for _ in range(20)
    ]
    assert np.mean(lost) < 0.1


def test_without_residuals_the_shares_are_the_mean_of_the_family():
    none = learned_shares(usual_density(jnp.log(1000.0)), jnp.zeros(5), jnp.zeros(5))
    shares = np.exp(none.log_shares)
    np.testing.assert_allclose(shares[-1], 0.5, rtol=1e-6)
    np.testing.assert_allclose(shares[:-1], shares[:-1][::-1], rtol=1e-5)  # symmetric in scale
    far = learned_shares(usual_density(jnp.log(1000.0)), jnp.full(5, 1e12), jnp.ones(5))
    assert np.isfinite(far.log_shares).all()
    same = learned_shares(usual_density(jnp.log(1000.0)), jnp.zeros(500), jnp.ones(500))
    assert np.isfinite(same.log_shares).all()
