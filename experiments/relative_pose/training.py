"""Training of the relative pose networks."""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import runner
from experiments.relative_pose.config import PRESETS, Config
from experiments.relative_pose.data import Data, load_or_pair, quaternions
from experiments.relative_pose.images import random_windows, scaled_shape
from experiments.runner.saved import read_runs
from experiments.runner.settings import check_config
from jaxcv.io.networks import read_tree
from jaxcv.models.relative_pose import (
    NETS,
    PoseNetwork,
    direction_of,
    feature_shape,
    relative_pose_loss,
    rotation_of,
    standardised,
    with_trunk,
)
from jaxcv.systems import load_model

__all__ = [
    "PRESETS", "Config", "angles", "augmented", "load", "memory", "metadata", "network", "networks",
    "over_maps", "rows_of_epochs", "runs", "shown", "validate",
]  # fmt: skip

# Settings that --variant may change: those of the network and its training, not of the data.
VARIED = (
    "augment", "batch_order", "beta", "head", "head_rate", "learning_rate", "lrn", "rate_decay",
    "rotation", "steps", "swap", "swap_weight", "trunk_file", "weight_decay", "weight_decay_kind",
    "weighting",
)  # fmt: skip
MOST_AT_ONCE = 512  # validation pairs in one batch
STEP_SUMS = 1e-12  # added under square roots: their gradients stay finite at 0


def memory(config: Config) -> dict[str, float]:
    """Bytes of the pairs at both sizes, and of a batch with the maps of a network."""
    small, full = config.height * config.width_px, config.full_height * config.full_width
    made = config.num_train if config.data == "synthetic" else 0  # a photograph is in many pairs
    base = scaled_shape(config.full_shape, config.short_side) if config.short_side else config.shape
    shown = max(np.prod(config.crop_shape(net)) for net in config.net)
    return {
        "num_train": 6.0 * base[0] * base[1] * made,
        "num_matched": 6.0 * (small + full) * config.num_matched,
        "num_test": 6.0 * (small + full) * config.num_test,
        "batch_size": 100.0 * float(shown) * config.batch_size,
    }


def load(config: Config) -> Data | None:
    """Checks the settings, then loads the pairs of --data; None with pictures to predict on.

    Raises:
        DataError: a wrong file or flag, which the message names.
    """
    for name, side in (("height", config.shape), ("pyramid_crop", (config.pyramid_crop,) * 2)):
        try:
            for net in config.net:
                if name == "height" or (config.pyramid_crop and NETS[net][1]):
                    feature_shape(net, config.trunk, *side)
        except ValueError as error:
            hint = "Give a larger --height and --width_px, or --pyramid_crop."
            raise runner.data_error(name, str(error), side, hint) from error
    if not config.short_side and not config.train_image == config.test_image == "squash":
        expected = "expected the shorter side of the images that windows are taken of"
        raise runner.data_error("short_side", expected, 0, "Give --short_side.")
    networks(config)
    if config.image1 is not None or config.image2 is not None or config.pictures is not None:
        return None
    started, trunk = _started(config), _trunk(config)
    return load_or_pair(config)._replace(started=started, trunk=trunk)


def networks(config: Config) -> dict[str, tuple[Config, str]]:
    """Run -> its settings and its row of NETS: --net, then --variant of the last of them.

    Raises:
        DataError: a variant that is no setting of a network's training, or a wrong value.
    """
    out = {net: (config, net) for net in config.net}
    for text in config.variant:
        changes = dict(_change(text, one) for one in text.split(","))
        own = dataclasses.replace(config, variant=(), **changes)
        with runner.data_errors():
            check_config(Config, own)
        out[f"{config.net[-1]}_{text.replace(',', '+')}"] = (own, config.net[-1])
    return out


