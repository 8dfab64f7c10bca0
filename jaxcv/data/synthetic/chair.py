"""Procedural chairs: seats, backs, legs and arms of boxes and cylinders.

A chair is built on y = 0 with its front towards +z, centred and scaled to the unit sphere. It is
rendered by the orthographic camera of `head`, rotated by azimuth about the vertical and by
elevation about the camera's x axis. Shading is flat; the light moves with the camera, from above
left:

    shade = tone (0.35 + 0.65 max(0, n l)).

Chairs without a back get a sled base, open at the rear: otherwise azimuth would be ambiguous.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxcv.data.graphics import FACTORS, FactorImages
from jaxcv.data.synthetic.rasterise import rasterise
from jaxcv.data.synthetic.scenes import check_batch, check_identities, eight_bits, turn

__all__ = ["AZIMUTHS", "ELEVATIONS", "ChairMesh", "Chairs", "chair_mesh", "render_chair"]

AZIMUTHS = 2 * np.pi * np.arange(30) / 30 - np.pi  # [rad], 12 degrees apart
ELEVATIONS = np.deg2rad([20.0, 35.0])
_HALF = 1.05  # half the image's side
_LAMP = np.array([-0.45, 0.65, 0.62]) / np.linalg.norm([-0.45, 0.65, 0.62])
_AMBIENT = 0.35
_ROUND = 10  # sides of a cylinder
_BACKS = ("solid", "slats", "spindles", "ladder", "disc", "none")
_BACK_ODDS = (0.25, 0.2, 0.2, 0.15, 0.12, 0.08)
_BASES = ("round_legs", "square_legs", "swivel", "pedestal", "sled")
_BASE_ODDS = (0.3, 0.2, 0.22, 0.13, 0.15)


class ChairMesh(NamedTuple):
    """Triangles (T, 3, 3), counter-clockwise as seen from outside, and their tones (T,)."""

    triangles: np.ndarray
    tone: np.ndarray


def _prism(base: np.ndarray, top: np.ndarray) -> np.ndarray:
    """Triangles between two polygons (N, 3), counter-clockwise as seen from the top."""
    n = len(base)
    i, j = np.arange(n), (np.arange(n) + 1) % n
    sides = [np.stack([base[i], base[j], top[j]], 1), np.stack([base[i], top[j], top[i]], 1)]
    k = np.arange(1, n - 1)
    fan = lambda ring: np.stack([np.repeat(ring[:1], n - 2, axis=0), ring[k], ring[k + 1]], 1)
    return np.concatenate([*sides, fan(top), fan(base)[:, ::-1]])


def _box(centre: tuple[float, float, float], size: tuple[float, float, float]) -> np.ndarray:
    x, y, z = np.asarray(size) / 2
    ring = np.array([[-x, 0, z], [x, 0, z], [x, 0, -z], [-x, 0, -z]])
    at = np.asarray(centre)
    return _prism(ring + at - [0, y, 0], ring + at + [0, y, 0])


def _bar(start: ArrayLike, end: ArrayLike, radius: float, sides: int = _ROUND) -> np.ndarray:
    """A cylinder from one point to another."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    along = (end - start) / np.linalg.norm(end - start)
    other = np.eye(3)[np.argmin(np.abs(along))]
    u = np.cross(along, other)
    u /= np.linalg.norm(u)
    v = np.cross(along, u)
    angle = 2 * np.pi * (np.arange(sides) + 0.5) / sides
    ring = radius * (np.cos(angle)[:, None] * u + np.sin(angle)[:, None] * v)
    return _prism(start + ring, end + ring)


class _Parts:
    """Accumulates triangles and tones."""

    def __init__(self) -> None:
        self.triangles: list[np.ndarray] = []
        self.tones: list[np.ndarray] = []

    def add(self, triangles: np.ndarray, tone: float) -> None:
        self.triangles.append(triangles)
        self.tones.append(np.full(len(triangles), np.clip(tone, 0.05, 0.95)))


