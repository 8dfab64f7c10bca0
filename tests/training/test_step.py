import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcv.training import create_state, global_norm, make_update

pytestmark = pytest.mark.optimised

KEY = jax.random.key(0)


def quadratic(params, batch, key):
    return jnp.sum((params["w"] - batch) ** 2), {"first": params["w"][0]}


def test_update_is_gradient_descent():
    optimizer = optax.sgd(0.1)
    state = create_state({"w": jnp.zeros(3)}, optimizer)
    target = jnp.asarray([1.0, 2.0, 2.0])
    state, metrics = jax.jit(make_update(quadratic, optimizer))(state, target, KEY)
    np.testing.assert_allclose(state.params["w"], 0.2 * target, rtol=1e-6)
    assert int(state.step) == 1
    assert sorted(metrics) == ["first", "gradient_norm", "loss", "skipped"]
    np.testing.assert_allclose(metrics["loss"], 9.0, rtol=1e-6)
    np.testing.assert_allclose(metrics["gradient_norm"], 6.0, rtol=1e-6)
    assert int(metrics["skipped"]) == 0


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, 1e30], ids=["nan", "inf", "overflowing_square"])
def test_update_that_would_damage_the_state_is_skipped(bad):
    optimizer = optax.adam(0.1)
    update = jax.jit(make_update(quadratic, optimizer))
    state = create_state({"w": jnp.zeros(3)}, optimizer)
    state, _ = update(state, jnp.ones(3), KEY)
    after, metrics = update(state, jnp.asarray([1.0, bad, 1.0]), KEY)
    assert int(metrics["skipped"]) == 1
    assert int(after.step) == 2
    for kept, before in zip(jax.tree.leaves(after[1:]), jax.tree.leaves(state[1:]), strict=True):
        np.testing.assert_array_equal(kept, before)
    recovered, metrics = update(after, jnp.ones(3), KEY)
    assert int(metrics["skipped"]) == 0
    assert np.all(np.asarray(recovered.params["w"]) > np.asarray(state.params["w"]))


def test_nan_that_is_hidden_from_the_gradient_is_skipped():
    def hidden(params, batch, key):
        return jnp.where(batch > 0, jnp.nan, params["w"]).sum(), {}

    update = make_update(hidden, optax.sgd(0.1))
    _, metrics = update(create_state({"w": jnp.zeros(2)}, optax.sgd(0.1)), jnp.ones(2), KEY)
    assert (float(metrics["gradient_norm"]), int(metrics["skipped"])) == (0.0, 1)


def test_infinity_that_the_optimiser_itself_keeps_is_no_damage():
    optimizer = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau())  # best value: inf
    state = create_state({"w": jnp.zeros(3)}, optimizer)
    _, metrics = make_update(quadratic, optimizer)(state, jnp.ones(3), KEY)
    assert int(metrics["skipped"]) == 0


def test_project_holds_after_every_update():
    optimizer = optax.sgd(10.0)
    update = make_update(
        quadratic, optimizer, project=lambda p: jax.tree.map(lambda x: jnp.clip(x, 0, 1), p)
    )
    state, _ = update(create_state({"w": jnp.zeros(2)}, optimizer), jnp.asarray([3.0, -3.0]), KEY)
    np.testing.assert_array_equal(state.params["w"], [1.0, 0.0])


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda p, b, k: jnp.sum(p["w"]), "must return"),
        (lambda p, b, k: (p["w"], {}), "must return one real scalar"),
        (lambda p, b, k: (jnp.sum(p["w"]), {"loss": 0.0}), "are taken"),
        (lambda p, b, k: (jnp.sum(p["w"]), {"all": p["w"]}), "must be a scalar"),
    ],
)
def test_wrong_losses_are_named(loss, message):
    state = create_state({"w": jnp.zeros(2)}, optax.sgd(0.1))
    with pytest.raises(ValueError, match=f"`loss`: .*{message}"):
        make_update(loss, optax.sgd(0.1))(state, None, KEY)


def test_global_norm():
    tree = {"a": jnp.asarray([3e30, 0.0], jnp.float32), "b": (jnp.asarray(4e30), jnp.zeros((0,)))}
    np.testing.assert_allclose(global_norm(tree), 5e30, rtol=1e-6)  # the squares overflow
    assert float(global_norm({"a": jnp.zeros(2)})) == 0.0
    assert float(global_norm({})) == 0.0
    assert np.isnan(global_norm([jnp.asarray(jnp.nan), jnp.asarray(1.0)]))
    assert np.isinf(global_norm([jnp.asarray(jnp.inf), jnp.asarray(1.0)]))


def test_state_has_no_weak_types():
    state = create_state({"w": 1.0}, optax.adam(0.1))
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state))
