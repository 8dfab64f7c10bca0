"""Evaluation of relative poses: networks, features, refinements, and a constant pose."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.relative_pose import refinement, training
from experiments.relative_pose.baselines import METHODS, FeatureMethod, feature_poses, matches_of
from experiments.relative_pose.data import (
    Data,
    Matched,
    found_matches,
    quaternions,
    with_matches,
)
from experiments.relative_pose.scores import (
    Poses,
    answered,
    by_condition,
    by_scene,
    errors_of,
    regimes_of,
    scores,
)
from experiments.runner.statistics import change_over_seeds, interval_of_mean
from experiments.runner.timing import seconds_per_call
from jaxcv.metrics.motion import pose_failures
from jaxcv.metrics.tracking import paired_bootstrap
from jaxcv.models.relative_pose import NETS, direction_of, rotation_of, standardised
from jaxcv.systems.relative_confidence import confidence_of
from jaxcv.systems.two_view import (
    FEWEST,
    PoseScales,
    network_and_refined_poses,
    refined_alone,
)

__all__ = [
    "COMPARED", "answers", "compared", "last_poses", "metrics", "poses_of_methods",
]  # fmt: skip

AT_ONCE = 50
TIMED = ("sift_ransac", "sift_magsac", "orb_ransac", "surf_ransac", "poselib")
BEFORE = "_before"  # the networks of --init_from, before their training here
COMPARED = (
    ("cnnB", "cnnA"), ("cnnBspp", "cnnAspp"), ("cnnAspp", "cnnA"), ("cnnBspp", "cnnB"),
    ("joint", "refined"),
)  # fmt: skip
# Method -> methods with which its failures are compared, pair by pair.
AGAINST = {
    "joint": ("poselib", "sift_ransac", "refined_sampled", "refined", *NETS),
    "refined": ("poselib", "sift_ransac", *NETS),
    **dict.fromkeys(
        NETS, ("sift_ransac", "poselib", "sift_ransac_small", "poselib_small", "constant")
    ),
    "sift_ransac_guessed": ("sift_ransac",), "poselib_guessed": ("poselib",),
}  # fmt: skip


def _trial(trained: runner.TrainedRun, i: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[i], trained.params)


@functools.partial(jax.jit, static_argnames="network")
def _apply(params: Any, first: Any, second: Any, network: Any) -> tuple[jax.Array, jax.Array]:
    heads: Any = network.apply(params, standardised(first), standardised(second))
    return rotation_of(heads[0]), direction_of(heads[1])


@functools.partial(jax.jit, static_argnames="network")
def _refine(params, first, second, matches, key, network):
    _, refined = network_and_refined_poses(
        params, standardised(first), standardised(second), matches, network=network,
        head=refinement.HEAD, key=key,
    )  # fmt: skip
    confidence = confidence_of(refined, PoseScales(*params["scales"]).log_precision)
    return refined.rotation, refined.direction, confidence


def _in_parts(run: Callable[[np.ndarray], Any], count: int) -> Any:
    """`run` on AT_ONCE indices at a time, so that it compiles once; the last index repeats."""
    rows = np.minimum(np.arange(-(-count // AT_ONCE) * AT_ONCE), count - 1)
    parts = [jax.device_get(run(some)) for some in rows.reshape(-1, AT_ONCE)]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *parts)


def _by_network(config: Any, params: Any, net: str, pairs: Any) -> Poses:
    own = training.network(config, net)
    run = lambda rows: _apply(params, pairs.first[rows], pairs.second[rows], own)
    rotation, direction = _in_parts(run, len(pairs.rotation))
    return Poses(rotation, direction, np.full(len(rotation), np.nan))


def _by_refinement(config: Any, params: Any, test: Matched) -> Poses:
    own, key = training.network(config, config.net[-1]), jax.random.key(config.seed)

    def run(rows):
        some = jax.tree.map(lambda leaf: leaf[rows], test.matches)
        drawn = jax.random.fold_in(key, int(rows[0]))  # other samples in every chunk
        return _refine(params, test.pairs.first[rows], test.pairs.second[rows], some, drawn, own)

    return Poses(*_in_parts(run, len(test.found)))


def constant_of(data: Data) -> tuple[np.ndarray, np.ndarray]:
    """The mean rotation and direction of the training pairs, which a method must beat."""
    q = quaternions(data.train.rotation).mean(axis=0)
    t = np.asarray(data.train.direction).mean(axis=0)
    return np.asarray(rotation_of(jnp.asarray(q))), t / np.linalg.norm(t)


def poses_of_methods(
    config: Any, data: Data, trained: runner.TrainedRuns, i: int, test: Matched
) -> dict[str, Poses]:
    """Method -> its poses of the pairs of `test`, by the i-th seed."""
    methods = _methods(config, data, trained, i, test)
    return {name: answer() for name, answer in methods.items()}


def last_poses(config: Any, data: Data, trained: runner.TrainedRuns) -> tuple[str, Poses]:
    """The name (`joint` or, without --refine, the last network) and its test poses, first seed."""
    name = "joint" if config.refine else config.net[-1]
    return name, _methods(config, data, trained, 0, data.test)[name]()


def _methods(
    config: Any, data: Data, trained: runner.TrainedRuns, i: int, test: Matched
) -> dict[str, Callable[[], Poses]]:
    out: dict[str, Callable[[], Poses]] = {"constant": lambda: _constant(data, len(test.found))}
    out |= _by_networks(config, data, trained, i, test)
    if i == 0:  # these do not depend on trained parameters: once is enough
        kept: dict[Any, Any] = {}
        for name in config.feature_method or METHODS:
            out[name] = functools.partial(_by_features, kept, test, METHODS[name], config.seed)
        for start in ("sampled", "identity"):
            out[f"refined_{start}"] = functools.partial(_alone, test, start, config.seed)
    if config.refine:
        last = _trial(trained[config.net[-1]], i)["network"]
        out["refined"] = functools.partial(_untrained, config, data, last, test)
        joint = _trial(trained["joint"], i)
        out["joint"] = functools.partial(_by_refinement, config, joint, test)
    return out


def _by_networks(
    config: Any, data: Data, trained: runner.TrainedRuns, i: int, test: Matched
) -> dict[str, Callable[[], Poses]]:
    """The networks, their variants, and those that they started from."""
    out = {}
    for name, (own, net) in training.networks(config).items():
        params = _trial(trained[name], i)["network"]
        out[name] = functools.partial(_by_network, own, params, net, test.pairs)
        if data.started is not None and name == net:
            before = data.started[i if len(data.started) > 1 else 0]["network"]
            out[net + BEFORE] = functools.partial(_by_network, own, before, net, test.pairs)
    return out


def _by_features(kept: dict[Any, Any], test: Matched, method: FeatureMethod, seed: int) -> Poses:
    """Poses by a feature method; `kept` holds the matches that several methods share."""
    key = method.features, method.small, method.most
    if key not in kept:
        kept[key] = matches_of(test, method)
    pairs, found = kept[key]
    rotation, direction = feature_poses(pairs, found, method, seed)
    return Poses(rotation, direction, np.full(len(rotation), np.nan))


def _untrained(config: Any, data: Data, network: Any, test: Matched) -> Poses:
    errors = refinement.errors_of(config, data.valid, network)
    params = refinement.untrained(config, network, jax.random.key(0), errors)
    return _by_refinement(config, params, test)


def _constant(data: Data, count: int) -> Poses:
    rotation, direction = constant_of(data)
    nothing = np.full(count, np.nan)
    return Poses(np.tile(rotation, (count, 1, 1)), np.tile(direction, (count, 1)), nothing)


def _alone(test: Matched, start: str, seed: int) -> Poses:
    def run(rows):
        some = jax.tree.map(lambda leaf: leaf[rows], test.matches)
        key = jax.random.fold_in(jax.random.key(seed), int(rows[0]))
        found = refined_alone(some, key, start=start)
        return found.rotation, found.direction, confidence_of(found)

    poses = Poses(*_in_parts(run, len(test.found)))
    none = test.matches.valid.sum(axis=1) < FEWEST
    gone = lambda x: np.where(none.reshape(-1, *[1] * (x.ndim - 1)), np.nan, x)
    return Poses(gone(poses.rotation), gone(poses.direction), np.where(none, 0, poses.confidence))


def answers(
    config: Any, data: Data, trained: runner.TrainedRuns, i: int, *, unrelated: bool = False
) -> dict[str, Poses]:
    """`poses_of_methods` on the test, cached; `unrelated`: each second image is of another pair."""
    return trained.once(
        (i, unrelated), lambda: poses_of_methods(config, data, trained, i, _test(data, unrelated))
    )


def _test(data: Data, unrelated: bool) -> Matched:
    if not unrelated:
        return data.test
    count = len(data.test.found)
    rows = np.roll(np.arange(count), count // 2)  # neighbouring pairs may be of one video
    small, full = (
        own._replace(second=own.take(rows).second, intrinsics2=np.asarray(own.intrinsics2)[rows])
        for own in (data.test.pairs, data.test.full)
    )
    return with_matches(small, full)


def compared(config: Any) -> list[tuple[str, str]]:
    """Pairs of rows whose medians are compared over the seeds."""
    variants = [name for name in training.networks(config) if name not in config.net]
    return [
        *COMPARED, *((name, config.net[-1]) for name in variants),
        *((net, net + BEFORE) for net in config.net),
    ]  # fmt: skip


def metrics(config: Any, data: Data, trained: runner.TrainedRuns) -> dict[str, Any]:
    """Means over the seeds and, with several seeds, also values of each and 95% intervals."""
    kept: dict[str, list[float]] = {}
    for i in range(config.num_seeds):
        for method, poses in answers(config, data, trained, i).items():
            for name, value in scores(poses, data.test.pairs).items():
                kept.setdefault(f"{method}/{name}", []).append(value)
    out: dict[str, Any] = {}
    for key, values in kept.items():
        if np.isfinite(values).any():
            out[key] = float(np.nanmean(values))
        if len(values) > 1 and np.isfinite(values).all() and not key.startswith("constant/"):
            low, high = interval_of_mean(values)
            out |= {f"{key}_of_seeds": values, f"{key}_low": low, f"{key}_high": high}
    for first, second in compared(config):
        for name in ("roe_median_deg", "rte_median_deg"):
            keys = [f"{method}/{next(iter(regimes_of(data.test.pairs)))}/{name}" for method in
                    (first, second)]  # fmt: skip
            if all(key in kept for key in keys):
                found = change_over_seeds(*(kept[key] for key in keys))
                out |= {f"{first}_over_{second}/{name}_{k}": v for k, v in found.items()}
    out |= _over_pairs(config, data, trained) | _unrelated(config, data, trained)
    first_seed = answers(config, data, trained, 0)
    out |= by_condition(data, first_seed) | by_scene(data, first_seed)
    out |= {f"{name}/training_minutes": trained[name].seconds / 60 for name in trained}
    return out | _speeds(config, data, trained)


def _unrelated(config: Any, data: Data, trained: runner.TrainedRuns) -> dict[str, Any]:
    """Scores of pairs whose second image is of another pair: of the first seed, and of each."""
    out: dict[str, Any] = {}
    for method, poses in answers(config, data, trained, 0, unrelated=True).items():
        turned, _ = errors_of(poses, data.test.pairs)
        out[f"{method}/unrelated/answered"] = float(np.mean(answered(poses)))
        out[f"{method}/unrelated/roe_median_deg"] = float(np.median(turned))
        if np.isfinite(poses.confidence).all():
            out[f"{method}/unrelated/confident"] = float(np.mean(poses.confidence >= 0.5))
    if config.num_seeds == 1:
        return out
    other = _test(data, True)
    for i in range(config.num_seeds):
        for name, answer in _by_networks(config, data, trained, i, other).items():
            turned, _ = errors_of(answer(), data.test.pairs)
            values = out.setdefault(f"{name}/unrelated/roe_median_deg_of_seeds", [])
            values.append(float(np.median(turned)))
    return out


def _over_pairs(config: Any, data: Data, trained: runner.TrainedRuns) -> dict[str, Any]:
    """95% intervals of failures and of their differences, by a bootstrap over the test pairs.

    With several seeds, the value of a pair is the fraction of seeds that fail on it.
    """
    failed: dict[str, list[np.ndarray]] = {}
    for i in range(config.num_seeds):
        for method, poses in answers(config, data, trained, i).items():
            failed.setdefault(method, []).append(pose_failures(*errors_of(poses, data.test.pairs)))
    share = {method: np.mean(own, axis=0) for method, own in failed.items()}
    out = {}
    for regime, rows in regimes_of(data.test.pairs).items():
        weights = rows.astype(float)
        for method, own in share.items():
            found = paired_bootstrap(own, np.zeros_like(own), weights)
            out[f"{method}/{regime}/failures_of_pairs"] = [found.low, found.high]
            others = [second for first, second in compared(config)[len(COMPARED) :]
                      if first == method]  # fmt: skip
            for other in (*AGAINST.get(method, ()), *others):
                if other in share:
                    found = paired_bootstrap(own, share[other], weights)
                    out[f"{method}_over_{other}/{regime}/failures_of_pairs"] = list(found)
    return out


def _speeds(config: Any, data: Data, trained: Any) -> dict[str, float]:
    """Pairs per second: networks in batches; features with their matching, on test pairs."""
    out = {}
    count = AT_ONCE
    some = data.test.take(np.arange(count) % len(data.test.found))
    for net in config.net:
        own = training.network(config, net)
        params = _trial(trained[net], 0)["network"]
        images = jnp.asarray(some.pairs.first[:]), jnp.asarray(some.pairs.second[:])
        out[f"{net}/pairs_per_second"] = count / seconds_per_call(_apply, params, *images, own)
    for name in [name for name in TIMED if name in (config.feature_method or TIMED)]:
        start = time.perf_counter()
        pairs, found = some.full, found_matches(some.full, METHODS[name].features)
        feature_poses(pairs, found, METHODS[name], config.seed)
        out[f"{name}/pairs_per_second"] = count / (time.perf_counter() - start)
    if config.refine:
        params = _trial(trained["joint"], 0)
        own = training.network(config, config.net[-1])
        arrays = some.pairs.first[:], some.pairs.second[:], some.matches
        arrays = (*jax.tree.map(jnp.asarray, arrays), jax.random.key(0))
        seconds = seconds_per_call(_refine, params, *arrays, own)
        out["joint/pairs_per_second_after_matching"] = count / seconds
    return out
