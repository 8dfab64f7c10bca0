"""Evaluation of the monocular stereo: learned rows, Levenberg-Marquardt, classical baselines."""

import functools
import itertools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.monocular_stereo import baselines, training
from experiments.runner.timing import seconds_per_call
from jaxcv.data.stereo import StereoPairs
from jaxcv.io import Model
from jaxcv.metrics.depth import depth_errors, mask_by_second_view
from jaxcv.metrics.motion import rotation_error, translation_error
from jaxcv.solvers.marquardt import MarquardtRule
from jaxcv.systems.stereo import (
    StereoEstimate,
    StereoNetwork,
    in_baselines,
    quarter_views,
    upscale,
)
from jaxcv.systems.stereo_marquardt import StereoMarquardt, solve_stereo_by_marquardt

__all__ = [
    "ITERATIONS", "METRICS", "errors", "estimates", "metrics", "params_of", "tuned_marquardt",
    "write_depths",
]  # fmt: skip

ITERATIONS = (1, 3, 5, 10, 15)
METRICS = ("l1_inv", "sc_inv", "l1_rel", "rotation_deg", "translation_deg")
AT_ONCE = 32
DAMPINGS, PRIORS = (1e-3, 1e-1), (1.0, 10.0, 100.0, 1000.0)


class Found(NamedTuple):
    """Estimates of all test pairs: depths (N, H, W) and motions (N, 4, 4), in baselines."""

    depth: Any
    motion: Any


def errors(found: Found, pairs: StereoPairs, masked: bool = True) -> dict[str, np.ndarray]:
    """The metrics of every pair; `masked`: only over pixels that the second view shows."""
    depth = pairs.depth
    if masked:
        depth = mask_by_second_view(depth, pairs.intrinsics, pairs.motion)
    out = depth_errors(found.depth, depth)
    out["rotation_deg"] = rotation_error(found.motion[:, :3, :3], pairs.motion[:, :3, :3])
    out["translation_deg"] = translation_error(found.motion[:, :3, 3], pairs.motion[:, :3, 3])
    return {name: out[name] for name in METRICS}


def nearest(inverse_depth: Any) -> np.ndarray:
    """Depths (N, H, W) of inverse depths (N, H / 4, W / 4), constant in each 4 x 4 block."""
    return 1 / np.repeat(np.repeat(np.asarray(inverse_depth), 4, axis=-2), 4, axis=-1)


def params_of(trained: Any, row: str, seed: int, stages: Any = training.STAGES) -> Any:
    """Parameters of a row after the last of `stages` that it was trained in."""
    names = [training.run_name(row, stage, seed) for stage in stages]
    last = next(name for name in reversed(names) if name in trained)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], trained[last].params)


_steps = jax.jit(training.estimate_steps, static_argnames="network")
_upscale = jax.jit(upscale, static_argnames="network")


def _chunks(pairs: StereoPairs) -> Iterator[StereoPairs]:
    for i in range(0, len(pairs.depth), AT_ONCE):
        yield jax.tree.map(jnp.asarray, pairs.take(slice(i, i + AT_ONCE)))


def estimates(
    params: Any, pairs: StereoPairs, network: StereoNetwork
) -> tuple[StereoEstimate, np.ndarray]:
    """The first guess and each step, (T + 1, N, ...), and the upscaled inverse depths (N, H, W)."""
    steps, full = [], []
    for some in _chunks(pairs):
        guess, found = _steps(params, some.target, some.source, some.intrinsics, network)
        both = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), guess, found)
        steps.append(jax.device_get(both))
        full.append(np.asarray(_upscale(params, found.inverse_depth[-1], some.target, network)))
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *steps)
    return joined, np.concatenate(full)


