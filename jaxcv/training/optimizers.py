"""Optimisers that optax does not have."""

import optax

__all__ = ["averaged_sgd"]


def averaged_sgd(
    learning_rate: float, *, decay: float = 5e-4, power: float = 0.75
) -> optax.GradientTransformation:
    """SGD with the decaying step size of averaged SGD, but without the average.

        eta_t = eta / (1 + d eta t)^p,   x <- x (1 - d eta_t) - eta_t g

    The released code of Wibergian learning trains its robust mean this way.

    Args:
        learning_rate: eta.
        decay: d, of the step size and of the weights.
        power: p.

    Source: Polyak and Juditsky 1992; Xu 2011.
    """

    def step_size(count):
        return -learning_rate / (1 + decay * learning_rate * count) ** power

    return optax.chain(optax.add_decayed_weights(decay), optax.scale_by_schedule(step_size))
