"""`unrolled_solve` against plain automatic differentiation of the same steps."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv import unrolled_solve
from tests.helpers import assert_close, assert_grad_matches, flat


def step(state, theta, design, order):
    """A recurrent descent step; the state holds an integer that it must not lose."""
    residual = design @ state["x"] - theta["target"]
    hidden = jnp.tanh(theta["mix"] @ state["hidden"] + design.T @ residual)[order]
    return {
        "x": state["x"] - theta["rate"] * hidden * jnp.cos(state["x"]),
        "hidden": hidden,
        "count": state["count"] + 1,
    }


def setting():
    rng = np.random.default_rng(2)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape))
    state0 = {"x": draw(5), "hidden": draw(5), "count": jnp.int32(0)}
    theta = {"target": draw(7), "mix": 0.4 * draw(5, 5), "rate": jnp.asarray(0.2)}
    return state0, theta, (draw(7, 5), jnp.asarray(rng.permutation(5)))


def plain(state0, theta, data, num_steps, cut=0, stop=None):
    """The same by a Python loop: constants before step `cut`, frozen once `stop` holds."""
    states, state, done = [], state0, jnp.asarray(False)
    for t in range(num_steps):
        if t < cut:
            new = jax.tree.map(
                jax.lax.stop_gradient, step(state, jax.lax.stop_gradient(theta), *data)
            )
        else:
            new = step(state, theta, *data)
        frozen = done
        new = jax.tree.map(lambda a, b: jnp.where(frozen, a, b), state, new)  # noqa: B023
        if stop is not None:
            done = done | stop(state, new)
        state = new
        states.append(state)
    return jax.tree.map(lambda *each: jnp.stack(each), *states)


def outer(states):
    weights = jnp.arange(1.0, states["x"].shape[0] + 1)[:, None]
    last = states["hidden"][-1]
    return jnp.sum(jnp.sin(states["x"]) * weights) + jnp.sum(last**2) + states["count"][-1]


def with_floats(state0):
    floating = {k: v for k, v in state0.items() if k != "count"}
    return floating, lambda floating: {**floating, "count": state0["count"]}


@pytest.mark.parametrize("num_steps", [1, 2, 15])
@pytest.mark.parametrize("truncation", [None, 1, 4])
def test_equals_plain_differentiation(num_steps, truncation):
    with jax.enable_x64(True):
        state0, theta, data = setting()
        floating, full = with_floats(state0)
        cut = 0 if truncation is None else max(num_steps - truncation, 0)
        ours = lambda s, t: outer(
            unrolled_solve(step, full(s), t, data, num_steps=num_steps, truncation=truncation)
        )
        # Truncation leaves the early states out: their own terms of the loss are constants.
        theirs = lambda s, t: outer(plain(full(s), t, data, num_steps, cut))
        value, gradient = jax.jit(jax.value_and_grad(ours, (0, 1)))(floating, theta)
        want, want_gradient = jax.jit(jax.value_and_grad(theirs, (0, 1)))(floating, theta)
        assert_close(value, want, 1e-13)
        if cut:
            assert np.all(flat(gradient[0]) == 0)
        assert_close(gradient, want_gradient, 1e-12)


@pytest.mark.slow
def test_early_stop_freezes_the_state_and_its_gradient():
    with jax.enable_x64(True):
        state0, theta, data = setting()
        theta = {**theta, "rate": jnp.asarray(0.5)}
        floating, full = with_floats(state0)
        for threshold, truncation in ((0.05, None), (0.05, 3), (1e9, None)):
            stop = lambda old, new: jnp.linalg.norm(new["x"] - old["x"]) < threshold  # noqa: B023
            run = functools.partial(
                unrolled_solve, step, num_steps=14, truncation=truncation, stop=stop
            )
            states = run(state0, theta, data)
            reference = plain(state0, theta, data, 14, stop=stop)
            assert_close(states, reference, 1e-13)
            taken = int(states["count"][-1])
            assert taken == {0.05: 11, 1e9: 1}[threshold]
            cut = 0 if truncation is None else taken - truncation
            ours = lambda s, t: outer(run(full(s), t, data))  # noqa: B023
            theirs = lambda s, t: outer(plain(full(s), t, data, 14, cut, stop))  # noqa: B023
            got = jax.jit(jax.grad(ours, (0, 1)))(floating, theta)
            assert_close(got, jax.jit(jax.grad(theirs, (0, 1)))(floating, theta), 1e-12)


def test_gradient_and_second_derivatives_against_differences():
    with jax.enable_x64(True):
        state0, theta, data = setting()
        loss = lambda t: outer(unrolled_solve(step, state0, t, data, num_steps=6))
        assert_grad_matches(loss, theta, jax.random.key(0))
        slope = lambda rate: jax.grad(loss)({**theta, "rate": rate})["mix"].ravel()
        twice = jax.jit(jax.jacrev(slope))(theta["rate"])
        assert_grad_matches(slope, theta["rate"], jax.random.key(0), gradient=twice)


@pytest.mark.slow
def test_transforms_agree_and_closures_are_differentiated():
    with jax.enable_x64(True):
        state0, theta, data = setting()
        starts = jnp.stack([state0["x"] + 0.1 * i for i in range(4)])
        stop = lambda old, new: jnp.linalg.norm(new["x"] - old["x"]) < 0.1

        def loss(theta, x, rate=None):
            taken = {**theta, "rate": rate} if rate is not None else theta

            def closed(state, t, *rest):  # rate and theta may be tracers of an outer transform
                return step(state, {**t, "rate": taken["rate"]}, *rest)

            begin = {**state0, "x": x}
            return outer(unrolled_solve(closed, begin, theta, data, num_steps=9, stop=stop))

        single = [jax.grad(loss)(theta, x) for x in starts]
        want = jax.tree.map(lambda *each: jnp.stack(each), *single)
        batched = jax.vmap(jax.grad(loss), (None, 0))
        assert_close(batched(theta, starts), want, 1e-12)
        assert_close(jax.jit(batched)(theta, starts), want, 1e-12)
        total = lambda theta: jnp.sum(jax.vmap(loss, (None, 0))(theta, starts))
        assert_close(jax.grad(total)(theta), jax.tree.map(lambda x: x.sum(0), want), 1e-12)
        by_rate = jax.grad(lambda rate: loss(theta, starts[0], rate))(theta["rate"])
        assert_close(by_rate, single[0]["rate"], 1e-12)


def test_bad_lane_leaves_the_shared_gradient_alone():
    with jax.enable_x64(True):
        state0, theta, (design, order) = setting()
        designs = jnp.stack([design, design.at[0, 0].set(jnp.nan), 2 * design])

        def total(theta, designs):
            def one(design):
                x = unrolled_solve(step, state0, theta, (design, order), num_steps=5)["x"]
                return jnp.sum(jnp.where(jnp.all(jnp.isfinite(x)), x, 0))

            return jnp.sum(jax.vmap(one)(designs))

        good = jnp.array([0, 2])
        assert_close(jax.grad(total)(theta, designs), jax.grad(total)(theta, designs[good]), 1e-13)


def temp_bytes(function, *args):
    return jax.jit(jax.grad(function)).lower(*args).compile().memory_analysis().temp_size_in_bytes


def test_memory_is_that_of_the_states():
    # 45 steps with wide intermediates: plain reverse mode keeps all of them.
    widen = jnp.asarray(np.random.default_rng(0).normal(size=(2048, 64)), jnp.float32) / 45

    def wide(x, theta):
        return x - 0.1 * jnp.tanh(jnp.sin(widen @ x) * theta) @ widen

    x0, theta = jnp.ones(64), jnp.ones(2048)
    for num_steps in (5, 15, 45):
        ours = lambda t: jnp.sum(unrolled_solve(wide, x0, t, num_steps=num_steps)[-1])  # noqa: B023
        scan = lambda t: jnp.sum(
            jax.lax.scan(lambda x, _: (wide(x, t), None), x0, length=num_steps)[0]  # noqa: B023
        )
        states = 4 * 64 * num_steps
        fixed = temp_bytes(lambda t: jnp.sum(wide(x0, t)), theta)
        assert temp_bytes(ours, theta) <= 3 * states + 4 * fixed + 65536
        if num_steps == 45:
            assert temp_bytes(ours, theta) <= 0.2 * temp_bytes(scan, theta)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_steps": 0}, "`num_steps`: expected an integer >= 1"),
        ({"num_steps": 2.0}, "`num_steps`: expected an integer >= 1"),
        ({"truncation": 0}, "`truncation`: expected an integer >= 1"),
        ({"theta": {"rate": 1}}, "`theta['rate']`: expected a floating-point"),
        ({"data": [1]}, "`data`: expected a tuple"),
        ({"step": lambda s, t: s[:1]}, "`step`: must return a state like state0"),
        ({"step": lambda s, t: (s, s)}, "`step`: must return a state like state0"),
        ({"step": lambda s, t: s.astype(jnp.bfloat16)}, "`step`: must return a state like state0"),
        ({"stop": lambda old, new: new - old}, "`stop`: must return one bool"),
    ],
)
def test_bad_input(change, message):
    call = {
        "step": lambda s, t: s * t["rate"],
        "state0": jnp.ones(2),
        "theta": {"rate": jnp.ones(())},
        "num_steps": 3,
    } | change
    with pytest.raises(ValueError, match=re.escape(message)):
        unrolled_solve(call.pop("step"), call.pop("state0"), call.pop("theta"), **call)