def marquardt(
    guess: StereoEstimate, pairs: StereoPairs, settings: dict[str, Any], num_steps: int
) -> StereoEstimate:
    """Levenberg-Marquardt steps from the first guess, (num_steps, N, ...), in baselines.

    The brightness of the views is always matched, also if that of the learned solver is not. With
    the setting `unit` the start has |t| = 1, as that of the learned solver has.
    """
    settings = dict(settings)
    residual, unit = settings.pop("residual"), settings.pop("unit")
    if unit:
        _, motion = in_baselines(jnp.asarray(guess.inverse_depth), jnp.asarray(guess.motion))
        guess = guess._replace(motion=motion)
    out = []
    for i, some in enumerate(_chunks(pairs)):
        rows = slice(i * AT_ONCE, (i + 1) * AT_ONCE)
        start = jax.tree.map(lambda leaf: jnp.asarray(leaf[rows]), guess)  # noqa: B023
        views = quarter_views(some.target, some.source[:, None], some.intrinsics, residual, True)
        found = solve_stereo_by_marquardt(
            views, start, StereoMarquardt(**settings), num_steps=num_steps
        )
        out.append(jax.device_get(jax.vmap(in_baselines)(found.inverse_depth, found.motion)))
    parts = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *out)
    return StereoEstimate(*parts)


def tuned_marquardt(config: Any, params: Any) -> dict[str, tuple[dict[str, Any], int]]:
    """Row -> (settings, iteration to stop at) of the lowest training loss on the tuning pairs."""
    some = training.tuning_pairs(config)
    guess, _ = estimates(params, some, training.network_of(config)._replace(num_steps=1))
    start = jax.tree.map(lambda leaf: leaf[0], guess)
    grids = {
        "lm": list(itertools.product(("grey", "rgb"), (False, True), DAMPINGS, (0.0,))),
        "lm_prior": list(itertools.product(("grey", "rgb"), (False, True), DAMPINGS, PRIORS)),
    }
    best = {}
    for name, grid in grids.items():
        tried = []
        for residual, unit, damping, prior in grid:
            rule = MarquardtRule(damping, 3.0, 2.0)
            settings = {"residual": residual, "unit": unit, "rule": rule, "prior_weight": prior}
            found = marquardt(start, some, settings, max(ITERATIONS))
            scores = _scores(config, found, some)
            k = int(np.argmin(scores))
            tried.append((float(scores[k]), k + 1, settings))
        least = min(tried, key=lambda one: one[0])
        best[name] = least[2], least[1]
    return best


def _scores(config: Any, found: StereoEstimate, pairs: StereoPairs) -> np.ndarray:
    """The training loss (T,) of estimates (T, N, ...)."""
    true = training.quarter_depth(pairs.depth)
    depth, logs = zip(*(training.depth_loss(z, true) for z in found.inverse_depth), strict=True)
    rotation, translation = training.motion_loss(found.motion[:, :, 0], pairs.motion)
    total = config.depth_weight * np.stack(depth) + config.log_weight * np.stack(logs)
    total = total + config.rotation_weight * np.asarray(rotation) + np.asarray(translation)
    return np.asarray(total).mean(axis=1)


def metrics(config: Any, data: Any, trained: Any) -> dict[str, Any]:
    """`<row>/<metric>`, means over the test pairs, a list over seeds; `<row>/ms_an_iteration`."""
    out: dict[str, Any] = {}
    pairs = data.test
    if not len(pairs.depth) or not np.isfinite(pairs.depth).any():
        hint = "Use --mode=predict for pairs without ground truth."
        raise runner.data_error("data", "expected pairs with depth and motion", "none", hint)

    def put(row, found):
        # DeMoN's benchmark scores all pixels of nyu2, whose motions are only estimates.
        for name, values in errors(found, pairs, config.data != "nyu2").items():
            out.setdefault(f"{row}/{name}", []).append(float(np.nanmean(values)))

    for name, found in baselines.all_baselines(pairs, training.tuning_pairs(config)).items():
        put(name, Found(*found))

    def put_steps(label, network, params):
        steps, full = estimates(params, pairs, network)
        kept = [k for k in (0, *ITERATIONS) if k <= network.num_steps]
        for k in kept:
            found = Found(nearest(steps.inverse_depth[k]), steps.motion[k, :, 0])
            put("init" if label == "lsnet" and k == 0 else f"{label}_{k}", found)
        return steps, full

    for seed in range(config.seed, config.seed + config.num_seeds):
        for name, row in training.rows_of(config, seed).items():
            last = training.in_stage(config, row.network, row.stages[-1])
            steps, full = put_steps(name, last, params_of(trained, name, seed))
            if name != "lsnet":
                found = Found(nearest(steps.inverse_depth[-1]), steps.motion[-1, :, 0])
                put(name, found)
                continue
            put("lsnet_upscaled", Found(1 / full, steps.motion[-1, :, 0]))
            # For comparison with the rows that end after the stage `few`.
            if config.ablations and seed == config.seed:
                few = training.in_stage(config, row.network, "few")
                put_steps("lsnet_few", few, params_of(trained, name, seed, training.STAGES[:2]))
            before = params_of(trained, name, seed, training.STAGES[:3])
            early = steps
            if config.joint:
                early, _ = put_steps("lsnet_before_joint", row.network, before)
            start = jax.tree.map(lambda leaf: leaf[0], early)
            _put_marquardt(config, data, before, start, put, out)
    for name, run in trained.items():
        out[f"{name}/training_seconds"] = run.seconds
    return out | _times(config, data, trained)