def chair_mesh(rng: np.random.Generator) -> ChairMesh:
    """A chair with random kinds of seat, back and base, sizes and tones."""
    back = rng.choice(_BACKS, p=_BACK_ODDS)
    base = "sled" if back == "none" else rng.choice(_BASES, p=_BASE_ODDS)
    width, depth = rng.uniform(0.42, 0.60), rng.uniform(0.42, 0.58)
    height, thickness = rng.uniform(0.40, 0.52), rng.uniform(0.03, 0.10)
    tone, contrast = rng.uniform(0.2, 0.75), rng.uniform(0.4, 1.4)
    parts = _Parts()
    is_round = rng.random() < 0.3
    _add_seat(parts, is_round, width, depth, height, thickness, tone)
    if rng.random() < 0.3:  # a cushion
        soft = 0.85 * width, 0.04, 0.85 * depth
        parts.add(_box((0, height + 0.02, 0), soft), 1.25 * tone)
    under = height - thickness
    _add_base(parts, str(base), rng, width, depth, under, contrast * tone)
    tall, tilt = rng.uniform(0.35, 0.65), rng.uniform(0.0, 0.25)
    if back != "none":
        _add_back(parts, str(back), rng, width, depth, height, tall, tilt, (tone, contrast * tone))
    if rng.random() < 0.4:
        _add_arms(parts, width, depth, height, rng.uniform(0.16, 0.24), contrast * tone)
    triangles = np.concatenate(parts.triangles)
    low, high = triangles.reshape(-1, 3).min(axis=0), triangles.reshape(-1, 3).max(axis=0)
    triangles = triangles - (low + high) / 2
    triangles /= np.linalg.norm(triangles, axis=-1).max()
    return ChairMesh(triangles, np.concatenate(parts.tones))


def _add_seat(parts, is_round, width, depth, height, thickness, tone) -> None:
    if not is_round:
        parts.add(_box((0, height - thickness / 2, 0), (width, thickness, depth)), tone)
        return
    angle = 2 * np.pi * np.arange(20) / 20
    ring = np.stack([np.sin(angle) * width, np.zeros(20), np.cos(angle) * depth], 1) / 2
    up = np.array([0.0, height, 0.0])
    parts.add(_prism(ring + up - np.array([0.0, thickness, 0.0]), ring + up), tone)


def _add_base(parts, base, rng, width, depth, under, tone) -> None:
    thin, splay = rng.uniform(0.014, 0.032), rng.uniform(0.0, 0.08)
    x, z = 0.42 * width, 0.42 * depth
    corners = [(i, k) for i in (-1, 1) for k in (-1, 1)]
    if base in ("round_legs", "square_legs"):
        sides = _ROUND if base == "round_legs" else 4
        for i, k in corners:
            foot = (i * (x + splay), 0, k * (z + splay))
            parts.add(_bar((i * x, under, k * z), foot, thin, sides), tone)
        if rng.random() < 0.4:  # stretchers
            y, out = 0.35 * under, 0.65 * splay
            for i in (-1, 1):
                ends = (i * (x + out), y, -z - out), (i * (x + out), y, z + out)
                parts.add(_bar(*ends, 0.6 * thin, 6), tone)
            parts.add(_bar((-x - out, y, 0), (x + out, y, 0), 0.6 * thin, 6), tone)
    elif base == "swivel":
        parts.add(_bar((0, 0.08, 0), (0, under, 0), 1.2 * thin), tone)
        for angle in 2 * np.pi * np.arange(5) / 5:
            tip = 0.27 * np.array([np.sin(angle), 0, np.cos(angle)])
            parts.add(_bar((0, 0.1, 0), tip + np.array([0, 0.06, 0]), thin, 6), tone)
            parts.add(_box((tip[0], 0.03, tip[2]), (0.05, 0.06, 0.05)), 0.5 * tone)
    elif base == "pedestal":
        parts.add(_bar((0, 0.03, 0), (0, under, 0), 1.3 * thin), tone)
        parts.add(_bar((0, 0, 0), (0, 0.03, 0), rng.uniform(0.18, 0.26), 20), tone)
    else:  # a sled: two runners, open at the rear
        for i in (-1, 1):
            front, floor = (i * x, under, z), (i * x, thin, z)
            parts.add(_bar(front, floor, thin), tone)
            parts.add(_bar(floor, (i * x, thin, -z), thin), tone)
        parts.add(_bar((-x, thin, -z), (x, thin, -z), thin), tone)


