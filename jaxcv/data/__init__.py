"""Batches, synthetic generators and pipelines."""
