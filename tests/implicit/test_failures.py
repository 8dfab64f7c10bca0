"""A problem of a batch that fails leaves the others, and what they share, as they were."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv import Damping, argmin, argmin_vjp
from jaxcv.linear import BlockDiagonal
from tests.helpers import assert_close, mostly_slow

LANES = 8
BAD = {"data": 1, "start": 2, "own parameter": 4, "energy": 5, "cotangent": 6}


def energy(y, theta, design, targets):
    """A pseudo-Huber regression with shared and own parameters; infinite for huge targets."""
    residual = design @ y - theta["shared"] * targets - theta["own"]
    return jnp.sum(jnp.sqrt(1 + residual**2) - 1) + 0.05 * jnp.sum(y**2)


def batch(n, dtype):
    rng = np.random.default_rng(n)
    return {
        "design": rng.normal(size=(LANES, 3 * n, n)).astype(dtype),
        "targets": rng.normal(size=(LANES, 3 * n)).astype(dtype),
        "y0": rng.normal(size=(LANES, n)).astype(dtype),
        "own": rng.normal(size=LANES).astype(dtype),
        "weight": np.ones(LANES, dtype),
    }


def poisoned(arrays):
    bad = {name: array.copy() for name, array in arrays.items()}
    bad["design"][BAD["data"], 0, 0] = np.nan
    bad["y0"][BAD["start"], -1] = np.nan
    bad["own"][BAD["own parameter"]] = np.nan
    bad["targets"][BAD["energy"], 0] = np.inf
    bad["weight"][BAD["cotangent"]] = np.nan
    return bad


def run(linear):
    """A jitted function: arrays and the shared parameter to (solution, gradients)."""

    def one(shared, own, design, targets, y0):
        theta = {"shared": shared, "own": own}
        solution = argmin(
            energy, y0, theta, (design, targets), damping=Damping(0.1), linear=linear,
            diagnostics=True,
        )  # fmt: skip
        return solution.value, solution

    def loss(shared, own, arrays):
        lanes = jax.vmap(one, (None, 0, 0, 0, 0))
        values, solution = lanes(shared, own, arrays["design"], arrays["targets"], arrays["y0"])
        each = arrays["weight"] * jnp.sum(jnp.sin(values), axis=1)
        return jnp.sum(each), solution

    return jax.jit(jax.grad(loss, (0, 1), has_aux=True))


@pytest.mark.parametrize(
    ("n", "linear", "dtype"),
    [
        (1, "auto", np.float64),
        pytest.param(6, "auto", np.float64, marks=pytest.mark.slow),
        (6, "cg", np.float32),
    ],
)
def test_bad_lanes_are_counted_and_contained(n, linear, dtype):
    with jax.enable_x64(True):
        arrays, tolerance = batch(n, dtype), 1e-12 if dtype == np.float64 else 1e-6
        bad = np.isin(np.arange(LANES), list(BAD.values()))
        failed = bad & (np.arange(LANES) != BAD["cotangent"])
        without = {**arrays, "weight": np.where(bad, 0, arrays["weight"]).astype(dtype)}
        gradient = run(linear)
        shared = jnp.asarray(1.3, dtype)
        (want_shared, want_own), clean = gradient(shared, arrays["own"], without)
        assert bool(jnp.all(clean.converged))
        dirty = poisoned(arrays)
        (got_shared, got_own), solution = gradient(shared, dirty["own"], dirty)

        assert np.array_equal(~np.asarray(solution.converged), failed)
        assert not np.any(np.asarray(solution.diagnostics.certified)[failed])
        for got, want in zip(jax.tree.leaves(solution), jax.tree.leaves(clean), strict=True):
            np.testing.assert_allclose(
                np.asarray(got)[~failed], np.asarray(want)[~failed], rtol=tolerance, atol=tolerance
            )
        assert np.isfinite(got_shared)
        assert_close(got_shared, want_shared, tolerance)
        assert_close(np.asarray(got_own)[~bad], np.asarray(want_own)[~bad], tolerance)
        assert np.all(np.asarray(got_own)[bad] == 0)


def test_second_derivatives_survive_a_bad_lane():
    with jax.enable_x64(True):
        data = jnp.array([1.0, jnp.nan, 2.0, 3.0])
        quartic = lambda y, t, d: 0.5 * jnp.sum((y - t * d) ** 2) + jnp.sum(y**4)

        def loss(theta, data):
            value = jax.vmap(lambda d: argmin(quartic, jnp.zeros(()), theta, (d,)).value)(data)
            return jnp.sum(jnp.where(jnp.isfinite(value), value, 0) ** 2)

        twice = jax.jit(jax.grad(jax.grad(loss)))
        assert_close(twice(1.0, data), twice(1.0, data[jnp.array([0, 2, 3])]), 1e-12)


@pytest.mark.parametrize(
    "linear",
    mostly_slow(["cholesky", "cg", BlockDiagonal(1), BlockDiagonal(2)], ("cholesky", "cg")),
    ids=str,
)
def test_pullback_of_something_not_finite_is_zero(linear):
    square = lambda y, t: jnp.sum((y - t) ** 2)
    one = jnp.ones(2)
    for y, t, v in (
        (one * jnp.nan, one, one),
        (one, one * jnp.inf, one),
        (one, one, one * jnp.nan),
    ):
        cubic = lambda y, t: square(y, t) + jnp.sum(t * y**3)
        bar, diagnostics = argmin_vjp(cubic, y, t, v, linear=linear)
        assert bar.tolist() == [0, 0]
        assert not diagnostics.certified or np.isnan(v[0])


def test_an_energy_that_is_nowhere_finite_returns_its_start():
    energy = lambda y, t: jnp.sum(jnp.log(-(y**2) - 1) * t)
    solution = argmin(energy, jnp.ones(2), jnp.ones(2))
    assert solution.value.tolist() == [1, 1]
    assert not solution.converged
    gradient = jax.grad(lambda t: jnp.sum(argmin(energy, jnp.ones(2), t).value))(jnp.ones(2))
    assert gradient.tolist() == [0, 0]


def test_a_step_into_the_forbidden_half_line_is_taken_back():
    # -log y + y is infinite for y <= 0, where the first Newton steps from 10 would end.
    energy = lambda y, t: jnp.sum(-jnp.log(y) + t * y)
    solution = argmin(energy, jnp.array([10.0]), jnp.ones(1))
    np.testing.assert_allclose(solution.value, 1, rtol=1e-6)
    assert solution.converged
