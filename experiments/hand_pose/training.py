"""Settings and training of the hand pose networks, and the search for their rates."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import runner
from experiments.hand_pose.data import Crops, Data, in_float
from jaxcv.models.hand_pose import CHANNELS, FUSIONS, HandNetwork, pose_loss
from jaxcv.training import Plateau, SearchRange, draw_settings, shrink_ranges

CHOICES = (*(str(k) for k in range(1, 10)), "8wide", "depth", "rgb", "rgbd", "fusepred", "fuse")
RATES = ("learning_rate", "momentum", "dropout")
RANGES = {
    "learning_rate": SearchRange(1e-3, 1e-1, "log"),
    "momentum": SearchRange(0.8, 0.995, "log_complement"),
    "dropout": SearchRange(0.0, 0.1),
}
VALIDATED_AT_ONCE = 2048
SOURCE_RATES = {"learning_rate": 0.01, "momentum": 0.9, "dropout": 0.03}  # of the thesis
_SHORT = {"concatenate": "concat", "convolve": "conv"}
SOURCE = {  # the thesis' Table 4.3, validation loss on other data
    "net1/valid_loss": 0.00447, "net2/valid_loss": 0.00419, "net3/valid_loss": 0.00411,
    "net4/valid_loss": 0.00364, "net5/valid_loss": 0.00325, "net6/valid_loss": 0.00242,
    "net7/valid_loss": 0.00434, "net8/valid_loss": 0.00462, "net9/valid_loss": 0.00439,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the hand pose; every field is a flag."""

    data: str = runner.flag(
        "synthetic", "Generated hands, a skinned hand in glTF, or NYU's frames.",
        choices=("synthetic", "glb", "nyu"),
    )  # fmt: skip
    data_dir: str | None = runner.flag(
        None, "Path of the .glb file, or NYU's folder with train and test.", of_data=True
    )
    cache_dir: str | None = runner.flag(
        None, "Folder for prepared NYU frames; none: jaxcv in the user's cache.", of_data=True
    )
    steps: int = runner.flag(5000, "Optimiser steps, at most.", lower=1)
    seed: int = runner.flag(0, "Seed of weights and batches.", lower=0, upper=2**31 - 1)
    num_seeds: int = runner.flag(1, "Number of seeds, from --seed on.", lower=1, upper=100)
    net: tuple[str, ...] = runner.flag(
        ("6",), "Networks to train; 8wide: 8 with the parameters of 6; depth: 6.", choices=CHOICES
    )
    fusion: str = runner.flag("convolve", "Operation that fuses in --net=fuse.", choices=FUSIONS)
    fuse_at: tuple[str, ...] = runner.flag(("conv4",), "Layers after which --net=fuse fuses.")
    refine: bool = runner.flag(False, "Also train net6 through the kinematic energy.")
    search: bool = runner.flag(False, "Search learning rate, momentum, dropout before training.")
    search_rounds: int = runner.flag(3, "Rounds of --search.", lower=1, upper=10)
    search_trials: int = runner.flag(
        50, "Settings per round of --search.", lower=2, upper=1000, formerly="search_members"
    )
    search_steps: int = runner.flag(500, "Optimiser steps per setting of --search.", lower=1)
    trials_by: str = runner.flag(
        "auto", "Order of trials: at once (vmap) or in turn (loop); auto: loop on CPUs, else vmap.",
        choices=("auto", "vmap", "loop"), formerly="members_by",
    )  # fmt: skip
    num_train: int = runner.flag(6000, "Generated training frames.", lower=8, of_data=True)
    num_test: int = runner.flag(
        600, "Generated frames of each test, seen and unseen.", lower=4, of_data=True
    )
    train_subjects: int = runner.flag(8, "Generated training subjects.", lower=1, of_data=True)
    test_subjects: int = runner.flag(8, "Generated unseen subjects.", lower=1, of_data=True)
    validation: float = runner.flag(
        0.25, "Fraction of the training frames for validation.", lower=0.01, upper=0.9
    )
    split: str = runner.flag(
        "frame", "Validation frames: random ones, the last ones, or all of some subjects.",
        choices=("frame", "block", "subject"),
    )  # fmt: skip
    split_seed: int = runner.flag(0, "Seed of the choice of validation frames.", lower=0)
    window: int = runner.flag(112, "Side of generated frames [px].", lower=32, of_data=True)
    side: int = runner.flag(64, "Side of crops [px].", lower=32)
    cube: float = runner.flag(300.0, "Side of the cube around a hand [mm].", lower=50.0)
    centre: str = runner.flag(
        "mass", "Centre of the cube: the centre of mass, or the true palm (which uses labels).",
        choices=("mass", "palm"),
    )  # fmt: skip
    width: float = runner.flag(0.25, "Factor on the convolutions' channels.", lower=0.01, upper=4.0)
    dense: int = runner.flag(256, "Units of each dense layer.", lower=1)
    batch_size: int = runner.flag(32, "Frames per step.", lower=1)
    learning_rate: float = runner.flag(0.1, "SGD learning rate.", lower=0.0)
    momentum: float = runner.flag(0.95, "SGD momentum.", lower=0.0, upper=0.9999)
    dropout: float = runner.flag(0.03, "Dropout rate after the dense layers.", lower=0.0, upper=0.9)
    patience: int = runner.flag(
        4, "Epochs without improvement before the learning rate is halved.", lower=1
    )
    returns: int = runner.flag(4, "Halvings of the learning rate before training stops.", lower=0)
    refine_steps: int = runner.flag(300, "Optimiser steps of --refine.", lower=1)
    refine_rate: float = runner.flag(1e-4, "Adam learning rate of --refine.", lower=0.0)


