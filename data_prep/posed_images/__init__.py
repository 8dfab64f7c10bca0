"""Pairs of images with relative poses: folders, COLMAP, DTU, 1DSfM's landmarks, or rendered."""

from data_prep.posed_images.builder import (
    SOURCES,
    PosedConfig,
    PosedImages,
    RenderedConfig,
    RenderedPairs,
    prepare,
    prepare_rendered,
)

__all__ = [
    "SOURCES", "PosedConfig", "PosedImages", "RenderedConfig", "RenderedPairs", "prepare",
    "prepare_rendered",
]  # fmt: skip
