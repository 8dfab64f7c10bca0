"""Clamps the inactive latents of a batch to one value; pulls them to their mean.

In a batch where only the factors of some latents vary, the others are inactive: all samples get one
value r (the batch's mean, or its first sample's), and instead of the gradient of the loss they get
a gradient that pulls them together. For u (B, D), active m (D,) and strength kappa

    y = m u + (1 - m) r,     u_bar = m y_bar + (1 - m) kappa (u - mean(u)).

The rule ignores the cotangents of inactive latents, so it is not a transposed derivative and not
linear in the cotangent. Apply it once per tensor and step. Scaling the loss, or summing gradients
of parts of a batch, does not scale the pull; if the loss is a mean over B samples, not a sum, pass
kappa / B. For a loss L(y) the rule is the gradient of

    L(m u + (1 - m) stop(r)) + kappa / 2 sum (1 - m) (u - mean(u))^2,

whose second term is also available as a loss, `invariance_penalty`.

Source: Kulkarni et al., Deep Convolutional Inverse Graphics Network, NIPS 2015, section 3.2.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxcv.checks import argument_error, check_choice, check_floating

__all__ = ["clamp_inactive", "invariance_penalty"]

REFERENCES = ("mean", "first")
SIGNS = {"attract": 1.0, "repel": -1.0}


def clamp_inactive(
    u: jax.Array,
    active: Any,
    strength: Any,
    *,
    reference: str = "mean",
    sign: str = "attract",
    axis_name: str | None = None,
) -> jax.Array:
    """Sets inactive latents to one value, and pulls them together in the backward pass.

    Args:
        u: (B, D), floating.
        active: (D,) true for latents that keep their own values and gradient; no gradient.
        strength: kappa >= 0, a scalar that may be traced; no gradient. 0: inactive latents get a
            zero gradient.
        reference: `mean` of the batch, as published, or its `first` sample, as released.
        sign: `attract`, as published, or `repel`, as the released code, which adds the term to an
            ascent direction.
        axis_name: device axis (`jax.shard_map`) over which the batch is sharded; means are global.

    Returns:
        y (B, D).

    Raises:
        ValueError: wrong shapes, or an unknown `reference` or `sign`.
    """
    u = jnp.asarray(u)
    check_floating("u", u)
    if u.ndim != 2:
        hint = "Flatten to one row per sample; use vmap for an ensemble."
        raise argument_error("u", "expected (B, D)", u.shape, hint)
    active = jax.lax.stop_gradient(jnp.asarray(active).astype(u.dtype))
    if active.shape != u.shape[1:]:
        raise argument_error("active", f"expected {u.shape[1:]}", active.shape)
    check_choice("reference", reference, REFERENCES)
    check_choice("sign", sign, SIGNS)
    strength = SIGNS[sign] * jax.lax.stop_gradient(jnp.asarray(strength, u.dtype))
    return _clamp(reference, axis_name, u, active, strength)


def invariance_penalty(u: jax.Array, active: Any, strength: Any) -> jax.Array:
    """kappa / 2 sum (1 - m) (u - mean(u))^2, a scalar; the arguments are `clamp_inactive`'s."""
    away = u - jnp.mean(u, axis=0)
    return 0.5 * strength * jnp.sum((1 - jnp.asarray(active).astype(u.dtype)) * away**2)


def _mean(u: jax.Array, axis_name: str | None) -> jax.Array:
    mean = jnp.mean(u, axis=0)
    return mean if axis_name is None else jax.lax.pmean(mean, axis_name)


def _first(u: jax.Array, axis_name: str | None) -> jax.Array:
    return u[0] if axis_name is None else jax.lax.all_gather(u[0], axis_name)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _clamp(reference, axis_name, u, active, strength):
    value = _mean(u, axis_name) if reference == "mean" else _first(u, axis_name)
    return jnp.where(active > 0, u, value)


def _clamp_forward(reference, axis_name, u, active, strength):
    return _clamp(reference, axis_name, u, active, strength), (u, active, strength)


def _clamp_backward(reference, axis_name, residuals, y_bar):
    u, active, strength = residuals
    together = strength * (u - _mean(u, axis_name))
    u_bar = jnp.where(active > 0, y_bar, together)
    return u_bar, jnp.zeros_like(active), jnp.zeros_like(strength)


_clamp.defvjp(_clamp_forward, _clamp_backward)