def _put_marquardt(config: Any, data: Any, params: Any, start: Any, put: Any, out: Any) -> None:
    """Puts `lm` and `lm_prior` at the tuned iteration and at all ITERATIONS, and their times."""
    one, first = data.test.take(slice(0, 1)), jax.tree.map(lambda leaf: leaf[:1], start)
    for name, (settings, stop) in tuned_marquardt(config, params).items():
        found = marquardt(start, data.test, settings, max(ITERATIONS))
        at = lambda k: Found(nearest(found.inverse_depth[k - 1]), found.motion[k - 1, :, 0])  # noqa: B023
        put(name, at(stop))
        for k in ITERATIONS:
            put(f"{name}_{k}", at(k))
        numbers = {
            "stop": stop, "prior_weight": settings["prior_weight"],
            "damping": settings["rule"].initial, "rgb": float(settings["residual"] == "rgb"),
            "unit": float(settings["unit"]),
        }  # fmt: skip
        for key, value in numbers.items():
            out.setdefault(f"{name}/tuned_{key}", []).append(float(value))
        if f"{name}/ms_an_iteration" not in out:
            run = functools.partial(marquardt, first, one, settings)
            out[f"{name}/ms_an_iteration"] = _ms_an_iteration(run)


def _ms_an_iteration(run: Callable[[int], Any]) -> float:
    """Milliseconds per step of `run(num_steps)`: (16 steps - 1 step) / 15."""
    return 1e3 * (seconds_per_call(run, 16) - seconds_per_call(run, 1)) / 15


def _times(config: Any, data: Any, trained: Any) -> dict[str, float]:
    """`<row>/ms_an_iteration` for a single pair, on all threads."""
    one = jax.tree.map(jnp.asarray, data.test.take(slice(0, 1)))
    out = {}
    for name, row in training.rows(config).items():
        params = params_of(trained, name, config.seed)

        def run(count, params=params, network=row.network):
            views = one.target, one.source, one.intrinsics
            return _steps(params, *views, network._replace(num_steps=count))

        out[f"{name}/ms_an_iteration"] = _ms_an_iteration(run)
    return out


def model(config: Any, trained: Any, trial: int | None) -> Model:
    """LS-Net after its last stage, of the seed with the lowest loss at the end of that stage."""
    seeds = range(config.seed, config.seed + config.num_seeds)
    last = [training.run_name("lsnet", training.STAGES[-1], seed) for seed in seeds]
    index = runner.chosen_trial(trial, [runner.last_loss(trained[name])[0] for name in last])
    params = params_of(trained, "lsnet", seeds[index])
    return Model(params, {"network": training.network_of(config)}, {})


def write_depths(config: Any, data: Any, trained: Any, folder: pathlib.Path) -> None:
    """Writes depths.npz: `depth`, `motion` and the first `guess` of the depth, in baselines."""
    own = model(config, trained, trained.trial)
    params, network = own.params, own.settings["network"]
    steps, full = estimates(params, data.test, network)
    arrays = {"depth": 1 / full, "motion": steps.motion[-1, :, 0]}
    runner.write_npz(folder / "depths.npz", arrays | {"guess": 1 / steps.inverse_depth[0]})
