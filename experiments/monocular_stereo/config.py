"""Settings of the monocular stereo: flags, presets, and the rows that they train."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from experiments import runner
from jaxcv.models import ls_net
from jaxcv.systems.stereo import StereoNetwork

SIZES = {
    "small": ls_net.Size((16, 32, 64, 64, 32), (5, 3, 3), 64, (16, 16), 16, 16, 64, 16),
    "cpu": ls_net.CPU_SIZE,
    "paper": ls_net.PAPER_SIZE,
}
DEMON = ("sun3d", "rgbd", "mvs", "scenes11", "nyu2")
STAGES = ("initial", "few", "all", "joint", "upscale")
TOGETHER = "together"  # guess and solver from the start, for the steps of initial, few and all
SOURCE = {  # the paper's Tables 1 and 3, on RGB-D of DeMoN's benchmark: other data
    "lsnet_15/l1_inv": 0.019, "lsnet_15/sc_inv": 0.09, "lsnet_15/l1_rel": 0.301,
    "lsnet_15/rotation_deg": 1.01, "lsnet_15/translation_deg": 22.1,
    "init/sc_inv": 0.360, "init/l1_rel": 0.315, "init/rotation_deg": 2.29,
    "init/translation_deg": 27.40,
    "oracle/l1_inv": 0.026, "oracle/sc_inv": 0.398, "oracle/l1_rel": 0.336,
    "sift/l1_inv": 0.050, "sift/sc_inv": 0.577, "sift/l1_rel": 0.703,
    "sift/rotation_deg": 12.010, "sift/translation_deg": 56.021,
    "flow/l1_inv": 0.045, "flow/sc_inv": 0.548, "flow/l1_rel": 0.613,
    "flow/rotation_deg": 4.709, "flow/translation_deg": 46.058,
    "klt/rotation_deg": 12.831, "klt/translation_deg": 49.612,
}  # fmt: skip


def _plain(network: StereoNetwork) -> StereoNetwork:
    """J^T J, r, J^T r, z and the motion; no proposals."""
    return network._replace(encoding="gradient_motion")


OTHER: dict[str, Callable[[StereoNetwork], StereoNetwork]] = {
    "jacobian": _plain,
    "recurrent_refinement": lambda network: network._replace(solver="recurrent_refinement"),
    "refinement": lambda network: network._replace(solver="refinement"),
    "paper": lambda network: network._replace(encoding="paper"),
    "algorithm_1": lambda network: network._replace(encoding="algorithm_1"),
    "gradient": lambda network: network._replace(encoding="gradient"),
    # Also without log depths in the loss.
    "no_priors": lambda network: _plain(network)._replace(
        match_exposure=False, unit=False, residual="grey"
    ),
    "additive": lambda network: network._replace(update="additive", unit=False),
    "at_once": lambda network: network,
}
ABLATED = ("algorithm_1", "gradient", "gauss_newton")  # encodings of --ablations


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the monocular stereo; every field is a flag.

    The preset `paper` has the source's inputs (J^T J, r, z and the motion; two images and no rays
    for the guess), its additive update, grey residual, 15 iterations from the first training step
    of the solver on, and its loss: L1 errors of inverse depth, rotation vector and translation,
    summed over the iterations. The source gives no sizes of layers (`jaxcv.models.ls_net`), no
    weights of the loss, learning rate, batch, number of steps or augmentation, and does not say
    whether gradients flow through J and r, or whether the guess learns on with the solver (here it
    is held). Its data sets are replaced by generated rooms.
    """

    data: str = runner.flag(
        "synthetic",
        "Generated rooms, a folder of pairs, or one of DeMoN's sets.",
        choices=("synthetic", "folder", *DEMON),
    )
    data_dir: str | None = runner.flag(
        None, "Folder of images and cameras.json, or of DeMoN's .h5 files.", of_data=True
    )
    cache_dir: str | None = runner.flag(
        None,
        "Folder for prepared DeMoN sets; none: jaxcv in the user's cache folder.",
        of_data=True,
    )
    steps: int = runner.flag(1500, "Optimiser steps, multiplied by --stages.", lower=1)
    seed: int = runner.flag(0, "Seed of weights and batches.", lower=0, upper=2**31 - 1)
    num_seeds: int = runner.flag(1, "Number of seeds, from --seed on.", lower=1, upper=100)
    ablations: bool = runner.flag(
        False, "Also train a refinement network, and with the first seed rows with one change."
    )
    num_train: int = runner.flag(2400, "Generated training pairs.", lower=1, of_data=True)
    num_test: int = runner.flag(128, "Generated test pairs.", lower=1, of_data=True)
    height: int = runner.flag(96, "Image height [px], a multiple of 8.", lower=16, of_data=True)
    width: int = runner.flag(128, "Image width [px], a multiple of 8.", lower=16, of_data=True)
    size: str = runner.flag("small", "Size of the networks.", choices=tuple(SIZES))
    encoding: str = runner.flag(
        "gauss_newton",
        "Solver inputs: J^T J and r (algorithm_1), with the unknowns (paper); J^T r and z"
        " (gradient), with the motion (gradient_motion); also damped steps (gauss_newton).",
        choices=ls_net.ENCODINGS,
    )
    residual: str = runner.flag("rgb", "Colours of the residual.", choices=("grey", "rgb"))
    match_exposure: bool = runner.flag(True, "Match the source's brightness to the target's.")
    unit: bool = runner.flag(True, "Rescale motion and depths to |t| = 1 after each step.")
    update: str = runner.flag(
        "left", "Update of the motion: exp(d) T, or xi + d (additive; needs --nounit).",
        choices=("left", "additive"),
    )  # fmt: skip
    rays: bool = runner.flag(True, "Also show the pixels' rays to the first network.")
    epsilon: float = runner.flag(
        0.0, "The solver stops before a move whose norm is below this; 0: never.", lower=0.0,
        of_data=True,
    )  # fmt: skip
    through_encoding: bool = runner.flag(False, "Backpropagate through J and r.")
    iterations: int = runner.flag(15, "Iterations of the solver.", lower=1, upper=100)
    few: int = runner.flag(5, "Solver iterations in stage `few`.", lower=1)
    batch_size: int = runner.flag(8, "Pairs per step.", lower=1)
    learning_rate: float = runner.flag(3e-3, "Adam learning rate (cosine per stage).", lower=0.0)
    clip: float = runner.flag(1.0, "Gradient norm above which a gradient is scaled.", lower=0.0)
    depth_weight: float = runner.flag(10.0, "Loss weight of inverse depths.", lower=0.0)
    log_weight: float = runner.flag(0.5, "Loss weight of log depths; paper: 0.", lower=0.0)
    rotation_weight: float = runner.flag(10.0, "Loss weight of the rotation.", lower=0.0)
    reduction: str = runner.flag("mean", "Loss over the iterations.", choices=("mean", "sum"))
    joint: bool = runner.flag(False, "Train guess and solver together in a stage `joint`.")
    stages: tuple[float, ...] = runner.flag(
        (1.0, 0.125, 0.15, 0.08, 0.08),
        "Steps of the five stages, in units of --steps; 0 leaves out a later stage.", lower=0.0,
    )  # fmt: skip
    rows: tuple[str, ...] = runner.flag(
        (),
        "Other solvers to train in the stages few and all, with every seed.",
        choices=tuple(OTHER),
    )
    baseline_scales: tuple[int, ...] = runner.flag(
        (1,), "Image sizes of the classical baselines, in units of --height and --width.",
        lower=1, upper=8, of_data=True,
    )  # fmt: skip


