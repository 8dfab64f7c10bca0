"""The curves: derivatives, special values, symmetries."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.energies.curves import (
    FAMILIES,
    curve_energy,
    curve_family,
    curve_terms,
)


@pytest.mark.parametrize("name", FAMILIES)
def test_terms_are_the_derivatives_of_the_energy(name):
    family = FAMILIES[name]
    with jax.enable_x64(True):
        t = jnp.linspace(*family.interval, 30)
        x = jnp.asarray(family.lower) * 0.3 + jnp.asarray(family.upper) * 0.7
        y = jnp.cos(3 * t)
        terms = curve_terms(name, x, t, y)
        energy = lambda x: float(curve_energy(name, x, t, y))
        assert terms.energy == pytest.approx(energy(x), rel=1e-14)
        for k in range(2):
            h = 1e-5 * np.eye(2)[k]
            difference = (energy(x + h) - energy(x - h)) / 2e-5
            assert terms.gradient[k] == pytest.approx(difference, rel=1e-7, abs=1e-8)
        np.testing.assert_allclose(terms.hessian, terms.jacobian @ terms.jacobian.T, rtol=1e-13)
        np.testing.assert_allclose(terms.gradient, terms.jacobian @ terms.residual, rtol=1e-13)


def test_closed_forms():
    with jax.enable_x64(True):
        t = jnp.linspace(-30, 30, 60_001)
        density = FAMILIES["gaussian"].value(jnp.array([0.4, 0.7]), t)
        assert jnp.sum(density) * (t[1] - t[0]) == pytest.approx(1, rel=1e-9)
        x = jnp.array([0.3, -0.8])
        exponential = lambda x: FAMILIES["exponential"].value(x, jnp.linspace(0, 2, 9))
        np.testing.assert_array_equal(exponential(x), exponential(x[::-1]))
        sinc = FAMILIES["sinc"].value
        for u in (0.0, 1e-8, 9.9e-3, 1.01e-2, 1.0):
            value, slope = jax.value_and_grad(lambda b: sinc(jnp.stack([1.0, b]), 0.0))(u)
            want = math.sin(u) / u if u else 1.0
            assert value == pytest.approx(want, abs=1e-13)
            want = (math.cos(u) - want) / u if u > 1e-6 else -u / 3
            assert slope == pytest.approx(want, abs=1e-9)


def test_unknown_family():
    with pytest.raises(ValueError, match=r"`family`: expected one of 'exponential'.*'parabola'"):
        curve_family("parabola")
