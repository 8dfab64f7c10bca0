"""Layers that are not in flax, and the one place where a layer's code depends on the platform."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcv.core.checks import check_shape

__all__ = [
    "Convolution3x3", "ConvolutionalLSTM", "convolve", "convolve3x3", "double", "max_pool",
    "quarter",
]  # fmt: skip


def _shifted(x: jax.Array) -> jax.Array:
    """(..., H, W, 9 C): each pixel's 3 x 3 neighbourhood, zero beyond the border."""
    height, width = x.shape[-3:-1]
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(1, 1), (1, 1), (0, 0)])
    views = [padded[..., i : i + height, j : j + width, :] for i in range(3) for j in range(3)]
    return jnp.concatenate(views, axis=-1)


@jax.custom_vjp
def _as_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    *batch, height, width, channels = x.shape
    features = kernel.shape[-1]
    if features >= channels:
        return _shifted(x) @ kernel.reshape(-1, features)
    # The nine products first, then their shifted sum: less to move where channels become fewer.
    products = x @ jnp.transpose(kernel, (2, 0, 1, 3)).reshape(channels, -1)
    products = products.reshape(*batch, height, width, 9, features)
    padded = jnp.pad(products, [(0, 0)] * len(batch) + [(1, 1), (1, 1), (0, 0), (0, 0)])
    views = [
        padded[..., i : i + height, j : j + width, 3 * i + j, :] for i in range(3) for j in range(3)
    ]
    return sum(views[1:], views[0])


def _product_forward(x, kernel):
    return _as_product(x, kernel), (x, kernel)


def _product_backward(residuals, bar):
    """Products again; the transposed pads and slices would cost twice as much."""
    x, kernel = residuals
    channels, features = kernel.shape[2:]
    turned = kernel[::-1, ::-1]
    x_bar = _as_product(bar, jnp.swapaxes(turned, 2, 3))
    if channels <= features:
        kernel_bar = _shifted(x).reshape(-1, 9 * channels).T @ bar.reshape(-1, features)
        return x_bar, kernel_bar.reshape(kernel.shape)
    kernel_bar = x.reshape(-1, channels).T @ _shifted(bar).reshape(-1, 9 * features)
    kernel_bar = kernel_bar.reshape(channels, 3, 3, features)[:, ::-1, ::-1]
    return x_bar, jnp.transpose(kernel_bar, (1, 2, 0, 3))


_as_product.defvjp(_product_forward, _product_backward)


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The platform's convolution with zeros beyond the border, (..., H, W, C') of (..., H, W, C).

    Args:
        x: (..., H, W, C).
        kernel: (k, k, C, C') with odd k.
    """
    flat = x.reshape(-1, *x.shape[-3:])
    out = jax.lax.conv_general_dilated(
        flat, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return out.reshape(*x.shape[:-1], kernel.shape[-1])


def convolve3x3(x: jax.Array, kernel: jax.Array, method: str = "auto") -> jax.Array:
    """A 3 x 3 convolution with zeros beyond the border, (..., H, W, C') of x (..., H, W, C).

    Args:
        x: (..., H, W, C).
        kernel: (3, 3, C, C'), as `flax.linen.Conv` keeps it.
        method: `product`, matrix products of shifted images; `convolution`, the platform's own;
            `auto`, for use inside loops: products on CPUs, where XLA's backward pass of a
            convolution in a loop is an order of magnitude slower, and the platform's own elsewhere.
    """
    check_shape("kernel", kernel, (3, 3, x.shape[-1], None))
    if method == "product":
        return _as_product(x, kernel)
    if method == "convolution":
        return convolve(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=_as_product, default=convolve)


class Convolution3x3(nn.Module):
    """`convolve3x3` with learned weights and a bias.

    Attributes:
        features: C'.
        scale: of the initial weights: variance scale / (9 C).
        bias: its initial value.
        method: of `convolve3x3`; `convolution` is faster outside loops.
    """

    features: int
    scale: float = 2.0
    bias: float = 0.0
    method: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., H, W, C) -> (..., H, W, C')."""
        initial = nn.initializers.variance_scaling(self.scale, "fan_in", "truncated_normal")
        kernel = self.param("kernel", initial, (3, 3, x.shape[-1], self.features))
        shift = self.param("bias", nn.initializers.constant(self.bias), (self.features,))
        return convolve3x3(x, kernel, self.method) + shift


class ConvolutionalLSTM(nn.Module):
    """One step of an LSTM whose products are 3 x 3 convolutions.

        i, f, o, g = conv([x, h]);   c' = s(f + 1) c + s(i) tanh(g);   h' = s(o) tanh(c')

    Attributes:
        hidden: channels of the state.

    Source: Shi et al., NIPS 2015, without peepholes.
    """

    hidden: int

    @nn.compact
    def __call__(self, carry: Any, x: jax.Array) -> Any:
        """((h, c), (..., H, W, C)) -> (h', c')."""
        h, c = carry
        gates = Convolution3x3(4 * self.hidden, scale=1.0)(jnp.concatenate([x, h], axis=-1))
        i, f, o, g = jnp.split(gates, 4, axis=-1)
        c = nn.sigmoid(f + 1) * c + nn.sigmoid(i) * jnp.tanh(g)
        return nn.sigmoid(o) * jnp.tanh(c), c


def double(x: jax.Array) -> jax.Array:
    """Twice the height and width of (..., H, W, C), bilinear."""
    *batch, height, width, channels = x.shape
    return jax.image.resize(x, (*batch, 2 * height, 2 * width, channels), "bilinear")


def quarter(x: jax.Array) -> jax.Array:
    """The means of 4 x 4 pixels, (..., H / 4, W / 4, C) of (..., H, W, C)."""
    *batch, height, width, channels = x.shape
    blocks = x.reshape(*batch, height // 4, 4, width // 4, 4, channels)
    return jnp.mean(blocks, axis=(-4, -2))


def max_pool(x: jax.Array) -> jax.Array:
    """The largest of 2 x 2 pixels, (..., H / 2, W / 2, C); of odd sizes the last is left out."""
    height, width = x.shape[-3] // 2, x.shape[-2] // 2
    x = x[..., : 2 * height, : 2 * width, :]
    blocks = x.reshape(*x.shape[:-3], height, 2, width, 2, x.shape[-1])
    return jnp.max(blocks, axis=(-4, -2))
