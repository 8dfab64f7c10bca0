"""Errors of depth and motion by pair, and the photometric energy of estimates."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.monocular_stereo import training
from jaxcv.data.stereo import StereoPairs
from jaxcv.energies.photometric import photometric_terms
from jaxcv.metrics.depth import depth_errors, mask_by_second_view
from jaxcv.metrics.motion import rotation_error, translation_error
from jaxcv.systems.stereo import quarter_views

__all__ = [
    "AT_ONCE", "METRICS", "Found", "Truth", "chunks", "depth_edges", "energies", "errors",
    "true_energies", "truth_of",
]  # fmt: skip

METRICS = ("l1_inv", "sc_inv", "l1_rel", "rotation_deg", "translation_deg")
AT_ONCE = 32
EDGE_RATIO, EDGE_RADIUS = 1.1, 2  # depth edges: ratio of neighbouring depths, and their width [px]
OFF = 0.25  # relative error of a depth that counts as wrong


class Found(NamedTuple):
    """Estimates of all test pairs: depths (N, H, W) and motions (N, 4, 4), in baselines."""

    depth: Any
    motion: Any


class Truth(NamedTuple):
    """True depths (N, H, W), nan where they do not count, edges (N, H, W), motions (N, 4, 4)."""

    depth: np.ndarray
    edges: np.ndarray
    motion: np.ndarray


def depth_edges(
    depth: np.ndarray, ratio: float = EDGE_RATIO, radius: int = EDGE_RADIUS
) -> np.ndarray:
    """(N, H, W) bool: within `radius` [px] of two neighbours whose depths differ by the ratio.

    Args:
        depth: (N, H, W); nan where unknown, which is no edge.
        ratio: of the larger to the smaller depth, above 1.
        radius: of the square window around a pixel.
    """
    from scipy.ndimage import maximum_filter

    logs, limit = np.log(depth), np.log(ratio)
    edges = np.zeros(depth.shape, bool)
    for axis in (1, 2):
        jump = np.abs(np.diff(logs, axis=axis)) > limit
        ends = [(0, 0)] * 3
        for ends[axis] in ((0, 1), (1, 0)):
            edges |= np.pad(jump, ends)
    side = 2 * radius + 1
    return maximum_filter(edges, size=(1, side, side), mode="constant")


def truth_of(pairs: StereoPairs, masked: bool = True, scale: int = 1) -> Truth:
    """The truth; `masked`: only of pixels that the second view shows.

    With a `scale`, every `scale`-th pixel of larger images counts: as many as in small images.
    """
    depth = np.asarray(pairs.depth, float)
    edges = depth_edges(depth, radius=EDGE_RADIUS * scale)
    if masked:
        depth = mask_by_second_view(depth, pairs.intrinsics, pairs.motion)
    return Truth(thin(depth, scale), thin(edges, scale), pairs.motion)


def thin(images: np.ndarray, scale: int) -> np.ndarray:
    """Every `scale`-th pixel of (N, H, W) images."""
    return images[:, scale // 2 :: scale, scale // 2 :: scale]


def errors(found: Found, truth: Truth, scale: int = 1) -> dict[str, np.ndarray]:
    """METRICS of every pair; `l1_rel` at depth edges and elsewhere; `off`, the fraction of
    pixels whose depth is wrong by more than OFF; nan for a pair without such pixels.
    """
    depth = thin(np.asarray(found.depth, float), scale)
    out = depth_errors(depth, truth.depth)
    out["rotation_deg"] = rotation_error(found.motion[:, :3, :3], truth.motion[:, :3, :3])
    out["translation_deg"] = translation_error(found.motion[:, :3, 3], truth.motion[:, :3, 3])
    kept = {name: out[name] for name in METRICS}
    for name, mask in (("edges", truth.edges), ("elsewhere", ~truth.edges)):
        kept[f"l1_rel_{name}"] = depth_errors(depth, np.where(mask, truth.depth, np.nan))["l1_rel"]
    known = np.isfinite(truth.depth)
    wrong = known & ~(np.abs(depth - truth.depth) <= OFF * np.where(known, truth.depth, 1))
    count = known.sum(axis=(1, 2))
    kept["off"] = np.where(count > 0, wrong.sum(axis=(1, 2)) / np.maximum(count, 1), np.nan)
    return kept


def chunks(pairs: StereoPairs) -> Any:
    """The pairs in parts of AT_ONCE, as JAX arrays."""
    for i in range(0, len(pairs.depth), AT_ONCE):
        yield jax.tree.map(jnp.asarray, pairs.take(slice(i, i + AT_ONCE)))


@jax.jit
def _energies(target, source, intrinsics, z, motion):
    views = quarter_views(target, source[:, None], intrinsics, "grey", True)

    def one(z, motion, target, source, k):
        terms = photometric_terms(z, motion, target, source[0], k)
        count = jnp.sum(terms.visible)
        energy = 0.5 * jnp.sum(terms.residual**2) / jnp.maximum(count, 1)
        return jnp.where(count > 0, energy, jnp.nan), count / terms.visible.size

    every: Any = jax.vmap(one)
    each = lambda now: every(*now, views.target, views.sources, views.intrinsics)
    return jax.lax.map(each, (z, motion))


def energies(pairs: StereoPairs, z: Any, motion: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean of r^2 / 2 over the visible pixels, and the fraction that is visible, (T, N).

    r is the grey residual at a quarter of the size, with matched brightness, for every row.

    Args:
        pairs: N pairs.
        z: (T, N, h, w) inverse depths.
        motion: (T, N, 4, 4).
    """
    parts = []
    for i, some in enumerate(chunks(pairs)):
        rows = slice(i * AT_ONCE, (i + 1) * AT_ONCE)
        own = _energies(
            some.target, some.source, some.intrinsics, jnp.asarray(z[:, rows]),
            jnp.asarray(motion[:, rows]),
        )  # fmt: skip
        parts.append(jax.device_get(own))
    energy, visible = zip(*parts, strict=True)
    return np.concatenate(energy, axis=1), np.concatenate(visible, axis=1)


def true_energies(pairs: StereoPairs) -> np.ndarray:
    """The energy (N,) of the true depths and motions; unknown depths are not scored exactly."""
    z = np.nan_to_num(1 / training.quarter_depth(pairs.depth), nan=0.05).astype(np.float32)
    return energies(pairs, z[None], np.asarray(pairs.motion, np.float32)[None])[0][0]
