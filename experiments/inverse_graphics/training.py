"""Training of the inverse graphics network."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import runner
from experiments.inverse_graphics.config import CHECKED, METHODS, SIZES, Config, Method
from experiments.inverse_graphics.data import Data
from jaxcv.models.inverse_graphics import GraphicsNetwork
from jaxcv.systems.inverse_graphics import active_latents, graphics_loss


def memory(config: Config) -> dict[str, float]:
    """Bytes of the images, and of a batch with the maps of the network."""
    pixels = float(SIZES[config.size].image ** 2)
    kinds = 2 if config.data in ("chairs", "public_chairs") else 4
    return {
        "num_train": kinds * pixels * config.num_train * config.batch_size,
        "num_test": kinds * pixels * config.num_test * config.batch_size,
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
        out.setdefault(_run_of(METHODS[name]), []).append(name)
    return out


def _run_of(method: Method) -> str:
    """The name of a method's run, by all settings but the numbers of its trials."""
    if method.posterior != "clamp":
        kind = method.posterior
    else:
        kind = "equal_ratio" if method.equal else method.sign
    word = lambda value: "_".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return "-".join([kind, *(f"{field}={word(value)}" for field, value in method.changes)])


def trial_of(config: Config, method: str, i: int) -> tuple[str, int]:
    """The run of a method, and the index of the trial of its i-th seed."""
    for run, methods in programs(config).items():
        if method in methods:
            return run, methods.index(method) * config.num_seeds + i
    raise KeyError(method)


def runs(config: Config, data: Data) -> dict[str, runner.Run]:
    """One run per entry of `programs`; methods and seeds are trials."""
    network, entries = make_network(config, metadata(config, data)), data.train.entries
    checked = _checked(data)
    out = {}
    for run, methods in programs(config).items():
        own = [METHODS[name] for name in methods for _ in range(config.num_seeds)]
        changed = dataclasses.replace(config, **dict(own[0].changes))
        if len(changed.ratio) != entries + 1 or not sum(changed.ratio):
            expected = f"expected {entries + 1} numbers for --data={config.data}, not all 0"
            hint = f"Repeat --ratio, or leave out --method={methods[0]}."
            raise runner.data_error("ratio", expected, changed.ratio, hint)
        if own[0].posterior == "adaptive" and config.batch_size % 2:
            expected = f"expected an even number, in pairs, for --method={methods[0]}"
            raise runner.data_error("batch_size", expected, config.batch_size, "Add one image.")
        kappas = [config.strength * m.pull if m.kappa is None else m.kappa for m in own]
        seeds = np.arange(config.seed, config.seed + config.num_seeds)
        log_every = min(250, config.steps)
        out[run] = runner.Run(
            init=functools.partial(_init, network=network),
            loss=functools.partial(
                _loss, network=network, config=changed, method=own[0], entries=entries
            ),
            optimizer=functools.partial(_optimizer, changed),
            hyperparameters=(),
            trials={
                "clamped": np.array([m.clamped for m in own]),
                "kappa": np.array(kappas, np.float32),
                "beta": np.array([m.beta for m in own], np.float32),
                "seed": np.tile(seeds, len(methods)),
            },
            steps=config.steps,
            data=checked,
            batches=functools.partial(_batch, data, changed, _shares(changed, own[0])),
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
    kinds = [np.flatnonzero(data.test.kind == k)[:CHECKED] for k in np.unique(data.test.kind)]
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


def _loss(params, batch, key, trial, *, network, config: Config, method: Method, entries: int):
    latents = network.size.latents
    own = active_latents(batch["kind"], latents, entries)
    active = jnp.where(trial["clamped"] & batch["held"], own, True)
    return graphics_loss(
        params,
        as_images(batch["images"]),
        key,
        network=network,
        active=active,
        strength=trial["kappa"],
        reference=config.reference,
        sign=method.sign,
        clamp_on=config.clamp_on,
        log_variance_too=config.log_variance_too,
        share_noise=config.share_noise,
        posterior=method.posterior,
        beta=trial["beta"],
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
