"""Upsampling by two and a convolution, without forming the large image.

After nearest-neighbour upsampling a k x k kernel reads the same small pixel several times. Row
2 m + a of the result reads the small rows m + (a + t) // 2, t = 0 .. k - 1. So each phase (a, b) of
a 2 x 2 block has one kernel of K = k // 2 + 1 rows and columns on the small image:

    W_ab[p, q] = sum over t with (a + t) // 2 = p, s with (b + s) // 2 = q of W[t, s].

The four phases are one convolution with four times the channels, whose results are interleaved.
For k = 7 this needs 16 products per pixel instead of 49; values agree up to round-off.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.checks import argument_error, check_choice, check_shape
from jaxcv.models.layers import convolve

__all__ = ["UpsampledConvolution", "upsample", "upsample_convolve"]

METHODS = ("auto", "phases", "convolution")


def upsample(x: jax.Array) -> jax.Array:
    """Repeats each pixel as 2 x 2, (..., 2 H, 2 W, C) of (..., H, W, C)."""
    return jnp.repeat(jnp.repeat(x, 2, axis=-3), 2, axis=-2)


def _plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return convolve(upsample(x), kernel, "VALID")


def _phases(x: jax.Array, kernel: jax.Array) -> jax.Array:
    size, _, channels, features = kernel.shape
    small = size // 2 + 1
    a, p, t = np.ogrid[:2, :small, :size]
    chosen = jnp.asarray((a + t) // 2 == p, kernel.dtype)  # (2, K, k)
    kernels = jnp.einsum("apt,bqs,tscf->pqcabf", chosen, chosen, kernel)
    out = convolve(x, kernels.reshape(small, small, channels, 4 * features), "VALID")
    *batch, height, width, _ = out.shape
    blocks = out.reshape(*batch, height, width, 2, 2, features)
    blocks = jnp.moveaxis(blocks, -3, -4)  # rows of a block beside the rows of the image
    return blocks.reshape(*batch, 2 * height, 2 * width, features)


def upsample_convolve(x: jax.Array, kernel: jax.Array, method: str = "auto") -> jax.Array:
    """`upsample`, then a convolution without padding: (..., 2 H - k + 1, 2 W - k + 1, C').

    Args:
        x: (..., H, W, C).
        kernel: (k, k, C, C') with odd k, on the large image.
        method: `phases` on the small image; `convolution` on the large one; `auto`: `phases` on
            CPUs, where products dominate the cost, `convolution` elsewhere.

    Raises:
        ValueError: an even kernel, other channels, or a large image smaller than the kernel.
    """
    check_choice("method", method, METHODS)
    check_shape("kernel", kernel, (None, None, x.shape[-1], None))
    size = kernel.shape[0]
    if kernel.ndim != 4 or kernel.shape[1] != size or size % 2 == 0:
        raise argument_error("kernel", "expected (k, k, C, C') with odd k", kernel.shape)
    if 2 * min(x.shape[-3:-1]) < size:
        raise argument_error("x", f"expected {(size + 1) // 2} pixels a side or more", x.shape)
    if method == "phases":
        return _phases(x, kernel)
    if method == "convolution":
        return _plain(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=_phases, default=_plain)


class UpsampledConvolution(nn.Module):
    """`upsample_convolve` with learned weights and a bias.

    Attributes:
        features: C'.
        size: k, odd.
        kernel_init: initial weights, of a kernel (k, k, C, C').
        bias_init: initial bias.
        method: of `upsample_convolve`.
    """

    features: int
    size: int
    kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    method: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., H, W, C) -> (..., 2 H - k + 1, 2 W - k + 1, C')."""
        kernel = self.param(
            "kernel", self.kernel_init, (self.size, self.size, x.shape[-1], self.features)
        )
        bias = self.param("bias", self.bias_init, (self.features,))
        return upsample_convolve(x, kernel, self.method) + bias
