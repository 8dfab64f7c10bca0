"""Heads: the z-buffer against ray casting, symmetries, what the factors change, bad input."""

import numpy as np
import pytest

from jaxcv.data.graphics import check_batches
from jaxcv.data.synthetic.head import (
    _PIVOT,
    IDENTITY,
    WHOLE_FRAME,
    Heads,
    head_mesh,
    render_head,
)
from jaxcv.data.synthetic.rasterise import interpolate, rasterise
from jaxcv.data.synthetic.scenes import generate_batches, turn

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
    drawn = lambda *angles: render_head(mesh, *angles) / 255
    left, right = drawn(0.4, 0.2, 0.9), drawn(-0.4, 0.2, -0.9)
    assert np.abs(left - right).mean() > 0.05
    assert np.abs(left - right[:, ::-1]).mean() < 0.004  # 8 bits


def test_what_the_factors_change(mesh):
    drawn = lambda *angles: render_head(mesh, *angles) / 255
    plain = drawn(0.0, 0.0, 0.0)
    assert plain.shape == (48, 48)
    assert plain[0, 0] == 1
    seen = plain < 1
    assert 0.2 < seen.mean() < 0.6
    lit = drawn(0.0, 0.0, 1.2)
    np.testing.assert_array_equal(lit < 1, seen)  # the light moves nothing
    right = np.arange(48) >= 24
    assert lit[seen & right].mean() > lit[seen & ~right].mean()
    for factors in ((0.5, 0, 0), (0, 0.3, 0)):
        assert np.abs(drawn(*factors) - plain).mean() > 0.01
    middle = lambda image: (np.arange(48) * (image < 1)).sum() / (image < 1).sum()
    assert middle(drawn(0.6, 0, 0)) > middle(plain) + 1  # turned to the right, about the neck
    assert middle(drawn(0, 0.5, 0).T) > middle(plain.T) + 1  # nodding: down
    other = head_mesh(np.random.default_rng(4).normal(size=len(IDENTITY)))
    assert np.abs(render_head(other, 0, 0, 0) / 255 - plain).mean() > 0.01


def outermost(angles, axis, sign):
    """The identity, within two standard deviations, that reaches furthest along an image axis."""
    identity = np.zeros(len(IDENTITY))

    def reach(each):
        vertices = head_mesh(each, 31, 48)[0] - _PIVOT
        return (sign * (vertices @ turn(*angles).T)[:, axis]).max()

    for k in range(len(IDENTITY)):
        ends = [np.where(np.arange(len(IDENTITY)) == k, end, identity) for end in (-2.0, 2.0)]
        identity = max(ends, key=reach)
    return identity


@pytest.mark.parametrize("azimuth", [-1.5, 0.0, 1.5])
def test_no_head_is_cut_in_the_whole_frame(azimuth):
    """The furthest vertex of the largest heads lies inside the border pixels at all angles."""
    rim = WHOLE_FRAME * (1 - 2 / 48)
    grid = [(a, e) for a in np.linspace(-1.5, 1.5, 13) for e in np.linspace(-0.6, 0.6, 5)]
    for elevation in (-0.6, 0.6):
        for axis, sign in ((0, 1), (0, -1), (1, 1), (1, -1)):
            identity = outermost((azimuth, elevation), axis, sign)
            mesh = head_mesh(identity)
            turned = [(mesh[0] - _PIVOT) @ turn(*angles).T for angles in grid]
            assert np.abs(np.array(turned)[..., :2]).max() < rim
            assert np.linalg.norm(turned[0], axis=1).max() < rim  # at any other angle, too
            image = render_head(mesh, azimuth, elevation, 0.0, 48, WHOLE_FRAME)
            border = np.ones((48, 48), bool)
            border[1:-1, 1:-1] = False
            assert (image[border] == 255).all()
    wide = head_mesh(outermost((1.5, 0.0), 0, 1))
    assert (render_head(wide, 1.5, 0.0, 0.0)[:, -1] < 255).any()  # the narrow frame cuts it


