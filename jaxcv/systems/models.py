"""Saves, loads and checks the trained models of every system."""

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.checks import argument_error, check_choice, check_structure
from jaxcv.energies.hand import HandScales
from jaxcv.energies.human_pose import PoseModel, PoseParameters, initial_parameters
from jaxcv.energies.human_pose_readout import PoseReadout, initial_readout
from jaxcv.energies.tracker_fusion import FusionParameters
from jaxcv.io import networks
from jaxcv.io.networks import Model
from jaxcv.models import ls_net
from jaxcv.models.curve_solver import CurveSolver
from jaxcv.models.hand_pose import CHANNELS, HandNetwork
from jaxcv.models.inverse_graphics import GraphicsNetwork, GraphicsSize
from jaxcv.models.relative_pose import MatchHead, PoseNetwork
from jaxcv.systems.curve_fitting import init_curve_solver
from jaxcv.systems.hand_pose import ColorScale
from jaxcv.systems.inverse_graphics import LATENTS, LatentScale
from jaxcv.systems.stereo import StereoNetwork, init_stereo_network
from jaxcv.systems.two_view import MATCH_NUMBERS, PoseScales

__all__ = ["SYSTEMS", "TYPES", "load_model", "on_device", "save_model"]

# Classes of parameters and settings that a file may contain.
TYPES: tuple[type, ...] = (
    ColorScale, CurveSolver, FusionParameters, GraphicsNetwork, GraphicsSize, HandNetwork,
    HandScales, LatentScale, MatchHead, PoseModel, PoseNetwork, PoseParameters, PoseReadout,
    PoseScales, StereoNetwork, ls_net.Size,
)  # fmt: skip
FILE = "model.safetensors"  # in a folder `model`


def _hand_pose(settings: Mapping[str, Any], params: Any) -> Any:
    del params
    network, side = settings["network"], int(settings["side"])
    crops = [jnp.zeros((1, side, side, CHANNELS[kind])) for kind in network.images]
    return network.init(jax.random.key(0), *crops)


def _inverse_graphics(settings: Mapping[str, Any], params: Any) -> Any:
    del params
    network, scale = settings["network"], settings["scale"]
    if not 1 <= len(scale.slope) == len(scale.offset) <= len(LATENTS) or 0 in scale.slope:
        raise ValueError(f"a scale of {scale}")
    side = int(network.size.image)
    return network.init(jax.random.key(0), jnp.zeros((1, side, side, 1)))


def _relative_pose(settings: Mapping[str, Any], params: Any) -> Any:
    del params
    network, head = settings["network"], settings["head"]
    height, width = settings["shape"]
    key, image = jax.random.key(0), jnp.zeros((1, height, width, 3))
    own = network.init(key, image, image)
    both = network.apply(own, image, image, method="both_features")
    return {
        "network": own,
        "head": head.init(key, both, jnp.zeros((1, 1, MATCH_NUMBERS))),
        "scales": PoseScales(jnp.zeros(2), jnp.zeros(()), jnp.zeros(())),
    }


def _monocular_stereo(settings: Mapping[str, Any], params: Any) -> Any:
    del params
    return init_stereo_network(jax.random.key(0), settings["network"])


def _curve_fitting(settings: Mapping[str, Any], params: Any) -> Any:
    del params
    return init_curve_solver(jax.random.key(0), settings["network"])


def _tracker_fusion(settings: Mapping[str, Any], params: Any) -> Any:
    del settings
    count = np.shape(params.log_width)[-1]
    return FusionParameters(*(jnp.zeros((2, count)) for _ in FusionParameters._fields))


def _human_pose(settings: Mapping[str, Any], params: Any) -> Any:
    del settings
    model = PoseModel(*params["model"])
    out: dict[str, Any] = {"model": model, "parameters": initial_parameters(model)}
    if "readout" in params:  # of the energy for one camera
        out["readout"] = initial_readout(model)
    return out


