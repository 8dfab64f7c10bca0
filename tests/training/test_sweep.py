import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcv.training import Sweep, check_members

POINTS = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)


def init(key, member):
    return {"w": jax.random.normal(key, (3,)), "b": jnp.zeros(())}


def loss(params, batch, key, member):
    x, y = batch[:, :3], batch[:, 3]
    noise = 0.1 * jax.random.normal(key, y.shape)
    error = jnp.tanh(x @ params["w"] + params["b"]) - y + noise
    error = jnp.sqrt(member["weight"]) * error  # a negative weight makes a broken member
    return jnp.mean(error**2), {"worst": jnp.max(jnp.abs(error))}


def make(**changes):
    return Sweep(init, loss, optax.adam, **changes)


def train(sweep, members, steps=6, batch=POINTS, **options):
    return sweep.run(sweep.init(members), members, batch, length=steps, **options)


MEMBERS = {
    "seed": np.asarray([0, 1, 1]),
    "learning_rate": np.asarray([0.1, 0.1, 0.02]),
    "weight": np.asarray([1.0, 2.0, 1.0]),
}


def member(k):
    return {name: values[k : k + 1] for name, values in MEMBERS.items()}


def test_member_equals_its_own_run():
    sweep = make()
    state, metrics = train(sweep, MEMBERS)
    assert metrics["loss"].shape == (6, 3)
    assert int(state.step) == 6
    for k in range(3):
        alone, alone_metrics = train(sweep, member(k))
        for together, single in zip(
            jax.tree.leaves(state.params), jax.tree.leaves(alone.params), strict=True
        ):
            np.testing.assert_allclose(together[k : k + 1], single, rtol=2e-5, atol=1e-6)
        for name, values in metrics.items():
            np.testing.assert_allclose(
                values[:, k : k + 1], alone_metrics[name], rtol=2e-5, atol=1e-6
            )


def test_broken_member_leaves_the_others_bit_identical():
    sweep = make()
    broken = MEMBERS | {"weight": np.asarray([1.0, -1.0, 1.0])}
    sound_state, _ = train(sweep, MEMBERS)
    initial = sweep.init(broken)
    first = jax.tree.map(np.array, initial.params)
    state, metrics = sweep.run(initial, broken, POINTS, length=6)
    for x, y, z in zip(
        jax.tree.leaves(state.params),
        jax.tree.leaves(sound_state.params),
        jax.tree.leaves(first),
        strict=True,
    ):
        np.testing.assert_array_equal(x[np.asarray([0, 2])], y[np.asarray([0, 2])])
        np.testing.assert_array_equal(x[1], z[1])
    np.testing.assert_array_equal(np.sum(metrics["skipped"], axis=0), [0, 6, 0])


def test_chunks_and_stacked_batches_do_not_change_the_numbers():
    sweep = make()
    whole, _ = train(sweep, MEMBERS, steps=4)
    state = sweep.init(MEMBERS)
    for length in (1, 3):
        stacked = np.stack([POINTS] * length)
        state, metrics = sweep.run(state, MEMBERS, stacked, length=length, stacked=True)
        assert metrics["loss"].shape == (length, 3)
    for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6)


def test_random_numbers_depend_on_seed_and_step_only():
    def noise(params, batch, key, member):
        return 0.0 * params, {"noise": jax.random.normal(key)}

    sweep = Sweep(lambda key, member: jax.random.normal(key), noise, optax.sgd)
    members = {"seed": np.asarray([5, 6, 5]), "learning_rate": np.asarray([1.0, 1.0, 2.0])}
    state, metrics = sweep.run(sweep.init(members), members, None, length=3)
    drawn = np.asarray(metrics["noise"])
    np.testing.assert_array_equal(drawn[:, 0], drawn[:, 2])
    assert len(np.unique(drawn)) == 6
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(6), 1), 2)
    np.testing.assert_allclose(drawn[2, 1], jax.random.normal(key), rtol=1e-6)
    np.testing.assert_allclose(
        state.params[0], jax.random.normal(jax.random.fold_in(jax.random.key(5), 0)), rtol=1e-6
    )


