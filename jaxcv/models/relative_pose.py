"""Siamese networks that regress the relative pose of two cameras from two images.

Both images go through one trunk (backbone), the convolutions of AlexNet. The feature maps, or their
spatial pyramids, are concatenated; two linear layers regress a rotation and a translation.

Source: Melekhov, Ylioinas, Kannala, Rahtu, Relative camera pose estimation using convolutional
neural networks, 2017; trunks of Krizhevsky et al. 2012 and 2014.
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.checks import argument_error, check_choice
from jaxcv.geometry import so3
from jaxcv.models.pyramid import pyramid_pool

__all__ = [
    "DEVIATION", "HEADS", "MEAN", "NETS", "ROTATIONS", "TRUNKS", "MatchHead", "PoseNetwork",
    "Trunk", "TrunkLayer", "correlations", "direction_of", "feature_shape", "least_side",
    "relative_pose_loss", "rotation_of", "standardised", "with_trunk",
]  # fmt: skip


class TrunkLayer(NamedTuple):
    """A convolution with ReLU: channels, kernel size, stride, padding, groups."""

    channels: int
    size: int
    stride: int = 1
    padding: int = 0
    groups: int = 1


class Trunk(NamedTuple):
    """Five convolutions; 3 x 3 max pools of stride 2 after the first two and the last.

    Attributes:
        layers: the five convolutions.
        ceil: whether a pool's last window may extend beyond the border, as in Caffe.
        normalised: whether the first two pools have local response normalisation, as in CaffeNet.
    """

    layers: tuple[TrunkLayer, ...]
    ceil: bool
    normalised: bool


TRUNKS = {
    "caffenet": Trunk(
        (
            TrunkLayer(96, 11, 4), TrunkLayer(256, 5, 1, 2, 2), TrunkLayer(384, 3, 1, 1),
            TrunkLayer(384, 3, 1, 1, 2), TrunkLayer(256, 3, 1, 1, 2),
        ),
        ceil=True, normalised=True,
    ),
    "alexnet": Trunk(  # of the 2014 paper, with public ImageNet weights
        (
            TrunkLayer(64, 11, 4, 2), TrunkLayer(192, 5, 1, 2), TrunkLayer(384, 3, 1, 1),
            TrunkLayer(256, 3, 1, 1), TrunkLayer(256, 3, 1, 1),
        ),
        ceil=False, normalised=False,
    ),
}  # fmt: skip
ROTATIONS = {"quaternion": 4, "6d": 6, "svd": 9}  # outputs of the head
HEADS = ("linear", "hidden", "correlation")  # only the first is published
NETS = {  # whether the last pool is used, and the levels of the pyramid
    "cnnA": (True, ()),
    "cnnB": (False, ()),
    "cnnAspp": (True, (6, 3, 2, 1)),
    "cnnBspp": (False, (13, 6, 3, 2, 1)),
}
# Mean and deviation of ImageNet's RGB images in [0, 1], for `standardised`.
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
_CELLS = 6  # rows and columns of the maps that are correlated
_POOLED = (0, 1)  # convolutions always followed by a pool


def _pooled(length: int, ceil: bool) -> int:
    return -(-(length - 3) // 2) + 1 if ceil else (length - 3) // 2 + 1


def least_side(net: str, trunk: str) -> int:
    """The smallest height and width [px] that a network accepts."""
    return next(n for n in range(1, 200) if _rows(net, trunk, n) > 0)


def feature_shape(net: str, trunk: str, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of an image's feature map.

    Raises:
        ValueError: an image that is too small; the message gives the smallest size.
    """
    check_choice("net", net, NETS)
    check_choice("trunk", trunk, TRUNKS)
    least = least_side(net, trunk)
    if min(height, width) < least:
        expected = f"expected {least} pixels a side or more for {net} with {trunk}"
        raise argument_error("images", expected, (height, width), "Enlarge the images.")
    return _rows(net, trunk, height), _rows(net, trunk, width)


