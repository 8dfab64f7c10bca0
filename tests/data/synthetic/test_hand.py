"""Generated hands: exact depth, sound poses, people that differ, errors of the sensor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.data.hand import check_frames, pixels_of_joints
from jaxcv.data.skinned_hand import render_mesh
from jaxcv.data.synthetic.hand import (
    Sensor,
    draw_hand_pose,
    draw_hand_shape,
    generate_hands,
    overlap,
    render_hand,
    sense_depth,
)
from jaxcv.geometry.camera import pixel_rays
from jaxcv.geometry.hand import LIMITS, hand_cones, hand_joints, hand_points
from jaxcv.geometry.round_cones import distances
from tests.data.synthetic.ray_caster import meshes_of_cones

SIZE = (48, 56)
K = jnp.array([[100.0, 0, 27.5], [0, 100.0, 23.5], [0, 0, 1]])
CLEAN = Sensor(0.0, 0.0, 0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def hand():
    shape = draw_hand_shape(jax.random.key(0))
    pose = draw_hand_pose(jax.random.key(1), shape)
    points = hand_points(pose, shape)
    middle = jnp.mean(hand_joints(points), axis=0)
    points = points - middle + jnp.array([0.0, 0.0, 600.0])
    return shape, pose, points, jax.jit(render_hand, static_argnums=3)(points, shape.radii, K, SIZE)


def test_every_seen_point_lies_on_the_surface_and_nothing_before_it(hand):
    shape, _, points, view = hand
    cones = hand_cones(points, shape.radii)
    rays = pixel_rays(K, *SIZE)
    nearest = jax.jit(jax.vmap(jax.vmap(lambda p: jnp.min(distances(p, cones)))))
    hit = np.isfinite(view.depth)
    assert 0.1 < hit.mean() < 0.6
    at = nearest(jnp.where(hit, view.depth, 0)[..., None] * rays)
    np.testing.assert_allclose(np.asarray(at)[hit], 0, atol=0.02)
    for share in np.linspace(0.7, 0.999, 25):
        before = nearest(jnp.where(hit, view.depth * share, 500)[..., None] * rays)
        assert (np.asarray(before)[hit] > -0.02).all()
    for depth in np.linspace(450, 750, 61):  # rays that miss never come inside
        assert (np.asarray(nearest(depth * rays))[~hit] > -0.02).all()
    np.testing.assert_allclose(np.linalg.norm(view.normal, axis=-1)[hit], 1, rtol=1e-4)
    assert (np.sum(view.normal * rays, axis=-1)[hit] < 0.02).all()
    assert ((np.asarray(view.cone) >= 0) == hit).all()


@pytest.mark.slow
def test_rendering_is_that_of_an_independent_ray_caster(hand):
    shape, _, points, view = hand
    vertices, faces = meshes_of_cones(hand_cones(points, shape.radii))
    depth, normal = render_mesh(vertices, faces, np.asarray(pixel_rays(K, *SIZE), float))
    ours, theirs = np.isfinite(view.depth), np.isfinite(depth)
    assert (ours != theirs).sum() <= 2  # of a boundary of some hundred pixels
    # Where two cones cross a step is as deep as the pixel's ray is off by round-off.
    both = ours & theirs
    apart = np.abs(np.asarray(view.depth)[both] - depth[both])
    facing = -np.sum(view.normal * pixel_rays(K, *SIZE), axis=-1)[both]
    assert np.median(apart) < 0.005
    assert apart[facing > 0.1].max() < 0.1
    assert (apart > 0.1).sum() <= 2
    agree = np.sum(normal * np.asarray(view.normal), axis=-1)[both]
    assert np.quantile(agree, 0.02) > 0.999


@pytest.mark.slow
def test_poses_keep_the_limits_and_do_not_collide():
    shape = draw_hand_shape(jax.random.key(2))
    poses = jax.jit(jax.vmap(draw_hand_pose, (0, None)))(
        jax.random.split(jax.random.key(3), 20), shape
    )
    assert (poses.angles >= LIMITS[..., 0] - 1e-6).all()
    assert (poses.angles <= LIMITS[..., 1] + 1e-6).all()
    points = jax.vmap(hand_points, (0, None))(poses, shape)
    assert (jax.vmap(overlap, (0, None))(points, shape.radii) <= 3.01).all()
    palms = jax.vmap(hand_joints)(points)[:, -1]
    assert (np.abs(palms - np.array([0, 0, 800])) <= np.array([100, 80, 200]) + 1e-2).all()


def test_a_finger_in_another_is_noticed(hand):
    shape, _, points, _ = hand
    moved = points.at[6:8].set(points[10:12])  # the index finger's end into the middle finger's
    assert overlap(moved, shape.radii)[1] > 5


def test_sensor_without_errors_tells_the_depth(hand):
    *_, view = hand
    rays = pixel_rays(K, *SIZE)
    depth = sense_depth(jax.random.key(0), view, rays, CLEAN)
    np.testing.assert_array_equal(depth, jnp.where(jnp.isfinite(view.depth), view.depth, 0))
    seen = np.asarray(depth) > 0
    lost = np.asarray(sense_depth(jax.random.key(0), view, rays, CLEAN._replace(dropout=0.3))) == 0
    assert lost[seen].mean() == pytest.approx(0.3, abs=0.08)
    noisy = sense_depth(jax.random.key(0), view, rays, CLEAN._replace(noise=2.0))
    want = 2 * (600 / 800) ** 2
    assert np.std(np.asarray(noisy - depth)[seen]) == pytest.approx(want, rel=0.2)
    eaten = sense_depth(jax.random.key(0), view, rays, CLEAN._replace(edge=1.0))
    assert 0.3 < (np.asarray(eaten) > 0).sum() / seen.sum() < 0.95


def test_frames_are_sound_and_reproducible():
    frames = generate_hands(jax.random.key(5), 6, subjects=2, size=(80, 80))
    check_frames(frames)
    np.testing.assert_array_equal(frames.subject, [0, 1, 0, 1, 0, 1])
    again = generate_hands(jax.random.key(5), 6, subjects=2, size=(80, 80))
    jax.tree.map(np.testing.assert_array_equal, tuple(frames), tuple(again))
    bones = np.linalg.norm(frames.joints[:, 0] - frames.joints[:, 13], axis=-1)
    assert not np.allclose(bones[0], bones[1])
    wrist = np.linalg.norm(frames.joints[:, 11] - frames.joints[:, 12], axis=-1)
    np.testing.assert_allclose(wrist[:2], wrist[2:4], rtol=1e-4)  # a person keeps the sizes
    for i in range(6):
        u, v, z = pixels_of_joints(frames.joints[i], frames.intrinsics[i]).T
        inside = (u > 0) & (u < 79) & (v > 0) & (v < 79)
        assert inside.sum() > 8
        seen = frames.depth[i][v[inside].round().astype(int), u[inside].round().astype(int)]
        depths = z[inside][seen > 0]
        assert (seen[seen > 0] < depths + 30).all()  # the surface lies before the joint, or near
    with pytest.raises(ValueError, match="`subjects`: expected 1 to 3"):
        generate_hands(jax.random.key(0), 3, subjects=4)
