"""Converts weights of AlexNet's convolutions to safetensors, which holds no code."""

from data_prep.trunk_weights.alexnet import convert_alexnet
from data_prep.trunk_weights.caffe import convert_caffemodel

__all__ = ["convert_alexnet", "convert_caffemodel"]
