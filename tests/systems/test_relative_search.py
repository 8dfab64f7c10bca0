"""Starting poses by samples of five matches: outliers, planes, weights, batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.energies.epipolar import EpipolarParameters
from jaxcv.metrics.motion import rotation_error, translation_error
from jaxcv.systems.relative_search import searched_poses
from tests.geometry.test_epipolar import scene


def energy_of(count, noise=1e-3):
    return EpipolarParameters(
        jnp.eye(3), jnp.array([0.0, 0, 1]), jnp.full(2, -30.0), jnp.zeros(count),
        jnp.log(noise), jnp.log(3.0),
    )  # fmt: skip


def test_the_best_pose_is_the_true_one_for_any_seed_and_padding_is_not_seen():
    rotation, direction, p1, p2, *_ = scene(0, 60, 0.3, 3e-4)
    rng = np.random.default_rng(0)
    wrong = np.asarray(p2).copy()
    wrong[:30] = rng.uniform(-0.6, 0.6, (30, 2))
    more = lambda p: jnp.concatenate([jnp.asarray(p, jnp.float32), 9 * jnp.ones((4, 2))])
    valid = jnp.arange(64) < 60
    # Sure that the padding is right, if it counted.
    theta = energy_of(64)._replace(log_confidence=jnp.where(valid, 0.0, 5.0))
    run = jax.jit(jax.vmap(searched_poses, in_axes=(0, None, None, None, None)))
    keys = jax.random.split(jax.random.key(1), 4)
    rotations, directions = run(keys, theta, more(p1), more(wrong), valid)
    assert rotations.shape == (4, 12, 3, 3)
    assert (rotation_error(rotations[:, 0], np.asarray(rotation)[None]) < 1).all()
    assert (translation_error(directions[:, 0], np.asarray(direction)[None]) < 3).all()


@pytest.mark.slow
def test_samples_find_poses_of_planes():
    """Matches on one wall, half of them wrong: eight points have no essential matrix there."""
    rng = np.random.default_rng(1)
    rotation, direction, p1, *_ = scene(0, 80, 0.3, 0.0)
    rays = np.c_[np.asarray(p1), np.ones(80)]
    points = rays / (0.3 + 0.05 * rays[:, :1])  # a plane
    other = points @ np.asarray(rotation).T + np.asarray(direction)
    p2 = other[:, :2] / other[:, 2:]
    p2[:40] += rng.uniform(-0.4, 0.4, (40, 2))
    theta = EpipolarParameters(
        jnp.eye(3), jnp.array([0.0, 0, 1]), jnp.full(2, -30.0), jnp.zeros(80), jnp.log(1e-3),
        jnp.log(3.0),
    )  # fmt: skip
    rotations, directions = searched_poses(
        jax.random.key(0), theta, jnp.asarray(p1), jnp.asarray(p2), least_samples=512
    )
    assert rotations.shape == (12, 3, 3)
    # A plane has two poses; one of the best is the true one.
    turned = rotation_error(rotations, np.asarray(rotation)[None])
    moved = translation_error(directions, np.asarray(direction)[None])
    assert np.min(turned + moved) < 3
