"""LS-Net: parameter counts, what the optimiser is shown, the first moves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.energies.photometric import arrow_terms, photometric_terms
from jaxcv.geometry import se3
from jaxcv.models.ls_net import (
    CPU_SIZE,
    PAPER_SIZE,
    InitialNetwork,
    Optimiser,
    RefinementNetwork,
    Upscaler,
    encode,
    encoding_channels,
)

pytestmark = pytest.mark.optimised


def count(module, *inputs):
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_numbers_of_parameters():
    """Those of the paper's tables where it gives widths to within 0.5%: 11,438,470."""
    image, small, one = jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 4, 4)), jnp.ones((1, 4, 4))
    shown = jnp.zeros((1, 4, 4, encoding_channels("gradient")))
    totals = {}
    for name, size in (("paper", PAPER_SIZE), ("cpu", CPU_SIZE)):
        optimiser = Optimiser(size)
        totals[name] = [
            count(InitialNetwork(size), image, image, image[..., :2]),
            count(optimiser, optimiser.start((1, 4, 4)), shown, one),
            count(Upscaler(size), small, image),
            count(RefinementNetwork(size), shown, one),
        ]
    rays = 2 * 49 * 64 + 2 * 9 * 384  # the directions of the pixels are shown to the first network
    assert totals["paper"][:3] == [1_847_745 + 200_198 + rays, 8_832_327, 585_201]
    assert sum(totals["paper"][:3]) == 11_478_655
    assert abs(sum(totals["paper"][:3]) / 11_438_470 - 1) < 0.005
    rays = 2 * 25 * 16 + 2 * 9 * 64
    assert totals["cpu"][:3] == [81_233 + 4_550 + rays, 179_399, 6_681]
    for parts in totals.values():  # the network of the comparison is as large as the optimiser
        assert abs(parts[3] / parts[1] - 1) < 0.01
    published = InitialNetwork(PAPER_SIZE, with_rays=False)
    assert count(published, image, image, image[..., :2]) == 1_847_745 + 200_198


def problem(key=0):
    keys = jax.random.split(jax.random.key(key), 4)
    target, source = (jax.random.uniform(k, (8, 12, 1)) for k in keys[:2])
    z = jax.random.uniform(keys[2], (8, 12), minval=0.1, maxval=0.5)
    motion = se3.exp(jnp.array([0.3, 0.1, -0.1, 0.02, 0.05, -0.03]))
    k = jnp.array([[11.0, 0, 5.5], [0, 11.0, 3.5], [0, 0, 1]])
    return z, photometric_terms(z, motion, target, source, k)


@pytest.mark.slow
def test_the_paper_encoding_is_blind_to_the_sign_of_the_jacobian():
    z, terms = problem()
    turned = terms._replace(depth=-terms.depth, motion=-terms.motion)
    xi = jnp.arange(6.0)
    sizes = {"algorithm_1": 29, "paper": 36, "gradient": 38, "gradient_motion": 44}
    for mode, channels in sizes.items():
        first, second = (
            encode(both.residual, arrow_terms(both), both.visible, z, mode, xi=xi)
            for both in (terms, turned)
        )
        assert first.shape == (8, 12, channels) == (8, 12, encoding_channels(mode))
        np.testing.assert_array_equal(first[..., :29], second[..., :29])
        assert np.array_equal(first, second) == (mode in ("algorithm_1", "paper"))
        if mode in ("paper", "gradient_motion"):  # z and the motion come last
            np.testing.assert_allclose(first[3, 5, -7 if mode == "paper" else 37], 10 * z[3, 5])
            np.testing.assert_allclose(first[3, 5, -6:], [0, 1, 2, 30, 40, 50])
    with pytest.raises(ValueError, match=r"`encoding`: expected one of 'algorithm_1', 'paper'"):
        encode(terms.residual, arrow_terms(terms), terms.visible, z, "all")


@pytest.mark.slow
def test_pixels_that_are_not_seen_have_no_say_in_the_motion():
    """Their mean is masked, and the greatest value is one of a pixel that is seen."""
    module = Optimiser(CPU_SIZE)
    keys = jax.random.split(jax.random.key(0), 2)
    shown = jax.random.normal(keys[0], (1, 8, 8, 38))
    none = jnp.zeros((1, 8, 8), bool)
    params = jax.jit(module.init)(keys[1], module.start((1, 8, 8)), shown, none)
    *_, first = jax.jit(module.apply)(params, module.start((1, 8, 8)), shown, none)
    *_, second = jax.jit(module.apply)(params, module.start((1, 8, 8)), 2 * shown, none)
    np.testing.assert_array_equal(first, second)


@pytest.mark.slow
def test_first_moves_are_small_and_the_guess_can_be_improved():
    module = InitialNetwork(CPU_SIZE)
    image = jax.random.uniform(jax.random.key(0), (2, 16, 24, 3))
    params = jax.jit(module.init)(jax.random.key(1), image, image, image[..., :2])
    guess = jax.jit(module.apply)(params, image, image, image[..., :2])
    assert guess.inverse_depth.shape == (2, 4, 6)
    assert np.all(np.abs(guess.inverse_depth - 0.08) < 0.05)
    assert np.all(np.linalg.norm(guess.xi[:, :3], axis=1) > 0.02)  # or depth could not be seen
    upscaler = Upscaler(CPU_SIZE)
    params = jax.jit(upscaler.init)(jax.random.key(2), guess.inverse_depth, image)
    full = jax.jit(upscaler.apply)(params, guess.inverse_depth, image)
    assert full.shape == (2, 16, 24)
    np.testing.assert_allclose(jnp.mean(full), jnp.mean(guess.inverse_depth), atol=5e-3)
