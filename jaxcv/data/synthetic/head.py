"""Procedural heads: identity, rotation and direction of the light.

A head is a deformed sphere in longitude and latitude: an ellipsoid whose jaw tapers, with smooth
bumps for brows, sockets, eyes, nose, cheeks, lips, chin and ears, and an albedo with irises, brows,
lips and hair. An identity is twenty-four numbers, each N(0, 1). An orthographic camera renders the
head on white. The head rotates by azimuth about the vertical and by elevation about the camera's x
axis, around a pivot behind its centre, as on a neck (by 0.18 half heights). The light's azimuth is
relative to the camera, not the head:

    R = R_x(elevation) R_y(azimuth),   l ~ (sin light, 0.25, cos light),
    shade = albedo (0.25 + 0.75 max(0, n l)).
"""

import dataclasses
from typing import Any

import numpy as np

from jaxcv.checks import argument_error
from jaxcv.data.graphics import FACTORS, FactorImages
from jaxcv.data.synthetic.rasterise import interpolate, rasterise
from jaxcv.data.synthetic.scenes import check_batch, check_identities, eight_bits, turn

__all__ = ["IDENTITY", "NARROW_FRAME", "WHOLE_FRAME", "Heads", "head_mesh", "render_head"]

# Sizes and tones of an identity: name, mean and standard deviation.
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
_AT_MOST = 2.0  # standard deviations
_PIVOT = np.array([0.0, 0.0, -0.18])
_BACKGROUND = 1.0

# Half the image's side, in mean half heights.
NARROW_FRAME = 1.15  # the head fills the image; at large angles the border cuts it
# No vertex of a head is further than 1.53 from the pivot, the middle of the image, so that at no
# angle a head reaches the border pixels of an image of 48.
WHOLE_FRAME = 1.6


def _grid(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Longitudes and latitudes of the vertices, and the faces; the poles are degenerate rows."""
    latitude = np.linspace(-0.5 * np.pi, 0.5 * np.pi, rows)
    longitude = np.linspace(-np.pi, np.pi, columns, endpoint=False)
    lat, lon = np.meshgrid(latitude, longitude, indexing="ij")
    i, j = np.meshgrid(np.arange(rows - 1), np.arange(columns), indexing="ij")
    at = lambda i, j: (i * columns + j % columns).ravel()
    a, b, c, d = at(i, j), at(i, j + 1), at(i + 1, j + 1), at(i + 1, j)
    faces = np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)])
    return lon.ravel(), lat.ravel(), faces


def _bump(lon, lat, place, size, both=False):
    """A Gaussian at (longitude, latitude); `both` adds its mirror image."""
    one = lambda side: np.exp(
        -(((lon - side * place[0]) / size[0]) ** 2) - ((lat - place[1]) / size[1]) ** 2
    )
    return one(1) + one(-1) if both else one(1)


def head_mesh(
    identity: np.ndarray, rows: int = 61, columns: int = 96
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (V, 3) (x to the head's left, y up, z forward), faces (F, 3), albedo (V,).

    Args:
        identity: (24,), each from N(0, 1); clipped to two standard deviations.
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
    front = np.cos(lon)  # the hairline is higher in front
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
    frame: float = NARROW_FRAME,
) -> np.ndarray:
    """A grey image (S, S) uint8, with 2 x 2 samples per pixel.

    Args:
        mesh: of `head_mesh`.
        azimuth: about the vertical [rad]; positive: the nose turns to the image's right.
        elevation: nod [rad]; positive: the nose down.
        light: azimuth of the light [rad]; positive: from the right of the image.
        side: S [px].
        frame: half the image's side, in mean half heights of a head.
    """
    vertices, faces, albedo = mesh
    turned = (vertices - _PIVOT) @ turn(azimuth, elevation).T
    raster = rasterise(turned, faces, 2 * side, frame)
    normals = _vertex_normals(turned, faces)
    seen = interpolate(raster, faces, np.c_[normals, albedo])
    normal = seen[..., :3] / np.maximum(np.linalg.norm(seen[..., :3], axis=-1, keepdims=True), 1e-9)
    lamp = np.array([np.sin(light), 0.25, np.cos(light)])
    lambert = np.maximum(normal @ (lamp / np.linalg.norm(lamp)), 0)
    image = np.where(raster.face >= 0, seen[..., 3] * (0.25 + 0.75 * lambert), _BACKGROUND)
    return eight_bits(image)


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


@dataclasses.dataclass(frozen=True)
class Heads:
    """Heads with scene latents azimuth, elevation and light.

    In a batch one factor is drawn for every image, the others once. Every batch has another head,
    and in batches of identity every image has. Angles are uniform within +- their range.

    Attributes:
        azimuth: its range [rad]; the defaults are Kulkarni et al.'s.
        elevation: its range [rad].
        light: its range [rad].
        side: of the images [px].
        frame: half the image's side, in mean half heights of a head; the border cuts some heads
            below WHOLE_FRAME, none from there on.
    """

    azimuth: float = 1.5
    elevation: float = 0.4
    light: float = 1.4
    side: int = 48
    frame: float = NARROW_FRAME
    names, entries = FACTORS[4]

    def __post_init__(self) -> None:
        """Checks the ranges and the frame."""
        if not 0.5 <= self.frame <= 5:
            raise argument_error("frame", "expected 0.5 to 5 half heights", self.frame)
        for name in self.names[: self.entries]:
            if not 0 <= getattr(self, name) <= np.pi:
                raise argument_error(name, "expected 0 to pi [rad]", getattr(self, name))

    def batch(
        self, seed: int, number: int, kind: int, size: int = 20
    ) -> tuple[np.ndarray, np.ndarray]:
        """Images (B, S, S) uint8 and factors (B, 4); see `jaxcv.data.synthetic.scenes`."""
        check_batch(self, kind, size)
        rng = np.random.default_rng([seed, number])
        angles = np.tile(self._angles(rng, 1), (size, 1))
        if kind != self.entries:
            angles[:, kind] = self._angles(rng, size)[:, kind]
        count = size if kind == self.entries else 1
        meshes = [head_mesh(rng.normal(size=len(IDENTITY))) for _ in range(count)] * (size // count)
        who = number * size + (np.arange(size) if kind == self.entries else np.zeros(size))
        return self._seen(meshes, angles), np.c_[angles, who]

    def images(self, seed: int, count: int, identities: int) -> FactorImages:
        """Images of a few heads; see `jaxcv.data.synthetic.scenes`."""
        check_identities(identities, count)
        rng = np.random.default_rng(seed)
        meshes = [head_mesh(rng.normal(size=len(IDENTITY))) for _ in range(identities)]
        angles, who = self._angles(rng, count), np.arange(count) % identities
        return FactorImages(
            self._seen([meshes[k] for k in who], angles), np.c_[angles, who], self.names
        )

    def _angles(self, rng: np.random.Generator, count: int) -> np.ndarray:
        return rng.uniform(-1, 1, (count, 3)) * [self.azimuth, self.elevation, self.light]

    def _seen(self, meshes: list[Any], angles: np.ndarray) -> np.ndarray:
        pairs = zip(meshes, angles, strict=True)
        size = {"side": self.side, "frame": self.frame}
        return np.array([render_head(mesh, *own, **size) for mesh, own in pairs])
