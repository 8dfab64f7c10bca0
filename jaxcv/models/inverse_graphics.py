"""A variational autoencoder of images whose first latents are scene factors: pose and light.

Encoder: (convolution, pool, threshold) three times, then two linear layers, for the mean and the
log variance of the code. Decoder: a linear layer, then (upsample, convolution), with thresholds
between; it gives logits. No convolution is padded. Images are grey, (B, S, S, 1) in [0, 1].

Source: Kulkarni et al., Deep Convolutional Inverse Graphics Network, NIPS 2015, Figure 1; sizes of
the released code.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.checks import argument_error, check_choice
from jaxcv.models.layers import convolve, max_pool
from jaxcv.models.upsampling import UpsampledConvolution

__all__ = [
    "CPU_SIZE", "PAPER_SIZE", "GraphicsNetwork", "GraphicsSize", "bernoulli_loss", "kl_divergence",
    "sample_code",
]  # fmt: skip

INITIALS = ("he", "released")
_THRESHOLD = 1e-6  # output of the source's threshold for values up to 0


class GraphicsSize(NamedTuple):
    """Sizes of a network.

    Attributes:
        image: S [px].
        latents: D.
        encoder: (k, channels) of each convolution.
        start: side and channels of the decoder's first feature map.
        decoder: odd k and channels of each upsampled convolution; the last has one channel.
    """

    image: int
    latents: int
    encoder: tuple[tuple[int, int], ...]
    start: tuple[int, int]
    decoder: tuple[tuple[int, int], ...]


PAPER_SIZE = GraphicsSize(
    150, 200, ((5, 96), (5, 48), (5, 24)), (15, 24), ((7, 48), (7, 96), (7, 96), (7, 1))
)
CPU_SIZE = GraphicsSize(48, 32, ((5, 16), (5, 24), (4, 24)), (9, 16), ((3, 24), (5, 16), (9, 1)))


def _check_size(size: GraphicsSize) -> None:
    side = size.image
    for k, _ in size.encoder:
        side = (side - k + 1) // 2
    if side < 1:
        expected = "expected an image that is larger than the encoder's convolutions and pools"
        raise argument_error("size.image", expected, size.image)
    made = size.start[0]
    for k, _ in size.decoder:
        made = 2 * made - k + 1
    if made != size.image or size.decoder[-1][1] != 1:
        expected = f"expected a decoder that ends with {size.image} pixels a side and one channel"
        raise argument_error("size.decoder", expected, (made, size.decoder[-1][1]))


def threshold(x: jax.Array) -> jax.Array:
    """x if x > 0, else 1e-6: the source's nonlinearity."""
    return jnp.where(x > 0, x, _THRESHOLD)


def _uniform(key, shape, dtype=jnp.float32):
    """U(-s, s) with s = 1 / sqrt(k k C), of weights (k, k, C, C')."""
    bound = 1 / np.sqrt(np.prod(shape[:-1]))
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def _uniform_bias(fan_in):
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -1 / np.sqrt(fan_in), 1 / np.sqrt(fan_in)
    )


class _ValidConvolution(nn.Module):
    features: int
    size: int
    released: bool

    @nn.compact
    def __call__(self, x):
        fan_in = self.size**2 * x.shape[-1]
        kernel_init = _uniform if self.released else nn.initializers.he_normal()
        bias_init = _uniform_bias(fan_in) if self.released else nn.initializers.zeros
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", kernel_init, shape)
        return convolve(x, kernel, "VALID") + self.param("bias", bias_init, (self.features,))


