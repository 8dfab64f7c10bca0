"""Settings and training of the relative pose networks."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import runner
from experiments.relative_pose.data import SOURCES, Data, load_or_pair, quaternions
from jaxcv.io.networks import read_tree
from jaxcv.models.relative_pose import (
    NETS,
    ROTATIONS,
    TRUNKS,
    PoseNetwork,
    direction_of,
    feature_shape,
    relative_pose_loss,
    rotation_of,
    standardised,
    with_trunk,
)
from jaxcv.systems import load_model

STEP_SUMS = 1e-12  # added under square roots: their gradients stay finite at 0


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the relative pose; every field is a flag."""

    data: str = runner.flag(
        "synthetic", "Generated rooms, or photographs with poses (data_prep/README.md).",
        choices=SOURCES,
    )  # fmt: skip
    data_dir: str | None = runner.flag(None, "Folder of the photographs.", of_data=True)
    cache_dir: str | None = runner.flag(
        None, "Folder for prepared pairs; none: jaxcv in the user's cache.", of_data=True
    )
    test_scene: tuple[str, ...] = runner.flag(
        (),
        "Test scenes; none: the last fifth of the views of each scene.",
        of_data=True,
    )
    image1: str | None = runner.flag(
        None, "Path of the first image, for --mode=predict.", of_data=True, only="predict"
    )
    image2: str | None = runner.flag(
        None, "Path of the second image, for --mode=predict.", of_data=True, only="predict"
    )
    intrinsics: str | None = runner.flag(
        None,
        "fx,fy,cx,cy [px] of both images, or of the first and then of the second image.",
        of_data=True,
        only="predict",
    )
    net: tuple[str, ...] = runner.flag(
        ("cnnBspp",), "Networks to train; --refine refines the last.", choices=tuple(NETS)
    )
    trunk: str = runner.flag("alexnet", "Backbone network.", choices=tuple(TRUNKS))
    trunk_file: str | None = runner.flag(
        None,
        "Pretrained backbone, a file of data_prep.trunk_weights; needs --width=1.",
        only="train",
    )
    init_from: str | None = runner.flag(
        None,
        "Work folder of a training, or file of a model, whose parameters the training starts from.",
        only="train",
        formerly="start",
    )
    width: float = runner.flag(0.25, "Factor on the backbone's channels.", lower=0.01, upper=4.0)
    rotation: str = runner.flag(
        "quaternion", "Output of the rotation head (6d: two columns of a matrix, svd: a matrix).",
        choices=tuple(ROTATIONS),
    )  # fmt: skip
    height: int = runner.flag(96, "Image height for the networks [px].", lower=35, of_data=True)
    width_px: int = runner.flag(128, "Image width for the networks [px].", lower=35, of_data=True)
    full_height: int = runner.flag(
        240, "Image height for the features [px].", lower=35, of_data=True
    )
    full_width: int = runner.flag(320, "Image width for the features [px].", lower=35, of_data=True)
    num_train: int = runner.flag(16_000, "Training pairs, at most.", lower=1, of_data=True)
    num_valid: int = runner.flag(200, "Validation pairs, at most.", lower=1, of_data=True)
    num_matched: int = runner.flag(600, "Pairs for --refine, at most.", lower=1, of_data=True)
    num_test: int = runner.flag(300, "Test pairs, at most.", lower=1, of_data=True)
    steps: int = runner.flag(3000, "Optimiser steps per network.", lower=1)
    seed: int = runner.flag(0, "Seed of weights and batches.", lower=0, upper=2**31 - 1)
    num_seeds: int = runner.flag(
        1, "Number of seeds of the weights, from --seed on; all share the batches of --seed.",
        lower=1, upper=100,
    )  # fmt: skip
    batch_size: int = runner.flag(32, "Pairs per step.", lower=1)
    learning_rate: float = runner.flag(1e-3, "AdamW learning rate of the backbone.", lower=0.0)
    head_rate: float = runner.flag(
        0.02, "Factor on --learning_rate for the heads, which sum tens of thousands of inputs.",
        lower=0.0,
    )  # fmt: skip
    weight_decay: float = runner.flag(1e-5, "AdamW weight decay.", lower=0.0)
    beta: float = runner.flag(10.0, "Loss weight of the rotation.", lower=0.0)
    weighting: str = runner.flag(
        "fixed", "Weights of the loss terms: by --beta, or learned (homoscedastic).",
        choices=("fixed", "homoscedastic"),
    )  # fmt: skip
    swap_weight: float = runner.flag(
        0.0, "Loss weight of the distance between the pose and the swapped pair's inverse pose.",
        lower=0.0,
    )  # fmt: skip
    augment: bool = runner.flag(True, "Permute colour channels, and swap images by --swap.")
    swap: float = runner.flag(0.0, "Fraction of pairs that --augment swaps.", lower=0.0, upper=1.0)
    refine: bool = runner.flag(True, "Train the last network through the energy of matches.")
    refine_steps: int = runner.flag(300, "Optimiser steps of --refine.", lower=1)
    refine_rate: float = runner.flag(1e-3, "Adam learning rate of --refine.", lower=0.0)
    refine_batch: int = runner.flag(16, "Pairs per step of --refine.", lower=1)
    trials_by: str = runner.flag(
        "auto", "Order of trials: at once (vmap) or in turn (loop); auto: loop on CPUs, else vmap.",
        choices=("auto", "vmap", "loop"), formerly="members_by",
    )  # fmt: skip

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the networks' images."""
        return self.height, self.width_px


