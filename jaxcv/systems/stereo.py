"""Depth and motion from two or more views by a learned least-squares solver (LS-Net).

The unknowns are the inverse depths z of the target's pixels, at a quarter of its size, and the
motion T from the target to each source. A first network guesses z and T; the optimiser updates
them fifteen times from the photometric residual and its Jacobian; a last network upsamples z to
the image's size. Translations and depths are in baselines: |t| = 1 in training.

Source: Clark et al., "LS-Net", ECCV 2018, Algorithm 1.
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcv.checks import argument_error, check_choice, check_shape
from jaxcv.energies.photometric import (
    PhotometricTerms,
    add_sources,
    additive,
    arrow_terms,
    common_depth_step,
    damped_step,
    photometric_terms,
)
from jaxcv.geometry import se3
from jaxcv.geometry.camera import pixel_rays, resize_intrinsics
from jaxcv.implicit.unroll import unrolled_solve
from jaxcv.models import ls_net
from jaxcv.models.layers import quarter

__all__ = [
    "RANGE",
    "StereoEstimate",
    "StereoNetwork",
    "Views",
    "first_guess",
    "in_baselines",
    "init_stereo_network",
    "quarter_views",
    "solve_stereo",
    "upscale",
]

RANGE = (1e-3, 10.0)  # of the inverse depth, in 1 / baseline
_PRIORS = (1.0, 30.0)  # weights of the depth prior in the two damped proposals
_WIDTH = 0.1  # of the Cauchy weights in the proposals, in brightness
_RADII = (2, 5)  # window radii of the two common depth steps [px]
_LUMA = (0.299, 0.587, 0.114)
_SOLVERS = ("recurrent", "refinement", "recurrent_refinement")


class StereoNetwork(NamedTuple):
    """Sizes and options of the networks; hashable.

    Attributes:
        size: widths.
        encoding: inputs of the optimiser, one of `ls_net.ENCODINGS`.
        residual: `grey` or `rgb`.
        through_encoding: whether to differentiate the optimiser's inputs, without the proposals.
        match_exposure: whether to match a source's brightness to the target's mean and spread.
        update: of the motion, `left`: T <- exp(d) T, or `additive`: xi <- xi + d.
        unit: whether to normalise to |t| = 1, without changing the depths at the start, and with
            (z, t) -> (c z, t / c) after each step. Images do not determine c, so a change of |t|
            becomes a change of the depths. Needs left updates.
        solver: `recurrent`; or one that sees the warped source and no Jacobian, the feed-forward
            `refinement` or `recurrent_refinement`, whose layers are those of `recurrent`.
        num_steps: of the optimiser.
        epsilon: the optimiser stops before a move whose norm, over all unknowns of the problem, is
            below epsilon; 0: never.
        rays: whether the first network is also given the pixels' rays; the paper's is not.
    """

    size: ls_net.Size = ls_net.CPU_SIZE
    encoding: str = "gauss_newton"
    residual: str = "rgb"
    through_encoding: bool = False
    update: str = "left"
    match_exposure: bool = True
    unit: bool = True
    solver: str = "recurrent"
    num_steps: int = 15
    epsilon: float = 0.0
    rays: bool = True


class Views(NamedTuple):
    """B problems with S sources each, at the size of the unknowns.

    Attributes:
        target: (B, h, w, C).
        sources: (B, S, h, w, C).
        intrinsics: (B, 3, 3) [px], the same for all images of a problem.
    """

    target: jax.Array
    sources: jax.Array
    intrinsics: jax.Array


class StereoEstimate(NamedTuple):
    """Depth and motion, in baselines.

    Attributes:
        inverse_depth: (..., h, w), at a quarter of the size.
        motion: (..., S, 4, 4), target to source.
        full: (..., H, W) inverse depth at full size; None before `upscale`.
    """

    inverse_depth: jax.Array
    motion: jax.Array
    full: Any = None


def in_baselines(z: jax.Array, motion: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rescales to baselines of the first source: (c z, t / c) with c = |t_1|.

    Args:
        z: (B, h, w) inverse depths.
        motion: (B, S, 4, 4).

    Returns:
        Both in the new unit; z is clipped to RANGE and c to [0.1, 10].
    """
    square = jnp.sum(motion[:, 0, :3, 3] ** 2, axis=-1)
    c = jnp.sqrt(jnp.clip(square, 0.1**2, 10.0**2))
    scaled = motion.at[:, :, :3, 3].divide(c[:, None, None])
    return jnp.clip(z * c[:, None, None], *RANGE), scaled


