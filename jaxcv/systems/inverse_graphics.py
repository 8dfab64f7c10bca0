"""Encodes an image into pose, light and identity, and re-renders it with changed factors.

The first latents of the code are the scene's, in the order of LATENTS; the others describe the
object. In training a batch varies one factor, and only that factor's latents are active: the others
are clamped to one value (`jaxcv.implicit.clamp`), both mean and log variance. With x the images of
a batch of B, the loss is

    1 / B sum_b (-log p(x_b | z_b) + KL(q(z | x_b) || N(0, 1))),  z_b ~ q(z | x_b) clamped,

with a Bernoulli likelihood, per image; inactive latents are pulled together by kappa / B. Other
methods differ in the posterior, `jaxcv.models.posteriors`, or in the weight beta of the divergence
(beta-VAE).

Sources: Kulkarni et al., Deep Convolutional Inverse Graphics Network, NIPS 2015, sections 3.1, 3.2;
Higgins et al., beta-VAE, ICLR 2017.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.checks import argument_error, check_choice
from jaxcv.implicit.clamp import clamp_inactive
from jaxcv.io.networks import Model
from jaxcv.models.inverse_graphics import (
    GraphicsNetwork,
    bernoulli_loss,
    kl_divergence,
    sample_code,
)
from jaxcv.models.posteriors import adaptive_posterior, group_posterior
from jaxcv.systems.arguments import takes_model

__all__ = [
    "LATENTS", "LatentScale", "Rendering", "active_latents", "graphics_loss",
    "inverse_graphics_arrays", "render_latents",
]  # fmt: skip

LATENTS = ("azimuth", "elevation", "light")
POSTERIORS = ("clamp", "average", "adaptive")


class LatentScale(NamedTuple):
    """Linear map from the first latents to their factors: factor = offset + slope z.

    Attributes:
        offset: (F,), of the scene's latents, in the factors' unit.
        slope: (F,), not 0.
    """

    offset: Any = (0.0, 0.0, 0.0)
    slope: Any = (1.0, 1.0, 1.0)


class Rendering(NamedTuple):
    """Images decoded from codes.

    Attributes:
        images: (..., S, S, 1) in [0, 1].
        code: (..., D) of the images.
        found: name of LATENTS -> (...) factor inferred from the input images.
    """

    images: jax.Array
    code: jax.Array
    found: dict[str, jax.Array]


def active_latents(kind: Any, latents: int, scene: int = len(LATENTS)) -> jax.Array:
    """Mask (D,) of the latents that a batch of this kind may vary.

    Args:
        kind: the factor that varies; 0 .. scene - 1 are one latent each, `scene` is all others.
            May be traced.
        latents: D.
        scene: number of the scene's latents.
    """
    entry = jnp.arange(latents)
    return jnp.where(entry < scene, entry == kind, kind == scene)


def graphics_loss(
    params: Any,
    images: jax.Array,
    key: jax.Array,
    *,
    network: GraphicsNetwork,
    active: Any = None,
    strength: Any = 0.01,
    reference: str = "mean",
    sign: str = "attract",
    clamp_on: str = "statistics",
    log_variance_too: bool = True,
    share_noise: bool = False,
    posterior: str = "clamp",
    beta: Any = 1.0,
    axis_name: str | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of a batch, and its parts.

    Args:
        params: of the network.
        images: (B, S, S, 1) in [0, 1].
        key: of the code's noise.
        network: encoder and decoder.
        active: (D,) of `active_latents`; None: all, ordinary (entangled) training.
        strength: kappa, for the sum over the batch. The released code adds its term twice: 0.02
            here is 0.01 there.
        reference: see `clamp_inactive`: `mean` (paper) or `first` (released code).
        sign: see `clamp_inactive`: `attract` (paper) or `repel` (released code).
        clamp_on: `statistics`, the mean and the log variance before the noise (released code), or
            `sample`, the code after it (the paper's words).
        log_variance_too: whether to pull the inactive log variances together as well.
        share_noise: one noise vector for the batch.
        posterior: `clamp` as above; `average`, the inactive latents' posteriors are averaged over
            the batch (Group-VAE); or `adaptive`, equal latents of random pairs are averaged, which
            needs no `active` (Ada-GVAE). The last two have no pull, and ordinary gradients.
        beta: weight of the divergence, a scalar that may be traced.
        axis_name: of devices that shard the batch; average their gradients.

    Returns:
        The loss per image, and {reconstruction, kl}, per image.
    """
    check_choice("clamp_on", clamp_on, ("statistics", "sample"))
    check_choice("posterior", posterior, POSTERIORS)
    if posterior != "clamp" and axis_name is not None:
        raise argument_error("axis_name", f"expected None with posterior={posterior!r}", axis_name)
    count = images.shape[0]
    if posterior == "adaptive":  # a batch comes in one order, but its pairs change with the step
        images = images[jax.random.permutation(jax.random.fold_in(key, 1), count)]
    encoded: Any = network.apply(params, images, method="encode")
    mean, log_variance = encoded
    clamp = functools.partial(
        clamp_inactive, active=active, reference=reference, sign=sign, axis_name=axis_name
    )
    if posterior == "adaptive":
        mean, log_variance = adaptive_posterior(mean, log_variance)
    elif posterior == "average" and active is not None:
        mean, log_variance = group_posterior(mean, log_variance, active)
    clamped = active is not None and posterior == "clamp"
    if clamped and clamp_on == "statistics":
        mean = clamp(mean, strength=strength / count)
        log_variance = clamp(log_variance, strength=strength / count * log_variance_too)
    code = sample_code(key, mean, log_variance, share_noise=share_noise)
    if clamped and clamp_on == "sample":
        code = clamp(code, strength=strength / count)
    logits: Any = network.apply(params, code, method="decode")
    parts = {
        "reconstruction": jnp.mean(bernoulli_loss(logits, images)),
        "kl": jnp.mean(kl_divergence(mean, log_variance)),
    }
    return parts["reconstruction"] + beta * parts["kl"], parts


