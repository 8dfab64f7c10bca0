"""Medium sizes: L-BFGS and one factor, or the trust region where that has not reached a minimum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv import argmin
from jaxcv.solvers.lbfgs import approach
from tests.solvers.test_trust_region import SCALES, rosenbrock, solve


def robust(n, dtype):
    rng = np.random.default_rng(3)
    design = jnp.asarray(rng.normal(size=(8 * n, n)), dtype)
    noise = 20 * rng.normal(size=8 * n) * (rng.random(8 * n) < 0.2)
    targets = jnp.asarray(noise + rng.normal(size=8 * n), dtype)
    return lambda y: jnp.mean(jnp.sqrt(1 + (design @ y - targets) ** 2) - 1)


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_one_hessian_is_enough_for_a_robust_regression(dtype):
    with jax.enable_x64(True):
        energy = robust(24, dtype)
        tolerance = 1e-10 if dtype == np.float64 else 1e-5
        found = jax.jit(lambda y: approach(energy, y, tolerance, 50))(jnp.zeros(24, dtype))
        assert found.finished
        slope = jax.grad(energy)(found.y)
        assert np.linalg.norm(slope) <= 20 * np.finfo(dtype).eps
        assert np.linalg.eigvalsh(jax.hessian(energy)(found.y))[0] > 0
        # newton() returns that point; far starts and every scale end in it, too.
        starts = np.stack([np.zeros(24), np.full(24, 3), np.linspace(-50, 50, 24)])
        solution, norms, _ = solve(energy, starts, SCALES[:3], dtype)
        assert np.all(solution.converged)
        assert np.all(norms <= 200 * np.finfo(dtype).eps)
        assert np.array_equal(solution.value[:, 0], solution.value[:, 1])


@pytest.mark.slow
def test_the_trust_region_takes_over():
    with jax.enable_x64(True):
        # A narrow valley, of which L-BFGS leaves something to do.
        starts = np.stack([np.tile([-1.2, 1.0], 8), np.zeros(16)])
        solution, norms, _ = solve(rosenbrock, starts, SCALES[:1], float, max_steps=200)
        assert np.all(solution.converged)
        assert np.all(norms < 1e-9)
        # Saddles and slopes without end are no minima, NaN is not one either.
        signs = jnp.where(jnp.arange(20) == 7, -1, 1)
        saddle = lambda y: jnp.sum(signs * y**2)
        endless = lambda y: jnp.sum(jnp.exp(-y))
        nowhere = lambda y: jnp.sum(jnp.log(-1 - y**2))
        plateau = lambda y: -jnp.sum(jnp.exp(-(y**2)))
        for function, start in ((saddle, 0.0), (endless, 0.0), (nowhere, 1.0), (plateau, 100.0)):
            solution, _, first = solve(function, np.full((1, 20), start), SCALES[:1], float)
            assert not np.any(solution.converged)
            assert not np.any(solution.energy > first)


@pytest.mark.slow
def test_a_batch_leaves_its_lanes_alone():
    with jax.enable_x64(True):
        energy = robust(16, float)
        shifted = lambda y, t: energy(y - t)
        starts = jnp.stack([jnp.zeros(16), jnp.full(16, jnp.nan), jnp.full(16, 2.0)])
        run = jax.jit(jax.vmap(lambda y: argmin(shifted, y, 0.5)._replace(diagnostics=())))
        solution = run(starts)
        assert solution.converged.tolist() == [True, False, True]
        alone = argmin(shifted, starts[0], 0.5)
        np.testing.assert_allclose(solution.value[0], alone.value, rtol=1e-12)
        np.testing.assert_allclose(solution.value[2], alone.value, rtol=1e-9)
