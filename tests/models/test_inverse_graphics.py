"""The network of inverse graphics: published sizes, closed forms of its losses, bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxcv.models.inverse_graphics import (
    CPU_SIZE,
    PAPER_SIZE,
    GraphicsNetwork,
    bernoulli_loss,
    kl_divergence,
    sample_code,
    threshold,
)

COUNTS = {  # of the released code's table
    "convolutions_0": 2_496, "convolutions_1": 115_248, "convolutions_2": 28_824,
    "mean": 1_080_200, "log_variance": 1_080_200, "start": 1_085_400,
    "upsampled_0": 56_496, "upsampled_1": 225_888, "upsampled_2": 451_680, "upsampled_3": 4_705,
}  # fmt: skip


def shapes_of(network):
    side = network.size.image
    images = jax.ShapeDtypeStruct((2, side, side, 1), jnp.float32)
    return jax.eval_shape(functools.partial(network.init, jax.random.key(0)), images), images


def count(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def test_published_parameter_counts_and_shapes():
    network = GraphicsNetwork(PAPER_SIZE)
    params, images = shapes_of(network)
    assert {name: count(leaf) for name, leaf in params["params"].items()} == COUNTS
    assert count(params) == 4_131_137
    mean, log_variance, logits = jax.eval_shape(network.apply, params, images)
    assert mean.shape == log_variance.shape == (2, 200)
    assert logits.shape == (2, 150, 150, 1)
    assert count(shapes_of(GraphicsNetwork(CPU_SIZE))[0]) < 100_000


@pytest.mark.parametrize("initial", ["he", "released"])
def test_initial_images_and_methods(initial):
    network = GraphicsNetwork(CPU_SIZE, initial=initial, mean_pixel=0.8)
    images = jax.random.uniform(jax.random.key(1), (3, 48, 48, 1))
    params = jax.jit(network.init)(jax.random.key(0), images)
    mean, log_variance, logits = jax.jit(network.apply)(params, images)
    if initial == "he":
        assert np.abs(np.asarray(log_variance) + 3).max() < 0.5
        assert 0.1 < np.asarray(mean).std() < 3
        assert np.median(jax.nn.sigmoid(logits)) == pytest.approx(0.8, abs=0.1)
    else:
        assert np.abs(np.asarray(mean)).max() < 0.2
    other = jax.jit(network.clone(method="convolution").apply)(params, images)[2]
    phases = jax.jit(network.clone(method="phases").apply)(params, images)[2]
    np.testing.assert_allclose(phases, other, atol=1e-4)
    encoded = network.apply(params, images, method="encode")
    np.testing.assert_array_equal(encoded[0], mean)
    np.testing.assert_array_equal(network.apply(params, mean, method="decode"), logits)


def test_losses_are_their_closed_forms():
    rng = np.random.default_rng(0)
    logits, images = rng.normal(0, 3, (2, 4, 4, 1)), rng.random((2, 4, 4, 1))
    p = 1 / (1 + np.exp(-logits))
    want = -(images * np.log(p) + (1 - images) * np.log(1 - p)).sum((1, 2, 3))
    np.testing.assert_allclose(bernoulli_loss(logits, images), want, rtol=1e-5)
    assert np.isfinite(
        bernoulli_loss(jnp.array([[[[500.0]]], [[[-500.0]]]]), jnp.ones((2, 1, 1, 1)))
    )[0]
    mean, log_variance = rng.normal(size=(2, 5)), rng.normal(size=(2, 5))
    z = np.linspace(-40, 40, 200_001)
    for i in range(2):
        own = 0.0
        for m, v in zip(mean[i], log_variance[i], strict=True):
            q = stats.norm(m, np.exp(v / 2))
            own += np.trapezoid(q.pdf(z) * (q.logpdf(z) - stats.norm.logpdf(z)), z)
        assert kl_divergence(mean, log_variance)[i] == pytest.approx(own, rel=1e-5)
    codes = jax.vmap(lambda key: sample_code(key, jnp.array([1.0]), jnp.array([2.0])))(
        jax.random.split(jax.random.key(0), 20_000)
    )
    assert codes.mean() == pytest.approx(1, abs=0.05)
    assert codes.std() == pytest.approx(np.e, rel=0.02)


def test_threshold_is_the_sources():
    value, slope = jax.vmap(jax.value_and_grad(threshold))(jnp.array([-1.0, 0.0, 2.0]))
    np.testing.assert_array_equal(value, jnp.array([1e-6, 1e-6, 2.0]))
    np.testing.assert_array_equal(slope, [0, 0, 1])


def test_bad_input():
    network = GraphicsNetwork(CPU_SIZE)
    with pytest.raises(ValueError, match=r"`images`: expected \(B, 48, 48, 1\), got \(1, 50, 50"):
        jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 50, 50, 1)))
    params = shapes_of(network)[0]
    with pytest.raises(ValueError, match=r"`code`: expected \(B, 32\)"):
        jax.eval_shape(lambda p: network.apply(p, jnp.zeros((1, 5)), method="decode"), params)
    for change, message in (
        ({"image": 12}, "size.image"), ({"start": (8, 16)}, "size.decoder"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            shapes_of(GraphicsNetwork(CPU_SIZE._replace(**change)))
