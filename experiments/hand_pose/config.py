"""Settings of the hand pose, their variants, and the rows that they train."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.runner.settings import check_config, config_error
from jaxcv.models.hand_pose import CHANNELS, FUSIONS, OUTPUTS, HandNetwork

__all__ = [
    "CHOICES", "DATA_FIELDS", "RATES", "Config", "Row", "channels", "config_of", "count_parameters",
    "matched_width", "memory", "networks", "predictable",
    "row_name", "rows", "variants",
]  # fmt: skip

WIDE = {"7wide": "net7", "8wide": "net8", "9wide": "net9"}
CHOICES = (
    *(str(k) for k in range(1, 10)), *WIDE, "depth", "anchors", "rgb", "rgbd", "fusepred", "fuse",
)  # fmt: skip
RATES = ("learning_rate", "momentum", "dropout")
DATA_FIELDS = ("crop", "targets", "centre", "sensor_noise", "train_subjects")
_NETWORK_FIELDS = ("output", "width", "dense")
_VARIED = (*RATES, *_NETWORK_FIELDS, *DATA_FIELDS, "order", "search")
_SHORT = {"concatenate": "concat", "convolve": "conv"}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the hand pose; every field is a flag."""

    data: str = runner.flag(
        "synthetic", "Generated hands, a skinned hand in glTF, or NYU's frames.",
        choices=("synthetic", "glb", "nyu"),
    )  # fmt: skip
    data_dir: str | None = runner.flag(
        None, "Path of the .glb file, or NYU's folder with train and test.", of_data=True
    )
    cache_dir: str | None = runner.flag(
        None, "Folder for prepared NYU frames; none: jaxcv in the user's cache.", of_data=True
    )
    steps: int = runner.flag(5000, "Optimiser steps, at most.", lower=1)
    seed: int = runner.flag(0, "Seed of weights and batches.", lower=0, upper=2**31 - 1)
    num_seeds: int = runner.flag(1, "Number of seeds, from --seed on.", lower=1, upper=100)
    net: tuple[str, ...] = runner.flag(
        ("6",),
        "Networks to train; 7wide, 8wide, 9wide: 7, 8, 9 with the parameters of 6; depth: 6; "
        "anchors: 6 with anchors in place of the dense layers.",
        choices=CHOICES,
    )
    variant: tuple[str, ...] = runner.flag(
        ("none",),
        "Changes of settings with which every network is trained: none, or FIELD=VALUE joined by "
        f"commas, of {', '.join(_VARIED)}.",
    )
    fusion: tuple[str, ...] = runner.flag(
        ("convolve",), "Operations that fuse in --net=fuse, a network each.", choices=FUSIONS
    )
    fuse_at: tuple[str, ...] = runner.flag(("conv4",), "Layers after which --net=fuse fuses.")
    fuse_each: bool = runner.flag(
        False, "Train a network per --fuse_at, instead of one that fuses after all of them; layers "
        "joined by + belong to one network."
    )  # fmt: skip
    output: str = runner.flag("tanh", "Last function of the dense layers.", choices=OUTPUTS)
    refine: bool = runner.flag(False, "Also train net6 through the kinematic energy.")
    search: bool = runner.flag(False, "Search learning rate, momentum, dropout before training.")
    search_rounds: int = runner.flag(3, "Rounds of --search.", lower=1, upper=10)
    search_trials: int = runner.flag(
        50, "Settings per round of --search.", lower=2, upper=1000, formerly="search_members"
    )
    search_steps: int = runner.flag(500, "Optimiser steps per setting of --search.", lower=1)
    search_momentum: str = runner.flag(
        "complement",
        "Momenta of --search: logarithm of 1 - momentum even in (.8, .995), or logarithm of the "
        "momentum even in (.8, .999), as published.",
        choices=("complement", "log"),
    )
    trials_by: str = runner.flag(
        "auto", "Order of trials: at once (vmap) or in turn (loop); auto: loop on CPUs, else vmap.",
        choices=("auto", "vmap", "loop"), formerly="members_by",
    )  # fmt: skip
    num_train: int = runner.flag(6000, "Generated training frames.", lower=8, of_data=True)
    num_test: int = runner.flag(
        600, "Generated frames of each test, seen and unseen.", lower=4, of_data=True
    )
    train_subjects: int = runner.flag(8, "Generated training subjects.", lower=1, of_data=True)
    test_subjects: int = runner.flag(8, "Generated unseen subjects.", lower=1, of_data=True)
    sensor_noise: float = runner.flag(
        1.0, "Factor on the depth noise of the generated sensor.", lower=0.0, of_data=True
    )
    validation: float = runner.flag(
        0.25, "Fraction of the training frames for validation.", lower=0.01, upper=0.9
    )
    split: str = runner.flag(
        "frame", "Validation frames: random ones, the last ones, or all of some subjects.",
        choices=("frame", "block", "subject"),
    )  # fmt: skip
    split_seed: int = runner.flag(0, "Seed of the choice of validation frames.", lower=0)
    window: int = runner.flag(112, "Side of generated frames [px].", lower=32, of_data=True)
    side: int = runner.flag(64, "Side of crops [px].", lower=32)
    cube: float = runner.flag(300.0, "Side of the cube around a hand [mm].", lower=50.0)
    centre: str = runner.flag(
        "mass", "Centre of the cube: the centre of mass, or the true palm (which uses labels).",
        choices=("mass", "palm"),
    )  # fmt: skip
    crop: str = runner.flag(
        "cube",
        "Network inputs: the cube, with depths relative to it; or a window of fixed size about "
        "the same centre, with depths from the camera.",
        choices=("cube", "window"),
    )
    targets: str = runner.flag(
        "cube", "Joints that the networks learn: relative to the cube, or to the camera.",
        choices=("cube", "camera"),
    )  # fmt: skip
    width: float = runner.flag(0.25, "Factor on the convolutions' channels.", lower=0.01, upper=4.0)
    dense: int = runner.flag(256, "Units of each dense layer.", lower=1)
    batch_size: int = runner.flag(32, "Frames per step.", lower=1)
    order: str = runner.flag(
        "shuffled", "Order of the frames: new in every epoch, or the same.",
        choices=("shuffled", "fixed"),
    )  # fmt: skip
    learning_rate: float = runner.flag(0.1, "SGD learning rate.", lower=0.0)
    momentum: float = runner.flag(0.95, "SGD momentum.", lower=0.0, upper=0.9999)
    dropout: float = runner.flag(0.03, "Dropout rate after the dense layers.", lower=0.0, upper=0.9)
    patience: int = runner.flag(
        4, "Epochs without improvement before the learning rate is halved.", lower=1
    )
    returns: int = runner.flag(4, "Halvings of the learning rate before training stops.", lower=0)
    refine_steps: int = runner.flag(300, "Optimiser steps of --refine.", lower=1)
    refine_rate: float = runner.flag(1e-4, "Adam learning rate of --refine.", lower=0.0)


