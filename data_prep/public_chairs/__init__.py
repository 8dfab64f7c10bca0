"""The public chair images (Aubry et al., CVPR 2014)."""

from data_prep.public_chairs.builder import ChairsConfig, PublicChairs, prepare

__all__ = ["ChairsConfig", "PublicChairs", "prepare"]
