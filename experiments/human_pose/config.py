"""Settings and rows of the human pose."""

import dataclasses
from typing import NamedTuple

from experiments import runner
from jaxcv.energies.human_pose import GROUPS

__all__ = [
    "ABLATIONS",
    "GRID",
    "METHODS",
    "MONOCULAR_GRID",
    "MORE",
    "PRESETS",
    "SOURCE",
    "Config",
    "Method",
    "memory",
    "methods",
]


class Method(NamedTuple):
    """Settings of a trained row.

    Attributes:
        robust: whether the kernel is the robust one, or squares.
        groups: of the parameters that it learns.
        gradient: as in `Config`; None: the Config's.
        selection: how rotations and components are fused.
        free_pose: False: the energy for one camera, whose pose stays in the model; its readout is
            learned as well.
        damping: of the implicit gradient; None: the Config's.
    """

    robust: bool
    groups: tuple[str, ...]
    gradient: str | None = None
    selection: str = "soft"
    free_pose: bool = True
    damping: float | None = None


METHODS = {
    "body_model": Method(False, ("body_models",)),
    "l2": Method(False, tuple(GROUPS)),
    "huber": Method(True, tuple(GROUPS)),
}
ABLATIONS = {  # for the largest number of cameras only
    "huber_weights": Method(True, ("scaling", "fusion", "huber")),
    "huber_body_model": Method(True, ("body_models",)),
    "huber_unrolled": Method(True, tuple(GROUPS), "unrolled"),
    "huber_selected": Method(True, tuple(GROUPS), selection="hard"),
}
MORE = {  # trained by --method alone
    # The paper's second row: mu, e, sigma and W_c, here the camera matrices C.
    "body_and_cameras": Method(False, ("body_models", "covariance", "cameras")),
    # The energy for one camera, with squares; the source takes the camera as given.
    "monocular": Method(
        False, ("body_models", "covariance", "reprojection", "fusion", "scaling"), "unrolled",
        free_pose=False,
    ),
} | {
    f"huber_damping_{value:g}": Method(True, tuple(GROUPS), damping=value)
    for value in (0.0, 1e-3, 1e-2, 0.1, 1.0)
}  # fmt: skip
GRID = {  # of the baseline's grid search, with each kernel
    "reprojection_scale": (1.0, 3.0, 10.0, 30.0),
    "regularisation_scale": (3.0, 10.0, 30.0, 100.0, 300.0),
}
MONOCULAR_GRID = {  # of the energy for one camera
    "reprojection_scale": (0.1, 0.3, 1.0, 3.0, 10.0),
    "regularisation_scale": (0.5, 1.7, 5.2, 16.0, 50.0, 160.0),
}
SOURCE = {  # the paper, on Human3.6M with real detections
    "baseline/multicamera_mpjpe_mm": 91.8,
    "body_and_cameras/multicamera_mpjpe_mm": 57.8,
    "l2/multicamera_mpjpe_mm": 47.7,
    "huber/multicamera_mpjpe_mm": 46.1,
    "monocular_untrained/monocular_mpjpe_mm": 114.2,
    "monocular/monocular_mpjpe_mm": 76.1,
    "lifting/monocular_mpjpe_mm": 62.9,  # Martinez et al., quoted by the paper
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the human pose; every field is a flag.

    Where the paper is silent, `--preset=paper` follows its released code: Adam with a constant rate
    and epsilon 0.1, batches of four, twenty passes, a gradient by automatic differentiation, the
    start and the constants of `compatibility`. Ours: batches are drawn with replacement, and every
    fifth frame is that of each recording. The kernel of its baseline is not named: squares.
    """

    data: str = runner.flag(
        "synthetic", "Generated people, or Human3.6M.", choices=("synthetic", "human36m")
    )
    data_dir: str | None = runner.flag(
        None, "Folder of Human3.6M; data_prep/README.md has its layout.", of_data=True
    )
    cache_dir: str | None = runner.flag(
        None, "Folder for prepared data; none: jaxcv in the user's cache folder.", of_data=True
    )
    steps: int = runner.flag(300, "Optimiser steps.", lower=1)
    seed: int = runner.flag(
        0, "Seed of data, clustering and batches.", lower=0, upper=2**31 - 1, of_data=True
    )
    num_seeds: int = runner.flag(1, "Number of seeds, from --seed on.", lower=1, upper=100)
    views: tuple[int, ...] = runner.flag(
        (4, 1), "Numbers of cameras; each is trained and scored.", lower=1, upper=64
    )
    groups: tuple[str, ...] = runner.flag(
        (),
        "Groups of parameters to learn, in one row, instead of the usual rows.",
        choices=tuple(GROUPS),
    )
    huber: bool = runner.flag(False, "Robust kernel in the row of --groups.")
    ablations: bool = runner.flag(False, "Also train rows with fewer parameters, other gradients.")
    method: tuple[str, ...] = runner.flag(
        (), "Rows to train; none: the usual rows.", choices=(*METHODS, *ABLATIONS, *MORE)
    )
    num_subjects: int = runner.flag(
        8, "Generated people; a quarter of them are test subjects.", lower=4, of_data=True
    )
    clips: int = runner.flag(2, "Generated clips per person and action.", lower=1, of_data=True)
    frames: int = runner.flag(12, "Frames per generated clip.", lower=1, of_data=True)
    num_components: int = runner.flag(3, "Components of the mixture.", lower=1, upper=100)
    num_rotations: int = runner.flag(100, "Rotations in the search.", lower=4, upper=10_000)
    batch_size: int = runner.flag(8, "Frames per step.", lower=1)
    learning_rate: float = runner.flag(0.05, "Adam learning rate.", lower=0.0)
    schedule: str = runner.flag(
        "cosine", "Learning rate: cosine decay to 0, or constant.", choices=("cosine", "constant")
    )
    epsilon: float = runner.flag(0.1, "Adam epsilon.", lower=0.0)
    damping: float = runner.flag(1e-3, "Damping of the implicit gradient.", lower=0.0)
    gradient: str = runner.flag(
        "implicit",
        "Gradient: implicit, or automatic differentiation of the passes (released code).",
        choices=("implicit", "unrolled"),
    )
    start: str = runner.flag(
        "fitted",
        "Mixture and start: fitted with a grid search, or the released model without a search.",
        choices=("fitted", "released"),
    )
    model_file: str | None = runner.flag(
        None, "The released model_parameters.h5, for --start=released.", only="train"
    )
    cameras_file: str | None = runner.flag(
        None, "The released avg_cameras.h5, for --start=released.", only="train"
    )
    compatibility: bool = runner.flag(
        False, "Follow the released code where it differs from the paper: limbs, start, clips."
    )
    competitors: bool = runner.flag(
        False,
        "Also rows by triangulation, a lifting network, and a baseline tuned on other detections; "
        "times the grid search.",
    )
    lifting_steps: int = runner.flag(3000, "Optimiser steps of the lifting network.", lower=3)
    stride: int = runner.flag(5, "Stride over the frames of real data.", lower=1, of_data=True)
    evaluated: int = runner.flag(0, "Test frames, at most; 0: all.", lower=0, of_data=True)


PRESETS = {
    "default": Config(),
    "study": Config(steps=600, num_seeds=3, ablations=True, clips=3),
    # Each kernel against its own baseline.
    "kernels": Config(
        steps=600, num_seeds=3, clips=3, views=(4,),
        method=("body_model", "body_and_cameras", "l2", "huber_body_model", "huber"),
    ),
    # The damping of the implicit gradient.
    "dampings": Config(
        steps=600, num_seeds=3, clips=3, views=(4,),
        method=tuple(name for name in MORE if name.startswith("huber_damping")),
    ),
    # Other methods on the same frames; one camera by its own energy; choosing a component.
    "competitors": Config(
        steps=600, num_seeds=3, clips=3, method=("huber", "huber_selected", "monocular"),
        competitors=True,
    ),
    # As published, and as in the released code where the paper is silent: batches of four, twenty
    # passes over some 78,000 training frames. Needs --data_dir, --model_file and --cameras_file.
    "paper": Config(
        data="human36m", steps=390_000, batch_size=4, views=(4, 1), schedule="constant",
        gradient="unrolled", start="released", compatibility=True,
        method=("body_and_cameras", "l2", "huber", "monocular"),
    ),
}  # fmt: skip


def memory(config: Config) -> dict[str, float]:
    """Bytes of the generated points, and of the candidates that a batch minimises."""
    frames = 10.0 * config.num_seeds * config.num_subjects * config.clips * config.frames
    candidates = config.batch_size * config.num_components * config.num_rotations
    own = 0.0 if config.data != "synthetic" else frames * max(4, *config.views) * 17 * 8 * 8
    return {"frames": own, "batch_size": candidates * 200 * 8.0}


def methods(config: Config, views: int) -> dict[str, Method]:
    """The rows that are trained; with one camera, its own energy alone if --method names it."""
    if config.groups:
        return {"custom": Method(config.huber, config.groups)}
    if config.method:
        chosen = {name: (METHODS | ABLATIONS | MORE)[name] for name in config.method}
        own = {name: method for name, method in chosen.items() if not method.free_pose}
        if views == 1 and own:
            return own
        return {name: method for name, method in chosen.items() if method.free_pose}
    more = ABLATIONS if config.ablations and views == max(config.views) else {}
    return METHODS | more
