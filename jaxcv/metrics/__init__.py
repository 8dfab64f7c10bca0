"""Metrics: plain arrays in, one value per sample out."""
