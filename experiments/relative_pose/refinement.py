"""Training of network, confidences and scales through the energy of matches and prior."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import runner
from experiments.relative_pose import training
from experiments.relative_pose.data import Data
from jaxcv.models.relative_pose import MatchHead, standardised
from jaxcv.systems.two_view import (
    MATCH_NUMBERS,
    MatchArrays,
    PoseScales,
    network_and_refined_poses,
)

__all__ = ["HEAD", "VALIDATED", "errors_of", "runs", "untrained"]

HEAD = MatchHead()
VALIDATED = ("valid_rotation_deg", "valid_direction_deg")
WARM_UP = 20  # steps
_LEAST = 1e-3  # smallest standard deviation of a network [rad]
_NEW_RATE = 10.0  # factor on the rate for head and scales
_OLD_RATE = 0.1  # factor on the rate for what was trained before


def runs(config: Any, data: Data) -> dict[str, runner.Run]:
    """The run `joint`, which starts from the last network; none without --refine.

    If `data.started` has trained heads, the run starts from the head and the scales of each seed,
    and trains them at the low rate of pretrained parameters: a few pairs are soon overfitted.
    """
    if not config.refine:
        return {}
    started = data.started
    if started is not None and not _trained(started[0]["head"]):
        started = None
    log_every = min(50, config.refine_steps)
    seeds = np.arange(config.seed, config.seed + config.num_seeds)
    joint = runner.Run(
        init=functools.partial(_init, config=config, valid=data.valid, started=started),
        init_from=config.net[-1],
        loss=functools.partial(_loss, config=config),
        optimizer=functools.partial(
            _optimizer, config, _NEW_RATE if started is None else _OLD_RATE
        ),
        hyperparameters=(),
        trials={"seed": seeds},
        steps=config.refine_steps,
        batches=functools.partial(_batch, data, config),
        sequential=runner.in_turn(config.trials_by),
        log_every=log_every,
        checkpoint_every=log_every,
        steps_per_call=1,
    )
    return {"joint": joint}


def untrained(
    config: Any, network: Any, key: jax.Array, errors: Any = None, *, net: str | None = None
) -> Any:
    """A trained network with a head that gives all matches the same confidence.

    Args:
        config: of the experiment.
        network: params of the network.
        key: PRNG key.
        errors: (2,) median errors [deg] of rotation and direction on validation pairs, from which
            the prior's precision follows: the median of Gaussian angles about two or three axes is
            about 1.5 standard deviations. None: precision 1.
        net: one of NETS; None: the last of the config.
    """
    own = training.network(config, str(net or config.net[-1]))
    scales = PoseScales(*(jnp.asarray(x, jnp.float32) for x in PoseScales()))
    if errors is not None:
        deviation = jnp.maximum(jnp.deg2rad(jnp.asarray(errors, jnp.float32)) / 1.5, _LEAST)
        scales = scales._replace(log_precision=-2 * jnp.log(deviation))
    image = jnp.zeros((1, *config.shape, 3))
    both: Any = jax.eval_shape(
        lambda p: own.apply(p, image, image, method="both_features"), network
    )
    head = HEAD.init(key, jnp.zeros(both.shape), jnp.zeros((1, 1, MATCH_NUMBERS)))
    return {"network": network, "head": head, "scales": scales}


def errors_of(config: Any, valid: Any, network: Any) -> jax.Array | None:
    """The `errors` of the last network for `untrained`; None without validation pairs."""
    if valid is None:
        return None
    pairs = training.shown(valid, slice(None))
    found = training.validate({"network": network}, pairs, None, config=config, net=config.net[-1])
    return jnp.stack([found[name] for name in VALIDATED])


def _trained(head: Any) -> bool:
    """True if the head is trained: the last kernel of an untrained head is 0."""
    layers = head["params"]
    return bool(np.any(layers[max(layers)]["kernel"]))


def _init(key, trial, before, *, config: Any, valid: Any, started: Any):
    network = before["network"]
    params = untrained(config, network, key, errors_of(config, valid, network))
    if started is None:
        return params
    index = trial["seed"] - config.seed if len(started) > 1 else 0
    own = jax.tree.map(lambda *leaves: jnp.stack(leaves)[index], *started)
    precision = params["scales"].log_precision  # on the validation pairs of this run
    scales = PoseScales(*own["scales"])._replace(log_precision=precision)
    return params | {"head": own["head"], "scales": scales}


def _optimizer(config: Any, new: float) -> optax.GradientTransformation:
    steps, warm_up = config.refine_steps, min(WARM_UP, config.refine_steps // 2)

    def make(factor):
        rate = optax.warmup_cosine_decay_schedule(0.0, factor * config.refine_rate, warm_up, steps)
        return optax.adam(rate)

    def labels(params):
        def name(path):
            text = jax.tree_util.keystr(path)
            if "'network'" not in text:
                return "new"
            return "heads" if training.over_maps(path, config.head) else "trunk"

        return jax.tree_util.tree_map_with_path(lambda path, _: name(path), params)

    rates: Any = {
        "new": make(new), "trunk": make(_OLD_RATE),
        "heads": make(_OLD_RATE * config.head_rate),
    }  # fmt: skip
    return optax.chain(optax.clip_by_global_norm(1.0), optax.multi_transform(rates, labels))


def _batch(data: Data, config: Any, step: int) -> Any:
    rng = np.random.default_rng([config.seed, step, 1])
    own = data.matched
    rows = rng.integers(len(own.pairs.rotation), size=config.refine_batch)
    matches = MatchArrays(*(np.asarray(leaf)[rows] for leaf in own.matches))
    return training.shown(own.pairs, rows) | {"matches": matches}


def _loss(params, batch, key, trial, *, config: Any):
    """Mean over pairs of log(1 + 4 a), summed over both angle errors a [rad]."""
    del trial
    _, refined = network_and_refined_poses(
        params, standardised(batch["first"]), standardised(batch["second"]), batch["matches"],
        network=training.network(config, config.net[-1]), head=HEAD, key=key,
    )  # fmt: skip
    turned, moved = training.angles(refined.rotation, refined.direction, batch)
    shares = {
        "refined_rotation_deg": jnp.rad2deg(jnp.median(turned)),
        "refined_direction_deg": jnp.rad2deg(jnp.median(moved)),
        "converged": jnp.mean(refined.converged),
    }
    return jnp.mean(jnp.log1p(4 * turned) + jnp.log1p(4 * moved)), shares
