"""Trained networks of relative pose in files."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.checks import argument_error, check_structure
from jaxcv.models.relative_pose import MatchHead, PoseNetwork
from jaxcv.systems.two_view import MATCH_NUMBERS, PoseScales
from jaxcv.training.arrays import as_tuples, load_arrays, save_arrays

__all__ = ["load_relative_pose_network", "save_relative_pose_network"]


def save_relative_pose_network(
    path: Any, params: Any, network: PoseNetwork, head: MatchHead, shape: tuple[int, int]
) -> None:
    """Writes weights and sizes to one .npz file.

    Args:
        path: ends in .npz.
        params: {"network", "head", "scales": PoseScales}.
        network: that they belong to.
        head: that they belong to.
        shape: (H, W) of the images that it was trained on.
    """
    fields = ("net", "trunk", "width", "rotation", "spp_rule", "normalised", "shape")
    settings = {
        "network": {name: getattr(network, name) for name in fields},
        "head": {name: getattr(head, name) for name in ("context", "hidden")},
        "shape": list(shape),
    }
    scales = PoseScales(*params["scales"])._asdict()
    tree = {**params, "scales": {name: np.asarray(x) for name, x in scales.items()}}
    save_arrays(path, tree, {"relative_pose_network": settings})


def load_relative_pose_network(path: Any) -> tuple[Any, dict[str, Any]]:
    """Weights and settings that `save_relative_pose_network` wrote.

    Returns:
        params, and the keyword arguments of `relative_pose` (network, head, shape):
        `relative_pose(image1, image2, K1, K2, params=params, **settings)`.

    Raises:
        ValueError: another file, or weights that do not belong to the settings.
    """
    params, about = load_arrays(path)
    try:
        settings = as_tuples(about["relative_pose_network"])
        network = PoseNetwork(**settings["network"])
        head = MatchHead(**settings["head"])
        height, width = settings["shape"]
        image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
        want = jax.eval_shape(lambda a: _init(network, head, a), image)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        expected = "expected the file of a network of relative pose"
        raise argument_error(str(path), expected, repr(error), "Write it again.") from error
    check_structure(str(path), params, "its settings", want)
    params = jax.tree.map(jnp.asarray, params)
    params["scales"] = PoseScales(**params["scales"])
    return params, {"network": network, "head": head, "shape": (height, width)}


def _init(network: PoseNetwork, head: MatchHead, image: Any) -> Any:
    key = jax.random.key(0)
    own: Any = network.init(key, image, image)
    both: Any = network.apply(own, image, image, method="both_features")
    scales = PoseScales(jnp.zeros(2), jnp.zeros(()), jnp.zeros(()))._asdict()
    return {
        "network": own,
        "head": head.init(key, both, jnp.zeros((1, 1, MATCH_NUMBERS))),
        "scales": scales,
    }
