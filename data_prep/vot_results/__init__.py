"""Results of many trackers on many sequences, in the layout of the VOT toolkit."""

from data_prep.vot_results.builder import VotResults, prepare
from data_prep.vot_results.parser import Layout, Regions, find_layout, read_regions, read_sequence

__all__ = [
    "Layout",
    "Regions",
    "VotResults",
    "find_layout",
    "prepare",
    "read_regions",
    "read_sequence",
]