PRESETS = {
    "default": Config(),
    "refined": Config(refine=True),
    "study": Config(
        net=("1", "2", "4", "6", "8", "8wide", "rgb", "rgbd", "fusepred", "fuse"), num_seeds=3,
        steps=2500, side=48, patience=2, refine=True,
        search=True, search_trials=6, search_rounds=2, search_steps=150,
    ),
    "paper": Config(
        data="nyu", steps=100 * 426, side=128, width=1.0, dense=4096, batch_size=128,
        learning_rate=0.009, momentum=0.98, patience=5, centre="palm",
        net=(*(str(k) for k in range(1, 10)), "rgb", "rgbd", "fusepred", "fuse"),
    ),
}  # fmt: skip


def memory(config: Config) -> dict[str, float]:
    """Bytes of the crops, of uncropped frames, and of a batch with its first feature maps."""
    pixels = 4.0 * config.side**2
    frames = 0 if config.data == "nyu" else config.num_train + 2 * config.num_test
    return {
        "num_train": 4 * pixels * frames,
        "window": 16.0 * config.window**2 * 64,
        "batch_size": 100 * pixels * config.batch_size,
    }


def row_name(config: Config, net: str) -> str:
    """Name of the row that an entry of --net trains."""
    if net in ("rgb", "rgbd", "fusepred"):
        return net
    if net == "fuse":
        return f"fuse_{_SHORT.get(config.fusion, config.fusion)}"
    return "net6" if net == "depth" else f"net{net}"


def networks(config: Config) -> dict[str, HandNetwork]:
    """Row name -> network to train."""
    make = functools.partial(HandNetwork, width=config.width, dense=config.dense)
    out = {}
    for net in config.net:
        name = row_name(config, net)
        if net == "fusepred":  # fuses two networks that are trained separately
            out |= {"net6": make(), "rgb": make(images=("rgb",))}
        elif net in ("rgb", "rgbd"):
            out[name] = make(images=(net,))
        elif net == "fuse":
            out[name] = make(images=("depth", "rgb"), fusion=config.fusion, fuse_at=config.fuse_at)
        elif net == "8wide":
            out[name] = make(net="net8", dense=matched_width(config))
        else:
            out[name] = make(net=name)
    return out | {"net6": make()} if config.refine else out