def _rows(net: str, trunk: str, length: int) -> int:
    """Rows of the feature map; 0 if the image is too small."""
    last = NETS[net][0]
    for k, layer in enumerate(TRUNKS[trunk].layers):
        length = (length + 2 * layer.padding - layer.size) // layer.stride + 1
        if k in _POOLED or (last and k == len(TRUNKS[trunk].layers) - 1):
            length = _pooled(length, TRUNKS[trunk].ceil) if length >= 3 else 0
        if length < 1:
            return 0
    return length


def _max_pool(x: jax.Array, ceil: bool) -> jax.Array:
    """3 x 3 max pool of stride 2, one axis at a time.

    On CPUs ten times as fast as `reduce_window`, whose gradient XLA scatters on one core.
    """
    for axis in (x.ndim - 3, x.ndim - 2):
        length = x.shape[axis]
        count = _pooled(length, ceil)
        over = 2 * (count - 1) + 3 - length
        if over > 0:
            after = [(0, over if i == axis else 0) for i in range(x.ndim)]
            x = jnp.pad(x, after, constant_values=-jnp.inf)
        parts = [jax.lax.slice_in_dim(x, i, i + 2 * count - 1, 2, axis) for i in range(3)]
        x = functools.reduce(jnp.maximum, parts)
    return x


def _over_channels(x: jax.Array) -> jax.Array:
    """Local response normalisation, x / (1 + 1e-4 / 5 sum x^2)^0.75 over five channels."""
    square = jnp.pad(x**2, [(0, 0)] * (x.ndim - 1) + [(2, 2)])
    total = sum(square[..., k : k + x.shape[-1]] for k in range(5))
    return x / (1 + 1e-4 / 5 * total) ** 0.75


def _channels(layer: TrunkLayer, width: float) -> int:
    """Channels with the factor `width`: even, since the next layer may have two groups."""
    return 2 * max(1, round(width * layer.channels / 2))