PRESETS = {
    "default": Config(),
    "study": Config(net=("cnnA", "cnnAspp", "cnnB", "cnnBspp"), num_seeds=3),
    # From the default's training to photographs: `--data_dir=DIR --init_from=runs/relative_pose`.
    "fine_tune": Config(
        data="folder", test_scene=("test",), height=192, width_px=256, full_height=240,
        full_width=360, steps=150, learning_rate=3e-4, refine_steps=150,
    ),
    "paper": Config(
        data="landmarks", net=("cnnA", "cnnB", "cnnAspp", "cnnBspp"), width=1.0, height=227,
        width_px=227, full_height=323, full_width=323, test_scene=("Yorkminster",),
        num_train=581_000, steps=15 * 4539, batch_size=128, learning_rate=1e-4, head_rate=1.0,
    ),
}  # fmt: skip


def memory(config: Config) -> dict[str, float]:
    """Bytes of the pairs at both sizes, and of a batch with the maps of a network."""
    small, full = config.height * config.width_px, config.full_height * config.full_width
    made = config.num_train if config.data == "synthetic" else 0  # a photograph is in many pairs
    return {
        "num_train": 6.0 * small * made,
        "num_matched": 6.0 * (small + full) * config.num_matched,
        "num_test": 6.0 * (small + full) * config.num_test,
        "batch_size": 100.0 * small * config.batch_size,
    }


def load(config: Config) -> Data | None:
    """Checks the settings, then loads the pairs of --data; None with --image1 or --image2.

    Raises:
        DataError: a wrong file or flag, which the message names.
    """
    try:
        for net in config.net:
            feature_shape(net, config.trunk, *config.shape)
    except ValueError as error:
        hint = "Give a larger --height and --width_px."
        raise runner.data_error("height", str(error), config.shape, hint) from error
    if config.image1 is not None or config.image2 is not None:
        return None
    started, trunk = _started(config), _trunk(config)
    return load_or_pair(config)._replace(started=started, trunk=trunk)


def network(config: Config, net: str) -> PoseNetwork:
    """The network of a row of NETS, with the settings of the config."""
    return PoseNetwork(
        net, trunk=config.trunk, width=config.width, rotation=config.rotation, shape=config.shape
    )


