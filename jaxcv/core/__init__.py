"""Minimisers, their implicit gradients and the linear algebra under them: no images here."""
