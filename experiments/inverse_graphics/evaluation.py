"""Evaluation of inverse graphics: factors from single entries of the code, and decoded images."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.inverse_graphics import training
from experiments.inverse_graphics.config import FAMILIES, METHODS
from experiments.inverse_graphics.data import Data
from experiments.runner.statistics import interval_of_mean
from experiments.runner.timing import seconds_per_call
from jaxcv.io import Model
from jaxcv.metrics.disentanglement import (
    NovelViews,
    cyclic_correlation,
    dci,
    distinct_views,
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
    "sweep_of",
]

AT_ONCE = 100
TIMED = 20  # images in the timed step
_SCALED = 200  # first training batches, to which the scale of the entries is fitted
_CHOSEN = 50  # training batches of a factor, by which an entangled code's entry is chosen
_LEAST_GAP = 0.1  # of the mean image's error: copy - reconstruction below it gives no gain
_WHOLE_TURN = 2 * np.pi
_SWEPT = 60  # steps of a sweep, as many as the paper's chairs have views
_SWEEPS = 20  # heads or chairs, at most
_ENDS = (2, 98)  # percentiles of an entry: the ends of its sweep
_SCORES = ("mig", "dci", "sap", "factorvae")


class Codes(NamedTuple):
    """Codes of the test by a trained network.

    Attributes:
        test: (N, B, D) means of the test batches.
        images: (M, D) means of the images in which all factors vary.
        entries: (E,) the entry for each factor of the scene: its own or, in a code whose entries
            the training does not assign, the one that varies most within the training batches of
            that factor.
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
    if not METHODS[method].assigned:
        batches = [np.flatnonzero(data.train.kind == k)[:_CHOSEN] for k in entries]
        some = [encode(params, data.train.images[rows], network) for rows in batches]
        entries = np.array([each.var(axis=1).mean(axis=0).argmax() for each in some])
    return Codes(test, encode(params, data.images.images, network), entries)


def calibrate(config: Any, data: Data, trained: Any) -> dict[str, Any]:
    """The fitted scales of all methods and seeds."""
    scales = {
        method: [_fitted_scale(config, data, trained, method, i) for i in range(config.num_seeds)]
        for method in config.method
    }
    return {"scales": {name: [s._asdict() for s in own] for name, own in scales.items()}}


def scale_of(trained: Any, method: str, i: int) -> LatentScale:
    """Lines from the scene's entries to their factors, fitted to `Data.labelled` images."""
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
    some = data.labelled(_SCALED)
    codes = encode(params, some.images, network)
    offset, slope = [], []
    for k in range(data.train.entries):
        z, factor = codes[:, k], some.factors[:, k]
        line = np.polyfit(z, factor, 1) if np.ptp(z) > 0 else np.array([1.0, 0.0])
        slope.append(float(line[0]))
        offset.append(float(line[1]))
    return LatentScale(tuple(offset), tuple(slope))


def _is_turn(data: Data, k: int) -> bool:
    """True if the k-th factor is an angle that covers the whole circle."""
    seen = np.unique(data.images.factors[:, k])
    return bool(np.ptp(seen) > 0.95 * _WHOLE_TURN)


def sweep_of(codes: Codes, entry: int, steps: int = _SWEPT) -> np.ndarray:
    """Values (steps,) over the range of an entry in the images in which all factors vary."""
    low, high = np.percentile(codes.images[:, entry], _ENDS)
    return np.linspace(low, high, steps)


def one_sided_lines(code: np.ndarray, factor: np.ndarray) -> dict[str, float]:
    """Lines of a latent against its factor below 0 and above, as the paper looks for a switch at 0.

    Returns:
        `slope_left` and `slope_right`, in standard deviations of the latent per unit of the factor,
        and `jump`, the right line minus the left at 0, in standard deviations; signs such that the
        latent rises with the factor. nan for a constant latent.
    """
    sides = [factor < 0, factor >= 0]
    names = ("slope_left", "slope_right", "jump")
    if np.std(code) == 0 or min(len(np.unique(factor[side])) for side in sides) < 2:
        return dict.fromkeys(names, float("nan"))
    z = (code - code.mean()) / code.std()
    z = z if np.corrcoef(z, factor)[0, 1] >= 0 else -z
    left, right = (np.polyfit(factor[side], z[side], 1) for side in sides)
    return dict(zip(names, map(float, (left[0], right[0], right[1] - left[1])), strict=True))


def _mean_image_error(data: Data) -> float:
    mean = data.train.images.mean(axis=(0, 1)) / 255
    return float(np.mean((data.test.images / 255 - mean) ** 2))


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
    views_of = functools.partial(
        novel_views, draw, smallest_gap=_LEAST_GAP * _mean_image_error(data)
    )
    for k, name in enumerate(names[:entries]):
        best, entry = int(squared[:, k].argmax()), int(codes.entries[k])
        turn, code = _is_turn(data, k), codes.images[:, entry]
        rows = data.test.kind == k
        views: NovelViews = views_of(codes.test[rows], pixels[rows], entry)
        period = _WHOLE_TURN if turn else None
        out |= {
            f"corr2_{name}": squared[entry, k],
            f"best_corr2_{name}": squared[best, k],
            f"explained_{name}": explained(code, factors[:, k], period=period),
            f"gain_{name}": views.gain,
            f"swap_mse_{name}": views.swap,
            f"copy_mse_{name}": views.copy,
            f"view_mse_{name}": views.reconstruction,
        }
        if turn:
            out[f"cyclic_corr2_{name}"] = cyclic_correlation(code, factors[:, k])
        else:
            lines = one_sided_lines(code, factors[:, k])
            out |= {f"{key}_{name}": value for key, value in lines.items()}
        out |= _beyond(config, data, codes, k, functools.partial(views_of, entry=entry))
    out |= _smoothness(data, codes, draw)
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


