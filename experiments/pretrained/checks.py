"""Scores of the stored models on samples that no training has seen.

Every function takes a model and a count, and returns the headline metric on that many new samples
and its standard error. The samples are drawn as in the training, with the settings of the card.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.data.synthetic.curves import draw_curves
from jaxcv.data.synthetic.hand import Sensor, generate_hands
from jaxcv.data.synthetic.head import Heads
from jaxcv.data.synthetic.human_pose import generate as generate_people
from jaxcv.data.synthetic.stereo import generate_pairs
from jaxcv.data.synthetic.tracker_fusion import generate as generate_trackers
from jaxcv.data.tracker_fusion import flatten_frames
from jaxcv.energies.curves import FAMILIES
from jaxcv.energies.human_pose import limb_norm
from jaxcv.io import Model
from jaxcv.metrics.depth import depth_errors
from jaxcv.metrics.pose import mpjpe
from jaxcv.metrics.tracking import box_iou, sequence_means
from jaxcv.systems import (
    estimate_depth_and_motion,
    fit_curves,
    fuse_boxes,
    predict_hand,
    reconstruct_pose,
    render_latents,
)
from jaxcv.systems.curve_fitting import curve_energies

__all__ = ["CHECKS", "COUNT"]

COUNT = 64
NEW = 2**30  # a seed far from those of the trainings
SOLVED = 1.05  # solved: at most this many times the energy at the truth
_PER_CALL = 16  # images


def _mean(scores: Any) -> tuple[float, float]:
    scores = np.asarray(scores, float)
    return float(scores.mean()), float(scores.std(ddof=1) / math.sqrt(scores.size))


def _curves(model: Model, count: int) -> tuple[float, float]:
    """Fraction of solved sines."""
    config, names = model.card["config"], ("sine",)
    problems = draw_curves(
        jax.random.key(NEW), [FAMILIES[name] for name in names], count,
        num_points=config["num_points"], noise=config["noise"],
    )  # fmt: skip
    found = fit_curves(names, problems.t, problems.y, problems.start, model=model)[-1]
    energy = lambda x: curve_energies(names, problems.t, problems.y, x)[0]
    solved = np.asarray(energy(found) <= SOLVED * energy(problems.truth))
    share = (solved.sum() + 1) / (count + 2)
    return float(solved.mean()), math.sqrt(share * (1 - share) / (count + 2))


def _fusion_demo(model: Model, count: int) -> tuple[float, float]:
    """Mean over new sequences of the same trackers of the mean IoU."""
    config = model.card["config"]
    first = config["num_sequences"]  # sequences do not depend on their number
    every = generate_trackers(
        jax.random.key(config["seed"]), num_sequences=first + count,
        num_frames=config["num_frames"], num_trackers=config["num_trackers"],
    )  # fmt: skip
    order = [every.trackers.index(name) for name in model.card["trackers"]]
    frames = flatten_frames(
        every._replace(boxes=every.boxes[:, :, order], reported=every.reported[:, :, order])
    )
    new = frames.sequence >= first
    boxes = fuse_boxes(
        frames.boxes[new], model=model, reported=frames.reported[new],
        first_box=frames.initial[new], frame=frames.frame[new],
    )  # fmt: skip
    iou = box_iou(np.asarray(boxes), frames.ground_truth[new])
    means, _ = sequence_means(iou, frames.sequence[new] - first, count)
    return _mean(means)


def _hand_net6(model: Model, count: int) -> tuple[float, float]:
    """Mean joint error [mm] of new people."""
    config = model.card["config"]
    sensor = Sensor(noise=config["sensor_noise"] * Sensor().noise)
    size = (config["window"], config["window"])
    key = jax.random.key(NEW)
    frames = generate_hands(key, count, subjects=count // 8, size=size, sensor=sensor)
    joints = predict_hand(frames.depth, frames.intrinsics, model=model).joints
    return _mean(np.linalg.norm(joints - frames.joints, axis=-1).mean(axis=-1))


def _stereo_lsnet(model: Model, count: int) -> tuple[float, float]:
    """L1-inv of new rooms."""
    config = model.card["config"]
    pairs = generate_pairs(jax.random.key(NEW), count, (config["height"], config["width"]))
    scores = []
    for i in range(0, count, _PER_CALL):
        part = jax.tree.map(lambda x: x[i : i + _PER_CALL], pairs)  # noqa: B023
        found = estimate_depth_and_motion(
            jnp.asarray(part.target), jnp.asarray(part.source), jnp.asarray(part.intrinsics),
            model=model,
        )  # fmt: skip
        translation = np.asarray(part.motion)[:, :3, 3]
        scores.append(depth_errors(1 / found.full, part.depth, translation)["l1_inv"])
    return _mean(np.concatenate(scores))


def _graphics_faces(model: Model, count: int) -> tuple[float, float]:
    """Squared correlation of the inferred and the true azimuth, of new heads."""
    config = model.card["config"]
    side = int(model.settings["network"].size.image)
    heads = Heads(config["azimuth"], config["elevation"], config["light"], side, config["frame"])
    seen = heads.images(NEW, count, count)
    images = seen.images[..., None] / np.float32(255)
    found = render_latents(images, model=model).found["azimuth"]
    r = float(np.corrcoef(found, seen.factors[:, 0])[0, 1])
    return r**2, 2 * abs(r) * (1 - r**2) / math.sqrt(count - 3)


def _pose_people(model: Model, count: int) -> tuple[float, float]:
    """Mean joint error [mm] of new people."""
    with jax.enable_x64(True):
        views = model.params["model"].cameras.shape[0]
        people = generate_people(
            jax.random.key(NEW), num_subjects=4, clips=1, frames=12, num_views=views
        )
        rows = np.random.default_rng(0).permutation(len(people.joints))[:count]
        truth = people.joints[rows] - people.joints[rows].mean(axis=1, keepdims=True)
        found = reconstruct_pose(
            people.points[rows, :views], model, visible=people.visible[rows, :views],
            limb_norm=limb_norm(jnp.asarray(truth)),
        )  # fmt: skip
        return _mean(mpjpe(found.joints, truth))


CHECKS: dict[str, Callable[[Model, int], tuple[float, float]]] = {
    "curves": _curves,
    "fusion_demo": _fusion_demo,
    "graphics_faces": _graphics_faces,
    "hand_net6": _hand_net6,
    "pose_people": _pose_people,
    "stereo_lsnet": _stereo_lsnet,
}
