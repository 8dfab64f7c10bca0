"""Heads written in code: who it is, how it is turned, where the light comes from.

A head is a deformed sphere in longitude and latitude: an ellipsoid whose jaw tapers, with smooth
bumps for brows, sockets, eyes, nose, cheeks, lips, chin and ears, and an albedo with irises, brows,
lips and hair. Twenty-four numbers, each N(0, 1), are an identity. It is drawn by an orthographic
camera before a white background; turned by azimuth about the vertical and by elevation about the
camera's x axis, and lit from an azimuth that is the camera's, not the head's:

    R = R_x(elevation) R_y(azimuth),   l ~ (sin light, 0.25, cos light),
    shade = albedo (0.25 + 0.75 max(0, n l)).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcv.core.checks import argument_error
from jaxcv.data.graphics import FactorBatches, FactorImages
from jaxcv.data.synthetic.rasterise import interpolate, rasterise

__all__ = [
    "IDENTITY", "NAMES", "RANGES", "generate_head_batches", "generate_heads", "head_batch",
    "head_mesh", "render_head",
]  # fmt: skip

# What an identity changes: name, mean and standard deviation.
_SIZES = (
    ("width", 0.74, 0.05), ("height", 1.0, 0.05), ("length", 0.9, 0.05), ("jaw", 0.32, 0.08),
    ("nose", 0.17, 0.04), ("nose_width", 0.11, 0.02), ("nose_place", -0.10, 0.04),
    ("bridge", 0.07, 0.02), ("brow", 0.05, 0.02), ("sockets", 0.085, 0.02), ("eyes", 0.30, 0.03),
    ("eye_place", 0.10, 0.03), ("cheeks", 0.05, 0.025), ("lips", 0.05, 0.015),
    ("mouth_width", 0.24, 0.04), ("mouth_place", -0.42, 0.03), ("chin", 0.07, 0.03),
    ("ears", 0.16, 0.04), ("skin", 0.75, 0.12), ("brow_tone", 0.55, 0.12),
    ("lip_tone", 0.70, 0.10), ("hair_tone", 0.35, 0.2), ("hairline", 0.62, 0.12),
    ("fringe", 0.10, 0.10),
)  # fmt: skip
IDENTITY = tuple(name for name, _, _ in _SIZES)
NAMES = ("azimuth", "elevation", "light", "identity")  # of the factors
RANGES = {"azimuth": 1.5, "elevation": 0.4, "light": 1.4}  # the source's, +- [rad]
_AT_MOST = 2.0  # standard deviations
_HALF = 1.15  # of the image's side, in units of the head's height
_BACKGROUND = 1.0


def _grid(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Longitudes and latitudes of the vertices, and the faces; poles are rows of equal points."""
    latitude = np.linspace(-0.5 * np.pi, 0.5 * np.pi, rows)
    longitude = np.linspace(-np.pi, np.pi, columns, endpoint=False)
    lat, lon = np.meshgrid(latitude, longitude, indexing="ij")
    i, j = np.meshgrid(np.arange(rows - 1), np.arange(columns), indexing="ij")
    at = lambda i, j: (i * columns + j % columns).ravel()
    a, b, c, d = at(i, j), at(i, j + 1), at(i + 1, j + 1), at(i + 1, j)
    faces = np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)])
    return lon.ravel(), lat.ravel(), faces


def _bump(lon, lat, place, size, both=False):
    """A Gaussian at (longitude, latitude), and at its mirror image."""
    one = lambda side: np.exp(
        -(((lon - side * place[0]) / size[0]) ** 2) - ((lat - place[1]) / size[1]) ** 2
    )
    return one(1) + one(-1) if both else one(1)


