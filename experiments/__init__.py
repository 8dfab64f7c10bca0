"""Experiments: one package each, all run by `experiments.runner`."""
