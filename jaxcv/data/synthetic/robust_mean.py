"""Samples of a mean hidden among outliers, as in Fig. 2 of Wibergian learning."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["PROTOCOLS", "Protocol", "RobustMeanSample", "draw"]


class Protocol(NamedTuple):
    """Distribution of the samples; only numbers, so it can be traced and vmapped.

    Attributes:
        centre_low, centre_high: bounds of the inliers' centre, uniform.
        spread: standard deviation of the inliers.
        outlier_low, outlier_high: bounds of the outliers, uniform.
        sample_mean: 1: the target is the mean of the drawn inliers; 0: it is their centre.
    """

    centre_low: jax.Array | float
    centre_high: jax.Array | float
    spread: jax.Array | float
    outlier_low: jax.Array | float
    outlier_high: jax.Array | float
    sample_mean: jax.Array | float


PROTOCOLS = {
    "released": Protocol(2.0, 2.0, 4.0, -60.0, 20.0, 1.0),  # the released code
    "paper": Protocol(-40.0, 40.0, 4.0, -40.0, 40.0, 0.0),  # the text of the paper
}


class RobustMeanSample(NamedTuple):
    """points (n,): the inliers first; target (): the mean to be found."""

    points: jax.Array
    target: jax.Array


def draw(
    key: jax.Array, protocol: Protocol, *, num_inliers: int = 10, num_outliers: int = 100
) -> RobustMeanSample:
    """One sample of num_inliers + num_outliers points on the line.

    Args:
        key: PRNG key.
        protocol: one of `PROTOCOLS`, or another one.

    Source: Toso, Campbell, Russell, NeurIPS 2019, section 3 and released code.
    """
    centre_key, inlier_key, outlier_key = jax.random.split(key, 3)
    centre = jax.random.uniform(centre_key) * (protocol.centre_high - protocol.centre_low)
    centre = centre + protocol.centre_low
    inliers = centre + protocol.spread * jax.random.normal(inlier_key, (num_inliers,))
    width = protocol.outlier_high - protocol.outlier_low
    outliers = protocol.outlier_low + width * jax.random.uniform(outlier_key, (num_outliers,))
    target = jnp.where(protocol.sample_mean > 0, jnp.mean(inliers), centre)
    return RobustMeanSample(jnp.concatenate([inliers, outliers]), target)
