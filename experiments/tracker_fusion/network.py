"""A set network on the same boxes: a competitor of the learned energy.

Every tracker's box goes through the same layers, which exchange means over the trackers
(Zaheer et al., Deep sets, 2017); a learned vector says which tracker it is. The fused corner is
the mean of the shifted corners with softmax weights. Permuting the trackers and their vectors
does not change the box.
"""

import functools
import itertools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import runner
from experiments.tracker_fusion.config import Config
from experiments.tracker_fusion.data import (
    chosen_settings,
    distances,
    drawn_frames,
    folds_of,
    validation_iou,
)
from jaxcv.energies.tracker_fusion import UNIT, TrackerFrame, frame_unit
from jaxcv.geometry import boxes as box_geometry

__all__ = ["SETTINGS", "SetNetwork", "fuse", "runs"]

# Learning rate and weight decay; the validation folds choose a pair.
SETTINGS = tuple(itertools.product((1e-3, 3e-3, 1e-2, 3e-2), (1e-2, 1e-1, 1.0)))
_MASKED = -1e9


class SetNetwork(nn.Module):
    """One box (4,) [px] from the boxes of K trackers in one frame."""

    features: int = 32

    @nn.compact
    def __call__(self, frame: TrackerFrame) -> jax.Array:
        """The box of one frame."""
        origin, unit = frame_unit(frame)
        size = unit / UNIT  # the median box size
        corners = jnp.where(frame.reported[:, None], frame.boxes, jnp.tile(origin, 2))
        place = (corners.reshape(-1, 2, 2) - origin) / size
        own = jnp.where(frame.reported, box_geometry.box_size(corners), size)
        change = jnp.log(own / box_geometry.box_size(frame.first_box))
        elapsed = jnp.broadcast_to(jnp.log1p(frame.frame / 100), own.shape)
        inputs = jnp.stack([jnp.log(own / size), change, elapsed], axis=-1)
        which = self.param("tracker", nn.initializers.normal(0.1), (own.size, 8))
        x = jnp.concatenate([jnp.arcsinh(3 * place.reshape(-1, 4)), inputs, which], axis=-1)
        mask = frame.reported[:, None].astype(x.dtype)
        count = jnp.maximum(jnp.sum(mask), 1)
        for _ in range(3):
            x = nn.relu(nn.Dense(self.features)(x))
            pooled = jnp.sum(mask * x, axis=0) / count
            x = jnp.concatenate([x, jnp.broadcast_to(pooled, x.shape)], axis=-1)
        x = nn.relu(nn.Dense(self.features)(x))
        logits = nn.Dense(2, kernel_init=nn.initializers.zeros)(x)  # (K, corner)
        shift = nn.Dense(4, kernel_init=nn.initializers.zeros)(x).reshape(-1, 2, 2)
        weights = jax.nn.softmax(jnp.where(frame.reported[:, None], logits, _MASKED), axis=0)
        corner = jnp.sum(weights[..., None] * (place + shift), axis=0)
        return (origin + size * corner).reshape(4)


def runs(config: Config, resident: Any, num_trackers: int) -> dict[str, runner.Run]:
    """A run to choose learning rate and weight decay, and a run to be tested."""
    folds = folds_of(config)

    def trials(rows: Any) -> dict[str, np.ndarray]:
        rate, decay = np.array([SETTINGS[setting] for setting, _ in rows], np.float32).T
        split = np.array([number for _, number in rows], np.int32)
        seed = np.full(len(rows), config.seed)
        return {"learning_rate": rate, "weight_decay": decay, "split": split, "seed": seed}

    def final(trained: Mapping[str, Any]) -> dict[str, np.ndarray]:
        history = trained["set_network.choose"].history
        best = chosen_settings(history, len(SETTINGS), folds)
        return trials(list(zip(best, folds.final, strict=True)))

    stages: dict[str, Any] = {
        "choose": trials(list(itertools.product(range(len(SETTINGS)), range(folds.count)))),
        "final": final,
    }
    return {
        f"set_network.{stage}": runner.Run(
            init=functools.partial(_init, num_trackers=num_trackers),
            loss=functools.partial(_loss, config=config),
            optimizer=functools.partial(_optimizer, steps=config.network_steps),
            hyperparameters=("learning_rate", "weight_decay"),
            trials=rows,
            steps=config.network_steps,
            data=resident,
            validate=_validate if stage == "choose" else None,
            log_every=max(1, config.network_steps // 4),
            checkpoint_every=max(1, config.network_steps // 2),
        )
        for stage, rows in stages.items()
    }


def _optimizer(learning_rate: Any, weight_decay: Any, *, steps: int) -> Any:
    rate = optax.cosine_decay_schedule(learning_rate, steps)
    return optax.adamw(rate, weight_decay=weight_decay)


def _init(key, trial, *, num_trackers: int):
    del trial
    boxes = jnp.tile(jnp.asarray([0.0, 0, 1, 1]), (num_trackers, 1))
    frame = TrackerFrame(boxes, jnp.ones(num_trackers, bool), boxes[0], jnp.asarray(1))
    return SetNetwork().init(key, frame)


def _loss(params, batch, key, trial, *, config: Config):
    frames, truth = drawn_frames(batch, key, trial["split"], config.batch_size)
    boxes = jax.vmap(lambda frame: SetNetwork().apply(params, frame))(frames)
    return jnp.mean(distances(config, config.loss, boxes, truth)), {}


def _validate(params, data, trial):
    one = lambda frame: SetNetwork().apply(params, frame)
    return validation_iou(jax.vmap(one), data, trial)


@jax.jit
def fuse(params: Any, which: jax.Array, frames: TrackerFrame) -> jax.Array:
    """Boxes (F, 4) [px], frame i by model which[i] of the models in `params`."""

    def one(row):
        own = jax.tree.map(lambda leaf: leaf[row[0]], params)
        return SetNetwork().apply(own, row[1])

    return jax.lax.map(one, (which, frames), batch_size=4096)
