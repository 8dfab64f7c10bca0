"""Plateau: what the recipe does, step by step, and for trials apart from each other."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcv import training

KEYS = ("scale", "returned", "waited", "stopped")


def started(plateau, value=0.0):
    optimizer = plateau.wrap(optax.sgd(0.5, momentum=0.5))
    return training.create_state({"x": jnp.asarray(value)}, optimizer), optimizer


def advanced(state, optimizer, gradient=1.0):
    gradient = {"x": jnp.asarray(gradient)}
    updates, own = optimizer.update(gradient, state.optimizer_state, state.params)
    return state._replace(
        step=state.step + 1, params=optax.apply_updates(state.params, updates), optimizer_state=own
    )


def test_goes_back_to_the_best_with_half_the_step():
    plateau = training.Plateau("error", patience=2, returns=1)
    state, optimizer = started(plateau)
    state = plateau.observe(advanced(state, optimizer), 1.0)
    best, momentum = state.params["x"], state.optimizer_state.inner[0].trace["x"]
    for value in (2.0, np.nan):
        assert state.optimizer_state.scale == 1
        state = plateau.observe(advanced(state, optimizer), value)
    own = state.optimizer_state
    assert (own.scale, own.returned, own.waited, bool(own.stopped)) == (0.5, 1, 0, False)
    assert state.params["x"] == best
    assert own.inner[0].trace["x"] == momentum
    after = advanced(state, optimizer)
    # sgd: m <- g + mu m, x <- x - lr m, here half of it
    np.testing.assert_allclose(after.params["x"], best - 0.5 * 0.5 * (1 + 0.5 * momentum))
    for value in (1.0, 1.5):
        after = plateau.observe(advanced(after, optimizer), value)
    assert after.optimizer_state.stopped
    assert after.params["x"] == best
    still = plateau.observe(advanced(after, optimizer), 0.0)
    assert still.params["x"] == best
    assert still.optimizer_state.best == 1


def test_threshold_is_a_share_of_the_best():
    plateau = training.Plateau("error", threshold=0.1)
    state, _ = started(plateau)
    state = plateau.observe(state, 10.0)
    assert plateau.observe(state, 9.5).optimizer_state.best == 10
    assert plateau.observe(state, 8.9).optimizer_state.best == np.float32(8.9)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 10, width=32) | st.just(float("nan")), min_size=1, max_size=25))
@pytest.mark.slow
def test_the_best_is_the_least_seen_before_it_stood_still(values):
    plateau = training.Plateau("error", patience=2, returns=2)
    state, _optimizer = started(plateau)
    observe = jax.jit(plateau.observe)
    seen, places = [], []
    for k, value in enumerate(values):
        state = state._replace(params={"x": jnp.asarray(float(k))})
        if not state.optimizer_state.stopped:
            seen.append(value)
            places.append(k)
        state = observe(state, jnp.asarray(value))
    finite = np.where(np.isnan(seen), np.inf, seen)
    assert state.optimizer_state.best == finite.min()
    if np.isfinite(finite.min()):
        assert state.optimizer_state.best_params["x"] == places[int(finite.argmin())]


def problem(plateau, sequential):
    return training.Sweep(
        lambda key, trial: {"x": jax.random.normal(key, (3,))},
        lambda params, batch, key, trial: (jnp.sum((params["x"] - batch) ** 2), {}),
        lambda learning_rate: optax.sgd(learning_rate, momentum=0.9),
        validate=lambda params, data, trial: {"error": jnp.sum((params["x"] - data) ** 2)},
        plateau=plateau,
        sequential=sequential,
    )


@pytest.mark.parametrize("sequential", [False, True])
def test_a_trial_equals_the_training_of_it_alone(sequential):
    plateau = training.Plateau("error", patience=1, returns=20)
    trials = {"seed": np.array([0, 1, 2]), "learning_rate": np.array([0.02, 0.3, 30.0])}
    runs = []
    for rows in (slice(0, 3), slice(1, 2)):
        own = {name: values[rows] for name, values in trials.items()}
        sweep = problem(plateau, sequential)
        whole = sweep.init(own)
        for _ in range(8):
            state = sweep.unpacked(whole)
            for _ in range(3):
                state, metrics = sweep.run(state, own, jnp.ones(3), length=1)
            assert metrics["loss"].shape == (1, len(own["seed"]))
            whole = sweep.packed(state)
            whole = sweep.observe(whole, sweep.validate(whole.params, jnp.ones(3), own))
        runs.append((sweep.result(whole)["x"], whole.optimizer_state))
    (many, of_many), (alone, of_one) = runs
    np.testing.assert_allclose(many[1:2], alone, rtol=2e-6, atol=1e-7)
    for name in KEYS:
        assert getattr(of_many, name)[1] == getattr(of_one, name)[0]
    assert of_many.returned[2] > of_many.returned[0]  # the rate of 30 diverges
    assert np.isfinite(many).all()


def test_stopped_when_all_stand_still():
    sweep = problem(training.Plateau("error", patience=1, returns=0), sequential=True)
    trials = {"seed": np.array([0, 1]), "learning_rate": np.array([0.1, 0.1])}
    whole = sweep.init(trials)
    whole = sweep.observe(whole, {"error": np.array([1.0, 1.0])})
    whole = sweep.observe(whole, {"error": np.array([2.0, 0.5])})
    assert not sweep.stopped(whole)
    whole = sweep.observe(whole, {"error": np.array([0.1, 0.6])})
    assert sweep.stopped(whole)
    np.testing.assert_array_equal(whole.optimizer_state.best, [1, 0.5])


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="patience"):
        training.Plateau("error", patience=0)
    with pytest.raises(ValueError, match="factor"):
        training.Plateau("error", factor=1.0)
    sweep = problem(training.Plateau("other"), sequential=False)
    trials = {"seed": np.array([0]), "learning_rate": np.array([0.1])}
    with pytest.raises(ValueError, match=r"plateau\.metric.*'other'.*\['error'\]"):
        sweep.observe(sweep.init(trials), {"error": np.array([1.0])})
