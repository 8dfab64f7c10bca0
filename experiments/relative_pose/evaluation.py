"""Evaluation of relative poses: networks, features, refinements, and a constant pose."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.relative_pose import refinement, training
from experiments.relative_pose.baselines import pose_of_matches
from experiments.relative_pose.conditions import conditions_of
from experiments.relative_pose.data import (
    Data,
    Matched,
    found_matches,
    matched_pairs,
    quaternions,
)
from experiments.runner.statistics import change_over_seeds, interval_of_mean
from experiments.runner.timing import seconds_per_call
from jaxcv.geometry.camera import resize_intrinsics
from jaxcv.metrics.motion import (
    folded,
    pose_auc,
    pose_failures,
    rotation_error,
    translation_error,
)
from jaxcv.metrics.tracking import paired_bootstrap
from jaxcv.models.relative_pose import NETS, direction_of, rotation_of, standardised
from jaxcv.systems.feature_matches import MOST
from jaxcv.systems.two_view import (
    FEWEST,
    PoseScales,
    confidence_of,
    network_and_refined_poses,
    refined_alone,
)

__all__ = [
    "COMPARED", "METHODS", "Poses", "answers", "errors_of", "last_poses", "metrics",
    "poses_of_methods", "regimes_of",
]  # fmt: skip

AT_ONCE = 50


class Classical(NamedTuple):
    """A feature method: features, estimator, whether in the networks' images, features an image."""

    features: str
    estimator: str
    small: bool = False
    most: int = MOST


METHODS = {
    "sift_ransac": Classical("sift", "ransac"), "sift_magsac": Classical("sift", "magsac"),
    "orb_ransac": Classical("orb", "ransac"), "surf_ransac": Classical("surf", "ransac"),
    "poselib": Classical("sift", "poselib"),
}  # fmt: skip
FURTHER = {
    "sift_ransac_small": Classical("sift", "ransac", small=True),
    "poselib_small": Classical("sift", "poselib", small=True),
    "orb_ransac_small": Classical("orb", "ransac", small=True),
    "orb_ransac_500": Classical("orb", "ransac", most=500),  # as many as OpenCV's ORB by default
}
REGIMES = ("textured", "textureless")
COMPARED = (
    ("cnnB", "cnnA"), ("cnnBspp", "cnnAspp"), ("cnnAspp", "cnnA"), ("cnnBspp", "cnnB"),
    ("joint", "refined"),
)  # fmt: skip
# Method -> methods with which its failures are compared, pair by pair.
AGAINST = {
    "joint": ("poselib", "sift_ransac", "refined_sampled", "refined", *NETS),
    "refined": ("poselib", "sift_ransac", *NETS),
    **dict.fromkeys(NETS, ("sift_ransac", "poselib", "sift_ransac_small", "poselib_small")),
}  # fmt: skip


class Poses(NamedTuple):
    """Poses of N pairs by one method.

    Attributes:
        rotation: (N, 3, 3); nan where the method gives no pose.
        direction: (N, 3).
        confidence: (N,) in [0, 1]; nan for a method without confidence.
    """

    rotation: np.ndarray
    direction: np.ndarray
    confidence: np.ndarray


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


def _by_features(pairs: Any, found: Any, estimator: str, seed: int) -> Poses:
    count = len(found)
    rotation, direction = np.full((count, 3, 3), np.nan), np.full((count, 3), np.nan)
    for i, matches in enumerate(found):
        k = pairs.intrinsics1[i], pairs.intrinsics2[i]
        pose = pose_of_matches(matches, *k, estimator, seed)
        if pose is not None:
            rotation[i], direction[i] = pose.rotation, pose.direction
    return Poses(rotation, direction, np.full(count, np.nan))


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
    for net in config.net:
        params = _trial(trained[net], i)["network"]
        out[net] = functools.partial(_by_network, config, params, net, test.pairs)
    if i == 0:  # these do not depend on trained parameters: once is enough
        matched = functools.cache(functools.partial(_matched, test))
        for name, method in (METHODS | FURTHER).items():
            out[name] = functools.partial(_by_classical, matched, method, config.seed)
        for start in ("sampled", "identity"):
            out[f"refined_{start}"] = functools.partial(_alone, test, start, config.seed)
    if config.refine:
        last = _trial(trained[config.net[-1]], i)["network"]
        out["refined"] = functools.partial(_untrained, config, data, last, test)
        joint = _trial(trained["joint"], i)
        out["joint"] = functools.partial(_by_refinement, config, joint, test)
    return out


