"""Trained stereo networks in files."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxcv.checks import argument_error, check_structure
from jaxcv.models import ls_net
from jaxcv.systems.stereo import StereoNetwork, init_stereo_network
from jaxcv.training.arrays import as_tuples, load_arrays, save_arrays

__all__ = ["load_stereo_network", "save_stereo_network"]


def save_stereo_network(path: Any, params: Any, network: StereoNetwork) -> None:
    """Writes weights and settings to one .npz file, for `load_stereo_network`.

    Args:
        path: ends in .npz.
        params: {initial, solver, upscaler}.
        network: that they belong to.
    """
    fields = network._asdict() | {"size": network.size._asdict()}
    save_arrays(path, params, {"stereo_network": fields})


def load_stereo_network(path: Any) -> tuple[Any, StereoNetwork]:
    """Weights and settings that `save_stereo_network` wrote.

    Raises:
        ValueError: another file, or weights that do not belong to the settings.
    """
    params, about = load_arrays(path)
    try:
        fields = as_tuples(about["stereo_network"])
        network = StereoNetwork(**fields | {"size": ls_net.Size(**fields["size"])})
        want = jax.eval_shape(lambda: init_stereo_network(jax.random.key(0), network))
    except (KeyError, TypeError, AttributeError) as error:
        expected = "expected the file of a stereo network"
        raise argument_error(str(path), expected, repr(error), "Write it again.") from error
    check_structure(str(path), params, "its settings", want)
    return jax.tree.map(jnp.asarray, params), network
