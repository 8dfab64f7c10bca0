"""The kinematic hand: lengths, rigid motion, where fingers bend, order of the scored joints."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.data.hand import JOINTS
from jaxcv.geometry import so3
from jaxcv.geometry.hand import (
    CONES,
    FINGERS,
    LIMITS,
    HandPose,
    hand_cones,
    hand_joints,
    hand_points,
    mean_shape,
    turned_hand,
)

SHAPE = mean_shape()
FLAT = HandPose(jnp.eye(3), jnp.zeros(3), jnp.zeros((5, 4)))


def bent(key):
    share = jax.random.uniform(key, (5, 4))
    return FLAT._replace(angles=LIMITS[..., 0] + share * (LIMITS[..., 1] - LIMITS[..., 0]))


def test_bones_keep_their_lengths():
    for seed in range(3):
        points = hand_points(bent(jax.random.key(seed)), SHAPE)[:20].reshape(5, 4, 3)
        lengths = jnp.linalg.norm(points[:, 1:] - points[:, :-1], axis=-1)
        np.testing.assert_allclose(lengths, SHAPE.lengths, rtol=1e-4)


def test_a_rigid_motion_moves_all_points():
    pose = bent(jax.random.key(3))
    rotation, move = so3.exp(jnp.array([0.3, -1.0, 0.5])), jnp.array([10.0, -20.0, 700.0])
    want = hand_points(pose, SHAPE) @ rotation.T + move
    moved = hand_points(pose._replace(rotation=rotation, translation=move), SHAPE)
    np.testing.assert_allclose(moved, want, rtol=1e-4, atol=1e-3)
    twist = jnp.array([1.0, 2.0, 3.0, 0.2, 0.1, -0.3])
    turned = turned_hand(pose, twist, jnp.ones((5, 4)))
    np.testing.assert_allclose(turned.rotation, so3.exp(twist[3:]) @ pose.rotation, atol=1e-6)
    np.testing.assert_allclose(turned.translation, twist[:3])
    np.testing.assert_allclose(turned.angles, pose.angles + 1)


def test_fingers_bend_out_of_the_palm_and_do_not_cross_when_flat():
    flat = hand_points(FLAT, SHAPE)[:20].reshape(5, 4, 3)
    assert (np.diff(flat[1:, 3, 0]) < -10).all()  # from index to pinky
    np.testing.assert_allclose(flat[1:, :, 2], 0, atol=1e-4)
    for finger in range(1, 5):
        for angle in (0, 2, 3):
            pose = FLAT._replace(angles=FLAT.angles.at[finger, angle].set(0.5))
            moved = hand_points(pose, SHAPE)[:20].reshape(5, 4, 3) - flat
            assert moved[finger, 3, 2] > 5
            others = np.delete(np.arange(5), finger)
            np.testing.assert_allclose(moved[others], 0, atol=1e-4)
    thumb = FLAT._replace(angles=FLAT.angles.at[0, 0].set(0.5))
    move = hand_points(thumb, SHAPE)[3] - flat[0, 3]
    assert move[0] < -10  # over the palm
    assert move[2] > 5


def test_order_of_the_scored_joints():
    points = hand_points(FLAT, SHAPE)
    joints = dict(zip(JOINTS, hand_joints(points), strict=True))
    assert set(FINGERS) == {"thumb", "index", "middle", "ring", "pinky"}
    for letter in "PRMI":
        assert joints[f"{letter}1"][1] > joints[f"{letter}2"][1] + 15  # the tip is further out
    assert joints["T1"][0] > joints["T2"][0] > joints["T3"][0]
    assert joints["P1"][0] < joints["R1"][0] < joints["M1"][0] < joints["I1"][0]
    assert joints["W1"][0] == -joints["W2"][0] == 14
    assert 40 < joints["C"][1] < 70


def test_surface_has_a_cone_for_every_pair_and_slopes_are_finite():
    points = hand_points(FLAT, SHAPE)
    cones = hand_cones(points, SHAPE.radii)
    assert cones.a.shape == (len(CONES), 3)
    assert set(CONES.ravel()) == set(range(28))
    loss = lambda pose: jnp.sum(hand_joints(hand_points(pose, SHAPE)) ** 2)
    slopes = jax.jit(jax.grad(loss))(FLAT)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))
