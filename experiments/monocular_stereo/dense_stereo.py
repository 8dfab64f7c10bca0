"""Dense depth of two views with a given motion: plane sweep, and semi-global matching (OpenCV).

Both match the source's brightness to the target's first. Their settings are chosen on tuning pairs
with the true motion, by the mean error of inverse depth. Depths are in baselines, |t| = 1.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.data.stereo import StereoPairs
from jaxcv.geometry.camera import pixel_rays
from jaxcv.geometry.warp import bilinear, warp_pixels

__all__ = ["METHODS", "Method", "tuned"]

HYPOTHESES = 96  # the plane sweep's inverse depths
RADII = (1, 2, 3, 4, 6, 8, 12)  # of the plane sweep's windows [px]
BLOCKS = (1, 3, 5, 7, 9, 11)  # sides of the blocks of semi-global matching [px]
SMOOTHNESS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # factors on OpenCV's recommended penalties
LARGEST = 1024  # sides of rectified images [px], at most
FALLBACK = 6  # radius of the plane sweep's windows for pairs that cannot be rectified [px]
SMALLEST_ANGLE = 15.0  # of baseline and optical axis [deg]: nearer ones cannot be rectified


class Method(NamedTuple):
    """A method and the grid of its settings.

    Attributes:
        depths: (pairs, motions (N, 4, 4), limits, *settings) -> depths (N, H, W).
        grid: the values of each setting, increasing.
    """

    depths: Callable[..., np.ndarray]
    grid: tuple[tuple[float, ...], ...]


def matched(target: Any, source: Any) -> Any:
    """The source (H, W, 3) with the target's mean and standard deviation in each channel."""
    mean, spread = (lambda x: x.mean((0, 1))), (lambda x: x.std((0, 1)) + 1e-6)
    return (source - mean(source)) * (spread(target) / spread(source)) + mean(target)


@functools.partial(jax.jit, static_argnames="radius")
def _sweep_one(target, source, k, motion, levels, radius):
    """Inverse depths (H, W) of lowest cost, summed over a window."""
    height, width = target.shape[:2]
    source, rays = matched(target, source), pixel_rays(k, height, width)

    def cost(z):
        warp = warp_pixels(jnp.full((height, width), z), motion, rays, k, (height, width))
        away = jnp.sum(jnp.abs(bilinear(source, warp.u, warp.v)[0] - target), axis=-1)
        away = jnp.where(warp.visible, jnp.minimum(away, 0.5), 0.5)
        side = (2 * radius + 1, 1), (1, 2 * radius + 1)
        for window in side:  # a square window is a column of rows
            away = jax.lax.reduce_window(away, 0.0, jax.lax.add, window, (1, 1), "SAME")
        return away

    def better(best, z):
        away = cost(z)
        lower = away < best[0]
        return (jnp.where(lower, away, best[0]), jnp.where(lower, z, best[1])), None

    start = jnp.full((height, width), jnp.inf), jnp.full((height, width), levels[0])
    return jax.lax.scan(better, start, levels)[0][1]


def sweep(
    pairs: StereoPairs, motion: np.ndarray, limits: Any, radius: float, scale: int = 1
) -> np.ndarray:
    """Depths (N, H, W) by a plane sweep; `limits` of inverse depth, `radius` [px] at scale 1."""
    levels = jnp.geomspace(limits[0], limits[1], HYPOTHESES * min(scale, 2))
    fields, size = (pairs.target, pairs.source, pairs.intrinsics, motion), int(radius) * scale
    single = lambda x: jnp.asarray(x, jnp.float32)
    z = [
        np.asarray(_sweep_one(single(a), single(b), single(k), single(m), levels, size))
        for a, b, k, m in zip(*fields, strict=True)
    ]
    return 1 / np.stack(z)


class Rectified(NamedTuple):
    """Two views turned to parallel axes, the baseline along x.

    Attributes:
        turn: (3, 3), of the target's camera.
        intrinsics: (3, 3) of both turned cameras [px].
        shape: (height, width) of both.
        homographies: (2, 3, 3), target and source pixels to turned pixels.
    """

    turn: np.ndarray
    intrinsics: np.ndarray
    shape: tuple[int, int]
    homographies: np.ndarray


def rectify(k: np.ndarray, motion: np.ndarray, shape: tuple[int, int]) -> Rectified | None:
    """Rectification by the baseline; None where it is too near the optical axis.

    The turned x axis points to the source's centre, so disparities f / Z are positive.
    """
    centre = -motion[:3, :3].T @ motion[:3, 3]
    length = np.linalg.norm(centre)
    if length < 1e-6:
        return None
    x = centre / length
    if np.degrees(np.arccos(min(1.0, abs(x[2])))) < SMALLEST_ANGLE:
        return None
    z = np.array([0.0, 0.0, 1.0]) - x[2] * x
    z /= np.linalg.norm(z)
    turn = np.stack([x, np.cross(z, x), z])
    corners = np.array([[u, v, 1.0] for u in (0, shape[1] - 1) for v in (0, shape[0] - 1)])
    rays = [turns @ np.linalg.inv(k) @ corners.T for turns in (turn, turn @ motion[:3, :3].T)]
    if min(ray[2].min() for ray in rays) < 0.1:
        return None
    points = np.concatenate([ray[:2] / ray[2] for ray in rays], axis=1)
    low, high = points.min(axis=1), points.max(axis=1)
    focal = min(k[0, 0], *((LARGEST - 1) / (high - low)))
    size = np.ceil(focal * (high - low)).astype(int) + 1
    turned = np.array([[focal, 0, -focal * low[0]], [0, focal, -focal * low[1]], [0, 0, 1]])
    back = np.linalg.inv(k)
    both = np.stack([turned @ turn @ back, turned @ turn @ motion[:3, :3].T @ back])
    return Rectified(turn, turned, (int(size[1]), int(size[0])), both)


