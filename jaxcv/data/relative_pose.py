"""Pairs of images with the relative pose of their cameras.

    x2 = R x1 + t,  |t| = 1;  x right, y down, z forward; pixel centres at whole numbers

This is the convention of OpenCV's recoverPose.
"""

from typing import Any, NamedTuple

import numpy as np

from jaxcv.checks import argument_error
from jaxcv.geometry.camera import check_intrinsics

__all__ = [
    "Gathered", "PosePairs", "RaggedImages", "check_pose_pairs", "inverse_pose", "swapped"
]  # fmt: skip


class Gathered:
    """A lazily indexed array: the images of pairs that share views.

    Behaves like `array[rows]` when indexed or converted to an array, but stores only the indices.
    """

    def __init__(self, array: Any, rows: Any):
        self.array, self.rows = array, np.asarray(rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, ...)."""
        return (*self.rows.shape, *self.array.shape[1:])

    @property
    def dtype(self) -> np.dtype:
        """As the array's."""
        return self.array.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.array[self.rows[index]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def take(self, rows: Any) -> "Gathered":
        """A lazy subset of the rows."""
        return Gathered(self.array, self.rows[rows])


class RaggedImages(Gathered):
    """`Gathered` of images of different sizes; `array` is a list of (H_v, W_v, 3)."""

    @property
    def shape(self) -> tuple[Any, ...]:
        """(N, None, None, 3): the sizes differ."""
        return (*self.rows.shape, None, None, 3)

    @property
    def dtype(self) -> np.dtype:
        """As the images'."""
        return self.array[0].dtype

    def __getitem__(self, index: Any) -> Any:
        rows = self.rows[index]
        return self.array[rows] if np.ndim(rows) == 0 else [self.array[row] for row in rows]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise argument_error("images", "expected images of one size", "images of several sizes")

    def take(self, rows: Any) -> "RaggedImages":
        """A lazy subset of the rows."""
        return RaggedImages(self.array, self.rows[rows])


class PosePairs(NamedTuple):
    """N pairs of images.

    Attributes:
        first: (N, H, W, 3) in 8 bits (uint8); an array, `Gathered`, or `RaggedImages`.
        second: (N, H, W, 3).
        intrinsics1: (N, 3, 3) of the first images [px].
        intrinsics2: (N, 3, 3) of the second [px].
        rotation: (N, 3, 3).
        direction: (N, 3), of length 1.
        textured: (N,) bool: whether surfaces have texture.
        overlap: (N,) fraction of the first image's pixels visible in the second; nan if unknown.
    """

    first: Any
    second: Any
    intrinsics1: Any
    intrinsics2: Any
    rotation: Any
    direction: Any
    textured: Any
    overlap: Any

    def take(self, rows: Any) -> "PosePairs":
        """A subset of the pairs."""
        some = (leaf.take(rows) if isinstance(leaf, Gathered) else leaf[rows] for leaf in self)
        return PosePairs(*some)


def inverse_pose(rotation: Any, direction: Any) -> tuple[np.ndarray, np.ndarray]:
    """R^T (..., 3, 3) and -R^T t (..., 3): from the second camera to the first."""
    turned = np.swapaxes(rotation, -1, -2)
    return turned, -np.einsum("...ij,...j->...i", turned, direction)


def swapped(pairs: PosePairs) -> PosePairs:
    """The pairs with their images swapped; the overlap becomes nan."""
    turned, moved = inverse_pose(pairs.rotation, pairs.direction)
    return pairs._replace(
        first=pairs.second, second=pairs.first,
        intrinsics1=pairs.intrinsics2, intrinsics2=pairs.intrinsics1,
        rotation=turned, direction=moved, overlap=np.full_like(pairs.overlap, np.nan),
    )  # fmt: skip


def check_pose_pairs(pairs: PosePairs, name: str = "pairs") -> None:
    """Raises ValueError unless the pairs are valid training data.

    Shapes fit, images have 8 bits, K is upper triangular, rotations have determinant 1, directions
    length 1.
    """
    shape = np.shape(pairs.first)
    n = shape[0] if len(shape) == 4 else 0
    want = {
        "first": (n, *shape[1:3], 3), "second": (n, *shape[1:3], 3), "intrinsics1": (n, 3, 3),
        "intrinsics2": (n, 3, 3), "rotation": (n, 3, 3), "direction": (n, 3), "textured": (n,),
        "overlap": (n,),
    }  # fmt: skip
    for field, wanted in want.items():
        got = np.shape(getattr(pairs, field))
        if not n or got != wanted:
            raise argument_error(f"{name}.{field}", f"expected {wanted}", got)
    for field in ("first", "second"):
        got = np.dtype(getattr(pairs, field).dtype)
        if got != np.uint8:
            raise argument_error(f"{name}.{field}", "expected 8 bits (uint8)", got)
    for field in ("intrinsics1", "intrinsics2"):
        check_intrinsics(f"{name}.{field}", getattr(pairs, field))
    r, t = np.asarray(pairs.rotation, float), np.asarray(pairs.direction, float)
    away = np.abs(r @ r.swapaxes(1, 2) - np.eye(3)).max(axis=(1, 2))
    bad = np.flatnonzero(~(away < 1e-3) | ~(np.linalg.det(r) > 0))
    if bad.size:
        expected = "expected rotations of determinant 1"
        raise argument_error(f"{name}.rotation[{bad[0]}]", expected, r[bad[0]].tolist())
    bad = np.flatnonzero(~(np.abs(np.linalg.norm(t, axis=1) - 1) < 1e-3))
    if bad.size:
        hint = "Divide translations by their length; leave out pure rotations."
        expected = "expected directions of length 1"
        raise argument_error(f"{name}.direction[{bad[0]}]", expected, t[bad[0]].tolist(), hint)