def _robust_mean(settings: Mapping[str, Any], params: Any) -> Any:
    del settings, params
    return {"scale": jnp.zeros(())}


# System -> template of the parameters' tree and shapes, from (settings, params).
SYSTEMS: dict[str, Callable[[Mapping[str, Any], Any], Any]] = {
    "curve_fitting": _curve_fitting,
    "hand_pose": _hand_pose,
    "human_pose": _human_pose,
    "inverse_graphics": _inverse_graphics,
    "monocular_stereo": _monocular_stereo,
    "relative_pose": _relative_pose,
    "robust_mean": _robust_mean,
    "tracker_fusion": _tracker_fusion,
}


def save_model(path: str | os.PathLike[str], model: Model) -> None:
    """Writes a model to one safetensors file, atomically.

    Args:
        path: of the file.
        model: `card["system"]` is one of SYSTEMS.

    Raises:
        ValueError: an unknown system, parameters that do not match the settings, or a file that
            cannot be written.
    """
    _check("model", model)
    card = {**model.card, "settings": networks.save_settings(model.settings, TYPES)}
    networks.write_tree(path, {"params": model.params}, card, TYPES)


def load_model(path: str | os.PathLike[str], *, system: str | None = None) -> Model:
    """Loads a model that `save_model` or a training run wrote.

    Args:
        path: of the file, of a run's folder `model`, or of its work folder.
        system: the expected system; None: any.

    Returns:
        The parameters, and the keyword arguments of the system's function:
        `model = load_model("runs/hand_pose")`, then
        `predict_hand(depth, intrinsics, model.params, **model.settings)`.

    Raises:
        ValueError: not a model file, a damaged one, a model of another system, or parameters that
            do not match the settings or are not finite.
    """
    path = _file_of(pathlib.Path(path).expanduser())
    tree, card = networks.read_tree(path, TYPES)
    expected, hint = "expected the file of a model", "Write it again."
    try:
        settings = networks.restore_settings(card.pop("settings"), TYPES)
        model = Model(tree["params"], dict(settings), card)
        found = card["system"]
    except (KeyError, TypeError, ValueError) as error:
        got = f"{type(error).__name__}: {error}"
        raise argument_error(str(path), expected, got, hint) from error
    if system is not None and found != system:
        expected = f"expected a model of the system {system!r}"
        raise argument_error(str(path), expected, repr(found))
    _check(str(path), model)
    for where, leaf in jax.tree_util.tree_leaves_with_path(model.params):
        if not np.all(np.isfinite(leaf)):
            name = str(path) + jax.tree_util.keystr(where)
            hint = "The training diverged: train again with smaller steps."
            raise argument_error(name, "expected finite parameters", "nan or inf", hint)
    return model._replace(params=jax.tree.map(on_device, model.params))


def _file_of(path: pathlib.Path) -> pathlib.Path:
    for inside in (pathlib.Path("model", FILE), pathlib.Path(FILE)):
        if os.path.isfile(path / inside):  # False for names that are too long
            return path / inside
    if os.path.isdir(path):
        hint = "Finish the training: the same command resumes it."
        raise argument_error(str(path), f"expected a folder with model/{FILE}", "none", hint)
    return path


def _check(name: str, model: Model) -> None:
    """Raises ValueError unless the parameters match the settings."""
    check_choice(f"{name}: system", model.card.get("system"), tuple(SYSTEMS))
    template = SYSTEMS[model.card["system"]]
    try:
        want = jax.eval_shape(lambda: template(model.settings, model.params))
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        expected = f"expected settings of the system {model.card['system']!r}"
        got = f"{type(error).__name__}: {error}".splitlines()[0]
        raise argument_error(name, expected, got, "Write it again.") from error
    check_structure(name, model.params, "its settings", want)


def on_device(array: Any) -> Any:
    """A JAX array; NumPy's own where JAX would cut it to 32 bits."""
    return jnp.asarray(array) if jnp.result_type(array) == np.asarray(array).dtype else array
