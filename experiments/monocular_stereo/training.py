"""Data and training of the stereo solver."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import runner
from experiments.monocular_stereo.config import (
    DEMON,
    STAGES,
    TOGETHER,
    Config,
    Row,
    in_stage,
    network_of,
    rows_of,
    run_name,
)
from jaxcv.data.stereo import StereoPairs, read_folder, unit_baseline
from jaxcv.data.synthetic.stereo import generate_pairs
from jaxcv.geometry import so3
from jaxcv.systems.stereo import (
    StereoEstimate,
    StereoNetwork,
    first_guess,
    init_stereo_network,
    quarter_views,
    solve_stereo,
    upscale,
)

# Keys of the generated rooms: the same for all seeds, another one for each purpose.
TRAIN_ROOMS, TEST_ROOMS, TUNING_ROOMS = 20181, 20182, 20183
TUNING_PAIRS = 64  # for the choice of the baselines' settings
JOINT_RATE = 0.03  # factor on the learning rate; larger ones undo earlier stages
LEARNED = {
    "initial": ("initial",), "few": ("solver",), "all": ("solver",),
    "joint": ("initial", "solver"), TOGETHER: ("initial", "solver"), "upscale": ("upscaler",),
}  # fmt: skip


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
    if config.unit and config.update == "additive":
        expected = "expected 'left' with --unit"
        raise runner.data_error("update", expected, repr(config.update), "Add --nounit.")
    if not min(config.stages[:2]) > 0:
        expected = "expected steps in the stages initial and few"
        raise runner.data_error("stages", expected, config.stages, "E.g. --stages=1 --stages=0.25.")
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


def runs(config: Config, data: Data) -> dict[str, runner.Run]:
    """For each seed, a run of the first guess, then a run for each stage of each row."""
    out = {}
    for seed in range(config.seed, config.seed + config.num_seeds):
        first = run_name("lsnet", "initial", seed)
        usual = network_of(config)
        out[first] = _run(config, data, Row(usual, ("initial",)), "initial", seed, None)
        for name, row in rows_of(config, seed).items():
            before = first
            for stage in row.stages:
                run = run_name(name, stage, seed)
                start = None if stage == TOGETHER else before
                out[run] = _run(config, data, row, stage, seed, start)
                before = run
    return out


def _run(config, data, row: Row, stage, seed, before) -> runner.Run:
    index = (*STAGES, TOGETHER).index(stage)
    factor = sum(config.stages[:3]) if stage == TOGETHER else config.stages[index]
    steps, network = max(1, round(config.steps * factor)), row.network
    if row.log_weight is not None:
        config = dataclasses.replace(config, log_weight=row.log_weight)
    size = 2 * config.batch_size if stage in ("initial", "upscale") else config.batch_size
    return runner.Run(
        init=functools.partial(_init, network=network, fresh=stage == row.stages[0]),
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


def _init(key, trial, before=None, *, network: StereoNetwork, fresh: bool):
    del trial
    params = init_stereo_network(key, network)
    if before is None:
        return params
    # A row's first stage begins with new solver weights, after the first guess that rows share.
    return before | {"solver": params["solver"]} if fresh else before


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
    """Weighted errors of depth and motion: mean over pairs, mean or sum over iterations.

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
        if stage in ("joint", TOGETHER):  # the loss of the guess counts, too
            found = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), guess, found)
    true = quarter_depth(batch.depth)
    depth, logs = jax.vmap(lambda z: depth_loss(z, true))(found.inverse_depth)
    rotation, translation = motion_loss(found.motion[:, :, 0], batch.motion)
    total = config.depth_weight * depth + config.log_weight * logs
    total = total + config.rotation_weight * rotation + translation
    last = {"depth": depth[-1], "rotation": rotation[-1], "translation": translation[-1]}
    iterations = total.shape[0] if config.reduction == "sum" else 1
    return iterations * jnp.mean(total), jax.tree.map(jnp.mean, last)


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
