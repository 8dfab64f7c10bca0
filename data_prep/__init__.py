"""TFDS builders for the real data sets; see data_prep/README.md."""
