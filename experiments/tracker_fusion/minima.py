"""The minima of the corners' energies, before and after training."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.tracker_fusion import training
from experiments.tracker_fusion.config import initial_log_width, methods
from experiments.tracker_fusion.data import Data, taken, tracker_frames
from jaxcv import argmin
from jaxcv.energies.tracker_fusion import (
    FusionParameters,
    TrackerFrame,
    corner_energy,
    corner_terms,
    frame_unit,
)
from jaxcv.metrics.tracking import paired_bootstrap, sequence_means
from jaxcv.solvers import Newton

__all__ = ["compared", "distinct", "metrics", "minima_of_frames"]

MERGED = 0.1  # minima nearer than this are one [units of the frame]
POOR = 0.25  # minima farther from the truth than this are poor [true box sizes]


@functools.partial(jax.jit, static_argnames="normalised")
def _from_every_centre(
    parameters: FusionParameters, which: jax.Array, frames: TrackerFrame, normalised: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Minimisers (F, 2, K, 2) [px], energies (F, 2, K), and the merging distance (F,) [px]."""

    def of_frame(row):
        model, frame = row
        own = jax.tree.map(lambda leaf: leaf[model], parameters)
        terms = corner_terms(own, frame, normalised=normalised)
        origin, unit = frame_unit(frame, normalised=normalised)
        start = lambda centre, one: argmin(corner_energy, centre, one, solver=Newton(max_steps=30))
        from_centres = lambda one: jax.vmap(start, (0, None))(one.centres, one)
        found = jax.vmap(from_centres)(terms)
        return origin + unit * found.value, found.energy, MERGED * frame_unit(frame)[1]

    return jax.lax.map(of_frame, (which, frames), batch_size=256)


def distinct(points: np.ndarray, energies: np.ndarray, distance: float) -> np.ndarray:
    """The distinct points (m, 2), lowest energy first; nearer than `distance` is the same."""
    kept: list[np.ndarray] = []
    for i in np.argsort(energies, kind="stable"):
        if all(np.linalg.norm(points[i] - one) > distance for one in kept):
            kept.append(points[i])
    return np.array(kept).reshape(-1, 2)


def minima_of_frames(
    parameters: FusionParameters, which: Any, data: Data, *, normalised: bool = True
) -> list[list[np.ndarray]]:
    """For each frame and corner, the distinct minima (m, 2) [px], the lowest first.

    Newton's method starts at the centre of every tracker that reports.
    """
    frames = tracker_frames(data.frames)
    points, energies, distance = (
        np.asarray(x)
        for x in _from_every_centre(parameters, jnp.asarray(which, jnp.int32), frames, normalised)
    )
    shown = data.frames.reported
    return [
        [distinct(points[f, c, shown[f]], energies[f, c, shown[f]], distance[f]) for c in range(2)]
        for f in range(len(points))
    ]


def compared(config: Any, models: Any) -> dict[str, tuple[FusionParameters, bool]]:
    """Row -> parameters (m, 2, K), and whether the energy is normalised.

    `untrained` has the initial width, `rbf` the width chosen on the training frames;
    `learned_without_scales` has the factors on the box sizes removed.
    """
    learned, row = models.parameters, methods(config)["learned"]
    count, num = learned.log_width.shape[-1], len(models.rbf_width)
    first = training.untrained(count, initial_log_width(config, row))
    first = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num, *leaf.shape)), first)
    no_scales = learned._replace(log_scale=jnp.zeros_like(learned.log_scale))
    return {
        "untrained": (first, row.normalised),
        "rbf": (training.equal_width(count, models.rbf_width), True),
        "learned_without_scales": (no_scales, row.normalised),
        "learned": (learned, row.normalised),
    }


def metrics(config: Any, data: Data, which: np.ndarray, models: Any) -> dict[str, Any]:
    """Per row: minima of a corner, poor ones, and distances to the truth [true box sizes].

    `<row>/minima` and `<row>/poor_minima` are means over corners, `<row>/minima_distance` is the
    mean over all minima, and `<row>/lowest_minimum_distance` that of the lowest.
    """
    num = len(data.frames.frame)
    index = np.linspace(0, num - 1, min(config.minima, num)).astype(int)
    part, chosen = taken(data, index), which[index]
    truth = part.frames.ground_truth.reshape(-1, 2, 2)
    size = np.sqrt(np.prod(truth[:, 1] - truth[:, 0], axis=-1))
    out: dict[str, Any] = {}
    counts: dict[str, np.ndarray] = {}
    for name, (parameters, normalised) in compared(config, models).items():
        found = minima_of_frames(parameters, chosen, part, normalised=normalised)
        away = [
            [np.linalg.norm(own[c] - truth[f, c], axis=-1) / size[f] for c in range(2)]
            for f, own in enumerate(found)
        ]
        counts[name] = np.array([[len(own[c]) for c in range(2)] for own in away], float)
        poor = np.array([[np.sum(own[c] > POOR) for c in range(2)] for own in away], float)
        counts[f"{name}_poor"] = poor
        out[f"{name}/minima"] = float(counts[name].mean())
        out[f"{name}/poor_minima"] = float(poor.mean())
        every = np.concatenate([np.concatenate(own) for own in away])
        out[f"{name}/minima_distance"] = float(every.mean())
        lowest = [own[c][0] for own in away for c in range(2)]
        out[f"{name}/lowest_minimum_distance"] = float(np.mean(lowest))
        out[f"{name}/lowest_minimum_median_distance"] = float(np.median(lowest))
    sequences = len(data.sequences.names)
    for other, kind in (("untrained", ""), ("rbf", ""), ("untrained", "_poor"), ("rbf", "_poor")):
        pair = [
            sequence_means(counts[f"{name}{kind}"].mean(axis=1), part.frames.sequence, sequences)
            for name in ("learned", other)
        ]
        seen = pair[0][1] > 0
        weights = pair[0][1][seen]
        found = paired_bootstrap(pair[0][0][seen], pair[1][0][seen], weights)
        key = f"learned_minus_{other}/{kind.removeprefix('_') or 'all'}_minima"
        out[key], out[f"{key}_low"], out[f"{key}_high"] = found
    return out
