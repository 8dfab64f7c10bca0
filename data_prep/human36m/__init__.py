"""Human3.6M: detected and true joints, from the user's own copy."""

from data_prep.human36m.builder import TEST_SUBJECTS, Human36m, prepare, prepare_frames
from data_prep.human36m.parser import Layout, find_layout, read_sequence

__all__ = [
    "TEST_SUBJECTS",
    "Human36m",
    "Layout",
    "find_layout",
    "prepare",
    "prepare_frames",
    "read_sequence",
]
