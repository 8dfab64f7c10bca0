"""Batches of generated scenes; within each batch one factor varies."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from jaxcv.checks import argument_error
from jaxcv.data.graphics import FactorBatches, FactorImages

__all__ = ["Scenes", "check_names", "eight_bits", "generate_batches", "turn"]


class Scenes(Protocol):
    """A family of generated scenes; a frozen value.

    Attributes:
        names: of the factors; the last is the identity.
        entries: the number of leading factors with their own batches and latents; those between
            them and the identity vary with the identity.
        side: of the images [px].
    """

    names: tuple[str, ...]
    entries: int

    @property
    def side(self) -> int:
        """Side of the images [px]."""
        ...

    def batch(self, seed: int, number: int, kind: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Images (B, S, S) uint8 and factors (B, F) of one batch; depends on no other batch.

        Args:
            seed: of all batches; other seeds give other scenes.
            number: of this batch.
            kind: index in `names` of the factor that varies.
            size: B, two or more.
        """
        ...

    def images(self, seed: int, count: int, identities: int) -> FactorImages:
        """Images of a few identities, with all other factors drawn for every image.

        Args:
            seed: of everything.
            count: number of images.
            identities: number of identities, in turn.
        """
        ...


def generate_batches(
    scenes: Scenes, seed: int, counts: Mapping[str, int], *, size: int = 20
) -> FactorBatches:
    """Batches in random order; one factor is drawn for every image, the others once a batch.

    Args:
        scenes: the family of scenes.
        seed: of everything.
        counts: factor -> number of batches in which it varies.
        size: images per batch.
    """
    kinds = drawn_kinds(scenes, seed, counts)
    made = [scenes.batch(seed, n, int(kind), size) for n, kind in enumerate(kinds)]
    images, factors = (np.stack(leaves) for leaves in zip(*made, strict=True))
    return FactorBatches(images, kinds, factors, scenes.names, scenes.entries)


def drawn_kinds(scenes: Scenes, seed: int, counts: Mapping[str, int]) -> np.ndarray:
    """The kind of every batch (N,)."""
    own = (*scenes.names[: scenes.entries], scenes.names[-1])
    check_names("counts", counts, own)
    kinds = np.repeat([scenes.names.index(name) for name in counts], list(counts.values()))
    return np.random.default_rng(seed).permutation(kinds)


def check_batch(scenes: Scenes, kind: int, size: int) -> None:
    """Raises ValueError unless `kind` and `size` are valid."""
    if size < 2:
        raise argument_error("size", "expected two images or more", size)
    kinds = [*range(scenes.entries), len(scenes.names) - 1]
    if kind not in kinds:
        raise argument_error("kind", f"expected one of {kinds}, indices of {scenes.names}", kind)


def check_identities(identities: int, most: int) -> None:
    """Raises ValueError unless the number is from 1 to `most`."""
    if not 1 <= identities <= most:
        raise argument_error("identities", f"expected 1 to {most}", identities)


def check_names(name: str, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Raises ValueError if there are no keys, or an unknown one."""
    unknown = [key for key in given if key not in known]
    if unknown or not given:
        raise argument_error(name, f"expected some of {known}", unknown or "none")


def turn(azimuth: float, elevation: float) -> np.ndarray:
    """R_x(elevation) R_y(azimuth), (3, 3); angles in rad."""
    ca, sa, ce, se = np.cos(azimuth), np.sin(azimuth), np.cos(elevation), np.sin(elevation)
    about_y = np.array([[ca, 0, sa], [0, 1, 0], [-sa, 0, ca]])
    about_x = np.array([[1, 0, 0], [0, ce, -se], [0, se, ce]])
    return about_x @ about_y


def eight_bits(image: np.ndarray) -> np.ndarray:
    """Averages 2 x 2 samples a pixel: (2 S, 2 S) in [0, 1] to (S, S) uint8."""
    side = len(image) // 2
    return np.round(255 * image.reshape(side, 2, side, 2).mean(axis=(1, 3))).astype(np.uint8)
