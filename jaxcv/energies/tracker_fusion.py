"""The energy that fuses the boxes of many trackers in one frame.

Each of the two corners (top-left, bottom-right) is a separate robust mean: the minimiser of a sum
of radial basis functions around the trackers' corners. Learned per tracker are the width and the
weight of its function and the correction of its box.

All lengths are divided by the unit of the frame, `UNIT` times the median box size of the trackers
that report, and the weights of a frame sum to one. One set of parameters and one damping of the
Hessian then serve objects of any size. With `normalised=False` the energy is the raw sum in pixels.

Source: Toso, Campbell, Russell, NeurIPS 2019, section 4. The exact form of the energy is not
published; this one is reconstructed from the text.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.energies.robust import rbf_energy
from jaxcv.geometry import boxes as box_geometry

__all__ = [
    "UNIT",
    "CornerTerms",
    "FusionParameters",
    "TrackerFrame",
    "corner_energy",
    "corner_terms",
    "frame_unit",
    "initial_parameters",
]

UNIT = 0.15  # width of the untrained functions, in median box sizes
_CORNER_SIDES = ((-0.5, -0.5), (0.5, 0.5))  # top-left, bottom-right, from the centre


class TrackerFrame(NamedTuple):
    """Boxes of K trackers in one frame; independent of later frames and the sequence's length.

    Attributes:
        boxes: (K, 4) corners x1, y1, x2, y2 [px]; any finite number where not reported.
        reported: (K,) bool, whether the tracker gave a box.
        first_box: (4,) the box that initialised all trackers [px].
        frame: () frames since that of `first_box`, >= 1.
    """

    boxes: jax.Array
    reported: jax.Array
    first_box: jax.Array
    frame: jax.Array


class FusionParameters(NamedTuple):
    """Learned parameters of both corners and every tracker: (2, K) each, 0 before training.

    Attributes:
        log_width: log of the width, in units of the frame.
        log_weight: log of the weight.
        drift: change of log weight with log(1 + frame / 100).
        scale_change: change of log weight with |log(size / first size)|.
        log_scale: log of the factor that corrects the size of the tracker's box.
    """

    log_width: jax.Array
    log_weight: jax.Array
    drift: jax.Array
    scale_change: jax.Array
    log_scale: jax.Array


class CornerTerms(NamedTuple):
    """The functions of one corner: centres (K, 2) [units], log_width (K,), log_weight (K,)."""

    centres: jax.Array
    log_width: jax.Array
    log_weight: jax.Array


def initial_parameters(num_trackers: int, dtype=jnp.float32) -> FusionParameters:
    """Parameters before training: equal weights, width one unit, uncorrected boxes."""
    return FusionParameters(*(jnp.zeros((2, num_trackers), dtype) for _ in range(5)))


def frame_unit(frame: TrackerFrame, *, normalised: bool = True) -> tuple[jax.Array, jax.Array]:
    """The origin (2,) [px] and the unit () [px] of a frame's coordinates.

    The origin is the median centre and the unit is `UNIT` times the median box size sqrt(w h), both
    over the trackers that report; (0, 0) and 1 px if none does or the median size is 0. Not
    `normalised`, the unit is 1 px.
    """
    size = jnp.where(frame.reported, box_geometry.box_size(frame.boxes), jnp.nan)
    centre = 0.5 * (frame.boxes[:, :2] + frame.boxes[:, 2:])
    centre = jnp.where(frame.reported[:, None], centre, jnp.nan)
    unit, origin = UNIT * jnp.nanmedian(size), jnp.nanmedian(centre, axis=0)
    usable = jnp.isfinite(unit) & (unit > 0)
    return jnp.where(usable, origin, 0), jnp.where(usable & normalised, unit, 1)


def corner_terms(
    parameters: FusionParameters,
    frame: TrackerFrame,
    log_confidence: jax.Array | None = None,
    *,
    normalised: bool = True,
) -> CornerTerms:
    """The functions of both corners, leading axis 2.

        c_k = (m_k -/+ exp(log_scale_k) z_k / 2 - origin) / unit
        log a_k = log_weight_k + drift_k log(1 + t / 100)
                  + scale_change_k |log(size_k / first size)| + log_confidence_k

    with m, z the centre and size of the tracker's box. Weights are normalised to sum to one over
    the trackers that report: the damping's lambda has the units of the Hessian.

    Args:
        parameters: (2, K) each.
        frame: one frame.
        log_confidence: (K,) added to the log weights of both corners, e.g. by a network.
        normalised: False: weights as they are and a unit of 1 px, for an energy that is the raw sum
            over the trackers, in [-sum_k a_k, 0]. Widths are then in pixels.
    """
    origin, unit = frame_unit(frame, normalised=normalised)
    safe = jnp.where(frame.reported[:, None], frame.boxes, frame.first_box)
    centre, size = 0.5 * (safe[:, :2] + safe[:, 2:]), safe[:, 2:] - safe[:, :2]
    sides = jnp.asarray(_CORNER_SIDES, safe.dtype)[:, None, :]
    scale = jnp.exp(parameters.log_scale)[:, :, None]
    centres = (centre + sides * scale * size - origin) / unit
    change = jnp.abs(jnp.log(box_geometry.box_size(safe) / box_geometry.box_size(frame.first_box)))
    elapsed = jnp.log1p(jnp.asarray(frame.frame, safe.dtype) / 100)
    log_weight = (
        parameters.log_weight + parameters.drift * elapsed + parameters.scale_change * change
    )
    if log_confidence is not None:
        log_weight = log_weight + log_confidence
    log_weight = jnp.where(frame.reported, log_weight, -jnp.inf)
    log_weight = jnp.where(jnp.any(frame.reported), log_weight, 0)
    if normalised:
        log_weight = jax.nn.log_softmax(log_weight, axis=-1)
    return CornerTerms(centres, parameters.log_width, log_weight)


def corner_energy(y: jax.Array, terms: CornerTerms) -> jax.Array:
    """E(y) = -sum_k a_k exp(-|y - c_k|^2 / s_k^2) of one corner; in [-1, 0] if normalised.

    Args:
        y: (2,) the corner, in units of the frame.
        terms: centres (K, 2), log s_k (K,), log a_k (K,).
    """
    return rbf_energy(y, jnp.exp(terms.log_width), terms.centres, jnp.exp(terms.log_weight))
