"""What speaks for a pose: covariance, motion, support, the second pose of a plane."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jaxcv.systems.relative_confidence import confidence_of
from jaxcv.systems.two_view import MatchArrays, refined_alone
from tests.geometry.test_planar import case

FOCAL = 300.0


def batch(points1, points2):
    """Matches [normalised] of pairs (B, N, 2) as arrays."""
    one, other = (jnp.asarray(p, jnp.float32) for p in (points1, points2))
    shape = one.shape[:2]
    return MatchArrays(
        one, other, jnp.full(shape, 0.5), jnp.ones(shape, bool), jnp.full(shape[0], FOCAL)
    )


def volumes(pairs, count, noise, seed=0):
    """Points in a volume before two cameras; `noise` in pixels."""
    rng = np.random.default_rng(seed)
    turns = Rotation.from_rotvec(rng.normal(size=(pairs, 3)) * 0.15).as_matrix()
    moves = rng.normal(size=(pairs, 3)) * [0.6, 0.6, 0.3]
    points = rng.uniform([-1.5, -1.2, 3], [1.5, 1.2, 7], (pairs, count, 3))
    seen = np.einsum("pij,pnj->pni", turns, points) + moves[:, None]
    shake = noise / FOCAL * rng.normal(size=(2, pairs, count, 2))
    both = (x[..., :2] / x[..., 2:] + e for x, e in zip((points, seen), shake, strict=True))
    return turns, moves / np.linalg.norm(moves, axis=1, keepdims=True), *both


def errors_in_charts(found, turns, moves):
    """Errors (B, 5) in the covariance's coordinates."""
    rotation = np.asarray(found.rotation, float)
    turned = Rotation.from_matrix(turns @ rotation.transpose(0, 2, 1)).as_rotvec()
    out = []
    for own, true in zip(np.asarray(found.direction, float), moves, strict=True):
        sign = -1 if own[2] < 0 else 1
        normal = own + np.array([0, 0, sign])
        reflect = np.eye(3) - 2 * np.outer(normal, normal) / (normal @ normal)
        out.append((reflect[:, :2].T @ true) / (own @ true))
    return np.c_[turned, out]


@pytest.mark.slow
def test_the_covariance_is_that_of_the_errors():
    """Each of the five coordinates has the spread that its variance says, for two noises."""
    for noise in (0.3, 1.0):
        turns, moves, one, other = volumes(128, 160, noise)
        found = refined_alone(batch(one, other), jax.random.key(0))
        error = errors_in_charts(found, turns, moves)
        variance = np.diagonal(np.asarray(found.covariance, float), axis1=1, axis2=2)
        spread = np.median(np.abs(error) / np.sqrt(variance), axis=0) / 0.6745
        np.testing.assert_array_less(spread, 1.8)
        np.testing.assert_array_less(0.6, spread)


@pytest.mark.slow
def test_both_poses_of_a_plane_are_told():
    """Small pictures of a plane: the twin fits as well; if it has no points behind, c is <= 1/2."""
    rng = np.random.default_rng(3)
    poses, first, second = [], [], []
    for seed in range(12):
        rotation, direction, plane = case(seed, 0.3)
        rays = np.c_[rng.uniform(-0.3, 0.3, (100, 2)), np.ones(100)]
        seen = rays / (rays @ plane)[:, None] @ rotation.T + direction
        first.append(rays[:, :2])
        second.append(seen[:, :2] / seen[:, 2:] + 0.3 / FOCAL * rng.normal(size=(100, 2)))
        poses.append((rotation, direction / np.linalg.norm(direction)))
    found = refined_alone(batch(first, second), jax.random.key(0))
    confidence = np.asarray(confidence_of(found))
    near = lambda r, t, own: (
        np.abs(np.asarray(r) - own[0]).max() < 0.1 and np.asarray(t) @ own[1] > 0.9
    )
    best = [near(found.rotation[i], found.direction[i], poses[i]) for i in range(12)]
    second_best = [near(found.runner_up[0][i], found.runner_up[1][i], poses[i]) for i in range(12)]
    assert np.mean(np.logical_or(best, second_best)) >= 0.9
    wrong = ~np.array(best)
    assert (confidence[wrong] < 0.6).all()
    assert (confidence <= 1 / (1 + np.asarray(found.odds)) + 1e-6).all()


@pytest.mark.slow
def test_matches_that_agree_are_inliers_and_wrong_ones_are_not():
    turns, moves, one, other = volumes(8, 120, 0.5, seed=2)
    rng = np.random.default_rng(0)
    other[:, :40] = rng.uniform(-0.4, 0.4, (8, 40, 2))
    found = refined_alone(batch(one, other), jax.random.key(0))
    inliers = np.asarray(found.inliers)
    assert inliers[:, 40:].mean() > 0.9
    assert inliers[:, :40].mean() < 0.2
    np.testing.assert_allclose(found.share, inliers.mean(axis=1), rtol=1e-5)
    assert np.median(found.moved) > 0.99
    assert (np.asarray(found.supported) > 0.99).all()
    del turns, moves
