"""Evaluation of inverse graphics: factors from single entries of the code, and decoded images."""

import functools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.inverse_graphics import training
from experiments.inverse_graphics.data import Data
from experiments.runner.statistics import interval_of_mean
from experiments.runner.timing import seconds_per_call
from jaxcv.io import Model
from jaxcv.metrics.disentanglement import (
    dci,
    explained,
    factorvae_score,
    mutual_information_gap,
    novel_views,
    rows_with_a_fixed_factor,
    sap,
    squared_correlations,
)
from jaxcv.models.inverse_graphics import GraphicsNetwork, sample_code
from jaxcv.systems.inverse_graphics import LatentScale, graphics_loss

__all__ = [
    "Codes",
    "calibrate",
    "codes_of",
    "decode",
    "metrics",
    "model",
    "network_of",
    "scale_of",
    "write_networks",
]

AT_ONCE = 100
TIMED = 20  # images in the timed step
_SCALED = 200  # first training batches, to which the scale of the entries is fitted
_WHOLE_TURN = 2 * np.pi


class Codes(NamedTuple):
    """Codes of the test by a trained network.

    Attributes:
        test: (N, B, D) means of the test batches.
        images: (M, D) means of the images in which all factors vary.
        entries: (E,) the entry for each factor of the scene: its own or, in an entangled code, the
            entry that varies most in the batches of that factor.
    """

    test: np.ndarray
    images: np.ndarray
    entries: np.ndarray


@functools.partial(jax.jit, static_argnames="network")
def _encode(params: Any, pixels: Any, network: GraphicsNetwork) -> Any:
    return network.apply(params, training.as_images(pixels), method="encode")


@functools.partial(jax.jit, static_argnames="network")
def _decode(params: Any, codes: Any, network: GraphicsNetwork) -> jax.Array:
    logits: Any = network.apply(params, codes, method="decode")
    return jax.nn.sigmoid(logits)[..., 0]


def network_of(config: Any, trained: Any, method: str, i: int) -> tuple[Any, GraphicsNetwork]:
    """Parameters of a method's i-th seed, and the network."""
    run, trial = training.trial_of(config, method, i)
    params = jax.tree.map(lambda leaf: leaf[trial], trained[run].params)
    return params, training.make_network(config, trained[run].metadata)


def encode(params: Any, pixels: np.ndarray, network: GraphicsNetwork) -> np.ndarray:
    """Means (..., D) of images (..., S, S) in 8 bits."""
    flat = pixels.reshape(-1, *pixels.shape[-2:])
    parts = [
        np.asarray(_encode(params, flat[k : k + AT_ONCE], network)[0])
        for k in range(0, len(flat), AT_ONCE)
    ]
    return np.concatenate(parts).reshape(*pixels.shape[:-2], -1)


def decode(params: Any, codes: Any, network: GraphicsNetwork) -> np.ndarray:
    """Images (N, S, S) in [0, 1] of codes (N, D)."""
    codes = np.asarray(codes, np.float32)
    parts = [
        np.asarray(_decode(params, codes[k : k + AT_ONCE], network))
        for k in range(0, len(codes), AT_ONCE)
    ]
    return np.concatenate(parts)


def codes_of(config: Any, data: Data, trained: runner.TrainedRuns, method: str, i: int) -> Codes:
    """The codes of the test by a method's i-th seed, cached."""
    return trained.once((method, i), lambda: _codes_of(config, data, trained, method, i))


def _codes_of(config: Any, data: Data, trained: Any, method: str, i: int) -> Codes:
    params, network = network_of(config, trained, method, i)
    test = encode(params, data.test.images, network)
    entries = np.arange(data.test.entries)
    if not training.METHODS[method].clamped:
        spread = [test[data.test.kind == k].var(axis=1).mean(axis=0) for k in entries]
        entries = np.argmax(spread, axis=1)
    return Codes(test, encode(params, data.images.images, network), entries)


