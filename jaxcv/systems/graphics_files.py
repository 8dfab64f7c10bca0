"""Trained networks of inverse graphics in files."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxcv.checks import argument_error, check_structure
from jaxcv.models.inverse_graphics import GraphicsNetwork, GraphicsSize
from jaxcv.systems.inverse_graphics import LATENTS, LatentScale
from jaxcv.training.arrays import as_tuples, load_arrays, save_arrays

__all__ = ["load_graphics_network", "save_graphics_network"]


def save_graphics_network(
    path: Any, params: Any, network: GraphicsNetwork, scale: LatentScale
) -> None:
    """Writes weights, sizes and the scale of the entries to one .npz file.

    Args:
        path: ends in .npz.
        params: of the network.
        network: that they belong to.
        scale: from entries of the code to factors.
    """
    settings = {
        "size": network.size._asdict(),
        "scale": {name: [float(x) for x in row] for name, row in scale._asdict().items()},
    }
    save_arrays(path, params, {"graphics_network": settings})


def load_graphics_network(path: Any) -> tuple[Any, dict[str, Any]]:
    """Weights and settings that `save_graphics_network` wrote.

    Returns:
        params, and the keyword arguments of `render_latents` (network, scale):
        `render_latents(images, params, azimuth=0.5, **settings)`.

    Raises:
        ValueError: another file, or weights that do not belong to the settings.
    """
    params, about = load_arrays(path)
    try:
        settings = as_tuples(about["graphics_network"])
        network = GraphicsNetwork(GraphicsSize(**settings["size"]))
        scale = LatentScale(**settings["scale"])
        if not 1 <= len(scale.slope) == len(scale.offset) <= len(LATENTS) or 0 in scale.slope:
            raise ValueError(f"a scale of {scale}")
        side = int(network.size.image)
        want = jax.eval_shape(
            lambda: network.init(jax.random.key(0), jnp.zeros((1, side, side, 1)))
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        expected = "expected the file of a network of inverse graphics"
        raise argument_error(str(path), expected, repr(error), "Write it again.") from error
    check_structure(str(path), params, "its settings", want)
    return jax.tree.map(jnp.asarray, params), {"network": network, "scale": scale}
