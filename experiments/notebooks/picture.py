"""The picture of the README: a minimiser, its gradient, and what is learned through it.

python -m experiments.notebooks.picture    # writes experiments/notebooks/picture.png
"""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.runner import new_figure, save_figures
from jaxcv import Damping, argmin
from jaxcv.energies.robust import rbf_energy

FOLDER = pathlib.Path(__file__).parent
RESULTS = FOLDER.parent / "results"
POINTS = (0.9, 1.0, 1.2, 2.0, 2.15, 9.0)  # two groups and an outlier
PAIR = (-1.0, 1.0)  # from s = sqrt(2) on their energy has one minimum, below it two
# Record, key of ours, key of the baseline, what is compared.
COMPARED = (
    ("human_pose", "huber/multicamera_mpjpe_mm", "baseline/multicamera_mpjpe_mm",
     "human pose: all of the energy\nlearned / fitted and grid-searched"),
    ("hand_pose", "refined/unseen_mean_error_mm", "net6/unseen_mean_error_mm",
     "hand pose: network and energy\n/ network alone"),
    ("monocular_stereo", "lsnet_15/l1_inv", "lm_prior/l1_inv",
     "stereo: learned solver\n/ tuned Levenberg-Marquardt"),
    ("relative_pose", "joint/all/failures", "poselib/all/failures",
     "relative pose: energy with prior\n/ PoseLib (failures)"),
)  # fmt: skip


def minimiser(scale: jax.Array, points: jax.Array, damping: Damping) -> jax.Array:
    """The robust mean of points (n,) near 1 at a width of the kernel."""
    return argmin(rbf_energy, 1.0, scale, (points,), damping=damping).value


def draw_energy(ax: Any) -> None:
    """The energy of POINTS at three widths, and its minimisers."""
    y, points = jnp.linspace(-1, 10, 400), jnp.array(POINTS)
    energy = jax.vmap(rbf_energy, in_axes=(0, None, None))
    for scale in (jnp.asarray(0.3), jnp.asarray(1.0), jnp.asarray(3.0)):
        (line,) = ax.plot(y, energy(y, scale, points), label=f"width s = {scale:g}")
        found = minimiser(scale, points, Damping())
        ax.plot(found, rbf_energy(found, scale, points), "o", color=line.get_color())
    ax.plot(POINTS, np.zeros(len(POINTS)), "k|", markersize=12, label="points")
    ax.set(
        xlabel="y", ylabel="energy E(y, s)", title="argmin finds the minimiser\nof an energy (dots)"
    )
    ax.legend(fontsize=8)


def draw_gradient(ax: Any) -> None:
    """The gradient of the minimiser of PAIR in the width, damped and not."""
    scales, points = jnp.linspace(1.0, 1.5, 301), jnp.array(PAIR)
    for label, damping in (
        ("undamped", Damping(0.0, mode="plain")),
        ("damped by 0.1", Damping(0.1)),
        ("damped by 0.1, order 3", Damping(0.1, order=3)),
    ):
        slope = jax.vmap(jax.grad(minimiser), in_axes=(0, None, None))
        slopes = slope(scales, points, damping)
        ax.plot(scales, np.maximum(np.abs(slopes), 1e-2), label=label)
    ax.set(
        xlabel="width s", ylabel="|dy* / ds|", yscale="log", ylim=(1e-1, 1e3),
        title="its gradient is bounded\nwhere two minima merge",
    )  # fmt: skip
    ax.legend(fontsize=8)


def draw_results(ax: Any) -> None:
    """Errors of what was learned through minimisers, over those of a baseline, from the records."""
    for i, (record, ours, other, _) in enumerate(COMPARED):
        metrics = json.loads((RESULTS / f"{record}.json").read_text())["metrics"]
        values = [np.atleast_1d(np.asarray(metrics[key], float)).mean() for key in (ours, other)]
        share = values[0] / values[1]
        ax.barh(i, share, color="C0", height=0.5)
        ax.text(share + 0.01, i, f"{share:.2f}", va="center", fontsize=8)
    ax.axvline(1, color="k", lw=0.8)
    ax.set(
        yticks=range(len(COMPARED)), yticklabels=[row[3] for row in COMPARED], xlim=(0, 1.15),
        xlabel="error over the baseline's, generated data", title="what is learned through it",
    )  # fmt: skip
    ax.tick_params(axis="y", labelsize=8)
    ax.invert_yaxis()


def main() -> None:
    """Draws the picture."""
    figure = new_figure(figsize=(12, 3.4), dpi=100)
    axes = figure.subplots(1, 3, width_ratios=(1, 1, 1))
    for draw, ax in zip((draw_energy, draw_gradient, draw_results), axes, strict=True):
        draw(ax)
    save_figures([("picture.png", figure)], FOLDER)


if __name__ == "__main__":
    main()
