"""The relative pose of two images: a network's estimate, refined on feature matches.

    x2 = R x1 + t,  |t| = 1;  x right, y down, z forward

Without matches the pose is the network's; without a network, the matches'.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.checks import argument_error, check_choice
from jaxcv.energies.epipolar import EpipolarParameters
from jaxcv.energies.residual_density import usual_density
from jaxcv.geometry.camera import check_intrinsics, check_principal_point
from jaxcv.linear.damping import Damping
from jaxcv.models.relative_pose import (
    MatchHead,
    PoseNetwork,
    direction_of,
    least_side,
    rotation_of,
    standardised,
)
from jaxcv.systems.feature_matches import Matches, find_matches, padded
from jaxcv.systems.relative_confidence import confidence_of
from jaxcv.systems.relative_refinement import (
    NO_PRIOR,
    RefinedPose,
    refine_relative_pose,
)
from jaxcv.systems.relative_search import searched_poses

__all__ = [
    "MATCHES", "MATCH_NUMBERS", "MatchArrays", "PoseScales", "RelativePose",
    "intrinsics_or_guess", "match_arrays", "network_and_refined_poses", "no_pose", "pose_of",
    "refined_alone", "refined_with_network", "relative_pose", "resized",
]  # fmt: skip

MATCH_NUMBERS = 6  # features of a match, inputs of its confidence
MATCHES = 128  # in the energy, the best by their ratio
FEWEST = 5
# Beside a network's pose a short search is enough. It is in every training step, and a batch waits
# for its longest search.
_SEARCH_WITH_NETWORK = {"least_samples": 256, "most_samples": 256, "count": 3}
_SMALLEST = 64  # matches in an array of unknown number
_QUALITY = 4.2, 5.0  # log odds of a right match at ratio 0, and their slope
_FOCAL = 1.2  # default focal length, over the longer side


class PoseScales(NamedTuple):
    """Scales of the energy's terms.

    Attributes:
        log_precision: (2,) log of the precisions of the network's rotation and direction [1/rad^2].
        log_noise: () log of the noise of a match [px].
        log_width: () log of the kernel's scale / noise.
    """

    log_precision: Any = (0.0, 0.0)
    log_noise: Any = float(np.log(0.5))
    log_width: Any = float(np.log(3.0))


class MatchArrays(NamedTuple):
    """Matches of B pairs as arrays of one size.

    Attributes:
        points1: (B, M, 2), normalised by the intrinsics.
        points2: (B, M, 2).
        ratio: (B, M) nearest / second-nearest descriptor distance.
        valid: (B, M) mask of the matches; the rest is padding.
        focal: (B,) mean focal length [px].
    """

    points1: Any
    points2: Any
    ratio: Any
    valid: Any
    focal: Any


class RelativePose(NamedTuple):
    """x2 = R x1 + t.

    Attributes:
        rotation: (3, 3).
        direction: (3,) unit t; two images do not determine the length of a translation.
        confidence: () in [0, 1], probability that both angle errors are below 20 degrees:
            `confidence_of`. Near 0 where too few matches agree. Too high under a pure rotation:
            see `moved`.
        matches: () number of matches found.
        covariance: (5, 5) of three angles of the rotation and two of the direction [rad^2]:
            `jaxcv.systems.relative_evidence.pose_covariance`.
        moved: () probability that the cameras translated; near 0 the direction is not observable.
        runner_up: rotation (3, 3) and direction (3,) of the second-best minimum.
        odds: () its likelihood over that of the best, in [0, 1]. Near 1 where a plane leaves two
            poses: then either may be the true one.
        points1: (M, 2) the matches in the first image [px].
        points2: (M, 2) in the second.
        inliers: (M,) probabilities that the matches agree with the pose.
    """

    rotation: Any
    direction: Any
    confidence: Any
    matches: Any
    covariance: Any = None
    moved: Any = None
    runner_up: Any = None
    odds: Any = None
    points1: Any = None
    points2: Any = None
    inliers: Any = None


def match_arrays(
    matches: list[Matches], intrinsics1: Any, intrinsics2: Any, count: int | None = MATCHES
) -> MatchArrays:
    """The best `count` matches of each of B pairs with intrinsics (B, 3, 3).

    None: all, padded to a power of two, so that few sizes are compiled.
    """
    if count is None:
        longest = max((len(one.ratio) for one in matches), default=0)
        count = max(_SMALLEST, 1 << (longest - 1).bit_length()) if longest else _SMALLEST
    rows = [padded(*one, count) for one in zip(matches, intrinsics1, intrinsics2, strict=True)]
    points1, points2, ratio, valid = (np.stack(leaves) for leaves in zip(*rows, strict=True))
    both = np.stack([np.asarray(intrinsics1, float), np.asarray(intrinsics2, float)])
    focal = np.abs(both[..., [0, 1], [0, 1]]).mean(axis=(0, 2)).astype(np.float32)
    return MatchArrays(points1, points2, ratio, valid, focal)


def _numbers_of(matches: MatchArrays) -> jax.Array:
    """Features (B, M, MATCH_NUMBERS): ratio, points and log count, of order 1."""
    count = jnp.sum(matches.valid, axis=-1, keepdims=True, dtype=matches.ratio.dtype)
    many = jnp.broadcast_to(0.5 * jnp.log1p(count) - 1, matches.ratio.shape)
    parts = [matches.ratio[..., None], matches.points1, matches.points2, many[..., None]]
    return jnp.concatenate(parts, axis=-1)


def network_and_refined_poses(
    params: Any,
    first: jax.Array,
    second: jax.Array,
    matches: MatchArrays,
    *,
    network: PoseNetwork,
    head: MatchHead,
    damping: Damping = Damping(value=1.0),  # noqa: B008, an immutable value
    key: jax.Array | None = None,
    max_steps: int = 20,
) -> tuple[tuple[jax.Array, jax.Array], RefinedPose]:
    """The network's poses of B pairs, and the minimisers with the matches.

    The network gives the energy's prior and the head the confidence of each match; both are
    trained through the minimiser.

    Args:
        params: {"network", "head", "scales": PoseScales}.
        first: (B, H, W, 3), standardised.
        second: (B, H, W, 3).
        matches: of the pairs.
        network: that of the params.
        head: that of the params.
        damping: of the implicit gradient [1/rad^2].
        key: to start from sampled poses as well; None: from the prior only.
        max_steps: of each minimisation.
    """
    both: Any = network.apply(params["network"], first, second, method="both_features")
    heads: Any = network.apply(params["network"], both, method="poses")
    rotation = rotation_of(heads[0])
    direction = direction_of(heads[1])
    log_confidence: Any = head.apply(params["head"], both, _numbers_of(matches))
    scales = PoseScales(*(jnp.asarray(x, direction.dtype) for x in params["scales"]))

    def one(rotation, direction, log_confidence, own, key):
        theta = EpipolarParameters(
            rotation, direction, scales.log_precision, log_confidence,
            scales.log_noise - jnp.log(own.focal), scales.log_width,
        )  # fmt: skip
        start = None
        if key is not None:
            sampled = searched_poses(
                key, theta, own.points1, own.points2, own.valid, **_SEARCH_WITH_NETWORK
            )
            start = (
                jnp.concatenate([rotation[None], sampled[0]]),
                jnp.concatenate([direction[None], sampled[1]]),
            )
        return refine_relative_pose(
            theta, own.points1, own.points2, own.valid, start=start, damping=damping,
            max_steps=max_steps,
        )  # fmt: skip

    keys = None if key is None else jax.random.split(key, first.shape[0])
    refined = jax.vmap(one)(rotation, direction, log_confidence, matches, keys)
    return (rotation, direction), refined


@functools.partial(jax.jit, static_argnames=("network", "head"))
def refined_with_network(params, first, second, matches, key, network, head):
    """The minimisers of B pairs with a network, of images (B, H, W, 3) in 8 bits."""
    images = standardised(first), standardised(second)
    poses = network_and_refined_poses(params, *images, matches, network=network, head=head, key=key)
    return poses[1]


@functools.partial(jax.jit, static_argnames="start")
def refined_alone(matches: MatchArrays, key: jax.Array, *, start: str = "sampled") -> RefinedPose:
    """The minimisers of the matches of B pairs, without a prior.

    Args:
        matches: of the pairs.
        key: PRNG key.
        start: `sampled` poses, or the `identity` with t along x.
    """
    check_choice("start", start, ("sampled", "identity"))

    def one(own, key):
        theta = _matches_only(own)
        matches = own.points1, own.points2, own.valid
        if start == "identity":
            return refine_relative_pose(theta, *matches)
        theta = theta._replace(log_confidence=_log_quality(own.ratio))
        begin = searched_poses(key, theta, *matches)
        theta = theta._replace(density=usual_density(-theta.log_noise))
        return refine_relative_pose(theta, *matches, start=begin)

    keys = jax.random.split(key, matches.focal.shape[0])
    return jax.lax.map(lambda pair: one(*pair), (matches, keys))


def _log_quality(ratio: jax.Array) -> jax.Array:
    """Log confidence (M,) of matches by their ratio: of 75,000 matches of frames with known poses,
    96% are right at .2, 90% at .5 and 59% at .8. Squared, so that weights tell more apart.
    """
    return 2 * jax.nn.log_sigmoid(_QUALITY[0] - _QUALITY[1] * ratio)


def _matches_only(matches: MatchArrays) -> EpipolarParameters:
    """The energy of one pair's matches without a prior, with equal confidences."""
    scales = PoseScales()
    return EpipolarParameters(
        jnp.eye(3), jnp.array([1.0, 0.0, 0.0]), jnp.full(2, NO_PRIOR),
        jnp.zeros(matches.ratio.shape), scales.log_noise - jnp.log(matches.focal),
        jnp.asarray(scales.log_width),
    )  # fmt: skip