def _untrained(config: Any, data: Data, network: Any, test: Matched) -> Poses:
    errors = refinement.errors_of(config, data.valid, network)
    params = refinement.untrained(config, network, jax.random.key(0), errors)
    return _by_refinement(config, params, test)


def _constant(data: Data, count: int) -> Poses:
    rotation, direction = constant_of(data)
    nothing = np.full(count, np.nan)
    return Poses(np.tile(rotation, (count, 1, 1)), np.tile(direction, (count, 1)), nothing)


def _small(test: Matched) -> Any:
    """The pairs at the networks' size, with intrinsics of that size."""
    (h, w), (height, width) = (pairs.first.shape[1:3] for pairs in (test.pairs, test.full))
    k1, k2 = (
        np.asarray(resize_intrinsics(jnp.asarray(k), w / width, h / height))
        for k in (test.full.intrinsics1, test.full.intrinsics2)
    )
    return test.pairs._replace(intrinsics1=k1, intrinsics2=k2)


def _by_classical(matched: Any, method: Classical, seed: int) -> Poses:
    """Poses by a feature method; `matched(features, small, most)` are the pairs and matches."""
    pairs, found = matched(method.features, method.small, method.most)
    return _by_features(pairs, found, method.estimator, seed)


def _matched(test: Matched, features: str, small: bool, most: int) -> tuple[Any, Any]:
    pairs = _small(test) if small else test.full
    if (features, small, most) == ("sift", False, MOST):
        return pairs, test.found
    return pairs, found_matches(pairs, features, most)


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


def errors_of(poses: Poses, pairs: Any) -> tuple[np.ndarray, np.ndarray]:
    """Errors (N,) of rotation and direction [deg]; 180 where there is no pose."""
    none = _none(poses)
    turned = rotation_error(poses.rotation, pairs.rotation)
    moved = translation_error(poses.direction, pairs.direction)
    return np.where(none, 180.0, turned), np.where(none, 180.0, moved)


def _none(poses: Poses) -> np.ndarray:
    return np.isnan(poses.direction[:, 0])


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
    full = data.test.full._replace(
        second=data.test.full.take(rows).second,
        intrinsics2=np.asarray(data.test.full.intrinsics2)[rows],
    )
    return matched_pairs(full, data.test.pairs.first.shape[1:3])


def regimes_of(pairs: Any) -> dict[str, np.ndarray]:
    """Regime -> mask (N,) of its pairs; `all` is added if there are several regimes."""
    textured = np.asarray(pairs.textured)
    out = dict(zip(REGIMES, (textured, ~textured), strict=True))
    out = {name: rows for name, rows in out.items() if rows.any()}
    return out if len(out) < 2 else {"all": np.ones(len(textured), bool)} | out


