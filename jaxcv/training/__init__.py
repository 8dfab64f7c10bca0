"""Training state, update steps, sweeps and checkpoints."""
