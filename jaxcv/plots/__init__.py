"""Plots: draw arrays on given axes; never show, never save."""
