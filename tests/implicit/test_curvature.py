"""The Hessian at a minimum and its covariance, and what an energy returns besides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv import Damping, argmin
from jaxcv.implicit.curvature import curvature
from tests.helpers import (
    UNDAMPED,
    assert_close,
    assert_grad_matches,
    mixture_energy,
    mostly_slow,
    problem,
)


@pytest.mark.parametrize("name", mostly_slow(["rbf", "valley", "tree"], ("tree",)))
def test_covariance_is_the_inverse_hessian(name):
    with jax.enable_x64(True):
        energy, y0, theta, data = problem(name)
        y = jax.jit(lambda theta: argmin(energy, y0, theta, data).value)(theta)
        point, unravel = jax.flatten_util.ravel_pytree(y)
        want = jax.jit(jax.hessian(lambda p: energy(unravel(p), theta, *data)))(point)
        found = jax.jit(lambda y: curvature(energy, y, theta, data))(y)
        assert_close(found.hessian, want, 1e-12)
        assert_close(found.covariance @ want, np.eye(point.size), 1e-9)
        assert_close(found.factor @ found.factor.T, want, 1e-12)
        assert found.shift == 0
        damped = jax.jit(lambda y: curvature(energy, y, theta, data, damping=Damping(0.7)))(y)
        shifted = np.asarray(want) + 0.7 * np.eye(point.size)
        assert_close(damped.covariance, np.linalg.inv(shifted), 1e-9)


def test_a_saddle_is_shifted_and_batches_agree():
    saddle = lambda y, t: t * (y[0] ** 2 - y[1] ** 2)
    one = curvature(saddle, jnp.zeros(2), 1.5, damping=Damping(0.1))
    np.testing.assert_allclose(one.shift, 3, rtol=1e-6)
    np.testing.assert_allclose(one.covariance, np.diag([1 / 6.1, 10]), rtol=1e-4)
    many = jax.vmap(lambda t: curvature(saddle, jnp.zeros(2), t, damping=Damping(0.1)))
    np.testing.assert_allclose(many(jnp.array([1.0, 1.5])).hessian[1], one.hessian)
    with pytest.raises(ValueError, match=r"`damping.mode`: expected 'shift'"):
        curvature(saddle, jnp.zeros(2), 1.0, damping=UNDAMPED)


def with_terms(y, theta, points):
    terms = jnp.exp(-jnp.sum((y - points) ** 2, axis=-1))
    return mixture_energy(y, theta, points), {"responsibility": terms, "count": points.shape[0]}


@pytest.mark.slow
def test_aux_is_taken_at_the_minimum_and_differentiated_through_it():
    with jax.enable_x64(True):
        _, y0, theta, data = problem("mixture")

        def solve(theta):
            return argmin(with_terms, y0, theta, data, damping=UNDAMPED, has_aux=True)

        solution = solve(theta)
        plain = argmin(mixture_energy, y0, theta, data, damping=UNDAMPED)
        assert solution.value.tolist() == plain.value.tolist()
        assert plain.aux is None
        want = with_terms(solution.value, theta, *data)[1]
        assert_close(solution.aux, want, 1e-15)
        loss = lambda theta: jnp.sum(solve(theta).aux["responsibility"] ** 2)
        assert_grad_matches(loss, theta, jax.random.key(0))
        batched = jax.vmap(lambda shift: solve({**theta, "log_width": shift}).aux["count"])
        assert batched(jnp.array([0.3, 0.4])).tolist() == [25, 25]
    with pytest.raises(ValueError, match=r"`energy`: with has_aux it must return \(scalar, aux\)"):
        argmin(lambda y, t: jnp.sum(y**2), jnp.ones(2), 1.0, has_aux=True)
