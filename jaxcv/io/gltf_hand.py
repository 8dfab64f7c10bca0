"""Reads the skinned mesh of a hand from a glTF file.

Any hand, left or right, works that has one skin with WebXR's 25 joint names.

Source: the glTF 2.0 specification, section 3.7.3; WebXR Hand Input, W3C.
"""

import os
from typing import Any, NamedTuple

import numpy as np

from jaxcv.checks import argument_error
from jaxcv.io.files import check_file

__all__ = ["WEBXR_FINGERS", "WEBXR_JOINTS", "SkinnedHand", "palm_normal", "read_skinned_hand"]

WEBXR_FINGERS = ("index-finger", "middle-finger", "ring-finger", "pinky-finger")
_CHAIN = ("metacarpal", "phalanx-proximal", "phalanx-intermediate", "phalanx-distal", "tip")
_THUMB = tuple(f"thumb-{part}" for part in _CHAIN if part != "phalanx-intermediate")
WEBXR_JOINTS = (
    "wrist",
    *_THUMB,
    *(f"{finger}-{part}" for finger in WEBXR_FINGERS for part in _CHAIN),
)
_MM = 1000.0
_LEAST_BEND = 0.02  # of the thumb out of the palm's plane at rest, per length of the palm
_COMPONENTS = {5121: np.uint8, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


class SkinnedHand(NamedTuple):
    """A mesh at rest.

    Attributes:
        vertices: (V, 3) [mm].
        faces: (F, 3) indices of vertices.
        weights: (V, 25) skinning weights, in the order of WEBXR_JOINTS.
        joints: (25, 3) [mm] at rest.
    """

    vertices: np.ndarray
    faces: np.ndarray
    weights: np.ndarray
    joints: np.ndarray


def palm_normal(joints: np.ndarray, name: str = "joints") -> tuple[np.ndarray, int]:
    """The normal n (3,) of the palm's plane, and 1 for a right hand, -1 for a left one.

    n = i x p / |i x p|, with i and p from the wrist to the knuckles of index and little finger.
    n points out of a right hand's palm and out of a left hand's back. The hand is a right one if
    the thumb at rest lies on the side of n: b = n . (thumb's tip - middle knuckle) > 0. Fingers do
    not count: some hands rest with them bent back.

    Args:
        joints: (25, 3) at rest, in the order of WEBXR_JOINTS.
        name: what an error calls them.

    Raises:
        ValueError: no plane, or |b| below 2% of the distance from wrist to middle knuckle.
    """
    at = lambda name: joints[WEBXR_JOINTS.index(name)]
    knuckle = lambda finger: at(f"{finger}-phalanx-proximal")
    to_index, to_pinky = (knuckle(f"{f}-finger") - at("wrist") for f in ("index", "pinky"))
    normal = np.cross(to_index, to_pinky)
    size = np.linalg.norm(normal)
    if not size > 1e-6 * np.linalg.norm(to_index) * np.linalg.norm(to_pinky):
        expected = "expected a palm with an area"
        raise argument_error(name, expected, "wrist, index and little knuckle on a line")
    normal = normal / size
    length = np.linalg.norm(knuckle("middle-finger") - at("wrist"))
    bend = normal @ (at("thumb-tip") - knuckle("middle-finger"))
    if not abs(bend) >= _LEAST_BEND * length:
        expected = "expected a thumb bent to the palm at rest, which tells left from right"
        got = f"{bend / length:.1%} of the palm's length"
        raise argument_error(name, expected, got, "Export the hand with its thumb bent.")
    return normal, 1 if bend > 0 else -1


def read_skinned_hand(path: str | os.PathLike[str]) -> SkinnedHand:
    """Reads the hand of a .glb file.

    Raises:
        ValueError: no glTF file, not one skin, missing WebXR joints, accessors outside their
            buffer, values that are not finite, or a rest pose that does not tell left from right;
            the error names the file and the rule.
    """
    import pygltflib

    name = os.fspath(path)
    check_file(name)
    try:
        gltf: Any = pygltflib.GLTF2.load_binary(name)
        assert gltf is not None
        blob = gltf.binary_blob()
        assert blob is not None
    except Exception as error:  # of many classes
        raise argument_error(name, "expected a binary glTF 2.0 file (.glb)", repr(error)) from error
    try:
        return _skinned(name, gltf, blob)
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError, ValueError) as error:
        if isinstance(error, ValueError) and str(error).startswith(f"`{name}`"):
            raise
        expected, got = "expected a consistent hand", f"{type(error).__name__}: {error}"
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
        raise argument_error(name, "expected indices of existing vertices and joints", "larger")
    if not (np.isfinite(vertices).all() and np.isfinite(bind).all() and (weights >= 0).all()):
        raise argument_error(name, "expected finite vertices and weights of 0 or more", "others")
    dense = np.zeros((len(vertices), len(names)))
    np.add.at(dense, (np.arange(len(vertices))[:, None], which), weights)
    rest = np.linalg.inv(bind.transpose(0, 2, 1))[:, :3, 3]  # column-major
    order = [names.index(joint) for joint in WEBXR_JOINTS]
    palm_normal(_MM * rest[order], name)
    total = dense[:, order].sum(axis=1, keepdims=True)
    if (total <= 0).any():
        raise argument_error(name, "expected vertices with weight on a named joint", "some do not")
    weights = dense[:, order] / total
    # Merges the vertices that texture seams duplicate.
    both = np.round(np.concatenate([vertices, weights], axis=1), 6)
    _, kept, to = np.unique(both, axis=0, return_index=True, return_inverse=True)
    return SkinnedHand(vertices[kept], to.ravel()[faces], weights[kept], _MM * rest[order])


def _accessor(name: str, gltf: Any, blob: bytes, index: Any) -> np.ndarray:
    """The values (N, width) of a dense accessor in the file's own buffer."""
    if index is None:
        raise argument_error(name, "expected positions, indices, joints, weights, bindings", "none")
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
