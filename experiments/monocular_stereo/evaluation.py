"""Evaluation of the monocular stereo: learned rows, Levenberg-Marquardt, classical baselines."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.monocular_stereo import baselines, training
from experiments.monocular_stereo import config as settings
from experiments.monocular_stereo.marquardt import (
    Settings,
    marquardt,
    started,
    tuned_marquardt,
)
from experiments.monocular_stereo.scores import (
    METRICS,
    Found,
    chunks,
    energies,
    errors,
    true_energies,
    truth_of,
)
from experiments.runner.timing import seconds_per_call
from jaxcv.data.stereo import StereoPairs
from jaxcv.io import Model
from jaxcv.metrics.tracking import paired_bootstrap
from jaxcv.systems.stereo import RANGE, StereoEstimate, StereoNetwork, upscale

__all__ = [
    "ITERATIONS", "METRICS", "Scores", "enlarged", "estimates", "metrics", "model", "params_of",
    "write_depths",
]  # fmt: skip

ITERATIONS = (1, 3, 5, 10, 15)
EPSILONS = (0.01, 0.03, 0.1)  # thresholds of the early stop
COMPARED = (  # pairs of rows whose errors are compared pair by pair
    *(("lsnet_15", other) for other in ("init", "sift", "flow", "klt", "lm", "lm_prior",
      "sweep_sift", "sgm_sift", "sweep_flow", "sgm_flow", "proposals_15")),
    *(("jacobian_15", other) for other in ("init", "recurrent_refinement_15", "refinement_15",
      "lsnet_15", "lm_prior", "no_priors_15", "paper_15", "algorithm_1_15", "gradient_15")),
    ("lsnet_upscaled", "lsnet_bilinear"), ("lsnet_upscaled", "lsnet_bicubic"),
    ("lsnet_15", "additive_15"), ("lsnet_15", "at_once"),
)  # fmt: skip


def nearest(inverse_depth: Any) -> np.ndarray:
    """Depths (N, H, W) of inverse depths (N, H / 4, W / 4), constant in each 4 x 4 block."""
    return 1 / np.repeat(np.repeat(np.asarray(inverse_depth), 4, axis=-2), 4, axis=-1)


def enlarged(inverse_depth: Any, method: str) -> np.ndarray:
    """Depths (N, H, W) of inverse depths (N, H / 4, W / 4), by `linear` or `cubic` interpolation.

    An inverse depth stands at the centre of its 4 x 4 block.
    """
    n, height, width = np.shape(inverse_depth)
    z = jax.image.resize(jnp.asarray(inverse_depth), (n, 4 * height, 4 * width), method)
    return 1 / np.clip(np.asarray(z), *RANGE)


def params_of(trained: Any, row: str, seed: int, stages: Any = None) -> Any:
    """Parameters of a row after the last of `stages` (all) that it was trained in.

    A row without a training has the parameters of the first guess, whose solver is untrained.
    """
    stages = (*settings.STAGES, settings.TOGETHER) if stages is None else stages
    names = [settings.run_name(row, stage, seed) for stage in stages]
    last = next(name for name in reversed(names) if name in trained)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], trained[last].params)


_steps = jax.jit(training.estimate_steps, static_argnames="network")
_upscale = jax.jit(upscale, static_argnames="network")


def estimates(
    params: Any, pairs: StereoPairs, network: StereoNetwork
) -> tuple[StereoEstimate, np.ndarray]:
    """The first guess and each step, (T + 1, N, ...), and the upscaled inverse depths (N, H, W)."""
    steps, full = [], []
    for some in chunks(pairs):
        guess, found = _steps(params, some.target, some.source, some.intrinsics, network)
        both = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), guess, found)
        steps.append(jax.device_get(both))
        full.append(np.asarray(_upscale(params, found.inverse_depth[-1], some.target, network)))
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *steps)
    return joined, np.concatenate(full)


class Scores:
    """Collects the errors of rows: `out` has means over pairs, a list over seeds.

    Args:
        pairs: the test pairs.
        masked: whether only pixels count that the second view shows.
    """

    def __init__(self, pairs: StereoPairs, masked: bool):
        self.pairs, self.out = pairs, {}
        self._truth = truth_of(pairs, masked)
        self._by_pair: dict[str, list[np.ndarray]] = {}
        self.out["truth/energy"] = [float(np.nanmean(true_energies(pairs)))]

    def add(self, row: str, found: Found) -> None:
        """Adds the errors of an estimate."""
        self._put(row, errors(found, self._truth))

    def add_at(self, row: str, found: Found, truth: Any, scale: int) -> None:
        """Adds the errors of an estimate on images that are `scale` times larger."""
        self._put(row, errors(found, truth, scale))

    def add_steps(
        self, steps: StereoEstimate, names: dict[int, str], start: StereoEstimate | None = None
    ) -> None:
        """Adds errors and energies of the steps (T, N, ...) that have a name.

        Args:
            steps: estimates.
            names: step -> row.
            start: (N, ...), the start of the energy; None: step 0.
        """
        pairs, kept = self.pairs, sorted(names)
        take = lambda k: (steps.inverse_depth[k], steps.motion[k, :, 0])
        first = take(0) if start is None else (start.inverse_depth, start.motion[:, 0])
        z, motion = map(np.stack, zip(first, *(take(k) for k in kept), strict=True))
        energy, visible = energies(pairs, z, motion)
        for k, own, seen in zip(kept, energy[1:], visible[1:], strict=True):
            row = names[k]
            self.add(row, Found(nearest(steps.inverse_depth[k]), steps.motion[k, :, 0]))
            both = np.isfinite(own) & np.isfinite(energy[0])
            self.append(f"{row}/energy", np.nanmean(own))
            self.append(f"{row}/start_energy", np.nanmean(energy[0]))
            self.append(f"{row}/energy_falls", np.mean((own < energy[0])[both]))
            self.append(f"{row}/visible", np.mean(seen))

    def compare(self) -> None:
        """Adds `<a>_minus_<b>/<metric>_{change,low,high}`: differences by pair, 95% intervals.

        The errors of a pair are means over the seeds; the pairs are resampled.
        """
        for a, b in COMPARED:
            for metric in METRICS:
                keys = f"{a}/{metric}", f"{b}/{metric}"
                if not all(key in self._by_pair for key in keys):
                    continue
                first, second = (np.mean(self._by_pair[key], axis=0) for key in keys)
                known = np.isfinite(first) & np.isfinite(second)
                if not known.any():
                    continue
                found = paired_bootstrap(first, second, known.astype(float))
                for name, value in zip(("change", "low", "high"), found, strict=True):
                    self.out[f"{a}_minus_{b}/{metric}_{name}"] = value

    def _put(self, row: str, values: dict[str, np.ndarray]) -> None:
        for name, own in values.items():
            mean = float(np.nanmean(own)) if np.isfinite(own).any() else float("nan")
            self.append(f"{row}/{name}", mean)
            self._by_pair.setdefault(f"{row}/{name}", []).append(own)

    def append(self, key: str, value: Any) -> None:
        """Adds a number of the next seed."""
        self.out.setdefault(key, []).append(float(value))


def metrics(config: Any, data: Any, trained: Any) -> dict[str, Any]:
    """`<row>/<metric>`, means over the test pairs, a list over seeds; `<row>/ms_an_iteration`."""
    pairs = data.test
    if not len(pairs.depth) or not np.isfinite(pairs.depth).any():
        hint = "Use --mode=predict for pairs without ground truth."
        raise runner.data_error("data", "expected pairs with depth and motion", "none", hint)
    # DeMoN's benchmark scores all pixels of nyu2, whose motions are only estimates.
    masked = config.data != "nyu2"
    scores = Scores(pairs, masked)
    _add_baselines(config, pairs, masked, scores)
    for seed in range(config.seed, config.seed + config.num_seeds):
        for name, row in settings.rows_of(config, seed).items():
            last = settings.in_stage(config, row.network, row.stages[-1])
            params = params_of(trained, name, seed)
            steps, full = estimates(params, pairs, last)
            scores.add_steps(steps, _named(name, len(steps.motion) - 1))
            if name == "lsnet":
                _add_lsnet(config, pairs, trained, seed, row, (steps, full), scores)
            else:
                scores.add(name, Found(nearest(steps.inverse_depth[-1]), steps.motion[-1, :, 0]))
    scores.compare()
    out = scores.out
    for name, run in trained.items():
        out[f"{name}/training_seconds"] = run.seconds
    return out | _parameters(config, trained) | _times(config, data, trained)


def _named(label: str, num_steps: int) -> dict[int, str]:
    """Step -> row, for the guess and the recorded iterations."""
    kept = [k for k in (0, *ITERATIONS) if k <= num_steps]
    return {k: "init" if label == "lsnet" and k == 0 else f"{label}_{k}" for k in kept}


def _add_baselines(config: Any, pairs: StereoPairs, masked: bool, scores: Scores) -> None:
    """Classical baselines at each of --baseline_scales; `<row>_<H>x<W>` beyond scale one."""
    tuning = training.tuning_pairs(config)
    for scale in dict.fromkeys((1, *config.baseline_scales)):
        if scale == 1:
            large, truth, tail = pairs, None, ""
        else:
            height, width = scale * config.height, scale * config.width
            own = dataclasses.replace(config, height=height, width=width)
            large, tail = training.load(own).test, f"_{height}x{width}"
            truth = truth_of(large, masked, scale)
        found, chosen = baselines.all_baselines(large, tuning, scale)
        for name, one in found.items():
            if scale == 1:
                scores.add(name, Found(*one))
            else:
                scores.add_at(f"{name}{tail}", Found(*one), truth, scale)
        for name, values in chosen.items():
            if scale == 1:
                scores.out[f"{name}/tuned"] = list(values)


def _add_lsnet(
    config: Any, pairs: StereoPairs, trained: Any, seed: int, row: Any, found: Any, scores: Scores
) -> None:
    """The rows made of LS-Net's own parameters, and Levenberg-Marquardt from its first guess."""
    (steps, full), params = found, params_of(trained, "lsnet", seed)
    motion, z = steps.motion[-1, :, 0], steps.inverse_depth[-1]
    scores.add("lsnet_upscaled", Found(1 / full, motion))
    scores.add("lsnet_bilinear", Found(enlarged(z, "linear"), motion))
    scores.add("lsnet_bicubic", Found(enlarged(z, "cubic"), motion))
    for epsilon in EPSILONS if not config.epsilon else ():
        early, _ = estimates(params, pairs, row.network._replace(epsilon=epsilon))
        name = f"lsnet_epsilon_{epsilon}"
        scores.add_steps(early, {len(early.motion) - 1: name})
        moved = np.abs(np.diff(early.inverse_depth, axis=0)).max(axis=(2, 3)) > 1e-6
        moved |= np.abs(np.diff(early.motion, axis=0)).max(axis=(2, 3, 4)) > 1e-5
        scores.append(f"{name}/iterations", np.mean(np.sum(moved, axis=0)))
    if row.network.encoding == "gauss_newton":  # the proposals with their first weights
        guess = params_of(trained, "lsnet", seed, settings.STAGES[:1])
        untrained, _ = estimates(guess, pairs, row.network)
        scores.add_steps(untrained, _named("proposals", len(untrained.motion) - 1))
    # For comparison with the rows that end after the stage `few`.
    if config.ablations and seed == config.seed:
        few = settings.in_stage(config, row.network, "few")
        own = params_of(trained, "lsnet", seed, settings.STAGES[:2])
        early, _ = estimates(own, pairs, few)
        scores.add_steps(early, _named("lsnet_few", few.num_steps))
    before, early = params_of(trained, "lsnet", seed, settings.STAGES[:3]), steps
    if config.joint:
        early, _ = estimates(before, pairs, row.network)
        scores.add_steps(early, _named("lsnet_before_joint", row.network.num_steps))
    _add_marquardt(config, pairs, before, jax.tree.map(lambda leaf: leaf[0], early), scores)


