"""Trained hand networks in files."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxcv.checks import argument_error, check_structure
from jaxcv.energies.hand import HandScales
from jaxcv.models.hand_pose import CHANNELS, HandNetwork
from jaxcv.systems.hand_pose import CUBE_MM, ColorScale
from jaxcv.training.arrays import as_tuples, load_arrays, save_arrays

__all__ = ["load_hand_network", "save_hand_network"]

_FIELDS = ("net", "images", "fusion", "fuse_at", "joints", "width", "dense", "confidence")


def save_hand_network(
    path: Any,
    params: Any,
    network: HandNetwork,
    *,
    side: int = 128,
    cube: float = CUBE_MM,
    color_scale: ColorScale = ColorScale(),  # noqa: B008, an immutable value
    scales: HandScales | None = None,
) -> None:
    """Writes weights, and all that they need at use, to one .npz file for `load_hand_network`.

    Args:
        path: ends in .npz.
        params: of the network.
        network: that they belong to.
        side: of the crops of the training [px].
        cube: of the crops of the training [mm].
        color_scale: of the training.
        scales: of the kinematic energy behind the network, if there is one.
    """
    settings = {
        "network": {name: getattr(network, name) for name in _FIELDS},
        "side": int(side),
        "cube": float(cube),
        "color_scale": [[float(x) for x in row] for row in color_scale],
        "scales": None if scales is None else [float(x) for x in scales],
    }
    save_arrays(path, params, {"hand_network": settings})


def load_hand_network(path: Any) -> tuple[Any, dict[str, Any]]:
    """Weights and settings that `save_hand_network` wrote.

    Returns:
        params, and the keyword arguments of `predict_hand` (network, side, cube, color_scale,
        scales):
        `predict_hand(depth, intrinsics, params, **settings)`.

    Raises:
        ValueError: another file, or weights that do not belong to the settings.
    """
    params, about = load_arrays(path)
    try:
        settings = as_tuples(about["hand_network"])
        settings["network"] = network = HandNetwork(**settings["network"])
        settings["color_scale"] = ColorScale(*settings["color_scale"])
        if settings["scales"] is not None:
            settings["scales"] = HandScales(*settings["scales"])
        side = int(settings["side"])
        crops = [jnp.zeros((1, side, side, CHANNELS[kind])) for kind in network.images]
        want = jax.eval_shape(lambda: network.init(jax.random.key(0), *crops))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        expected = "expected the file of a hand network"
        raise argument_error(str(path), expected, repr(error), "Write it again.") from error
    check_structure(str(path), params, "its settings", want)
    return jax.tree.map(jnp.asarray, params), settings