class Row(NamedTuple):
    """A network to train, and the settings of its variant."""

    config: Config
    network: HandNetwork


def variants(config: Config) -> dict[str, Config]:
    """Ending of the row names -> settings, for every entry of --variant; "" of `none`.

    Raises:
        ConfigError: a field that cannot be varied, a value of another type or out of bounds, or
            an entry that comes twice.
    """
    out = {}
    for entry in config.variant:
        changes = {} if entry == "none" else dict(_change(entry, one) for one in entry.split(","))
        ending = "".join(f"+{name}={text}" for name, (text, _) in changes.items())
        if ending in out:
            raise config_error("variant", "expected entries that differ", f"{entry!r} twice")
        values = {name: value for name, (_, value) in changes.items()}
        out[ending] = dataclasses.replace(config, **values)
        check_config(Config, out[ending])
    return out


def _change(entry: str, text: str) -> tuple[str, tuple[str, Any]]:
    """(field, (value as text, value)) of one FIELD=VALUE."""
    name, _, value = text.partition("=")
    if name not in _VARIED or not value:
        hint = "For example --variant=none --variant=momentum=0,learning_rate=0.5."
        expected = f"expected none, or FIELD=VALUE of {', '.join(_VARIED)}"
        raise config_error("variant", expected, repr(entry), hint)
    kind = type(getattr(Config(), name))
    try:
        if kind is bool:
            return name, (value, {"true": True, "false": False}[value.lower()])
        return name, (value, kind(value))
    except (KeyError, ValueError):
        raise config_error("variant", f"expected {name} as {kind.__name__}", repr(value)) from None


def config_of(config: Config, name: str) -> Config:
    """The settings of the row `name`, whatever was made of its network."""
    ending = "".join(name.partition("+")[1:])
    return variants(config)[ending]


def row_name(config: Config, net: str, fusion: str = "convolve", at: str = "") -> str:
    """Name of the row that an entry of --net trains; `at`: of --fuse_each."""
    del config
    if net in ("rgb", "rgbd", "fusepred", "anchors"):
        return net
    if net == "fuse":
        name = f"fuse_{_SHORT.get(fusion, fusion)}"
        return name if at in ("", "conv4") else f"{name}_at_{at.replace('+', '_')}"
    return "net6" if net == "depth" else f"net{net}"


