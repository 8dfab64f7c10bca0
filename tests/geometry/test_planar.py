"""Planes seen by two cameras: both poses of a homography."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from jaxcv.geometry.planar import other_planar_pose, plane_of_pose


def case(seed, away=0.4):
    """A pose and a plane before the first camera, in float64."""
    rng = np.random.default_rng(seed)
    rotation = Rotation.from_rotvec(rng.uniform(-0.3, 0.3, 3)).as_matrix()
    direction = away * rng.normal(size=3)
    plane = np.array([*rng.uniform(-0.4, 0.4, 2), 1.0]) / rng.uniform(1, 4)
    return rotation, direction, plane


@given(st.integers(0, 10_000), st.floats(0.01, 1.5))
@settings(max_examples=30, deadline=None)
def test_the_other_pose_has_the_same_homography_and_leads_back(seed, away):
    rotation, direction, plane = case(seed, away)
    with jax.enable_x64(True):
        run = jax.jit(other_planar_pose)
        turned, moved, normal = map(np.asarray, run(rotation, direction, plane))
        back = [np.asarray(x) for x in run(turned, moved, normal)]
    homography = rotation + np.outer(direction, plane)
    gap = np.linalg.det(homography)
    np.testing.assert_allclose(turned + np.outer(moved, normal), homography, atol=1e-10 / abs(gap))
    np.testing.assert_allclose(turned @ turned.T, np.eye(3), atol=1e-9 / abs(gap))
    np.testing.assert_allclose(np.linalg.norm(normal), 1, atol=1e-12)
    np.testing.assert_allclose(back[0], rotation, atol=1e-8 / abs(gap))
    size = np.linalg.norm(plane)
    np.testing.assert_allclose(np.outer(back[1], back[2]), np.outer(direction, plane), atol=1e-8)
    assert size > 0


@pytest.mark.parametrize("seed", range(4))
def test_both_poses_are_those_of_opencv(seed):
    import cv2

    rotation, direction, plane = case(seed)
    count, rotations, moves, _ = cv2.decomposeHomographyMat(
        rotation + np.outer(direction, plane), np.eye(3)
    )
    assert count == 4
    with jax.enable_x64(True):
        turned, moved, _ = map(np.asarray, other_planar_pose(rotation, direction, plane))
    for own, move in ((rotation, direction), (turned, moved)):
        move = move / np.linalg.norm(move)
        units = [t[:, 0] / np.linalg.norm(t) for t in moves]
        aside = [min(np.abs(move - t).max(), np.abs(move + t).max()) for t in units]
        gaps = [np.abs(own - r).max() + a for r, a in zip(rotations, aside, strict=True)]
        assert min(gaps) < 1e-6


def test_without_a_translation_there_is_no_other_pose():
    rotation, _, plane = case(3)
    turned, moved, _ = other_planar_pose(jnp.asarray(rotation), jnp.zeros(3), jnp.asarray(plane))
    np.testing.assert_allclose(turned, rotation, atol=1e-6)
    np.testing.assert_array_equal(moved, np.zeros(3))


def test_the_plane_of_most_matches_is_found_among_others():
    rotation, direction, plane = case(7)
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.5, 0.5, (80, 2))
    rays = np.c_[points, np.ones(80)]
    depth = 1 / (rays @ plane)
    depth[:20] *= rng.uniform(0.5, 2, 20)  # off the plane, on their epipolar lines
    moved = rays * depth[:, None] @ rotation.T + direction
    second = moved[:, :2] / moved[:, 2:]
    scale = np.linalg.norm(direction)
    with jax.enable_x64(True):
        found = plane_of_pose(rotation, direction / scale, points, second, noise=1e-4)
        least_squares = plane_of_pose(rotation, direction / scale, points, second)
    np.testing.assert_allclose(found, plane * scale, atol=1e-4)
    assert np.abs(np.asarray(least_squares) - plane * scale).max() > 1e-3


def test_shapes_are_named():
    eye = jnp.eye(3)
    with pytest.raises(ValueError, match="plane"):
        other_planar_pose(eye, jnp.zeros(3), jnp.zeros(2))
    with pytest.raises(ValueError, match="points2"):
        plane_of_pose(eye, jnp.ones(3), jnp.zeros((4, 2)), jnp.zeros((3, 2)))
