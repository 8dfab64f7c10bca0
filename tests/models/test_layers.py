"""The layers against flax's and XLA's own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.models.layers import Convolution3x3, ConvolutionalLSTM, convolve3x3, double, max_pool


@pytest.mark.parametrize(("channels", "features"), [(3, 8), (8, 3), (5, 5)])
def test_products_are_the_convolution_and_so_are_their_gradients(channels, features):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, 3, 6, 7, channels))
    kernel = jax.random.normal(keys[1], (3, 3, channels, features))
    bar = jax.random.normal(keys[2], (2, 3, 6, 7, features))
    results = []
    for method in ("product", "convolution", "auto"):
        value, pull = jax.vjp(lambda x, k: convolve3x3(x, k, method), x, kernel)  # noqa: B023
        results.append((value, *pull(bar)))
    own = nn.Conv(features, (3, 3), use_bias=False)
    flat = x.reshape(-1, 6, 7, channels)
    want = own.apply({"params": {"kernel": kernel}}, flat).reshape(bar.shape)
    np.testing.assert_allclose(results[0][0], want, atol=1e-5)
    for other in results[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), results[0], other)


def test_weights_are_those_of_an_ordinary_convolution():
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 3))
    layer = Convolution3x3(5, bias=-2.5)
    params = layer.init(jax.random.key(1), x)
    np.testing.assert_array_equal(params["params"]["bias"], -2.5)
    want = nn.Conv(5, (3, 3)).apply(params, x)
    np.testing.assert_allclose(layer.apply(params, x), want, atol=1e-5)


def test_memory_of_the_lstm():
    """With a gate wide open the state is kept, and with it shut it is forgotten."""
    layer, x = ConvolutionalLSTM(2), jnp.ones((1, 3, 3, 4))
    carry = (jnp.zeros((1, 3, 3, 2)), jnp.arange(18.0).reshape(1, 3, 3, 2) / 9)
    params = layer.init(jax.random.key(0), carry, x)
    gates = params["params"]["Convolution3x3_0"]
    zero = gates["kernel"] * 0
    for forget, share in ((30.0, 1.0), (-30.0, 0.0)):
        bias = jnp.repeat(jnp.array([-30.0, forget, 0.0, 0.0]), 2)
        h, c = layer.apply(
            {"params": {"Convolution3x3_0": {"kernel": zero, "bias": bias}}}, carry, x
        )
        np.testing.assert_allclose(c, share * carry[1], atol=1e-6)
        np.testing.assert_allclose(h, 0.5 * np.tanh(c), atol=1e-6)


def test_double_keeps_constants_and_ramps():
    ramp = jnp.broadcast_to(jnp.arange(6.0)[:, None], (4, 6, 1))
    out = double(ramp)
    assert out.shape == (8, 12, 1)
    np.testing.assert_allclose(np.diff(out[0, 1:-1, 0]), 0.5, atol=1e-6)
    with pytest.raises(ValueError, match=r"`kernel`: expected \(..., 3, 3, 6, \?\)"):
        convolve3x3(jnp.zeros((4, 4, 6)), jnp.zeros((3, 3, 5, 2)))


def test_pool_of_odd_sizes_leaves_the_last_out():
    x = jnp.arange(2 * 5 * 7 * 3.0).reshape(2, 5, 7, 3)
    np.testing.assert_array_equal(max_pool(x), nn.max_pool(x, (2, 2), (2, 2)))
    slopes = jax.grad(lambda x: jnp.sum(max_pool(x) ** 2))(x)
    assert int((np.asarray(slopes) != 0).sum()) == 2 * 2 * 3 * 3