@functools.partial(jax.jit, static_argnames="network")
def _render(params, images, given, scale, network):
    mean, _ = network.apply(params, images, method="encode")
    offset, slope = (jnp.asarray(row, mean.dtype) for row in scale)
    count = len(offset)
    found = offset + slope * mean[:, :count]
    wanted = jnp.where(jnp.isnan(given), found, given)
    code = mean.at[:, :count].set((wanted - offset) / slope)
    logits = network.apply(params, code, method="decode")
    return jax.nn.sigmoid(logits), code, found


def inverse_graphics_arrays(
    params: Any, images: jax.Array, given: jax.Array, *, settings: Mapping[str, Any]
) -> dict[str, jax.Array]:
    """`render_latents` on arrays alone: for jit, vmap, grad and export. Values are not checked.

    Args:
        params: of the network.
        images: (B, S, S, 1) grey in [0, 1].
        given: (B, F) factors, in the order of LATENTS; nan: inferred.
        settings: `network`, and `scale` if it is not the default of `render_latents`.

    Returns:
        `images` (B, S, S, 1) in [0, 1], their `code` (B, D), and `found` (B, F), the factors
        inferred from the input.
    """
    scale = settings.get("scale", LatentScale())
    made, code, found = _render(params, images, given, scale, settings["network"])
    return {"images": made, "code": code, "found": found}


@takes_model("inverse_graphics")
def render_latents(
    images: Any,
    params: Any = None,
    *,
    model: Model | None = None,
    network: GraphicsNetwork = GraphicsNetwork(),  # noqa: B008, an immutable value
    scale: LatentScale = LatentScale(),  # noqa: B008, an immutable value
    azimuth: Any = None,
    elevation: Any = None,
    light: Any = None,
) -> Rendering:
    """Re-renders images with the given factors; the others are inferred.

    Args:
        images: (..., S, S, 1) grey in [0, 1], of the network's size.
        params: of the network, or a `Model`.
        model: parameters and settings, e.g. `load_pretrained("graphics_faces")`, in place of
            `params`; settings that are given replace the model's.
        network: encoder and decoder.
        scale: of the training, for factors in its unit; with the default, factors are latents of
            the code.
        azimuth: (...) or a scalar; None: inferred.
        elevation: (...) or a scalar; None: inferred.
        light: (...) or a scalar; None: inferred.

    Raises:
        ValueError: images of another size or beyond [0, 1], or not finite; a factor that the
            network does not have, or is not finite; a model of another system.
    """
    del model  # replaced by `params` and settings
    side = network.size.image
    images = np.asarray(images)
    if images.ndim < 3 or images.shape[-3:] != (side, side, 1):
        hint = "Convert to grey, and resize."
        raise argument_error("images", f"expected (..., {side}, {side}, 1)", images.shape, hint)
    if not (np.min(images) >= 0 and np.max(images) <= 1):  # nan as well
        hint = "Divide 8-bit values by 255; replace pixels that are nan."
        got = f"{np.min(images)} to {np.max(images)}"
        raise argument_error("images", "expected values in [0, 1]", got, hint)
    batch, count = images.shape[:-3], len(scale.slope)
    given = np.full((*batch, count), np.nan)
    for i, (name, value) in enumerate(zip(LATENTS, (azimuth, elevation, light), strict=True)):
        if value is None:
            continue
        if i >= count:
            raise argument_error(name, f"expected one of {LATENTS[:count]}", name)
        if not np.isfinite(value).all():
            raise argument_error(name, "expected finite values", value)
        given[..., i] = value
    flat = jnp.asarray(images, jnp.float32).reshape(-1, side, side, 1)
    settings = {"network": network, "scale": scale}
    factors = jnp.asarray(given.reshape(-1, count))
    out = inverse_graphics_arrays(params, flat, factors, settings=settings)
    return Rendering(
        out["images"].reshape(images.shape),
        out["code"].reshape(*batch, -1),
        {name: out["found"][:, i].reshape(batch) for i, name in enumerate(LATENTS[:count])},
    )
