"""Starting poses for the epipolar energy: five-match samples, all their poses scored by matches.

A round draws samples in proportion to the matches' confidences, solves each for its essential
matrices, and scores these by Geman and McClure's kernel of the Sampson distances. A few
reweighted Gauss-Newton steps on the scoring matches improve the round's best. Rounds go on until,
at the share of inliers of the best so far, a sample without outliers was drawn with the
probability asked for.

Source: Fischler and Bolles, Random sample consensus, 1981; Chum, Matas and Kittler, Locally
optimized RANSAC, 2003; Nister, PAMI 2004.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.energies.epipolar import EpipolarParameters
from jaxcv.geometry.epipolar import (
    decompose_essential,
    essential_matrix,
    essential_pose,
    sampson_distance,
)
from jaxcv.geometry.five_point import five_point
from jaxcv.solvers.retraction import coordinates_at
from jaxcv.systems.relative_evidence import POSE

__all__ = ["searched_poses"]

_SAMPLE = 5
_ROUND = 64  # samples
_SCORED = 256  # matches that score a sample, the most confident
_FAILS = 1e-3  # probability that all samples held outliers
_STEPS = 4  # of Gauss-Newton on a round's best
_RIDGE = 1e-4  # of these steps, relative to the trace
_TOLERANCE = 2.0  # scale of the score's kernel over the noise


class _Pool(NamedTuple):
    """The best essential matrices (K, 3, 3) so far, their costs (K,) and the share of inliers."""

    essential: jax.Array
    cost: jax.Array
    share: jax.Array


def searched_poses(
    key: jax.Array,
    theta: EpipolarParameters,
    points1: jax.Array,
    points2: jax.Array,
    valid: jax.Array | None = None,
    *,
    least_samples: int = 256,
    most_samples: int = 16_384,
    count: int = 12,
) -> tuple[jax.Array, jax.Array]:
    """Poses of least cost among those of random samples of five matches.

        cost = sum_n w_n x_n / (x_n + c^2),   c = 2,   x_n = r_n^2 / s^2

    Args:
        key: PRNG key.
        theta: confidences and noise of one pair; batch with `jax.vmap`. The prior is not used.
        points1: (N, 2), normalised by the intrinsics, N of 5 or more.
        points2: (N, 2).
        valid: (N,) mask of the matches; None: all.
        least_samples: number of samples at least; whole rounds of 64 are drawn.
        most_samples: at most, however few matches agree.
        count: number of poses returned.

    Returns:
        Rotations (count, 3, 3), directions (count, 3), best first; unreliable with fewer than five
        matches.
    """
    valid = jnp.ones(points1.shape[0], bool) if valid is None else valid
    theta = jax.lax.stop_gradient(theta)
    weight = jnp.where(valid, jnp.exp(theta.log_confidence), 0)
    drawn = jnp.cumsum(weight / jnp.max(weight))
    rows = jax.lax.top_k(weight, min(_SCORED, weight.size))[1]
    scale = jnp.exp(-2 * theta.log_noise) / _TOLERANCE**2
    scored = points1[rows], points2[rows], weight[rows], scale
    least, most = (-(-samples // _ROUND) for samples in (least_samples, most_samples))

    # The best are improved on many matches: more exact solutions would change nothing.
    solve = jax.vmap(functools.partial(five_point, newton_steps=0))

    def search(carry):
        number, pool = carry
        at = jax.random.uniform(
            jax.random.fold_in(key, number), (_ROUND, _SAMPLE), points1.dtype, maxval=drawn[-1]
        )
        sample = jnp.minimum(jnp.searchsorted(drawn, at, side="right"), valid.size - 1)
        essential, found = solve(points1[sample], points2[sample])
        essential, found = essential.reshape(-1, 3, 3), found.reshape(-1)
        cost, share = _costs(essential, *scored)
        cost = jnp.where(found, cost, jnp.inf)
        better = _improved(essential[jnp.argmin(cost)], *scored)[None]
        its_cost, its_share = _costs(better, *scored)
        its_cost = jnp.where(jnp.isfinite(its_cost), its_cost, jnp.inf)
        essential = jnp.concatenate([pool.essential, better, essential])
        cost = jnp.concatenate([pool.cost, its_cost, cost])
        share = jnp.concatenate([jnp.full(count, pool.share), its_share, share])
        lowest, best = jax.lax.top_k(-cost, count)
        return number + 1, _Pool(essential[best], -lowest, share[best[0]])

    def unsure(carry):
        number, pool = carry
        # (1 - share^5)^samples = _FAILS
        alone = jnp.log1p(-(jnp.clip(pool.share, 1e-3, 1 - 1e-6) ** _SAMPLE))
        return (number < most) & ((number < least) | (number * _ROUND * alone > jnp.log(_FAILS)))

    dtype = points1.dtype
    empty = _Pool(
        jnp.zeros((count, 3, 3), dtype), jnp.full(count, jnp.inf, dtype), jnp.zeros((), dtype)
    )
    _, pool = jax.lax.while_loop(unsure, search, (jnp.zeros((), jnp.int32), empty))

    def pose(essential):
        agree = 1 / (1 + scale * _squares(essential[None], points1, points2)[0])
        return essential_pose(essential, points1, points2, weight * agree**2)

    return jax.vmap(pose)(pool.essential)


def _squares(essential: jax.Array, points1: jax.Array, points2: jax.Array) -> jax.Array:
    """Squared Sampson distances (H, N) of many essential matrices, as `sampson_distance`."""
    u1, v1, u2, v2 = points1[:, 0], points1[:, 1], points2[:, 0], points2[:, 1]
    e = essential[:, :, :, None]
    a, b, c = (e[:, i, 0] * u1 + e[:, i, 1] * v1 + e[:, i, 2] for i in range(3))
    d, f = (e[:, 0, i] * u2 + e[:, 1, i] * v2 + e[:, 2, i] for i in range(2))
    square = a**2 + b**2 + d**2 + f**2
    return (a * u2 + b * v2 + c) ** 2 / jnp.where(square > 0, square, 1)


def _improved(essential, points1, points2, weight, scale) -> jax.Array:
    """An essential matrix (3, 3) after Gauss-Newton steps, reweighted by the score's kernel."""
    rotations, direction = decompose_essential(essential)

    def step(_, pose):
        chart = coordinates_at(pose, POSE)

        def distances(flat):
            own = chart.to_point(flat)
            out = sampson_distance(
                essential_matrix(own["rotation"], own["direction"]), points1, points2
            )
            return out, out

        slope, distance = jax.jacfwd(distances, has_aux=True)(chart.origin)
        kept = weight / (1 + scale * distance**2) ** 2
        normal = slope.T @ (kept[:, None] * slope)
        ridge = _RIDGE * jnp.trace(normal) + jnp.finfo(normal.dtype).tiny
        normal = normal + ridge * jnp.eye(len(normal), dtype=normal.dtype)
        return chart.to_point(-jnp.linalg.solve(normal, slope.T @ (kept * distance)))

    # All four poses of the matrix have the same distances.
    pose = {"rotation": rotations[0], "direction": direction}
    pose = jax.lax.fori_loop(0, _STEPS, step, pose)
    return essential_matrix(pose["rotation"], pose["direction"])


def _costs(essential, points1, points2, weight, scale):
    """Costs (H,), and the weighted shares of the matches that agree (H,)."""
    total = jnp.sum(weight)
    agree = (1 / (1 + scale * _squares(essential, points1, points2))) @ weight
    return total - agree, agree / total
