"""Hands of a skinned mesh in a glTF file, ray-cast to depth and shaded colour.

Any right hand with one skin whose joints have WebXR's 25 names will do (that of the npm package
@webxr-input-profiles/assets, MIT, is one). With G the joints' transforms from rest and c_i the
place of a joint at rest, linear blend skinning moves a vertex to

    v' = sum_i w_i G_i v,     G_i = G_parent(i) T(c_i) R_i T(-c_i).

The surface is not that of `jaxcv.geometry.hand`: what is learned there meets another hand here.

Source: the glTF 2.0 specification, section 3.7.3; WebXR Hand Input, W3C.
"""

import functools
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.checks import argument_error
from jaxcv.data.hand import HandFrames
from jaxcv.data.synthetic.hand import (
    HandView,
    Sensor,
    draw_hand_view,
    draw_window,
    sense_depth,
    shade_hand,
)
from jaxcv.geometry.camera import pixel_rays
from jaxcv.io.files import check_file

__all__ = ["WEBXR_JOINTS", "SkinnedHand", "posed_hand", "read_skinned_hand", "skinned_hands"]

_FINGERS = ("index-finger", "middle-finger", "ring-finger", "pinky-finger")
_CHAIN = ("metacarpal", "phalanx-proximal", "phalanx-intermediate", "phalanx-distal", "tip")
_THUMB = tuple(f"thumb-{part}" for part in _CHAIN if part != "phalanx-intermediate")
WEBXR_JOINTS = ("wrist", *_THUMB, *(f"{finger}-{part}" for finger in _FINGERS for part in _CHAIN))
_PLACE = {name: i for i, name in enumerate(WEBXR_JOINTS)}
_PARENTS = [-1] + [
    0 if name.endswith("metacarpal") else i for i, name in enumerate(WEBXR_JOINTS[1:])
]
_MM = 1000.0
_COMPONENTS = {5121: np.uint8, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
_WRIST_HALF = 15.0  # [mm] from the wrist to its sides


class SkinnedHand(NamedTuple):
    """A mesh at rest.

    Attributes:
        vertices: (V, 3) [mm].
        faces: (F, 3).
        weights: (V, 25) of the joints, in the order of WEBXR_JOINTS.
        joints: (25, 3) [mm] at rest.
    """

    vertices: np.ndarray
    faces: np.ndarray
    weights: np.ndarray
    joints: np.ndarray


def read_skinned_hand(path: str | os.PathLike[str]) -> SkinnedHand:
    """The hand of a .glb file.

    Raises:
        ValueError: naming the file and the rule: no glTF, no skin, joints without WebXR's names,
            accessors beyond their buffer, values that are not finite.
    """
    import pygltflib

    name = os.fspath(path)
    check_file(name)
    try:
        gltf: Any = pygltflib.GLTF2.load_binary(name)
        assert gltf is not None
        blob = gltf.binary_blob()
        assert blob is not None
    except Exception as error:  # the reader raises many kinds
        raise argument_error(name, "expected a binary glTF 2.0 file (.glb)", repr(error)) from error
    try:
        return _skinned(name, gltf, blob)
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError, ValueError) as error:
        if isinstance(error, ValueError) and str(error).startswith(f"`{name}`"):
            raise
        expected, got = "expected a hand whose parts fit", f"{type(error).__name__}: {error}"
        raise argument_error(name, expected, got, "Export it again.") from error


def _skinned(name: str, gltf: Any, blob: bytes) -> SkinnedHand:
    skinned = [
        m.primitives for m in gltf.meshes if m.primitives[0].attributes.WEIGHTS_0 is not None
    ]
    if len(gltf.skins) != 1 or len(skinned) != 1 or len(skinned[0]) != 1:
        expected = "expected one skin, on one mesh of one primitive"
        raise argument_error(name, expected, f"{len(gltf.skins)} skins, {len(skinned)} such meshes")
    names = [gltf.nodes[i].name for i in gltf.skins[0].joints]
    missing = [joint for joint in WEBXR_JOINTS if joint not in names]
    if missing:
        expected, hint = (
            f"expected joints with WebXR's names, {missing} are missing",
            "Rename them.",
        )
        raise argument_error(name, expected, names[:4], hint)
    primitive, read = skinned[0][0], lambda index: _accessor(name, gltf, blob, index)
    vertices = _MM * read(primitive.attributes.POSITION).astype(float)
    faces = read(primitive.indices).reshape(-1, 3).astype(int)
    which = read(primitive.attributes.JOINTS_0).astype(int)
    weights = read(primitive.attributes.WEIGHTS_0).astype(float)
    bind = read(gltf.skins[0].inverseBindMatrices).reshape(-1, 4, 4).astype(float)
    if faces.max(initial=0) >= len(vertices) or which.max(initial=0) >= len(names):
        raise argument_error(name, "expected indices of vertices and joints that are there", "more")
    if not (np.isfinite(vertices).all() and np.isfinite(bind).all() and (weights >= 0).all()):
        raise argument_error(name, "expected finite vertices and weights of 0 or more", "others")
    dense = np.zeros((len(vertices), len(names)))
    np.add.at(dense, (np.arange(len(vertices))[:, None], which), weights)
    rest = np.linalg.inv(bind.transpose(0, 2, 1))[:, :3, 3]  # stored by columns
    order = [names.index(joint) for joint in WEBXR_JOINTS]
    total = dense[:, order].sum(axis=1, keepdims=True)
    if (total <= 0).any():
        raise argument_error(name, "expected every vertex to hang on a named joint", "some do not")
    weights = dense[:, order] / total
    # Along seams of the texture vertices come twice.
    both = np.round(np.concatenate([vertices, weights], axis=1), 6)
    _, kept, to = np.unique(both, axis=0, return_index=True, return_inverse=True)
    return SkinnedHand(vertices[kept], to.ravel()[faces], weights[kept], _MM * rest[order])


