"""Synthetic people in motion, with noisy joint detections in four cameras.

A person is a tree of seventeen joints with individual limb lengths. Activities are motion
programs: joint angles (degrees) as functions of time and of parameters drawn for each clip, plus
slow random movements, clipped to the limits of human joints. The joints' positions are not linear
in these parameters, so no mixture of principal components contains the poses.

Four pinhole cameras stand around a room of about eight metres, at slightly different positions and
angles for each subject. Detections have heavy-tailed errors, joints that are reported near another
joint or not at all, and views with left and right exchanged; the neck is never detected, as with
detectors of sixteen joints.
"""

from typing import Any

import jax
import numpy as np

from jaxcv.checks import argument_error
from jaxcv.data.human_pose import NUM_JOINTS, PoseFrames, check_frames

__all__ = ["ACTIONS", "generate", "joint_positions"]

# Child, parent, and the child's rest offset in body heights: x to the person's left, y to the back,
# z up. Arms hang down.
_TREE = (
    (1, 0, (-0.075, 0, 0)), (2, 1, (0, 0, -0.26)), (3, 2, (0, 0, -0.26)),
    (4, 0, (0.075, 0, 0)), (5, 4, (0, 0, -0.26)), (6, 5, (0, 0, -0.26)),
    (7, 0, (0, 0, 0.135)), (8, 7, (0, 0, 0.150)), (9, 8, (0, -0.02, 0.068)), (10, 9, (0, 0, 0.068)),
    (11, 8, (0.09, 0, -0.01)), (12, 11, (0, 0, -0.165)), (13, 12, (0, 0, -0.145)),
    (14, 8, (-0.09, 0, -0.01)), (15, 14, (0, 0, -0.165)), (16, 15, (0, 0, -0.145)),
)  # fmt: skip
_MIRRORED = [(1, 4), (2, 5), (3, 6), (11, 14), (12, 15), (13, 16)]

# Degrees of freedom and their limits [deg]. Flexion moves a limb forward, abduction to the side.
_LIMITS = {
    "spine_flex": (-20, 80), "spine_side": (-30, 30), "spine_twist": (-40, 40),
    "neck_flex": (-30, 50), "neck_turn": (-70, 70),
    "right_hip_flex": (-25, 120), "right_hip_abduct": (-15, 45), "right_knee": (0, 140),
    "left_hip_flex": (-25, 120), "left_hip_abduct": (-15, 45), "left_knee": (0, 140),
    "right_shoulder_flex": (-50, 175), "right_shoulder_abduct": (-5, 150), "right_elbow": (0, 145),
    "right_shoulder_turn": (-60, 80),
    "left_shoulder_flex": (-50, 175), "left_shoulder_abduct": (-5, 150), "left_elbow": (0, 145),
    "left_shoulder_turn": (-60, 80),
}  # fmt: skip

ACTIONS = ("directions", "eating", "greeting", "phoning", "posing", "sitting", "walking", "waiting")