def semi_global(
    pairs: StereoPairs, motion: np.ndarray, limits: Any, block: float, smoothness: float,
    scale: int = 1,
) -> np.ndarray:  # fmt: skip
    """Depths (N, H, W) by OpenCV's semi-global matching of rectified views.

    Pixels without a match take the depth of the nearest pixel with one. Pairs that cannot be
    rectified, forward motions above all, or have no match take the depths of a plane sweep.
    """
    out = []  # blocks and penalties keep their sizes in pixels at every scale
    for i in range(len(pairs.target)):
        own = np.asarray(motion[i], float)
        depth = _match(pairs.take(i), own, limits, int(block), smoothness)
        if depth is None:
            one = pairs.take(slice(i, i + 1))
            depth = sweep(one, motion[i : i + 1], limits, FALLBACK, scale)[0]
        out.append(depth)
    return np.stack(out)


def _match(pair: StereoPairs, motion: np.ndarray, limits: Any, block: int, smoothness: float):
    import cv2
    from scipy.ndimage import distance_transform_edt

    cv: Any = cv2  # its stubs are incomplete
    shape, k = pair.target.shape[:2], np.asarray(pair.intrinsics, float)
    views = rectify(k, motion, shape)
    if views is None:
        return None
    bytes_of = lambda image: (255 * np.clip(image, 0, 1)).astype(np.uint8)
    images = bytes_of(pair.target), bytes_of(matched(pair.target, pair.source))
    size = views.shape[::-1]
    first, second = (
        cv.warpPerspective(image, h, size, flags=cv.INTER_LINEAR)
        for image, h in zip(images, views.homographies, strict=True)
    )
    focal = views.intrinsics[0, 0]
    v, u = np.mgrid[: shape[0], : shape[1]]
    pixels = np.stack([u.ravel(), v.ravel(), np.ones(u.size)])
    # A turned depth f / d lies on the pixel's ray, whose z in the target's camera is 1.
    along = (views.turn @ np.linalg.inv(k) @ pixels)[2].reshape(shape)
    low = int(np.floor(focal * limits[0] / along.max()))
    high = min(focal * limits[1] / along.min(), size[0])
    count = 16 * max(1, int(np.ceil((high - low + 1) / 16)))
    penalty = smoothness * 3 * block**2  # three channels
    matcher = cv.StereoSGBM_create(
        minDisparity=low, numDisparities=count, blockSize=block, P1=max(1, int(8 * penalty)),
        P2=max(2, int(32 * penalty)), disp12MaxDiff=1, uniquenessRatio=5,
        mode=cv.STEREO_SGBM_MODE_HH,
    )  # fmt: skip
    # A border, because the matcher gives no disparity to the first columns.
    border = lambda image: cv.copyMakeBorder(image, 0, 0, low + count, 0, cv.BORDER_REPLICATE)
    disparity = matcher.compute(border(first), border(second))[:, low + count :] / 16.0
    turned = views.homographies[0] @ pixels
    column, row = np.rint(turned[:2] / turned[2]).astype(int)
    column, row = np.clip(column, 0, size[0] - 1), np.clip(row, 0, size[1] - 1)
    sampled = disparity[row, column].reshape(shape)
    known = (sampled >= low) & (sampled > 0)
    if not known.any():
        return None
    nearest = distance_transform_edt(~known, return_distances=False, return_indices=True)
    sampled = sampled[tuple(nearest)]  # type: ignore[index]
    return 1 / np.clip(sampled * along / focal, *limits)


METHODS = {
    "sweep": Method(sweep, (tuple(map(float, RADII)),)),
    "sgm": Method(semi_global, (tuple(map(float, BLOCKS)), SMOOTHNESS)),
}


def tuned(pairs: StereoPairs, limits: Any) -> dict[str, tuple[float, ...]]:
    """Method -> settings of the lowest mean error of inverse depth with the true motion."""
    best = {}
    for name, method in METHODS.items():
        scores = {
            setting: np.nanmean(np.abs(1 / method.depths(pairs, pairs.motion, limits, *setting)
                                       - 1 / pairs.depth))
            for setting in itertools.product(*method.grid)
        }  # fmt: skip
        best[name] = min(scores, key=lambda setting: scores[setting])
    return best
