"""Sequences of the tracker fusion, their splits and batches, and the losses that rows share."""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.tracker_fusion.config import NUM_FOLDS, Config
from jaxcv.data.synthetic.tracker_fusion import generate
from jaxcv.data.tracker_fusion import TrackerFrames, TrackerSequences, flatten_frames
from jaxcv.energies.tracker_fusion import TrackerFrame
from jaxcv.geometry import boxes as box_geometry


class Data(NamedTuple):
    """The sequences and their scored frames."""

    sequences: TrackerSequences
    frames: TrackerFrames


def load(config: Config) -> Data:
    """Generated sequences, or those of a folder in VOT layout."""
    if config.data == "synthetic":
        sequences = generate(
            jax.random.key(config.seed),
            num_sequences=config.num_sequences,
            num_frames=config.num_frames,
            num_trackers=config.num_trackers,
        )
        return _data(sequences)
    from data_prep._prepare import cache_folder
    from data_prep.vot_results import prepare
    from jaxcv.data.pipelines import load_tracker_sequences

    if config.data_dir is None:
        raise runner.data_error(
            "data_dir", "--data=vot needs a folder", "none", "Name it: --data_dir=DIR."
        )
    cache = cache_folder(config.cache_dir, "vot_results")
    with runner.data_errors():
        sequences = load_tracker_sequences(
            prepare(config.data_dir, cache, polygon=config.polygon)  # pyright: ignore
        )
    data = _data(sequences)
    if not len(data.frames.frame):
        hint = "Give sequences of two frames or more with a visible object."
        raise runner.data_error(config.data_dir, "expected scored frames", "none", hint)
    return data


def _data(sequences: TrackerSequences) -> Data:
    """Sorts the trackers by name: a model then matches its trackers in any data."""
    order = np.argsort(sequences.trackers)
    sequences = sequences._replace(
        trackers=tuple(sequences.trackers[k] for k in order),
        boxes=sequences.boxes[:, :, order],
        reported=sequences.reported[:, :, order],
    )
    return Data(sequences, flatten_frames(sequences))


class Folds(NamedTuple):
    """The folds of the sequences, and which of them are tested.

    With test fold f, the shrinkage is chosen with models that leave out f and one fold beside it.
    """

    count: int
    tested: tuple[int, ...]

    @property
    def all(self) -> int:
        """The number of the split whose training frames are those of all sequences."""
        return 2 * self.count

    @property
    def by_frame(self) -> int:
        """The number of the split by frame."""
        return 2 * self.count + 1

    @property
    def final(self) -> tuple[int, ...]:
        """The splits of the models that are kept: a tested fold left out, all, by frame."""
        return (*(self.count + f for f in self.tested), self.all, self.by_frame)


def folds_of(config: Config) -> Folds:
    """Five folds, each tested; or one test fold, and two folds for the training."""
    return Folds(NUM_FOLDS, tuple(range(NUM_FOLDS))) if config.test_share == 0 else Folds(3, (0,))


def metadata(config: Config, data: Data) -> dict[str, Any]:
    """The names of the model's trackers, and the fold of every sequence of the training.

    Of one split, the first sequences of a random order that have `test_share` of the frames are
    fold 0, and the others fold 1 and 2 in turn.
    """
    digest = lambda name: hashlib.sha256(f"{config.seed}/{name}".encode()).hexdigest()
    ranked = sorted(data.sequences.names, key=digest)
    if config.test_share == 0:
        folds = {name: rank % NUM_FOLDS for rank, name in enumerate(ranked)}
    else:
        number = {name: s for s, name in enumerate(data.sequences.names)}
        count = np.bincount(data.frames.sequence, minlength=len(number))
        ends = np.cumsum([count[number[name]] for name in ranked])
        tested = int(np.argmin(np.abs(ends - config.test_share * ends[-1]))) + 1
        tested = min(max(1, tested), max(1, len(ranked) - 2))
        folds = {
            name: 0 if rank < tested else 1 + (rank - tested) % 2
            for rank, name in enumerate(ranked)
        }
    return {"trackers": list(data.sequences.trackers), "folds": folds}


def tracker_frames(frames: TrackerFrames) -> TrackerFrame:
    """The inputs of `fuse_frame`, with a leading axis of frames."""
    return TrackerFrame(*(jnp.asarray(a) for a in (
        frames.boxes, frames.reported, frames.initial, frames.frame
    )))  # fmt: skip


def frame_thirds(config: Config, data: Data) -> np.ndarray:
    """The split by frame: mask (F,) of the test frames, a third of all."""
    order = np.random.default_rng([config.seed, 1]).permutation(len(data.frames.frame))
    return order % 3 == 0


