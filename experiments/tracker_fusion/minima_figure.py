"""The figure of a frame's boxes and of a corner's minima, before and after training."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.tracker_fusion import minima
from experiments.tracker_fusion.data import Data, taken, tracker_frames
from jaxcv.energies.tracker_fusion import corner_energy, corner_terms, frame_unit
from jaxcv.io.pictures import read_rgb
from jaxcv.plots.tracker_fusion import plot_energy_map
from jaxcv.systems import fuse_frame

__all__ = ["draw"]

TITLES = {
    "untrained": "before training",
    "rbf": "equal widths, tuned",
    "learned": "after training",
}
SOURCE = "paper (Fig. 3): fewer poor minima, better placed; it gives no numbers"


def draw(config: Any, data: Data, which: np.ndarray, models: Any, ious: Any, metrics: Any) -> Any:
    """The frame of the median gain in IoU: its picture, and the energy of its top-left corner."""
    gain = ious["learned"] - ious["rbf"]
    better = np.flatnonzero(gain > 0.02)
    f = int(better[np.argsort(gain[better])[better.size // 2]]) if better.size else 0
    part, chosen = taken(data, [f]), which[[f]]
    frame = jax.tree.map(lambda leaf: leaf[0], tracker_frames(part.frames))
    shown = np.asarray(part.frames.boxes[0])[part.frames.reported[0]]
    truth = part.frames.ground_truth[0]
    rows = minima.compared(config, models)
    figure = runner.new_figure(figsize=(15, 4.8))
    axes = figure.subplots(1, 4)
    learned, normalised = rows["learned"]
    own = jax.tree.map(lambda leaf: leaf[chosen[0]], learned)
    fused = np.asarray(fuse_frame(own, frame, normalised=normalised).box)
    _picture(axes[0], config, part, shown, truth, fused)
    unit = float(frame_unit(frame)[1])
    corners = np.concatenate([shown[:, :2], truth[None, :2], fused[None, :2]])
    low, high = corners.min(axis=0) - 2 * unit, corners.max(axis=0) + 2 * unit
    half, centre = 0.5 * np.max(high - low), 0.5 * (low + high)
    x, y = (np.linspace(c - half, c + half, 160) for c in centre)
    image: Any = None
    for ax, (name, title) in zip(axes[1:], TITLES.items(), strict=True):
        stack, normalised = rows[name]
        own = jax.tree.map(lambda leaf: leaf[chosen[0]], stack)
        one = jax.tree.map(
            lambda leaf: leaf[0],
            corner_terms(own, frame, normalised=normalised),
        )
        origin, scale = (np.asarray(a) for a in frame_unit(frame, normalised=normalised))
        grid = jnp.asarray((np.stack(np.meshgrid(x, y), -1) - origin) / scale, jnp.float32)
        energy = jax.vmap(jax.vmap(lambda p: corner_energy(p, one)))(grid)  # noqa: B023
        energy = np.asarray(energy) / float(jnp.sum(jnp.exp(one.log_weight)))
        found = minima.minima_of_frames(stack, chosen, part, normalised=normalised)[0][0]
        image = plot_energy_map(ax, x, y, energy, shown[:, :2], found[0], truth[:2])
        ax.plot(*found.T, "+", ms=9, mew=1.5, color="magenta", label="minima")
        count, poor = metrics[f"{name}/minima"], metrics[f"{name}/poor_minima"]
        ax.set_title(
            f"{title}; minima here: {len(found)}\nmean of all frames: {count:.2f}, poor {poor:.2f}",
            fontsize=10,
        )
    handles, labels = axes[1].get_legend_handles_labels()
    handles2, labels2 = axes[0].get_legend_handles_labels()
    figure.legend(handles2 + handles, labels2 + labels, loc="outside lower center", ncols=7)
    figure.colorbar(image, ax=axes[3], label="energy (share of the weight, negative)", shrink=0.8)
    name = data.sequences.names[part.frames.sequence[0]]
    figure.suptitle(
        f"{name}, frame {int(part.frames.frame[0])}: boxes, and the energy of the top-left corner. "
        f"Poor: {minima.POOR} box sizes or more from the truth; {SOURCE}",
        fontsize=10,
    )
    return figure


def _picture(
    ax: Any, config: Any, data: Data, shown: np.ndarray, truth: np.ndarray, fused: np.ndarray
) -> None:
    """The boxes on the frame's picture, or on a drawn one for generated sequences."""
    corners = np.concatenate([shown, truth[None], fused[None]]).reshape(-1, 2)
    size = 0.3 * np.max(corners.max(axis=0) - corners.min(axis=0))
    low, high = corners.min(axis=0) - size, corners.max(axis=0) + size
    picture, kind = _read(config, data), "picture"
    if picture is None and config.data == "synthetic":
        picture, kind = _drawn(truth), "drawn picture"
    if picture is not None:
        ax.imshow(picture)
    else:
        kind = "no picture in the folder"
    boxes: list[Any] = [(box, {"color": "tab:cyan", "lw": 1}) for box in shown]
    boxes[0][1]["label"] = "boxes of the trackers"
    boxes.append((truth, {"color": "tab:red", "lw": 2, "label": "true box"}))
    boxes.append((fused, {"color": "tab:orange", "lw": 2, "ls": "--", "label": "fused box"}))
    for (x1, y1, x2, y2), style in boxes:
        ax.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], **style)
    ax.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]), xlabel="x [px]", ylabel="y [px]")
    ax.set_title(f"{len(shown)} boxes ({kind})", fontsize=10)
    ax.set_aspect("equal")


def _read(config: Any, data: Data) -> np.ndarray | None:
    """The picture of the frame in a folder in VOT layout, if it is there."""
    if config.data_dir is None:
        return None
    folder = pathlib.Path(config.data_dir) / "sequences"
    folder = folder / data.sequences.names[data.frames.sequence[0]]
    name = f"{int(data.frames.frame[0]) + 1:08d}.jpg"
    for path in (folder / name, folder / "color" / name):
        if path.is_file():
            return read_rgb(path)
    return None


def _drawn(truth: np.ndarray, width: int = 640, height: int = 480) -> np.ndarray:
    """A picture (height, width, 3) of the generated scene: a textured ellipse in the true box."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    noise = [gaussian_filter(rng.standard_normal((height, width)), s) * s for s in (3, 12)]
    out = 0.45 + 0.12 * np.stack([noise[0] + noise[1], noise[1], noise[1] - noise[0]], axis=-1)
    y, x = np.mgrid[:height, :width]
    across = (x - (truth[0] + truth[2]) / 2) / (truth[2] - truth[0])
    down = (y - (truth[1] + truth[3]) / 2) / (truth[3] - truth[1])
    inside = across**2 + down**2 < 0.25
    stripes = 0.5 + 0.3 * np.sin(12 * across) * np.sin(12 * down)
    out[inside] = stripes[inside, None] * np.array([0.9, 0.75, 0.3])
    return np.clip(out, 0, 1)
