"""Settings and training of the inverse graphics network."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import runner
from experiments.inverse_graphics.data import SIZES, SOURCES, Data
from jaxcv.models.inverse_graphics import GraphicsNetwork
from jaxcv.systems.inverse_graphics import active_latents, graphics_loss


class Method(NamedTuple):
    """Settings of a method.

    Attributes:
        clamped: inactive entries are clamped; if not, all entries are active.
        pull: factor on kappa.
        sign: of the pull, `attract` or `repel`.
        equal: all kinds of batches are equally frequent.
    """

    clamped: bool = True
    pull: float = 1.0
    sign: str = "attract"
    equal: bool = False


METHODS = {
    "dcign": Method(),
    "dcign_no_invariance": Method(pull=0.0),
    "dcign_equal_ratio": Method(equal=True),
    "dcign_repel": Method(sign="repel"),
    "entangled": Method(clamped=False),
}
SOURCE = {"dcign/chairs_reconstruction_mse": 2.7722e-4}  # the paper, on its chairs
_CHECKED = 2  # test batches of each kind for the validation


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the inverse graphics; every field is a flag."""

    data: str = runner.flag(
        "faces", "Generated heads or chairs, your renderings of a face model, or Aubry's chairs.",
        choices=SOURCES,
    )  # fmt: skip
    data_dir: str | None = runner.flag(
        None, "Folder of --data=basel or --data=public_chairs.", of_data=True
    )
    cache_dir: str | None = runner.flag(
        None, "Folder for prepared images; none: jaxcv in the user's cache.", of_data=True
    )
    method: tuple[str, ...] = runner.flag(
        ("dcign", "entangled"), "Methods to train.", choices=tuple(METHODS)
    )
    steps: int = runner.flag(8000, "Optimiser steps.", lower=1)
    seed: int = runner.flag(0, "Seed of weights, noise and batches.", lower=0, upper=2**31 - 1)
    num_seeds: int = runner.flag(1, "Number of seeds, from --seed on.", lower=1, upper=100)
    warm_steps: int = runner.flag(0, "First steps, without clamping.", lower=0)
    ratio: tuple[float, ...] = runner.flag(
        (1, 1, 2, 1), "Relative frequency of batches of azimuth, elevation, light and identity "
        "(chairs: of azimuth, and of all the rest).", lower=0.0,
    )  # fmt: skip
    strength: float = runner.flag(1.0, "Kappa, the pull on inactive entries.", lower=0.0)
    reference: str = runner.flag(
        "mean", "Value of inactive entries: the batch's mean (paper) or first (released code).",
        choices=("mean", "first"),
    )  # fmt: skip
    clamp_on: str = runner.flag(
        "statistics", "Clamped quantity: mean and log variance (released code) or sample (paper).",
        choices=("statistics", "sample"),
    )  # fmt: skip
    share_noise: bool = runner.flag(False, "Use one noise sample for a whole batch.")
    log_variance_too: bool = runner.flag(True, "Pull inactive log variances together, too.")
    trials_by: str = runner.flag(
        "auto", "Order of trials: at once (vmap) or in turn (loop); auto: loop on CPUs, else vmap.",
        choices=("auto", "vmap", "loop"), formerly="members_by",
    )  # fmt: skip
    num_train: int = runner.flag(250, "Training batches per kind.", lower=1, of_data=True)
    num_test: int = runner.flag(10, "Test batches per kind.", lower=_CHECKED, of_data=True)
    num_images: int = runner.flag(
        1500, "Test images in which all factors vary.", lower=200, of_data=True
    )
    identities: int = runner.flag(20, "Heads or chairs in --num_images.", lower=2, of_data=True)
    models: int = runner.flag(400, "Generated chairs per split.", lower=2, of_data=True)
    batch_size: int = runner.flag(20, "Images per batch.", lower=2, of_data=True)
    elevation: float = runner.flag(
        0.6, "Largest elevation of heads, up and down [rad]; paper: 0.4.", lower=0.01, upper=1.5,
        of_data=True,
    )  # fmt: skip
    size: str = runner.flag("cpu", "Size of the network and the images.", choices=tuple(SIZES))
    initial: str = runner.flag(
        "he", "Initial weights; the released ones leave small networks at the mean image.",
        choices=("he", "released"),
    )  # fmt: skip
    optimizer: str = runner.flag(
        "adam", "Optimiser: adam (.9, .99; released code) or rmsprop (paper).",
        choices=("adam", "rmsprop"),
    )  # fmt: skip
    learning_rate: float = runner.flag(1.5e-3, "Learning rate of the optimiser.", lower=0.0)
    decay: bool = runner.flag(True, "Cosine decay of the learning rate to 0.")