def calibrate(config: Any, data: Data, trained: Any) -> dict[str, Any]:
    """The fitted scales of all methods and seeds."""
    scales = {
        method: [_fitted_scale(config, data, trained, method, i) for i in range(config.num_seeds)]
        for method in config.method
    }
    return {"scales": {name: [s._asdict() for s in own] for name, own in scales.items()}}


def scale_of(trained: Any, method: str, i: int) -> LatentScale:
    """Lines from the scene's entries to their factors, fitted to training batches."""
    return LatentScale(**{k: tuple(x) for k, x in trained.metadata["scales"][method][i].items()})


def model(config: Any, trained: Any, trial: int | None, *, method: str | None = None) -> Model:
    """The network of `method` (None: the first), of the seed with the lowest validation error."""
    method = method or str(config.method[0])
    run, _ = training.trial_of(config, method, 0)
    rows = [training.trial_of(config, method, i)[1] for i in range(config.num_seeds)]
    index = runner.chosen_trial(trial, trained[run].history["valid_mse"][-1, rows])
    params, network = network_of(config, trained, method, index)
    settings = {"network": network, "scale": scale_of(trained, method, index)}
    card = {"method": method, "trial": index, "names": trained.metadata["names"]}
    return Model(params, settings, card)


def _fitted_scale(config: Any, data: Data, trained: Any, method: str, i: int) -> LatentScale:
    params, network = network_of(config, trained, method, i)
    some = data.train.take(slice(0, _SCALED))
    codes = encode(params, some.images, network)
    offset, slope = [], []
    for k in range(data.train.entries):
        z, factor = codes[..., k].ravel(), some.factors[..., k].ravel()
        line = np.polyfit(z, factor, 1) if np.ptp(z) > 0 else np.array([1.0, 0.0])
        slope.append(float(line[0]))
        offset.append(float(line[1]))
    return LatentScale(tuple(offset), tuple(slope))


def _is_turn(data: Data, k: int) -> bool:
    """True if the k-th factor is an angle that covers the whole circle."""
    seen = np.unique(data.images.factors[:, k])
    return bool(np.ptp(seen) > 0.95 * _WHOLE_TURN)


def _scores(config: Any, data: Data, trained: Any, method: str, i: int) -> dict[str, float]:
    params, network = network_of(config, trained, method, i)
    codes = codes_of(config, data, trained, method, i)
    factors, entries = data.images.factors, data.test.entries
    discrete = [k >= entries for k in range(factors.shape[1])]
    names = data.test.names
    out: dict[str, float] = {}
    squared = squared_correlations(codes.images, factors[:, :entries])
    pixels = data.test.images / np.float32(255)
    draw = functools.partial(decode, params, network=network)
    for k, name in enumerate(names[:entries]):
        best, own = int(squared[:, k].argmax()), int(codes.entries[k])
        entry = own if training.METHODS[method].clamped else best
        period = _WHOLE_TURN if _is_turn(data, k) else None
        rows = data.test.kind == k
        views = novel_views(draw, codes.test[rows], pixels[rows], own)
        out |= {
            f"corr2_{name}": squared[entry, k],
            f"best_corr2_{name}": squared[best, k],
            f"explained_{name}": explained(codes.images[:, entry], factors[:, k], period=period),
            f"gain_{name}": views.gain,
            f"swap_mse_{name}": views.swap,
            f"copy_mse_{name}": views.copy,
            f"view_mse_{name}": views.reconstruction,
        }
    flat = codes.test.reshape(-1, codes.test.shape[-1])
    wanted = pixels.reshape(-1, *pixels.shape[2:])
    out["reconstruction_mse"] = float(np.mean((draw(flat) - wanted) ** 2))
    out["reconstruction_mse_noise"] = _noisy_error(params, network, data)
    out["mig"] = mutual_information_gap(codes.images, factors, discrete=discrete)
    out["dci"] = dci(codes.images, factors, discrete=discrete).disentanglement
    out["sap"] = sap(codes.images, factors[:, :entries])
    rows, fixed = rows_with_a_fixed_factor(factors, discrete=discrete)
    out["factorvae"] = factorvae_score(codes.images, codes.images[rows], fixed)
    return {key: float(value) for key, value in out.items()}


