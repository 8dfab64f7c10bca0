"""Layers that flax lacks, some with separate code for CPUs."""

import functools
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcv.checks import check_choice, check_shape

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
    # Nine products, then their shifted sum: this moves less data if channels become fewer.
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
    """Uses products again: transposed pads and slices would cost twice as much."""
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


def _platform(x: jax.Array, kernel: jax.Array, padding: Any = "SAME") -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _shifted_sum(x: jax.Array, kernel: jax.Array, padding: str) -> jax.Array:
    """The convolution as a sum over the kernel's entries, which XLA fuses into one loop."""
    size, _, channels, _ = kernel.shape
    edge = size // 2 if padding == "SAME" else 0
    x = jnp.pad(x, [(0, 0), (edge, edge), (edge, edge), (0, 0)])
    height, width = x.shape[1] - size + 1, x.shape[2] - size + 1
    out = jnp.zeros((x.shape[0], height, width, kernel.shape[3]), x.dtype)
    for i, j, c in itertools.product(range(size), range(size), range(channels)):
        out += x[:, i : i + height, j : j + width, c, None] * kernel[i, j, c]
    return out


def _column_pairs(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The 3 x 3 convolution, with each pair of columns merged into the channels.

    A pair of output columns reads two pairs of input columns, shifted by one: the kernel is
    (3, 2, 2 C, 2 C'), and a quarter of it is zero.
    """
    n, height, width, channels = x.shape
    left, right = ((0, 0), (0, 1)), ((0, 0), (1, 0))
    pairs = [jnp.pad(kernel, [*shift, (0, 0), (0, 0)]) for shift in (left, right)]
    pairs = jnp.stack(pairs, axis=3).reshape(3, 2, 2 * channels, -1)
    x = jnp.pad(x, [(0, 0), (0, 0), (1, 1), (0, 0)]).reshape(n, height, -1, 2 * channels)
    return _platform(x, pairs, [(1, 1), (0, 0)]).reshape(n, height, width, -1)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _few_channels(x: jax.Array, kernel: jax.Array, padding: str) -> jax.Array:
    return _shifted_sum(x, kernel, padding)


@jax.custom_jvp
def _narrow(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _column_pairs(x, kernel)


@_few_channels.defjvp
def _(padding, primals, tangents):
    """Uses the platform's convolution, whose transpose is faster."""
    (x, kernel), (x_dot, kernel_dot) = primals, tangents
    out_dot = _platform(x_dot, kernel, padding) + _platform(x, kernel_dot, padding)
    return _few_channels(x, kernel, padding), out_dot


@_narrow.defjvp
def _(primals, tangents):
    (x, kernel), (x_dot, kernel_dot) = primals, tangents
    return _narrow(x, kernel), _column_pairs(x_dot, kernel) + _platform(x, kernel_dot)


def convolve(x: jax.Array, kernel: jax.Array, padding: str = "SAME") -> jax.Array:
    """A convolution, (..., H', W', C') of (..., H, W, C).

    Uses the platform's convolution, except on CPUs with few channels, where faster code replaces it
    (ten times as fast for one channel, 1.7 times for eight).

    Args:
        x: (..., H, W, C).
        kernel: (k, k, C, C'); with `SAME` k is odd.
        padding: `SAME`, zeros beyond the border and H' = H; or `VALID`, H' = H - k + 1.
    """
    check_choice("padding", padding, ("SAME", "VALID"))
    size, _, channels, features = kernel.shape
    flat = x.reshape(-1, *x.shape[-3:])
    plain = functools.partial(_platform, padding=padding)
    if size**2 * channels <= 50:
        few = functools.partial(_few_channels, padding=padding)
        out = jax.lax.platform_dependent(flat, kernel, cpu=few, default=plain)
    elif (size, padding) == (3, "SAME") and max(channels, features) <= 8 and x.shape[-2] % 2 == 0:
        out = jax.lax.platform_dependent(flat, kernel, cpu=_narrow, default=plain)
    else:
        out = plain(flat, kernel)
    return out.reshape(*x.shape[:-3], *out.shape[1:])


def convolve3x3(x: jax.Array, kernel: jax.Array, method: str = "auto") -> jax.Array:
    """A 3 x 3 convolution with zeros beyond the border, (..., H, W, C') of x (..., H, W, C).

    Args:
        x: (..., H, W, C).
        kernel: (3, 3, C, C'), as `flax.linen.Conv` keeps it.
        method: `product`: matrix products of shifted images; `convolution`: `convolve`; `auto`, for
            use inside loops: products on CPUs, where XLA's backward pass of a convolution in a loop
            is an order of magnitude slower, and `convolve` elsewhere.
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
        scale: the initial weights have the variance scale / (9 C).
        bias: initial value of the bias.
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
    """Doubles the height and width of (..., H, W, C), bilinear."""
    *batch, height, width, channels = x.shape
    return jax.image.resize(x, (*batch, 2 * height, 2 * width, channels), "bilinear")


def quarter(x: jax.Array) -> jax.Array:
    """Means over 4 x 4 blocks, (..., H / 4, W / 4, C) of (..., H, W, C)."""
    *batch, height, width, channels = x.shape
    blocks = x.reshape(*batch, height // 4, 4, width // 4, 4, channels)
    return jnp.mean(blocks, axis=(-4, -2))


@jax.custom_jvp
def _largest(x: jax.Array) -> jax.Array:
    return jnp.max(x, axis=(-4, -2))


@_largest.defjvp
def _(primals, tangents):
    """Takes the tangent of the first maximum; `jnp.max` averages over ties."""
    (x,), (x_dot,) = primals, tangents
    out = _largest(x)
    equal = x == out[..., None, :, None, :]
    seen = jnp.zeros(out.shape, bool)
    first = []
    for i, j in itertools.product(range(2), range(2)):
        own = equal[..., i, :, j, :]
        first.append(own & ~seen)
        seen = seen | own
    rows = [jnp.stack(first[:2], axis=-2), jnp.stack(first[2:], axis=-2)]
    chosen = jnp.stack(rows, axis=-4)
    return out, jnp.sum(jnp.where(chosen, x_dot, 0), axis=(-4, -2))


def max_pool(x: jax.Array) -> jax.Array:
    """The maximum over 2 x 2 blocks, (..., H / 2, W / 2, C); drops an odd last row or column.

    In a tie the first pixel gets the whole gradient.
    """
    height, width = x.shape[-3] // 2, x.shape[-2] // 2
    x = x[..., : 2 * height, : 2 * width, :]
    return _largest(x.reshape(*x.shape[:-3], height, 2, width, 2, x.shape[-1]))