def _change(text: str, one: str) -> tuple[str, Any]:
    """Name and value of `name=value`."""
    name, _, value = one.partition("=")
    default = getattr(Config(), name) if name in VARIED else None
    try:
        if name not in VARIED:
            raise ValueError(one)
        if name == "trunk_file":
            return name, {"none": None}[value]
        if isinstance(default, bool):
            return name, {"true": True, "false": False}[value]
        return name, {int: int, float: float, str: str}[type(default)](value)
    except (ValueError, KeyError) as error:
        expected = f"expected name=value of {', '.join(VARIED)}"
        hint = "trunk_file may only be none; truth values are true and false."
        raise runner.data_error("variant", expected, text, hint) from error


def network(config: Config, net: str) -> PoseNetwork:
    """The network of a row of NETS, with the settings of the config."""
    return PoseNetwork(
        net, trunk=config.trunk, width=config.width, rotation=config.rotation, shape=config.shape,
        normalised={"trunk": None, "on": True, "off": False}[config.lrn], head=config.head,
    )  # fmt: skip


def runs(config: Config, data: Data) -> dict[str, runner.Run]:
    """One run per network and variant."""
    seeds = np.arange(config.seed, config.seed + config.num_seeds)
    starts = None if data.started is None else [one["network"] for one in data.started]
    out = {}
    for name, (own, net) in networks(config).items():
        log_every = min(own.log_every, own.steps)
        trunk = None if own.trunk_file is None else data.trunk
        out[name] = runner.Run(
            init=functools.partial(_init, config=own, net=net, starts=starts, trunk=trunk),
            loss=functools.partial(_loss, config=own, net=net),
            optimizer=functools.partial(_optimizer, own),
            hyperparameters=(),
            trials={"seed": seeds},
            steps=own.steps,
            data=None if data.valid is None else shown(data.valid, slice(None)),
            batches=functools.partial(_batch, data, own, own.crop_shape(net)),
            validate=functools.partial(validate, config=own, net=net),
            sequential=runner.in_turn(config.trials_by),
            log_every=log_every,
            checkpoint_every=min(5 * log_every, max(log_every, 500)),
            steps_per_call=1,
        )
    return out


def _started(config: Config) -> Any:
    """{"network", "head", "scales"} of --init_from for each seed, or None."""
    if config.init_from is None:
        return None
    with runner.data_errors():
        model = load_model(config.init_from, system="relative_pose")
    own = model.settings["network"]
    for each, net in networks(config).values():
        want = network(each, net)
        if own.clone(shape=want.shape) != want or (not NETS[net][1] and own.shape != want.shape):
            hint = "Use the model's --net, --trunk, --width, --rotation, and image size if not spp."
            expected = f"expected a network like {want}"
            raise runner.data_error("init_from", expected, own, hint)
    if config.num_seeds == 1:
        return [model.params]
    return _trials_of(config, model)


def _trials_of(config: Config, model: Any) -> list[Any]:
    """Parameters of each trial of the training --init_from, in the order of its seeds."""
    name = str(model.card["run"])
    found = None
    folder = pathlib.Path(str(config.init_from))
    if folder.is_dir():
        with runner.data_errors():
            found = read_runs(folder, "relative_pose", argument="init_from")[name]
    count = 0 if found is None else len(found.trials["seed"])
    if found is None or count != config.num_seeds:
        expected = f"expected the folder of a training with {config.num_seeds} seeds, as here"
        hint = "Seeds that start alike would train alike, for they share the batches."
        raise runner.data_error("init_from", expected, count or config.init_from, hint)
    each = [jax.tree.map(lambda leaf, i=i: leaf[i], found.params) for i in range(count)]
    if name == "joint":
        return each
    # A network alone has the untrained head and the scales of the model.
    return [model.params | {"network": params["network"]} for params in each]


def _trunk(config: Config) -> Any:
    """The pretrained backbone of --trunk_file, or None."""
    if config.trunk_file is None:
        return None
    with runner.data_errors():
        trunk = read_tree(config.trunk_file)[0]
        jax.eval_shape(lambda: with_trunk(_params(config, config.net[0], jax.random.key(0)), trunk))
    return trunk


def _params(config: Config, net: str, key: jax.Array) -> Any:
    image = jnp.zeros((1, *config.shape, 3))
    return network(config, net).init(key, image, image)