def _noisy_error(params: Any, network: GraphicsNetwork, data: Data) -> float:
    """Squared error of images decoded from codes with noise, as in the paper's evaluation."""
    errors = []
    for n, pixels in enumerate(data.test.images):
        mean, log_variance = _encode(params, pixels, network)
        code = sample_code(jax.random.fold_in(jax.random.key(0), n), mean, log_variance)
        errors.append(np.mean((np.asarray(_decode(params, code, network)) - pixels / 255.0) ** 2))
    return float(np.mean(errors))


def metrics(config: Any, data: Data, trained: Any) -> dict[str, Any]:
    """Means over the seeds and, with several seeds, also values of each and 95% intervals."""
    out: dict[str, Any] = {}
    for method in config.method:
        each = [_scores(config, data, trained, method, i) for i in range(config.num_seeds)]
        for key in each[0]:
            values = [scores[key] for scores in each]
            out[f"{method}/{key}"] = float(np.mean(values))
            if len(values) > 1:
                out[f"{method}/{key}_of_seeds"] = values
                out |= {
                    f"{method}/{key}_{end}": x
                    for end, x in zip(("low", "high"), interval_of_mean(values), strict=True)
                }
        history = trained[training.trial_of(config, method, 0)[0]].history
        trials = [training.trial_of(config, method, i)[1] for i in range(config.num_seeds)]
        for name in ("spread", "spread_absolute"):
            values = history[name][-1, trials].tolist()
            out[f"{method}/{name}"] = float(np.mean(values))
        if config.data in (
            "chairs",
            "public_chairs",
        ):  # the paper divides by three channels although its images are grey
            out[f"{method}/chairs_reconstruction_mse"] = (
                out[f"{method}/reconstruction_mse_noise"] / 3
            )
    out |= {
        f"{run}/training_minutes": trained[run].seconds / 60 for run in training.programs(config)
    }
    out["step_seconds"] = _step_seconds(config, data, trained)
    mean = data.train.images.mean(axis=(0, 1)) / 255
    out["mean_image/reconstruction_mse"] = float(np.mean((data.test.images / 255 - mean) ** 2))
    return out


def _step_seconds(config: Any, data: Data, trained: Any) -> float:
    """Seconds per gradient of the loss on at most TIMED images, without the optimiser."""
    params, network = network_of(config, trained, config.method[0], 0)
    images = training.as_images(data.train.images[0][:TIMED])

    def loss(params, images):
        key = jax.random.key(0)
        return graphics_loss(params, images, key, network=network)[0]

    step = jax.jit(jax.grad(loss))
    return seconds_per_call(step, params, jnp.asarray(images))


def write_networks(config: Any, data: Data, trained: Any, folder: pathlib.Path) -> None:
    """Writes `<method>.safetensors` for `load_model`, and `<method>.csv`, by each method's model.

    A line of `<method>.csv` is one of the test images in which all factors vary: the true factors,
    and those inferred from the scene's entries.
    """
    for method in config.method:
        own = model(config, trained, trained.trial, method=method)
        runner.save_model(folder / f"{method}.safetensors", own, "inverse_graphics")
        scale, i = own.settings["scale"], own.card["trial"]
        codes = codes_of(config, data, trained, method, i).images[:, : len(scale.slope)]
        found = np.asarray(scale.offset) + np.asarray(scale.slope) * codes
        names = [*data.images.names, *(f"{n}_found" for n in data.images.names[: found.shape[1]])]
        table = np.c_[data.images.factors, found]
        header = ",".join(names)
        np.savetxt(folder / f"{method}.csv", table, "%.6g", ",", header=header, comments="")
