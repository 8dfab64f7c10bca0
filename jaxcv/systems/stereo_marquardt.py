"""Depth and motion by Levenberg-Marquardt on the photometric energy: the classical baseline.

The depths are eliminated (an arrow matrix), which costs O(pixels). A step is accepted if it lowers
the energy over the pixels visible both before and after: otherwise pixels that leave the image
would lower the energy. Each step clips z to the range of the learned solver.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.energies.photometric import (
    add_sources,
    arrow_terms,
    damped_step,
    photometric_terms,
)
from jaxcv.geometry import se3
from jaxcv.solvers.marquardt import MarquardtRule, MarquardtState, marquardt_step
from jaxcv.systems.stereo import RANGE, StereoEstimate, Views

__all__ = ["StereoMarquardt", "solve_stereo_by_marquardt"]


class StereoMarquardt(NamedTuple):
    """Settings of the baseline.

    Attributes:
        rule: of the damping.
        prior_weight: w of the energy's second term, w / 2 sum (z - z_0)^2, z_0 at the start.
        depth: whether to optimise depths too, or the motion alone.
    """

    rule: MarquardtRule = MarquardtRule(1e-2, 3.0, 2.0)
    prior_weight: float = 0.0
    depth: bool = True


@functools.partial(jax.jit, static_argnames=("num_steps", "depth"))
def _solve(views, start, rule, prior_weight, num_steps, depth):
    def one(target, sources, intrinsics, z0, motion0):
        every: Any = jax.vmap(photometric_terms, (None, 0, None, 0, None))

        def propose(y, damping):
            z, motion = y
            arrows = jax.vmap(arrow_terms)(every(z, motion, target, sources, intrinsics))
            dz, dxi = damped_step(add_sources(arrows), damping, prior_weight, z - z0, depth=depth)
            return jnp.clip(z + dz, *RANGE), jax.vmap(se3.exp)(dxi) @ motion

        def change(before, after):
            pair = [every(*y, target, sources, intrinsics) for y in (before, after)]
            both = (pair[0].visible & pair[1].visible)[..., None]
            square = jnp.where(both, pair[1].residual ** 2 - pair[0].residual ** 2, 0)
            prior = jnp.sum((after[0] - z0) ** 2 - (before[0] - z0) ** 2)
            # Reject steps that leave too few common pixels to compare.
            enough = jnp.mean(both) > 0.05
            return jnp.where(enough, 0.5 * jnp.sum(square) + 0.5 * prior_weight * prior, jnp.inf)

        def step(state, _):
            state = marquardt_step(state, propose, change, rule)
            return state, state.y

        first = jnp.asarray(rule.initial, z0.dtype)
        state = MarquardtState((z0, motion0), first, jnp.asarray(True))
        return jax.lax.scan(step, state, length=num_steps)[1]

    solve: Any = jax.vmap(one, out_axes=1)
    z, motion = solve(*views, start.inverse_depth, start.motion)
    return StereoEstimate(z, motion)


def solve_stereo_by_marquardt(
    views: Views,
    start: StereoEstimate,
    settings: StereoMarquardt = StereoMarquardt(),  # noqa: B008, an immutable value
    *,
    num_steps: int = 15,
) -> StereoEstimate:
    """The estimates after each step, with a leading axis of num_steps.

    Args:
        views: the images, grey or in colour.
        start: inverse depths (B, h, w), also the mean of the prior, and motions (B, S, 4, 4).
        settings: damping, prior, unknowns.
        num_steps: number of steps, rejected ones included.
    """
    weight = jnp.asarray(settings.prior_weight, start.inverse_depth.dtype)
    return _solve(views, start, settings.rule, weight, num_steps, settings.depth)
