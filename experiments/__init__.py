"""Experiments: one module each, all run by `experiments.runner`."""
