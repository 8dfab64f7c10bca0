"""Geometry as functions on arrays."""
