"""`Newton` on a table of classical functions, at every scale, from every kind of start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv import Status, argmin
from jaxcv.solvers import Newton
from tests.helpers import mostly_slow

pytestmark = pytest.mark.optimised


def rosenbrock(y):
    return jnp.sum(100 * (y[1:] - y[:-1] ** 2) ** 2 + (1 - y[:-1]) ** 2)


def himmelblau(y):
    return (y[0] ** 2 + y[1] - 11) ** 2 + (y[0] + y[1] ** 2 - 7) ** 2


def beale(y):
    a, b = y
    terms = 1.5 - a + a * b, 2.25 - a + a * b**2, 2.625 - a + a * b**3
    return sum(term**2 for term in terms)


def powell_singular(y):
    a, b, c, d = y
    return (a + 10 * b) ** 2 + 5 * (c - d) ** 2 + (b - 2 * c) ** 4 + 10 * (a - d) ** 4


def wood(y):
    a, b, c, d = y
    valley = 100 * (b - a**2) ** 2 + (1 - a) ** 2 + 90 * (d - c**2) ** 2 + (1 - c) ** 2
    return valley + 10.1 * ((b - 1) ** 2 + (d - 1) ** 2) + 19.8 * (b - 1) * (d - 1)


def ill_conditioned(y):
    weights = jnp.logspace(0, 10, y.size, dtype=y.dtype)
    return 0.5 * jnp.sum(weights * (y - 1) ** 2)


def mixture(y):
    centres = jnp.array([-3.0, 0.0, 0.5, 4.0], y.dtype)
    return -jnp.sum(jnp.exp(-((y - centres) ** 2))) + 0.001 * jnp.sum(y**2)


def regression(y):
    design = jnp.sin(jnp.arange(1.0, 121.0, dtype=y.dtype)).reshape(24, 5)
    targets = 3 * jnp.cos(jnp.arange(24.0, dtype=y.dtype) ** 2)
    return jnp.sum(jnp.sqrt(1 + (design @ y - targets) ** 2) - 1)


def logistic(y):
    design = jnp.sin(jnp.arange(1.0, 121.0, dtype=y.dtype)).reshape(24, 5)
    labels = jnp.where(jnp.arange(24) % 3 == 0, 1, -1).astype(y.dtype)
    return jnp.sum(jax.nn.softplus(-labels * (design @ y))) + 0.05 * jnp.sum(y**2)


# function, starts (each of them must converge), size of the numbers that the gradient sums up
TABLE = {
    "rosenbrock2": (rosenbrock, [[-1.2, 1], [1, 1], [3, -5]], 1e3),
    "rosenbrock10": (rosenbrock, [[-1.2, 1] * 5, [0] * 10], 1e3),
    "himmelblau": (himmelblau, [[0, 0], [5, 5], [-4, 3], [3, 2]], 1e2),
    "beale": (beale, [[1, 1], [3, 0.5], [2, -1]], 1e2),
    "wood": (wood, [[-3, -1, -3, -1], [1, 1, 1, 1]], 1e3),
    "ill_conditioned": (ill_conditioned, [[0] * 8, [5] * 8], 1e10),
    "mixture": (mixture, [[-2.4], [-1.5], [1.2], [4.3], [7.0], [0.1]], 1e1),
    "regression": (regression, [[0] * 5, [20, -20, 3, 0, 1], [100] * 5], 1e2),
    "logistic": (logistic, [[0] * 5, [10] * 5, [-30, 0, 30, 0, 5]], 1e2),
}
SCALES = [(1.0, 0.0), (2.0**-40, 0.0), (2.0**40, 0.0), (1.0, 1e3), (1.0, -1e6)]  # and shifts


def solve(function, starts, scales, dtype, **settings):
    """Solutions (starts, scales) of scale * function + shift, as a tree of NumPy arrays."""

    def energy(y, theta):
        scale, shift = theta
        return scale * function(y) + shift

    def one(start, theta):
        solution = argmin(energy, start, theta, solver=Newton(**settings))
        gradient = jax.grad(function)(solution.value)
        return solution, jnp.linalg.norm(gradient), function(start)

    scales = tuple(jnp.asarray(column, dtype) for column in np.transpose(scales))
    grid = jax.vmap(jax.vmap(one, (None, 0)), (0, None))
    return jax.tree.map(np.asarray, jax.jit(grid)(jnp.asarray(starts, dtype), scales))


def assert_minima(function, solution):
    """Whatever is called converged has a gradient of round-off and no negative curvature."""
    eps = np.finfo(solution.value.dtype).eps
    for y in solution.value[solution.converged]:
        h = np.linalg.eigvalsh(jax.hessian(function)(y))
        slope = np.linalg.norm(jax.grad(function)(y))
        assert h[-1] > 0
        assert h[0] >= -100 * y.size * eps * h[-1]
        assert slope <= 100 * eps * h[-1] * (1 + np.linalg.norm(y))


@pytest.mark.parametrize("name", mostly_slow(TABLE, ("mixture", "beale", "regression")))
def test_reaches_round_off_at_every_scale(name):
    function, starts, magnitude = TABLE[name]
    with jax.enable_x64(True):
        solution, gradient_norm, first = solve(function, starts, SCALES, float)
    assert np.all(solution.converged)
    assert np.all(solution.steps <= 50)
    # The round-off of y alone moves the gradient by |H| eps |y|.
    size = 1 + np.linalg.norm(solution.value, axis=-1)
    assert np.all(gradient_norm <= 100 * np.finfo(float).eps * magnitude * size)
    scale, shift = np.transpose(SCALES)
    begun = scale * first[:, :1] + shift
    assert np.all(solution.energy <= begun + 1e-15 * np.abs(begun))
    # A scale that is a power of two changes no decision and not one digit.
    for field in (solution.steps, solution.value):
        assert np.array_equal(field[:, 0], field[:, 1])
        assert np.array_equal(field[:, 0], field[:, 2])


@pytest.mark.parametrize("name", ["rosenbrock2", "himmelblau", "mixture", "regression", "logistic"])
@pytest.mark.slow
def test_float32_says_converged_at_its_own_round_off(name):
    function, starts, magnitude = TABLE[name]
    solution, gradient_norm, _ = solve(function, starts, SCALES[:3], np.float32)
    assert solution.value.dtype == np.float32
    assert np.all(solution.converged)
    assert np.all(solution.steps < 50)
    assert np.all(gradient_norm <= 100 * np.finfo(np.float32).eps * magnitude * 10)


@pytest.mark.slow
def test_degenerate_minima():
    # At the minimum of Powell's function H has rank two: Newton is linear, not quadratic there, and
    # in the end the curvature is round-off.
    with jax.enable_x64(True):
        solution, _, _ = solve(powell_singular, [[3, -1, 0, 1]], SCALES[:1], float)
        assert np.all(solution.status != Status.MAX_STEPS)
        assert np.all(solution.energy < 1e-24)
        quartic = lambda y: jnp.sum(y**4)
        solution, _, _ = solve(quartic, [[1.0], [-300.0]], SCALES[:3], float)
        assert np.all(solution.converged)
        assert np.all(np.abs(solution.value) < 0.1)
        underdetermined = lambda y: (y[0] + y[1] - 1) ** 2
        solution, norms, _ = solve(underdetermined, [[3.0, 5.0], [0.5, 0.5]], SCALES[:3], float)
        assert np.all(solution.converged)
        assert np.all(norms < 1e-14)


@pytest.mark.slow
def test_energy_blinded_by_a_constant():
    # In float32 next to 1e9 the energy has no digits: far from a minimum that is no convergence.
    blind = [(1.0, 1e9), (1.0, 1e7)]
    for function, starts in ((rosenbrock, [[-1.2, 1.0]]), (beale, [[1.0, 1.0]])):
        solution, norms, _ = solve(function, starts, blind, np.float32)
        assert not np.any(solution.converged & (norms > 1e-2))
    # A quadratic is solved on its gradient alone.
    bowl = lambda y: jnp.sum(jnp.array([1.0, 30.0]) * (y - 1) ** 2)
    solution, norms, _ = solve(bowl, [[5.0, -5.0]], blind, np.float32)
    assert np.all(solution.converged)
    assert np.all(norms < 1e-4)


@pytest.mark.slow
def test_start_near_a_minimum_whose_terms_cancel():
    # sqrt(1 + r^2) - 1 near r = 0: the energy's noise is far above eps |E|.
    design = np.random.default_rng(0).normal(size=(50, 5))
    with jax.enable_x64(True):
        for dtype in (np.float32, np.float64):
            a = jnp.asarray(design, dtype)
            function = lambda y, a=a: jnp.sum(jnp.sqrt(1 + (a @ y) ** 2) - 1)
            starts = [[1e-5, -1e-5, 2e-5, 0, 1e-6], [0, 0, 0, 0, 0]]
            solution, norms, _ = solve(function, starts, SCALES[:1], dtype)
            assert np.all(solution.converged)
            assert np.all(norms < 100 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.slow
def test_random_robust_regressions_all_converge(dtype):
    # Lanes of a batch wait for the slowest: none may spin until the limit.
    rng = np.random.default_rng(2)
    with jax.enable_x64(True):
        design = rng.normal(size=(256, 40, 6)).astype(dtype)
        targets = rng.normal(size=(256, 40)) + 20 * (rng.random((256, 40)) < 0.2)
        starts = 10 * rng.normal(size=(256, 6))

        def energy(y, theta, design, targets):
            return jnp.sum(jnp.sqrt(theta + (design @ y - targets) ** 2) - 1)

        def one(start, *data):
            return argmin(energy, start, jnp.ones((), dtype), data)

        arrays = (x.astype(dtype) for x in (starts, design, targets))
        solution = jax.jit(jax.vmap(one))(*arrays)
        assert np.all(solution.converged)
        assert np.max(solution.steps) <= 30
        assert np.max(solution.gradient_norm) <= 2e3 * np.finfo(dtype).eps


@pytest.mark.slow
def test_saddles_and_maxima_are_never_called_converged():
    # From a saddle the steps follow its negative curvature. Where they end, at a minimum.
    saddle = lambda y: y[0] ** 2 - y[1] ** 2 + 0.25 * y[1] ** 4
    hill = lambda y: jnp.sum(jnp.exp(-(y**2)) + 0.01 * y**2)
    flat = lambda y: 0 * jnp.sum(y)
    endless = lambda y: jnp.sum(jnp.exp(-y))  # falls for ever
    with jax.enable_x64(True):
        for function, starts in ((saddle, [[0, 0], [1, 0]]), (hill, [[0, 0]]), (flat, [[1, 2]])):
            solution, _, first = solve(function, starts, SCALES[:1], float)
            assert_minima(function, solution)
            assert np.all(solution.energy[:, 0] <= first[:, 0])
            assert np.all(solution.converged) == (function is not flat)
        assert not np.any(solution.converged)
        solution, _, _ = solve(endless, [[0, 0], [1, 5]], SCALES[:1], float)
        assert not np.any(solution.converged)
        # So far out that the gradient of 300 bumps underflows.
        plateau = lambda y: -jnp.sum(jnp.exp(-(y**2)))
        solution, _, _ = solve(plateau, np.full((1, 300), 100), SCALES[:1], float)
        assert not np.any(solution.converged)
        # A step beside them it leaves and finds the minimum.
        solution, _, _ = solve(saddle, [[1, 1e-4], [1e-3, -1e-3]], SCALES[:1], float)
        assert np.all(solution.converged)
        np.testing.assert_allclose(np.abs(solution.value[:, 0, 1]), np.sqrt(2), rtol=1e-9)
        solution, _, _ = solve(hill, [[1e-3, 1e-4]], SCALES[:1], float)
        assert np.all(solution.converged)


def test_exhausted_steps_are_no_convergence():
    with jax.enable_x64(True):
        solution, _, first = solve(rosenbrock, [[-1.2, 1]], SCALES, float, max_steps=3)
        assert not np.any(solution.converged)
        assert np.all(solution.steps == 3)
        scale, shift = np.transpose(SCALES)
        assert np.all(solution.energy <= scale * first + shift)


@pytest.mark.parametrize("dtype", [pytest.param(np.float32, marks=pytest.mark.slow), np.float64])
@pytest.mark.slow
def test_three_hundred_unknowns_by_truncated_conjugate_gradients(dtype):
    with jax.enable_x64(True):
        rng = np.random.default_rng(4)
        design = jnp.asarray(rng.normal(size=(600, 300)) / 17, dtype)
        targets = jnp.asarray(3 * rng.normal(size=600), dtype)

        def robust(y):
            return jnp.sum(jnp.sqrt(1 + (design @ y - targets) ** 2) - 1) + 0.01 * jnp.sum(y**2)

        solution, norms, _ = solve(robust, np.zeros((1, 300)), SCALES[:3], dtype)
        assert np.all(solution.converged)
        assert np.all(norms <= 1e3 * np.finfo(dtype).eps)
        # Exactly at a saddle the gradient shows nothing of the negative curvature.
        if dtype == np.float64:
            signs = jnp.where(jnp.arange(300) == 7, -1, 1)
            saddle = lambda y: jnp.sum(signs * y**2 + 0.1 * y**4)
            solution, _, first = solve(saddle, np.zeros((1, 300)), SCALES[:1], dtype)
            assert_minima(saddle, solution)
            assert np.all(solution.energy[:, 0] <= first[:, 0])
