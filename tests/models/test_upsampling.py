"""Upsampled convolutions by phases against the plain ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.models.upsampling import UpsampledConvolution, upsample, upsample_convolve
from tests.helpers import mostly_slow


@pytest.mark.parametrize(
    ("size", "channels", "features"),
    mostly_slow([(1, 8, 5), (3, 3, 1), (5, 8, 5), (7, 1, 3), (9, 3, 1)], [(3, 3, 1), (5, 8, 5)]),
)
def test_phases_are_the_convolution_of_the_large_image(size, channels, features):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, 5, 6, channels))
    kernel = jax.random.normal(keys[1], (size, size, channels, features)) / size
    results = []
    for method in ("convolution", "phases", "auto"):
        run = lambda x, k: upsample_convolve(x, k, method)  # noqa: B023
        value, back = jax.vjp(run, x, kernel)
        assert value.shape == (2, 11 - size, 13 - size, features)
        bar = jax.random.normal(keys[2], value.shape)
        moved = jax.jvp(run, (x, kernel), (x[::-1], kernel[::-1]))[1]
        results.append((value, *back(bar), moved, jax.jit(jax.vmap(run, (0, None)))(x, kernel)))
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5)
    for other in results[1:]:
        jax.tree.map(close, results[0], other)


def test_upsampled_pixels_and_a_kernel_of_one():
    x = jnp.arange(6.0).reshape(1, 2, 3, 1)
    large = upsample(x)[0, ..., 0]
    np.testing.assert_array_equal(large[:2, :4], [[0, 0, 1, 1]] * 2)
    np.testing.assert_array_equal(large, np.kron(x[0, ..., 0], np.ones((2, 2))))
    own = upsample_convolve(x, jnp.ones((1, 1, 1, 1)), "phases")
    np.testing.assert_array_equal(own[0, ..., 0], large)


def test_layer():
    x = jnp.ones((2, 4, 4, 3))
    params = jax.jit(UpsampledConvolution(5, 3).init)(jax.random.key(0), x)
    assert params["params"]["kernel"].shape == (3, 3, 3, 5)
    for method in ("phases", "convolution"):
        out = UpsampledConvolution(5, 3, method=method).apply(params, x)
        want = params["params"]["kernel"].sum((0, 1, 2))
        np.testing.assert_allclose(out, jnp.broadcast_to(want, (2, 6, 6, 5)), atol=1e-5)


@pytest.mark.parametrize(
    ("x", "kernel", "message"),
    [
        ((1, 4, 4, 2), (2, 2, 2, 1), r"`kernel`: expected \(k, k, C, C'\) with odd k"),
        ((1, 4, 4, 2), (3, 3, 1, 1), r"`kernel`: expected \(..., \?, \?, 2, \?\)"),
        ((1, 3, 4, 2), (7, 7, 2, 1), "`x`: expected 4 pixels a side or more"),
    ],
)
def test_bad_input(x, kernel, message):
    with pytest.raises(ValueError, match=message):
        upsample_convolve(jnp.zeros(x), jnp.zeros(kernel))
