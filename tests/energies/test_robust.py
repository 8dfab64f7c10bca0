"""The energy of the robust mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.energies.robust import rbf_energy

pytestmark = pytest.mark.optimised


@pytest.fixture
def points():
    rng = np.random.default_rng(0)
    return rng.normal(size=30) * 5


def test_derivatives_have_their_closed_form(points):
    with jax.enable_x64(True):
        y, s = jnp.asarray(0.7), jnp.asarray(3.0)
        u = 0.7 - points
        e = np.exp(-(u**2) / 9)
        x = jnp.asarray(points)
        np.testing.assert_allclose(rbf_energy(y, s, x), -e.sum(), rtol=1e-14)
        slope = jax.grad(rbf_energy)(y, s, x)
        np.testing.assert_allclose(slope, (2 * u / 9 * e).sum(), rtol=1e-12)
        curvature = jax.grad(jax.grad(rbf_energy))(y, s, x)
        np.testing.assert_allclose(curvature, ((2 / 9 - 4 * u**2 / 81) * e).sum(), rtol=1e-12)
        mixed = jax.grad(jax.grad(rbf_energy), argnums=1)(y, s, x)
        expected = ((-4 * u / 27 + 4 * u**3 / 243) * e).sum()
        np.testing.assert_allclose(mixed, expected, rtol=1e-12)


def test_it_is_even_in_the_scale_and_equivariant(points):
    with jax.enable_x64(True):
        x = jnp.asarray(points)
        value = rbf_energy(jnp.asarray(1.0), jnp.asarray(2.0), x)
        for other in (
            rbf_energy(jnp.asarray(1.0), jnp.asarray(-2.0), x),
            rbf_energy(jnp.asarray(11.0), jnp.asarray(2.0), x + 10),
            rbf_energy(jnp.asarray(3.0), jnp.asarray(6.0), 3 * x),
        ):
            np.testing.assert_allclose(other, value, rtol=1e-12)


def test_weights_and_dimensions(points):
    with jax.enable_x64(True):
        x = jnp.asarray(points.reshape(10, 3))
        y, s, w = jnp.asarray([0.1, 0.2, 0.3]), jnp.arange(1.0, 11.0), jnp.arange(10.0)
        expected = -np.sum(
            np.arange(10) * np.exp(-np.sum((np.asarray(x) - np.asarray(y)) ** 2, 1) / s**2)
        )
        np.testing.assert_allclose(rbf_energy(y, s, x, w), expected, rtol=1e-12)
        line = rbf_energy(jnp.asarray(0.3), jnp.asarray(2.0), x[:, 0])
        column = rbf_energy(jnp.asarray([0.3]), jnp.asarray(2.0), x[:, :1])
        np.testing.assert_allclose(line, column, rtol=1e-14)