class GraphicsNetwork(nn.Module):
    """Encoder and decoder.

    Attributes:
        size: of all layers; PAPER_SIZE has 4,131,137 parameters.
        initial: weights before training, `released` as in the source's code, or `he`: He normal,
            log variances near -3, the last convolution scaled by 0.3. With `he` small networks
            leave the mean image early.
        mean_pixel: of the training images, in (0, 1); with `he` the first decoded images have it.
        method: of `upsample_convolve`.
    """

    size: GraphicsSize = PAPER_SIZE
    initial: str = "he"
    mean_pixel: float = 0.5
    method: str = "auto"

    def setup(self) -> None:
        """Makes the layers."""
        _check_size(self.size)
        check_choice("initial", self.initial, INITIALS)
        released = self.initial == "released"
        small = nn.initializers.normal(0.01)
        linear = small if released else nn.initializers.lecun_normal()
        quiet = small if released else nn.initializers.variance_scaling(0.01, "fan_in", "normal")
        zeros = nn.initializers.zeros
        self.convolutions = [
            _ValidConvolution(channels, k, released) for k, channels in self.size.encoder
        ]
        bias = small if released else zeros
        self.mean = nn.Dense(self.size.latents, kernel_init=linear, bias_init=bias)
        low = small if released else nn.initializers.constant(-3.0)
        self.log_variance = nn.Dense(self.size.latents, kernel_init=quiet, bias_init=low)
        side, channels = self.size.start
        self.start = nn.Dense(side * side * channels, kernel_init=linear, bias_init=bias)
        layers, before = [], channels
        logit = float(np.log(self.mean_pixel / (1 - self.mean_pixel)))
        for i, (k, features) in enumerate(self.size.decoder):
            last = i + 1 == len(self.size.decoder)
            scale = 2.0 * (0.3**2 if last else 1.0)
            he = nn.initializers.variance_scaling(scale, "fan_in", "truncated_normal")
            first = nn.initializers.constant(logit if last else 0.0)
            layers.append(
                UpsampledConvolution(
                    features, k,
                    kernel_init=_uniform if released else he,
                    bias_init=_uniform_bias(k * k * before) if released else first,
                    method=self.method,
                )
            )  # fmt: skip
            before = features
        self.upsampled = layers

    def encode(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and log variance (B, D) of the code of images (B, S, S, 1) in [0, 1]."""
        side = self.size.image
        if images.ndim != 4 or images.shape[1:] != (side, side, 1):
            raise argument_error("images", f"expected (B, {side}, {side}, 1)", images.shape)
        x = images
        for convolution in self.convolutions:
            x = threshold(max_pool(convolution(x)))
        x = x.reshape(x.shape[0], -1)
        return self.mean(x), self.log_variance(x)

    def decode(self, code: jax.Array) -> jax.Array:
        """Logits (B, S, S, 1) of codes (B, D); their sigmoid is the images."""
        if code.ndim != 2 or code.shape[1] != self.size.latents:
            raise argument_error("code", f"expected (B, {self.size.latents})", code.shape)
        side, channels = self.size.start
        x = threshold(self.start(code)).reshape(-1, side, side, channels)
        for layer in self.upsampled[:-1]:
            x = threshold(layer(x))
        return self.upsampled[-1](x)

    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Mean, log variance, and the logits decoded from the mean."""
        mean, log_variance = self.encode(images)
        return mean, log_variance, self.decode(mean)


def sample_code(
    key: jax.Array, mean: jax.Array, log_variance: jax.Array, *, share_noise: bool = False
) -> jax.Array:
    """mean + exp(log_variance / 2) e, (B, D), with e ~ N(0, 1); one e for the batch if shared."""
    shape = (1, *mean.shape[1:]) if share_noise else mean.shape
    return mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, shape, mean.dtype)


def bernoulli_loss(logits: jax.Array, images: jax.Array) -> jax.Array:
    """-log p(x) = sum over pixels of max(l, 0) - l x + log(1 + exp(-|l|)), (B,) of (B, S, S, 1)."""
    terms = jnp.maximum(logits, 0) - logits * images + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    return jnp.sum(terms, axis=(-3, -2, -1))


def kl_divergence(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """KL of N(mean, exp(log_variance)) from N(0, 1), 1/2 sum (m^2 + exp(v) - 1 - v), (B,)."""
    return 0.5 * jnp.sum(mean**2 + jnp.exp(log_variance) - 1 - log_variance, axis=-1)