def count_parameters(network: HandNetwork, side: int) -> int:
    """Number of parameters of a network, from their shapes alone."""
    init = functools.partial(network.init, jax.random.key(0))
    shapes = jax.eval_shape(init, *(jax.ShapeDtypeStruct((1, side, side, c), jnp.float32)
                                    for c in channels(network)))  # fmt: skip
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))


def matched_width(config: Config) -> int:
    """Units per dense layer with which Net8 has as many parameters as Net6.

    Net8 pools more, so its first dense layer is smaller: the thesis' comparison varies pooling and
    capacity at the same time.
    """
    make = functools.partial(HandNetwork, width=config.width)
    goal = count_parameters(make(net="net6", dense=config.dense), config.side)
    lower, upper = 1, 32 * config.dense
    while lower < upper:
        middle = (lower + upper) // 2
        enough = count_parameters(make(net="net8", dense=middle), config.side) >= goal
        lower, upper = (lower, middle) if enough else (middle + 1, upper)
    return lower


def channels(network: HandNetwork) -> list[int]:
    """Channels of each input image of a network."""
    return [CHANNELS[kind] for kind in network.images]


def metadata(config: Config, data: Data) -> dict[str, Any]:
    """Statistics of the data that are stored with a training: colour scale and mean pose."""
    del config
    mean = data.train.target.mean(axis=0, dtype=float)
    return {"color_scale": [list(x) for x in data.scale], "mean_pose": mean.tolist()}


def images_of(crops: Crops, scale: Any, kinds: tuple[str, ...]) -> tuple[np.ndarray, ...]:
    """Input images of a network, one array per kind; `scale`: colour scale of the training."""
    mean, deviation = (np.asarray(x, np.float32) for x in scale)
    depth = lambda: in_float(crops.depth)
    rgb = lambda: (in_float(crops.rgb) - mean) / deviation
    make = {
        "depth": depth,
        "rgb": rgb,
        "rgbd": lambda: np.concatenate([rgb(), depth()], axis=-1),
    }
    return tuple(make[kind]() for kind in kinds)


def runs(config: Config, data: Data) -> dict[str, runner.Run]:
    """For each network, one run per round of the search, and the run of its training."""
    out: dict[str, runner.Run] = {}
    # All networks share one copy of the validation images of each kind.
    shown = functools.lru_cache(lambda kinds: images_of(data.valid, data.scale, kinds))
    seeds = np.arange(config.seed, config.seed + config.num_seeds)
    for name, network in networks(config).items():
        valid = shown(network.images), data.valid.target
        make = functools.partial(_run, config, data, network, valid)
        trials: Any = functools.partial(_given, config, seeds)
        if config.search:
            for k in range(config.search_rounds):
                drawn = functools.partial(_drawn, config, name, k)
                out[f"{name}.search{k}"] = make(config.search_steps, drawn, plateau=None)
            trials = functools.partial(_found, config, name, seeds)
        plateau = Plateau("valid_loss", config.patience, returns=config.returns)
        out[name] = make(config.steps, trials, plateau=plateau)
    return out