def _accessor(name: str, gltf: Any, blob: bytes, index: Any) -> np.ndarray:
    """(N, width) of a dense accessor of the file's own buffer."""
    if index is None:
        raise argument_error(name, "expected positions, indices, joints, weights, bindings", "less")
    accessor = gltf.accessors[index]
    if accessor.sparse is not None or accessor.componentType not in _COMPONENTS:
        raise argument_error(name, "expected dense accessors of unsigned integers or floats",
                             f"accessor {index}")  # fmt: skip
    view, dtype = gltf.bufferViews[accessor.bufferView], _COMPONENTS[accessor.componentType]
    width, size = _WIDTHS[accessor.type], np.dtype(dtype).itemsize
    stride = view.byteStride or width * size
    start = (view.byteOffset or 0) + (accessor.byteOffset or 0)
    if start + stride * (accessor.count - 1) + width * size > len(blob):
        raise argument_error(name, "expected accessors within the buffer", f"accessor {index}")
    raw = np.ndarray((accessor.count, width), dtype, blob, start, (stride, size)).copy()
    if accessor.normalized and dtype is not np.float32:
        return raw / np.iinfo(dtype).max
    return raw


def _about(axis: np.ndarray, angle: float) -> np.ndarray:
    x, y, z = axis / np.linalg.norm(axis)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


def _frame(hand: SkinnedHand) -> np.ndarray:
    """Rows: to the thumb's side, to the fingers, out of the palm."""
    at = lambda name: hand.joints[_PLACE[name]]
    to_index = at("index-finger-phalanx-proximal") - at("wrist")
    to_pinky = at("pinky-finger-phalanx-proximal") - at("wrist")
    out = np.cross(to_index, to_pinky)
    out = out / np.linalg.norm(out)
    along = at("middle-finger-phalanx-proximal") - at("wrist")
    along = along - (along @ out) * out
    along = along / np.linalg.norm(along)
    return np.stack([np.cross(along, out), along, out])