def head_mesh(
    identity: np.ndarray, rows: int = 61, columns: int = 96
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (V, 3) (x to its left, y up, z out of the face), faces (F, 3), albedo (V,).

    Args:
        identity: (24,), each as from N(0, 1); cut at two standard deviations.
        rows: of vertices, in latitude.
        columns: of vertices, in longitude.
    """
    identity = np.asarray(identity, float)
    if identity.shape != (len(_SIZES),) or not np.isfinite(identity).all():
        raise argument_error("identity", f"expected finite ({len(_SIZES)},)", identity.shape)
    z = np.clip(identity, -_AT_MOST, _AT_MOST)
    s = {name: mean + k * value for (name, mean, k), value in zip(_SIZES, z, strict=True)}
    lon, lat, faces = _grid(rows, columns)
    bump = lambda place, size, both=False: _bump(lon, lat, place, size, both)
    eye = (s["eyes"], s["eye_place"])
    mouth = s["mouth_place"]
    out = s["nose"] * bump((0, s["nose_place"]), (s["nose_width"], 0.12))
    out += s["bridge"] * bump((0, 0.06), (0.07, 0.16))
    out += s["brow"] * bump((s["eyes"], s["eye_place"] + 0.14), (0.2, 0.06), both=True)
    out -= s["sockets"] * bump(eye, (0.16, 0.10), both=True)
    out += 0.05 * bump(eye, (0.08, 0.05), both=True)
    out += s["cheeks"] * bump((0.5, -0.15), (0.25, 0.2), both=True)
    for away in (0.045, -0.05):
        out += s["lips"] * bump((0, mouth + away), (s["mouth_width"], 0.035))
    out -= 0.6 * s["lips"] * bump((0, mouth), (1.2 * s["mouth_width"], 0.02))
    out += s["chin"] * bump((0, -0.72), (0.3, 0.15))
    out += s["ears"] * bump((1.62, 0.0), (0.09, 0.2), both=True)
    radius = 1 + out
    x, y, depth = np.cos(lat) * np.sin(lon), np.sin(lat), np.cos(lat) * np.cos(lon)
    taper = 1 - s["jaw"] * np.maximum(-y, 0) ** 1.3
    sizes = s["width"] * taper, s["height"], s["length"] * (0.5 + 0.5 * taper)
    vertices = np.stack([k * radius * w for k, w in zip(sizes, (x, y, depth), strict=True)], -1)
    albedo = np.full(len(lon), s["skin"])
    albedo *= 1 - (1 - s["lip_tone"]) * np.minimum(
        1, bump((0, mouth), (s["mouth_width"], 0.07)) * 1.4
    )
    brow = bump((s["eyes"], s["eye_place"] + 0.17), (0.17, 0.035), both=True)
    albedo *= 1 - (1 - s["brow_tone"]) * np.minimum(1, 1.5 * brow)
    white = np.minimum(1, 2 * bump(eye, (0.085, 0.04), both=True) ** 2)
    albedo = albedo + white * (0.95 - albedo)
    iris = np.minimum(1, 2 * bump(eye, (0.038, 0.04), both=True) ** 2)
    albedo = albedo + iris * (0.15 - albedo)
    front = np.cos(lon)  # hair begins higher in front
    line = s["hairline"] * (0.5 + 0.5 * front) + 0.15 * (0.5 - 0.5 * front) - 0.35 * (front < -0.2)
    line = line + s["fringe"] * np.cos(3 * lon) * (front > 0)
    hair = 1 / (1 + np.exp(-(lat - line) / 0.04))
    albedo = albedo + hair * (np.clip(s["hair_tone"], 0.05, 0.8) - albedo)
    return vertices, faces, np.clip(albedo, 0.02, 0.98)


def render_head(
    mesh: tuple[np.ndarray, np.ndarray, np.ndarray],
    azimuth: float,
    elevation: float,
    light: float,
    side: int = 48,
) -> np.ndarray:
    """A grey image (S, S) in [0, 1], the mean of 2 x 2 samples a pixel.

    Args:
        mesh: of `head_mesh`.
        azimuth: turn about the vertical [rad]; positive: the nose to the right of the image.
        elevation: nod [rad]; positive: the nose down.
        light: azimuth of the light [rad]; positive: from the right of the image.
        side: S [px].
    """
    vertices, faces, albedo = mesh
    ca, sa, ce, se = np.cos(azimuth), np.sin(azimuth), np.cos(elevation), np.sin(elevation)
    about_y = np.array([[ca, 0, sa], [0, 1, 0], [-sa, 0, ca]])
    about_x = np.array([[1, 0, 0], [0, ce, -se], [0, se, ce]])
    turned = vertices @ (about_x @ about_y).T
    raster = rasterise(turned, faces, 2 * side, _HALF)
    normals = _vertex_normals(turned, faces)
    seen = interpolate(raster, faces, np.c_[normals, albedo])
    normal = seen[..., :3] / np.maximum(np.linalg.norm(seen[..., :3], axis=-1, keepdims=True), 1e-9)
    lamp = np.array([np.sin(light), 0.25, np.cos(light)])
    lambert = np.maximum(normal @ (lamp / np.linalg.norm(lamp)), 0)
    image = np.where(raster.face >= 0, seen[..., 3] * (0.25 + 0.75 * lambert), _BACKGROUND)
    return image.reshape(side, 2, side, 2).mean(axis=(1, 3))


def _vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    normal = np.cross(b - a, c - a)
    out = np.stack(
        [
            np.bincount(faces.ravel(), np.repeat(normal[:, k], 3), minlength=len(vertices))
            for k in range(3)
        ],
        axis=-1,
    )
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)


def generate_head_batches(
    seed: int,
    counts: Mapping[str, int],
    *,
    batch: int = 20,
    side: int = 48,
    ranges: Mapping[str, float] = RANGES,
) -> FactorBatches:
    """Batches in which one factor is drawn anew for every image, and the others for the batch.

    Every batch has a head of its own; in those of `identity` every image has. Angles are uniform
    within +- their range. The batches come in random order.

    Args:
        seed: of everything; other seeds are other heads.
        counts: of the batches in which each of NAMES changes.
        batch: images of one.
        side: of the images [px].
        ranges: of the angles [rad].
    """
    _check_names("counts", counts, NAMES)
    kinds = np.repeat([NAMES.index(name) for name in counts], list(counts.values()))
    kinds = np.random.default_rng(seed).permutation(kinds)
    made = [
        head_batch(seed, n, int(kind), batch=batch, side=side, ranges=ranges)
        for n, kind in enumerate(kinds)
    ]
    images, factors = (np.stack(leaves) for leaves in zip(*made, strict=True))
    return FactorBatches(images, kinds, factors, NAMES)


def head_batch(
    seed: int,
    number: int,
    kind: int,
    *,
    batch: int = 20,
    side: int = 48,
    ranges: Mapping[str, float] = RANGES,
) -> tuple[np.ndarray, np.ndarray]:
    """Images (B, S, S) uint8 and factors (B, 4) of one batch, which depend on no other batch.

    Args:
        seed: of all batches.
        number: of this one.
        kind: which of NAMES changes, its index.
        batch: B, two or more.
        side: of the images [px].
        ranges: of the angles [rad].
    """
    if batch < 2:
        raise argument_error("batch", "expected two images or more", batch)
    if kind not in range(len(NAMES)):
        raise argument_error("kind", f"expected 0 to {len(NAMES) - 1}, of {NAMES}", kind)
    ranges, identity = _checked_ranges(ranges), len(NAMES) - 1
    rng = np.random.default_rng([seed, number])
    angles = np.tile(_angles(rng, ranges, 1), (batch, 1))
    if kind != identity:
        angles[:, kind] = _angles(rng, ranges, batch)[:, kind]
    count = batch if kind == identity else 1
    meshes = [head_mesh(rng.normal(size=len(IDENTITY))) for _ in range(count)] * (batch // count)
    images = [_eight_bits(m, a, side) for m, a in zip(meshes, angles, strict=True)]
    who = number * batch + (np.arange(batch) if kind == identity else np.zeros(batch))
    return np.array(images), np.c_[angles, who]


def generate_heads(
    seed: int,
    count: int,
    *,
    identities: int = 20,
    side: int = 48,
    ranges: Mapping[str, float] = RANGES,
) -> FactorImages:
    """Images of a few heads, with all angles drawn for every image: for the metrics.

    Args:
        seed: of everything; other seeds are other heads.
        count: of images.
        identities: of heads, in equal shares.
        side: of the images [px].
        ranges: of the angles [rad].
    """
    ranges = _checked_ranges(ranges)
    if not 1 <= identities <= count:
        raise argument_error("identities", f"expected 1 to {count}", identities)
    rng = np.random.default_rng(seed)
    meshes = [head_mesh(rng.normal(size=len(IDENTITY))) for _ in range(identities)]
    angles, who = _angles(rng, ranges, count), np.arange(count) % identities
    images = [_eight_bits(meshes[k], a, side) for k, a in zip(who, angles, strict=True)]
    return FactorImages(np.array(images), np.c_[angles, who], NAMES)


def _check_names(name: str, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    unknown = [key for key in given if key not in known]
    if unknown or not given:
        raise argument_error(name, f"expected some of {known}", unknown or "none")


def _checked_ranges(ranges: Mapping[str, float]) -> dict[str, float]:
    _check_names("ranges", ranges, tuple(RANGES))
    out = RANGES | dict(ranges)
    for key, value in out.items():
        if not 0 <= value <= np.pi:
            raise argument_error(f"ranges[{key!r}]", "expected 0 to pi [rad]", value)
    return out


def _angles(rng: np.random.Generator, ranges: Mapping[str, float], count: int) -> np.ndarray:
    return rng.uniform(-1, 1, (count, 3)) * [ranges[name] for name in NAMES[:3]]


def _eight_bits(mesh: Any, angles: np.ndarray, side: int) -> np.ndarray:
    azimuth, elevation, light = angles
    image = render_head(mesh, azimuth, elevation, light, side)
    return np.round(255 * image).astype(np.uint8)
