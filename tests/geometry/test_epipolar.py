"""Epipolar geometry: exact poses back, derivatives, distances, degenerate input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcv.geometry import so3
from jaxcv.geometry.epipolar import (
    angle_behind,
    decompose_essential,
    eight_point,
    essential_matrix,
    essential_pose,
    sampson_distance,
    triangulate,
)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def scene(seed=0, count=20, angle=0.4, noise=0.0):
    """Pose, matches and depths of points before both cameras."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=3)
    rotation = np.asarray(so3.exp(jnp.asarray(angle * w / np.linalg.norm(w))))
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    x = np.c_[rng.uniform(-1, 1, (count, 2)), np.ones(count)] * rng.uniform(4, 9, (count, 1))
    y = x @ rotation.T + direction
    points = [p[:, :2] / p[:, 2:] + noise * rng.normal(size=(count, 2)) for p in (x, y)]
    return rotation, direction, *(jnp.asarray(p) for p in points), x[:, 2], y[:, 2]


def test_exact_matches_give_the_pose_back():
    find = jax.jit(eight_point)
    pose = jax.jit(essential_pose)
    for seed in range(20):
        rotation, direction, p1, p2, d1, d2 = scene(seed)
        essential = essential_matrix(jnp.asarray(rotation), jnp.asarray(direction))
        np.testing.assert_allclose(sampson_distance(essential, p1, p2), 0, atol=1e-14)
        found = find(p1, p2)
        sign = jnp.sign(jnp.vdot(found, essential))
        np.testing.assert_allclose(sign * found, essential, atol=1e-9)
        for e in (found, -3 * essential):
            r, t = pose(e, p1, p2)
            np.testing.assert_allclose(r, rotation, atol=1e-9)
            np.testing.assert_allclose(t, direction, atol=1e-9)
        depths = triangulate(jnp.asarray(rotation), jnp.asarray(direction), p1, p2)
        np.testing.assert_allclose(depths[0], d1, rtol=1e-9)
        np.testing.assert_allclose(depths[1], d2, rtol=1e-9)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.floats(0, 3.1), st.floats(0.1, 50))
def test_both_rotations_of_any_essential_matrix(seed, angle, scale):
    with jax.enable_x64(True):
        rotation, direction, *_ = scene(seed, 8, angle)
        essential = essential_matrix(jnp.asarray(rotation), jnp.asarray(direction))
        rotations, t = decompose_essential(scale * essential)
        np.testing.assert_allclose(jnp.abs(jnp.vdot(t, direction)), 1, atol=1e-9)
        for r in rotations:
            np.testing.assert_allclose(r @ r.T, jnp.eye(3), atol=1e-9)
            np.testing.assert_allclose(jnp.linalg.det(r), 1, atol=1e-9)
            e = essential_matrix(r, t)
            np.testing.assert_allclose(jnp.sign(jnp.vdot(e, essential)) * e, essential, atol=1e-9)
        twist = rotations[0] @ rotations[1].T  # half a turn about the baseline
        np.testing.assert_allclose(twist @ t, t, atol=1e-9)
        np.testing.assert_allclose(jnp.trace(twist), -1, atol=1e-9)


def test_opencv_agrees():
    cv2 = pytest.importorskip("cv2")
    ours = jax.jit(lambda a, b: essential_pose(eight_point(a, b), a, b))
    for seed in range(5):
        rotation, _, p1, p2, *_ = scene(seed, 60, noise=2e-3)
        fundamental, _ = cv2.findFundamentalMat(np.asarray(p1), np.asarray(p2), cv2.FM_8POINT)
        _, r, t, _ = cv2.recoverPose(fundamental, np.asarray(p1), np.asarray(p2))
        ours_r, ours_t = ours(p1, p2)
        angle = lambda a, b: np.linalg.norm(np.asarray(so3.log(jnp.asarray(a @ b.T))))
        assert angle(np.asarray(ours_r), r) < 0.02
        assert angle(np.asarray(ours_r), rotation) < angle(r, rotation) + 0.01
        assert np.linalg.norm(np.asarray(ours_t) - t.ravel()) < 0.1


@pytest.mark.slow
def test_weights_leave_matches_out_and_repeat_them():
    _, _, p1, p2, *_ = scene(3, 24, noise=1e-3)
    wrong = p2.at[:5].add(0.4)
    weights = jnp.ones(24).at[:5].set(0)
    want = eight_point(p1[5:], p2[5:])
    np.testing.assert_allclose(eight_point(p1, wrong, weights), want, atol=1e-9)
    twice = eight_point(p1, p2, jnp.ones(24).at[3].set(2.0))
    again = jnp.concatenate([p1, p1[3:4]]), jnp.concatenate([p2, p2[3:4]])
    np.testing.assert_allclose(twice, eight_point(*again), atol=1e-9)
    # Of a pair without matches in a batch nothing becomes nan.
    np.testing.assert_array_equal(eight_point(p1, p2, jnp.zeros(24)), eight_point(p1, p2))
    assert jnp.isfinite(jax.grad(lambda w: eight_point(p1, p2, w)[0, 0])(jnp.zeros(24))).all()


