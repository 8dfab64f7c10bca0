"""A z-buffer for small meshes under an orthographic camera: the visible triangle of each pixel.

The camera looks along -z: x is right, y up, and the largest z is visible. A triangle covers the
pixels whose centres lie inside. Back faces (clockwise in the image) are culled by default.
"""

from typing import NamedTuple

import numpy as np

from jaxcv.checks import argument_error

__all__ = ["Raster", "interpolate", "rasterise"]


class Raster(NamedTuple):
    """The visible surface.

    Attributes:
        face: (H, W) index of the triangle; -1 if none.
        weight: (H, W, 3) barycentric coordinates; 0 if none.
        depth: (H, W) z; -inf if none.
    """

    face: np.ndarray
    weight: np.ndarray
    depth: np.ndarray


def rasterise(
    vertices: np.ndarray, faces: np.ndarray, side: int, half: float, *, cull: bool = True
) -> Raster:
    """The nearest triangle of every pixel.

    Args:
        vertices: (V, 3).
        faces: (F, 3), counter-clockwise from outside.
        side: of the image [px].
        half: half the image's side in units of the vertices; x = y = 0 is the image's centre.
        cull: whether to leave out back faces.
    """
    vertices, faces = np.asarray(vertices, float), np.asarray(faces)
    if vertices.ndim != 2 or vertices.shape[1] != 3 or not np.isfinite(vertices).all():
        raise argument_error("vertices", "expected finite (V, 3)", vertices.shape)
    scale = side / (2 * half)
    u = scale * (vertices[:, 0] + half) - 0.5  # pixel centres at integers
    v = scale * (half - vertices[:, 1]) - 0.5
    corner = np.stack([u, v, vertices[:, 2]], axis=-1)[faces]  # (F, 3, 3)
    (ua, va), (ub, vb), (uc, vc) = (corner[:, i, :2].T for i in range(3))
    area = (ub - ua) * (vc - va) - (uc - ua) * (vb - va)  # v points down: front faces are negative
    kept = np.flatnonzero(area < 0 if cull else area != 0)
    first = np.maximum(np.ceil(corner[kept, :, :2].min(axis=1)), 0).astype(int)
    last = np.minimum(np.floor(corner[kept, :, :2].max(axis=1)), side - 1).astype(int)
    width, height = np.maximum(last - first + 1, 0).T
    count = width * height
    own = np.repeat(np.arange(len(kept)), count)
    place = np.arange(len(own)) - np.repeat(np.cumsum(count) - count, count)
    x = first[own, 0] + place % np.maximum(width[own], 1)
    y = first[own, 1] + place // np.maximum(width[own], 1)
    face = kept[own]
    a = ((ub[face] - x) * (vc[face] - y) - (uc[face] - x) * (vb[face] - y)) / area[face]
    b = ((uc[face] - x) * (va[face] - y) - (ua[face] - x) * (vc[face] - y)) / area[face]
    weight = np.stack([a, b, 1 - a - b], axis=-1)
    inside = (weight >= 0).all(axis=1)
    face, weight, pixel = face[inside], weight[inside], (side * y + x)[inside]
    z = np.sum(weight * corner[face, :, 2], axis=1)
    order = np.argsort(z, kind="stable")  # the nearest is written last
    seen = np.full(side * side, -1)
    seen[pixel[order]] = order
    hit = seen >= 0
    out_face, out_weight = np.full(side * side, -1), np.zeros((side * side, 3))
    depth = np.full(side * side, -np.inf)
    out_face[hit], out_weight[hit], depth[hit] = (w[seen[hit]] for w in (face, weight, z))
    shape = side, side
    return Raster(out_face.reshape(shape), out_weight.reshape(*shape, 3), depth.reshape(shape))


def interpolate(raster: Raster, faces: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Interpolates vertex values (V, C) to pixels (H, W, C); 0 on the background."""
    corners = values[faces[np.maximum(raster.face, 0)]]  # (H, W, 3, C)
    return np.einsum("hwk,hwkc->hwc", raster.weight, corners)
