"""Heads of jaxcv.data.synthetic.head, rendered once into a data set of any size."""

from data_prep.rendered_heads.builder import HeadsConfig, RenderedHeads, prepare

__all__ = ["HeadsConfig", "RenderedHeads", "prepare"]
