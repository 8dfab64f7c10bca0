"""Chairs: closed parts, the camera, what batches share, chairs of the test apart."""

import numpy as np
import pytest

from jaxcv.data.graphics import check_batches
from jaxcv.data.synthetic import chair
from jaxcv.data.synthetic.chair import AZIMUTHS, ELEVATIONS, Chairs, chair_mesh, render_chair
from jaxcv.data.synthetic.scenes import generate_batches

trimesh = pytest.importorskip("trimesh")


def meshes(count=60):
    return [chair_mesh(np.random.default_rng([9, k])) for k in range(count)]


def test_parts_are_closed_and_look_outwards():
    for mesh in meshes():
        assert len(mesh.triangles) == len(mesh.tone)
        faces = np.arange(3 * len(mesh.tone)).reshape(-1, 3)
        solid = trimesh.Trimesh(mesh.triangles.reshape(-1, 3), faces)
        solid.update_faces(solid.nondegenerate_faces())
        for part in solid.split(only_watertight=False):
            assert part.is_watertight
            assert part.volume > 0
        radius = np.linalg.norm(mesh.triangles, axis=-1)
        np.testing.assert_allclose(radius.max(), 1)
        assert ((mesh.tone >= 0.05) & (mesh.tone <= 0.95)).all()


def test_two_chairs_in_a_thousand_are_alike():
    """Kinds and sizes vary: no two of sixty chairs have the same image."""
    seen = np.array([render_chair(mesh, 0.6, ELEVATIONS[0], 24) for mesh in meshes()], float)
    apart = np.abs(seen[:, None] - seen[None]).mean(axis=(2, 3))
    assert (apart[~np.eye(len(seen), dtype=bool)] > 1).all()


def test_the_front_is_told_from_the_back():
    """No chair looks the same from two of the azimuths; no stool stands on a pedestal."""
    for mesh in meshes(40):
        seen = np.array([render_chair(mesh, a, ELEVATIONS[0], 32) for a in AZIMUTHS], float)
        apart = np.abs(seen[:, None] - seen[None]).mean(axis=(2, 3))
        assert (apart[~np.eye(len(seen), dtype=bool)] > 0.5).all()


def test_the_camera_is_above_and_azimuth_turns_to_the_right():
    box = chair._box((0.0, 0.0, 0.0), (0.8, 0.2, 0.8))
    knob = chair._box((0.0, 0.0, 0.6), (0.1, 0.1, 0.1))  # in front
    tone = np.r_[np.full(len(box), 0.9), np.full(len(knob), 0.05)]
    mesh = chair.ChairMesh(np.concatenate([box, knob]), tone)
    dark = lambda image: np.argwhere(image == image.min()).mean(axis=0)
    row, column = dark(render_chair(mesh, 0.0, 0.4, 64))
    assert abs(column - 31.5) < 1
    assert row > 36  # what is in front is lower, seen from above
    assert dark(render_chair(mesh, 0.8, 0.4, 64))[1] > 40


def test_batches_of_azimuth_and_of_the_rest():
    chairs = Chairs(models=12, side=16)
    batches = generate_batches(chairs, 0, {"azimuth": 3, "identity": 3}, size=8)
    check_batches(batches)
    for kind, factors in zip(batches.kind, batches.factors, strict=True):
        changes = np.ptp(factors, axis=0) > 0
        assert changes.tolist() == ([True, False, False] if kind == 0 else [False, True, True])
        if kind == 0:
            assert len(np.unique(factors[:, 0])) == 8  # none twice
    assert np.isin(batches.factors[..., 1], ELEVATIONS).all()
    again = chairs.batch(0, 1, int(batches.kind[1]), 8)[0]
    np.testing.assert_array_equal(again, batches.images[1])


def test_chairs_of_other_seeds_are_others():
    train, test = (Chairs(models=6, side=16).images(seed, 12, 6) for seed in (0, 1))
    assert train.names == Chairs.names
    one = lambda s: render_chair(chair_mesh(np.random.default_rng([s, 3, 1])), 0.3, 0.3, 32)
    assert not np.array_equal(one(0), one(1))
    assert train.images.shape == test.images.shape == (12, 16, 16)


def test_bad_input():
    with pytest.raises(ValueError, match="`counts`: expected some of"):
        generate_batches(Chairs(), 0, {"elevation": 3})
    with pytest.raises(ValueError, match=r"`kind`: expected one of \[0, 2\]"):
        Chairs().batch(0, 0, 1)
    with pytest.raises(ValueError, match="`identities`: expected 1 to 5"):
        Chairs(models=5).images(0, 30, 6)