class _Convolution(nn.Module):
    layer: TrunkLayer
    features: int

    @nn.compact
    def __call__(self, x):
        size, groups = self.layer.size, self.layer.groups
        shape = (size, size, x.shape[-1] // groups, self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        edge = (self.layer.padding, self.layer.padding)
        out = jax.lax.conv_general_dilated(
            x, kernel, (self.layer.stride,) * 2, (edge, edge), feature_group_count=groups,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        return nn.relu(out + bias)


def correlations(first: jax.Array, second: jax.Array) -> jax.Array:
    """Cosines (B, 36^2) between the cells of two maps (B, h, w, C), pooled to 6 x 6 cells.

    c_ij = f_i . g_j / (|f_i| |g_j|), 0 if either length is 0, of maxima f and g over the adaptive
    windows of `jaxcv.models.pyramid`.
    """

    def cells(x: jax.Array) -> jax.Array:
        pooled = pyramid_pool(x, (_CELLS,)).reshape(*x.shape[:-3], x.shape[-1], _CELLS**2)
        return _unit(jnp.swapaxes(pooled, -1, -2), jnp.zeros(x.shape[-1], x.dtype))

    out = jnp.einsum("...ic,...jc->...ij", cells(first), cells(second))
    return out.reshape(*out.shape[:-2], -1)


class PoseNetwork(nn.Module):
    """The relative pose of two images.

    Attributes:
        net: an entry of NETS.
        trunk: an entry of TRUNKS.
        width: factor on the trunk's channels.
        rotation: output of the first head, of ROTATIONS: `quaternion`, as published; `6d`, two
            columns of a matrix; `svd`, a matrix whose nearest rotation is used.
        spp_rule: of the pyramid's windows; see `jaxcv.models.pyramid`.
        normalised: local response normalisation after the first two pools; None: as in the trunk.
        shape: (H, W) of the images for nets without a pyramid, whose heads have weights per
            position; unused by nets with a pyramid.
        head: of HEADS: `linear`, as published, which adds what each image says; `hidden`, a layer
            with ReLU before it; `correlation`, linear on the features and on `correlations`.
        hidden: units of that layer.
    """

    net: str = "cnnBspp"
    trunk: str = "alexnet"
    width: float = 1.0
    rotation: str = "quaternion"
    spp_rule: str = "adaptive"
    normalised: bool | None = None
    shape: tuple[int, int] = (227, 227)
    head: str = "linear"
    hidden: int = 256

    def setup(self) -> None:
        """Makes the layers."""
        check_choice("net", self.net, NETS)
        check_choice("trunk", self.trunk, TRUNKS)
        check_choice("rotation", self.rotation, ROTATIONS)
        check_choice("head", self.head, HEADS)
        layers = TRUNKS[self.trunk].layers
        self.convolutions = [_Convolution(layer, _channels(layer, self.width)) for layer in layers]
        small = nn.initializers.normal(1e-3)
        self.rotation_head = nn.Dense(ROTATIONS[self.rotation], kernel_init=small)
        self.translation_head = nn.Dense(3, kernel_init=small)
        if self.head == "hidden":
            self.hidden_layer = nn.Dense(self.hidden)

    def features(self, images: jax.Array) -> jax.Array:
        """Features (B, D / 2) of images (B, H, W, 3) from `standardised`."""
        return self._pooled(self._map(images))

    def _map(self, images: jax.Array) -> jax.Array:
        """The last feature map (B, h, w, C)."""
        if images.ndim != 4 or images.shape[-1] != 3:
            raise argument_error("images", "expected (B, H, W, 3)", images.shape)
        last, levels = NETS[self.net]
        feature_shape(self.net, self.trunk, *images.shape[1:3])
        if not levels and images.shape[1:3] != tuple(self.shape):
            hint = "Resize them, or use a network with a pyramid."
            expected = f"expected {self.shape[0]} x {self.shape[1]} pixels for {self.net}"
            raise argument_error("images", expected, images.shape[1:3], hint)
        trunk, x = TRUNKS[self.trunk], images
        normalised = trunk.normalised if self.normalised is None else self.normalised
        for k, convolution in enumerate(self.convolutions):
            x = convolution(x)
            if k in _POOLED:
                x = _max_pool(x, trunk.ceil)
                x = _over_channels(x) if normalised else x
        return _max_pool(x, trunk.ceil) if last else x

    def _pooled(self, x: jax.Array) -> jax.Array:
        levels = NETS[self.net][1]
        if levels:
            return pyramid_pool(x, levels, self.spp_rule)
        return jnp.moveaxis(x, -1, -3).reshape(x.shape[0], -1)

    def __call__(self, first: jax.Array, second: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Outputs of the heads: rotation (B, 4), (B, 6) or (B, 9), and translation (B, 3)."""
        return self.poses(self.both_features(first, second))

    def both_features(self, first: jax.Array, second: jax.Array) -> jax.Array:
        """Concatenated features (B, D) of two images, with the head's correlations."""
        maps = self._map(first), self._map(second)
        parts = [self._pooled(x) for x in maps]
        parts += [correlations(*maps)] if self.head == "correlation" else []
        return jnp.concatenate(parts, axis=-1)

    def poses(self, both: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Outputs of the heads for `both_features`; linear ones are g(first) + h(second)."""
        both = nn.relu(self.hidden_layer(both)) if self.head == "hidden" else both
        return self.rotation_head(both), self.translation_head(both)


class MatchHead(nn.Module):
    """Log confidences of matches, from their own numbers and the images' features.

    Before training every match has log confidence 0.

    Attributes:
        context: units of the summary of the images.
        hidden: units of the layer over a match and the summary.
    """

    context: int = 8
    hidden: int = 32

    @nn.compact
    def __call__(self, both: jax.Array, matches: jax.Array) -> jax.Array:
        """log w (B, N) from features (B, D) of two images and numbers (B, N, F) of matches."""
        seen = jnp.tanh(nn.Dense(self.context, kernel_init=nn.initializers.normal(1e-3))(both))
        seen = jnp.broadcast_to(seen[:, None], (*matches.shape[:2], self.context))
        x = nn.relu(nn.Dense(self.hidden)(jnp.concatenate([matches, seen], axis=-1)))
        return nn.Dense(1, kernel_init=nn.initializers.zeros)(x)[..., 0]


def standardised(images: Any) -> jax.Array:
    """(image - MEAN) / DEVIATION of images (..., 3), in 8 bits or in [0, 1]."""
    images = jnp.asarray(images)
    if images.dtype == jnp.uint8:
        images = images.astype(jnp.float32) / 255
    return (images - jnp.array(MEAN, images.dtype)) / jnp.array(DEVIATION, images.dtype)


def with_trunk(params: Any, trunk: Any) -> Any:
    """Params of a `PoseNetwork`, with the convolutions replaced by those of a trained trunk.

    Args:
        params: {"params": {convolutions_0, ...}}.
        trunk: {convolutions_0: {kernel, bias}, ...}, e.g. of `data_prep.trunk_weights`.

    Raises:
        ValueError: weights of another trunk or width.
    """
    own = dict(params["params"])
    for name in (f"convolutions_{k}" for k in range(5)):
        for field in ("kernel", "bias"):
            want, got = own[name][field].shape, np.shape(trunk.get(name, {}).get(field))
            if want != got:
                hint = "Trained trunks have width 1; build the network with their `trunk`."
                raise argument_error(f"trunk[{name!r}][{field!r}]", f"expected {want}", got, hint)
        own[name] = {field: jnp.asarray(trunk[name][field]) for field in ("kernel", "bias")}
    return {**params, "params": own}


def rotation_of(output: jax.Array) -> jax.Array:
    """Rotations (..., 3, 3) of outputs (..., 4), quaternions (w, x, y, z), (..., 6) or (..., 9).

    Six numbers: Gram-Schmidt on two 3-vectors gives the first two columns (Zhou et al., CVPR 2019);
    (1, 0, 0) replaces a zero first vector, a coordinate axis a zero or parallel second one. Nine
    numbers: a matrix, row by row, whose nearest rotation is taken (`jaxcv.geometry.so3.nearest`).
    A quaternion of length 0 gives the identity.
    """
    if output.shape[-1] == 9:
        matrix = output.reshape(*output.shape[:-1], 3, 3)
        return jnp.vectorize(so3.nearest, signature="(i,j)->(i,j)")(matrix)
    if output.shape[-1] == 6:
        a, b = output[..., :3], output[..., 3:]
        first = _unit(a, jnp.array([1.0, 0, 0], output.dtype))
        less = lambda x: x - jnp.sum(first * x, axis=-1, keepdims=True) * first
        rest = less(b)
        parallel = _length(rest) <= 8 * jnp.finfo(output.dtype).eps * _length(b)
        axis = jax.nn.one_hot(jnp.argmin(jnp.abs(first), axis=-1), 3, dtype=output.dtype)
        rest = jnp.where(parallel[..., None], less(axis), rest)
        rest = less(_unit(rest, axis))  # again: one pass is inaccurate for nearly parallel vectors
        second = _unit(rest, axis)
        return jnp.stack([first, second, jnp.cross(first, second)], axis=-1)
    if output.shape[-1] != 4:
        raise argument_error("output", "expected (..., 4), (..., 6) or (..., 9)", output.shape)
    w, x, y, z = jnp.moveaxis(_unit(output, jnp.array([1.0, 0, 0, 0], output.dtype)), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def direction_of(output: jax.Array) -> jax.Array:
    """Unit directions (..., 3) of outputs (..., 3), with a gradient at 0."""
    return output / jnp.sqrt(jnp.sum(output**2, axis=-1, keepdims=True) + 1e-12)


def _unit(x: jax.Array, otherwise: jax.Array) -> jax.Array:
    square = jnp.sum(x**2, axis=-1, keepdims=True)
    safe = square > 0
    return jnp.where(safe, x / jnp.sqrt(jnp.where(safe, square, 1)), otherwise)


def _length(x: jax.Array) -> jax.Array:
    """The length (...) of (..., K), with gradient 0 at 0."""
    square = jnp.sum(x**2, axis=-1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def relative_pose_loss(
    rotation: jax.Array, translation: jax.Array, target_rotation: Any, target_translation: Any,
    beta: Any = 10.0,
) -> jax.Array:  # fmt: skip
    """|t - t*| + beta |q - q*| (B,), eq. (1): norms, not squares, without unit constraints.

    Args:
        rotation: (B, K), of the network.
        translation: (B, 3), of the network.
        target_rotation: (B, K), in the network's form; quaternions with w >= 0.
        target_translation: (B, 3), of length 1.
        beta: the weight of the rotation.
    """
    away = _length(translation - target_translation)
    return away + beta * _length(rotation - target_rotation)