def _propose(terms: PhotometricTerms) -> ls_net.Proposals:
    """Clipped Gauss-Newton steps from one source alone; constant."""
    own = arrow_terms(jax.lax.stop_gradient(terms), _WIDTH)
    system = add_sources(jax.tree.map(lambda leaf: leaf[None], own))
    depth, motion = zip(*(damped_step(system, 1e-2, prior) for prior in _PRIORS), strict=True)
    common = [common_depth_step(own, radius, 1.0) for radius in _RADII]
    limit = jnp.array([0.5] * 3 + [0.1] * 3, own.motion.dtype)
    depths = jnp.clip(jnp.stack([*depth, *common], axis=-1), -0.1, 0.1)
    return ls_net.Proposals(depths, jnp.clip(jnp.concatenate(motion), -limit, limit))


class _State(NamedTuple):
    inverse_depth: jax.Array  # (B, h, w)
    motion: jax.Array  # (B, S, 4, 4), or (B, S, 6) with additive updates
    carry: Any
    moving: jax.Array  # (B,) bool


def quarter_views(
    target: jax.Array,
    sources: jax.Array,
    intrinsics: jax.Array,
    residual: str = "grey",
    match_exposure: bool = False,
) -> Views:
    """Means of 4 x 4 pixels, a quarter of the size, with K.

    Args:
        target: (B, H, W, 3) in [0, 1], H and W multiples of four.
        sources: (B, S, H, W, 3).
        intrinsics: (B, 3, 3) [px] of the full-size images.
        residual: `grey` or `rgb`.
        match_exposure: whether to give each channel of a source the target's mean and standard
            deviation, which removes most of a gain and a bias.
    """
    check_choice("residual", residual, ("grey", "rgb"))
    target, sources, intrinsics = map(jnp.asarray, (target, sources, intrinsics))

    def small(image):
        mean = quarter(image)
        return mean if residual == "rgb" else (mean @ jnp.asarray(_LUMA, image.dtype))[..., None]

    first, others = small(target), small(sources)
    if match_exposure:
        mean = lambda x: jnp.mean(x, axis=(-3, -2), keepdims=True)
        spread = lambda x: jnp.sqrt(mean((x - mean(x)) ** 2) + 1e-6)
        gain = spread(first)[:, None] / spread(others)
        others = gain * (others - mean(others)) + mean(first)[:, None]
    return Views(first, others, resize_intrinsics(intrinsics, 0.25))


def _optimiser(network: StereoNetwork) -> ls_net.Optimiser:
    proposals = network.solver == "recurrent" and network.encoding == "gauss_newton"
    return ls_net.Optimiser(network.size, proposals)


def _initial(network: StereoNetwork) -> ls_net.InitialNetwork:
    return ls_net.InitialNetwork(network.size, network.rays)


@functools.partial(jax.jit, static_argnames="network")
def init_stereo_network(key: jax.Array, network: StereoNetwork) -> dict[str, Any]:
    """Initial weights {initial, solver, upscaler}.

    Args:
        key: PRNG key.
        network: sizes and options.
    """
    keys = jax.random.split(key, 3)
    image, small, one = jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 4, 4)), jnp.ones((1, 4, 4))
    channels = 3 * (3 if network.residual == "rgb" else 1) + 2
    if network.solver == "recurrent":
        channels = ls_net.encoding_channels(network.encoding)
    seen = jnp.zeros((1, 4, 4, channels))
    if network.solver != "refinement":
        solver: nn.Module = _optimiser(network)
        steps = ls_net.Proposals(jnp.zeros((1, 4, 4, 4)), jnp.zeros((1, 2, 6)))
        inputs: tuple = (_optimiser(network).start((1, 4, 4)), seen, one, steps)
    else:
        solver = ls_net.RefinementNetwork(network.size)
        inputs = (seen, one)
    return {
        "initial": _initial(network).init(keys[0], image, image, image[..., :2]),
        "solver": solver.init(keys[1], *inputs),
        "upscaler": ls_net.Upscaler(network.size).init(keys[2], small, image),
    }


def first_guess(
    params: Any,
    target: jax.Array,
    sources: jax.Array,
    intrinsics: jax.Array,
    network: StereoNetwork,
) -> StereoEstimate:
    """Inverse depth (B, H / 4, W / 4), the mean over the sources, and motions (B, S, 4, 4).

    Args:
        params: with the entry `initial`.
        target: (B, H, W, 3), H and W multiples of eight.
        sources: (B, S, H, W, 3).
        intrinsics: (B, 3, 3) [px].
        network: sizes.
    """
    model = _initial(network)
    height, width = target.shape[1:3]
    rays = jax.vmap(lambda k: pixel_rays(k, height, width)[..., :2])(intrinsics)
    each = lambda source: model.apply(params["initial"], target, source, rays)
    guess: Any = jax.vmap(each, in_axes=1, out_axes=1)(sources)
    z = jnp.clip(jnp.mean(guess.inverse_depth, axis=1), *RANGE)
    return StereoEstimate(z, jax.vmap(jax.vmap(se3.exp))(guess.xi))


