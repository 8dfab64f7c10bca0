"""The loss of inverse graphics: what each batch teaches; images in, factors out and set."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.models.inverse_graphics import GraphicsNetwork, GraphicsSize, kl_divergence
from jaxcv.models.posteriors import group_posterior
from jaxcv.systems import render_latents
from jaxcv.systems.inverse_graphics import LatentScale, active_latents, graphics_loss
from tests.helpers import assert_grad_matches

SIZE = GraphicsSize(16, 6, ((3, 4), (3, 4)), (5, 4), ((3, 4), (1, 1)))
NETWORK = GraphicsNetwork(SIZE)
IMAGES = jax.random.uniform(jax.random.key(5), (4, 16, 16, 1))


@pytest.fixture(scope="module")
def params():
    return jax.jit(NETWORK.init)(jax.random.key(0), IMAGES)


def slopes(params, **options):
    run = lambda p: graphics_loss(p, IMAGES, jax.random.key(1), network=NETWORK, **options)[0]
    return jax.jit(jax.grad(run))(params)["params"]


def test_which_entries_a_batch_may_vary():
    for kind, want in ((0, [0]), (1, [1]), (2, [2]), (3, [3, 4, 5])):
        assert np.flatnonzero(jax.jit(active_latents, static_argnums=1)(kind, 6)).tolist() == want
    assert np.flatnonzero(active_latents(1, 6, scene=1)).tolist() == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_an_entangled_loss_is_all_entries_active(params):
    run = functools.partial(graphics_loss, params, IMAGES, jax.random.key(1), network=NETWORK)
    loss, parts = run()
    assert loss == parts["reconstruction"] + parts["kl"]
    np.testing.assert_allclose(run(active=np.ones(6), strength=3.0)[0], loss, rtol=1e-6)
    close = lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, slopes(params), slopes(params, active=np.ones(6)))


@pytest.mark.slow
def test_inactive_entries_learn_only_to_agree(params):
    active = active_latents(1, 6)
    own = slopes(params, active=active, strength=0.5)
    mean = lambda p: NETWORK.apply(p, IMAGES, method="encode")[0]

    def pull(p):
        away = mean(p) - mean(p).mean(axis=0)
        return 0.5 * 0.5 / 4 * jnp.sum(away[:, [0, 2, 3, 4, 5]] ** 2)

    want = jax.grad(pull)(params)["params"]
    inactive = np.array([0, 2, 3, 4, 5])
    kernel = own["mean"]["kernel"]
    np.testing.assert_allclose(
        kernel[:, inactive], want["mean"]["kernel"][:, inactive], rtol=1e-3, atol=1e-6
    )
    np.testing.assert_allclose(own["mean"]["bias"][inactive], 0, atol=1e-5)
    assert np.abs(own["mean"]["bias"][1]) > 1e-4
    other = slopes(params, active=active, strength=0.5, log_variance_too=False)
    assert (np.asarray(other["log_variance"]["kernel"])[:, inactive] == 0).all()
    none = slopes(params, active=active, strength=0.0)
    assert (np.asarray(none["mean"]["kernel"])[:, inactive] == 0).all()


@pytest.mark.slow
def test_options_of_paper_and_released_code(params):
    run = functools.partial(graphics_loss, params, IMAGES, jax.random.key(1), network=NETWORK)
    active = active_latents(0, 6)
    plain = run(active=active)[0]
    for change in ({"reference": "first"}, {"clamp_on": "sample"}, {"share_noise": True}):
        assert run(active=active, **change)[0] != plain
    np.testing.assert_array_equal(run(active=active, sign="repel")[0], plain)
    with pytest.raises(ValueError, match="`clamp_on`: expected one of"):
        run(active=active, clamp_on="image")


@pytest.mark.slow
def test_beta_weighs_the_divergence_and_posteriors_are_shared(params):
    run = functools.partial(graphics_loss, params, IMAGES, jax.random.key(1), network=NETWORK)
    loss, parts = run()
    np.testing.assert_array_equal(run(beta=1.0)[0], loss)  # the ordinary autoencoder
    weighed, same = run(beta=4.0)
    np.testing.assert_array_equal(same["kl"], parts["kl"])
    np.testing.assert_allclose(weighed, parts["reconstruction"] + 4 * parts["kl"], rtol=1e-6)
    np.testing.assert_array_equal(run(posterior="average", active=np.ones(6))[0], loss)
    active = active_latents(1, 6)
    mean, log_variance = NETWORK.apply(params, IMAGES, method="encode")
    shared = group_posterior(mean, log_variance, active)
    found = run(posterior="average", active=active)[1]["kl"]
    np.testing.assert_allclose(found, kl_divergence(*shared).mean(), rtol=1e-5)
    assert found < parts["kl"]  # the divergence is convex in mean and variance
    adaptive = run(posterior="adaptive")[1]["kl"]
    assert adaptive < parts["kl"]
    with pytest.raises(ValueError, match="`posterior`: expected one of"):
        run(posterior="product")
    with pytest.raises(ValueError, match="`axis_name`: expected None with posterior='average'"):
        run(posterior="average", axis_name="devices")


@pytest.mark.slow
@pytest.mark.parametrize("posterior", ["average", "adaptive"])
def test_gradients_of_shared_posteriors_are_ordinary(params, posterior):
    """Central differences of the loss; clamping would ignore inactive latents' gradients."""
    with jax.enable_x64(True):
        double = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)
        images = jnp.asarray(IMAGES, jnp.float64)
        loss = jax.jit(
            lambda p: graphics_loss(
                p, images, jax.random.key(1), network=NETWORK, active=active_latents(1, 6),
                posterior=posterior, beta=3.0,
            )[0]
        )  # fmt: skip
        heads = ("mean", "log_variance")
        own = {name: double["params"][name] for name in heads}
        part = lambda own: loss({"params": {**double["params"], **own}})
        steps = (1e-3, 1e-4, 1e-5)  # short: the decoder has thresholds, too
        assert_grad_matches(part, own, jax.random.key(2), steps=steps, rtol=1e-5)


