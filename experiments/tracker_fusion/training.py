"""Settings, data and training of the tracker fusion."""

import dataclasses
import functools
import hashlib
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import runner
from jaxcv import Damping
from jaxcv.data.synthetic.tracker_fusion import generate
from jaxcv.data.tracker_fusion import TrackerFrames, TrackerSequences, flatten_frames
from jaxcv.energies.tracker_fusion import (
    UNIT,
    FusionParameters,
    TrackerFrame,
    initial_parameters,
)
from jaxcv.geometry import boxes as box_geometry
from jaxcv.systems import fuse_frame

NUM_FOLDS = 5
WIDTHS = (0.10, 0.15, 0.20, 0.30, 0.40)  # tried for the equal-width baseline [median box sizes]


class Method(NamedTuple):
    """A trained row: its damping, the kinds of parameters it learns, its initial width."""

    damping: Damping = Damping(0.1)
    kinds: tuple[str, ...] = FusionParameters._fields
    width: float = UNIT


METHODS = {"learned": Method(), "undamped": Method(Damping(0.0, mode="plain"))}
_WIDTHS = (0.01, 0.03, 0.1, 0.3, 1.0)
ABLATIONS = {  # further rows
    "none": {},
    "kinds": {f"only_{kind}": Method(kinds=(kind,)) for kind in FusionParameters._fields}
    | {
        f"without_{kind}": Method(kinds=tuple(k for k in FusionParameters._fields if k != kind))
        for kind in FusionParameters._fields
    },
    "dampings": {f"damping_{value:g}": Method(Damping(value)) for value in (1e-3, 1e-2, 1.0, 10.0)},
    "widths": {f"learned_from_{width:g}": Method(width=width) for width in _WIDTHS}
    | {
        f"undamped_from_{width:g}": Method(Damping(0.0, mode="plain"), width=width)
        for width in _WIDTHS
    },
}
# Expected spread over the trackers of each kind of parameter: the unit of the penalty.
SPREADS = {
    "log_width": 0.3,
    "log_weight": 1.0,
    "drift": 0.5,
    "scale_change": 0.5,
    "log_scale": 0.1,
}
SOURCE = {  # the paper, on 72 entries of VOT2018: other data, split by sequence and by frame
    "learned/iou": 0.4960,
    "mean/iou": 0.2455,
    "median/iou": 0.4458,
    "learned/iou_frames": 0.565,
    "mean/iou_frames": 0.238,
    "median/iou_frames": 0.428,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the tracker fusion; every field is a flag."""

    data: str = runner.flag(
        "synthetic", "Generated sequences, or a folder in VOT layout.", choices=("synthetic", "vot")
    )
    data_dir: str | None = runner.flag(None, "Folder in VOT layout, for --data=vot.", of_data=True)
    cache_dir: str | None = runner.flag(
        None,
        "Folder for prepared data; none: jaxcv in the user's cache folder.",
        of_data=True,
    )
    polygon: str = runner.flag(
        "extent",
        "Box of a polygon in VOT data: its extent, or a box of the polygon's area.",
        choices=("extent", "area"),
        of_data=True,
    )
    steps: int = runner.flag(300, "Optimiser steps.", lower=1)
    seed: int = runner.flag(
        0, "Seed of data, folds and batches.", lower=0, upper=2**31 - 1, of_data=True
    )
    num_sequences: int = runner.flag(40, "Generated sequences.", lower=NUM_FOLDS, of_data=True)
    num_frames: int = runner.flag(60, "Frames per generated sequence.", lower=3, of_data=True)
    num_trackers: int = runner.flag(12, "Generated trackers.", lower=2, of_data=True)
    batch_size: int = runner.flag(128, "Frames per step.", lower=1)
    learning_rate: float = runner.flag(0.05, "Adam learning rate (cosine decay to 0).", lower=0.0)
    corners: str = runner.flag(
        "shared",
        "Parameters of a tracker's two corners: one set, or one for each corner (paper).",
        choices=("shared", "own"),
    )
    strength: tuple[float, ...] = runner.flag(
        (1e-4, 1e-3, 1e-2, 1e-1),
        "Strengths of the shrinkage; validation folds choose one.",
        lower=0.0,
    )
    ablation: str = runner.flag(
        "none",
        "Further rows: kinds of parameters alone or left out, dampings, initial widths.",
        choices=tuple(ABLATIONS),
    )
    saturation: float = runner.flag(
        3.0, "Upper limit of a frame's l1 loss [true box sizes]; 0: no limit.", lower=0.0
    )


PRESETS = {
    "default": Config(),
    # On a folder in VOT layout: what matters of what is learned.
    "kinds": Config(data="vot", ablation="kinds"),
    "dampings": Config(data="vot", ablation="dampings"),
    "widths": Config(data="vot", ablation="widths", strength=(0.0, 1e-4)),
    "study": Config(
        steps=600, batch_size=256, num_sequences=60, strength=(1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    ),
    # As in the paper: a folder in VOT layout, parameters for each corner, plain l1 loss.
    "paper": Config(data="vot", steps=3000, batch_size=1024, corners="own", saturation=0.0),
}


def memory(config: Config) -> dict[str, float]:
    """Bytes of the generated boxes, and of a batch of each training."""
    generated = config.num_sequences * config.num_frames * config.num_trackers
    own = 0.0 if config.data != "synthetic" else 64.0 * generated
    return {"num_sequences": own, "batch_size": 400.0 * config.batch_size * config.num_trackers}


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


def metadata(config: Config, data: Data) -> dict[str, Any]:
    """The names of the model's trackers, and the fold of every sequence of the training."""
    digest = lambda name: hashlib.sha256(f"{config.seed}/{name}".encode()).hexdigest()
    ranked = sorted(data.sequences.names, key=digest)
    folds = {name: rank % NUM_FOLDS for rank, name in enumerate(ranked)}
    return {"trackers": list(data.sequences.trackers), "folds": folds}


def tracker_frames(frames: TrackerFrames) -> TrackerFrame:
    """The inputs of `fuse_frame`, with a leading axis of frames."""
    return TrackerFrame(*(jnp.asarray(a) for a in (
        frames.boxes, frames.reported, frames.initial, frames.frame
    )))  # fmt: skip


def _frame_thirds(config: Config, data: Data) -> np.ndarray:
    """The split by frame: mask (F,) of the test frames, a third of all."""
    order = np.random.default_rng([config.seed, 1]).permutation(len(data.frames.frame))
    return order % 3 == 0


def _splits(config: Config, data: Data) -> list[np.ndarray]:
    """Masks (F,) of the training frames of each split.

    0..4: without test fold f and validation fold f + 1; 5..9: without test fold f; 10: all
    sequences; 11: the split by frame.
    """
    if len(data.sequences.names) < NUM_FOLDS:
        raise runner.data_error(
            "data_dir", f"expected {NUM_FOLDS} sequences or more to train on",
            len(data.sequences.names), "Evaluate a trained model on them: --mode=evaluate.",
        )  # fmt: skip
    fold = _fold_of_frames(metadata(config, data)["folds"], data)
    without = [(fold != f) & (fold != (f + 1) % NUM_FOLDS) for f in range(NUM_FOLDS)]
    without += [fold != f for f in range(NUM_FOLDS)]
    return [*without, np.ones_like(fold, bool), ~_frame_thirds(config, data)]


ALL, FRAMES = 2 * NUM_FOLDS, 2 * NUM_FOLDS + 1


def _fold_of_frames(folds: dict[str, int], data: Data) -> np.ndarray:
    """(F,) the test fold of every frame; -1 for sequences that are not in the training."""
    of_sequence = np.array([folds.get(name, -1) for name in data.sequences.names])
    return of_sequence[data.frames.sequence]


def methods(config: Config) -> dict[str, Method]:
    """The rows that are trained."""
    return METHODS | ABLATIONS[config.ablation]


def runs(config: Config, data: Data) -> dict[str, runner.Run]:
    """Per method, a run `choose` to choose the shrinkage, and a run `final` to be tested.

    Folds and strengths are trials.
    """
    frames = data.frames
    masks = _splits(config, data) if len(data.sequences.names) >= NUM_FOLDS else []
    index = [np.flatnonzero(mask) for mask in masks]
    longest = max((i.size for i in index), default=0)
    table = np.stack([np.resize(i, longest) for i in index]) if index else np.zeros((12, 1), int)
    resident = {
        "frames": tracker_frames(frames),
        "truth": jnp.asarray(frames.ground_truth),
        "table": jnp.asarray(table, jnp.int32),
        "count": jnp.asarray([i.size for i in index] or [1] * 12, jnp.int32),
        "validation": _validation_table(config, data),
    }
    widths = _best_widths(data, masks) if masks else np.full(12, UNIT)
    out = {}
    for (name, method), splits in itertools.product(methods(config).items(), ("choose", "final")):
        numbers = range(NUM_FOLDS) if splits == "choose" else range(NUM_FOLDS, FRAMES + 1)
        rows = list(itertools.product(config.strength, numbers))
        count = len(data.sequences.trackers)
        out[f"{name}.{splits}"] = runner.Run(
            init=functools.partial(_init, num_trackers=count, width=method.width),
            loss=functools.partial(_loss, config=config, method=method),
            optimizer=functools.partial(_optimizer, config.learning_rate, config.steps),
            hyperparameters=(),
            trials={
                "strength": np.array([row[0] for row in rows], np.float32),
                "split": np.array([row[1] for row in rows], np.int32),
                "width": np.array([widths[row[1]] for row in rows], np.float32),
                "seed": np.full(len(rows), config.seed),
            },
            steps=config.steps,
            data=resident,
            project=_share_corners if config.corners == "shared" else None,
            validate=_validate if splits == "choose" else None,
            summaries={"gradient_norm": "max"},
            log_every=max(1, config.steps // 4),
            checkpoint_every=max(1, config.steps // 2),
        )
    return out


def _optimizer(learning_rate: float, steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(learning_rate, steps))


def _init(key, trial, *, num_trackers: int, width: float):
    del key
    start = initial_parameters(num_trackers)
    start = start._replace(log_width=start.log_width + np.log(width / UNIT).astype(np.float32))
    # The baseline's width, chosen on the same frames, is stored with the model but not trained.
    return {"fusion": start, "rbf_width": jnp.asarray(trial["width"])}


def _loss(params, batch, key, trial, *, config: Config, method: Method):
    """Mean l1 distance of the corners over the true box size, plus the shrinkage."""
    row, count = batch["table"][trial["split"]], batch["count"][trial["split"]]
    chosen = row[jax.random.randint(key, (config.batch_size,), 0, count)]
    frames = jax.tree.map(lambda leaf: leaf[chosen], batch["frames"])
    truth = batch["truth"][chosen]
    parameters = params["fusion"]._asdict()
    parameters = FusionParameters(**{
        kind: leaf if kind in method.kinds else jax.lax.stop_gradient(leaf)
        for kind, leaf in parameters.items()
    })  # fmt: skip
    fused = jax.vmap(lambda frame: fuse_frame(parameters, frame, damping=method.damping))(frames)
    distance = jnp.sum(jnp.abs(fused.box - truth), axis=-1) / box_geometry.box_size(truth)
    if config.saturation > 0:  # bounds the influence of frames where every tracker is lost
        distance = config.saturation * jnp.tanh(distance / config.saturation)
    metrics = {
        "distance": jnp.mean(distance),
        "unconverged": jnp.mean(~fused.converged),
        "min_eigenvalue": jnp.min(fused.min_eigenvalue),
    }
    return jnp.mean(distance) + trial["strength"] * penalty(parameters), metrics


def penalty(parameters: FusionParameters) -> jax.Array:
    """Mean square () of the parameters over SPREADS, summed over their kinds; 0 if untrained."""
    parts = parameters._asdict().items()
    return sum((jnp.mean((leaf / SPREADS[name]) ** 2) for name, leaf in parts), jnp.zeros(()))


def _share_corners(params):
    """Gives both corners the mean of their parameters."""
    share = lambda leaf: jnp.broadcast_to(jnp.mean(leaf, axis=0), leaf.shape)
    return params | {"fusion": jax.tree.map(share, params["fusion"])}


VALIDATION_FRAMES = 1000  # per fold: enough for the choice, and quick


def _validation_table(config: Config, data: Data) -> jax.Array:
    """(folds, n) indices of evenly spaced frames of each fold."""
    fold = _fold_of_frames(metadata(config, data)["folds"], data)
    rows = []
    for f in range(NUM_FOLDS):
        index = np.flatnonzero(fold == f) if np.any(fold == f) else np.arange(fold.size)
        rows.append(index[np.linspace(0, index.size - 1, VALIDATION_FRAMES).astype(int)])
    return jnp.asarray(np.stack(rows), jnp.int32)


def _validate(params, data, trial):
    """IoU on the two folds that the trial is not trained on."""
    ious = {}
    for name, fold in (("own", trial["split"]), ("next", (trial["split"] + 1) % NUM_FOLDS)):
        chosen = data["validation"][fold]
        frames = jax.tree.map(lambda leaf: leaf[chosen], data["frames"])  # noqa: B023
        fused = jax.vmap(lambda frame: fuse_frame(params["fusion"], frame).box)(frames)
        ious[f"{name}_iou"] = jnp.mean(box_geometry.iou(fused, data["truth"][chosen]))
    return ious


@functools.partial(jax.jit, static_argnames="batch_size")
def fuse_all(
    parameters: FusionParameters, which: jax.Array, frames: TrackerFrame, batch_size: int = 4096
) -> jax.Array:
    """Fused boxes (F, 4) [px] of all frames, frame i by model which[i].

    Args:
        parameters: (m, 2, K) each, m models.
        which: (F,) int.
        frames: F frames.
        batch_size: frames at a time.
    """

    def one(row):
        model, frame = row
        return fuse_frame(jax.tree.map(lambda leaf: leaf[model], parameters), frame).box

    return jax.lax.map(one, (which, frames), batch_size=batch_size)


def equal_width(num_trackers: int, widths: Any) -> FusionParameters:
    """Untrained models (m, 2, K); all functions of model i have widths[i] [median box sizes]."""
    start = initial_parameters(num_trackers)
    shape = (len(widths), 2, num_trackers)
    stacked = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, shape), start)
    logs = jnp.log(jnp.asarray(widths, jnp.float32) / UNIT)
    return stacked._replace(log_width=jnp.broadcast_to(logs[:, None, None], shape))


def _best_widths(data: Data, masks: list[np.ndarray]) -> list[float]:
    """For each mask of training frames, the width in `WIDTHS` with the highest IoU on them."""
    from jaxcv.metrics.tracking import box_iou

    frames, num = tracker_frames(data.frames), len(data.sequences.trackers)
    models, none = equal_width(num, WIDTHS), np.zeros(len(data.frames.frame), np.int32)
    fused = [
        np.asarray(fuse_all(models, jnp.asarray(none + i), frames)) for i in range(len(WIDTHS))
    ]
    ious = np.stack([box_iou(boxes, data.frames.ground_truth) for boxes in fused])
    return [WIDTHS[int(np.argmax(ious[:, mask].mean(axis=1)))] for mask in masks]