PRESETS = {
    "default": Config(steps=3200),
    "study": Config(steps=3200, num_seeds=3, ablations=True),
    "paper": Config(
        steps=200_000, size="paper", height=192, width=256, encoding="paper", residual="grey",
        match_exposure=False, unit=False, update="additive", rays=False, batch_size=16,
        learning_rate=1e-4, rotation_weight=1.0, log_weight=0.0, reduction="sum",
        num_train=20_000, few=15, stages=(1.0, 1.5, 0.0, 0.0, 0.25),
    ),
    # With and without memory, Jacobian and proposals, at equal steps.
    "memory": Config(
        steps=3200, num_seeds=3, rows=("jacobian", "recurrent_refinement", "refinement"),
        baseline_scales=(1, 2, 4),
    ),
    # The paper's two encodings, and J^T r, without proposals.
    "encodings": Config(
        steps=3200, num_seeds=2, rows=("jacobian", "paper", "algorithm_1", "gradient")
    ),
    # Without hand-made terms; the paper's update; all networks at once.
    "terms": Config(steps=3200, rows=("jacobian", "no_priors", "additive", "at_once")),
}  # fmt: skip


def memory(config: Config) -> dict[str, float]:
    """Bytes of the pairs, and of a batch with what the solver stores of its iterations."""
    pixels = 4.0 * config.height * config.width
    return {
        "num_train": 7 * pixels * config.num_train if config.data == "synthetic" else 0.0,
        "num_test": 7 * pixels * config.num_test,
        "batch_size": 50 * pixels * config.batch_size,
    }


