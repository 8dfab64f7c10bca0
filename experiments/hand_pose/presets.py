"""Presets of the hand pose: the published configuration, and one study per question."""

import dataclasses

from experiments.hand_pose.config import Config

__all__ = ["PRESETS"]

NINE = tuple(str(k) for k in range(1, 10))
FUSED = ("convolve", "max", "sum", "concatenate", "mean")  # the mean is ours
# One setting for all networks: that of the study's search, which Net8 alone did not take.
_ONE = Config(learning_rate=0.089, momentum=0.9)
_SMALL = dataclasses.replace(_ONE, side=48, steps=2500, patience=2)


def _of(base: Config, **changes: object) -> Config:
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def _each(name: str, values: tuple[object, ...]) -> tuple[str, ...]:
    """An entry of --variant per value."""
    return tuple(f"{name}={value}" for value in values)


# The thesis trains on NYU's frontal view: batches of 128, 100 epochs of 426, a quarter of the
# frames for validation. It is silent on: initial weights (Glorot uniform, zero biases, as in its
# library, Lasagne), the side of the cube (300 mm) and its centre (the labelled palm), the patience
# (5 epochs) and the number of halvings (4), the order of the two streams in a concatenation. After
# a halving the network returns to its best weights (its chapter 2), and the stored velocity counts
# half as well.
_PUBLISHED = Config(
    data="nyu", steps=100 * 426, side=128, width=1.0, dense=4096, batch_size=128,
    learning_rate=0.01, momentum=0.9, dropout=0.03, patience=5, centre="palm",
)  # fmt: skip

PRESETS = {
    "default": Config(),
    "refined": Config(refine=True),
    "study": Config(
        net=("1", "2", "4", "6", "8", "8wide", "rgb", "rgbd", "fusepred", "fuse"), num_seeds=3,
        steps=2500, side=48, patience=2, refine=True,
        search=True, search_trials=6, search_rounds=2, search_steps=150,
    ),
    # The published configuration, in its two stages, and the search between them. How long a
    # setting of the search trains is not stated: ten epochs here.
    "paper_nets": _of(_PUBLISHED, net=NINE),
    "paper_search": _of(
        _PUBLISHED, search=True, search_rounds=3, search_trials=50, search_steps=10 * 426,
        search_momentum="log",
    ),
    "paper": _of(
        _PUBLISHED, net=("6", "rgb", "rgbd", "fusepred", "fuse"), learning_rate=0.009,
        momentum=0.98, fusion=("max", "sum", "concatenate", "convolve"),
    ),
    # The nine networks.
    "one_setting": _of(_SMALL, net=("1", "2", "4", "6", "8", "8wide"), num_seeds=3),
    "rates": _of(_SMALL, net=NINE, variant=_each("learning_rate", (0.03, 0.1, 0.3, 1))),
    "nine": _of(_ONE, net=(*NINE, "8wide"), num_seeds=3),
    "nine_long": _of(_ONE, net=("1", "2", "4", "6"), num_train=32000, steps=20000),
    "pools": _of(
        _ONE, net=("1", "2", "6", "7", "8", "9", "7wide", "8wide", "9wide"), side=128, num_seeds=2
    ),
    # Colour and its fusions.
    "colour": _of(
        _SMALL, net=("6", "rgb", "rgbd", "fusepred", "fuse"), steps=5000, patience=4, num_seeds=3
    ),
    "noise": _of(
        _SMALL, net=("6", "rgb", "rgbd", "fuse"),
        variant=("none", *_each("sensor_noise", (0.5, 2, 4))),
    ),
    "fusions": _of(_SMALL, net=("fuse",), fusion=FUSED, num_seeds=3),
    "fusion_layers": _of(
        _SMALL, net=("fuse",), fusion=FUSED[:4], fuse_each=True,
        fuse_at=("conv2", "conv6", "conv9", "fc1", "conv2+conv4+conv6"),
    ),
    # Settings of Net6.
    "outputs": _of(
        _ONE, variant=("none", "output=linear", "dense=64", "dense=1024"), num_seeds=2
    ),
    "momentum": _of(
        _ONE, variant=("none", "momentum=0", "momentum=0,learning_rate=0.89", "order=fixed"),
        num_seeds=2,
    ),
    "dropouts": _of(
        _ONE, steps=10000, variant=("none", *_each("dropout", (0, 0.1, 0.3, 0.5)))
    ),
    "learning_rates": _of(
        _ONE, steps=10000,
        variant=("none", *_each("learning_rate", (0.02225, 0.0445, 0.178, 0.356))),
    ),
    # Without the cube: each arm with three rates, because its inputs and targets differ in scale.
    "crops": _of(
        _ONE, num_seeds=2,
        variant=(
            "none", *(
                f"crop=window{targets},learning_rate={rate}"
                for targets in (",targets=camera", "") for rate in (0.03, 0.089, 0.3)
            ),
        ),
    ),
    "subjects": _of(
        _ONE, variant=("none", *_each("train_subjects", (1, 2, 4))), num_seeds=3
    ),
    "palm": _of(_ONE, net=("6", "rgb"), variant=("none", "centre=palm")),
    "search": _of(
        _SMALL, variant=("none", "search=false"), num_seeds=3,
        search=True, search_rounds=3, search_trials=12, search_steps=1500,
    ),
    # The dense layers against anchors, each with its own best rate.
    "anchors": _of(
        _ONE, net=("6", "anchors"), num_seeds=3,
        variant=_each("learning_rate", (0.03, 0.1, 0.3, 1)),
    ),
}  # fmt: skip