def _image(name: str, image: Any) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < 8:
        expected = "expected (H, W, 3), 8 pixels a side or more"
        raise argument_error(name, expected, image.shape)
    if image.dtype != np.uint8:
        if not np.issubdtype(image.dtype, np.floating) or not np.isfinite(image).all():
            raise argument_error(name, "expected 8 bits, or finite values in [0, 1]", image.dtype)
        if image.min() < 0 or image.max() > 1:
            got = f"{image.min():g} to {image.max():g}"
            raise argument_error(name, "expected values in [0, 1]", got, "Divide by 255.")
        image = np.round(255 * image).astype(np.uint8)
    return image


def resized(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resizes an image (H, W, 3) of 8 bits by area averaging, each axis separately."""
    from PIL import Image

    if image.shape[:2] == tuple(shape):
        return image
    size = (shape[1], shape[0])
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def intrinsics_or_guess(name: str, k: Any, image: np.ndarray) -> np.ndarray:
    """K (3, 3) as given; if None, focal length 1.2 x the longer side, and the centre."""
    height, width = image.shape[:2]
    if k is None:
        focal = _FOCAL * max(height, width)
        return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    k = check_intrinsics(name, np.asarray(k, float)).reshape(3, 3)
    check_principal_point(name, k, (height, width))
    return k


def no_pose(count: int) -> RelativePose:
    """The answer for `count` matches that are too few: nan, with confidence 0."""
    nan = np.full((3, 3), np.nan)
    return RelativePose(nan, nan[0], np.float64(0), count)


def pose_of(refined: RefinedPose, confidence: Any, matches: Matches) -> RelativePose:
    """The answer for a pair: a minimiser of the energy of its best matches."""
    used = min(refined.inliers.shape[-1], len(matches.ratio))
    return RelativePose(
        refined.rotation, refined.direction, confidence, len(matches.ratio), refined.covariance,
        refined.moved, refined.runner_up, refined.odds, matches.points1[:used],
        matches.points2[:used], refined.inliers[:used],
    )  # fmt: skip


def undistorted(name: str, points: np.ndarray, intrinsics: Any, distortion: Any) -> np.ndarray:
    """Pixels (M, 2) that a lens without distortion and the same K would see.

    Raises:
        ValueError: a distortion that is not one of OpenCV's lists of 4, 5, 8, 12 or 14 numbers.
    """
    if distortion is None:
        return points
    values = np.asarray(distortion, float).ravel()
    if values.size not in (4, 5, 8, 12, 14) or not np.isfinite(values).all():
        expected = "expected 4, 5, 8, 12 or 14 finite numbers in OpenCV's order"
        raise argument_error(name, expected, values.tolist(), "k1, k2, p1, p2, k3 are usual.")
    import cv2

    if not len(points):
        return points
    k = np.asarray(intrinsics, float)
    return cv2.undistortPoints(points[:, None].astype(float), k, values, P=k)[:, 0]


def relative_pose(
    image1: Any,
    image2: Any,
    K1: Any = None,
    K2: Any = None,
    *,
    params: Any = None,
    network: PoseNetwork | None = None,
    head: MatchHead | None = None,
    shape: tuple[int, int] | None = None,
    distortion1: Any = None,
    distortion2: Any = None,
    features: str = "sift",
    seed: int = 0,
) -> RelativePose:
    """The pose of the second camera relative to the first: x2 = R x1 + t, |t| = 1.

    Features are matched (OpenCV), and their robust epipolar energy is minimised on SO(3) x S^2,
    from poses of random samples and, with a network, from its pose, which is also the prior. All
    matches take part without a network, with one the best 128, as in its training.

    Args:
        image1: (H, W, 3) RGB, uint8 or floats in [0, 1].
        image2: (H', W', 3).
        K1: (3, 3) of the first image [px], pixel centres at whole numbers; None: a focal length of
            1.2 times the longer side, and the centre.
        K2: of the second; None: the same rule.
        params: of a network (`load_model`); None: matches only.
        network: that of the params.
        head: that of the params.
        shape: (H, W) of the network's input.
        distortion1: lens distortion of the first image in OpenCV's order, k1, k2, p1, p2[, k3[, k4,
            k5, k6[, s1, s2, s3, s4[, tx, ty]]]]; None: none.
        distortion2: of the second.
        features: `sift`, `orb` or `surf`.
        seed: of the samples.

    Returns:
        The pose. Without a network and with fewer than five matches: nan with confidence 0.

    Raises:
        ValueError: an invalid image, values out of range, an invalid K or distortion.
    """
    images = _image("image1", image1), _image("image2", image2)
    k1, k2 = intrinsics_or_guess("K1", K1, images[0]), intrinsics_or_guess("K2", K2, images[1])
    found = find_matches(*images, features)
    straight = found._replace(
        points1=undistorted("distortion1", found.points1, k1, distortion1),
        points2=undistorted("distortion2", found.points2, k2, distortion2),
    )
    count = None if params is None else MATCHES
    matches, key = match_arrays([straight], k1[None], k2[None], count), jax.random.key(seed)
    if params is not None:
        if network is None or head is None or shape is None:
            missing = [
                n for n, v in (("network", network), ("head", head), ("shape", shape)) if v is None
            ]
            hint = "load_model returns params and these settings."
            raise argument_error("params", f"expected {missing} with them", "none", hint)
        least = least_side(network.net, network.trunk)
        for name, image in zip(("image1", "image2"), images, strict=True):
            if min(image.shape[:2]) < least:
                expected, hint = f"expected {least} pixels a side or more", "Give a larger image."
                raise argument_error(name, expected, image.shape, hint)
        small = [resized(image, shape)[None] for image in images]
        refined = refined_with_network(params, *small, matches, key, network, head)
    elif len(found.ratio) < FEWEST:
        return no_pose(len(found.ratio))
    else:
        refined = refined_alone(matches, key)
    pose = jax.tree.map(lambda leaf: np.asarray(leaf[0]), refined)
    prior = None if params is None else params["scales"].log_precision
    confidence = np.asarray(confidence_of(pose, prior))
    return pose_of(pose, confidence, found)
