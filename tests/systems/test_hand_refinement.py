"""Refined hands: better joints, gradients of the minimiser, and points that are not there."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.data.hand import joints_of_pixels
from jaxcv.data.synthetic.hand import generate_hands
from jaxcv.energies.hand import HandScales
from jaxcv.linear.damping import Damping
from jaxcv.systems.hand_refinement import refine_hand

SCALES = HandScales(joints=8.0)


@functools.lru_cache(maxsize=1)
def frames(count=4, points=48):
    hands = generate_hands(jax.random.key(9), count, subjects=count)
    rng, seen = np.random.default_rng(0), []
    for depth, k in zip(hands.depth, hands.intrinsics, strict=True):
        v, u = np.nonzero(depth)
        some = rng.choice(len(v), points, replace=False)
        pixels = np.stack([u[some], v[some], depth[v[some], u[some]]], axis=-1)
        seen.append(joints_of_pixels(pixels, k))
    noisy = hands.joints + rng.normal(scale=8, size=hands.joints.shape)
    return noisy, np.stack(seen), np.asarray(hands.joints, float)


@pytest.mark.slow
def test_joints_become_better_and_depend_on_what_is_seen():
    noisy, seen, truth = frames()
    zeros = jnp.zeros((4, 14))
    refine = jax.jit(lambda x, seen: refine_hand(x, zeros, seen, SCALES))
    single = lambda x: jnp.asarray(x, jnp.float32)
    found = refine(single(noisy), single(seen))
    error = lambda x: np.linalg.norm(x - truth, axis=-1).mean()
    assert error(found.joints) < 0.65 * error(noisy)
    blind = refine(single(noisy), jnp.zeros_like(single(seen)))
    assert np.isfinite(blind.joints).all()
    assert error(found.joints) < error(blind.joints) < error(noisy)


@pytest.mark.slow
def test_gradient_of_the_network_is_that_of_differences():
    with jax.enable_x64(True):
        noisy, seen, truth = (jnp.asarray(x[:1]) for x in frames())
        zeros = jnp.zeros((1, 14))
        undamped = Damping(0.0, mode="plain")

        @jax.jit
        def loss(x, sure):
            refine = functools.partial(refine_hand, damping=undamped, max_steps=60)
            return jnp.sum((refine(x, sure, seen, SCALES).joints - truth) ** 2)

        slopes = jax.jit(jax.grad(loss, argnums=(0, 1)))(noisy, zeros)
        for which, (slope, shape) in enumerate(zip(slopes, (noisy.shape, (1, 14)), strict=True)):
            direction = jax.random.normal(jax.random.key(which), shape)
            step = 1e-5 * direction
            ends = [
                loss(noisy + s * step, zeros) if which == 0 else loss(noisy, zeros + s * step)
                for s in (1, -1)
            ]
            want = (ends[0] - ends[1]) / 2e-5
            assert abs(want) > 1e-3
            np.testing.assert_allclose(jnp.sum(slope * direction), want, rtol=1e-4)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="batch shape"):
        refine_hand(jnp.zeros((2, 14, 3)), jnp.zeros((14,)), jnp.zeros((2, 5, 3)))
    with pytest.raises(ValueError, match="joints"):
        refine_hand(jnp.zeros((13, 3)), jnp.zeros(14), jnp.zeros((5, 3)))
