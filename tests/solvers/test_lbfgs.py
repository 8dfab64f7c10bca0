"""Medium sizes: L-BFGS by itself, and as the warm start of Newton's method with few Hessians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv import Status, argmin
from jaxcv.linear.system import resolve_method
from jaxcv.solvers import LBFGS, Problem
from jaxcv.solvers.lbfgs import warm_start
from tests.solvers.test_trust_region import SCALES, assert_minima, rosenbrock, solve


def robust(n, dtype):
    rng = np.random.default_rng(3)
    design = jnp.asarray(rng.normal(size=(8 * n, n)), dtype)
    noise = 20 * rng.normal(size=8 * n) * (rng.random(8 * n) < 0.2)
    targets = jnp.asarray(noise + rng.normal(size=8 * n), dtype)
    return lambda y: jnp.mean(jnp.sqrt(1 + (design @ y - targets) ** 2) - 1)


def flat_problem(energy, y):
    return Problem(energy, (), (), lambda y: y, lambda y: y, resolve_method("auto", y))


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_few_steps_are_left_after_the_warm_start(dtype):
    with jax.enable_x64(True):
        energy, start = robust(24, dtype), jnp.zeros(24, dtype)
        y, steps = jax.jit(lambda y: warm_start(flat_problem(energy, y), y, 50))(start)
        slope = lambda y: np.linalg.norm(jax.grad(energy)(y))
        assert steps < 50
        # Single precision is blind earlier.
        assert slope(y) <= (1e-3 if dtype == np.float64 else 5e-3) * slope(start)
        assert energy(y) < energy(start)
        assert np.linalg.eigvalsh(jax.hessian(energy)(y))[0] > 0
        # Newton goes on from there; far starts and every scale end in the same point.
        alone = jax.jit(lambda y: argmin(lambda y, _: energy(y), y, ()))(start)
        assert alone.converged
        assert alone.steps <= steps + 8
        starts = np.stack([np.zeros(24), np.full(24, 3), np.linspace(-50, 50, 24)])
        solution, norms, _ = solve(energy, starts, SCALES[:3], dtype)
        assert np.all(solution.converged)
        assert np.all(norms <= 200 * np.finfo(dtype).eps)
        assert np.array_equal(solution.value[:, 0], solution.value[:, 1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.slow
def test_lbfgs_reaches_its_tolerance_by_itself(dtype):
    with jax.enable_x64(True):
        energy = robust(24, dtype)
        scaled = lambda y, scale: scale * energy(y)
        for scale in (1.0, 1e-6, 1e6):
            solution = argmin(
                scaled, jnp.zeros(24, dtype), jnp.asarray(scale, dtype), solver=LBFGS()
            )
            assert solution.converged
            slope = np.linalg.norm(jax.grad(energy)(solution.value))
            tolerance = 1e-10 if dtype == np.float64 else 1e-5
            size = np.linalg.eigvalsh(jax.hessian(energy)(solution.value))[-1]
            assert slope <= 2 * tolerance * size * np.linalg.norm(solution.value)
        newton = argmin(scaled, jnp.zeros(24, dtype), jnp.ones((), dtype)).value
        accuracy = 1e-8 if dtype == np.float64 else 1e-3
        np.testing.assert_allclose(solution.value, newton, rtol=accuracy, atol=accuracy)


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
            energy = lambda y, _, function=function: function(y)
            assert not argmin(energy, jnp.full(20, start), (), solver=LBFGS()).converged
        # Beside a saddle the steps find a minimum; exactly at it they may end, and say so.
        well = lambda y: jnp.sum(signs * y**2 + 0.1 * y**4)
        solution, _, _ = solve(well, [[0.0] * 20, [1e-3] * 20], SCALES[:1], float)
        assert solution.converged[1]
        assert_minima(well, solution)


@pytest.mark.slow
def test_a_batch_leaves_its_problems_alone():
    with jax.enable_x64(True):
        energy = robust(16, float)
        shifted = lambda y, t: energy(y - t)
        starts = jnp.stack([jnp.zeros(16), jnp.full(16, jnp.nan), jnp.full(16, 2.0)])
        run = jax.jit(jax.vmap(lambda y: argmin(shifted, y, 0.5)))
        solution = run(starts)
        assert solution.status.tolist() == [Status.CONVERGED, Status.NONFINITE, Status.CONVERGED]
        alone = argmin(shifted, starts[0], 0.5)
        np.testing.assert_allclose(solution.value[0], alone.value, rtol=1e-12)
        np.testing.assert_allclose(solution.value[2], alone.value, rtol=1e-9)
