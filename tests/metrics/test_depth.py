"""DeMoN's metrics: its unit vector, its mask, and the angles of motions."""

import numpy as np
import pytest

from jaxcv.metrics.depth import depth_errors, mask_by_second_view
from jaxcv.metrics.motion import rotation_error, translation_error


def test_published_vector():
    target = np.array([[1, 2, 4, 0, np.nan, 5.0]])
    predicted = np.array([[1.1, 1.8, 5, 3, 2, 0]])
    out = depth_errors(predicted, target, np.array([0.0, 2.0, 0.0]))
    assert out["pixels"] == 3
    np.testing.assert_allclose(out["l1_inv"], 0.611784512, rtol=1e-8)
    np.testing.assert_allclose(out["sc_inv"], 0.135205613, rtol=1e-8)
    np.testing.assert_allclose(out["l1_rel"], 1.166666667, rtol=1e-8)


def test_invariances_and_samples_without_a_pixel():
    rng = np.random.default_rng(0)
    d, t = rng.uniform(1, 5, (2, 3, 4, 5))
    np.testing.assert_allclose(
        depth_errors(7 * d, t)["sc_inv"], depth_errors(d, t)["sc_inv"], rtol=1e-10
    )
    for values in list(depth_errors(t, t).values())[:3]:
        np.testing.assert_allclose(values, 0, atol=1e-12)
    t[1] = np.nan
    out = depth_errors(d, t)
    assert np.isnan(out["l1_rel"][1])
    assert np.isfinite(out["l1_rel"][[0, 2]]).all()
    with pytest.raises(ValueError, match=r"`predicted`: expected \(..., H, W\) and the same"):
        depth_errors(d, t[0])


def test_mask_is_the_field_of_view_of_the_second_camera():
    k = np.array([[10.0, 0, 9.5], [0, 10, 4.5], [0, 0, 1]])[None]
    depth = np.full((1, 10, 20), 2.0)
    motion = np.eye(4)[None].copy()
    motion[0, 0, 3] = 1.0  # five pixels to the right at depth 2
    seen = np.isfinite(mask_by_second_view(depth, k, motion))[0]
    assert seen[:, :15].all()
    assert not seen[:, 15:].any()
    behind = np.diag([-1.0, 1, -1, 1])[None]
    assert np.isnan(mask_by_second_view(depth, k, behind)).all()


@pytest.mark.parametrize("angle", [0.0, 1e-7, 0.3, 3.0, np.pi])
def test_angles(angle):
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    base = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    np.testing.assert_allclose(
        rotation_error(turn @ base, base), np.rad2deg(angle), rtol=1e-6, atol=2e-6
    )
    way = np.array([2.0, 0, 0])
    np.testing.assert_allclose(translation_error(3 * turn @ way, way), np.rad2deg(angle), rtol=1e-6)


def test_no_translation_is_no_direction():
    np.testing.assert_array_equal(translation_error(np.zeros((2, 3)), np.eye(3)[:2]), 90)
