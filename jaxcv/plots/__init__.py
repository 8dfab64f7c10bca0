"""Plots: (axes, arrays) -> axes; never show, never save."""
