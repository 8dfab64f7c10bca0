"""Minimisers, their implicit gradients and the linear algebra under them; knows nothing of images."""
