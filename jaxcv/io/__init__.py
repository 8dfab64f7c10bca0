"""Every file that a user hands in or takes away."""

from jaxcv.io.exports import export, register_for_export
from jaxcv.io.interfaces import register_system
from jaxcv.io.networks import Model

__all__ = ["Model", "export", "register_for_export", "register_system"]