@pytest.mark.slow
def test_derivatives_against_differences():
    rotation, direction, p1, p2, *_ = scene(5, 14, noise=1e-3)
    weights = jnp.asarray(np.random.default_rng(0).uniform(0.5, 2, 14))

    def f(p1, p2, weights):
        r, t = essential_pose(eight_point(p1, p2, weights), p1, p2)
        distance = sampson_distance(essential_matrix(r, t), p1, p2)
        return jnp.sum(jnp.sin(r)) + jnp.sum(t**3) + 100 * jnp.sum(distance**2)

    args = p1, p2, weights
    slopes = jax.jit(jax.grad(f, argnums=(0, 1, 2)))(*args)
    rng, run = np.random.default_rng(1), jax.jit(f)
    for k, slope in enumerate(slopes):
        step = jnp.asarray(rng.normal(size=slope.shape))
        moved = lambda h: run(*(x + h * step if i == k else x for i, x in enumerate(args)))  # noqa: B023
        # Of fourth order: with a step of 1e-6 round-off would be 1e-6 here.
        near, far = moved(1e-4) - moved(-1e-4), moved(2e-4) - moved(-2e-4)
        want = (8 * near - far) / 12e-4
        np.testing.assert_allclose(jnp.vdot(slope, step), want, rtol=1e-5, atol=1e-7)
    exact = essential_matrix(jnp.asarray(rotation), jnp.asarray(direction))
    at_essential = jax.jacrev(lambda e: decompose_essential(e)[0])(exact)
    assert jnp.isfinite(at_essential).all()  # equal singular values


def test_sampson_is_the_distance_to_the_nearest_exact_match():
    rotation, direction, p1, p2, *_ = scene(6, 10)
    essential = essential_matrix(jnp.asarray(rotation), jnp.asarray(direction))
    noise = 1e-4 * np.random.default_rng(0).normal(size=(10, 4))
    q1, q2 = p1 + noise[:, :2], p2 + noise[:, 2:]
    first = jnp.abs(sampson_distance(essential, q1, q2))

    def exact(x):  # Newton's steps to the constraint, along its gradient
        y = x
        for _ in range(4):
            value = lambda y: jnp.append(y[2:], 1) @ essential @ jnp.append(y[:2], 1)
            slope = jax.grad(value)(y)
            lagged = value(y) + jnp.vdot(slope, x - y)
            y = x - slope * lagged / jnp.vdot(slope, slope)
        return jnp.linalg.norm(y - x)

    nearest = jax.vmap(exact)(jnp.concatenate([q1, q2], axis=1))
    np.testing.assert_allclose(first, nearest, rtol=1e-3)


def test_pairs_are_batched_and_poses_swap():
    pairs = [scene(seed, 12) for seed in range(4)]
    p1, p2 = (jnp.stack([pair[k] for pair in pairs]) for k in (2, 3))
    find = jax.jit(jax.vmap(lambda a, b: essential_pose(eight_point(a, b), a, b)))
    (r, t), (back_r, back_t) = find(p1, p2), find(p2, p1)
    np.testing.assert_allclose(back_r, jnp.swapaxes(r, 1, 2), atol=1e-8)
    np.testing.assert_allclose(back_t, -jnp.einsum("bji,bj->bi", r, t), atol=1e-8)


def test_degenerate_and_bad_input():
    _, _, p1, p2, *_ = scene()
    zero = jnp.zeros((1, 2))
    forward = essential_matrix(jnp.eye(3), jnp.array([0.0, 0, 1]))  # both epipoles at 0
    value, slope = jax.value_and_grad(lambda p: sampson_distance(forward, p, zero)[0])(zero)
    assert value == 0
    assert (slope == 0).all()
    parallel = triangulate(jnp.eye(3), jnp.array([1.0, 0, 0]), p1[:3], p1[:3])
    np.testing.assert_array_equal(parallel[0], 0)
    with pytest.raises(ValueError, match="`points1`: expected 8 matches or more, got 7"):
        eight_point(p1[:7], p2[:7])
    with pytest.raises(ValueError, match=r"`points2`: expected \(..., 20, 2\), got"):
        eight_point(p1, p2[:7])
    with pytest.raises(ValueError, match=r"`essential`: expected \(..., 3, 3\)"):
        sampson_distance(jnp.eye(4), p1, p2)


@pytest.mark.slow
def test_points_before_both_cameras_are_not_behind():
    away = lambda x, y: jnp.arccos(
        jnp.sum(x * y, -1) / jnp.linalg.norm(x, axis=-1) / jnp.linalg.norm(y, axis=-1)
    )
    for seed in range(20):
        rotation, direction, p1, p2, *_ = scene(seed)
        np.testing.assert_allclose(angle_behind(rotation, direction, p1, p2), 0, atol=1e-7)
        # With the other sign no point fits: the nearest is infinitely far, or at the camera.
        x1, x2 = (jnp.concatenate([p, jnp.ones_like(p[:, :1])], axis=-1) for p in (p1, p2))
        ends = jnp.minimum(away(x2, x1 @ rotation.T), away(x2, -direction[None]))
        np.testing.assert_allclose(angle_behind(rotation, -direction, p1, p2), ends, atol=1e-7)
        first, second = triangulate(rotation, -direction, p1, p2)
        assert ((first < 0) | (second < 0)).all()
    # A ray in the epipole has no plane.
    both = jnp.zeros((1, 2)), jnp.ones((1, 2))
    epipole = jnp.array([0, 0, 1.0])
    np.testing.assert_array_equal(angle_behind(jnp.eye(3), epipole, *both), 0)
    slopes = jax.jacrev(angle_behind, argnums=(0, 1, 2, 3))(jnp.eye(3), epipole, *both)
    assert all(jnp.isfinite(slope).all() for slope in slopes)
