"""Training of a depth network through the kinematic energy that follows it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments import runner
from experiments.hand_pose import training
from experiments.hand_pose.config import networks
from experiments.runner.settings import config_error
from jaxcv.energies.hand import HandScales
from jaxcv.geometry.crop import of_cube
from jaxcv.linear.damping import Damping
from jaxcv.models.hand_pose import HandNetwork
from jaxcv.systems.hand_refinement import RefinedHand, refine_hand

__all__ = ["DAMPINGS", "estimate", "runs", "untrained", "with_confidence"]

# Run -> damping of the implicit gradient.
DAMPINGS = {
    "refined": Damping(1e-3, relative=True),
    "refined_undamped": Damping(0.0, mode="plain"),
}
BATCH = 16
WARM_UP = 20  # steps


def runs(config: Any, data: Any) -> dict[str, Any]:
    """One run per entry of DAMPINGS, initialised by the trained net6; none without --refine."""
    if not config.refine:
        return {}
    if (config.crop, config.targets) != ("cube", "cube"):
        expected = "expected the defaults with --refine"
        raise config_error("crop, targets", expected, (config.crop, config.targets))
    own = with_confidence(networks(config)["net6"])
    log_every = min(50, config.refine_steps)
    return {
        name: runner.Run(
            init=functools.partial(_init, network=own, side=config.side),
            init_from="net6",
            loss=functools.partial(_loss, config=config, network=own, damping=damping),
            optimizer=functools.partial(_optimizer, config),
            hyperparameters=(),
            trials=lambda trained: {"seed": trained["net6"].trials["seed"]},
            steps=config.refine_steps,
            batches=functools.partial(_batch, data, config),
            sequential=runner.in_turn(config.trials_by),
            log_every=log_every,
            checkpoint_every=log_every,
            steps_per_call=1,
        )
        for name, damping in DAMPINGS.items()
    }


def with_confidence(network: HandNetwork) -> HandNetwork:
    """The network with another output: log confidences of the joints."""
    return network.clone(confidence=True)


def _optimizer(config: Any) -> optax.GradientTransformation:
    # Adam's first steps have full length; without a warm-up they undo part of net6's training.
    steps, warm_up = config.refine_steps, min(WARM_UP, config.refine_steps // 2)
    rate = optax.warmup_cosine_decay_schedule(0.0, config.refine_rate, warm_up, steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


def _init(key, trial, before, *, network: HandNetwork, side: int):
    """The trained network, equal confidences, and the default scales of the energy."""
    del trial
    new: Any = network.init(key, jnp.zeros((1, side, side, 1)))
    return untrained(before, new["params"]["confidence"])


def untrained(alone: Any, confidence: Any) -> Any:
    """A trained network with log confidences of 0 (layer as `confidence`), and default scales."""
    equal = jax.tree.map(jnp.zeros_like, confidence)
    logs = HandScales(*(jnp.log(jnp.asarray(scale, jnp.float32)) for scale in HandScales()))
    return {"network": {"params": alone["params"] | {"confidence": equal}}, "log_scales": logs}


def _batch(data: Any, config: Any, step: int) -> Any:
    size, count = min(BATCH, config.batch_size), len(data.train.depth)
    crops = data.train.take(training.rows_of_step(config.seed, size, count, step))
    return crops.depth, crops.points, crops.centre, crops.joints


def estimate(
    params: Any,
    depth: jax.Array,
    points: jax.Array,
    centre: jax.Array,
    cube: float,
    network: HandNetwork,
    damping: Damping,
) -> tuple[jax.Array, RefinedHand]:
    """Joints (B, 14, 3) [mm] of the network, and the hand fitted to them and to the points."""
    out: Any = network.apply(params["network"], depth)
    found, log_confidence = out
    joints = of_cube(found, centre[:, None], cube)
    scales = HandScales(*(jnp.exp(leaf) for leaf in params["log_scales"]))
    return joints, refine_hand(joints, log_confidence, points, scales, damping=damping)


def _loss(params, batch, key, trial, *, config: Any, network: HandNetwork, damping: Damping):
    """Mean over the refined joints of sqrt(d^2 + 1 mm^2) [cm], with d the error of a joint."""
    del key, trial
    depth, points, centre, target = batch
    joints, refined = estimate(params, depth, points, centre, config.cube, network, damping)
    distance = lambda x: jnp.sqrt(jnp.sum((x - target) ** 2, axis=-1) + 1)
    shares = {
        "network_error_mm": jnp.mean(distance(joints)),
        "refined_error_mm": jnp.mean(distance(refined.joints)),
        "converged": jnp.mean(refined.converged),
    }
    return 0.1 * shares["refined_error_mm"], shares