def _smoothness(data: Data, codes: Codes, draw: Any) -> dict[str, float]:
    """`distinct_views` of a sweep of the first factor's entry, and the fraction of smooth sweeps.

    A sweep of _SWEPT steps is smooth if half of its images or more count as distinct; else a few
    key views do most of the change.
    """
    name, entry = data.test.names[0], int(codes.entries[0])
    counts = []
    for k in np.unique(data.images.factors[:, -1])[:_SWEEPS]:
        first = np.flatnonzero(data.images.factors[:, -1] == k)[0]
        swept = np.repeat(codes.images[first][None], _SWEPT, axis=0)
        swept[:, entry] = sweep_of(codes, entry)
        counts.append(distinct_views(draw(swept)))
    smooth = np.mean(np.array(counts) >= 0.5 * _SWEPT)
    return {f"distinct_views_{name}": float(np.mean(counts)), f"smooth_{name}": float(smooth)}


def _beyond(config: Any, data: Data, codes: Codes, k: int, views_of: Any) -> dict[str, float]:
    """Scores of the k-th factor within the ranges of the training and beyond them.

    `corr2` beyond is the mean over both sides, since two separate sides correlate by their signs
    alone. `error` [rad] is the mean of a line that is fitted to the images within. The gain is that
    from a view within to the views on each side of the limit.
    """
    names = data.test.names[: data.test.entries]
    limits = np.full(len(names), np.inf)
    for n, name in enumerate(names):
        test = getattr(config, f"test_{name}", None)
        if test is not None and test > getattr(config, name):
            limits[n] = getattr(config, name)
    if config.data != "faces" or not np.isfinite(limits[k]):
        return {}
    outside = np.abs(data.images.factors[:, : len(names)]) > limits
    others = ~np.delete(outside, k, axis=1).any(axis=1)
    factor, code = data.images.factors[:, k], codes.images[:, int(codes.entries[k])]
    within = others & ~outside[:, k]
    line = np.polyfit(code[within], factor[within], 1)
    error = np.abs(np.polyval(line, code) - factor)
    r2 = lambda rows: squared_correlations(code[rows, None], factor[rows, None])[0, 0]
    sides = [others & outside[:, k] & (np.sign(factor) == sign) for sign in (-1, 1)]
    out = {
        f"within_corr2_{names[k]}": r2(within),
        f"beyond_corr2_{names[k]}": np.mean([r2(side) for side in sides]),
        f"within_error_{names[k]}": error[within].mean(),
        f"beyond_error_{names[k]}": error[sides[0] | sides[1]].mean(),
    }
    return out | _gains_beyond(data, codes, k, limits, views_of)


def _gains_beyond(
    data: Data, codes: Codes, k: int, limits: np.ndarray, views_of: Any
) -> dict[str, float]:
    outside = np.abs(data.test.factors[..., : len(limits)]) > limits
    others = ~np.delete(outside, k, axis=2).any(axis=(1, 2))
    rows = np.flatnonzero((data.test.kind == k) & others & ~outside[..., k].all(axis=1))
    order = np.argsort(outside[rows, :, k], axis=1, kind="stable")  # begin with a view within
    test, pixels = codes.test[rows[:, None], order], data.test.images[rows[:, None], order]
    after = outside[rows[:, None], order, k][:, 1:]
    out = {}
    for word, scored in (("within", ~after), ("beyond", after)):
        if scored.any():
            views: NovelViews = views_of(test, pixels / np.float32(255), scored=scored)
            out[f"{word}_gain_{data.test.names[k]}"] = views.gain
    return out


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
        if config.data in ("chairs", "public_chairs"):  # as the paper prints it: per pixel
            out[f"{method}/chairs_mse"] = out[f"{method}/reconstruction_mse"]
            # A guess at the paper's number: with noise, and divided by three channels.
            out[f"{method}/chairs_mse_noise_third"] = out[f"{method}/reconstruction_mse_noise"] / 3
    out |= _differences(config, out) | _best_of_families(config, out)
    out |= {
        f"{run}/training_minutes": trained[run].seconds / 60 for run in training.programs(config)
    }
    out["step_seconds"] = _step_seconds(config, data, trained)
    out["mean_image/reconstruction_mse"] = _mean_image_error(data)
    return out


def _differences(config: Any, metrics: Any) -> dict[str, Any]:
    """The first method's scores minus each other's, paired by seed, with 95% intervals."""
    first, out = config.method[0], {}
    for other in config.method[1:] if config.num_seeds > 1 else ():
        for key in _SCORES:
            pair = (np.array(metrics[f"{name}/{key}_of_seeds"]) for name in (first, other))
            difference = np.subtract(*pair)
            stem = f"{first}_minus_{other}/{key}"
            low, high = interval_of_mean(difference)
            out |= {stem: float(difference.mean()), f"{stem}_low": low, f"{stem}_high": high}
    return out


def _best_of_families(config: Any, metrics: Any) -> dict[str, Any]:
    """The best beta of each family of competitors for each score, and if it is an end of the grid.

    The choice is by the test, in favour of the competitors.
    """
    out: dict[str, Any] = {}
    for family in FAMILIES:
        betas = {
            METHODS[name].beta: name for name in config.method if name.startswith(f"{family}_")
        }
        if len(betas) < 3:
            continue
        for key in _SCORES:
            values = {beta: metrics[f"{name}/{key}"] for beta, name in betas.items()}
            best = max(values, key=lambda beta: values[beta])
            out |= {
                f"{family}/best_{key}": values[best],
                f"{family}/best_{key}_beta": best,
                f"{family}/best_{key}_at_end": best in (min(betas), max(betas)),
            }
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
