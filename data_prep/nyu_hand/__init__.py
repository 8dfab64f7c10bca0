"""NYU Hand Pose: RGB-D frames of hands with 36 joints, from the user's own copy."""

from data_prep.nyu_hand.builder import NyuHand, prepare
from data_prep.nyu_hand.parser import (
    NyuLabels,
    encode_depth,
    frame_files,
    read_color,
    read_depth,
    read_labels,
)

__all__ = [
    "NyuHand", "NyuLabels", "encode_depth", "frame_files", "prepare", "read_color", "read_depth",
    "read_labels",
]  # fmt: skip
