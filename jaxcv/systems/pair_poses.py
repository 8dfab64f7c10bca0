"""Relative poses of many pairs of pictures, from matches that are already there.

`relative_pose` takes two images. Here a picture that is in several pairs is read, described and
resized once, and the poses of many pairs are minimised together.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.checks import argument_error, check_count
from jaxcv.geometry.camera import check_intrinsics
from jaxcv.geometry.epipolar import angle_behind, essential_matrix, sampson_distance
from jaxcv.least_squares.kernels import Welsch
from jaxcv.models.relative_pose import MatchHead, PoseNetwork
from jaxcv.systems.feature_matches import Matches, normalised
from jaxcv.systems.relative_confidence import confidence_of
from jaxcv.systems.two_view import (
    FEWEST,
    MATCHES,
    PoseScales,
    RelativePose,
    match_arrays,
    no_pose,
    pose_of,
    refined_alone,
    refined_with_network,
)

__all__ = ["CHUNK_SIZE", "inlier_weights", "poses_of_matches"]

CHUNK_SIZE = 32  # pairs in one compiled call
_SCALE = float(np.exp(PoseScales().log_noise + PoseScales().log_width))  # of the kernel [px]
_SHAPE = 256  # matches are padded to multiples: each shape is compiled once


def poses_of_matches(
    matches: Sequence[Matches],
    intrinsics1: Any,
    intrinsics2: Any,
    *,
    first: Sequence[np.ndarray] | None = None,
    second: Sequence[np.ndarray] | None = None,
    params: Any = None,
    network: PoseNetwork | None = None,
    head: MatchHead | None = None,
    seed: int = 0,
    chunk_size: int = CHUNK_SIZE,
    report: Callable[[int], None] | None = None,
) -> list[RelativePose]:
    """The poses x2 = R x1 + t, |t| = 1, of N pairs, each as of `relative_pose`.

        one, two = find_features(image1), find_features(image2)
        rows, ratio = match_features(one, two)
        matches = [Matches(one.points[rows[:, 0]], two.points[rows[:, 1]], ratio)]
        pose = poses_of_matches(matches, [K1], [K2])[0]

    Args:
        matches: of each pair [px].
        intrinsics1: (N, 3, 3) of the first images [px], pixel centres at whole numbers.
        intrinsics2: (N, 3, 3) of the second images.
        first: N first images (H, W, 3) in 8 bits, at the size of the network's input; they may be
            views of one array, and are stacked a chunk at a time. Needed with `params` only.
        second: N second images.
        params: of a network (`load_model`); None: matches only.
        network: that of the params.
        head: that of the params.
        seed: of the samples.
        chunk_size: pairs that are minimised together; the last chunk is filled up, so that there
            is one compilation.
        report: called with the number of pairs that have poses, after each chunk.

    Returns:
        N poses. Without a network and with fewer than five matches: nan with confidence 0.

    Raises:
        ValueError: counts that differ, invalid intrinsics, or params without the network, the head
            or the images.
    """
    count = len(matches)
    k1, k2 = (
        _checked("intrinsics1", intrinsics1, count),
        _checked("intrinsics2", intrinsics2, count),
    )
    size = min(check_count("chunk_size", chunk_size), count)
    if params is not None:
        _check_network(count, network=network, head=head, first=first, second=second)
    key, out = jax.random.key(seed), []
    for begin in range(0, count, max(size, 1)):
        rows = np.minimum(np.arange(begin, begin + size), count - 1)
        most = None if params is None else MATCHES
        arrays = match_arrays([matches[i] for i in rows], k1[rows], k2[rows], most)
        own = key if begin == 0 else jax.random.fold_in(key, begin)  # other samples in every chunk
        if params is None:
            refined = refined_alone(arrays, own)
        else:
            assert first is not None and second is not None  # noqa: PT018, _check_network
            images = [np.stack([each[i] for i in rows]) for each in (first, second)]
            refined = refined_with_network(params, *images, arrays, own, network, head)
        refined = jax.device_get(refined)
        prior = None if params is None else params["scales"].log_precision
        confidence = np.asarray(confidence_of(refined, prior))
        for n, i in enumerate(rows[: count - begin]):
            own = jax.tree.map(lambda leaf, n=n: leaf[n], refined)
            if params is None and len(matches[i].ratio) < FEWEST:
                out.append(no_pose(len(matches[i].ratio)))
            else:
                out.append(pose_of(own, confidence[n], matches[i]))
        if report is not None:
            report(len(out))
    return out


def inlier_weights(
    pose: RelativePose, matches: Matches, intrinsics1: Any, intrinsics2: Any
) -> np.ndarray:
    """Weights (M,) in [0, 1] of matches under a pose: exp(-d^2 / s^2), the kernel of the energy.

    d [px] is Sampson's distance to the epipolar geometry, s = 1.5 px the scale of `PoseScales`. The
    weight is 0 where the point lies behind a camera by more than s, and everywhere if the pose is
    nan.

    Args:
        pose: of the pair.
        matches: M matches [px].
        intrinsics1: (3, 3) of the first image [px].
        intrinsics2: (3, 3) of the second image.
    """
    if not len(matches.ratio) or not np.isfinite(pose.rotation).all():
        return np.zeros(len(matches.ratio))
    k = np.asarray([intrinsics1, intrinsics2], float)
    focal = np.abs(k[:, [0, 1], [0, 1]]).mean()
    padding = -len(matches.ratio) % _SHAPE
    points1, points2 = (
        np.pad(normalised(own, each), ((0, padding), (0, 0))).astype(np.float32)
        for own, each in zip(matches[:2], k, strict=True)
    )
    rotation, direction = (np.asarray(x, np.float32) for x in (pose.rotation, pose.direction))
    weights = np.asarray(_weights(rotation, direction, points1, points2, np.float32(focal)))
    return weights[: len(matches.ratio)]


@jax.jit
def _weights(rotation, direction, points1, points2, focal):
    essential = essential_matrix(rotation, direction)
    distance = focal * sampson_distance(essential, points1, points2)
    behind = focal * angle_behind(rotation, direction, points1, points2)
    return jnp.where(behind <= _SCALE, Welsch(_SCALE).weight(distance**2), 0)


def _checked(name: str, intrinsics: Any, count: int) -> np.ndarray:
    k = check_intrinsics(name, np.asarray(intrinsics, float).reshape(-1, 3, 3))
    if len(k) != count:
        raise argument_error(name, f"expected those of {count} pairs, as of the matches", len(k))
    return k


def _check_network(count: int, **given: Any) -> None:
    missing = [name for name, value in given.items() if value is None]
    if missing:
        hint = "load_model returns params, network and head; images have the size `shape`."
        raise argument_error("params", f"expected {missing} with them", "none", hint)
    for name in ("first", "second"):
        if len(given[name]) != count:
            raise argument_error(name, f"expected images of {count} pairs", len(given[name]))
