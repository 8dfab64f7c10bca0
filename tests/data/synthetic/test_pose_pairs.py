"""Pairs of views far apart: labels that the images bear out, texture, what a pair depends on."""

import jax
import numpy as np
import pytest

from jaxcv.data.relative_pose import check_pose_pairs, swapped
from jaxcv.data.synthetic import pose_pairs
from jaxcv.data.synthetic.pose_pairs import PairRanges, generate_pose_pairs
from jaxcv.data.synthetic.stereo import draw_scene
from jaxcv.geometry import so3
from jaxcv.metrics.motion import rotation_error, translation_error

CLEAR = PairRanges(angle=0.35, blur=(0.5, 0.8), noise=0.002, exposure=0.0, turn=0.03)


@pytest.fixture(scope="module")
def pairs():
    return generate_pose_pairs(0, 8, (48, 64))


@pytest.mark.slow
def test_labels_are_what_opencv_finds():
    cv2 = pytest.importorskip("cv2")
    pairs = generate_pose_pairs(3, 6, (240, 320), textureless=0.0, ranges=CLEAR)
    found = []
    for first, second, k, rotation, direction in zip(
        pairs.first, pairs.second, pairs.intrinsics1, pairs.rotation, pairs.direction, strict=True
    ):
        sift = cv2.SIFT_create(3000)
        keys = [
            sift.detectAndCompute(image.mean(axis=2).astype(np.uint8), None)
            for image in (first, second)
        ]
        matches = cv2.BFMatcher().knnMatch(keys[0][1], keys[1][1], k=2)
        good = [m for m, n in matches if m.distance < 0.75 * n.distance]
        p1, p2 = (
            np.array([keys[i][0][getattr(m, name)].pt for m in good])
            for i, name in enumerate(("queryIdx", "trainIdx"))
        )
        cv2.setRNGSeed(0)
        essential, mask = cv2.findEssentialMat(p1, p2, k.astype(float), cv2.RANSAC, 0.9999, 1.0)
        _, r, t, _ = cv2.recoverPose(essential, p1, p2, k.astype(float), mask=mask)
        found.append((rotation_error(r, rotation), translation_error(t.ravel(), direction)))
    errors = np.median(found, axis=0)
    assert errors[0] < 1.5  # [deg]; the other order or sign of R or t would be far off
    assert errors[1] < 12


def test_values_are_sound(pairs):
    check_pose_pairs(pairs)
    assert pairs.textured.sum() == 4
    spread = pairs.first.astype(float).std(axis=(1, 2)).mean(axis=1)
    assert spread[pairs.textured].mean() > 1.3 * spread[~pairs.textured].mean()
    assert ((pairs.overlap > 0.05) & (pairs.overlap <= 1)).all()
    angles = rotation_error(pairs.rotation, np.eye(3))
    assert np.ptp(angles) > 5
    assert len(np.unique(pairs.intrinsics1[:, 0, 0])) == 8


@pytest.mark.slow
def test_the_second_camera_stays_in_the_room():
    axis = np.array([0.3, np.sqrt(1 - 0.09), 0.0], np.float32)
    target = np.array([0.0, 0.0, 3.0], np.float32)
    shares = []
    for seed in range(12):
        scene = draw_scene(jax.random.key(seed))
        angle = float(pose_pairs._indoors(scene, 1.2, axis, target, 1.1))
        place = target - 1.1 * so3.exp(angle * axis).T @ target  # looks at the target
        local = scene.turn[0] @ (place - scene.centre[0])
        assert (np.abs(local) < scene.half[0] - 0.14).all() or angle < 0.07
        shares.append(angle / 1.2)
    assert min(shares) < 0.7
    assert max(shares) > 0.7


def test_a_pair_depends_on_its_seed_and_number(pairs):
    again = generate_pose_pairs(0, 3, (48, 64))
    for one, other in zip(again, pairs.take(slice(0, 3)), strict=True):
        np.testing.assert_array_equal(one, other)
    other = generate_pose_pairs(1, 1, (48, 64))
    assert not np.array_equal(other.first[0], pairs.first[0])


def test_swapping_twice_is_nothing(pairs):
    once = swapped(pairs)
    check_pose_pairs(once)
    twice = swapped(once)
    np.testing.assert_allclose(twice.rotation, pairs.rotation, atol=1e-6)
    np.testing.assert_allclose(twice.direction, pairs.direction, atol=1e-6)
    x = np.array([0.3, -0.2, 2.0])
    there = pairs.rotation[0] @ x + 0.7 * pairs.direction[0]
    back = once.rotation[0] @ there + 0.7 * once.direction[0]
    np.testing.assert_allclose(back, x, atol=1e-5)


def test_bad_input(pairs):
    for changes, message in (
        ({"first": pairs.first / 255}, r"`pairs.first`: expected 8 bits"),
        ({"second": pairs.second[:, 1:]}, r"`pairs.second`: expected \(8, 48, 64, 3\)"),
        ({"rotation": -pairs.rotation}, r"`pairs.rotation\[0\]`: expected rotations"),
        ({"direction": 0 * pairs.direction}, r"`pairs.direction\[0\]`: expected directions of"),
        ({"intrinsics1": np.swapaxes(pairs.intrinsics1, 1, 2)}, "`pairs.intrinsics1`"),
    ):
        with pytest.raises(ValueError, match=message):
            check_pose_pairs(pairs._replace(**changes))
    for arguments, message in (
        ((0, 0), "`count`: expected 1 or more"), ((0, 1, (4, 4)), "`shape`: expected 8 pixels")
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            generate_pose_pairs(*arguments)
    with pytest.raises(ValueError, match="`textureless`: expected 0 to 1"):
        generate_pose_pairs(0, 1, textureless=2.0)
