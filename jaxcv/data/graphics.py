"""Batches of images; within each batch one factor of the scene varies."""

from typing import Any, NamedTuple

import numpy as np

from jaxcv.checks import argument_error

__all__ = ["FACTORS", "FactorBatches", "FactorImages", "check_batches"]

# Number of factors -> their names, and how many have their own batches.
FACTORS = {
    4: (("azimuth", "elevation", "light", "identity"), 3),  # faces
    3: (("azimuth", "elevation", "identity"), 1),  # chairs
}


class FactorBatches(NamedTuple):
    """N batches of B images.

    Attributes:
        images: (N, B, S, S) grey, in 8 bits (uint8).
        kind: (N,) index in `names` of the factor that varies within a batch.
        factors: (N, B, F) values; the last is a number of the identity. All nan in a batch
            without labels: training needs none, see `labelled`.
        names: of the factors; angles in rad.
        entries: number of leading factors with their own batches; those between them and the
            identity vary with the identity.
    """

    images: np.ndarray
    kind: np.ndarray
    factors: np.ndarray
    names: tuple[str, ...]
    entries: int

    @property
    def labelled(self) -> np.ndarray:
        """(N,) true for batches whose factors are given."""
        return ~_without_labels(self.factors)

    def take(self, rows: Any) -> "FactorBatches":
        """A subset of the batches."""
        images, kind, factors = self.images[rows], self.kind[rows], self.factors[rows]
        return self._replace(images=images, kind=kind, factors=factors)


class FactorImages(NamedTuple):
    """N images; all factors vary.

    Attributes:
        images: (N, S, S) grey, in 8 bits (uint8).
        factors: (N, F).
        names: of the factors; angles in rad.
    """

    images: np.ndarray
    factors: np.ndarray
    names: tuple[str, ...]


def _without_labels(factors: np.ndarray) -> np.ndarray:
    return np.all(np.isnan(factors), axis=(1, 2), keepdims=True)[:, 0, 0]


def check_batches(batches: FactorBatches, name: str = "batches") -> None:
    """Raises ValueError unless the batches are valid training data.

    Checks shapes, types, at least two images a batch, and that within a batch only its own factor
    varies; factors between `entries` and the identity may vary with the identity. The factors of
    a batch may be all nan.
    """
    shape = np.shape(batches.images)
    if len(shape) != 4 or shape[2] != shape[3]:
        raise argument_error(f"{name}.images", "expected (N, B, S, S)", shape)
    if np.asarray(batches.images).dtype != np.uint8:
        got = np.asarray(batches.images).dtype
        raise argument_error(f"{name}.images", "expected 8 bits (uint8)", got)
    n, size = shape[:2]
    if size < 2:
        hint = "A factor can only vary between two images or more."
        raise argument_error(f"{name}.images", "expected batches of two or more", size, hint)
    want = {"kind": (n,), "factors": (n, size, len(batches.names))}
    for field, wanted in want.items():
        got = np.shape(getattr(batches, field))
        if got != wanted:
            raise argument_error(f"{name}.{field}", f"expected {wanted}", got)
    missing = _without_labels(batches.factors)
    if not np.isfinite(batches.factors[~missing]).all():
        expected = "expected finite values, or nan in a whole batch"
        raise argument_error(f"{name}.factors", expected, "nan or inf")
    kind = np.asarray(batches.kind)
    last = len(batches.names) - 1
    own = [*range(batches.entries), last]
    if not (np.issubdtype(kind.dtype, np.integer) and np.isin(kind, own).all()):
        expected = f"expected some of {own}, indices of {batches.names}"
        raise argument_error(f"{name}.kind", expected, np.unique(kind).tolist())
    still = (np.ptp(batches.factors, axis=1) == 0) | missing[:, None]
    still[np.arange(n), kind] = True
    still[kind == last, batches.entries :] = True
    if not still.all():
        batch, factor = (int(x) for x in np.argwhere(~still)[0])
        expected = f"expected only {batches.names[kind[batch]]!r} to change within batch {batch}"
        raise argument_error(f"{name}.factors", expected, f"a change of {batches.names[factor]!r}")
