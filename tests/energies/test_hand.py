"""The energy of a hand: zero at the truth, its slopes, and a start that lies upon the joints."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.energies.hand import (
    HandScales,
    hand_of,
    hand_residuals,
    hand_start,
    shape_of_sizes,
)
from jaxcv.geometry import so3
from jaxcv.geometry.hand import LIMITS, hand_joints, mean_shape

residuals, hand = jax.jit(hand_residuals), jax.jit(hand_of)


def unknowns():
    share = jax.random.uniform(jax.random.key(0), (5, 4), minval=0.1, maxval=0.9)
    return {
        "rotation": so3.exp(jnp.array([0.4, -0.2, 2.0])),
        "translation": jnp.array([0.1, -0.3, 7.0]),
        "angles": LIMITS[..., 0] + share * (LIMITS[..., 1] - LIMITS[..., 0]),
        "sizes": 0.05 * jax.random.normal(jax.random.key(1), (8,)),
    }


def problem(y):
    points, radii = hand(y)
    theta = {
        "joints": hand_joints(points),
        "log_confidence": jnp.linspace(-1, 1, 14),
        "scales": HandScales(),
    }
    away = jax.random.normal(jax.random.key(2), (28, 3))
    away = away / jnp.linalg.norm(away, axis=-1, keepdims=True)
    tips = points + radii[:, None] * away
    return theta, tips


def test_zero_at_the_truth_and_what_each_part_costs():
    with jax.enable_x64(True):
        y = unknowns()
        theta, tips = problem(y)
        valid = jnp.ones(28).at[3].set(0)
        found = residuals(y, theta, tips, valid)
        np.testing.assert_allclose(found["joints"], 0, atol=1e-12)
        np.testing.assert_array_equal(found["limits"], 0)
        # A point on one of the spheres lies on the surface or within a neighbour.
        assert (np.asarray(found["points"]) < 1e-9).all()
        assert found["points"][3] == 0
        moved = theta | {"joints": theta["joints"] + jnp.array([3.0, 4.0, 0.0])}
        cost = jnp.sum(residuals(y, moved, tips, valid)["joints"] ** 2, axis=-1)
        np.testing.assert_allclose(cost, np.exp(np.linspace(-1, 1, 14)) * 0.25, rtol=1e-9)
        beyond = y | {"angles": y["angles"].at[1, 2].set(LIMITS[1, 2, 1] + 0.1)}
        limits = residuals(beyond, theta, tips, valid)["limits"]
        assert limits[1, 2] == np.float64(limits.sum())
        np.testing.assert_allclose(limits[1, 2], 2, rtol=1e-6)


def test_slopes_are_central_differences():
    with jax.enable_x64(True):
        y = unknowns()
        theta, tips = problem(y)
        seen = tips + 5 * jax.random.normal(jax.random.key(4), tips.shape)
        names = ("translation", "angles", "sizes")
        direction = {n: jax.random.normal(jax.random.key(5), y[n].shape) for n in names}

        @jax.jit
        def energy(s):
            moved = y | {n: y[n] + s * direction[n] for n in names}
            moved["rotation"] = so3.exp(s * jnp.array([1.0, -0.5, 0.2])) @ y["rotation"]
            parts = hand_residuals(moved, theta, seen, jnp.ones(28))
            return 0.5 * sum(jnp.sum(part**2) for part in parts.values())

        step = 1e-5
        want = (energy(step) - energy(-step)) / (2 * step)
        np.testing.assert_allclose(jax.jit(jax.grad(energy))(0.0), want, rtol=1e-6)


def test_sizes_are_logarithms():
    mean, shape = mean_shape(), shape_of_sizes(jnp.log(jnp.arange(1.0, 9)))
    np.testing.assert_allclose(shape.palm, [1, 2], rtol=1e-6)
    factors = np.arange(3.0, 8)[:, None]
    np.testing.assert_allclose(shape.lengths, mean.lengths * factors, rtol=1e-5)
    np.testing.assert_allclose(shape.radii, 8 * mean.radii, rtol=1e-5)


def test_start_lies_upon_the_joints_of_a_moved_mean_hand():
    middle = jnp.asarray(LIMITS.mean(axis=-1), jnp.float32)
    y = unknowns() | {"angles": middle, "sizes": jnp.zeros(8)}
    start = jax.jit(hand_start)(hand_joints(hand(y)[0]))
    for name in y:
        np.testing.assert_allclose(start[name], y[name], atol=1e-3)
    slope = jax.jit(jax.grad(lambda x: jnp.sum(hand_start(x)["translation"])))(jnp.zeros((14, 3)))
    assert (slope == 0).all()
