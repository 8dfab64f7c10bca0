"""Clamped latents: values, gradients against the surrogate loss, batches over devices, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcv.implicit.clamp import clamp_inactive, invariance_penalty

pytestmark = pytest.mark.optimised

ACTIVE = np.array([True, False, False, True])


def latents(seed=0, shape=(5, 4)):
    return jax.random.normal(jax.random.key(seed), shape)


def pull(u, bar, *args, **kwargs):
    return jax.vjp(lambda u: clamp_inactive(u, *args, **kwargs), u)[1](bar)[0]


@pytest.mark.parametrize("reference", ["mean", "first"])
def test_values_and_gradients(reference):
    u, bar = latents(), latents(1)
    y = clamp_inactive(u, ACTIVE, 0.01, reference=reference)
    value = u.mean(axis=0) if reference == "mean" else u[0]
    np.testing.assert_array_equal(y, jnp.where(ACTIVE, u, value))
    slopes = pull(u, bar, ACTIVE, 0.01, reference=reference)
    np.testing.assert_array_equal(slopes[:, ACTIVE], bar[:, ACTIVE])
    want = 0.01 * (u - u.mean(axis=0))
    np.testing.assert_allclose(slopes[:, ~ACTIVE], want[:, ~ACTIVE], atol=1e-8)
    np.testing.assert_allclose(slopes[:, ~ACTIVE].sum(axis=0), 0, atol=1e-7)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1000), mask=st.lists(st.booleans(), min_size=4, max_size=4),
    strength=st.floats(0, 10),
)  # fmt: skip
def test_gradient_is_that_of_the_surrogate_loss(seed, mask, strength):
    u, mask = latents(seed), jnp.array(mask)
    loss = lambda y: jnp.sum(jnp.sin(y) * jnp.arange(20.0).reshape(5, 4))

    def surrogate(u):
        held = jnp.where(mask, u, jax.lax.stop_gradient(u.mean(axis=0)))
        return loss(held) + invariance_penalty(u, mask, strength)

    own = jax.jit(jax.grad(lambda u: loss(clamp_inactive(u, mask, strength))))(u)
    np.testing.assert_allclose(own, jax.grad(surrogate)(u), rtol=1e-5, atol=1e-5)


def test_limits():
    u, bar = latents(), latents(1)
    np.testing.assert_array_equal(clamp_inactive(u, np.ones(4), 0.5), u)
    np.testing.assert_array_equal(pull(u, bar, np.ones(4), 0.5), bar)
    np.testing.assert_array_equal(pull(u[:1], bar[:1], np.zeros(4), 0.5), 0)
    assert (np.asarray(pull(u, bar, np.zeros(4), 0.0)) == 0).all()
    rates = jax.grad(lambda k, m: jnp.sum(clamp_inactive(u, m, k)), (0, 1))(0.5, jnp.ones(4))
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf, 0), rates)


@pytest.mark.parametrize(("sign", "grows"), [("attract", False), ("repel", True)])
def test_descent_draws_inactive_latents_together_and_the_released_sign_apart(sign, grows):
    u = latents(shape=(20, 4))

    def step(u, _):
        slopes = pull(u, jnp.zeros_like(u), np.zeros(4), 0.01, sign=sign)
        return u - 0.5 * slopes, None

    ends, _ = jax.lax.scan(step, u, length=100)
    factor = (1 + 0.005 if grows else 1 - 0.005) ** 100  # of every distance from the mean
    np.testing.assert_allclose(ends.std(axis=0), factor * u.std(axis=0), rtol=1e-4)
    np.testing.assert_allclose(ends.mean(axis=0), u.mean(axis=0), atol=1e-5)


def test_members_of_an_ensemble_have_their_own_batches():
    u, bar = latents(shape=(3, 5, 4)), latents(1, (3, 5, 4))
    masks = jnp.array([[1, 0, 0, 1], [0, 1, 0, 0], [1, 1, 1, 1]])
    many = jax.vmap(lambda u, bar, m: pull(u, bar, m, 0.1))(u, bar, masks)
    for i in range(3):
        np.testing.assert_allclose(many[i], pull(u[i], bar[i], masks[i], 0.1), atol=1e-7)


@pytest.mark.parametrize("reference", ["mean", "first"])
def test_a_batch_over_devices_is_one_batch(reference):
    """The axis of devices is that of a vmap here: collectives mean the same."""
    u, bar = latents(shape=(6, 4)), latents(1, (6, 4))
    run = functools.partial(clamp_inactive, active=ACTIVE, strength=0.1, reference=reference)

    def on_device(u, bar):
        value, back = jax.vjp(functools.partial(run, axis_name="devices"), u)
        return value, back(bar)[0]

    split = lambda x: x.reshape(3, 2, 4)
    shared = jax.vmap(on_device, axis_name="devices")(split(u), split(bar))
    value, back = jax.vjp(run, u)
    np.testing.assert_allclose(shared[0].reshape(6, 4), value, atol=1e-6)
    np.testing.assert_allclose(shared[1].reshape(6, 4), back(bar)[0], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": jnp.zeros(4)}, r"`u`: expected \(B, D\), got \(4,\)"),
        ({"u": jnp.zeros((2, 4), int)}, "`u`: expected a real floating-point"),
        ({"active": np.ones(3)}, r"`active`: expected \(4,\), got \(3,\)"),
        ({"reference": "median"}, "`reference`: expected one of 'mean', 'first'"),
        ({"sign": "-"}, "`sign`: expected one of 'attract', 'repel'"),
    ],
)
def test_bad_input(change, message):
    inputs = {"u": jnp.zeros((2, 4)), "active": ACTIVE, "strength": 0.1} | change
    with pytest.raises(ValueError, match=message):
        clamp_inactive(**inputs)
