"""Pairs of images with relative poses: images that pairs share, what is refused."""

import numpy as np
import pytest

from jaxcv.data.relative_pose import Gathered, PosePairs, check_pose_pairs, swapped


def test_gathered_is_what_indexing_gives():
    array, rows = np.arange(24).reshape(4, 3, 2), [3, 0, 3]
    own = Gathered(array, rows)
    assert (own.shape, own.dtype, len(own)) == ((3, 3, 2), array.dtype, 3)
    np.testing.assert_array_equal(np.asarray(own), array[rows])
    np.testing.assert_array_equal(own[1:], array[rows][1:])
    np.testing.assert_array_equal(np.asarray(own.take([2, 1])), array[[3, 0]])


def test_gathered_pairs_are_checked_and_swapped():
    images = np.zeros((2, 8, 8, 3), np.uint8)
    k, r = np.tile(np.eye(3), (1, 1, 1)), np.eye(3)[None]
    one = Gathered(images, [0]), Gathered(images, [1])
    pairs = PosePairs(*one, k, k, r, np.array([[0, 0, 1.0]]), np.ones(1, bool), np.ones(1))
    check_pose_pairs(pairs)
    assert swapped(pairs).first is pairs.second
    grey = pairs._replace(second=Gathered(images.astype(np.float32), [1]))
    with pytest.raises(ValueError, match=r"pairs.second.*expected 8 bits \(uint8\), got float32"):
        check_pose_pairs(grey)
