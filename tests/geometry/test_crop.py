"""Crops of a cube: inverses, closed forms, what is missing, parity of jit and vmap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.geometry.camera import project, unproject
from jaxcv.geometry.crop import (
    centre_of_mass,
    cube_points,
    cube_window,
    depth_crop,
    image_crop,
    in_cube,
    of_cube,
    to_crop,
    to_image,
)

K = jnp.array([[100.0, 0, 31.5], [0, -100.0, 23.5], [0, 0, 1]])
CENTRE = jnp.array([0.0, 0.0, 1000.0])


def test_points_of_pixels_and_back():
    points = jax.random.normal(jax.random.key(0), (5, 3)) * 50 + CENTRE
    u, v = project(points, K)
    np.testing.assert_allclose(unproject(u, v, points[:, 2], K), points, rtol=1e-4, atol=1e-3)


def test_window_of_a_cube():
    window = cube_window(CENTRE, K, 200.0)
    np.testing.assert_array_equal(window.start, [22, 14])  # 31.5 - 10, 23.5 - 10
    np.testing.assert_array_equal(window.size, [20, 20])
    pixels = jnp.array([[0.0, 0.0], [3.5, 17.2]])
    np.testing.assert_allclose(to_crop(to_image(pixels, window, 32), window, 32), pixels, atol=1e-5)
    # The outer edges of the crop are those of the window.
    np.testing.assert_allclose(to_image(jnp.array([-0.5, 31.5]), window, 32), [21.5, 33.5])


def test_crop_of_whole_pixels_is_a_copy():
    depth = 1000 + jax.random.uniform(jax.random.key(1), (48, 64), minval=-90, maxval=90)
    color = jax.random.uniform(jax.random.key(2), (48, 64, 3))
    window = cube_window(CENTRE, K, 200.0)
    crop, mask = depth_crop(depth, CENTRE, window, 200.0, 20)
    np.testing.assert_allclose(crop, (depth[14:34, 22:42] - 1000) / 100, atol=1e-4)
    assert mask.all()
    np.testing.assert_allclose(image_crop(color, window, 20), color[14:34, 22:42], atol=1e-6)


def test_what_is_not_in_the_cube():
    depth = jnp.full((48, 64), 1000.0)
    values = {(20, 30): 0.0, (20, 31): jnp.nan, (21, 30): 1150.0, (21, 31): 850.0, (22, 30): 1100.0}
    for place, value in values.items():
        depth = depth.at[place].set(value)
    window = cube_window(CENTRE, K, 200.0)
    crop, mask = depth_crop(depth, CENTRE, window, 200.0, 20)
    found = {place: float(crop[place[0] - 14, place[1] - 22]) for place in values}
    assert list(found.values()) == [1, 1, 1, -1, 1]
    assert int((~mask).sum()) == 4  # the front of the cube belongs to it
    aside = jnp.array([-320.0, 0.0, 1000.0])
    window = cube_window(aside, K, 200.0)
    crop, mask = depth_crop(jnp.full((48, 64), 1000.0), aside, window, 200.0, 20)
    outside = np.asarray(window.start[0] + jnp.arange(20) < 0)
    assert outside.any()
    assert (np.asarray(crop)[:, outside] == 1).all()
    assert np.asarray(mask)[:, ~outside].all()
    assert (image_crop(jnp.ones((48, 64, 3)), window, 20)[:, outside] == 0).all()


def test_parity_of_jit_and_vmap():
    depth = 1000 + 50 * jax.random.normal(jax.random.key(3), (3, 48, 64))
    centres = CENTRE + 30 * jax.random.normal(jax.random.key(4), (3, 3))

    def crop(depth, centre):
        return depth_crop(depth, centre, cube_window(centre, K, 150.0), 150.0, 16)[0]

    together = jax.jit(jax.vmap(crop))(depth, centres)
    for i in range(3):
        np.testing.assert_allclose(together[i], crop(depth[i], centres[i]), atol=1e-5)


def test_centre_of_mass():
    depth = jnp.zeros((48, 64)).at[10:13, 20:25].set(800.0).at[40, 60].set(5000.0)
    point, count = centre_of_mass(depth, K, 100.0, 2000.0)
    assert count == 15
    np.testing.assert_allclose(point, unproject(22.0, 11.0, 800.0, K), rtol=1e-6)
    point, count = centre_of_mass(depth, K, 0.0, 100.0)
    assert count == 0
    assert np.isnan(point).all()


@pytest.mark.parametrize("cube", [150.0, 300.0])
def test_cube_coordinates(cube):
    points = jax.random.normal(jax.random.key(5), (14, 3)) * 40 + CENTRE
    np.testing.assert_allclose(
        of_cube(in_cube(points, CENTRE, cube), CENTRE, cube), points, rtol=1e-6
    )
    corner = CENTRE + cube / 2
    np.testing.assert_allclose(in_cube(corner, CENTRE, cube), 1, rtol=1e-6)


def noisy_depth(seed, missing=0.2):
    rng = np.random.default_rng(seed)
    depth = rng.uniform(880, 1120, (48, 64))
    depth[rng.random(depth.shape) < missing] = 0
    depth[rng.random(depth.shape) < missing] = np.nan
    return jnp.asarray(depth, jnp.float32)


def points_within(depth, cube):
    """All points of an image in the cube around CENTRE, in NumPy."""
    v, u = np.nonzero(np.isfinite(depth) & (np.asarray(depth) > 0))
    points = np.stack(unproject(u, v, np.asarray(depth)[v, u], K).T, axis=-1)
    return points[(np.abs(points - np.asarray(CENTRE)) <= cube / 2).all(axis=1)]


@pytest.mark.parametrize("count", [8, 100])
def test_points_of_a_cube_are_distinct_inside_and_spread(count):
    cube = 180.0
    for seed in range(5):
        depth = noisy_depth(seed)
        points = np.asarray(jax.jit(cube_points, static_argnums=4)(depth, K, CENTRE, cube, count))
        every = points_within(depth, cube)
        assert len(every) > count
        assert len(np.unique(points, axis=0)) == count
        apart = np.abs(points[:, None] - every).max(axis=-1)
        assert apart.min(axis=1).max() < 1e-3
        # One of every n / count consecutive pixels: gaps of ranks are below twice that.
        ranks = apart.argmin(axis=1)
        assert (np.diff(ranks) > 0).all()
        assert np.diff(ranks).max() <= 2 * -(-len(every) // count)


def test_few_points_are_repeated_and_none_is_zero():
    depth = jnp.zeros((48, 64)).at[20, 30].set(1000.0).at[25, 35].set(1010.0)
    points = cube_points(depth, K, CENTRE, 200.0, 7)
    assert sorted(set(np.asarray(points)[:, 2].tolist())) == [1000.0, 1010.0]
    np.testing.assert_array_equal(points[:3], np.tile(points[0], (3, 1)))
    np.testing.assert_array_equal(points[3:], np.tile(points[3], (4, 1)))
    assert (cube_points(jnp.zeros((48, 64)), K, CENTRE, 200.0, 7) == 0).all()
    stacked = jnp.stack([depth, jnp.zeros((48, 64)), noisy_depth(0)])
    many = jax.vmap(cube_points, (0, None, None, None, None))(stacked, K, CENTRE, 200.0, 7)
    np.testing.assert_array_equal(many[0], points)
    assert (many[1] == 0).all()
    with pytest.raises(ValueError, match="`depth`: expected fewer than 42949672 pixels for 100"):
        jax.eval_shape(
            lambda d: cube_points(d, K, CENTRE, 200.0, 100),
            jax.ShapeDtypeStruct((10_000, 5_000), jnp.float32),
        )
