"""Sums of squares and of robust costs: minimisers, kernels, covariances."""

from jaxcv.least_squares.covariance import covariance
from jaxcv.least_squares.kernels import GemanMcClure, Huber, Kernel, PseudoHuber, Welsch
from jaxcv.least_squares.minimise import argmin_least_squares
from jaxcv.linear.structure import Arrow, BlockDiagonal

__all__ = [
    "Arrow",
    "BlockDiagonal",
    "GemanMcClure",
    "Huber",
    "Kernel",
    "PseudoHuber",
    "Welsch",
    "argmin_least_squares",
    "covariance",
]