def epoch_of(config: Config, data: Data) -> int:
    """Steps per epoch."""
    return max(1, len(data.train.depth) // config.batch_size)


def _run(config, data, network, valid, steps, trials, *, plateau) -> runner.Run:
    log_every = min(epoch_of(config, data), steps)
    return runner.Run(
        init=functools.partial(_init, network=network, side=config.side),
        loss=functools.partial(_loss, network=network),
        optimizer=optax.sgd,
        hyperparameters=("learning_rate", "momentum"),
        trials=trials,
        steps=steps,
        data=valid,
        batches=functools.partial(_batch, data, network.images, config),
        validate=functools.partial(_validate, network=network, cube=config.cube),
        plateau=plateau,
        sequential=runner.in_turn(config.trials_by),
        log_every=log_every,
        checkpoint_every=4 * log_every,
        steps_per_call=1,
    )


def rows_of_step(seed: int, size: int, count: int, step: int) -> np.ndarray:
    """Indices of the `size` of `count` frames of a step; every epoch has its own random order."""
    size = min(size, count)
    epoch, place = divmod(step, count // size)
    return _order(seed, epoch, count)[place * size : (place + 1) * size]


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)


def _batch(data: Data, kinds: tuple[str, ...], config: Config, step: int) -> Any:
    rows = rows_of_step(config.seed, config.batch_size, len(data.train.depth), step)
    crops = data.train.take(rows)
    return images_of(crops, data.scale, kinds), crops.target


def _init(key, trial, *, network: HandNetwork, side: int):
    del trial
    return network.init(key, *(jnp.zeros((1, side, side, c)) for c in channels(network)))


def _loss(params, batch, key, trial, *, network: HandNetwork):
    images, target = batch
    found: Any = network.apply(params, *images, rate=trial["dropout"], key=key)
    return pose_loss(found, target), {}


def _validate(params, data, trial, *, network: HandNetwork, cube: float):
    del trial
    images, target = data
    if len(target) > VALIDATED_AT_ONCE:
        one = lambda image: network.apply(params, *(part[None] for part in image))[0]  # type: ignore
        found: Any = jax.lax.map(one, images, batch_size=VALIDATED_AT_ONCE)
    else:
        found = network.apply(params, *images)
    error = jnp.mean(jnp.linalg.norm(found - target, axis=-1))
    return {"valid_loss": pose_loss(found, target), "valid_error_mm": 0.5 * cube * error}


def _given(config: Config, seeds: np.ndarray, trained: Any) -> Mapping[str, np.ndarray]:
    del trained
    return {"seed": seeds} | {name: np.full(len(seeds), getattr(config, name)) for name in RATES}


def search_scores(run: runner.TrainedRun) -> np.ndarray:
    """The lowest validation loss of every setting (K,); inf where it diverged."""
    losses = run.history["valid_loss"]
    return np.where(np.isfinite(losses), losses, np.inf).min(axis=0)


def _drawn(config: Config, name: str, number: int, trained: Any) -> Mapping[str, np.ndarray]:
    """The settings of a search round; the first of the first round is the thesis'."""
    ranges = dict(RANGES)
    for k in range(number):
        before = trained[f"{name}.search{k}"]
        settings = {rate: np.asarray(before.trials[rate]) for rate in RATES}
        ranges = shrink_ranges(ranges, RANGES, settings, search_scores(before))
    rng = np.random.default_rng([config.seed, number])
    drawn = draw_settings(rng, ranges, config.search_trials)
    if number == 0:
        drawn = {rate: np.r_[SOURCE_RATES[rate], values[1:]] for rate, values in drawn.items()}
    return {"seed": np.full(config.search_trials, config.seed)} | drawn


def best_setting(config: Config, name: str, trained: Any) -> dict[str, float]:
    """Rates with the lowest validation loss in all rounds of a network's search."""
    rounds = [trained[f"{name}.search{k}"] for k in range(config.search_rounds)]
    scores = np.concatenate([search_scores(one) for one in rounds])
    best = int(scores.argmin())
    values = {rate: np.concatenate([one.trials[rate] for one in rounds]) for rate in RATES}
    return {rate: float(each[best]) for rate, each in values.items()}


def _found(config: Config, name: str, seeds: np.ndarray, trained: Any) -> Mapping[str, np.ndarray]:
    best = best_setting(config, name, trained)
    return {"seed": seeds} | {rate: np.full(len(seeds), value) for rate, value in best.items()}
