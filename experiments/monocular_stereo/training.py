"""Settings, data and training of the stereo solver."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import runner
from jaxcv.data.stereo import StereoPairs, read_folder, unit_baseline
from jaxcv.data.synthetic.stereo import generate_pairs
from jaxcv.geometry import so3
from jaxcv.models import ls_net
from jaxcv.systems.stereo import (
    StereoEstimate,
    StereoNetwork,
    first_guess,
    init_stereo_network,
    quarter_views,
    solve_stereo,
    upscale,
)

SIZES = {
    "small": ls_net.Size((16, 32, 64, 64, 32), (5, 3, 3), 64, (16, 16), 16, 16, 64, 16),
    "cpu": ls_net.CPU_SIZE,
    "paper": ls_net.PAPER_SIZE,
}
# Keys of the generated rooms: the same for all seeds, another one for each purpose.
TRAIN_ROOMS, TEST_ROOMS, TUNING_ROOMS = 20181, 20182, 20183
TUNING_PAIRS = 64  # for the choice of the baselines' settings
DEMON = ("sun3d", "rgbd", "mvs", "scenes11", "nyu2")
JOINT_RATE = 0.03  # factor on the learning rate; larger ones undo earlier stages
STAGES = ("initial", "few", "all", "joint", "upscale")
SOURCE = {  # the paper's Tables 1 and 3, on RGB-D of DeMoN's benchmark: other data
    "lsnet_15/l1_inv": 0.019, "lsnet_15/sc_inv": 0.09, "lsnet_15/l1_rel": 0.301,
    "lsnet_15/rotation_deg": 1.01, "lsnet_15/translation_deg": 22.1,
    "init/sc_inv": 0.360, "init/l1_rel": 0.315, "init/rotation_deg": 2.29,
    "init/translation_deg": 27.40,
    "oracle/l1_inv": 0.026, "oracle/sc_inv": 0.398, "oracle/l1_rel": 0.336,
    "sift/l1_inv": 0.050, "sift/sc_inv": 0.577, "sift/l1_rel": 0.703,
    "sift/rotation_deg": 12.010, "sift/translation_deg": 56.021,
    "flow/l1_inv": 0.045, "flow/sc_inv": 0.548, "flow/l1_rel": 0.613,
    "flow/rotation_deg": 4.709, "flow/translation_deg": 46.058,
    "klt/rotation_deg": 12.831, "klt/translation_deg": 49.612,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the monocular stereo; every field is a flag."""

    data: str = runner.flag(
        "synthetic",
        "Generated rooms, a folder of pairs, or one of DeMoN's sets.",
        choices=("synthetic", "folder", *DEMON),
    )
    data_dir: str | None = runner.flag(
        None, "Folder of images and cameras.json, or of DeMoN's .h5 files.", of_data=True
    )
    cache_dir: str | None = runner.flag(
        None,
        "Folder for prepared DeMoN sets; none: jaxcv in the user's cache folder.",
        of_data=True,
    )
    steps: int = runner.flag(1500, "Optimiser steps, multiplied by --stages.", lower=1)
    seed: int = runner.flag(0, "Seed of weights and batches.", lower=0, upper=2**31 - 1)
    num_seeds: int = runner.flag(1, "Number of seeds, from --seed on.", lower=1, upper=100)
    ablations: bool = runner.flag(
        False, "Also train a refinement network, and with the first seed rows with one change."
    )
    num_train: int = runner.flag(2400, "Generated training pairs.", lower=1, of_data=True)
    num_test: int = runner.flag(128, "Generated test pairs.", lower=1, of_data=True)
    height: int = runner.flag(96, "Image height [px], a multiple of 8.", lower=16, of_data=True)
    width: int = runner.flag(128, "Image width [px], a multiple of 8.", lower=16, of_data=True)
    size: str = runner.flag("small", "Size of the networks.", choices=tuple(SIZES))
    encoding: str = runner.flag(
        "gauss_newton",
        "Solver inputs: J^T J and r (paper), also J^T r (gradient), also damped steps.",
        choices=ls_net.ENCODINGS,
    )
    residual: str = runner.flag("rgb", "Colours of the residual.", choices=("grey", "rgb"))
    match_exposure: bool = runner.flag(True, "Match the source's brightness to the target's.")
    unit: bool = runner.flag(True, "Rescale motion and depths to |t| = 1 after each step.")
    through_encoding: bool = runner.flag(False, "Backpropagate through J and r.")
    iterations: int = runner.flag(15, "Iterations of the solver.", lower=1, upper=100)
    few: int = runner.flag(5, "Solver iterations in stage `few`.", lower=1)
    batch_size: int = runner.flag(8, "Pairs per step.", lower=1)
    learning_rate: float = runner.flag(3e-3, "Adam learning rate (cosine per stage).", lower=0.0)
    clip: float = runner.flag(1.0, "Gradient norm above which a gradient is scaled.", lower=0.0)
    depth_weight: float = runner.flag(10.0, "Loss weight of inverse depths.", lower=0.0)
    log_weight: float = runner.flag(0.5, "Loss weight of log depths; paper: 0.", lower=0.0)
    rotation_weight: float = runner.flag(10.0, "Loss weight of the rotation.", lower=0.0)
    joint: bool = runner.flag(False, "Train guess and solver together in a stage `joint`.")
    stages: tuple[float, ...] = runner.flag(
        (1.0, 0.125, 0.15, 0.08, 0.08), "Steps of the five stages, in units of --steps.", lower=0.0
    )


