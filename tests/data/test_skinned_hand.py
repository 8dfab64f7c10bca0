"""A skinned hand in glTF: written here byte by byte, read, posed, rendered, refused if broken."""

import json
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.data import skinned_hand
from jaxcv.data.hand import check_frames
from jaxcv.data.skinned_hand import posed_hand, render_mesh, skinned_hands
from jaxcv.geometry import so3
from jaxcv.io.gltf_hand import WEBXR_JOINTS, palm_normal, read_skinned_hand

pytestmark = pytest.mark.optimised

OCTAHEDRON = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], float)
SIDES = np.array([
    [0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]
])  # fmt: skip


def skeleton():
    """Joints (25, 3) [m] of a flat right hand: thumb to +x, fingers to +y, palm to +z."""
    joints = [(0.0, 0.0, 0.0)]
    joints += [(0.02 + 0.012 * k, 0.02 + 0.02 * k, 0.002 * k) for k in range(4)]
    for finger in range(4):
        x = 0.03 - 0.02 * finger
        joints += [
            (x * (0.5 + 0.1 * k), y, 0.0) for k, y in enumerate((0.03, 0.09, 0.12, 0.14, 0.16))
        ]
    return np.array(joints)


def write_glb(path, names=WEBXR_JOINTS, truncate=0, weights=(1.0, 0.0), axes=(1, 1, 1)):
    """An octahedron about every joint, hung on it; `axes` scales x, y and z."""
    joints = skeleton() * axes
    vertices = (joints[:, None] + 0.01 * OCTAHEDRON).reshape(-1, 3).astype(np.float32)
    faces = (SIDES + 6 * np.arange(25)[:, None, None]).ravel().astype(np.uint16)
    which = np.zeros((150, 4), np.uint8)
    which[:, 0] = np.repeat(np.arange(25), 6)
    share = np.tile(np.r_[weights, 0, 0].astype(np.float32), (150, 1))
    bind = np.tile(np.eye(4, dtype=np.float32), (25, 1, 1))
    bind[:, 3, :3] = -joints  # by columns
    kinds = {
        "VEC3": (vertices, 5126), "SCALAR": (faces, 5123), "VEC4": (which, 5121),
        "VEC4 ": (share, 5126), "MAT4": (bind, 5126),
    }  # fmt: skip
    blob, views, accessors = b"", [], []
    for kind, (array, component) in kinds.items():
        raw = array.tobytes()
        views.append({"buffer": 0, "byteOffset": len(blob), "byteLength": len(raw)})
        accessors.append({
            "bufferView": len(views) - 1, "componentType": component,
            "count": len(array), "type": kind.strip(),
        })  # fmt: skip
        blob += raw + b"\0" * (-len(raw) % 4)
    attributes = {"POSITION": 0, "JOINTS_0": 2, "WEIGHTS_0": 3}
    document = {
        "asset": {"version": "2.0"},
        "buffers": [{"byteLength": len(blob)}],
        "bufferViews": views,
        "accessors": accessors,
        "meshes": [{"primitives": [{"attributes": attributes, "indices": 1}]}],
        "nodes": [{"name": name} for name in names] + [{"mesh": 0, "skin": 0}],
        "skins": [{"joints": list(range(25)), "inverseBindMatrices": 4}],
    }
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text
    blob = blob[: len(blob) - truncate]
    chunks += struct.pack("<I4s", len(blob), b"BIN\0") + blob
    path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)


@pytest.fixture
def hand(tmp_path):
    write_glb(tmp_path / "hand.glb")
    return read_skinned_hand(tmp_path / "hand.glb")


def test_values_are_those_written(hand):
    np.testing.assert_allclose(hand.joints, 1000 * skeleton(), atol=1e-4)
    assert hand.vertices.shape == (150, 3)
    assert hand.faces.shape == (200, 3)
    np.testing.assert_array_equal(hand.weights.sum(axis=1), 1)
    away = np.linalg.norm(hand.vertices - hand.weights @ hand.joints, axis=1)
    np.testing.assert_allclose(away, 10, atol=1e-3)


def test_a_turned_finger_takes_all_beyond_it(hand):
    turn = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    vertices, joints = posed_hand(hand, {"index-finger-phalanx-proximal": turn})
    at = lambda part: WEBXR_JOINTS.index(f"index-finger-{part}")
    base, tip = at("phalanx-proximal"), at("tip")
    moved = [at(part) for part in ("phalanx-intermediate", "phalanx-distal", "tip")]
    still = np.setdiff1d(np.arange(25), moved)
    np.testing.assert_allclose(joints[still], hand.joints[still], atol=1e-9)
    want = hand.joints[base] + turn @ (hand.joints[tip] - hand.joints[base])
    np.testing.assert_allclose(joints[tip], want, atol=1e-9)
    own = hand.weights[:, tip] == 1
    np.testing.assert_allclose(np.linalg.norm(vertices[own] - joints[tip], axis=1), 10, atol=1e-3)


