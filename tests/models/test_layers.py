"""The layers against flax's and XLA's own."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxcv.models.layers import (
    Convolution3x3,
    ConvolutionalLSTM,
    convolve,
    convolve3x3,
    double,
    max_pool,
)
from tests.helpers import mostly_slow


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


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(
    ("size", "width", "channels", "features"),
    mostly_slow(
        [
            (3, 7, 1, 4), (3, 6, 4, 3), (7, 6, 1, 2), (3, 6, 8, 8), (3, 7, 8, 8), (3, 6, 5, 2),
            (5, 6, 9, 3),
        ],
        [(3, 6, 4, 3), (5, 6, 9, 3)],
    ),
)  # fmt: skip
def test_images_of_few_channels_are_convolved_alike(size, width, channels, features, padding):
    keys = jax.random.split(jax.random.key(0), 5)
    x = jax.random.normal(keys[0], (2, 9, width + 2, channels))
    kernel, other = jax.random.normal(keys[1], (2, size, size, channels, features))
    plain = lambda x, k: jax.lax.conv_general_dilated(
        x, k, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    bar = jax.random.normal(keys[2], plain(x, kernel).shape)
    ours = functools.partial(convolve, padding=padding)
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4)
    results = []
    for function in (ours, plain):
        value, pull = jax.vjp(function, x, kernel)
        moved = jax.jvp(function, (x, kernel), (x[::-1], other))[1]
        many = jax.vmap(function, (None, 0))(x, jnp.stack([kernel, other]))
        results.append((value, *pull(bar), moved, many))
    jax.tree.map(close, *results)


def test_weights_are_those_of_an_ordinary_convolution():
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 3))
    layer = Convolution3x3(5, bias=-2.5)
    params = jax.jit(layer.init)(jax.random.key(1), x)
    np.testing.assert_array_equal(params["params"]["bias"], -2.5)
    want = nn.Conv(5, (3, 3)).apply(params, x)
    np.testing.assert_allclose(layer.apply(params, x), want, atol=1e-5)


def test_memory_of_the_lstm():
    """With a gate wide open the state is kept, and with it shut it is forgotten."""
    layer, x = ConvolutionalLSTM(2), jnp.ones((1, 3, 3, 4))
    carry = (jnp.zeros((1, 3, 3, 2)), jnp.arange(18.0).reshape(1, 3, 3, 2) / 9)
    params = jax.jit(layer.init)(jax.random.key(0), carry, x)
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


def test_gradient_of_the_pool_is_that_of_the_first_of_equals():
    x = jax.random.permutation(jax.random.key(0), jnp.arange(2 * 4 * 6 * 3.0)).reshape(2, 4, 6, 3)
    bar = jax.random.normal(jax.random.key(1), (2, 2, 3, 3))
    (want,) = jax.vjp(lambda x: nn.max_pool(x, (2, 2), (2, 2)), x)[1](bar)
    np.testing.assert_array_equal(jax.vjp(max_pool, x)[1](bar)[0], want)
    check_grads(max_pool, (x,), order=1, eps=0.1, atol=1e-3)
    (equal,) = jax.vjp(max_pool, jnp.zeros((1, 2, 2, 1)))[1](jnp.ones((1, 1, 1, 1)))
    np.testing.assert_array_equal(equal[0, ..., 0], [[1, 0], [0, 0]])