def split_masks(config: Config, data: Data) -> list[np.ndarray]:
    """Masks (F,) of the training frames of each split, of n folds.

    0..n-1: without test fold f and validation fold f + 1; n..2n-1: without test fold f; 2n: all
    sequences; 2n+1: the split by frame.
    """
    if len(data.sequences.names) < NUM_FOLDS:
        raise runner.data_error(
            "data_dir", f"expected {NUM_FOLDS} sequences or more to train on",
            len(data.sequences.names), "Evaluate a trained model on them: --mode=evaluate.",
        )  # fmt: skip
    fold, num = fold_of_frames(metadata(config, data)["folds"], data), folds_of(config).count
    without = [(fold != f) & (fold != (f + 1) % num) for f in range(num)]
    without += [fold != f for f in range(num)]
    return [*without, np.ones_like(fold, bool), ~frame_thirds(config, data)]


def fold_of_frames(folds: dict[str, int], data: Data) -> np.ndarray:
    """(F,) the test fold of every frame; -1 for sequences that are not in the training."""
    of_sequence = np.array([folds.get(name, -1) for name in data.sequences.names])
    return of_sequence[data.frames.sequence]


def taken(data: Data, index: Any) -> Data:
    """The data with the scored frames of an index or mask (F,)."""
    return data._replace(frames=TrackerFrames(*(leaf[index] for leaf in data.frames)))


def drawn(config: Config, data: Data, draw: int | None) -> Data:
    """The data in which only a random subset of the trackers reports; None: all of them."""
    if draw is None:
        return data
    num = len(data.sequences.trackers)
    if config.subset > num:
        expected = f"expected at most {num}, the trackers of the data"
        raise runner.data_error("subset", expected, config.subset, "Give fewer: --subset=2.")
    chosen = np.random.default_rng([config.seed, 2, draw]).permutation(num)[: config.subset]
    mask = np.isin(np.arange(num), chosen)
    return data._replace(frames=data.frames._replace(reported=data.frames.reported & mask))


def drawn_frames(batch: Any, key: Any, split: Any, size: int) -> tuple[TrackerFrame, jax.Array]:
    """Random training frames of a split, and their true boxes (size, 4)."""
    row, count = batch["table"][split], batch["count"][split]
    chosen = row[jax.random.randint(key, (size,), 0, count)]
    return jax.tree.map(lambda leaf: leaf[chosen], batch["frames"]), batch["truth"][chosen]


def distances(config: Config, loss: str | None, boxes: Any, truth: Any) -> jax.Array:
    """(...) l1 distance of the corners: over the true box size and saturated, or in pixels."""
    distance = jnp.sum(jnp.abs(boxes - truth), axis=-1)
    if loss == "pixels":
        return distance
    distance = distance / box_geometry.box_size(truth)
    if config.saturation > 0:  # bounds the influence of frames where every tracker is lost
        distance = config.saturation * jnp.tanh(distance / config.saturation)
    return distance


def validation_iou(fuse: Any, data: Any, trial: Any) -> dict[str, jax.Array]:
    """IoU on the two folds that the trial is not trained on; `fuse(frames)` gives boxes (n, 4)."""
    ious = {}
    num = len(data["validation"])
    for name, fold in (("own", trial["split"]), ("next", (trial["split"] + 1) % num)):
        chosen = data["validation"][fold]
        frames = jax.tree.map(lambda leaf: leaf[chosen], data["frames"])  # noqa: B023
        ious[f"{name}_iou"] = jnp.mean(box_geometry.iou(fuse(frames), data["truth"][chosen]))
    return ious


def chosen_settings(history: Mapping[str, np.ndarray], count: int, folds: Folds) -> list[int]:
    """The best of `count` settings for each final split, on the validation folds.

    For test fold f, the IoU of the models trained without fold f counts: those without f and f + 1
    on f + 1, and those without f - 1 and f on f - 1. For the models of all sequences and of the
    split by frame, the IoU of all folds counts.
    """
    if not {"own_iou", "next_iou"} <= history.keys():
        expected = "expected the validation scores of the training beside its checkpoints"
        raise runner.data_error(
            "metrics.jsonl", expected, "none", "Give --checkpoint the whole work folder."
        )
    shape = (count, folds.count)
    own = history["own_iou"][-1].reshape(shape)  # without f, f + 1: IoU on f
    following = history["next_iou"][-1].reshape(shape)  # the same models: IoU on f + 1
    votes = following + np.roll(own, 1, axis=1)  # column f: models without f
    best = [int(np.argmax(votes[:, f])) for f in folds.tested]
    return best + [int(np.argmax(votes.sum(axis=1)))] * 2
