"""The robust mean of samples with outliers, by a learned kernel width.

    y* = argmin_y -sum_i exp(-(y - x_i)^2 / s^2),   from the sample of lowest energy

Source: Toso, Campbell, Russell, NeurIPS 2019, section 3.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxcv.checks import argument_error, check_floating, check_numbers, check_shape
from jaxcv.energies.robust import rbf_energy
from jaxcv.implicit.minimise import argmin
from jaxcv.io.networks import Model
from jaxcv.linear.damping import Damping
from jaxcv.solvers import MultiStart, Newton
from jaxcv.systems.arguments import takes_model

__all__ = ["robust_mean", "robust_mean_arrays"]


def _samples(scale: jax.Array, points: jax.Array, weights: jax.Array) -> jax.Array:
    return points


def robust_mean_arrays(
    params: Mapping[str, jax.Array], points: jax.Array, *, settings: Mapping[str, Any]
) -> dict[str, jax.Array]:
    """`robust_mean` on arrays alone: for jit, vmap, grad and export. Values are not checked.

    Args:
        params: `scale` (), in the units of the points.
        points: (B, n); nan where absent.
        settings: `damping`, if it is not the default of `robust_mean`.

    Returns:
        `mean` (B,), nan for a sample without points; `energy` (B,); `converged` (B,) bool.
    """
    damping = settings.get("damping", Damping())

    def one(points):
        present = jnp.isfinite(points)
        weights = present.astype(points.dtype)
        points = jnp.where(present, points, points[jnp.argmax(present)])
        points = jnp.where(jnp.any(present), points, 0)
        return argmin(
            rbf_energy, jnp.zeros((), points.dtype), params["scale"], (points, weights),
            solver=MultiStart(Newton(), _samples), damping=damping,
        )  # fmt: skip

    found = jax.vmap(one)(points)
    some = jnp.any(jnp.isfinite(points), axis=-1)
    return {
        "mean": jnp.where(some, found.value, jnp.nan),
        "energy": found.energy,
        "converged": found.converged & some,
    }


@takes_model("robust_mean", "scale")
def robust_mean(
    points: Any,
    scale: Any = None,
    *,
    model: Model | None = None,
    damping: Damping = Damping(),  # noqa: B008, an immutable value
) -> jax.Array:
    """The robust mean (...) of samples.

    Args:
        points: (..., n); nan where a sample has fewer points.
        scale: the kernel's width s > 0, in the units of the points, or a `Model` of it.
        model: in place of `scale`, e.g. `load_model("runs/robust_mean")`.
        damping: of the implicit gradient in `scale`.

    Raises:
        ValueError: points that are not floating-point, no point, a width that is not positive, or
            a model of another system.

    Example:
        >>> mean = robust_mean(jnp.array([0.9, 1.0, 1.1, 50.0]), 1.0)
    """
    del model  # replaced by `scale`
    scale = scale["scale"] if isinstance(scale, Mapping) else scale
    points = jnp.asarray(points)
    check_floating("points", points)
    check_shape("points", points, (None,))
    check_numbers("scale", scale)
    if points.size == 0:
        raise argument_error("points", "expected a point or more", points.shape)
    scale = jnp.asarray(scale, points.dtype)
    flat = points.reshape(-1, points.shape[-1])
    out = robust_mean_arrays({"scale": scale}, flat, settings={"damping": damping})
    return out["mean"].reshape(points.shape[:-1])