def rows(config: Config) -> dict[str, Row]:
    """Row name -> what to train, for every network in every variant."""
    out = {}
    for ending, own in variants(config).items():
        out |= {f"{name}{ending}": Row(own, net) for name, net in _networks_of(own).items()}
        if config.refine and ending == "":
            out.setdefault("net6", Row(own, _network(own)))
    if config.refine and "net6" not in out:
        expected, hint = "expected the entry none with --refine", "Add --variant=none."
        raise config_error("variant", expected, config.variant, hint)
    return out


def predictable(config: Config) -> list[str]:
    """Rows whose models `predict_hand` runs: those of the cube.

    Raises:
        ConfigError: there is none.
    """
    cube = ("cube", "cube")
    out = [name for name, (own, _) in rows(config).items() if (own.crop, own.targets) == cube]
    if not out:
        expected = "expected crops and targets of the cube in one variant or more"
        hint = "Leave out --crop and --targets, and name them in --variant beside --variant=none."
        raise config_error("crop, targets", expected, (config.crop, config.targets), hint)
    return out


def networks(config: Config) -> dict[str, HandNetwork]:
    """Row name -> network to train."""
    return {name: row.network for name, row in rows(config).items()}


def _network(config: Config, **changes: Any) -> HandNetwork:
    sizes = {name: getattr(config, name) for name in _NETWORK_FIELDS}
    return HandNetwork(**sizes | changes)


def _networks_of(config: Config) -> dict[str, HandNetwork]:
    """The networks of one variant."""
    make = functools.partial(_network, config)
    out = {}
    for net in config.net:
        name = row_name(config, net)
        if net == "fusepred":  # fuses two networks that are trained separately
            out |= {"net6": make(), "rgb": make(images=("rgb",))}
        elif net in ("rgb", "rgbd"):
            out[name] = make(images=(net,))
        elif net == "fuse":
            out |= _fused_networks(config)
        elif net in WIDE:
            out[name] = make(net=WIDE[net], dense=matched_width(config, WIDE[net]))
        elif net == "anchors":
            out[name] = make(head="anchors", y_up=config.data == "nyu")
        else:
            out[name] = make(net=name)
    return out


def _fused_networks(config: Config) -> dict[str, HandNetwork]:
    make = functools.partial(_network, config, images=("depth", "rgb"))
    out = {}
    for fusion in config.fusion:
        if not config.fuse_each:
            out[row_name(config, "fuse", fusion)] = make(fusion=fusion, fuse_at=config.fuse_at)
            continue
        for at in config.fuse_at:
            name = row_name(config, "fuse", fusion, at)
            out[name] = make(fusion=fusion, fuse_at=tuple(at.split("+")))
    return out


def count_parameters(network: HandNetwork, side: int) -> int:
    """Number of parameters of a network, from their shapes alone."""
    init = functools.partial(network.init, jax.random.key(0))
    shapes = jax.eval_shape(init, *(jax.ShapeDtypeStruct((1, side, side, c), jnp.float32)
                                    for c in channels(network)))  # fmt: skip
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))


def matched_width(config: Config, net: str = "net8") -> int:
    """Units per dense layer with which a network has as many parameters as Net6.

    Net7, 8 and 9 pool more, so their first dense layers are smaller: the thesis' comparison varies
    pooling and capacity at the same time.
    """
    goal = count_parameters(_network(config, net="net6"), config.side)
    lower, upper = 1, 32 * config.dense
    while lower < upper:
        middle = (lower + upper) // 2
        enough = count_parameters(_network(config, net=net, dense=middle), config.side) >= goal
        lower, upper = (lower, middle) if enough else (middle + 1, upper)
    return lower


def channels(network: HandNetwork) -> list[int]:
    """Channels of each input image of a network."""
    return [CHANNELS[kind] for kind in network.images]


def memory(config: Config) -> dict[str, float]:
    """Bytes of the crops, of uncropped frames, and of a batch with its first feature maps."""
    pixels = 4.0 * config.side**2
    frames = 0 if config.data == "nyu" else config.num_train + 2 * config.num_test
    data = {tuple(getattr(own, name) for name in DATA_FIELDS) for own in variants(config).values()}
    return {
        "num_train": 4 * pixels * frames * len(data),
        "window": 16.0 * config.window**2 * 64,
        "batch_size": 100 * pixels * config.batch_size,
    }