class Row(NamedTuple):
    """A solver to train after the stage `initial`, which all rows of a seed share."""

    network: StereoNetwork
    stages: tuple[str, ...] = ("few",)  # after `initial`
    every_seed: bool = False  # else with the first seed only
    log_weight: float | None = None  # None: that of the settings


def network_of(config: Config) -> StereoNetwork:
    """The network that the settings describe."""
    return StereoNetwork(
        size=SIZES[config.size], encoding=config.encoding, residual=config.residual,
        through_encoding=config.through_encoding, match_exposure=config.match_exposure,
        unit=config.unit, num_steps=config.iterations, update=config.update,
        epsilon=config.epsilon, rays=config.rays,
    )  # fmt: skip


def rows(config: Config) -> dict[str, Row]:
    """Row name -> solver: `lsnet` in all stages, those of --rows in few and all, ablations in few.

    The row `at_once` trains guess and solver together from the start.
    """
    usual = network_of(config)
    kept = [name for name, size in zip(STAGES, config.stages, strict=True) if size > 0]
    stages = tuple(name for name in kept[1:] if config.joint or name != "joint")
    out = {"lsnet": Row(usual, stages, every_seed=True)}
    middle = tuple(name for name in stages if name in STAGES[1:3])
    for name in config.rows:
        own = (TOGETHER,) if name == "at_once" else middle
        weight = 0.0 if name == "no_priors" else None
        out[name] = Row(OTHER[name](usual), own, every_seed=True, log_weight=weight)
    if not config.ablations:
        return out
    out["refinement"] = Row(usual._replace(solver="refinement"), middle, every_seed=True)
    for encoding in ABLATED:
        if encoding != config.encoding:
            out[f"shown_{encoding}"] = Row(usual._replace(encoding=encoding))
    name = "constant_encoding" if config.through_encoding else "through_encoding"
    out[name] = Row(usual._replace(through_encoding=not config.through_encoding))
    if config.unit:
        out["any_unit"] = Row(usual._replace(unit=False))
    return out


def rows_of(config: Config, seed: int) -> dict[str, Row]:
    """The rows trained with a seed: all with the first seed, later only `every_seed` rows."""
    first = seed == config.seed
    return {name: row for name, row in rows(config).items() if row.every_seed or first}


def run_name(row: str, stage: str, seed: int) -> str:
    """Name of the run of a row's stage."""
    return f"{row}.{stage}.seed={seed}"


def in_stage(config: Config, network: StereoNetwork, stage: str) -> StereoNetwork:
    """The network with its number of iterations in a stage."""
    few = min(config.few, network.num_steps)
    return network._replace(num_steps=few) if stage == "few" else network
