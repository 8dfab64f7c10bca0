"""Every file that a user hands in or takes away."""

from jaxcv.io.networks import Model

__all__ = ["Model"]
