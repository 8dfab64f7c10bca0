"""Sums of squares and of robust costs, their kernels and structures."""
