"""Cameras and the warp between two views."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from jaxcv.geometry import se3
from jaxcv.geometry.camera import (
    check_intrinsics,
    denormalise_intrinsics,
    pixel_rays,
    project,
    resize_intrinsics,
)
from jaxcv.geometry.warp import bilinear, warp_pixels

pytestmark = pytest.mark.optimised

K = np.array([[28.5, 0.4, 15.2], [0, -28.1, 11.7], [0, 0, 1]])


def test_rays_and_projection_are_inverse_to_each_other():
    with jax.enable_x64(True):
        rays = pixel_rays(jnp.asarray(K), 24, 32)
        u, v = project(3.7 * rays, K)
        np.testing.assert_allclose(u, np.broadcast_to(np.arange(32), (24, 32)), atol=1e-12)
        np.testing.assert_allclose(v, np.broadcast_to(np.arange(24)[:, None], (24, 32)), atol=1e-12)


def test_resizing_keeps_what_a_pixel_area_sees():
    """The corners of the image stay its corners; DeMoN's normalised K is one K at all sizes."""
    small = np.asarray(resize_intrinsics(K, 0.25))
    corner = lambda k, u, v: np.linalg.inv(k) @ [u, v, 1]
    np.testing.assert_allclose(corner(K, -0.5, -0.5), corner(small, -0.5, -0.5), atol=1e-6)
    np.testing.assert_allclose(corner(K, 31.5, 23.5), corner(small, 7.5, 5.5), atol=1e-6)
    normalised = (0.89115971, 1.18821287, 0.5, 0.5)
    large = denormalise_intrinsics(normalised, 480, 640)
    np.testing.assert_allclose(large[0, 0], 570.3422, atol=1e-4)
    quarter = resize_intrinsics(large, 0.25)
    np.testing.assert_allclose(quarter, denormalise_intrinsics(normalised, 120, 160), rtol=1e-6)


def test_bilinear_is_scipys_and_has_its_exact_slope():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        image = rng.normal(size=(7, 9, 2))
        u, v = rng.uniform(0, 8, 50), rng.uniform(0, 6, 50)
        value, du, dv = bilinear(jnp.asarray(image), u, v)
        for c in range(2):
            want = scipy.ndimage.map_coordinates(image[..., c], [v, u], order=1)
            np.testing.assert_allclose(value[:, c], want, atol=1e-12)
        h = 1e-7
        ahead = bilinear(jnp.asarray(image), u + h, v)[0] - value
        np.testing.assert_allclose(ahead / h, du, atol=1e-6)
        ahead = bilinear(jnp.asarray(image), u, v + h)[0] - value
        np.testing.assert_allclose(ahead / h, dv, atol=1e-6)
        corner, _, _ = bilinear(jnp.asarray(image), jnp.array([8.0]), jnp.array([6.0]))
        np.testing.assert_allclose(corner[0], image[6, 8], atol=1e-12)


def test_warp_is_that_of_points_and_finite_everywhere():
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        z = rng.uniform(0.05, 1.2, (24, 32))
        motion = np.asarray(se3.exp(jnp.array([0.3, -0.2, 0.4, 0.1, 0.05, -0.1])))
        rays = pixel_rays(jnp.asarray(K), 24, 32)
        warp = warp_pixels(jnp.asarray(z), motion, rays, K, (24, 32))
        points = np.asarray(rays) / z[..., None] @ motion[:3, :3].T + motion[:3, 3]
        u, v = project(points, K)
        seen = np.asarray(warp.visible)
        assert 0.2 < seen.mean() < 1
        np.testing.assert_allclose(warp.u[seen], u[seen], atol=1e-10)
        np.testing.assert_allclose(warp.v[seen], v[seen], atol=1e-10)
        behind = np.diag([1.0, -1.0, -1.0, 1.0])  # looks the other way
        warp = warp_pixels(jnp.asarray(z), behind, rays, K, (24, 32))
        assert not warp.visible.any()
        assert np.isfinite(warp.u).all()
        far = warp_pixels(jnp.zeros((24, 32)), np.eye(4), rays, K, (24, 32))
        np.testing.assert_allclose(far.u[3], np.arange(32), atol=1e-10)


@pytest.mark.parametrize(
    ("k", "message"),
    [
        (K.T, r"expected \[\[fx, s, cx\], \[0, fy, cy\], \[0, 0, 1\]\].*transposed"),
        (2 * K, "Divide by K"),
        (np.diag([0.0, 1, 1]), "focal lengths other than zero"),
        (np.full((3, 3), np.nan), "expected"),
        (np.eye(4), r"expected \(..., 3, 3\), got \(4, 4\)"),
    ],
)
def test_what_is_no_camera_matrix(k, message):
    with pytest.raises(ValueError, match=rf"`K`: .*{message}"):
        check_intrinsics("K", k)
    np.testing.assert_array_equal(check_intrinsics("K", K), K)
