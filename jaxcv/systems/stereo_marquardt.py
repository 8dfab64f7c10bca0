"""Depth and motion by Levenberg-Marquardt on the photometric energy: the classical baseline.

The depths are eliminated (an arrow matrix), which costs O(pixels). A step is accepted if it lowers
the energy over the pixels visible both before and after: otherwise pixels that leave the image
would lower the energy. Each step clips z to the range of the learned solver. A robust kernel
weights the residuals again at every step (iteratively reweighted least squares).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.checks import check_choice
from jaxcv.energies.photometric import (
    PhotometricTerms,
    add_sources,
    arrow_terms,
    damped_step,
    photometric_terms,
)
from jaxcv.geometry import se3
from jaxcv.least_squares.kernels import Huber
from jaxcv.solvers.marquardt import MarquardtRule, MarquardtState, marquardt_step
from jaxcv.systems.stereo import RANGE, StereoEstimate, Views

__all__ = ["KERNELS", "StereoMarquardt", "solve_stereo_by_marquardt"]

KERNELS = ("squares", "huber", "cauchy")


class StereoMarquardt(NamedTuple):
    """Settings of the baseline.

        E = 1/2 sum_i rho(r_i) + w/2 sum (z - z_0)^2

    with x = (r / c)^2 and rho(r) = r^2 (`squares`), c^2 log(1 + x) (`cauchy`), or r^2 for x <= 1,
    else c^2 (2 sqrt(x) - 1) (`huber`).

    Attributes:
        rule: of the damping.
        prior_weight: w.
        depth: whether to optimise depths too, or the motion alone.
        kernel: one of KERNELS.
        scale: c of the kernel, in brightness.
    """

    rule: MarquardtRule = MarquardtRule(1e-2, 3.0, 2.0)
    prior_weight: float = 0.0
    depth: bool = True
    kernel: str = "squares"
    scale: float = 0.1


def _cost(residual: jax.Array, kernel: str, scale: jax.Array) -> jax.Array:
    """rho of each residual."""
    square = residual**2
    if kernel == "squares":
        return square
    return Huber(scale).rho(square) if kernel == "huber" else scale**2 * jnp.log1p(
        square / scale**2
    )  # fmt: skip


def _weighted(terms: PhotometricTerms, kernel: str, scale: jax.Array) -> PhotometricTerms:
    """Terms times the square roots of their weights rho' / (2 r)."""
    if kernel == "squares":
        return terms
    square = terms.residual**2
    cauchy = 1 / (1 + square / scale**2)
    root = jnp.sqrt(cauchy if kernel == "cauchy" else Huber(scale).weight(square))
    return terms._replace(
        residual=root * terms.residual, depth=root * terms.depth,
        motion=root[..., None] * terms.motion,
    )  # fmt: skip


@functools.partial(jax.jit, static_argnames=("num_steps", "depth", "kernel"))
def _solve(views, start, mean, rule, prior_weight, scale, num_steps, depth, kernel):
    def one(target, sources, intrinsics, z0, motion0, mean):
        every: Any = jax.vmap(photometric_terms, (None, 0, None, 0, None))
        cost = lambda terms: _cost(terms.residual, kernel, scale)

        def propose(y, damping):
            z, motion = y
            terms = every(z, motion, target, sources, intrinsics)
            arrows = jax.vmap(arrow_terms)(_weighted(terms, kernel, scale))
            dz, dxi = damped_step(add_sources(arrows), damping, prior_weight, z - mean, depth=depth)
            return jnp.clip(z + dz, *RANGE), jax.vmap(se3.exp)(dxi) @ motion

        def change(before, after):
            pair = [every(*y, target, sources, intrinsics) for y in (before, after)]
            both = (pair[0].visible & pair[1].visible)[..., None]
            square = jnp.where(both, cost(pair[1]) - cost(pair[0]), 0)
            prior = jnp.sum((after[0] - mean) ** 2 - (before[0] - mean) ** 2)
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
    z, motion = solve(*views, start.inverse_depth, start.motion, mean)
    return StereoEstimate(z, motion)


def solve_stereo_by_marquardt(
    views: Views,
    start: StereoEstimate,
    settings: StereoMarquardt = StereoMarquardt(),  # noqa: B008, an immutable value
    *,
    num_steps: int = 15,
    mean: jax.Array | None = None,
) -> StereoEstimate:
    """The estimates after each step, with a leading axis of num_steps.

    Args:
        views: the images, grey or in colour.
        start: inverse depths (B, h, w) and motions (B, S, 4, 4).
        settings: damping, prior, unknowns, kernel.
        num_steps: number of steps, rejected ones included.
        mean: (B, h, w) z_0 of the prior; None: the start.

    Raises:
        ValueError: no such kernel.
    """
    check_choice("kernel", settings.kernel, KERNELS)
    own = lambda x: jnp.asarray(x, start.inverse_depth.dtype)
    centre = start.inverse_depth if mean is None else own(mean)
    return _solve(
        views, start, centre, settings.rule, own(settings.prior_weight), own(settings.scale),
        num_steps, settings.depth, settings.kernel,
    )  # fmt: skip