def _add_marquardt(
    config: Any, pairs: StereoPairs, params: Any, guess: StereoEstimate, scores: Scores
) -> None:
    """Adds `lm` and `lm_prior` at the tuned iteration and at all ITERATIONS, and their times."""
    some, count = training.tuning_pairs(config), max(ITERATIONS)
    network = settings.network_of(config)._replace(num_steps=1)
    own = jax.tree.map(lambda leaf: leaf[0], estimates(params, some, network)[0])
    constant = float(np.median(1 / some.depth[np.isfinite(some.depth)]))
    for name, best in tuned_marquardt(config, own, some, constant, count).items():
        found = marquardt(guess, pairs, best.settings, count, constant)
        start = started(guess, best.settings)
        scores.add_steps(found, {k - 1: f"{name}_{k}" for k in ITERATIONS}, start)
        scores.add_steps(found, {best.stop - 1: name}, start)
        chosen: Settings = best.settings
        numbers = {
            "stop": best.stop, "prior_weight": chosen.prior_weight, "damping": chosen.damping,
            "rgb": chosen.residual == "rgb", "unit": chosen.unit, "at_end": best.at_end,
            "huber": chosen.kernel == "huber", "cauchy": chosen.kernel == "cauchy",
            "constant_mean": chosen.constant,
        }  # fmt: skip
        for key, value in numbers.items():
            scores.append(f"{name}/tuned_{key}", value)
        if f"{name}/ms_an_iteration" not in scores.out:
            one, first = pairs.take(slice(0, 1)), jax.tree.map(lambda leaf: leaf[:1], guess)

            def run(count, first=first, one=one, chosen=chosen):
                return marquardt(first, one, chosen, count, constant)

            scores.out[f"{name}/ms_an_iteration"] = _ms_an_iteration(run)


