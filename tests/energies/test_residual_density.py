"""Densities of residuals: normalised, with the slope of their cost, learned by likelihood."""

import jax
import jax.numpy as jnp
import numpy as np

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


def test_shares_follow_the_residuals_and_few_residuals_leave_them_alone():
    rng = np.random.default_rng(0)
    residuals = np.concatenate([rng.normal(size=700), rng.uniform(-500, 500, 300)])
    density = usual_density(jnp.log(1000.0))
    step = jax.jit(learned_shares)
    costs = []
    for _ in range(40):
        density = step(density, jnp.asarray(residuals**2), jnp.ones(1000))
        shares = np.exp(density.log_shares)
        log = jax.scipy.special.logsumexp(density._terms(jnp.asarray(residuals**2)), axis=-1)
        costs.append(-float(jnp.sum(log)) - 8 / 6 * np.log(shares[:-1]).sum() - np.log(shares[-1]))
    assert (np.diff(costs) < 1e-2).all()  # the posterior of the shares rises
    np.testing.assert_allclose(shares.sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(shares[-1], 0.3, atol=0.05)
    assert shares[1:4].sum() > 0.6  # scales near 1
    none = learned_shares(usual_density(jnp.log(1000.0)), jnp.zeros(5), jnp.zeros(5))
    np.testing.assert_allclose(np.exp(none.log_shares[:-1]), 8 / 6 / 9, rtol=1e-5)