def runs(config: Config, data: Data) -> dict[str, runner.Run]:
    """One run per network."""
    seeds = np.arange(config.seed, config.seed + config.num_seeds)
    start = None if data.started is None else data.started["network"]
    log_every = min(100, config.steps)
    out = {
        net: runner.Run(
            init=functools.partial(_init, config=config, net=net, start=start, trunk=data.trunk),
            loss=functools.partial(_loss, config=config, net=net),
            optimizer=functools.partial(_optimizer, config),
            hyperparameters=(),
            trials={"seed": seeds},
            steps=config.steps,
            data=None if data.valid is None else shown(data.valid, slice(None)),
            batches=functools.partial(_batch, data, config),
            validate=functools.partial(validate, config=config, net=net),
            sequential=runner.in_turn(config.trials_by),
            log_every=log_every,
            checkpoint_every=5 * log_every,
            steps_per_call=1,
        )
        for net in config.net
    }
    return out


def _started(config: Config) -> Any:
    """{"network", "head", "scales"} of --init_from, or None."""
    if config.init_from is None:
        return None
    with runner.data_errors():
        params, settings, _ = load_model(config.init_from, system="relative_pose")
    own = settings["network"]
    for net in config.net:
        want = network(config, net)
        if own.clone(shape=want.shape) != want or (not NETS[net][1] and own.shape != want.shape):
            hint = "Use the model's --net, --trunk, --width, --rotation, and image size if not spp."
            expected = f"expected a network like {want}"
            raise runner.data_error("init_from", expected, own, hint)
    return params


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


def _init(key, trial, *, config: Config, net: str, start: Any = None, trunk: Any = None):
    """Weights, and log variances of the loss terms, which only `homoscedastic` learns."""
    del trial
    params = start
    if start is None:
        params = _params(config, net, key)
        params = params if trunk is None else with_trunk(params, trunk)
    return {"network": params, "log_variance": jnp.zeros(2)}


def _optimizer(config: Config) -> optax.GradientTransformation:
    """AdamW with cosine decay to 0, and with smaller steps for the heads."""

    def make(factor):
        rate = optax.cosine_decay_schedule(factor * config.learning_rate, config.steps)
        return optax.adamw(rate, weight_decay=config.weight_decay)

    def labels(params):
        name = lambda path: "heads" if "head" in jax.tree_util.keystr(path) else "trunk"
        return jax.tree_util.tree_map_with_path(lambda path, _: name(path), params)

    return optax.multi_transform({"trunk": make(1.0), "heads": make(config.head_rate)}, labels)


def shown(pairs: Any, rows: Any) -> dict[str, np.ndarray]:
    """Images and labels of some pairs, the inputs of the losses."""
    some = pairs.take(rows)
    return {
        "first": np.asarray(some.first), "second": np.asarray(some.second),
        "quaternion": quaternions(some.rotation),
        "direction": np.asarray(some.direction, np.float32),
    }  # fmt: skip


def _batch(data: Data, config: Config, step: int) -> Any:
    rng = np.random.default_rng([config.seed, step])
    rows = rng.integers(len(data.train.rotation), size=config.batch_size)
    batch = shown(data.train, rows)
    return augmented(batch, rng, config.swap) if config.augment else batch


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
    heads: Any = own.apply(
        params["network"], standardised(data["first"]), standardised(data["second"])
    )
    turned, moved = angles(rotation_of(heads[0]), direction_of(heads[1]), data)
    return {
        "valid_rotation_deg": jnp.rad2deg(jnp.median(turned)),
        "valid_direction_deg": jnp.rad2deg(jnp.median(moved)),
    }


def metadata(config: Config, data: Data) -> dict[str, Any]:
    """The image size if a network depends on it, as those without a pyramid do; else None."""
    del data
    fixed = any(not NETS[net][1] for net in config.net)
    return {"image_size": list(config.shape) if fixed else None}