def _ms_an_iteration(run: Callable[[int], Any]) -> float:
    """Milliseconds per step of `run(num_steps)`: (16 steps - 1 step) / 15."""
    return 1e3 * (seconds_per_call(run, 16) - seconds_per_call(run, 1)) / 15


def _parameters(config: Any, trained: Any) -> dict[str, int]:
    """`<row>/parameters` of all networks, and `<row>/solver_parameters`."""
    out = {}
    for name in settings.rows(config):
        params = params_of(trained, name, config.seed)
        count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
        out[f"{name}/parameters"] = count(params)
        out[f"{name}/solver_parameters"] = count(params["solver"])
    return out


def _times(config: Any, data: Any, trained: Any) -> dict[str, float]:
    """`<row>/ms_an_iteration` for a single pair, on all threads."""
    one = jax.tree.map(jnp.asarray, data.test.take(slice(0, 1)))
    out = {}
    for name, row in settings.rows(config).items():
        params = params_of(trained, name, config.seed)

        def run(count, params=params, network=row.network):
            views = one.target, one.source, one.intrinsics
            return _steps(params, *views, network._replace(num_steps=count))

        out[f"{name}/ms_an_iteration"] = _ms_an_iteration(run)
    return out


def model(config: Any, trained: Any, trial: int | None) -> Model:
    """LS-Net after its last stage, of the seed with the lowest loss at the end of that stage."""
    seeds = range(config.seed, config.seed + config.num_seeds)
    stage = settings.rows(config)["lsnet"].stages[-1]
    last = [settings.run_name("lsnet", stage, seed) for seed in seeds]
    index = runner.chosen_trial(trial, [runner.last_loss(trained[name])[0] for name in last])
    params = params_of(trained, "lsnet", seeds[index])
    return Model(params, {"network": settings.network_of(config)}, {})


def write_depths(config: Any, data: Any, trained: Any, folder: pathlib.Path) -> None:
    """Writes depths.npz: `depth`, `motion` and the first `guess` of the depth, in baselines."""
    own = model(config, trained, trained.trial)
    params, network = own.params, own.settings["network"]
    steps, full = estimates(params, data.test, network)
    arrays = {"depth": 1 / full, "motion": steps.motion[-1, :, 0]}
    runner.write_npz(folder / "depths.npz", arrays | {"guess": 1 / steps.inverse_depth[0]})