PRESETS = {
    "default": Config(steps=3200),
    "study": Config(steps=3200, num_seeds=3, ablations=True),
    "paper": Config(
        steps=200_000, size="paper", height=192, width=256, encoding="gradient", residual="grey",
        match_exposure=False, unit=False, batch_size=16, learning_rate=1e-4,
        rotation_weight=1.0, log_weight=0.0, joint=True,
        num_train=20_000, stages=(1.0, 0.5, 0.5, 0.5, 0.25),
    ),
}  # fmt: skip


def memory(config: Config) -> dict[str, float]:
    """Bytes of the pairs, and of a batch with what the solver stores of its iterations."""
    pixels = 4.0 * config.height * config.width
    return {
        "num_train": 7 * pixels * config.num_train if config.data == "synthetic" else 0.0,
        "num_test": 7 * pixels * config.num_test,
        "batch_size": 50 * pixels * config.batch_size,
    }


class Row(NamedTuple):
    """A solver to train after the stage `initial`, which all rows of a seed share."""

    network: StereoNetwork
    stages: tuple[str, ...] = ("few",)  # after `initial`
    every_seed: bool = False  # else with the first seed only


class Data(NamedTuple):
    """Pairs, in baselines; `train()` makes or reads the training pairs at its first call."""

    train: Callable[[], StereoPairs]
    test: StereoPairs


def load(config: Config) -> Data:
    """Generated rooms, one of DeMoN's sets, or a folder of test pairs."""
    if config.height % 8 or config.width % 8:
        expected, got = "expected multiples of eight", (config.height, config.width)
        raise runner.data_error("height", expected, got, "E.g. --height=96 --width=128.")
    if len(config.stages) != len(STAGES):
        expected = f"expected {len(STAGES)} numbers, for {', '.join(STAGES)}"
        hint = "Repeat the flag: --stages=1 --stages=0.25 ..."
        raise runner.data_error("stages", expected, config.stages, hint)
    shape = config.height, config.width
    if config.data == "synthetic":
        test = generate_pairs(jax.random.key(TEST_ROOMS), config.num_test, shape)
        return Data(functools.partial(_training_rooms, config.num_train, shape), test)
    if config.data_dir is None:
        raise runner.data_error(
            "data_dir", f"--data={config.data} needs a folder", "none", "Name it: --data_dir=DIR."
        )
    with runner.data_errors():
        if config.data in DEMON:
            return _load_demon(config, shape)
        pairs = read_folder(config.data_dir, shape)
    known = np.isfinite(pairs.depth).any(axis=(1, 2))
    if known.any() and not known.all():
        expected = "expected ground truth for all pairs or for none"
        raise runner.data_error(
            config.data_dir, expected, known.tolist(), "Split it into two folders."
        )
    if known.all():
        pairs = unit_baseline(pairs)
    single = lambda leaf: np.asarray(leaf, np.float32)
    return Data(lambda: no_pairs(shape), StereoPairs(*map(single, pairs)))


@functools.lru_cache(maxsize=1)
def _training_rooms(count: int, shape: tuple[int, int]) -> StereoPairs:
    return generate_pairs(jax.random.key(TRAIN_ROOMS), count, shape)


def tuning_pairs(config: Config) -> StereoPairs:
    """Pairs for the choice of the baselines' settings; not used for training or test."""
    key = jax.random.key(TUNING_ROOMS)
    return generate_pairs(key, TUNING_PAIRS, (config.height, config.width))


def _load_demon(config: Config, shape: tuple[int, int]) -> Data:
    """The pairs of one of DeMoN's sets; a split that is missing has none."""
    from data_prep._prepare import cache_folder
    from data_prep.demon import prepare
    from jaxcv.data.pipelines import load_stereo_pairs

    cache = cache_folder(config.cache_dir, "demon")
    builder = prepare(str(config.data_dir), cache, name=config.data)

    @functools.cache
    def read(split: str) -> StereoPairs:
        if split not in builder.info.splits:
            return no_pairs(shape)
        with runner.data_errors():  # also when training asks for its first batch
            return load_stereo_pairs(builder, split=split, shape=shape)

    return Data(functools.partial(read, "train"), read("test"))