def _init(
    key, trial, *, config: Config, net: str, starts: Any = None, trunk: Any = None
):  # fmt: skip
    """Weights, and log variances of the loss terms, which only `homoscedastic` learns."""
    if starts is None:
        params = _params(config, net, key)
        params = params if trunk is None else with_trunk(params, trunk)
    else:
        index = jnp.asarray(trial["seed"] if len(starts) > 1 else config.seed) - config.seed
        params = jax.tree.map(lambda *leaves: jnp.stack(leaves)[index], *starts)
    return {"network": params, "log_variance": jnp.zeros(2)}


def _optimizer(config: Config) -> optax.GradientTransformation:
    """Adam with weight decay, and with smaller steps for layers over a whole map."""

    def make(factor):
        rate: Any = factor * config.learning_rate
        if config.rate_decay == "cosine":
            rate = optax.cosine_decay_schedule(rate, config.steps)
        if config.weight_decay_kind == "l2":
            return optax.chain(optax.add_decayed_weights(config.weight_decay), optax.adam(rate))
        return optax.adamw(rate, weight_decay=config.weight_decay)

    def labels(params):
        name = lambda path: "heads" if over_maps(path, config.head) else "trunk"
        return jax.tree_util.tree_map_with_path(lambda path, _: name(path), params)

    return optax.multi_transform({"trunk": make(1.0), "heads": make(config.head_rate)}, labels)


def over_maps(path: Any, head: str) -> bool:
    """Whether a parameter is of a layer that sums the features of both images."""
    return ("hidden_layer" if head == "hidden" else "_head") in jax.tree_util.keystr(path)


def shown(pairs: Any, rows: Any, window: Any = None, rng: Any = None) -> dict[str, np.ndarray]:
    """Images and labels of some pairs, the inputs of the losses; of images, random windows."""
    some = pairs.take(rows)
    if window is None:
        first, second = np.asarray(some.first), np.asarray(some.second)
    else:
        first, second = random_windows(some.first[:], some.second[:], window, rng)
    return {
        "first": first, "second": second,
        "quaternion": quaternions(some.rotation),
        "direction": np.asarray(some.direction, np.float32),
    }  # fmt: skip


def _batch(data: Data, config: Config, shape: tuple[int, int], step: int) -> Any:
    rng = np.random.default_rng([config.seed, step])
    count = len(data.train.rotation)
    if config.batch_order == "epochs":
        rows = rows_of_epochs(config.seed, count, config.batch_size, step)
    else:
        rows = rng.integers(count, size=config.batch_size)
    batch = shown(data.train, rows, shape if config.train_image == "random" else None, rng)
    return augmented(batch, rng, config.swap) if config.augment else batch


def rows_of_epochs(seed: int, count: int, size: int, step: int) -> np.ndarray:
    """Rows of a batch: numbers step * size, ... of a permutation of `count` rows after another."""
    numbers = np.arange(step * size, (step + 1) * size)
    epochs = numbers // count
    orders = {epoch: _permutation(seed, count, int(epoch)) for epoch in np.unique(epochs)}
    return np.array([orders[e][n] for e, n in zip(epochs, numbers % count, strict=True)])


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, count: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch, 2]).permutation(count)


def augmented(
    batch: dict[str, np.ndarray], rng: np.random.Generator, swapped: float
) -> dict[str, np.ndarray]:
    """Swaps a fraction of the pairs (R^T, -R^T t) and permutes the colour channels of each."""
    first, second = batch["first"], batch["second"]
    q, t = batch["quaternion"], batch["direction"]
    count = len(q)
    pick = lambda mask, one, other: np.where(mask.reshape(-1, *[1] * (one.ndim - 1)), one, other)
    swap = rng.random(count) < swapped
    first, second = pick(swap, second, first), pick(swap, first, second)
    t = pick(swap, -_turned_back(q, t), t)
    q = pick(swap, q * np.array([1, -1, -1, -1], q.dtype), q)
    order = rng.permuted(np.tile(np.arange(3), (count, 1)), axis=1)[:, None, None]
    first, second = (np.take_along_axis(x, order, axis=-1) for x in (first, second))
    return {"first": first, "second": second, "quaternion": q, "direction": t}