def posed_hand(hand: SkinnedHand, turns: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and joints (25, 3) [mm] after turns R (3, 3) of some joints, by name."""
    transforms = np.zeros((len(WEBXR_JOINTS), 4, 4))
    for i, name in enumerate(WEBXR_JOINTS):
        own = np.eye(4)
        if name in turns:
            own[:3, :3] = turns[name]
            own[:3, 3] = hand.joints[i] - turns[name] @ hand.joints[i]
        transforms[i] = own if i == 0 else transforms[_PARENTS[i]] @ own
    move = lambda points, many: np.einsum("nij,nj->ni", many[:, :3, :3], points) + many[:, :3, 3]
    blended = np.einsum("vj,jab->vab", hand.weights, transforms)
    return move(hand.vertices, blended), move(hand.joints, transforms)


def _random_turns(
    rng: np.random.Generator, hand: SkinnedHand, out: np.ndarray
) -> dict[str, np.ndarray]:
    """Fingers that bend together with a spread of their own; `out` (3,) points out of the palm."""
    turns = {}
    at = lambda name: hand.joints[_PLACE[name]]
    for finger in _FINGERS:
        base = f"{finger}-phalanx-proximal"
        bend = -np.cross(out, at(f"{finger}-tip") - at(base))
        curl, spread = rng.uniform(), rng.uniform(-0.2, 0.2)
        turns[base] = _about(out, spread) @ _about(bend, 1.4 * curl - 0.2)
        turns[f"{finger}-phalanx-intermediate"] = _about(bend, 1.6 * curl)
        turns[f"{finger}-phalanx-distal"] = _about(bend, 1.0 * curl)
    across = at("pinky-finger-phalanx-proximal") - at("index-finger-phalanx-proximal")
    bend = np.cross(at("thumb-tip") - at("thumb-metacarpal"), across)
    curl = rng.uniform()
    turns["thumb-metacarpal"] = _about(out, rng.uniform(-0.3, 0.3)) @ _about(
        bend, rng.uniform(-0.2, 0.4)
    )
    turns["thumb-phalanx-proximal"] = _about(bend, 0.7 * curl)
    turns["thumb-phalanx-distal"] = _about(bend, 1.0 * curl)
    return turns


def _scored(joints: np.ndarray) -> np.ndarray:
    """The fourteen joints of `jaxcv.data.hand.JOINTS` (14, 3) of those of WebXR (25, 3)."""
    at = lambda name: joints[_PLACE[name]]
    fingers = [
        at(f"{finger}-{part}")
        for finger in reversed(_FINGERS)
        for part in ("tip", "phalanx-intermediate")
    ]
    thumb = [at(f"thumb-{part}") for part in ("tip", "phalanx-distal", "phalanx-proximal")]
    ends = ("metacarpal", "phalanx-proximal")
    palm = [at(f"{finger}-{part}") for finger in _FINGERS for part in ends]
    across = at("index-finger-metacarpal") - at("pinky-finger-metacarpal")
    side = _WRIST_HALF * across / np.linalg.norm(across)
    return np.stack([*fingers, *thumb, at("wrist") + side, at("wrist") - side, np.mean(palm, 0)])


def render_mesh(
    vertices: np.ndarray, faces: np.ndarray, rays: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Depth along z (H, W) [mm], inf where rays (H, W, 3) from the origin miss, and normals."""
    import trimesh

    mesh = trimesh.Trimesh(vertices, faces, process=False)
    flat = rays.reshape(-1, 3)
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    face = mesh.ray.intersects_first(np.zeros_like(unit), unit)
    hit = face >= 0
    corners = vertices[faces[face[hit]]]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    depth, normals = np.full(len(flat), np.inf), np.zeros((len(flat), 3))
    away = np.sum(normal * flat[hit], axis=1)
    top = np.sum(normal * corners[:, 0], axis=1)
    depth[hit] = top / np.where(away == 0, np.inf, away)  # rays have z = 1
    normals[hit] = normal * -np.sign(away)[:, None]
    return depth.reshape(rays.shape[:2]), normals.reshape(rays.shape)


@functools.partial(jax.jit, static_argnames="size")
def _placed(key, points, scored, scale, frame, size):
    """Vertices, joints and K of a hand that is turned to the camera."""
    view_key, window_key = jax.random.split(key)
    rotation, place = draw_hand_view(view_key)
    move = lambda x: scale * (x - scored[-1]) @ (rotation @ frame).T + place
    joints = move(scored)
    k = draw_window(window_key, joints, size)
    return move(points), joints, k, pixel_rays(k, *size)


@jax.jit
def _sensed(key: jax.Array, view: HandView, rays: jax.Array) -> tuple[jax.Array, jax.Array]:
    keys = jax.random.split(key)
    depth = jnp.round(sense_depth(keys[0], view, rays, Sensor()))
    return depth, jnp.round(255 * shade_hand(keys[1], view))


def skinned_hands(
    hand: SkinnedHand,
    key: jax.Array,
    count: int,
    *,
    subjects: int = 8,
    size: tuple[int, int] = (112, 112),
) -> HandFrames:
    """Frames of hands of several sizes, as `jaxcv.data.synthetic.hand.generate_hands` makes them.

    Sizes vary by 8%. The skin has one colour all over.

    Args:
        hand: of `read_skinned_hand`.
        key: PRNG key.
        count: frames.
        subjects: sizes.
        size: (H, W) of the windows.
    """
    if not 1 <= subjects <= count:
        raise argument_error("subjects", f"expected 1 to {count}", subjects)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    sizes, frame = np.exp(0.08 * rng.normal(size=subjects)), _frame(hand)
    columns: dict[str, list[Any]] = {name: [] for name in HandFrames._fields}
    for i in range(count):
        points, joints = posed_hand(hand, _random_turns(rng, hand, frame[2]))
        own = jax.random.split(jax.random.fold_in(key, i))
        placed = _placed(own[0], points, _scored(joints), sizes[i % subjects], frame, size)
        vertices, scored, k, rays = (np.asarray(x, float) for x in placed)
        depth, normal = render_mesh(vertices, hand.faces, rays)
        view = HandView(jnp.asarray(depth), jnp.asarray(normal), jnp.where(depth < np.inf, 0, -1))
        seen, color = _sensed(own[1], view, placed[3])
        values = np.asarray(seen, np.uint16), np.asarray(color, np.uint8), scored, k, i % subjects
        for name, value in zip(columns, values, strict=True):
            columns[name].append(value)
    return HandFrames(**{name: np.asarray(values) for name, values in columns.items()})
