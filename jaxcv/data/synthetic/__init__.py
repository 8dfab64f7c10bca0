"""Data generated in code: no download, deterministic in the key."""
