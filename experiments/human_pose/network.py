"""A lifting network on the same frames: a competitor of the learned energy.

Two residual blocks of 1,024 features map the detected joints of all views to the joints in the
world (Martinez et al., ICCV 2017, with layer normalisation in place of batch normalisation). The
cameras stand alike for all subjects, so the network learns them; its pose gets the true limb norm,
as that of the energy. Learning rate and dropout are the best on a held-out training subject.
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
from experiments.human_pose.config import Config
from experiments.human_pose.data import Batch, batch_of
from jaxcv.data.human_pose import PoseFrames
from jaxcv.energies.human_pose import NUM_JOINTS, limb_norm, normalise_points

__all__ = ["SETTINGS", "LiftingNetwork", "lift", "run_name", "runs"]

SETTINGS = tuple(itertools.product((1e-4, 3e-4, 1e-3, 3e-3), (0.0, 0.2, 0.5, 0.7)))
BATCH = 64


class LiftingNetwork(nn.Module):
    """Joints (17, 3) of arbitrary scale from points (V, 17, 2) and their mask (V, 17)."""

    features: int = 1024
    blocks: int = 2

    @nn.compact
    def __call__(
        self, points: jax.Array, visible: jax.Array, rate: Any = 0.0, key: Any = None
    ) -> jax.Array:
        """Joints of one frame.

        Args:
            points: normalised.
            visible: bool.
            rate: of the dropout.
            key: of the dropout; None: none.
        """
        single = {"dtype": jnp.float32, "param_dtype": jnp.float32}

        def layer(x: jax.Array, number: int) -> jax.Array:
            x = nn.relu(nn.LayerNorm(**single)(nn.Dense(self.features, **single)(x)))
            if key is None:
                return x
            kept = jax.random.uniform(jax.random.fold_in(key, number), x.shape, x.dtype) >= rate
            return jnp.where(kept, x / jnp.asarray(1 - rate, x.dtype), 0)

        x = jnp.concatenate([points.ravel(), visible.ravel()]).astype(jnp.float32)
        x = layer(x, 0)
        for block in range(self.blocks):
            x = x + layer(layer(x, 2 * block + 1), 2 * block + 2)
        return nn.Dense(3 * NUM_JOINTS, **single)(x).reshape(NUM_JOINTS, 3)


def run_name(views: int, seed: int | str) -> str:
    """Name of a run: of a seed, or `choose`."""
    return f"lifting.views={views}.seed={seed}"


def runs(config: Config, train: PoseFrames, views: int, seed: int) -> dict[str, runner.Run]:
    """With the first seed, a run to choose the settings; and the run of this seed."""
    if not len(train.joints):
        return {}
    out = {}
    rows = {
        "learning_rate": np.array([rate for rate, _ in SETTINGS], np.float32),
        "dropout": np.array([dropout for _, dropout in SETTINGS], np.float32),
        "seed": np.full(len(SETTINGS), config.seed),
    }
    if seed == 0:
        held = train.subject == np.unique(train.subject)[-1]
        data = {
            "train": batch_of(train.take(~held), views),
            "held": batch_of(train.take(held), views),
        }
        steps = max(1, config.lifting_steps // 3)
        out[run_name(views, "choose")] = runner.Run(
            init=functools.partial(_init, views=views),
            optimizer=functools.partial(_optimizer, steps=steps),
            loss=_loss, trials=rows, steps=steps, data=data, validate=_validate,
            log_every=max(1, steps // 4), checkpoint_every=max(1, steps // 2),
        )  # fmt: skip

    def chosen(trained: Mapping[str, Any]) -> dict[str, np.ndarray]:
        error = trained[run_name(views, "choose")].history["error"][-1]
        best = int(np.nanargmin(error))
        return {name: values[[best]] for name, values in rows.items()} | {
            "seed": np.array([config.seed + seed])
        }

    out[run_name(views, seed)] = runner.Run(
        init=functools.partial(_init, views=views),
        optimizer=functools.partial(_optimizer, steps=config.lifting_steps),
        trials=chosen, steps=config.lifting_steps, data={"train": batch_of(train, views)},
        loss=_loss, log_every=max(1, config.lifting_steps // 10),
        checkpoint_every=max(1, config.lifting_steps // 2),
    )  # fmt: skip
    return out


def _optimizer(learning_rate: Any, *, steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(learning_rate, steps))


def _init(key, trial, *, views: int):
    del trial
    points, visible = jnp.zeros((views, NUM_JOINTS, 2)), jnp.ones((views, NUM_JOINTS), bool)
    return LiftingNetwork().init(key, points, visible)


def lift(params: Any, batch: Batch, rate: Any = 0.0, key: Any = None) -> jax.Array:
    """(N, 17, 3) poses about their mean with the true limb norms [mm]."""
    points, visible = normalise_points(batch.points, batch.visible)
    poses: Any
    if key is None:
        poses = jax.vmap(lambda p, v: LiftingNetwork().apply(params, p, v))(points, visible)
    else:
        keys = jax.random.split(key, len(points))
        one = lambda p, v, k: LiftingNetwork().apply(params, p, v, rate, k)
        poses = jax.vmap(one)(points, visible, keys)
    poses = poses - jnp.mean(poses, axis=1, keepdims=True)
    poses = poses.astype(batch.joints.dtype)
    return poses * (batch.limb_norm / limb_norm(poses))[:, None, None]


def _error(poses: jax.Array, joints: jax.Array) -> jax.Array:
    square = jnp.sum((poses - joints) ** 2, axis=-1)
    return jnp.mean(jnp.sqrt(jnp.where(square > 0, square, 1)) * (square > 0))


def _loss(params, batch, key, trial):
    """Mean joint error [mm] of a few frames."""
    whole, (rows_key, key) = batch["train"], jax.random.split(key)
    rows = jax.random.randint(rows_key, (BATCH,), 0, len(whole.joints))
    some = jax.tree.map(lambda leaf: leaf[rows], whole)
    return _error(lift(params, some, trial["dropout"], key), some.joints), {}


def _validate(params, data, trial):
    del trial
    held = data["held"]
    return {"error": _error(lift(params, held), held.joints)}
