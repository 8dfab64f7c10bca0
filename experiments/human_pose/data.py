"""Frames of the human pose."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.human_pose.config import Config
from jaxcv.data.human_pose import PoseFrames
from jaxcv.data.synthetic.human_pose import generate
from jaxcv.energies.human_pose import limb_norm

__all__ = ["Batch", "Data", "batch_of", "load", "metadata"]


class Data(NamedTuple):
    """For each seed the frames, and a mask of the test frames."""

    seeds: tuple[PoseFrames, ...]
    test: tuple[np.ndarray, ...]


def load(config: Config) -> Data:
    """Generated people, new ones for each seed; or Human3.6M, the same for all seeds."""
    if config.data == "synthetic":
        sets = tuple(
            generate(
                jax.random.key(config.seed + s),
                num_subjects=config.num_subjects,
                clips=config.clips,
                frames=config.frames,
                num_views=max(4, *config.views),
            )
            for s in range(config.num_seeds)
        )
        quarter = config.num_subjects - max(1, config.num_subjects // 4)
        return Data(sets, tuple(frames.subject >= quarter for frames in sets))
    from data_prep.human36m import TEST_SUBJECTS, prepare_frames

    if config.data_dir is None:
        raise runner.data_error(
            "data_dir", "--data=human36m needs a folder", "none", "Name it: --data_dir=DIR."
        )
    with runner.data_errors():
        frames = prepare_frames(config.data_dir, config.cache_dir, stride=config.stride)
    if max(config.views) > frames.cameras.shape[1]:
        expected = f"expected at most {frames.cameras.shape[1]}, the cameras of the data"
        raise runner.data_error("views", expected, config.views, "Name fewer: --views=4.")
    names = [i for i, name in enumerate(frames.subjects) if name in TEST_SUBJECTS]
    test = np.isin(frames.subject, names)
    return Data((frames,) * config.num_seeds, (test,) * config.num_seeds)


def metadata(config: Config, data: Data) -> dict[str, Any]:
    """The names of the test subjects."""
    frames, test = data.seeds[0], data.test[0]
    return {"test_subjects": [frames.subjects[i] for i in np.unique(frames.subject[test])]}


class Batch(NamedTuple):
    """Frames on the device: points (N, V, 17, 2) [px], visible, joints about their mean [mm]."""

    points: jax.Array
    visible: jax.Array
    joints: jax.Array
    limb_norm: jax.Array


def batch_of(frames: PoseFrames, views: int, *, compatibility: bool = False) -> Batch:
    """Frames as seen by the first `views` cameras; `compatibility` of the limb norm."""
    joints = jnp.asarray(frames.joints - frames.joints.mean(axis=1, keepdims=True))
    return Batch(
        jnp.asarray(frames.points[:, :views]),
        jnp.asarray(frames.visible[:, :views]),
        joints,
        limb_norm(joints, compatibility=compatibility),
    )