@functools.partial(jax.jit, static_argnames="network")
def solve_stereo(
    params: Any, views: Views, start: StereoEstimate, network: StereoNetwork
) -> StereoEstimate:
    """The estimates after each step, with a leading axis of num_steps.

    Differentiable in params and start with the memory of the states alone
    (`jaxcv.implicit.unroll.unrolled_solve`). The sources share the weights, and the depths move by
    the mean of their moves: order matters only to `unit`, which takes the first baseline.

    Args:
        params: with the entry `solver`.
        views: the images.
        start: inverse depth and motions.
        network: sizes and options.

    Raises:
        ValueError: an invalid setting, or shapes that do not fit.
    """
    check_choice("solver", network.solver, _SOLVERS)
    check_choice("update", network.update, ("left", "additive"))
    if network.unit and network.update != "left":
        expected = "expected 'left' with unit=True"
        raise argument_error("update", expected, repr(network.update), "Set unit=False.")
    check_shape("start.inverse_depth", start.inverse_depth, views.target.shape[:3])
    if start.motion.shape != (*views.sources.shape[:2], 4, 4):
        expected = f"expected {(*views.sources.shape[:2], 4, 4)}"
        raise argument_error("start.motion", expected, start.motion.shape)
    left = network.update == "left"
    exp, log = jax.vmap(jax.vmap(se3.exp)), jax.vmap(jax.vmap(se3.log))
    matrix = (lambda motion: motion) if left else exp
    constant = (lambda tree: tree) if network.through_encoding else jax.lax.stop_gradient
    recurrent, jacobian = network.solver != "refinement", network.solver == "recurrent"
    model: Any = _optimiser(network) if recurrent else ls_net.RefinementNetwork(network.size)

    def look(z, motion, target, source, intrinsics):
        terms = photometric_terms(z, motion, target, source, intrinsics)
        if not left:
            terms = additive(terms, se3.log(motion))
        steps = None
        if jacobian:
            arrow, mode = arrow_terms(terms), network.encoding
            steps = _propose(terms) if mode == "gauss_newton" else None
            xi = se3.log(motion) if mode in ("paper", "gradient_motion") else None
            seen = ls_net.encode(terms.residual, arrow, terms.visible, z, mode, steps, xi)
        else:
            warped = target - terms.residual
            mask = terms.visible[..., None].astype(z.dtype)
            parts = [target, warped, 5 * terms.residual, mask, 10 * z[..., None]]
            seen = jnp.concatenate(parts, axis=-1)
        return seen, terms.visible, steps

    look = jax.vmap(jax.vmap(look, (None, 0, None, 0, None)))

    def step(state, params, views):
        z, motion = constant((state.inverse_depth, matrix(state.motion)))
        encoded, visible, steps = look(z, motion, *views)
        if recurrent:
            carry, depth, motion = model.apply(params, state.carry, encoded, visible, steps)
        else:
            carry, (depth, motion) = state.carry, model.apply(params, encoded, visible)
        depth = jnp.mean(depth, axis=1)
        moving = state.moving
        if network.epsilon:
            square = jnp.sum(depth**2, axis=(1, 2)) + jnp.sum(motion**2, axis=(1, 2))
            moving = moving & (square >= network.epsilon**2)
        depth = jnp.where(moving[:, None, None], depth, 0)
        motion = jnp.where(moving[:, None, None], motion, 0)
        z = jnp.clip(state.inverse_depth + depth, *RANGE)
        moved = exp(motion) @ state.motion if left else state.motion + motion
        if network.unit:
            z, moved = in_baselines(z, moved)
        return _State(z, moved, carry, moving)

    shape = (*views.sources.shape[:2], *views.target.shape[1:3])
    carry = model.start(shape, start.inverse_depth.dtype) if recurrent else ()
    motion = start.motion if left else log(start.motion)
    if network.unit:  # rescale t alone: the guessed depths are in baselines already
        motion = in_baselines(start.inverse_depth, motion)[1]
    state = _State(start.inverse_depth, motion, carry, jnp.ones(shape[:1], bool))
    states = unrolled_solve(
        step, state, params["solver"], (views,), num_steps=network.num_steps, autodiff="reverse"
    )
    motions = states.motion if left else jax.vmap(exp)(states.motion)
    return StereoEstimate(states.inverse_depth, motions)


def upscale(
    params: Any, inverse_depth: jax.Array, target: jax.Array, network: StereoNetwork
) -> jax.Array:
    """Upsamples an inverse depth from a quarter of the target's size to (B, H, W).

    Args:
        params: with the entry `upscaler`.
        inverse_depth: (B, h, w).
        target: (B, 4 h, 4 w, 3) in [0, 1].
        network: sizes.
    """
    model: nn.Module = ls_net.Upscaler(network.size)
    full: Any = model.apply(params["upscaler"], inverse_depth, target)
    return jnp.clip(full, *RANGE)
