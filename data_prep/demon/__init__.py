"""DeMoN's two-view data sets: sun3d, rgbd, mvs, scenes11 and nyu2."""

from data_prep.demon.builder import SETS, Demon, prepare
from data_prep.demon.parser import DemonView, list_pairs, read_view

__all__ = ["SETS", "Demon", "DemonView", "list_pairs", "prepare", "read_view"]