def _scores(poses: Poses, pairs: Any) -> dict[str, float]:
    """Scores by regime; `confident_failures` is nan if no pose is confident.

    A pair without an answer counts with 180 degrees, but in `answered_...`.
    """
    out = {}
    for regime, rows in regimes_of(pairs).items():
        turned, moved = (error[rows] for error in errors_of(poses, pairs))
        unsigned = np.where(_none(poses)[rows], 90.0, folded(moved))  # the largest folded angle
        auc = pose_auc(turned, unsigned)
        failed = pose_failures(turned, moved)
        own = {
            "roe_median_deg": np.median(turned), "rte_median_deg": np.median(moved),
            "rte_folded_median_deg": np.median(unsigned),
            "auc5": auc[0], "auc10": auc[1], "auc20": auc[2], "failures": failed.mean(),
        }  # fmt: skip
        answered = ~_none(poses)[rows]
        own["answered"] = answered.mean()
        if answered.any():
            own["answered_roe_median_deg"] = np.median(turned[answered])
            own["answered_rte_median_deg"] = np.median(moved[answered])
        if np.isfinite(poses.confidence[rows]).all():
            confident = poses.confidence[rows] >= 0.5
            own["confident"] = confident.mean()
            own["confident_failures"] = failed[confident].mean() if confident.any() else np.nan
        out |= {f"{regime}/{name}": float(value) for name, value in own.items()}
    return out


def metrics(config: Any, data: Data, trained: runner.TrainedRuns) -> dict[str, Any]:
    """Means over the seeds and, with several seeds, also values of each and 95% intervals."""
    kept: dict[str, list[float]] = {}
    for i in range(config.num_seeds):
        for method, poses in answers(config, data, trained, i).items():
            for name, value in _scores(poses, data.test.pairs).items():
                kept.setdefault(f"{method}/{name}", []).append(value)
    out: dict[str, Any] = {}
    for key, values in kept.items():
        if np.isfinite(values).any():
            out[key] = float(np.nanmean(values))
        if len(values) > 1 and np.isfinite(values).all() and not key.startswith("constant/"):
            low, high = interval_of_mean(values)
            out |= {f"{key}_of_seeds": values, f"{key}_low": low, f"{key}_high": high}
    for first, second in COMPARED:
        for name in ("roe_median_deg", "rte_median_deg"):
            keys = [f"{method}/{next(iter(regimes_of(data.test.pairs)))}/{name}" for method in
                    (first, second)]  # fmt: skip
            if all(key in kept for key in keys):
                found = change_over_seeds(*(kept[key] for key in keys))
                out |= {f"{first}_over_{second}/{name}_{k}": v for k, v in found.items()}
    out |= _over_pairs(config, data, trained) | _by_condition(
        data, answers(config, data, trained, 0)
    )
    for method, poses in answers(config, data, trained, 0, unrelated=True).items():
        turned, _ = errors_of(poses, data.test.pairs)
        out[f"{method}/unrelated/answered"] = float(np.mean(np.isfinite(poses.direction[:, 0])))
        out[f"{method}/unrelated/roe_median_deg"] = float(np.median(turned))
        if np.isfinite(poses.confidence).all():
            out[f"{method}/unrelated/confident"] = float(np.mean(poses.confidence >= 0.5))
    out |= {f"{name}/training_minutes": trained[name].seconds / 60 for name in trained}
    return out | _speeds(config, data, trained)


def _by_condition(data: Data, poses: dict[str, Poses]) -> dict[str, Any]:
    """Failures of the first seed by the conditions of the pairs, and their numbers."""
    out: dict[str, Any] = {}
    for name, rows in conditions_of(data.test).items():
        out[f"pairs/{name}"] = int(rows.sum())
        for method, own in poses.items():
            failed = pose_failures(*errors_of(own, data.test.pairs))
            out[f"{method}/{name}/failures"] = float(failed[rows].mean())
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
            for other in AGAINST.get(method, ()):
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
    for name, (features, estimator, *_) in METHODS.items():
        start = time.perf_counter()
        found = found_matches(some.full, features)
        _by_features(some.full, found, estimator, config.seed)
        out[f"{name}/pairs_per_second"] = count / (time.perf_counter() - start)
    if config.refine:
        params = _trial(trained["joint"], 0)
        own = training.network(config, config.net[-1])
        arrays = some.pairs.first[:], some.pairs.second[:], some.matches
        arrays = (*jax.tree.map(jnp.asarray, arrays), jax.random.key(0))
        seconds = seconds_per_call(_refine, params, *arrays, own)
        out["joint/pairs_per_second_after_matching"] = count / seconds
    return out