def test_other_hyperparameters_compile_nothing():
    traces = []

    def counted(*arguments):
        traces.append(1)
        return loss(*arguments)

    sweep = Sweep(init, counted, optax.adam)
    train(sweep, MEMBERS)
    before = len(traces)
    assert before == 1
    train(sweep, MEMBERS | {"learning_rate": np.asarray([1.0, 2.0, 3.0])})
    state, _ = train(sweep, MEMBERS | {"seed": np.asarray([7, 8, 9])})
    # Neither does going on from an earlier state, nor from the host's copy of one.
    state, _ = sweep.run(state, MEMBERS, POINTS, length=6)
    sweep.run(jax.device_put(jax.tree.map(np.array, state)), MEMBERS, POINTS, length=6)
    assert len(traces) == before


def test_several_hyperparameters_and_none():
    def optimizer(learning_rate, decay):
        return optax.adamw(learning_rate, weight_decay=decay)

    members = MEMBERS | {"decay": np.asarray([0.0, 0.1, 0.5])}
    sweep = Sweep(init, loss, optimizer, hyperparameters=("learning_rate", "decay"))
    assert np.all(np.isfinite(train(sweep, members)[1]["loss"]))
    fixed = Sweep(init, loss, lambda: optax.sgd(0.1), hyperparameters=())
    assert np.all(np.isfinite(train(fixed, MEMBERS)[1]["loss"]))


def test_optimiser_whose_state_is_the_params():
    # The same buffer twice in a donated state would be an error.
    keep = optax.GradientTransformation(lambda p: p, lambda g, s, p=None: (g, p))
    sweep = Sweep(init, loss, lambda learning_rate: optax.chain(keep, optax.sgd(learning_rate)))
    state, _ = train(sweep, MEMBERS, steps=1)
    sweep.run(state, MEMBERS, POINTS, length=2)


def test_validate_sees_one_member():
    def validate(params, data, member):
        return {"size": jnp.sum(params["w"] ** 2) * member["weight"] + data}

    sweep = make(validate=validate)
    state = sweep.init(MEMBERS)
    values = sweep.validate(state.params, 1.0, MEMBERS)["size"]
    want = np.sum(np.asarray(state.params["w"]) ** 2, axis=1) * MEMBERS["weight"] + 1
    np.testing.assert_allclose(values, want, rtol=1e-5)


def test_single_member_keeps_cond_a_branch():
    def branching(params, batch, key, member):
        return jax.lax.cond(params > 1e9, lambda p: p**3, lambda p: p**2, params), {}

    sweep = Sweep(lambda key, member: jnp.ones(()), branching, optax.sgd)
    members = {"seed": np.asarray([0]), "learning_rate": np.asarray([0.1])}
    lowered = sweep._advance.lower(sweep.init(members), sweep._members(members), None, 1, False)
    assert "stablehlo.case" in lowered.as_text() or "stablehlo.if" in lowered.as_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": np.ones(2)}, "expected vectors of one length"),
        ({"weight": np.ones((3, 1))}, r"`members\['weight'\]`: expected a vector"),
        ({"weight": np.asarray(["a", "b", "c"])}, "Number the choices instead"),
        ({"weight": np.ones(0)}, "expected a vector of numbers"),
        ({"seed": np.asarray([0.5, 1, 2])}, "expected integers from 0"),
        ({"seed": np.asarray([-1, 1, 2])}, "expected integers from 0"),
    ],
)
def test_wrong_members_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        check_members(MEMBERS | changes)


def test_missing_hyperparameter_is_named():
    with pytest.raises(ValueError, match=r"`members`: .*\['learning_rate'\].*take it out"):
        make().init({"seed": np.asarray([0]), "weight": np.ones(1)})
    with pytest.raises(ValueError, match="expected the entry 'seed'"):
        make().init({"learning_rate": np.ones(1)})


def test_a_training_goes_on_from_another():
    members = {"seed": np.arange(2), "learning_rate": np.array([0.1, 0.2])}
    before = {"w": jnp.arange(6.0).reshape(2, 3)}
    sweep = Sweep(
        lambda key, member, before: {"w": before["w"] + member["learning_rate"], "new": 0.0},
        lambda params, batch, key, member: (jnp.sum(params["w"] ** 2) + params["new"], {}),
        optax.sgd,
    )
    state = sweep.init(members, before)
    want = before["w"] + members["learning_rate"][:, None]
    np.testing.assert_allclose(state.params["w"], want, rtol=1e-6)
    shapes = sweep.shapes(members, before)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, shapes)
