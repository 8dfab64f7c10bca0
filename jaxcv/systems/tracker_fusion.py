"""Fuses the boxes of many trackers into one."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.checks import argument_error, check_floating, check_shape
from jaxcv.energies.tracker_fusion import (
    CornerTerms,
    FusionParameters,
    TrackerFrame,
    corner_energy,
    corner_terms,
    frame_unit,
    initial_parameters,
)
from jaxcv.implicit.minimise import argmin
from jaxcv.io.networks import Model
from jaxcv.linear.damping import Damping
from jaxcv.solvers import MultiStart, Newton, Solver
from jaxcv.systems.arguments import takes_model

__all__ = ["FusedBox", "fuse_boxes", "fuse_frame", "tracker_fusion_arrays"]


class FusedBox(NamedTuple):
    """A fused box and its diagnostics.

    Attributes:
        box: (4,) corners x1, y1, x2, y2 [px]; differentiable in the parameters.
        energy: (2,) of the top-left and the bottom-right corner; normalised, minus the fraction
            of the weight that agrees there, in [-1, 0].
        min_eigenvalue: (2,) smallest eigenvalue of the Hessian, in squared inverse units of the
            frame.
        converged: (2,) bool.
    """

    box: jax.Array
    energy: jax.Array
    min_eigenvalue: jax.Array
    converged: jax.Array


def _centres(terms: CornerTerms) -> jax.Array:
    return terms.centres


_SOLVER = Newton(max_steps=30)


def _is_box(boxes: jax.Array) -> jax.Array:
    """Mask (...) of boxes (..., 4) that are finite and have an area."""
    finite = jnp.all(jnp.isfinite(boxes), axis=-1)
    return finite & jnp.all(boxes[..., 2:] > boxes[..., :2], axis=-1)


def fuse_frame(
    parameters: FusionParameters,
    frame: TrackerFrame,
    *,
    damping: Damping = Damping(),  # noqa: B008
    normalised: bool = True,
    solver: Solver = _SOLVER,
) -> FusedBox:
    """Minimises the energy of each corner, from the tracker's corner of lowest energy.

    Pure and differentiable in `parameters` by the damped implicit gradient; batch over frames with
    `jax.vmap(fuse_frame, in_axes=(None, 0))`.

    Args:
        parameters: of K trackers, (2, K) each.
        frame: results of the K trackers in one frame; a box that is not finite or has no area
            counts as not reported.
        damping: of the backward pass; lambda is in units of a Hessian that is 2 where all trackers
            agree at width one.
        normalised: as in `corner_terms`; False: the raw sum of the trackers' functions, in pixels.
        solver: starts at the centre of lowest energy.

    Source: Toso, Campbell, Russell, NeurIPS 2019, section 4.
    """
    # Replace the numbers of invalid boxes by 0: zero times NaN would be NaN.
    sound = _is_box(frame.boxes)
    frame = frame._replace(
        boxes=jnp.where(sound[:, None], frame.boxes, 0), reported=frame.reported & sound
    )
    terms = corner_terms(parameters, frame, normalised=normalised)
    origin, unit = frame_unit(frame, normalised=normalised)
    solution = jax.vmap(
        lambda one: argmin(
            corner_energy,
            jnp.zeros(2, unit.dtype),
            one,
            solver=MultiStart(solver, _centres),
            damping=damping,
            diagnostics=True,
        )
    )(terms)
    box = (origin + unit * solution.value).reshape(4)
    curvature = solution.diagnostics.min_eigenvalue
    return FusedBox(box, solution.energy, curvature, solution.converged)


def tracker_fusion_arrays(
    parameters: FusionParameters,
    boxes: jax.Array,
    reported: jax.Array,
    first_box: jax.Array,
    frame: jax.Array,
    *,
    settings: Mapping[str, Any],
) -> dict[str, jax.Array]:
    """`fuse_boxes` on arrays alone: for jit, vmap, grad and export. Values are not checked.

    Args:
        parameters: of K trackers.
        boxes: (B, K, 4) corners x1, y1, x2, y2 [px].
        reported: (B, K) bool.
        first_box: (B, 4) [px].
        frame: (B,) frames since the start.
        settings: what differs from the defaults of `fuse_boxes`: `damping`, `normalised`.

    Returns:
        `box` (B, 4) [px], `energy`, `min_eigenvalue` and `converged` (B, 2) as in `FusedBox`. Where
        no tracker reports, the box is nan and not converged.
    """
    frames = TrackerFrame(boxes, reported, first_box, frame)
    fused = jax.vmap(lambda one: fuse_frame(parameters, one, **settings))(frames)
    some = jnp.any(reported & _is_box(boxes), axis=-1, keepdims=True)
    box, converged = jnp.where(some, fused.box, jnp.nan), fused.converged & some
    return fused._replace(box=box, converged=converged)._asdict()


@takes_model("tracker_fusion", "parameters", required=False)
def fuse_boxes(
    boxes: Any,
    parameters: FusionParameters | None = None,
    *,
    model: Model | None = None,
    reported: Any = None,
    first_box: Any = None,
    frame: Any = 1,
    damping: Damping = Damping(),  # noqa: B008
    normalised: bool = True,
) -> jax.Array:
    """One box from the boxes of K trackers: a robust mean of each of its two corners.

        box = argmin_y -sum_k a_k exp(-|y - c_k|^2 / s_k^2)   for each corner

    Args:
        boxes: (..., K, 4) corners x1, y1, x2, y2 [px], not sizes; a box that is not finite or
            has no area (x2 <= x1 or y2 <= y1) counts as not reported.
        parameters: learned ones of the K trackers, in their order, or a `Model` of them; None:
            equal weights.
        model: parameters and settings, e.g. of `load_model`, in place of `parameters`.
        reported: (..., K) bool, which trackers gave a box; all by default.
        first_box: (..., 4) the box that started the trackers [px]; only `scale_change` of the
            parameters depends on it. None: without that term.
        frame: (...) frames since the start.
        damping: of the backward pass, see `jaxcv.Damping`.
        normalised: False for parameters that were learned with the raw energy, in pixels.

    Returns:
        (..., 4) fused corners [px]; differentiable in `parameters`. nan if no tracker reports.

    Raises:
        ValueError: boxes that are not (..., K, 4), or not floating-point, parameters of another
            number of trackers, or a model of another system.

    Example:
        >>> box = fuse_boxes(jnp.array([[0.0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]]))
    """
    del model  # replaced by `parameters` and settings
    boxes = jnp.asarray(boxes)
    if jnp.issubdtype(boxes.dtype, jnp.integer):
        boxes = boxes.astype(jnp.result_type(float))
    check_floating("boxes", boxes)
    check_shape("boxes", boxes, (None, 4), "K boxes x1, y1, x2, y2.")
    batch, num_trackers = boxes.shape[:-2], boxes.shape[-2]
    if num_trackers == 0:
        raise argument_error("boxes", "expected at least one tracker", boxes.shape)
    if parameters is None:
        parameters = initial_parameters(num_trackers, boxes.dtype)
    if parameters.log_width.shape != (2, num_trackers):
        raise argument_error(
            "parameters",
            f"expected those of {num_trackers} trackers, (2, {num_trackers})",
            parameters.log_width.shape,
            "Give the boxes of the trackers of the training, in their order.",
        )
    if reported is None:
        reported = jnp.ones(boxes.shape[:-1], bool)
    if first_box is None:
        # Drop the scale-change term, the only one that depends on first_box.
        parameters = parameters._replace(scale_change=jnp.zeros_like(parameters.scale_change))
        first_box = jnp.asarray([0.0, 0.0, 1.0, 1.0], boxes.dtype)
    out = tracker_fusion_arrays(
        parameters,
        boxes.reshape(-1, num_trackers, 4),
        jnp.broadcast_to(reported, boxes.shape[:-1]).reshape(-1, num_trackers),
        jnp.broadcast_to(jnp.asarray(first_box, boxes.dtype), (*batch, 4)).reshape(-1, 4),
        jnp.broadcast_to(jnp.asarray(frame), batch).reshape(-1),
        settings={"damping": damping, "normalised": normalised},
    )
    return out["box"].reshape(*batch, 4)
