"""Training of the tracker fusion."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import runner
from experiments.tracker_fusion import network
from experiments.tracker_fusion.config import (
    NUM_FOLDS,
    WIDTHS,
    Config,
    Method,
    initial_log_width,
    methods,
)
from experiments.tracker_fusion.data import (
    Data,
    distances,
    drawn,
    drawn_frames,
    fold_of_frames,
    folds_of,
    metadata,
    split_masks,
    tracker_frames,
    validation_iou,
)
from jaxcv.energies.tracker_fusion import UNIT, FusionParameters, TrackerFrame, initial_parameters
from jaxcv.metrics.tracking import box_iou
from jaxcv.systems import fuse_frame

# Expected spread over the trackers of each kind of parameter: the unit of the penalty.
SPREADS = {
    "log_width": 0.3,
    "log_weight": 1.0,
    "drift": 0.5,
    "scale_change": 0.5,
    "log_scale": 0.1,
}


def runs(config: Config, data: Data) -> dict[str, runner.Run]:
    """Per method, a run `choose` to choose the shrinkage, and a run `final` to be tested.

    Folds and strengths are trials. With one strength there is no run `choose`.
    """
    folds, count = folds_of(config), len(data.sequences.trackers)
    masks = split_masks(config, data) if len(data.sequences.names) >= NUM_FOLDS else []
    out, residents = {}, {}
    stages = ("choose", "final") if len(config.strength) > 1 else ("final",)
    for (name, method), stage in itertools.product(methods(config).items(), stages):
        if method.draw not in residents:
            own = drawn(config, data, method.draw)
            widths = _best_widths(own, masks) if masks else np.full(2 * folds.count + 2, UNIT)
            residents[method.draw] = _resident(config, own, masks), widths
        resident, widths = residents[method.draw]
        numbers = range(folds.count) if stage == "choose" else folds.final
        rows = list(itertools.product(config.strength, numbers))
        rate = method.learning_rate or config.learning_rate
        first = initial_log_width(config, method)
        out[f"{name}.{stage}"] = runner.Run(
            init=functools.partial(_init, num_trackers=count, log_width=first),
            loss=functools.partial(_loss, config=config, method=method),
            optimizer=functools.partial(_optimizer, rate, config.steps),
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
            validate=functools.partial(_validate, method=method) if stage == "choose" else None,
            summaries={"gradient_norm": "max"},
            log_every=max(1, config.steps // 4),
            checkpoint_every=max(1, config.steps // 2),
        )
    if config.competitors:
        out |= network.runs(config, residents[None][0], count)
    return out


def _resident(config: Config, data: Data, masks: list[np.ndarray]) -> dict[str, Any]:
    """The frames on the device, and the training frames of each split."""
    index = [np.flatnonzero(mask & data.frames.reported.any(axis=1)) for mask in masks]
    longest = max((i.size for i in index), default=0)
    empty = 2 * folds_of(config).count + 2
    table = np.stack([np.resize(i, longest) for i in index]) if index else np.zeros((empty, 1), int)
    return {
        "frames": tracker_frames(data.frames),
        "truth": jnp.asarray(data.frames.ground_truth),
        "table": jnp.asarray(table, jnp.int32),
        "count": jnp.asarray([i.size for i in index] or [1] * empty, jnp.int32),
        "validation": _validation_table(config, data),
    }


def _optimizer(learning_rate: float, steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(learning_rate, steps))


def untrained(num_trackers: int, log_width: float) -> FusionParameters:
    """The parameters before training (2, K), at one width."""
    start = initial_parameters(num_trackers)
    return start._replace(log_width=start.log_width + np.float32(log_width))


def _init(key, trial, *, num_trackers: int, log_width: float):
    del key
    # The baseline's width, chosen on the same frames, is stored with the model but not trained.
    start = untrained(num_trackers, log_width)
    return {"fusion": start, "rbf_width": jnp.asarray(trial["width"])}


def _loss(params, batch, key, trial, *, config: Config, method: Method):
    """Mean l1 distance of the corners, plus the shrinkage."""
    frames, truth = drawn_frames(batch, key, trial["split"], config.batch_size)
    parameters = params["fusion"]._asdict()
    parameters = FusionParameters(**{
        kind: leaf if kind in method.kinds else jax.lax.stop_gradient(leaf)
        for kind, leaf in parameters.items()
    })  # fmt: skip
    fuse = functools.partial(
        fuse_frame, damping=method.damping, normalised=method.normalised, solver=method.solver
    )
    fused = jax.vmap(lambda frame: fuse(parameters, frame))(frames)
    distance = distances(config, method.loss, fused.box, truth)
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
    fold = fold_of_frames(metadata(config, data)["folds"], data)
    rows = []
    for f in range(folds_of(config).count):
        index = np.flatnonzero(fold == f) if np.any(fold == f) else np.arange(fold.size)
        rows.append(index[np.linspace(0, index.size - 1, VALIDATION_FRAMES).astype(int)])
    return jnp.asarray(np.stack(rows), jnp.int32)


def _validate(params, data, trial, *, method: Method):
    one = lambda frame: fuse_frame(
        params["fusion"], frame, normalised=method.normalised, solver=method.solver
    )
    return validation_iou(lambda frames: jax.vmap(one)(frames).box, data, trial)


@functools.partial(jax.jit, static_argnames=("batch_size", "method"))
def fuse_all(
    parameters: FusionParameters,
    which: jax.Array,
    frames: TrackerFrame,
    batch_size: int = 4096,
    method: Method = Method(),  # noqa: B008
) -> jax.Array:
    """Fused boxes (F, 4) [px] of all frames, frame i by model which[i].

    Args:
        parameters: (m, 2, K) each, m models.
        which: (F,) int.
        frames: F frames.
        batch_size: frames at a time.
        method: energy and solver.
    """

    def one(row):
        model, frame = row
        own = jax.tree.map(lambda leaf: leaf[model], parameters)
        return fuse_frame(own, frame, normalised=method.normalised, solver=method.solver).box

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
    frames, num = tracker_frames(data.frames), len(data.sequences.trackers)
    models, none = equal_width(num, WIDTHS), np.zeros(len(data.frames.frame), np.int32)
    fused = [
        np.asarray(fuse_all(models, jnp.asarray(none + i), frames)) for i in range(len(WIDTHS))
    ]
    ious = np.stack([box_iou(boxes, data.frames.ground_truth) for boxes in fused])
    return [WIDTHS[int(np.argmax(ious[:, mask].mean(axis=1)))] for mask in masks]
