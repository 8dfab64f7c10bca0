"""Training of the hand pose networks, in every variant of the settings."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import runner
from experiments.hand_pose import search
from experiments.hand_pose.config import RATES, Config, channels, predictable, rows
from experiments.hand_pose.data import Crops, Data, data_key, data_of, in_float, unit_mm
from jaxcv.models.hand_pose import HandNetwork, pose_loss
from jaxcv.training import Plateau

VALIDATED_AT_ONCE = 2048
SOURCE = {  # the thesis' Table 4.3, validation loss on other data
    "net1/valid_loss": 0.00447, "net2/valid_loss": 0.00419, "net3/valid_loss": 0.00411,
    "net4/valid_loss": 0.00364, "net5/valid_loss": 0.00325, "net6/valid_loss": 0.00242,
    "net7/valid_loss": 0.00434, "net8/valid_loss": 0.00462, "net9/valid_loss": 0.00439,
}  # fmt: skip


def metadata(config: Config, data: Data) -> dict[str, Any]:
    """Statistics of the data that are stored with a training: colour scale and mean pose.

    Those of variants with other data are in the entry `others`.
    """
    del config
    out: dict[str, Any] = _statistics(data)
    if data.others:
        out["others"] = {_text(key): _statistics(one) for key, one in data.others.items()}
    return out


def _statistics(data: Data) -> dict[str, Any]:
    mean = data.train.target.mean(axis=0, dtype=float)
    return {"color_scale": [list(x) for x in data.scale], "mean_pose": mean.tolist()}


def _text(key: tuple[Any, ...]) -> str:
    return ",".join(map(str, key))


def metadata_of(found: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    """The statistics of a variant's data, from the metadata of a training."""
    return found.get("others", {}).get(_text(data_key(config)), found)


def images_of(crops: Crops, scale: Any, kinds: tuple[str, ...]) -> tuple[Any, ...]:
    """Input images of a network in float32, one array per kind; NumPy in, NumPy out, else JAX.

    Args:
        crops: with the images that the kinds need.
        scale: colour scale of the training.
        kinds: of the network.
    """
    mean, deviation = (np.asarray(x, np.float32) for x in scale)
    depth = lambda: in_float(crops.depth)
    rgb = lambda: (in_float(crops.rgb) - mean) / deviation
    join = np.concatenate if isinstance(crops.depth, np.ndarray) else jnp.concatenate
    make = {"depth": depth, "rgb": rgb, "rgbd": lambda: join([rgb(), depth()], axis=-1)}
    return tuple(make[kind]() for kind in kinds)


def runs(config: Config, data: Data) -> dict[str, runner.Run]:
    """For each row, one run per round of the search, and the run of its training."""
    predictable(config)  # raises before anything is trained
    out: dict[str, runner.Run] = {}
    seeds = np.arange(config.seed, config.seed + config.num_seeds)
    for name, (own, network) in rows(config).items():
        make = functools.partial(_run, own, data_of(data, own), network)
        trials: Any = functools.partial(_given, own, seeds)
        if own.search:
            for k in range(own.search_rounds):
                drawn = functools.partial(search.drawn, own, name, k)
                out[f"{name}.search{k}"] = make(own.search_steps, drawn, plateau=None)
            trials = functools.partial(_found, own, name, seeds)
        plateau = Plateau("valid_loss", own.patience, returns=own.returns)
        out[name] = make(own.steps, trials, plateau=plateau)
    return out


def epoch_of(config: Config, data: Data) -> int:
    """Steps per epoch."""
    return max(1, len(data.train.depth) // config.batch_size)


def _run(config, data, network, steps, trials, *, plateau) -> runner.Run:
    log_every = min(epoch_of(config, data), steps)
    validate = functools.partial(
        _validate, network=network, scale=data.scale, unit_mm=unit_mm(config)
    )
    return runner.Run(
        init=functools.partial(_init, network=network, side=config.side),
        loss=functools.partial(_loss, network=network),
        optimizer=optax.sgd,
        hyperparameters=("learning_rate", "momentum"),
        trials=trials,
        steps=steps,
        data=_needed(data.valid, network.images),
        batches=functools.partial(_batch, data, network.images, config),
        validate=validate,
        plateau=plateau,
        sequential=runner.in_turn(config.trials_by),
        log_every=log_every,
        checkpoint_every=4 * log_every,
        steps_per_call=1,
    )


def _needed(crops: Crops, kinds: tuple[str, ...]) -> Crops:
    """The images of these kinds as they are stored, shared by all networks, and the targets."""
    depth = crops.depth if {"depth", "rgbd"} & set(kinds) else None
    rgb = crops.rgb if {"rgb", "rgbd"} & set(kinds) else None
    return Crops(depth, rgb, crops.target, None, None, None, None)


def rows_of_step(
    seed: int, size: int, count: int, step: int, *, shuffled: bool = True
) -> np.ndarray:
    """Indices of the `size` of `count` frames of a step; every epoch has its own random order.

    Without `shuffled` all epochs have that of the first.
    """
    size = min(size, count)
    epoch, place = divmod(step, count // size)
    return _order(seed, epoch if shuffled else 0, count)[place * size : (place + 1) * size]


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)


def _batch(data: Data, kinds: tuple[str, ...], config: Config, step: int) -> Any:
    shuffled = config.order == "shuffled"
    count = len(data.train.depth)
    chosen = rows_of_step(config.seed, config.batch_size, count, step, shuffled=shuffled)
    crops = data.train.take(chosen)
    return images_of(crops, data.scale, kinds), crops.target


def _init(key, trial, *, network: HandNetwork, side: int):
    del trial
    return network.init(key, *(jnp.zeros((1, side, side, c)) for c in channels(network)))


def _loss(params, batch, key, trial, *, network: HandNetwork):
    images, target = batch
    found: Any = network.apply(params, *images, rate=trial["dropout"], key=key)
    return pose_loss(found, target), {}


def _validate(params, data, trial, *, network: HandNetwork, scale: Any, unit_mm: float):
    """Loss and error of the validation frames, stored in few bits, in float32 a part at a time."""
    del trial

    def found_of(crops):
        return network.apply(params, *images_of(crops, scale, network.images))

    if len(data.target) > VALIDATED_AT_ONCE:
        one = lambda crop: found_of(jax.tree.map(lambda leaf: leaf[None], crop))[0]  # type: ignore
        found: Any = jax.lax.map(one, data, batch_size=VALIDATED_AT_ONCE)
    else:
        found = found_of(data)
    error = jnp.mean(jnp.linalg.norm(found - data.target, axis=-1))
    return {"valid_loss": pose_loss(found, data.target), "valid_error_mm": unit_mm * error}


def _given(config: Config, seeds: np.ndarray, trained: Any) -> Mapping[str, np.ndarray]:
    del trained
    return {"seed": seeds} | {name: np.full(len(seeds), getattr(config, name)) for name in RATES}


def _found(config: Config, name: str, seeds: np.ndarray, trained: Any) -> Mapping[str, np.ndarray]:
    best = search.best_setting(config, name, trained)
    return {"seed": seeds} | {rate: np.full(len(seeds), value) for rate, value in best.items()}
