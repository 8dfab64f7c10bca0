"""Robust kernels: values, weights and derivatives from their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcv.least_squares.kernels import GemanMcClure, Huber, PseudoHuber, Welsch

pytestmark = pytest.mark.optimised

FORMULAS = {
    Huber: lambda s, c: np.where(s <= c * c, s, 2 * c * np.sqrt(s) - c * c),
    PseudoHuber: lambda s, c: 2 * c * c * (np.sqrt(1 + s / c**2) - 1),
    Welsch: lambda s, c: c * c * (1 - np.exp(-s / c**2)),
    GemanMcClure: lambda s, c: s / (1 + s / c**2),
}


@pytest.mark.parametrize("kind", FORMULAS)
@settings(max_examples=25, deadline=None)
@given(root=st.floats(-6, 6), scale=st.floats(0.05, 20))
def test_values_and_weights(kind, root, scale):
    with jax.enable_x64(True):
        s = jnp.asarray(root**2)
        kernel = kind(scale)
        np.testing.assert_allclose(kernel.rho(s), FORMULAS[kind](s, scale), rtol=1e-9, atol=1e-12)
        weight = float(kernel.weight(s))
        assert 0 <= weight <= 1 + 1e-12
        np.testing.assert_allclose(weight, jax.grad(kernel.rho)(s), rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize("kind", FORMULAS)
def test_near_zero_it_is_least_squares(kind):
    kernel = kind(2.0)
    assert kernel.rho(jnp.zeros(())) == 0
    assert kernel.weight(jnp.zeros(())) == 1
    # All orders exist at zero, in r and in the scale.
    energy = lambda r, c: kind(c).rho(r**2)
    for value in (jax.grad(energy)(0.0, 2.0), jax.grad(energy, 1)(0.0, 2.0)):
        assert value == 0
    assert jax.grad(jax.grad(energy))(0.0, 2.0) == 2


@pytest.mark.parametrize("kind", FORMULAS)
def test_units(kind):
    """rho of residuals in other units is rho in those units."""
    s = jnp.linspace(0, 9, 7)
    np.testing.assert_allclose(kind(200.0).rho(1e4 * s), 1e4 * kind(2.0).rho(s), rtol=1e-5)


def test_a_kernel_is_a_tree_of_its_scale():
    batch = jax.vmap(lambda scale: Huber(scale).rho(jnp.asarray(4.0)))(jnp.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(batch, [3, 4, 4])
    assert jax.tree.leaves(Welsch(3, block_ndim=1)) == [3.0]
