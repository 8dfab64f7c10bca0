"""Settings and rows of the tracker fusion."""

import dataclasses
import itertools
from typing import Any, NamedTuple

import numpy as np

from experiments import runner
from jaxcv import Damping
from jaxcv.energies.tracker_fusion import UNIT, FusionParameters
from jaxcv.solvers import LBFGS, FinalNewtonStep, Newton

__all__ = ["ABLATIONS", "METHODS", "PRESETS", "SOURCE", "Config", "Method", "methods"]

NUM_FOLDS = 5
WIDTHS = (0.10, 0.15, 0.20, 0.30, 0.40)  # tried for the equal-width baseline [median box sizes]
FORWARD, ENERGIES, LOSSES = ("newton", "lbfgs"), ("normalised", "raw"), ("relative", "pixels")


class Method(NamedTuple):
    """A trained row; the settings that are None are those of the Config.

    Attributes:
        damping: of the gradient.
        kinds: the kinds of parameters that it learns.
        width: initial width, as a multiple of the Config's.
        forward, energy, loss, learning_rate: as in `Config`.
        draw: number of the random subset of trackers that it sees; None: all trackers.
    """

    damping: Damping = Damping(0.1)
    kinds: tuple[str, ...] = FusionParameters._fields
    width: float = 1.0
    forward: str | None = None
    energy: str | None = None
    loss: str | None = None
    learning_rate: float | None = None
    draw: int | None = None

    @property
    def normalised(self) -> bool:
        """Whether the energy is that of weights that sum to one, in units of the frame."""
        return self.energy != "raw"

    @property
    def solver(self) -> Any:
        """The minimiser: exact, or ten L-BFGS steps and one Newton step with the damping."""
        if self.forward == "lbfgs":
            last = Damping(self.damping.value, mode=self.damping.mode)
            return FinalNewtonStep(LBFGS(max_steps=10, step_size=1.0), last)
        return Newton(max_steps=30)

    @property
    def fusion(self) -> "Method":
        """The energy and the solver alone: rows that fuse alike are equal, and compile once."""
        damping = self.damping if self.forward == "lbfgs" else Damping(0.1)
        return Method(damping, forward=self.forward, energy=self.energy)


