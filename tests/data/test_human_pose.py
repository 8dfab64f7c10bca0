"""Generated people, and the checks of pose frames."""

import jax
import numpy as np
import pytest

from jaxcv.data.human_pose import check_frames
from jaxcv.data.synthetic.human_pose import ACTIONS, generate, joint_positions
from jaxcv.energies.human_pose import LIMBS
from jaxcv.geometry.camera import check_rotations


def people(**changes):
    return generate(jax.random.key(0), **({"num_subjects": 4, "clips": 1, "frames": 8} | changes))


def lengths(joints):
    a, b = zip(*LIMBS, strict=True)
    return np.linalg.norm(joints[:, list(a)] - joints[:, list(b)], axis=-1)


def test_limbs_keep_their_lengths_and_differ_between_people():
    frames = people()
    assert frames.joints.shape == (4 * len(ACTIONS) * 8, 17, 3)
    means = []
    for s in range(4):
        own = lengths(frames.joints[frames.subject == s])
        np.testing.assert_allclose(own, own[:1].repeat(len(own), 0), rtol=1e-9)
        means.append(own[0])
    assert np.min(np.std(means, axis=0)) > 1
    right, left = ([LIMBS.index(x) for x in y] for y in (((1, 2), (14, 15)), ((4, 5), (11, 12))))
    assert np.max(np.abs(np.array(means)[:, right] / np.array(means)[:, left] - 1)) < 0.05


def test_feet_stand_on_the_floor_and_joints_bend_the_right_way():
    frames = people()
    np.testing.assert_allclose(frames.joints[:, [3, 6], 2].min(axis=1), 0, atol=1e-9)
    offsets = np.zeros((17, 3))
    for parent, child in LIMBS:
        offsets[child] = [0, 0, 100] if child in (7, 8, 9, 10) else [0, 0, -100]
        del parent
    angles = {"right_knee": 90.0, "left_elbow": 90.0, "spine_flex": 60.0, "right_hip_flex": 45.0}
    pose = joint_positions(angles, offsets, np.zeros(1), np.zeros((1, 2)))[0]
    assert pose[3, 1] > pose[2, 1] + 50  # the heel behind the knee; the person looks along -y
    assert pose[13, 1] < pose[12, 1] - 50  # the hand before the elbow
    assert pose[10, 1] < pose[0, 1] - 100  # the head before the hip
    assert pose[2, 1] < pose[1, 1] - 50  # the knee before the hip
    beyond = joint_positions({"right_knee": -90.0}, offsets, np.zeros(1), np.zeros((1, 2)))[0]
    straight = joint_positions({}, offsets, np.zeros(1), np.zeros((1, 2)))[0]
    np.testing.assert_allclose(beyond, straight)


def test_no_linear_model_contains_the_poses():
    """Limb lengths are fixed; the 25 leading components of the poses of one person bend them."""
    frames = people(clips=6, frames=12)
    own = frames.joints[frames.subject == 0]
    centred = (own - own.mean(1, keepdims=True)).reshape(len(own), -1)
    half = np.arange(len(centred)) % 24 < 12  # other clips
    mean = centred[half].mean(0)
    _, vectors = np.linalg.eigh(np.cov(centred[half].T))
    basis = vectors[:, ::-1][:, :25]
    near = mean + (centred[~half] - mean) @ basis @ basis.T
    stretch = lengths(near.reshape(-1, 17, 3)) / lengths(own[~half]) - 1
    assert np.mean(np.abs(stretch)) > 0.01
    assert np.quantile(np.abs(stretch), 0.95) > 0.05


def test_exact_cameras_see_the_joints():
    frames = people(noise=0.0, outliers=0.0, swaps=0.0)
    assert frames.visible.sum() == frames.visible.size * 16 / 17
    # A pinhole: the points of a view determine the joints up to depth along known rays.
    s, rotations = 0, frames.cameras[0]
    own = frames.subject == s
    rays = np.concatenate(
        [(frames.points[own] - 500) / 1145, np.ones((own.sum(), 4, 17, 1))], axis=-1
    )
    world = np.einsum("vab,tvja->tvjb", rotations, rays)
    # Two views triangulate a third: solve joints and centres by linear least squares of one frame.
    rows, right = [], []
    for v in range(4):
        for t, j in ((0, 0), (0, 5), (1, 3), (2, 10), (3, 13), (4, 16)):
            d = world[t, v, j] / np.linalg.norm(world[t, v, j])
            row = np.zeros((3, 12))
            row[:, 3 * v : 3 * v + 3] = -(np.eye(3) - np.outer(d, d))
            rows.append(row)
            right.append(-(np.eye(3) - np.outer(d, d)) @ frames.joints[own][t, j])
    solution, residual, rank, _ = np.linalg.lstsq(
        np.concatenate(rows), np.concatenate(right), rcond=None
    )
    assert rank == 12
    np.testing.assert_allclose(
        np.linalg.norm(solution.reshape(4, 3)[:, :2], axis=1), 5200, rtol=0.1
    )
    assert np.sqrt(residual.sum() / 72) < 1e-6


def test_detections_are_wrong_in_the_ways_that_are_asked_for():
    clean = people(noise=0.0, outliers=0.0, swaps=0.0)
    swapped = people(noise=0.0, outliers=0.0, swaps=0.5)
    legs = np.all(swapped.points[:, :, [1, 2, 3]] == clean.points[:, :, [4, 5, 6]], axis=(2, 3))
    assert 0.4 < legs.mean() < 0.6
    lost = people(noise=0.0, outliers=0.2, swaps=0.0)
    moved = np.any(lost.points != clean.points, axis=-1)
    assert 0.15 < moved.mean() < 0.35
    assert 0.3 < np.mean(~lost.visible[..., :9][moved[..., :9]]) < 0.5
    noisy = people(noise=3.0, outliers=0.0, swaps=0.0)
    error = np.abs(noisy.points - clean.points)[:, :, [0, 1, 4, 7, 8]].ravel()
    assert np.quantile(error, 0.999) / np.median(error) > 8  # a Gaussian has 4.9


def test_the_same_key_gives_the_same_people():
    a, b = people(), people()
    np.testing.assert_array_equal(a.points, b.points)
    other = generate(jax.random.key(1), num_subjects=4, clips=1, frames=8)
    assert np.any(other.points != a.points)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_subjects": 0}, "`num_subjects`"),
        ({"outliers": 0.9}, "`outliers`: expected a fraction"),
        ({"noise": -1.0}, "`noise`"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        people(**changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f._replace(joints=f.joints[:, :16]), r"frames.joints`: expected"),
        (lambda f: f._replace(cameras=f.cameras[:, :3]), r"frames.points`: expected"),
        (lambda f: f._replace(cameras=2 * f.cameras), "expected rotations"),
        (lambda f: f._replace(joints=np.where(True, np.nan, f.joints)), r"frames.joints\[0\]"),
        (lambda f: f._replace(points=np.nan * f.points), "Say visible=False"),
        (lambda f: f._replace(joints=f.joints[:, ::-1]), "joint 10 the head"),
        (lambda f: f._replace(joints=f.joints * [1, 1, -1]), "the head below the feet"),
        (lambda f: f._replace(subject=f.subject + 9), "frames.subject"),
    ],
)
def test_bad_frames(change, message):
    with pytest.raises(ValueError, match=message):
        check_frames(change(people()))


def test_points_that_are_not_visible_may_be_anything():
    frames = people()
    points = np.where(frames.visible[..., None], frames.points, np.nan)
    check_frames(frames._replace(points=points))
    check_rotations("cameras", frames.cameras.mean(0), tolerance=0.1)