def no_pairs(shape: tuple[int, int]) -> StereoPairs:
    """Zero pairs of images (H, W)."""
    sizes = (*shape, 3), (*shape, 3), (3, 3), (4, 4), shape
    return StereoPairs(*(np.zeros((0, *size), np.float32) for size in sizes))


def network_of(config: Config) -> StereoNetwork:
    """The network that the settings describe."""
    return StereoNetwork(
        size=SIZES[config.size], encoding=config.encoding, residual=config.residual,
        through_encoding=config.through_encoding, match_exposure=config.match_exposure,
        unit=config.unit, num_steps=config.iterations,
    )  # fmt: skip


def rows(config: Config) -> dict[str, Row]:
    """Row name -> solver: `lsnet` in all stages, `refinement` in few and all, others in few."""
    usual = network_of(config)
    stages = tuple(name for name in STAGES[1:] if config.joint or name != "joint")
    out = {"lsnet": Row(usual, stages, every_seed=True)}
    if not config.ablations:
        return out
    out["refinement"] = Row(usual._replace(solver="refinement"), STAGES[1:3], every_seed=True)
    for encoding in ls_net.ENCODINGS:
        if encoding != config.encoding:
            out[f"shown_{encoding}"] = Row(usual._replace(encoding=encoding))
    name = "constant_encoding" if config.through_encoding else "through_encoding"
    out[name] = Row(usual._replace(through_encoding=not config.through_encoding))
    if config.unit:
        out["any_unit"] = Row(usual._replace(unit=False))
    return out


def rows_of(config: Config, seed: int) -> dict[str, Row]:
    """The rows trained with a seed: all with the first seed, later only `every_seed` rows."""
    first = seed == config.seed
    return {name: row for name, row in rows(config).items() if row.every_seed or first}


def runs(config: Config, data: Data) -> dict[str, runner.Run]:
    """For each seed, a run of the first guess, then a run for each stage of each row."""
    out = {}
    for seed in range(config.seed, config.seed + config.num_seeds):
        first = run_name("lsnet", "initial", seed)
        usual = network_of(config)
        out[first] = _run(config, data, usual, "initial", seed, None)
        for name, row in rows_of(config, seed).items():
            before = first
            for stage in row.stages:
                run = run_name(name, stage, seed)
                out[run] = _run(config, data, row.network, stage, seed, before)
                before = run
    return out


def run_name(row: str, stage: str, seed: int) -> str:
    """Name of the run of a row's stage."""
    return f"{row}.{stage}.seed={seed}"


LEARNED = {
    "initial": ("initial",), "few": ("solver",), "all": ("solver",),
    "joint": ("initial", "solver"), "upscale": ("upscaler",),
}  # fmt: skip


def _run(config, data, network, stage, seed, before) -> runner.Run:
    index = STAGES.index(stage)
    steps = max(1, round(config.steps * config.stages[index]))
    size = 2 * config.batch_size if stage in ("initial", "upscale") else config.batch_size
    return runner.Run(
        init=functools.partial(_init, network=network, stage=stage),
        loss=functools.partial(
            _loss, config=config, network=in_stage(config, network, stage), stage=stage
        ),
        optimizer=functools.partial(_optimizer, config, stage, steps),
        init_from=before,
        hyperparameters=(),
        trials={"seed": np.array([seed])},
        steps=steps,
        batches=functools.partial(_batch, data.train, size, seed, index),
        log_every=min(50, steps),
        checkpoint_every=min(200, steps),
        steps_per_call=1,
    )


def in_stage(config: Config, network: StereoNetwork, stage: str) -> StereoNetwork:
    """The network with its number of iterations in a stage."""
    few = min(config.few, network.num_steps)
    return network._replace(num_steps=few) if stage == "few" else network


def _batch(
    train: Callable[[], StereoPairs], size: int, seed: int, stage: int, step: int
) -> StereoPairs:
    """Random pairs of a step, each mirrored with probability 1/2."""
    pairs = train()
    if not len(pairs.depth):
        hint = "Train on other data, e.g. --data=synthetic; use these with --mode=evaluate."
        raise runner.data_error("data", "expected pairs to train on", "none", hint)
    rng = np.random.default_rng([seed, stage, step])
    some = pairs.take(rng.integers(0, len(pairs.depth), size))
    return mirrored(some, rng.random(size) < 0.5)


