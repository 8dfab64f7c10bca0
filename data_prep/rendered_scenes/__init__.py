"""Heads and chairs of jaxcv.data.synthetic, rendered once into a data set of any size."""

from data_prep.rendered_scenes.builder import RenderedScenes, ScenesConfig, prepare

__all__ = ["RenderedScenes", "ScenesConfig", "prepare"]