PRESETS = {
    "default": Config(),
    "chairs": Config(data="chairs", ratio=(1, 1)),
    "study": Config(method=tuple(METHODS), num_seeds=3),
    "paper": Config(
        size="paper", initial="released", steps=240_000, learning_rate=5e-4, decay=False,
        ratio=(1, 1, 1, 10), strength=0.01, num_train=3000, num_test=350, elevation=0.4,
    ),
}  # fmt: skip


def memory(config: Config) -> dict[str, float]:
    """Bytes of the images, and of a batch with the maps of the network."""
    pixels = float(SIZES[config.size].image ** 2)
    return {
        "num_train": 4 * pixels * config.num_train * config.batch_size,
        "num_test": 4 * pixels * config.num_test * config.batch_size,
        "num_images": pixels * config.num_images,
        "batch_size": 400 * pixels * config.batch_size,
    }


def make_network(config: Config, metadata: Any) -> GraphicsNetwork:
    """The network to train; `metadata`: of the training."""
    return GraphicsNetwork(
        SIZES[config.size], initial=config.initial, mean_pixel=metadata["mean_pixel"]
    )


def metadata(config: Config, data: Data) -> dict[str, Any]:
    """Statistics of the data that are stored with a training."""
    del config
    return {
        "mean_pixel": round(float(data.train.images.mean()) / 255, 4),
        "names": list(data.train.names),
    }


def programs(config: Config) -> dict[str, list[str]]:
    """Run -> its methods, which share batches and code."""
    out: dict[str, list[str]] = {}
    for name in config.method:
        method = METHODS[name]
        run = "equal_ratio" if method.equal else method.sign
        out.setdefault(run, []).append(name)
    return out


def trial_of(config: Config, method: str, i: int) -> tuple[str, int]:
    """The run of a method, and the index of the trial of its i-th seed."""
    for run, methods in programs(config).items():
        if method in methods:
            return run, methods.index(method) * config.num_seeds + i
    raise KeyError(method)


def runs(config: Config, data: Data) -> dict[str, runner.Run]:
    """One run per entry of `programs`; methods and seeds are trials."""
    network, entries = make_network(config, metadata(config, data)), data.train.entries
    if len(config.ratio) != entries + 1 or not sum(config.ratio):
        expected = f"expected {entries + 1} numbers for --data={config.data}, not all 0"
        raise runner.data_error("ratio", expected, config.ratio, "Repeat --ratio.")
    checked = _checked(data)
    out = {}
    for run, methods in programs(config).items():
        own = [METHODS[name] for name in methods for _ in range(config.num_seeds)]
        seeds = np.arange(config.seed, config.seed + config.num_seeds)
        log_every = min(250, config.steps)
        out[run] = runner.Run(
            init=functools.partial(_init, network=network),
            loss=functools.partial(
                _loss, network=network, config=config, sign=own[0].sign, entries=entries
            ),
            optimizer=functools.partial(_optimizer, config),
            hyperparameters=(),
            trials={
                "clamped": np.array([m.clamped for m in own]),
                "pull": np.array([m.pull for m in own], np.float32),
                "seed": np.tile(seeds, len(methods)),
            },
            steps=config.steps,
            data=checked,
            batches=functools.partial(_batch, data, config, _shares(config, own[0])),
            validate=functools.partial(_validate, network=network, entries=entries),
            sequential=runner.in_turn(config.trials_by),
            log_every=log_every,
            checkpoint_every=4 * log_every,
            steps_per_call=1,
        )
    return out


def _shares(config: Config, method: Method) -> np.ndarray:
    """Sampling probability of each kind of batch."""
    ratio = np.ones(len(config.ratio)) if method.equal else np.asarray(config.ratio, float)
    return ratio / ratio.sum()