def random_pose(hand, seed):
    out = skinned_hand._frame(hand)[2]
    turns = skinned_hand._random_turns(np.random.default_rng(seed), hand, out)
    return posed_hand(hand, turns)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_mirrored_hand_has_mirrored_poses(tmp_path, hand, axis):
    mirror = np.where(np.arange(3) == axis, -1.0, 1.0)
    write_glb(tmp_path / "left.glb", axes=mirror)
    left = read_skinned_hand(tmp_path / "left.glb")
    assert [palm_normal(one.joints)[1] for one in (hand, left)] == [1, -1]
    np.testing.assert_allclose(
        skinned_hand._frame(left), skinned_hand._frame(hand) * mirror, atol=1e-12
    )
    exact = hand._replace(vertices=hand.vertices * mirror, joints=hand.joints * mirror)
    for seed in range(4):
        for right, other in zip(random_pose(hand, seed), random_pose(exact, seed), strict=True):
            np.testing.assert_allclose(other, right * mirror, atol=1e-10)
    frames = skinned_hands(hand, jax.random.key(1), 2, subjects=1)
    mirrored = skinned_hands(exact, jax.random.key(1), 2, subjects=1)
    check_frames(mirrored)
    np.testing.assert_allclose(mirrored.joints, frames.joints * [-1, 1, 1], atol=1e-3)


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_fingers_bend_to_the_palm_in_any_frame_and_unit(hand, side):
    turn = np.asarray(so3.exp(jnp.array([0.7, -2.0, 1.1])), float) * side
    moved = hand._replace(vertices=hand.vertices @ turn.T + 300, joints=hand.joints @ turn.T + 300)
    np.testing.assert_allclose(
        skinned_hand._frame(moved), skinned_hand._frame(hand) @ turn.T, atol=1e-6
    )
    for scale in (1e-3, 1e3):  # metres, micrometres
        scaled = moved._replace(joints=scale * moved.joints)
        np.testing.assert_allclose(
            skinned_hand._frame(scaled), skinned_hand._frame(moved), atol=1e-9
        )
    out = skinned_hand._frame(moved)[2]
    tips = [WEBXR_JOINTS.index(f"{f}-finger-tip") for f in ("index", "middle", "ring", "pinky")]
    bent = [((random_pose(moved, s)[1] - moved.joints)[tips] @ out).mean() for s in range(20)]
    assert np.mean(bent) > 20  # [mm]
    assert np.mean(np.array(bent) > 0) > 0.8


def test_rays_end_on_the_triangles():
    vertices = np.array([[-100.0, -100, 500], [100, -100, 500], [0, 100, 700]])
    rays = np.stack([*np.meshgrid([-0.5, 0.0, 0.5], [-0.1, 0.0]), np.ones((2, 3))], axis=-1)
    depth, normal = render_mesh(vertices, np.array([[0, 1, 2]]), rays)
    seen = np.isfinite(depth)
    np.testing.assert_array_equal(seen, [[False, True, False]] * 2)
    points = depth[seen][:, None] * rays[seen]
    np.testing.assert_allclose(points[:, 2] - points[:, 1], 600, rtol=1e-5)  # the plane
    assert (normal[seen] @ [0, 0, 1] < 0).all()


def test_frames_are_sound_and_reproducible(hand):
    frames = skinned_hands(hand, jax.random.key(0), 4, subjects=2)
    check_frames(frames)
    again = skinned_hands(hand, jax.random.key(0), 4, subjects=2)
    np.testing.assert_array_equal(frames.depth, again.depth)
    assert list(frames.subject) == [0, 1, 0, 1]
    np.testing.assert_array_equal(np.abs(frames.joints[:, 13, 2] - 800) <= 200, True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ("wrist", *WEBXR_JOINTS[:24])}, r"names, \['pinky-finger-tip'\] are missing"),
        ({"truncate": 400}, "within the buffer"),
        ({"weights": (0.0, 0.0)}, "weight on a named joint"),
        ({"weights": (-1.0, 2.0)}, "weights of 0 or more"),
        ({"axes": (1, 1, 0)}, "thumb bent to the palm at rest"),
        ({"axes": (0, 1, 1)}, "a palm with an area"),
    ],
)
def test_broken_files_are_named(tmp_path, changes, message):
    write_glb(tmp_path / "bad.glb", **changes)
    with pytest.raises(ValueError, match=rf"bad\.glb.*{message}"):
        read_skinned_hand(tmp_path / "bad.glb")


def test_what_is_no_glb(tmp_path):
    (tmp_path / "x.glb").write_bytes(b"solid hand")
    with pytest.raises(ValueError, match=r"x\.glb.*binary glTF"):
        read_skinned_hand(tmp_path / "x.glb")
    with pytest.raises(ValueError, match=r"y\.glb.*no such file"):
        read_skinned_hand(tmp_path / "y.glb")
