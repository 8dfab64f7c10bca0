"""Levenberg-Marquardt from the first guess, with settings tuned on pairs of their own."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.monocular_stereo import training
from experiments.monocular_stereo.scores import AT_ONCE, chunks
from jaxcv.data.stereo import StereoPairs
from jaxcv.solvers.marquardt import MarquardtRule
from jaxcv.systems.stereo import StereoEstimate, in_baselines, quarter_views
from jaxcv.systems.stereo_marquardt import KERNELS, StereoMarquardt, solve_stereo_by_marquardt

__all__ = ["Settings", "Tuned", "marquardt", "tuned_marquardt"]

DAMPINGS = (1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2)
PRIORS = (1e1, 1e2, 1e3, 1e4, 1e5, 1e6)


class Settings(NamedTuple):
    """A row of the grid.

    Attributes:
        residual: `grey` or `rgb`.
        unit: whether the start has |t| = 1, as that of the learned solver has.
        kernel: of `StereoMarquardt`, with its default scale.
        damping: the first lambda.
        prior_weight: of the prior on the depths.
        constant: the mean of the prior is the median inverse depth of the tuning pairs, not the
            guess.
    """

    residual: str = "grey"
    unit: bool = False
    kernel: str = "squares"
    damping: float = 1e-2
    prior_weight: float = 0.0
    constant: bool = False


class Tuned(NamedTuple):
    """The best settings, the iteration to stop at, and whether a number lies at its grid's end."""

    settings: Settings
    stop: int
    at_end: bool


def started(guess: StereoEstimate, settings: Settings) -> StereoEstimate:
    """The guess, with |t| = 1 if the settings say so."""
    if not settings.unit:
        return guess
    _, motion = in_baselines(jnp.asarray(guess.inverse_depth), jnp.asarray(guess.motion))
    return guess._replace(motion=motion)


def marquardt(
    guess: StereoEstimate,
    pairs: StereoPairs,
    settings: Settings,
    num_steps: int,
    constant: float,
) -> StereoEstimate:
    """Estimates after each step from the first guess, (num_steps, N, ...), in baselines.

    The brightness of the views is always matched, also if that of the learned solver is not.

    Args:
        guess: (N, h, w) and (N, S, 4, 4).
        pairs: N pairs.
        settings: of the method.
        num_steps: number of steps.
        constant: inverse depth of the prior's mean, if the settings ask for it.
    """
    guess = started(guess, settings)
    own = StereoMarquardt(
        MarquardtRule(settings.damping, 3.0, 2.0), settings.prior_weight, kernel=settings.kernel
    )
    out = []
    for i, some in enumerate(chunks(pairs)):
        rows = slice(i * AT_ONCE, (i + 1) * AT_ONCE)
        start = jax.tree.map(lambda leaf: jnp.asarray(leaf[rows]), guess)  # noqa: B023
        residual = settings.residual
        views = quarter_views(some.target, some.source[:, None], some.intrinsics, residual, True)
        mean = jnp.full_like(start.inverse_depth, constant) if settings.constant else None
        found = solve_stereo_by_marquardt(views, start, own, num_steps=num_steps, mean=mean)
        out.append(jax.device_get(jax.vmap(in_baselines)(found.inverse_depth, found.motion)))
    parts = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *out)
    return StereoEstimate(*parts)


def tuned_marquardt(
    config: Any, guess: StereoEstimate, pairs: StereoPairs, constant: float, num_steps: int
) -> dict[str, Tuned]:
    """`lm` and `lm_prior` -> the settings of the lowest training loss on the tuning pairs.

    Colours, unit and kernel are chosen together with damping and prior weight.
    """
    kinds = list(itertools.product(("grey", "rgb"), (False, True), KERNELS, DAMPINGS))
    grids = {
        "lm": [Settings(*one) for one in kinds],
        "lm_prior": [
            Settings(*one, *prior)
            for one in kinds
            for prior in itertools.product(PRIORS, (False, True))
        ],
    }
    best = {}
    for name, grid in grids.items():
        tried = []
        for settings in grid:
            found = marquardt(guess, pairs, settings, num_steps, constant)
            losses = _losses(config, found, pairs)
            k = int(np.argmin(losses))
            tried.append((float(losses[k]), k, settings))
        _, k, settings = min(tried, key=lambda one: one[0])
        at_end = settings.damping in (DAMPINGS[0], DAMPINGS[-1])
        at_end |= settings.prior_weight in (PRIORS[0], PRIORS[-1])
        best[name] = Tuned(settings, k + 1, at_end)
    return best


def _losses(config: Any, found: StereoEstimate, pairs: StereoPairs) -> np.ndarray:
    """The training loss (T,) of estimates (T, N, ...), as a mean over the pairs."""
    true = training.quarter_depth(pairs.depth)
    depth, logs, motion = _parts(found.inverse_depth, found.motion[:, :, 0], true, pairs.motion)
    total = config.depth_weight * depth + config.log_weight * logs
    return np.asarray(total + config.rotation_weight * motion[0] + motion[1]).mean(axis=1)


@jax.jit
def _parts(z, motion, true_depth, true_motion):
    depth, logs = jax.vmap(lambda z: training.depth_loss(z, true_depth))(z)
    return depth, logs, training.motion_loss(motion, true_motion)