def _checked(data: Data) -> dict[str, np.ndarray]:
    """The first test batches of each kind, for the validation."""
    kinds = [np.flatnonzero(data.test.kind == k)[:_CHECKED] for k in np.unique(data.test.kind)]
    some = data.test.take(np.concatenate(kinds))
    return {"images": some.images, "kind": entry_of(some.kind, some.entries)}


def entry_of(kind: Any, entries: int) -> Any:
    """The entry that a kind of batch varies; `entries` stands for all the rest."""
    return np.minimum(kind, entries).astype(np.int32)


def _batch(data: Data, config: Config, shares: np.ndarray, step: int) -> Any:
    rng = np.random.default_rng([config.seed, step])
    entry = rng.choice(len(shares), p=shares)
    rows = _rows(data.train, entry)
    held = np.bool_(step >= config.warm_steps)
    return {
        "images": data.train.images[rng.choice(rows)], "kind": np.int32(entry), "held": held
    }  # fmt: skip


def _rows(batches: Any, entry: int) -> np.ndarray:
    rows = np.flatnonzero(entry_of(batches.kind, batches.entries) == entry)
    if not len(rows):
        name = (*batches.names[: batches.entries], batches.names[-1])[entry]
        expected = f"expected training batches in which {name!r} changes"
        raise runner.data_error("data", expected, "none", "Set its --ratio to 0.")
    return rows


def as_images(pixels: Any) -> jax.Array:
    """(..., S, S) in 8 bits as (..., S, S, 1) in [0, 1]."""
    return jnp.asarray(pixels, jnp.float32)[..., None] / 255


def _init(key, trial, *, network: GraphicsNetwork):
    del trial
    side = network.size.image
    return network.init(key, jnp.zeros((1, side, side, 1)))


def _optimizer(config: Config) -> optax.GradientTransformation:
    """Adam as in the released code, or as in the paper: RMSProp, momentum and weight decay."""
    rate: Any = config.learning_rate
    if config.decay:
        rate = optax.cosine_decay_schedule(rate, config.steps)
    if config.optimizer == "adam":
        return optax.adam(rate, b1=0.9, b2=0.99, eps=0.0, eps_root=1e-8)
    return optax.chain(
        optax.add_decayed_weights(0.01), optax.rmsprop(rate, decay=0.9, momentum=0.1)
    )


def _loss(params, batch, key, trial, *, network, config: Config, sign: str, entries: int):
    latents = network.size.latents
    own = active_latents(batch["kind"], latents, entries)
    active = jnp.where(trial["clamped"] & batch["held"], own, True)
    return graphics_loss(
        params,
        as_images(batch["images"]),
        key,
        network=network,
        active=active,
        strength=config.strength * trial["pull"],
        reference=config.reference,
        sign=sign,
        clamp_on=config.clamp_on,
        log_variance_too=config.log_variance_too,
        share_noise=config.share_noise,
    )


def _validate(params, data, trial, *, network: GraphicsNetwork, entries: int):
    """Squared error on test batches, and the spread of inactive entries within a batch.

    `spread_absolute` is the root of their mean variance within a batch; `spread` divides this by
    the root of the mean variance of all entries over all batches.
    """
    del trial
    images = as_images(data["images"])
    flat = images.reshape(-1, *images.shape[2:])
    encoded: Any = network.apply(params, flat, method="encode")
    mean = encoded[0]
    made: Any = jax.nn.sigmoid(network.apply(params, mean, method="decode"))  # type: ignore[arg-type]
    latents = mean.shape[-1]
    apart = mean.reshape(*images.shape[:2], latents)
    active = jax.vmap(lambda kind: active_latents(kind, latents, entries))(data["kind"])
    inactive = 1 - active.astype(mean.dtype)
    within = jnp.sum(inactive * jnp.var(apart, axis=1)) / jnp.sum(inactive)
    return {
        "valid_mse": jnp.mean((made - flat) ** 2),
        "spread": jnp.sqrt(within / jnp.mean(jnp.var(mean, axis=0))),
        "spread_absolute": jnp.sqrt(within),
    }
