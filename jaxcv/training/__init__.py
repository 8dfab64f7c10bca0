"""Training state, update steps, sweeps and checkpoints."""

from jaxcv.training.checkpoint import CheckpointError, Checkpoints, Restored
from jaxcv.training.state import TrainState, create_state
from jaxcv.training.step import global_norm, make_update
from jaxcv.training.sweep import Sweep, check_members

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "Restored",
    "Sweep",
    "TrainState",
    "check_members",
    "create_state",
    "global_norm",
    "make_update",
]