def _turned_back(q: np.ndarray, t: np.ndarray) -> np.ndarray:
    """R^T t (N, 3) of unit quaternions (N, 4)."""
    w, v = q[:, :1], -q[:, 1:]
    twice = 2 * np.cross(v, t)
    return t + w * twice + np.cross(v, twice)


def _targets(batch: Any, config: Config) -> tuple[jax.Array, jax.Array]:
    q = batch["quaternion"]
    if config.rotation == "6d":
        r = rotation_of(q)
        q = jnp.concatenate([r[..., 0], r[..., 1]], axis=-1)
    elif config.rotation == "svd":
        q = rotation_of(q).reshape(*q.shape[:-1], 9)
    return q, batch["direction"]


def _loss(params, batch, key, trial, *, config: Config, net: str):
    del key, trial
    own = network(config, net)
    first, second = standardised(batch["first"]), standardised(batch["second"])
    heads: Any = own.apply(params["network"], first, second)
    q, t = _targets(batch, config)
    rotation = jnp.mean(relative_pose_loss(heads[0], t, q, t, 1.0))
    translation = jnp.mean(relative_pose_loss(q, heads[1], q, t, 1.0))
    if config.weighting == "homoscedastic":
        log = params["log_variance"]
        loss = jnp.exp(-log[0]) * translation + jnp.exp(-log[1]) * rotation + jnp.sum(log)
    else:
        loss = translation + config.beta * rotation
    shares = {"rotation_loss": rotation, "translation_loss": translation}
    if config.swap_weight:
        back: Any = own.apply(params["network"], second, first)
        shares["swap_loss"] = jnp.mean(_swap_distance(heads, back))
        loss = loss + config.swap_weight * shares["swap_loss"]
    return loss, shares


def _swap_distance(heads: Any, back: Any) -> jax.Array:
    """|R' - R^T|^2 / 2 + |t' + R^T t|^2 (B,) of poses (R, t), and (R', t') of swapped pairs."""
    (r, t), (other, moved) = ((rotation_of(h[0]), direction_of(h[1])) for h in (heads, back))
    turned = jnp.swapaxes(r, -1, -2)
    away = moved + jnp.einsum("...ij,...j->...i", turned, t)
    return 0.5 * jnp.sum((other - turned) ** 2, axis=(-2, -1)) + jnp.sum(away**2, axis=-1)


def angles(rotation: Any, direction: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
    """Errors (B,) of rotation and direction [rad], as chords, with a finite gradient at 0."""
    away = rotation - rotation_of(batch["quaternion"])
    turned = jnp.sqrt(0.5 * jnp.sum(away**2, axis=(-2, -1)) + STEP_SUMS)
    moved = jnp.sqrt(jnp.sum((direction - batch["direction"]) ** 2, axis=-1) + STEP_SUMS)
    return turned, moved


def validate(params, data, trial, *, config: Config, net: str):
    """Median errors [deg] of a network on pairs in the form of `shown`."""
    del trial
    own = network(config, net)

    def poses(images: Any) -> Any:
        heads: Any = own.apply(params["network"], *(standardised(x) for x in images))
        return rotation_of(heads[0]), direction_of(heads[1])

    images = data["first"], data["second"]
    if len(images[0]) <= MOST_AT_ONCE:
        rotation, direction = poses(images)
    else:
        one = lambda x: jax.tree.map(lambda leaf: leaf[0], poses([leaf[None] for leaf in x]))
        rotation, direction = jax.lax.map(one, images, batch_size=MOST_AT_ONCE // 4)
    turned, moved = angles(rotation, direction, data)
    return {
        "valid_rotation_deg": jnp.rad2deg(jnp.median(turned)),
        "valid_direction_deg": jnp.rad2deg(jnp.median(moved)),
    }


def metadata(config: Config, data: Data) -> dict[str, Any]:
    """The image size if a network depends on it, as those without a pyramid do; else None."""
    del data
    fixed = any(not NETS[net][1] for net in config.net)
    return {"image_size": list(config.shape) if fixed else None}
