"""Levenberg-Marquardt, a trial at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.solvers.marquardt import MarquardtRule, MarquardtState, damped_step_2x2, marquardt_step


def state(y, damping=1e-2):
    return MarquardtState(jnp.asarray(y), jnp.asarray(damping), jnp.asarray(True))


def test_linear_problem_follows_the_closed_form():
    h, goal, rule = jnp.array([2.0, 5.0]), jnp.array([1.0, -3.0]), MarquardtRule()
    energy = lambda y: 0.5 * jnp.sum(h * (y - goal) ** 2)
    propose = lambda y, damping: y - (y - goal) / (1 + damping)
    change = lambda a, b: energy(b) - energy(a)
    now, damping = state(jnp.zeros(2)), 1e-2
    away = jnp.ones(())
    for _ in range(3):
        now = marquardt_step(now, propose, change, rule)
        away, damping = away * damping / (1 + damping), damping / 10
        np.testing.assert_allclose(now.y, goal * (1 - away), rtol=1e-6)
        np.testing.assert_allclose(now.damping, damping, rtol=1e-6)
        assert now.accepted


@pytest.mark.parametrize("worse", [jnp.nan, jnp.inf, 1.0, 0.0])
def test_a_trial_that_is_not_lower_is_refused(worse):
    rule = MarquardtRule(increase=4.0)
    after = marquardt_step(
        state([1.0]), lambda y, _: y * jnp.nan, lambda a, b: jnp.asarray(worse), rule
    )
    np.testing.assert_array_equal(after.y, [1.0])
    assert not after.accepted
    np.testing.assert_allclose(after.damping, 4e-2, rtol=1e-6)


def test_damping_keeps_its_range_under_vmap():
    rule = MarquardtRule(minimum=1e-3, maximum=1.0)
    steps = jax.vmap(lambda change: marquardt_step(
        state(0.0, 0.5), lambda y, _: y + 1, lambda a, b: change, rule
    ))(jnp.array([-1.0, 1.0]))  # fmt: skip
    np.testing.assert_allclose(steps.damping, [0.05, 1.0], rtol=1e-6)
    np.testing.assert_array_equal(steps.y, [1.0, 0.0])


def test_damped_step_solves_its_system():
    with jax.enable_x64(True):
        rows = jax.random.normal(jax.random.key(0), (2, 5))
        h, g = rows @ rows.T, jnp.array([0.3, -2.0])
        want = np.linalg.solve(h + 0.7 * jnp.diag(jnp.diag(h)) + 0.1 * jnp.eye(2), -g)
        np.testing.assert_allclose(damped_step_2x2(h, g, 0.7, 0.1), want, rtol=1e-12)