def mirrored(pairs: StereoPairs, which: np.ndarray) -> StereoPairs:
    """The pairs, with left and right exchanged where `which` is true."""
    flip = lambda x: np.where(which[:, None, None, None], x[:, :, ::-1], x)
    depth = np.where(which[:, None, None], pairs.depth[:, :, ::-1], pairs.depth)
    turn = np.diag([-1, 1, 1, 1]).astype(pairs.motion.dtype)
    motion = np.where(which[:, None, None], turn @ pairs.motion @ turn, pairs.motion)
    k = pairs.intrinsics.copy()
    k[which, 0, 2] = pairs.depth.shape[2] - 1 - k[which, 0, 2]
    k[which, 0, 1] *= -1
    return StereoPairs(flip(pairs.target), flip(pairs.source), k, motion, depth)


def _init(key, trial, before=None, *, network: StereoNetwork, stage: str):
    del trial
    params = init_stereo_network(key, network)
    if before is None:
        return params
    # The stage `few` begins with new solver weights, after the first guess that all rows share.
    return before if stage != "few" else before | {"solver": params["solver"]}


def _optimizer(config: Config, stage: str, steps: int) -> optax.GradientTransformation:
    rate = config.learning_rate * (JOINT_RATE if stage == "joint" else 1.0)
    adam = optax.chain(
        optax.clip_by_global_norm(config.clip), optax.adam(optax.cosine_decay_schedule(rate, steps))
    )
    labels = lambda params: {
        name: jax.tree.map(lambda _: "learned" if name in LEARNED[stage] else "fixed", leaf)  # noqa: B023
        for name, leaf in params.items()
    }
    return optax.multi_transform({"learned": adam, "fixed": optax.set_to_zero()}, labels)


def estimate_steps(
    params: Any, target: jax.Array, source: jax.Array, intrinsics: jax.Array, network: StereoNetwork
) -> tuple[StereoEstimate, StereoEstimate]:
    """The first guess, and the estimates after each iteration of the solver."""
    sources = source[:, None]
    views = quarter_views(target, sources, intrinsics, network.residual, network.match_exposure)
    guess = first_guess(params, target, sources, intrinsics, network)
    return guess, solve_stereo(params, views, guess, network)


def quarter_depth(depth: Any) -> Any:
    """(..., H / 4, W / 4) depths of the pixels nearest to the centres of 4 x 4 blocks."""
    return depth[..., 2::4, 2::4]


def _loss(params, batch: StereoPairs, key, trial, *, config: Config, network, stage: str):
    """Mean over pairs and iterations of the weighted errors of depth and motion.

    w_z mean |z - z*| + w_l mean |log z - log z*| + w_r |alpha - alpha*|_1 + |t - t*|_1
    """
    del key, trial
    fixed = {name: jax.lax.stop_gradient(params[name]) for name in params}
    params = {name: (params if name in LEARNED[stage] else fixed)[name] for name in params}
    target, k = batch.target, batch.intrinsics
    if stage == "upscale":
        _, found = estimate_steps(params, target, batch.source, k, network)
        full = upscale(params, found.inverse_depth[-1], target, network)
        error, logs = depth_loss(full, batch.depth)
        return jnp.mean(config.depth_weight * error + config.log_weight * logs), {}
    if stage == "initial":
        found = first_guess(params, target, batch.source[:, None], k, network)
        found = jax.tree.map(lambda leaf: leaf[None], found)
    else:
        guess, found = estimate_steps(params, target, batch.source, k, network)
        if stage == "joint":  # the loss of the guess counts, too
            found = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), guess, found)
    true = quarter_depth(batch.depth)
    depth, logs = jax.vmap(lambda z: depth_loss(z, true))(found.inverse_depth)
    rotation, translation = motion_loss(found.motion[:, :, 0], batch.motion)
    total = config.depth_weight * depth + config.log_weight * logs
    total = total + config.rotation_weight * rotation + translation
    last = {"depth": depth[-1], "rotation": rotation[-1], "translation": translation[-1]}
    return jnp.mean(total), jax.tree.map(jnp.mean, last)


def depth_loss(z: jax.Array, depth: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Means (B,) of |z - 1 / d| and |log z + log d| over the pixels whose depth is known."""
    known = jnp.isfinite(depth)
    true = 1 / jnp.where(known, depth, 1)
    count = jnp.maximum(jnp.sum(known, axis=(1, 2)), 1)
    mean = lambda x: jnp.sum(jnp.where(known, jnp.abs(x), 0), axis=(1, 2)) / count
    return mean(z - true), mean(jnp.log(z / true))


def motion_loss(motion: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    """|alpha - alpha*|_1 and |t - t*|_1 (T, B) of motions (T, B, 4, 4)."""
    logs = jax.vmap(lambda m: so3.log(m[:3, :3]))
    alpha = logs(motion.reshape(-1, 4, 4)).reshape(*motion.shape[:2], 3)
    rotation = jnp.sum(jnp.abs(alpha - logs(target)), axis=-1)
    return rotation, jnp.sum(jnp.abs(motion[..., :3, 3] - target[:, :3, 3]), axis=-1)