_UNDAMPED = Damping(0.0, mode="plain")
_PLAIN = Damping(0.1, mode="plain")
METHODS = {"learned": Method(), "undamped": Method(_UNDAMPED)}
_WIDTHS = (0.01, 0.03, 0.1, 0.3, 1.0)  # [median box sizes]
_RATES = (0.05, 0.5)  # today's, and one at which a step can leave the useful range
NUM_DRAWS = 10
ABLATIONS: dict[str, dict[str, Method]] = {  # further rows
    "none": {},
    "kinds": {f"only_{kind}": Method(kinds=(kind,)) for kind in FusionParameters._fields}
    | {
        f"without_{kind}": Method(kinds=tuple(k for k in FusionParameters._fields if k != kind))
        for kind in FusionParameters._fields
    },
    "dampings": {f"damping_{value:g}": Method(Damping(value)) for value in (1e-3, 1e-2, 1.0, 10.0)},
    "widths": {f"learned_from_{width:g}": Method(width=width / UNIT) for width in _WIDTHS}
    | {f"undamped_from_{width:g}": Method(_UNDAMPED, width=width / UNIT) for width in _WIDTHS},
    # The paper's conditions and today's, in all combinations.
    "conditions": {
        f"{name}_{forward}_{energy}_{loss}_{rate:g}": Method(
            damping, forward=forward, energy=energy, loss=loss, learning_rate=rate
        )
        for forward, energy, loss, (name, damping), rate in itertools.product(
            FORWARD, ENERGIES, LOSSES, (("damped", _PLAIN), ("undamped", _UNDAMPED)), _RATES
        )
    },
    "draws": {f"draw_{i}": Method(draw=i) for i in range(NUM_DRAWS)},
}
SOURCE = {  # the paper, on 72 entries of VOT2018: other data, split by sequence and by frame
    "learned/iou": 0.4960,
    "mean/iou": 0.2455,
    "median/iou": 0.4458,
    "learned/iou_frames": 0.565,
    "mean/iou_frames": 0.238,
    "median/iou_frames": 0.428,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the tracker fusion; every field is a flag.

    The paper does not say: the optimiser, its rate, the steps and the batch (ours: Adam, 0.05 with
    cosine decay, 3,000, 1,024); the initial widths (`width_px`); the coordinates of the energy
    (pixels); how the weights depend on time and scale (`jaxcv.energies.tracker_fusion`).
    """

    data: str = runner.flag(
        "synthetic", "Generated sequences, or a folder in VOT layout.", choices=("synthetic", "vot")
    )
    data_dir: str | None = runner.flag(None, "Folder in VOT layout, for --data=vot.", of_data=True)
    cache_dir: str | None = runner.flag(
        None,
        "Folder for prepared data; none: jaxcv in the user's cache folder.",
        of_data=True,
    )
    polygon: str = runner.flag(
        "extent",
        "Box of a polygon in VOT data: its extent, or a box of the polygon's area.",
        choices=("extent", "area"),
        of_data=True,
    )
    steps: int = runner.flag(300, "Optimiser steps.", lower=1)
    seed: int = runner.flag(
        0, "Seed of data, folds and batches.", lower=0, upper=2**31 - 1, of_data=True
    )
    num_sequences: int = runner.flag(40, "Generated sequences.", lower=NUM_FOLDS, of_data=True)
    num_frames: int = runner.flag(60, "Frames per generated sequence.", lower=3, of_data=True)
    num_trackers: int = runner.flag(12, "Generated trackers.", lower=2, of_data=True)
    test_share: float = runner.flag(
        0.0,
        "Share of the frames whose sequences are tested, in one split; 0: five folds, each tested.",
        lower=0.0, upper=0.9,
    )  # fmt: skip
    batch_size: int = runner.flag(128, "Frames per step.", lower=1)
    learning_rate: float = runner.flag(0.05, "Adam learning rate (cosine decay to 0).", lower=0.0)
    corners: str = runner.flag(
        "shared",
        "Parameters of a tracker's two corners: one set, or one for each corner (paper).",
        choices=("shared", "own"),
    )
    energy: str = runner.flag(
        "normalised",
        "Weights that sum to one, in units of the frame; or the raw sum in pixels (paper).",
        choices=ENERGIES,
    )
    width_px: float = runner.flag(
        20.0, "Initial width of the functions of --energy=raw [px].", lower=1e-3
    )
    forward: str = runner.flag(
        "newton",
        "Solver: newton, or ten L-BFGS steps and one damped Newton step (paper); both begin at the "
        "centre of lowest energy.",
        choices=FORWARD,
    )
    damping_mode: str = runner.flag(
        "shift", "Mode of the damping; the paper's is plain.", choices=("shift", "plain")
    )
    loss: str = runner.flag(
        "relative",
        "l1 of the corners over the true box size, or in pixels (paper).",
        choices=LOSSES,
    )
    strength: tuple[float, ...] = runner.flag(
        (1e-4, 1e-3, 1e-2, 1e-1),
        "Strengths of the shrinkage; validation folds choose one of several.",
        lower=0.0,
    )
    ablation: str = runner.flag(
        "none",
        "Further rows: kinds of parameters alone or left out, dampings, initial widths, the "
        "conditions of the paper's training, random subsets of the trackers.",
        choices=tuple(ABLATIONS),
    )
    subset: int = runner.flag(7, "Trackers in a subset of --ablation=draws.", lower=2)
    competitors: bool = runner.flag(
        False, "Also rows by boosted trees, a set network, and two rules from training scores."
    )
    network_steps: int = runner.flag(1200, "Optimiser steps of the set network.", lower=1)
    minima: int = runner.flag(
        0, "Test frames on which the minima of the energies are counted.", lower=0, of_data=True
    )
    saturation: float = runner.flag(
        3.0, "Upper limit of a frame's relative l1 loss [true box sizes]; 0: no limit.", lower=0.0
    )


PRESETS = {
    "default": Config(),
    # On a folder in VOT layout: what matters of what is learned.
    "kinds": Config(data="vot", ablation="kinds"),
    "dampings": Config(data="vot", ablation="dampings"),
    "widths": Config(data="vot", ablation="widths", strength=(0.0, 1e-4)),
    # Does an undamped training fail under the paper's conditions?
    "conditions": Config(data="vot", ablation="conditions", strength=(0.0,)),
    "competitors": Config(data="vot", competitors=True, minima=2000),
    "draws": Config(data="vot", ablation="draws"),
    # Trained on half of the frames; repeat --seed for several halves.
    "halves": Config(data="vot", test_share=0.5),
    "study": Config(
        steps=600, batch_size=256, num_sequences=60, strength=(1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    ),
    # As in the paper: the raw sum, L-BFGS and a Newton step, plain damping and loss, no shrinkage,
    # a set of parameters for each corner, one split of two thirds; a folder in VOT layout.
    "paper": Config(
        data="vot", steps=3000, batch_size=1024, corners="own", saturation=0.0, energy="raw",
        forward="lbfgs", damping_mode="plain", loss="pixels", strength=(0.0,), test_share=1 / 3,
    ),
}  # fmt: skip


def memory(config: Config) -> dict[str, float]:
    """Bytes of the generated boxes, and of a batch of each training."""
    generated = config.num_sequences * config.num_frames * config.num_trackers
    own = 0.0 if config.data != "synthetic" else 64.0 * generated
    return {"num_sequences": own, "batch_size": 400.0 * config.batch_size * config.num_trackers}


def methods(config: Config) -> dict[str, Method]:
    """The rows that are trained, with the Config's settings where they have none of their own."""
    out = {}
    for name, method in (METHODS | ABLATIONS[config.ablation]).items():
        damping = method.damping
        if config.damping_mode == "plain":
            damping = dataclasses.replace(damping, mode="plain")
        out[name] = method._replace(
            damping=damping,
            forward=method.forward or config.forward,
            energy=method.energy or config.energy,
            loss=method.loss or config.loss,
            learning_rate=method.learning_rate or config.learning_rate,
        )
    return out


def initial_log_width(config: Config, method: Method) -> float:
    """The log of the initial width, in units of the frame; of the raw energy in pixels."""
    first = 1.0 if method.normalised else config.width_px
    return float(np.log(method.width * first))
