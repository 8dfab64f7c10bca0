"""Renders depth and shaded colour of a skinned hand mesh from a glTF file.

Any hand, left or right, works that has one skin with WebXR's 25 joint names, e.g. those of the npm
package @webxr-input-profiles/assets (MIT). The palm is on the side of the thumb at rest, and the
mirror image of a hand gives mirrored poses. With rotations R_i of the joints, whose rest positions
are c_i, linear blend skinning moves a vertex v to

    v' = sum_i w_i G_i v,     G_i = G_parent(i) T(c_i) R_i T(-c_i).

The surface differs from that of `jaxcv.geometry.hand`, so it tests models trained on the latter.

Source: the glTF 2.0 specification, section 3.7.3; WebXR Hand Input, W3C.
"""

import functools
from typing import Any

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
from jaxcv.io.gltf_hand import WEBXR_FINGERS, WEBXR_JOINTS, SkinnedHand, palm_normal

__all__ = ["posed_hand", "render_mesh", "skinned_hands"]

_PLACE = {name: i for i, name in enumerate(WEBXR_JOINTS)}
_PARENTS = [-1] + [
    0 if name.endswith("metacarpal") else i for i, name in enumerate(WEBXR_JOINTS[1:])
]
_MM = 1000.0
_WRIST_HALF = 15.0  # [mm] from the wrist's centre to its sides


def _about(axis: np.ndarray, angle: float) -> np.ndarray:
    x, y, z = axis / np.linalg.norm(axis)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


def _frame(hand: SkinnedHand) -> np.ndarray:
    """Orthonormal rows: to the thumb's side, to the fingers, out of the palm.

    The determinant is 1 for a right hand, -1 for a left one.
    """
    at = lambda name: hand.joints[_PLACE[name]]
    normal, side = palm_normal(hand.joints)
    along = at("middle-finger-phalanx-proximal") - at("wrist")
    along = along - (along @ normal) * normal
    along = along / np.linalg.norm(along)
    return np.stack([np.cross(along, normal), along, side * normal])


def posed_hand(hand: SkinnedHand, turns: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and joints (25, 3) [mm] after rotating the named joints by `turns`, (3, 3) each."""
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
    """Random rotations that curl and spread each finger; `out` (3,) points out of the palm."""
    turns = {}
    at = lambda name: hand.joints[_PLACE[name]]
    # A rotation's axis is an axial vector: its sign changes in a mirror image.
    normal = palm_normal(hand.joints)[0]
    for finger in WEBXR_FINGERS:
        base = f"{finger}-phalanx-proximal"
        bend = -np.cross(out, at(f"{finger}-tip") - at(base))
        curl, spread = rng.uniform(), rng.uniform(-0.2, 0.2)
        turns[base] = _about(normal, spread) @ _about(bend, 1.4 * curl - 0.2)
        turns[f"{finger}-phalanx-intermediate"] = _about(bend, 1.6 * curl)
        turns[f"{finger}-phalanx-distal"] = _about(bend, 1.0 * curl)
    across = at("pinky-finger-phalanx-proximal") - at("index-finger-phalanx-proximal")
    bend = np.cross(at("thumb-tip") - at("thumb-metacarpal"), across)
    curl = rng.uniform()
    turns["thumb-metacarpal"] = _about(normal, rng.uniform(-0.3, 0.3)) @ _about(
        bend, rng.uniform(-0.2, 0.4)
    )
    turns["thumb-phalanx-proximal"] = _about(bend, 0.7 * curl)
    turns["thumb-phalanx-distal"] = _about(bend, 1.0 * curl)
    return turns


def _scored(joints: np.ndarray) -> np.ndarray:
    """The joints (14, 3) of `jaxcv.data.hand.JOINTS`, from those of WebXR (25, 3)."""
    at = lambda name: joints[_PLACE[name]]
    fingers = [
        at(f"{finger}-{part}")
        for finger in reversed(WEBXR_FINGERS)
        for part in ("tip", "phalanx-intermediate")
    ]
    thumb = [at(f"thumb-{part}") for part in ("tip", "phalanx-distal", "phalanx-proximal")]
    ends = ("metacarpal", "phalanx-proximal")
    palm = [at(f"{finger}-{part}") for finger in WEBXR_FINGERS for part in ends]
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
    """Vertices, joints, K and pixel rays of the hand in a random view.

    The view of a left hand is the mirror image of a right hand's: x of the camera changes its sign.
    """
    view_key, window_key = jax.random.split(key)
    rotation, place = draw_hand_view(view_key)
    mirror = jnp.ones(3).at[0].set(jnp.sign(jnp.linalg.det(frame)))
    move = lambda x: mirror * (scale * (x - scored[-1]) @ (rotation @ frame).T + place)
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
    """Frames of a hand at several sizes, in the form of `jaxcv.data.synthetic.hand.generate_hands`.

    The standard deviation of the sizes is 8%. The skin has a single colour.

    Args:
        hand: the result of `read_skinned_hand`.
        key: PRNG key.
        count: number of frames.
        subjects: number of sizes.
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
