"""Minimisers of a flat energy, one algorithm per file."""
