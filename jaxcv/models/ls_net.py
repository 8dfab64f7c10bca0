"""LS-Net for two views: an initial guess, a recurrent optimiser, and an upscaling network.

The optimiser's input is an image of Gauss-Newton terms: the residual and the blocks of J^T J and
J^T r (`encode`). The paper's encodings have no J^T r, so they cannot tell J from -J, whose steps
are opposite; they are kept for comparison.

Source: Clark et al., "LS-Net", ECCV 2018, sections 4 and 5. The paper gives no layer sizes;
`PAPER_SIZE` matches its number of parameters within 0.3%.
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcv.checks import check_choice
from jaxcv.models.layers import Convolution3x3, ConvolutionalLSTM, double, quarter

__all__ = [
    "CPU_SIZE",
    "ENCODINGS",
    "PAPER_SIZE",
    "Guess",
    "InitialNetwork",
    "Optimiser",
    "Proposals",
    "RefinementNetwork",
    "Size",
    "Upscaler",
    "encode",
    "encoding_channels",
]

ENCODINGS = ("algorithm_1", "paper", "gradient", "gradient_motion", "gauss_newton")
_UPPER = [(i, j) for i in range(6) for j in range(i, 6)]


class Size(NamedTuple):
    """Sizes of the layers: channels of convolutions, units of dense layers.

    Attributes:
        initial: the initial network's four convolutions, and the one after its upscaling.
        kernels: kernel sizes of the first three.
        initial_motion: the initial network's dense layer for the motion.
        encoder: the two convolutions before the LSTM.
        hidden: the LSTM.
        depth_head: the convolution of the depth head.
        motion_head: the dense layer of the motion head.
        upscaler: the convolutions of the upscaler; its last hidden layer has half.
    """

    initial: tuple[int, int, int, int, int]
    kernels: tuple[int, int, int]
    initial_motion: int
    encoder: tuple[int, int]
    hidden: int
    depth_head: int
    motion_head: int
    upscaler: int


PAPER_SIZE = Size((64, 128, 256, 384, 128), (7, 5, 3), 512, (64, 128), 416, 128, 128, 160)
CPU_SIZE = Size((16, 32, 64, 64, 32), (5, 3, 3), 64, (32, 32), 48, 32, 64, 16)


class Guess(NamedTuple):
    """Inverse depths (..., h, w) and a motion vector (..., 6)."""

    inverse_depth: jax.Array
    xi: jax.Array


class Proposals(NamedTuple):
    """Gauss-Newton steps, which the optimiser weights.

    Attributes:
        depth: (..., H, W, 4): two damped steps of all unknowns, two of `common_depth_step`.
        motion: (..., 2, 6) from the two damped steps.
    """

    depth: jax.Array
    motion: jax.Array


def encoding_channels(mode: str) -> int:
    """Number of channels C of `encode`."""
    check_choice("encoding", mode, ENCODINGS)
    counts = {"algorithm_1": 29, "paper": 29 + 7, "gradient": 38, "gradient_motion": 38 + 6}
    return (counts | {"gauss_newton": 38 + 4 + 12})[mode]


def encode(
    residual: jax.Array,
    terms: Any,
    visible: jax.Array,
    inverse_depth: jax.Array,
    mode: str = "gradient",
    proposals: Proposals | None = None,
    xi: jax.Array | None = None,
) -> jax.Array:
    """The optimiser's input for one source, (H, W, C).

    | channels | content                                              | in                         |
    |----------|------------------------------------------------------|----------------------------|
    | 1        | the residual, summed over its channels               | all                        |
    | 1, 6     | J^T J: the depth's own entry, and its border         | all                        |
    | 21       | its motion block over the number of pixels, constant | all                        |
    | 1, 6     | J^T r of the depth, and of the motion over N         | gradient*, gauss_newton    |
    | 1        | mask                                                 | gradient*, gauss_newton    |
    | 1        | inverse depth                                        | all but algorithm_1        |
    | 6        | the motion, constant                                 | paper, gradient_motion     |
    | 4, 12    | the proposals                                        | gauss_newton               |

    `gradient*` is both `gradient` and `gradient_motion`. Values that span many decades go through
    asinh. The source gives the network J^T J and r in its Algorithm 1 (`algorithm_1`), and the
    unknowns as well in its eq. 9 (`paper`).

    Args:
        residual: (H, W, C').
        terms: `jaxcv.energies.photometric.ArrowTerms` of the source.
        visible: (H, W) bool.
        inverse_depth: (H, W).
        mode: one of ENCODINGS.
        proposals: for `gauss_newton`.
        xi: (6,) the motion, T = exp(xi), for `paper` and `gradient_motion`.
    """
    check_choice("encoding", mode, ENCODINGS)
    height, width = inverse_depth.shape
    count = height * width
    squash = lambda x, scale: jnp.arcsinh(x / scale)
    plane = lambda row: jnp.broadcast_to(row, (height, width, row.shape[-1]))
    upper = jnp.stack([terms.motion[i, j] for i, j in _UPPER]) / count
    parts = [
        squash(jnp.sum(residual, axis=-1, keepdims=True), 0.1),
        squash(terms.depth[..., None], 1.0),
        squash(terms.border, 1.0),
        plane(squash(upper, 0.3)),
    ]
    if mode not in ("algorithm_1", "paper"):
        parts += [
            squash(terms.depth_gradient[..., None], 0.1),
            plane(squash(terms.motion_gradient / count, 0.01)),
            visible[..., None].astype(residual.dtype),
        ]
    if mode != "algorithm_1":
        parts.append(10 * inverse_depth[..., None])
    if mode in ("paper", "gradient_motion"):
        assert xi is not None
        parts.append(plane(xi * jnp.array([1.0] * 3 + [10.0] * 3, residual.dtype)))
    if mode == "gauss_newton":
        assert proposals is not None
        scale = jnp.array([0.1] * 3 + [0.02] * 3, residual.dtype)
        parts += [
            squash(proposals.depth, 0.02),
            plane(squash(proposals.motion / scale, 1.0).ravel()),
        ]
    return jnp.concatenate(parts, axis=-1)


class InitialNetwork(nn.Module):
    """Inverse depth at a quarter of the size, and motion, from two images.

    Three convolutions of stride 2, one of stride 1, upscaling by two and two more. The motion comes
    from the spatial mean of the fourth convolution.

    Attributes:
        size: sizes of the layers.
        with_rays: whether the rays are among the inputs; the paper's are the two images.
    """

    size: Size = CPU_SIZE
    with_rays: bool = True

    @nn.compact
    def __call__(self, target: jax.Array, source: jax.Array, rays: jax.Array) -> Guess:
        """Images (B, H, W, 3) in [0, 1], H and W multiples of eight; rays (B, H, W, 2), x and y.

        The rays give each pixel's viewing direction, independent of the intrinsics.
        """
        convolution = functools.partial(Convolution3x3, method="convolution")
        directions = [rays] if self.with_rays else []
        x = jnp.concatenate([target - 0.5, source - 0.5, *directions], axis=-1)
        for width, side in zip(self.size.initial, self.size.kernels, strict=False):
            x = nn.relu(nn.Conv(width, (side, side), 2)(x))
        x = jnp.concatenate([x, *(r[..., 4::8, 4::8, :] for r in directions)], axis=-1)
        x = nn.relu(convolution(self.size.initial[3])(x))
        motion = nn.relu(nn.Dense(self.size.initial_motion)(jnp.mean(x, axis=(-3, -2))))
        # With zero translation nothing would depend on depth.
        first = lambda key, shape, dtype: jnp.zeros(shape, dtype).at[0].set(1)
        xi = 0.1 * nn.Dense(6, bias_init=first)(motion)
        x = nn.relu(convolution(self.size.initial[4])(double(x)))
        depth = convolution(1, scale=0.1, bias=-2.5)(x)[..., 0]  # softplus(-2.5) = 0.08, typical
        return Guess(nn.softplus(depth), xi)


class _Heads(nn.Module):
    """Free moves of depth and motion, initially near 0, plus weighted proposals."""

    size: Size
    weighted: bool = False

    @nn.compact
    def __call__(self, h: jax.Array, visible: jax.Array, proposals: Proposals | None = None) -> Any:
        many = 1 + (4 if self.weighted else 0), 6 + (2 if self.weighted else 0)
        depth = nn.relu(Convolution3x3(self.size.depth_head)(h))
        depth = Convolution3x3(many[0], scale=1e-3)(depth)
        mask = visible[..., None].astype(h.dtype)
        mean = jnp.sum(h * mask, axis=(-3, -2)) / (1 + jnp.sum(mask, axis=(-3, -2)))
        pooled = jnp.concatenate([mean, jnp.max(h * mask, axis=(-3, -2))], axis=-1)
        motion = nn.relu(nn.Dense(self.size.motion_head)(pooled))
        motion = nn.Dense(many[1], kernel_init=nn.initializers.normal(1e-3))(motion)
        free = 0.1 * depth[..., 0]
        free_motion = motion[..., :6] * jnp.array([0.05] * 3 + [0.01] * 3, h.dtype)
        if proposals is None or not self.weighted:
            return free, free_motion
        weights = depth[..., 1:] + jnp.array([0.0, 0.0, 0.05, 0.05], h.dtype)
        motion_weights = motion[..., 6:] + jnp.array([0.2, 0.2], h.dtype)
        free = free + jnp.sum(weights * proposals.depth, axis=-1)
        return free, free_motion + jnp.sum(motion_weights[..., None] * proposals.motion, axis=-2)


class Optimiser(nn.Module):
    """Two convolutions, a convolutional LSTM, and heads for the moves of depth and motion.

    With proposals, a free move is added to their weighted sum. The network gives the weights, per
    pixel for depth and per source for motion.

    Attributes:
        size: sizes of the layers.
        weighted: whether to use proposals.
    """

    size: Size = CPU_SIZE
    weighted: bool = False

    @nn.compact
    def __call__(
        self, carry: Any, encoded: jax.Array, visible: jax.Array, proposals: Proposals | None = None
    ) -> Any:
        """One step, for any batch of sources.

        Args:
            carry: from `start` or the previous step.
            encoded: (..., H, W, C).
            visible: (..., H, W).
            proposals: if `weighted`.

        Returns:
            The new carry, the moves of the inverse depth (..., H, W) and of the motion (..., 6).
        """
        x = encoded
        for width in self.size.encoder:
            x = nn.relu(Convolution3x3(width)(x))
        h, c = ConvolutionalLSTM(self.size.hidden)(carry, x)
        return (h, c), *_Heads(self.size, self.weighted)(h, visible, proposals)

    @nn.nowrap
    def start(self, shape: tuple[int, ...], dtype: Any = None) -> Any:
        """The carry before the first step, for images of `shape` (..., H, W)."""
        zeros = jnp.zeros((*shape, self.size.hidden), dtype)
        return zeros, zeros


class RefinementNetwork(nn.Module):
    """Feed-forward baseline of the optimiser: two convolutions replace the LSTM.

    They have as many weights as the LSTM. Applied repeatedly to the target, the source warped by
    the estimate, their difference and the inverse depth, the network iterates without Jacobians.

    Attributes:
        size: sizes of the layers.
    """

    size: Size = CPU_SIZE

    @nn.compact
    def __call__(self, seen: jax.Array, visible: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(..., H, W, C) -> moves (..., H, W) and (..., 6)."""
        size, x = self.size, seen
        for width in size.encoder:
            x = nn.relu(Convolution3x3(width)(x))
        for _ in range(2):  # as many weights as the LSTM has for its input and its state
            wide = Convolution3x3(4 * size.hidden)(x)
            x = jnp.sum(nn.relu(jnp.stack(jnp.split(wide, 4, axis=-1))), axis=0)
        return _Heads(size)(x, visible)


class Upscaler(nn.Module):
    """Upsamples inverse depth by four, guided by the image.

    Attributes:
        size: sizes of the layers.
    """

    size: Size = CPU_SIZE

    @nn.compact
    def __call__(self, inverse_depth: jax.Array, image: jax.Array) -> jax.Array:
        """(..., h, w) and (..., 4 h, 4 w, 3) in [0, 1] -> (..., 4 h, 4 w)."""
        x = jnp.concatenate([10 * inverse_depth[..., None], quarter(image) - 0.5], axis=-1)
        width = self.size.upscaler
        convolution = functools.partial(Convolution3x3, method="convolution")
        x = nn.relu(convolution(width)(x))
        x = nn.relu(convolution(width)(double(x)))
        x = nn.relu(convolution(width)(double(x)))
        x = nn.relu(convolution(width // 2)(jnp.concatenate([x, image - 0.5], axis=-1)))
        smooth = double(double(inverse_depth[..., None]))
        return (smooth + 0.1 * convolution(1, scale=1e-3)(x))[..., 0]