@pytest.mark.slow
def test_a_batch_over_devices_has_the_gradient_of_the_whole(params):
    """Losses and gradients of the parts have those of the whole as their mean."""
    active = active_latents(3, 6)

    def part(images, axis_name=None):
        # One noise for all images: parts draw as the whole does.
        run = lambda p: graphics_loss(
            p, images, jax.random.key(1), network=NETWORK, active=active, strength=0.5,
            share_noise=True, axis_name=axis_name,
        )[0]  # fmt: skip
        return jax.value_and_grad(run)(params)

    whole = part(IMAGES)
    shared = jax.vmap(functools.partial(part, axis_name="devices"), axis_name="devices")(
        IMAGES.reshape(2, 2, 16, 16, 1)
    )
    np.testing.assert_allclose(shared[0].mean(), whole[0], rtol=1e-5)
    for parts, one in zip(*map(jax.tree.leaves, (shared[1], whole[1])), strict=True):
        np.testing.assert_allclose(parts.mean(axis=0), one, rtol=1e-3, atol=1e-5)


def test_images_in_and_factors_set(params):
    scale = LatentScale((0.1, 0.2, 0.3), (0.5, -2.0, 1.0))
    found = render_latents(IMAGES, params, network=NETWORK, scale=scale)
    mean, _, logits = NETWORK.apply(params, IMAGES)
    np.testing.assert_allclose(found.images, jax.nn.sigmoid(logits), atol=1e-6)
    np.testing.assert_allclose(found.found["elevation"], 0.2 - 2 * mean[:, 1], rtol=1e-5)
    turned = render_latents(IMAGES[0], params, network=NETWORK, scale=scale, elevation=0.7)
    assert turned.images.shape == (16, 16, 1)
    np.testing.assert_allclose(turned.code[1], (0.7 - 0.2) / -2, rtol=1e-5)
    np.testing.assert_allclose(np.delete(turned.code, 1), np.delete(mean[0], 1), atol=1e-6)
    np.testing.assert_allclose(turned.found["elevation"], found.found["elevation"][0], rtol=1e-5)
    many = render_latents(
        jnp.stack([IMAGES, IMAGES]), params, network=NETWORK, light=np.ones((2, 4))
    )
    assert many.found["light"].shape == (2, 4)
    np.testing.assert_array_equal(many.code[..., 2], 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((4, 15, 15, 1))}, r"`images`: expected \(..., 16, 16, 1\)"),
        ({"images": 255 * np.ones((16, 16, 1))}, r"`images`: expected values in \[0, 1\].*255"),
        ({"images": np.full((16, 16, 1), np.nan)}, "`images`: expected values"),
        ({"azimuth": np.inf}, "`azimuth`: expected finite"),
        ({"light": 0.0, "scale": LatentScale((0.0,), (1.0,))}, "`light`: expected one of"),
    ],
)
def test_bad_input(params, change, message):
    inputs = {"images": IMAGES} | change
    with pytest.raises(ValueError, match=message):
        render_latents(inputs.pop("images"), params, network=NETWORK, **inputs)