def test_batches_change_in_one_factor():
    counts = {"azimuth": 2, "elevation": 1, "identity": 2, "light": 1}
    heads = Heads(elevation=0.6, side=16)
    batches = generate_batches(heads, 0, counts, size=3)
    check_batches(batches)
    assert batches.images.shape == (6, 3, 16, 16)
    assert [int((batches.kind == k).sum()) for k in range(4)] == [2, 1, 1, 2]
    for images, kind, factors in zip(*batches[:3], strict=True):
        assert (np.ptp(factors, axis=0) > 0).tolist() == [k == kind for k in range(4)]
        assert (np.abs(images.astype(float) - images[0]).mean(axis=(1, 2))[1:] > 0.5).all()
    again = generate_batches(heads, 0, counts, size=3)
    np.testing.assert_array_equal(again.images, batches.images)
    other = generate_batches(heads, 1, counts, size=3)
    assert not np.array_equal(other.images, batches.images)
    broken = batches.factors.copy()
    broken[0, 0, (batches.kind[0] + 1) % 4] += 1
    with pytest.raises(ValueError, match=r"`batches.factors`: expected only .* within batch 0"):
        check_batches(batches._replace(factors=broken))
    unlabelled = batches.factors.copy()
    unlabelled[1:3] = np.nan
    check_batches(batches._replace(factors=unlabelled))
    assert (
        batches._replace(factors=unlabelled).labelled.tolist() == [True, False, False] + [True] * 3
    )
    unlabelled[1, 0] = 0.0
    with pytest.raises(ValueError, match=r"`batches.factors`: expected finite values, or nan"):
        check_batches(batches._replace(factors=unlabelled))
    with pytest.raises(ValueError, match=r"expected batches of two or more, got 1"):
        check_batches(batches._replace(images=batches.images[:, :1]))
    with pytest.raises(ValueError, match=r"`batches.images`: expected 8 bits"):
        check_batches(batches._replace(images=batches.images / 255))
    with pytest.raises(ValueError, match=r"`batches.kind`: expected some of \[0, 1, 2, 3\]"):
        check_batches(batches._replace(kind=batches.kind + 1))


def test_images_of_a_few_heads():
    images = Heads(azimuth=0.0, side=16).images(0, 12, 3)
    assert images.images.shape == (12, 16, 16)
    assert images.names == Heads.names
    np.testing.assert_array_equal(images.factors[:, 3], np.arange(12) % 3)
    assert (images.factors[:, 0] == 0).all()
    assert np.ptp(images.factors[:, 1]) > 0.2


def test_bad_input():
    with pytest.raises(ValueError, match="`counts`: expected some of"):
        generate_batches(Heads(), 0, {"colour": 3})
    with pytest.raises(ValueError, match="`size`: expected two images or more, got 1"):
        generate_batches(Heads(), 0, {"light": 3}, size=1)
    with pytest.raises(ValueError, match=r"`kind`: expected one of \[0, 1, 2, 3\]"):
        Heads().batch(0, 0, 4)
    with pytest.raises(ValueError, match=r"`azimuth`: expected 0 to pi \[rad\], got 90"):
        Heads(azimuth=90.0)
    with pytest.raises(ValueError, match=r"`frame`: expected 0.5 to 5 half heights, got 0"):
        Heads(frame=0.0)
    with pytest.raises(ValueError, match="`identities`: expected 1 to 3"):
        Heads().images(0, 3, 20)
    with pytest.raises(ValueError, match=r"`identity`: expected finite \(24,\), got \(3,\)"):
        head_mesh(np.zeros(3))
    with pytest.raises(ValueError, match=r"`vertices`: expected finite \(V, 3\)"):
        rasterise(np.full((3, 3), np.nan), np.array([[0, 1, 2]]), 8, 1.0)
