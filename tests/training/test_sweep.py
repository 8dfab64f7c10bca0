import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcv.training import Sweep, check_trials

POINTS = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)


def init(key, trial):
    return {"w": jax.random.normal(key, (3,)), "b": jnp.zeros(())}


def loss(params, batch, key, trial):
    x, y = batch[:, :3], batch[:, 3]
    noise = 0.1 * jax.random.normal(key, y.shape)
    error = jnp.tanh(x @ params["w"] + params["b"]) - y + noise
    error = jnp.sqrt(trial["weight"]) * error  # a negative weight makes a broken trial
    return jnp.mean(error**2), {"worst": jnp.max(jnp.abs(error))}


def make(**changes):
    return Sweep(init, loss, optax.adam, **changes)


def train(sweep, trials, steps=6, batch=POINTS, **options):
    return sweep.run(sweep.init(trials), trials, batch, length=steps, **options)


TRIALS = {
    "seed": np.asarray([0, 1, 1]),
    "learning_rate": np.asarray([0.1, 0.1, 0.02]),
    "weight": np.asarray([1.0, 2.0, 1.0]),
}


def trial(k):
    return {name: values[k : k + 1] for name, values in TRIALS.items()}


def test_trial_equals_its_own_run():
    sweep = make()
    state, metrics = train(sweep, TRIALS)
    assert metrics["loss"].shape == (6, 3)
    assert int(state.step) == 6
    for k in range(3):
        alone, alone_metrics = train(sweep, trial(k))
        for together, single in zip(
            jax.tree.leaves(state.params), jax.tree.leaves(alone.params), strict=True
        ):
            np.testing.assert_allclose(together[k : k + 1], single, rtol=2e-5, atol=1e-6)
        for name, values in metrics.items():
            np.testing.assert_allclose(
                values[:, k : k + 1], alone_metrics[name], rtol=2e-5, atol=1e-6
            )


def test_broken_trial_leaves_the_others_bit_identical():
    sweep = make()
    broken = TRIALS | {"weight": np.asarray([1.0, -1.0, 1.0])}
    sound_state, _ = train(sweep, TRIALS)
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
    whole, _ = train(sweep, TRIALS, steps=4)
    state = sweep.init(TRIALS)
    for length in (1, 3):
        stacked = np.stack([POINTS] * length)
        state, metrics = sweep.run(state, TRIALS, stacked, length=length, stacked=True)
        assert metrics["loss"].shape == (length, 3)
    for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6)


def test_random_numbers_depend_on_seed_and_step_only():
    def noise(params, batch, key, trial):
        return 0.0 * params, {"noise": jax.random.normal(key)}

    sweep = Sweep(lambda key, trial: jax.random.normal(key), noise, optax.sgd)
    trials = {"seed": np.asarray([5, 6, 5]), "learning_rate": np.asarray([1.0, 1.0, 2.0])}
    state, metrics = sweep.run(sweep.init(trials), trials, None, length=3)
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
    train(sweep, TRIALS)
    before = len(traces)
    assert before == 1
    train(sweep, TRIALS | {"learning_rate": np.asarray([1.0, 2.0, 3.0])})
    state, _ = train(sweep, TRIALS | {"seed": np.asarray([7, 8, 9])})
    # Neither does going on from an earlier state, nor from the host's copy of one.
    state, _ = sweep.run(state, TRIALS, POINTS, length=6)
    sweep.run(jax.device_put(jax.tree.map(np.array, state)), TRIALS, POINTS, length=6)
    assert len(traces) == before


def test_several_hyperparameters_and_none():
    def optimizer(learning_rate, decay):
        return optax.adamw(learning_rate, weight_decay=decay)

    trials = TRIALS | {"decay": np.asarray([0.0, 0.1, 0.5])}
    sweep = Sweep(init, loss, optimizer, hyperparameters=("learning_rate", "decay"))
    assert np.all(np.isfinite(train(sweep, trials)[1]["loss"]))
    fixed = Sweep(init, loss, lambda: optax.sgd(0.1), hyperparameters=())
    assert np.all(np.isfinite(train(fixed, TRIALS)[1]["loss"]))


def test_optimiser_whose_state_is_the_params():
    # The same buffer twice in a donated state would be an error.
    keep = optax.GradientTransformation(lambda p: p, lambda g, s, p=None: (g, p))
    sweep = Sweep(init, loss, lambda learning_rate: optax.chain(keep, optax.sgd(learning_rate)))
    state, _ = train(sweep, TRIALS, steps=1)
    sweep.run(state, TRIALS, POINTS, length=2)


def test_validate_sees_one_trial():
    def validate(params, data, trial):
        return {"size": jnp.sum(params["w"] ** 2) * trial["weight"] + data}

    sweep = make(validate=validate)
    state = sweep.init(TRIALS)
    values = sweep.validate(state.params, 1.0, TRIALS)["size"]
    want = np.sum(np.asarray(state.params["w"]) ** 2, axis=1) * TRIALS["weight"] + 1
    np.testing.assert_allclose(values, want, rtol=1e-5)


def test_single_trial_keeps_cond_a_branch():
    def branching(params, batch, key, trial):
        return jax.lax.cond(params > 1e9, lambda p: p**3, lambda p: p**2, params), {}

    sweep = Sweep(lambda key, trial: jnp.ones(()), branching, optax.sgd)
    trials = {"seed": np.asarray([0]), "learning_rate": np.asarray([0.1])}
    lowered = sweep._advance.lower(sweep.init(trials), sweep._trials(trials), None, 1, False)
    assert "stablehlo.case" in lowered.as_text() or "stablehlo.if" in lowered.as_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": np.ones(2)}, "expected vectors of one length"),
        ({"weight": np.ones((3, 1))}, r"`trials\['weight'\]`: expected a vector"),
        ({"weight": np.asarray(["a", "b", "c"])}, "Number the choices instead"),
        ({"weight": np.ones(0)}, "expected a vector of numbers"),
        ({"seed": np.asarray([0.5, 1, 2])}, "expected integers from 0"),
        ({"seed": np.asarray([-1, 1, 2])}, "expected integers from 0"),
    ],
)
def test_wrong_trials_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        check_trials(TRIALS | changes)


def test_missing_hyperparameter_is_named():
    with pytest.raises(ValueError, match=r"`trials`: .*\['learning_rate'\].*take it out"):
        make().init({"seed": np.asarray([0]), "weight": np.ones(1)})
    with pytest.raises(ValueError, match="expected the entry 'seed'"):
        make().init({"learning_rate": np.ones(1)})


def test_a_training_goes_on_from_another():
    trials = {"seed": np.arange(2), "learning_rate": np.array([0.1, 0.2])}
    before = {"w": jnp.arange(6.0).reshape(2, 3)}
    sweep = Sweep(
        lambda key, trial, before: {"w": before["w"] + trial["learning_rate"], "new": 0.0},
        lambda params, batch, key, trial: (jnp.sum(params["w"] ** 2) + params["new"], {}),
        optax.sgd,
    )
    state = sweep.init(trials, before)
    want = before["w"] + trials["learning_rate"][:, None]
    np.testing.assert_allclose(state.params["w"], want, rtol=1e-6)
    shapes = sweep.shapes(trials, before)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, shapes)