def _add_back(parts, back, rng, width, depth, height, tall, tilt, tones) -> None:
    """Adds the back at the seat's rear edge, leaning backwards."""
    z = -0.46 * depth
    lean = lambda y: z - np.tan(tilt) * (y - height)
    at = lambda x, y: (x, y, lean(y))
    top, half, thin = height + tall, 0.46 * width, rng.uniform(0.014, 0.026)
    bars = int(rng.integers(3, 7))
    low = height + (0.35 * tall if rng.random() < 0.5 else 0.0)  # open above the seat, or not
    tone, frame = tones
    if back == "disc":
        middle, radius = height + 0.6 * tall, 0.42 * width
        normal = np.array([0, np.sin(tilt), np.cos(tilt)])
        centre = np.asarray(at(0.0, middle))
        parts.add(_bar(centre - 0.015 * normal, centre + 0.015 * normal, radius, 20), tone)
        parts.add(_bar(at(0.0, height - 0.02), at(0.0, middle), 1.5 * thin), frame)
        return
    for i in (-1, 1):
        parts.add(_bar(at(i * half, height - 0.02), at(i * half, top), thin), frame)
    if back == "solid":
        ring = lambda y: np.array(
            [
                [x, y, lean(y) + d]
                for x, d in ((-half, 0.02), (half, 0.02), (half, -0.02), (-half, -0.02))
            ]
        )
        parts.add(_prism(ring(low), ring(top)), tone)
        return
    parts.add(_bar(at(-half, top), at(half, top), 1.3 * thin), frame)
    if back == "ladder":
        for y in np.linspace(low + 0.08 * tall, top, bars, endpoint=False):
            parts.add(_bar(at(-half, y), at(half, y), 1.3 * thin, 6), tone)
        return
    if low > height:
        parts.add(_bar(at(-half, low), at(half, low), thin), frame)
    for x in np.linspace(-half, half, bars + 2)[1:-1]:
        if back == "spindles":
            parts.add(_bar(at(x, low), at(x, top), 0.7 * thin, 6), tone)
        else:
            w = 0.3 * width / bars
            ring = lambda y, x=x, w=w: np.array(
                [
                    [x + s, y, lean(y) + d]
                    for s, d in ((-w, 0.01), (w, 0.01), (w, -0.01), (-w, -0.01))
                ]
            )
            parts.add(_prism(ring(low), ring(top)), tone)


def _add_arms(parts, width, depth, height, rise, tone) -> None:
    for i in (-1, 1):
        x, y = i * 0.5 * width, height + rise
        parts.add(_box((x, y, -0.06 * depth), (0.045, 0.03, 0.8 * depth)), tone)
        parts.add(_bar((x, height - 0.02, 0.28 * depth), (x, y, 0.28 * depth), 0.015, 6), tone)


def render_chair(mesh: ChairMesh, azimuth: float, elevation: float, side: int = 48) -> np.ndarray:
    """A grey image (S, S) uint8 on white, with 2 x 2 samples per pixel.

    Args:
        mesh: of `chair_mesh`.
        azimuth: about the vertical [rad]; positive: the front turns to the image's right.
        elevation: of the camera [rad]; positive: from above.
        side: S [px].
    """
    vertices = mesh.triangles.reshape(-1, 3) @ turn(azimuth, elevation).T
    faces = np.arange(len(vertices)).reshape(-1, 3)
    raster = rasterise(vertices, faces, 2 * side, _HALF)
    a, b, c = np.moveaxis(vertices.reshape(-1, 3, 3), 1, 0)
    normal = np.cross(b - a, c - a)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    shade = mesh.tone * (_AMBIENT + (1 - _AMBIENT) * np.maximum(normal @ _LAMP, 0))
    return eight_bits(np.where(raster.face >= 0, shade[np.maximum(raster.face, 0)], 1.0))


@dataclasses.dataclass(frozen=True)
class Chairs:
    """Chairs at 30 azimuths and two elevations; only azimuth is a scene latent.

    In a batch of azimuths, chair and elevation are fixed; in a batch of identities, azimuth is
    fixed and the elevation varies.

    Attributes:
        models: number of chairs per seed.
        side: of the images [px].
    """

    models: int = 400
    side: int = 48
    names, entries = FACTORS[3]

    def batch(
        self, seed: int, number: int, kind: int, size: int = 20
    ) -> tuple[np.ndarray, np.ndarray]:
        """Images (B, S, S) uint8 and factors (B, 3); see `jaxcv.data.synthetic.scenes`."""
        check_batch(self, kind, size)
        rng = np.random.default_rng([seed, number])
        who, low = np.repeat(rng.integers(self.models), size), rng.integers(2, size=size)
        at = np.repeat(rng.integers(len(AZIMUTHS)), size)
        if kind == 0:
            many = size > len(AZIMUTHS)
            at, low = rng.choice(len(AZIMUTHS), size, replace=many), np.repeat(low[:1], size)
        else:
            who = rng.choice(self.models, size, replace=size > self.models)
        return self._seen(seed, who, at, low)

    def images(self, seed: int, count: int, identities: int) -> FactorImages:
        """Images of a few chairs, each with random angles."""
        check_identities(identities, min(count, self.models))
        rng = np.random.default_rng(seed)
        at, low = rng.integers(len(AZIMUTHS), size=count), rng.integers(2, size=count)
        images, factors = self._seen(seed, np.arange(count) % identities, at, low)
        return FactorImages(images, factors, self.names)

    def _seen(self, seed, who, at, low) -> tuple[np.ndarray, np.ndarray]:
        meshes = {k: chair_mesh(np.random.default_rng([seed, int(k), 1])) for k in np.unique(who)}
        angles = np.stack([AZIMUTHS[at], ELEVATIONS[low]], axis=1)
        pairs = zip(who, angles, strict=True)
        images = [render_chair(meshes[k], a, e, self.side) for k, (a, e) in pairs]
        return np.array(images), np.c_[angles, who]
