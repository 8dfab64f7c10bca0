"""Training state, update steps, sweeps and checkpoints."""

from jaxcv.training.checkpoint import CheckpointError, Checkpoints, Restored
from jaxcv.training.plateau import Plateau
from jaxcv.training.random_search import SearchRange, draw_settings, shrink_ranges
from jaxcv.training.state import TrainState, create_state, leaf_shapes
from jaxcv.training.step import global_norm, make_update
from jaxcv.training.sweep import Sweep, check_trials

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "Plateau",
    "Restored",
    "SearchRange",
    "Sweep",
    "TrainState",
    "check_trials",
    "create_state",
    "draw_settings",
    "global_norm",
    "leaf_shapes",
    "make_update",
    "shrink_ranges",
]
