"""Heads: the z-buffer against ray casting, symmetries, what the factors change, bad input."""

import numpy as np
import pytest

from jaxcv.data.graphics import check_batches
from jaxcv.data.synthetic.head import (
    IDENTITY,
    NAMES,
    generate_head_batches,
    generate_heads,
    head_mesh,
    render_head,
)
from jaxcv.data.synthetic.rasterise import interpolate, rasterise

trimesh = pytest.importorskip("trimesh")


@pytest.fixture(scope="module")
def mesh():
    return head_mesh(np.random.default_rng(3).normal(size=len(IDENTITY)))


def test_z_buffer_sees_what_rays_hit(mesh):
    vertices, faces, _ = mesh
    vertices = vertices @ np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    solid = trimesh.Trimesh(vertices, faces, process=False)
    if solid.volume < 0:  # a mirrored head
        faces = faces[:, ::-1]
        solid = trimesh.Trimesh(vertices, faces, process=False)
    side, half = 64, 1.3
    raster = rasterise(vertices, faces, side, half)
    x = (np.arange(side) + 0.5) * 2 * half / side - half
    origin = np.stack(np.broadcast_arrays(x, -x[:, None], 5.0), axis=-1).reshape(-1, 3)
    down = np.broadcast_to([0.0, 0, -1], origin.shape)
    points, ray, _ = solid.ray.intersects_location(origin, down, multiple_hits=False)
    depth = np.full(side * side, -np.inf)
    depth[ray] = points[:, 2]
    seen = np.isfinite(raster.depth)
    assert (seen != np.isfinite(depth).reshape(side, side)).sum() <= 2
    both = seen & np.isfinite(depth).reshape(side, side)
    assert both.sum() > 1000
    np.testing.assert_allclose(raster.depth[both], depth.reshape(side, side)[both], atol=2e-3)
    place = interpolate(raster, faces, vertices)
    np.testing.assert_allclose(place[both][:, 2], raster.depth[both], atol=1e-9)
    columns, rows = np.meshgrid(x, -x)
    np.testing.assert_allclose(place[both][:, 0], columns[both], atol=1e-9)
    np.testing.assert_allclose(place[both][:, 1], rows[both], atol=1e-9)
    np.testing.assert_allclose(raster.weight[seen].sum(axis=-1), 1)


def test_a_square_covers_its_pixels_and_the_nearer_one_is_seen():
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    far, near = np.c_[corners, np.zeros(4)], np.c_[0.5 * corners, np.ones(4)]
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    raster = rasterise(np.concatenate([far, near]), np.concatenate([faces, faces + 4]), 8, 2.0)
    want = np.full((8, 8), -np.inf)
    want[2:6, 2:6] = 0
    want[3:5, 3:5] = 1
    np.testing.assert_array_equal(raster.depth, want)
    assert (rasterise(far, faces[:, ::-1], 8, 2.0).face == -1).all()
    assert (rasterise(far, faces[:, ::-1], 8, 2.0, cull=False).face >= 0).sum() == 16


def test_a_head_is_closed_and_its_mirror_image_is_the_other_side(mesh):
    vertices, faces, albedo = mesh
    solid = trimesh.Trimesh(vertices, faces)  # merges the poles
    solid.update_faces(solid.nondegenerate_faces())
    assert solid.volume > 0
    assert solid.is_watertight
    assert ((albedo > 0) & (albedo < 1)).all()
    left, right = render_head(mesh, 0.4, 0.2, 0.9), render_head(mesh, -0.4, 0.2, -0.9)
    assert np.abs(left - right).mean() > 0.05
    assert np.abs(left - right[:, ::-1]).mean() < 0.002


def test_what_the_factors_change(mesh):
    plain = render_head(mesh, 0.0, 0.0, 0.0)
    assert plain.shape == (48, 48)
    assert plain[0, 0] == 1
    seen = plain < 1
    assert 0.2 < seen.mean() < 0.6
    lit = render_head(mesh, 0.0, 0.0, 1.2)
    np.testing.assert_array_equal(lit < 1, seen)  # the light moves nothing
    middle = lit.shape[1] // 2
    assert (
        lit[seen & (np.arange(48) >= middle)].mean() > lit[seen & (np.arange(48) < middle)].mean()
    )
    for factors in ((0.5, 0, 0), (0, 0.3, 0)):
        assert np.abs(render_head(mesh, *factors) - plain).mean() > 0.01
    other = head_mesh(np.random.default_rng(4).normal(size=len(IDENTITY)))
    assert np.abs(render_head(other, 0, 0, 0) - plain).mean() > 0.01


def test_batches_change_in_one_factor():
    counts = {"azimuth": 2, "elevation": 1, "identity": 2, "light": 1}
    batches = generate_head_batches(0, counts, batch=3, side=16, ranges={"elevation": 0.6})
    check_batches(batches)
    assert batches.images.shape == (6, 3, 16, 16)
    assert [int((batches.kind == k).sum()) for k in range(4)] == [2, 1, 1, 2]
    for images, kind, factors in zip(*batches[:3], strict=True):
        assert (np.ptp(factors, axis=0) > 0).tolist() == [k == kind for k in range(4)]
        assert (np.abs(images.astype(float) - images[0]).mean(axis=(1, 2))[1:] > 0.5).all()
    again = generate_head_batches(0, counts, batch=3, side=16, ranges={"elevation": 0.6})
    np.testing.assert_array_equal(again.images, batches.images)
    other = generate_head_batches(1, counts, batch=3, side=16)
    assert not np.array_equal(other.images, batches.images)
    broken = batches.factors.copy()
    broken[0, 0, (batches.kind[0] + 1) % 4] += 1
    with pytest.raises(ValueError, match=r"`batches.factors`: expected only .* within batch 0"):
        check_batches(batches._replace(factors=broken))
    with pytest.raises(ValueError, match=r"expected batches of two or more, got 1"):
        check_batches(batches._replace(images=batches.images[:, :1]))
    with pytest.raises(ValueError, match=r"`batches.images`: expected 8 bits"):
        check_batches(batches._replace(images=batches.images / 255))
    with pytest.raises(ValueError, match=r"`batches.kind`: expected indices"):
        check_batches(batches._replace(kind=batches.kind + 1))


def test_images_of_a_few_heads():
    images = generate_heads(0, 12, identities=3, side=16, ranges={"azimuth": 0.0})
    assert images.images.shape == (12, 16, 16)
    assert images.names == NAMES
    np.testing.assert_array_equal(images.factors[:, 3], np.arange(12) % 3)
    assert (images.factors[:, 0] == 0).all()
    assert np.ptp(images.factors[:, 1]) > 0.2


def test_bad_input():
    with pytest.raises(ValueError, match="`counts`: expected some of"):
        generate_head_batches(0, {"colour": 3})
    with pytest.raises(ValueError, match="`batch`: expected two images or more, got 1"):
        generate_head_batches(0, {"light": 3}, batch=1)
    with pytest.raises(ValueError, match=r"`ranges\['azimuth'\]`: expected 0 to pi"):
        generate_heads(0, 3, identities=1, ranges={"azimuth": 90.0})
    with pytest.raises(ValueError, match="`identities`: expected 1 to 3"):
        generate_heads(0, 3)
    with pytest.raises(ValueError, match=r"`identity`: expected finite \(24,\), got \(3,\)"):
        head_mesh(np.zeros(3))
    with pytest.raises(ValueError, match=r"`vertices`: expected finite \(V, 3\)"):
        rasterise(np.full((3, 3), np.nan), np.array([[0, 1, 2]]), 8, 1.0)
