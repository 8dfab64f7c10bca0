"""Weights of AlexNet's convolutions, brought once into a file without code in it."""

from data_prep.trunk_weights.alexnet import convert_alexnet
from data_prep.trunk_weights.caffe import convert_caffemodel

__all__ = ["convert_alexnet", "convert_caffemodel"]