def _clip_angles(action: str, time: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """Angle name -> (T,) or number [deg] of one clip of an action; time (T,) [s]."""
    side, other = ("right", "left") if rng.random() < 0.7 else ("left", "right")
    wave = lambda hertz, phase=0.0: np.sin(2 * np.pi * (hertz * time + phase))
    draw = lambda low, high: rng.uniform(low, high)
    up = lambda hertz, start: 0.5 + 0.5 * np.clip(3 * wave(hertz, start), -1, 1)  # up and down
    angles: dict[str, Any] = {}
    if action == "walking":
        hertz, stride = draw(0.7, 1.1), draw(18, 35)
        for name, phase in (("right", 0.0), ("left", 0.5)):
            angles[f"{name}_hip_flex"] = 8 + stride * wave(hertz, phase)
            angles[f"{name}_knee"] = 12 + 1.4 * stride * np.maximum(0, wave(hertz, phase + 0.2))
            angles[f"{name}_shoulder_flex"] = -0.8 * stride * wave(hertz, phase)
            angles[f"{name}_elbow"] = draw(10, 40) + 0.3 * stride * wave(hertz, phase + 0.5)
        angles["spine_twist"] = 8 * wave(hertz, 0.1)
    elif action == "sitting":
        deep = draw(75, 100)
        for name in ("right", "left"):
            angles[f"{name}_hip_flex"] = deep + draw(-8, 8)
            angles[f"{name}_hip_abduct"] = draw(0, 25)
            angles[f"{name}_knee"] = deep + draw(-25, 25)
            angles[f"{name}_shoulder_flex"] = draw(10, 50) + 10 * wave(draw(0.1, 0.3), draw(0, 1))
            angles[f"{name}_elbow"] = draw(30, 100)
        angles["spine_flex"] = draw(-5, 40)
    elif action == "phoning":
        angles[f"{side}_shoulder_flex"], angles[f"{side}_shoulder_abduct"] = (
            draw(30, 60),
            draw(20, 50),
        )
        angles[f"{side}_elbow"], angles[f"{side}_shoulder_turn"] = draw(125, 142), draw(-20, 20)
        angles["neck_turn"] = 20 * wave(draw(0.05, 0.2))
        angles[f"{other}_elbow"] = draw(5, 80)
    elif action == "eating":
        lift = up(draw(0.15, 0.35), draw(0, 1))
        angles[f"{side}_shoulder_flex"] = 15 + draw(25, 45) * lift
        angles[f"{side}_elbow"] = 70 + 65 * lift
        angles[f"{other}_elbow"], angles[f"{other}_shoulder_flex"] = draw(60, 100), draw(5, 25)
        angles["spine_flex"] = draw(5, 20)
        if rng.random() < 0.5:
            for name in ("right", "left"):
                angles[f"{name}_hip_flex"], angles[f"{name}_knee"] = draw(80, 95), draw(70, 100)
    elif action == "greeting":
        lift = up(draw(0.1, 0.25), draw(0, 1))
        angles[f"{side}_shoulder_flex"] = draw(20, 70) * lift
        angles[f"{side}_shoulder_abduct"] = draw(40, 120) * lift
        angles[f"{side}_elbow"] = 20 + (50 + 30 * wave(draw(0.8, 1.6))) * lift
        angles["spine_flex"] = draw(0, 45) * up(draw(0.1, 0.2), draw(0, 1))
    elif action == "directions":
        for name in ("right", "left"):
            lift = up(draw(0.1, 0.3), draw(0, 1))
            angles[f"{name}_shoulder_flex"] = draw(20, 95) * lift
            angles[f"{name}_shoulder_abduct"] = draw(0, 80) * lift
            angles[f"{name}_elbow"] = draw(10, 90) * (1 - 0.6 * lift)
        angles["spine_twist"] = 20 * wave(draw(0.05, 0.2))
    elif action == "posing":
        for name in ("right", "left"):
            lift = up(draw(0.1, 0.3), draw(0, 1))
            angles[f"{name}_shoulder_abduct"] = draw(10, 140) * lift
            angles[f"{name}_shoulder_turn"] = draw(-50, 70)
            angles[f"{name}_elbow"] = draw(0, 120)
            angles[f"{name}_hip_abduct"] = draw(-5, 25)
            angles[f"{name}_knee"] = draw(0, 40)
            angles[f"{name}_hip_flex"] = draw(-5, 40)
        angles["spine_side"], angles["spine_twist"] = draw(-20, 20), draw(-25, 25)
    else:  # waiting
        angles[f"{side}_elbow"], angles[f"{other}_elbow"] = draw(5, 110), draw(5, 110)
        angles[f"{side}_shoulder_turn"] = draw(0, 70)
        angles[f"{side}_knee"], angles[f"{side}_hip_flex"] = draw(0, 35), draw(0, 20)
        angles["neck_turn"] = 45 * wave(draw(0.05, 0.2))
    return angles


def _drift(time: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    """A slow random function (T,) of standard deviation `size`."""
    hertz, phase = rng.uniform(0.03, 0.4, 4), rng.uniform(0, 1, 4)
    waves = np.sin(2 * np.pi * (hertz[:, None] * time + phase[:, None]))
    return size * np.sqrt(0.5) * waves.sum(0)


def _turn(axis: int, degrees: np.ndarray) -> np.ndarray:
    """(T, 3, 3) rotations about a coordinate axis."""
    angle = np.deg2rad(degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    out = np.zeros((*angle.shape, 3, 3))
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    out[..., axis, axis] = 1
    out[..., i, i] = out[..., j, j] = cos
    out[..., i, j], out[..., j, i] = -sin, sin
    return out


def joint_positions(
    angles: dict[str, Any], offsets: np.ndarray, heading: np.ndarray, place: np.ndarray
) -> np.ndarray:
    """World joints (T, 17, 3), z up [mm], by forward kinematics from the hip.

    Args:
        angles: name -> (T,) or number [deg]; clipped to the joint's limits, zero if missing.
        offsets: (17, 3) rest offset of every joint from its parent [mm]; the hip's is unused.
        heading: (T,) about the vertical [deg].
        place: (T, 2) of the hip [mm]; the lower foot is at z = 0.
    """
    num = len(heading)

    def angle(name):
        return np.clip(np.broadcast_to(angles.get(name, 0.0), num), *_LIMITS[name])

    # The person faces -y: a negative rotation about x moves a hanging limb forward.
    frames = {0: _turn(2, heading)}
    bend = _turn(0, angle("spine_flex") / 2) @ _turn(1, angle("spine_side") / 2)
    frames[7] = frames[0] @ bend @ _turn(2, angle("spine_twist") / 2)
    frames[8] = frames[7] @ bend @ _turn(2, angle("spine_twist") / 2)
    frames[9] = frames[8] @ _turn(2, angle("neck_turn")) @ _turn(0, angle("neck_flex"))
    for name, sign, hip, shoulder in (("right", 1, 1, 14), ("left", -1, 4, 11)):
        leg = _turn(1, sign * angle(f"{name}_hip_abduct")) @ _turn(0, -angle(f"{name}_hip_flex"))
        frames[hip] = frames[0] @ leg
        frames[hip + 1] = frames[hip] @ _turn(0, angle(f"{name}_knee"))
        arm = _turn(1, sign * angle(f"{name}_shoulder_abduct"))
        arm = arm @ _turn(0, -angle(f"{name}_shoulder_flex"))
        arm = arm @ _turn(2, -sign * angle(f"{name}_shoulder_turn"))
        frames[shoulder] = frames[8] @ arm
        frames[shoulder + 1] = frames[shoulder] @ _turn(0, -angle(f"{name}_elbow"))
    joints = np.zeros((num, NUM_JOINTS, 3))
    for child, parent, _ in _TREE:
        # Hips and shoulders rotate with the torso, other joints with their parent.
        frame = frames[0 if parent == 0 else 8 if parent == 8 else parent]
        joints[:, child] = joints[:, parent] + frame @ offsets[child]
    joints[:, :, 2] -= joints[:, [3, 6], 2].min(axis=1, keepdims=True)
    joints[:, :, :2] += place[:, None]
    return joints


def _offsets(rng: np.random.Generator) -> np.ndarray:
    """(17, 3) limb offsets of a person [mm]."""
    height = rng.normal(1720, 90)
    offsets = np.zeros((NUM_JOINTS, 3))
    for child, _, rest in _TREE:
        offsets[child] = height * np.asarray(rest) * rng.normal(1, 0.06)
    for right, left in _MIRRORED:  # both sides alike, within 0.5%
        offsets[left] = offsets[right] * [-1, 1, 1] * rng.normal(1, 0.005)
    return offsets


def _cameras(num_views: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rotations (V, 3, 3) world to camera and centres (V, 3) [mm]."""
    rotations, centres = [], []
    for v in range(num_views):
        azimuth = np.deg2rad(45 + 360 * v / num_views + rng.normal(0, 2))
        radius, height = rng.normal(5200, 150), rng.normal(1550, 60)
        centre = np.array([radius * np.cos(azimuth), radius * np.sin(azimuth), height])
        target = np.array([*rng.normal(0, 60, 2), 900 + rng.normal(0, 40)])
        forward = (target - centre) / np.linalg.norm(target - centre)
        right = np.cross(forward, [0, 0, 1])
        right /= np.linalg.norm(right)
        roll = np.deg2rad(rng.normal(0, 0.7))
        down = np.cross(forward, right)
        right, down = (
            np.cos(roll) * right + np.sin(roll) * down,
            np.cos(roll) * down - np.sin(roll) * right,
        )
        rotations.append(np.stack([right, down, forward]))
        centres.append(centre)
    return np.stack(rotations), np.stack(centres)


_FOCAL, _CENTRE = 1145.0, 500.0  # [px], of images of 1000 x 1000


def _detect(joints, rotations, centres, noise, outliers, swaps, rng):
    """Points (T, V, 17, 2) [px] and visible (T, V, 17) of joints (T, 17, 3)."""
    seen = np.einsum("vab,tvjb->tvja", rotations, joints[:, None] - centres[:, None])
    points = _CENTRE + _FOCAL * seen[..., :2] / seen[..., 2:]
    shape = points.shape[:3]
    # Elbows, wrists and feet are harder.
    hard = np.ones(NUM_JOINTS)
    hard[[3, 6, 13, 16, 12, 15]] = 1.8
    scale = noise * hard[:, None] / np.sqrt(rng.chisquare(3, (*shape, 1)) / 3)
    points = points + scale * rng.normal(size=points.shape)
    lost = rng.random(shape) < outliers * hard
    near = points[:, :, rng.integers(0, NUM_JOINTS, NUM_JOINTS)]  # another joint of the same view
    away = near + 15 * rng.normal(size=points.shape)
    points = np.where(lost[..., None], away, points)
    visible = ~(lost & (rng.random(shape) < 0.4))
    visible[..., 9] = False
    for right, left in ([1, 2, 3], [4, 5, 6]), ([14, 15, 16], [11, 12, 13]):
        swapped = rng.random(shape[:2]) < swaps
        a, b = points[swapped][:, right], points[swapped][:, left]
        rows = points[swapped]
        rows[:, right], rows[:, left] = b, a
        points[swapped] = rows
    return points, visible


def generate(
    key: jax.Array,
    *,
    num_subjects: int = 7,
    clips: int = 2,
    frames: int = 12,
    num_views: int = 4,
    noise: float = 3.0,
    outliers: float = 0.04,
    swaps: float = 0.03,
) -> PoseFrames:
    """Frames of every subject doing every action, a few clips of each.

    Elbows, wrists and feet have 1.8 times the `noise` and `outliers`.

    Args:
        key: of the random numbers.
        num_subjects: people, each with different limbs and cameras.
        clips: per subject and action.
        frames: per clip, 0.2 to 1.5 seconds apart.
        num_views: cameras around the room.
        noise: scale of the detector's errors [px], Student's t with three degrees of freedom.
        outliers: fraction of joints that are lost: reported near another joint, or not at all.
        swaps: fraction of views with left and right legs exchanged; the same for arms.

    Returns:
        `num_subjects * len(ACTIONS) * clips * frames` frames, ordered by subject, action and clip.

    Raises:
        ValueError: numbers below one, or fractions outside [0, 0.5].
    """
    for name, value in {
        "num_subjects": num_subjects, "clips": clips, "frames": frames, "num_views": num_views,
    }.items():  # fmt: skip
        if value < 1:
            raise argument_error(name, "expected 1 or more", value)
    for name, value in {"outliers": outliers, "swaps": swaps}.items():
        if not 0 <= value <= 0.5:
            raise argument_error(name, "expected a fraction from 0 to 0.5", value)
    if not noise >= 0:
        raise argument_error("noise", "expected a scale of 0 or more [px]", noise)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
    parts, cameras, places = [], [], []
    for s in range(num_subjects):
        offsets = _offsets(rng)
        rotations, centres = _cameras(num_views, rng)
        cameras.append(rotations)
        places.append(centres)
        for a, action in enumerate(ACTIONS):
            for _ in range(clips):
                step = rng.uniform(0.2, 1.5)
                time = rng.uniform(0, 100) + step * np.arange(frames)
                angles = _clip_angles(action, time, rng)
                angles = {name: angles.get(name, 0.0) + _drift(time, 7.0, rng) for name in _LIMITS}
                heading = rng.uniform(0, 360) + _drift(time, 60.0, rng)
                place = np.stack([_drift(time, 500.0, rng), _drift(time, 500.0, rng)], axis=1)
                joints = joint_positions(angles, offsets, heading, place)
                points, visible = _detect(joints, rotations, centres, noise, outliers, swaps, rng)
                index = np.full(frames, s), np.full(frames, a)
                parts.append((points, visible, joints, *index))
    intrinsics = np.array([[_FOCAL, 0, _CENTRE], [0, _FOCAL, _CENTRE], [0, 0, 1]])
    points, visible, joints, subject, action = map(np.concatenate, zip(*parts, strict=True))
    out = PoseFrames(
        points, visible, joints, np.stack(cameras), subject, action,
        tuple(f"S{s + 1}" for s in range(num_subjects)), ACTIONS, np.stack(places),
        np.broadcast_to(intrinsics, (num_subjects, num_views, 3, 3)),
    )  # fmt: skip
    check_frames(out)
    return out
