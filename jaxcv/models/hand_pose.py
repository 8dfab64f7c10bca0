"""Networks that regress the joints of a hand from a crop of depth, colour or both.

The nine networks of `NETS` differ only in convolutions and pools. Two kinds of images have a stream
each, fused at chosen layers. The published networks end with two dense layers and a tanh of 3 J
numbers; a second head regresses the joints from every position of the last map.

Source: Kazakos, MSc thesis, 2017, chapter 4 (Tables 4.1 and 4.2, equations 4.14 to 4.18).
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcv.checks import argument_error, check_choice
from jaxcv.models.anchors import anchor_grid, expected_positions
from jaxcv.models.layers import convolve, max_pool

__all__ = [
    "CHANNELS", "FUSIONS", "HEADS", "NETS", "OUTPUTS", "HandNetwork", "Layer", "dropout",
    "fuse_predictions", "inverse_error_weights", "layers_of", "least_squares_weights", "pose_loss",
]  # fmt: skip

# Channels of each convolution, then k and the kernel size if it is not 3; P is a pool.
NETS = {
    "net1": "32 P 64 P 128 128 P",
    "net2": "32 P 64 P 128 128 128 P",
    "net3": "32k7 P 64k5 P 128 128 128 P",
    "net4": "64 P 128 P 256 256 256 P",
    "net5": "32 32 P 64 64 P 128 128 128 P",
    "net6": "32 32 P 64 64 P 128 128 128 P 128 128",
    "net7": "32 P 64 P 128 128 P 128 128 P",
    "net8": "32 P 64 P 128 128 P 128 128 P 128 128 P",
    "net9": "32 P 64 P 128 128 128 P 128 128 128 P",
}
CHANNELS = {"depth": 1, "rgb": 3, "rgbd": 4}  # of each kind of image
FUSIONS = ("max", "sum", "mean", "concatenate", "convolve")
HEADS = ("dense", "anchors")
OUTPUTS = ("tanh", "linear")
_ANCHOR_CHANNELS = 128  # of the head's 3 x 3 convolution, times `width`
_ENDS = ("fc1", "fc2", "output")


class Layer(NamedTuple):
    """A convolution with its name, channels and size, or a pool (`channels` 0)."""

    name: str
    channels: int = 0
    size: int = 3


def layers_of(net: str) -> tuple[Layer, ...]:
    """The convolutions and pools of an entry of NETS, named conv1, pool1 and so on."""
    check_choice("net", net, NETS)
    layers: list[Layer] = []
    count = {"conv": 0, "pool": 0}
    for word in NETS[net].split():
        kind = "pool" if word == "P" else "conv"
        count[kind] += 1
        name = f"{kind}{count[kind]}"
        channels, _, size = word.partition("k")
        layers.append(Layer(name) if word == "P" else Layer(name, int(channels), int(size or 3)))
    return tuple(layers)


def dropout(x: jax.Array, rate: Any, key: jax.Array) -> jax.Array:
    """x / (1 - rate) with probability 1 - rate, else 0; the rate may be traced."""
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - jnp.asarray(rate, x.dtype)), 0)


class _Convolution(nn.Module):
    features: int
    size: int = 3

    @nn.compact
    def __call__(self, x):
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape)
        return convolve(x, kernel) + self.param("bias", nn.initializers.zeros, (self.features,))


class HandNetwork(nn.Module):
    """Joints of hands in crops.

    Two kinds of images have a stream each, up to the last layer of `fuse_at`. Every layer of
    `fuse_at` fuses the second stream into the first; after the last only the first remains.

        max(a, b)   a + b   (a + b) / 2   [a, b]   relu(W [a, b] + c), at the output as `output`

    The head `anchors` replaces the dense layers by a 3 x 3 convolution, the dropout, and a 1 x 1
    convolution to a logit and an offset (3,) per joint at every position of the last map; a joint
    is their `expected_positions`. Its output is linear.

    Attributes:
        net: an entry of NETS.
        images: kinds of the inputs, in their order; two are fused by `fusion`.
        fusion: one of FUSIONS.
        fuse_at: names of layers: input, conv1.., pool1.., and with dense layers fc1, fc2, output.
        joints: J.
        width: factor on the channels of all convolutions.
        dense: units of each of the two dense layers.
        confidence: whether to predict a log confidence of every joint as well; dense layers only.
        output: one of OUTPUTS, the last function of the dense layers.
        head: one of HEADS.
        y_up: whether the camera's fy is negative; only the anchors' positions depend on it.

    Source: Kazakos 2017, Tables 4.1 and 4.2, equations 4.15 to 4.18; the head `anchors`: Xiong et
    al., ICCV 2019.
    """

    net: str = "net6"
    images: tuple[str, ...] = ("depth",)
    fusion: str = "convolve"
    fuse_at: tuple[str, ...] = ("conv4",)
    joints: int = 14
    width: float = 1.0
    dense: int = 4096
    confidence: bool = False
    output: str = "tanh"
    head: str = "dense"
    y_up: bool = False

    def _order(self) -> tuple[str, ...]:
        ends = _ENDS if self.head == "dense" else ()
        return ("input", *(layer.name for layer in layers_of(self.net)), *ends)

    def _check(self, images: tuple[jax.Array, ...]) -> None:
        check_choice("fusion", self.fusion, FUSIONS)
        check_choice("output", self.output, OUTPUTS)
        check_choice("head", self.head, HEADS)
        if self.confidence and self.head != "dense":
            raise argument_error("head", "expected 'dense' with `confidence`", repr(self.head))
        if len(images) != len(self.images):
            raise argument_error("images", f"expected {len(self.images)}, for {self.images}",
                                 len(images))  # fmt: skip
        if not 1 <= len(images) <= 2:
            raise argument_error("images", "expected one or two kinds", self.images)
        order = self._order()
        if not self.fuse_at or set(self.fuse_at) - set(order):
            raise argument_error("fuse_at", f"expected some of {order}", self.fuse_at)
        if self.fusion == "concatenate" and "output" in self.fuse_at and len(images) == 2:
            hint = "Use `convolve`, there a dense layer."
            raise argument_error("fusion", "expected 3 J numbers", "concatenate at output", hint)

    @nn.compact
    def __call__(self, *images: jax.Array, rate: Any = 0.0, key: Any = None) -> Any:
        """Joints (B, J, 3) in half sides of the cube; with the output `tanh` in (-1, 1), or (-2, 2)
        if summed there.

        With `confidence` also log confidences (B, J), initially 0.

        Args:
            images: (B, S, S, C) for each kind.
            rate: of the dropout after the dense layers, or within the head; may be traced.
            key: of the dropout; None: no dropout.
        """
        self._check(images)
        streams, order = list(images), self._order()
        last = max(self.fuse_at, key=order.index)

        def after(name: str, streams: list[jax.Array]) -> list[jax.Array]:
            if name not in self.fuse_at or len(streams) == 1:
                return streams
            fused = self._fuse(name, *streams)
            return [fused] if name == last else [fused, streams[1]]

        def each(name: str, layer: Any, streams: list[jax.Array]) -> list[jax.Array]:
            kinds = self.images if len(streams) == 2 else ("",)
            named = [f"{name}_{kind}" if kind else name for kind in kinds]
            return [layer(n, x) for n, x in zip(named, streams, strict=True)]

        streams = after("input", streams)
        for layer in layers_of(self.net):
            if layer.channels:
                features = max(1, round(self.width * layer.channels))
                make = lambda n, x, f=features, k=layer.size: nn.relu(_Convolution(f, k, name=n)(x))
                streams = each(layer.name, make, streams)
            else:
                streams = [max_pool(x) for x in streams]
            streams = after(layer.name, streams)
        if self.head == "anchors":
            return self._anchors(streams[0], rate, key)
        keys = None if key is None else jax.random.split(key, (2, 2))
        streams = [x.reshape(x.shape[0], -1) for x in streams]
        for i, name in enumerate(_ENDS[:2]):
            make = lambda n, x: nn.relu(self._dense(n, self.dense, x))
            streams = each(name, make, streams)
            if keys is not None:
                streams = [dropout(x, rate, keys[i, k]) for k, x in enumerate(streams)]
            streams = after(name, streams)
        make = lambda n, x: self._last(self._dense(n, 3 * self.joints, x))
        (out,) = after("output", each("output", make, streams))
        joints = out.reshape(out.shape[0], self.joints, 3)
        if not self.confidence:
            return joints
        zeros = nn.initializers.zeros
        sure = nn.Dense(self.joints, kernel_init=zeros, name="confidence")
        return joints, sure(jnp.concatenate(streams, axis=-1))

    def _anchors(self, x: jax.Array, rate: Any, key: Any) -> jax.Array:
        features = max(1, round(self.width * _ANCHOR_CHANNELS))
        x = nn.relu(_Convolution(features, name="anchors")(x))
        x = x if key is None else dropout(x, rate, key)
        x = self._dense("output", 4 * self.joints, x)  # a 1 x 1 convolution
        x = x.reshape(*x.shape[:-1], self.joints, 4)
        grid = anchor_grid(*x.shape[1:3], y_up=self.y_up)
        return expected_positions(x[..., 0], x[..., 1:], grid)

    def _last(self, x: jax.Array) -> jax.Array:
        return jnp.tanh(x) if self.output == "tanh" else x

    def _dense(self, name: str, features: int, x: jax.Array) -> jax.Array:
        return nn.Dense(features, kernel_init=nn.initializers.glorot_uniform(), name=name)(x)

    def _fuse(self, name: str, a: jax.Array, b: jax.Array) -> jax.Array:
        if self.fusion in ("max", "sum", "mean"):
            if a.shape != b.shape:
                hint = "Use `concatenate` or `convolve`, or a later layer."
                expected = f"expected equal shapes at {name} for {self.fusion!r}"
                raise argument_error("fuse_at", expected, (a.shape, b.shape), hint)
            if self.fusion == "max":
                return jnp.maximum(a, b)
            return a + b if self.fusion == "sum" else 0.5 * (a + b)
        both = jnp.concatenate([a, b], axis=-1)
        if self.fusion == "concatenate":
            return both
        out = self._dense(f"fuse_{name}", max(a.shape[-1], b.shape[-1]), both)
        return self._last(out) if name == "output" else nn.relu(out)


def pose_loss(predicted: jax.Array, target: jax.Array) -> jax.Array:
    """1 / (2 J) sum (f - y)^2 over the 3 J numbers, averaged over the batch.

    Args:
        predicted: (B, J, 3).
        target: (B, J, 3).

    Source: Kazakos 2017, equation 4.14.
    """
    joints = predicted.shape[-2]
    return jnp.mean(jnp.sum((predicted - target) ** 2, axis=(-2, -1))) / (2 * joints)


def fuse_predictions(first: Any, second: Any, weights: Any = 0.5) -> Any:
    """w a + (1 - w) b of two predictions (..., J, 3), with weights that broadcast to (J, 3)."""
    return weights * first + (1 - weights) * second


def inverse_error_weights(first: Any, second: Any) -> Any:
    """Weights e_b / (e_a + e_b) of the first of two predictions with errors e_a, e_b (J, 3)."""
    return second / (first + second)


def least_squares_weights(first: Any, second: Any, target: Any) -> jax.Array:
    """Weights (J, 3) of `fuse_predictions` with the smallest squared error; may leave [0, 1].

    Args:
        first: (N, J, 3).
        second: (N, J, 3).
        target: (N, J, 3).
    """
    apart = first - second
    square = jnp.sum(apart**2, axis=0)
    best = jnp.sum(apart * (target - second), axis=0) / jnp.where(square > 0, square, 1)
    return jnp.where(square > 0, best, 0.5)
