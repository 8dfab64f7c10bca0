"""How far a relative pose can be trusted: a probability fitted on pairs with known poses.

    c = min(sigmoid(b + w . f), 1 / (1 + odds)),   f = (a, s, o, k, q)

a: log odds that both angles are within 20 degrees by the covariance, 1 - exp(-L^2 / (2 v)) with v
its largest eigenvalue; s: the smaller of the log odds that the matches agree by no accident and
that the cameras translated; o: -log of the runner-up's likelihood over the best's; k: log of the
number of inliers and one; q: the share of inliers. All are clipped.

The weights come from a logistic regression on 577 pairs of frames of rooms and shelves, and on 736
generated pairs: 6 to 250 matches, up to 80% of them wrong, walls, cameras that only turn, pictures
with nothing in common. Left out a scene at a time, the expected calibration error was .034, and 99%
of the pairs with .95 or more were right. A camera that only turns is the case it knows least: it
gives about two thirds on average where 4% are right, so look at `moved`, too.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.systems.relative_refinement import RefinedPose

__all__ = ["LIMIT", "confidence_of", "evidence_features"]

LIMIT = np.deg2rad(20.0)  # error beyond which a pose counts as failed [rad]
_LARGEST = 8.0  # of log odds
_MOVED = 12.0
_MANY = 4.0  # log of a number of inliers beyond which more say nothing
_BIAS = -6.138
_SLOPES = (0.2022, 0.1069, 0.1869, 1.1187, 1.6944)


def _log_odds(p: jax.Array, largest: float) -> jax.Array:
    tiny = jnp.finfo(p.dtype).tiny
    odds = jnp.log(jnp.maximum(p, tiny)) - jnp.log(jnp.maximum(1 - p, tiny))
    return jnp.clip(odds, -largest, largest)


def evidence_features(refined: RefinedPose) -> jax.Array:
    """f (..., 5) of poses, from their diagnostics."""
    covariance = refined.covariance
    finite = jnp.all(jnp.isfinite(covariance), axis=(-2, -1))
    safe = jnp.where(finite[..., None, None], covariance, jnp.eye(5, dtype=covariance.dtype))
    largest = jnp.maximum(jnp.linalg.eigvalsh(safe)[..., -1], jnp.finfo(safe.dtype).eps)
    exponent = jnp.minimum(0.5 * LIMIT**2 / largest, _LARGEST)
    within = jnp.clip(jnp.log(jnp.expm1(exponent)), -6.0, _LARGEST)
    within = jnp.where(finite, within, -6.0)
    supported = _log_odds(refined.supported, _LARGEST)
    moved = _log_odds(refined.moved, _MOVED)
    alone = jnp.clip(-jnp.log(jnp.maximum(refined.odds, 1e-12)), 0, _LARGEST)
    count = jnp.sum(refined.inliers, axis=-1)
    return jnp.stack(
        [
            within, jnp.minimum(supported, moved), alone,
            jnp.minimum(jnp.log1p(count), _MANY), refined.share,
        ],
        axis=-1,
    )  # fmt: skip


def confidence_of(refined: RefinedPose, log_precision: Any = None) -> jax.Array:
    """Probability (...) that both angle errors of a pose are below 20 degrees.

    With a network's prior of precision p, and s the weight of the matches from `RefinedPose`:

        c + (1 - c) (1 - s) (1 - exp(-L^2 p / 2)),   s = moved x supported

    Args:
        refined: poses (...) with their diagnostics.
        log_precision: (2,) of the prior's rotation and direction [1/rad^2]; the smaller counts.
            None: no prior.
    """
    score = evidence_features(refined) @ jnp.asarray(_SLOPES, refined.odds.dtype) + _BIAS
    own = jnp.minimum(jax.nn.sigmoid(score), 1 / (1 + refined.odds))
    if log_precision is None:
        return own
    precision = jnp.exp(jnp.min(jnp.asarray(log_precision)))
    prior = 1 - jnp.exp(-0.5 * LIMIT**2 * precision)
    return own + (1 - own) * (1 - refined.moved * refined.supported) * prior
