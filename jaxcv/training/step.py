"""One update step of one trial."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcv.checks import argument_error, check_scalar
from jaxcv.training.state import TrainState

__all__ = ["global_norm", "make_update"]

OWN_METRICS = ("loss", "gradient_norm", "skipped")


def make_update(
    loss: Callable[[Any, Any, jax.Array], tuple[jax.Array, dict[str, jax.Array]]],
    optimizer: optax.GradientTransformation,
    *,
    project: Callable[[Any], Any] | None = None,
) -> Callable[[TrainState, Any, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """The function `update(state, batch, key) -> (state, metrics)`, pure and jittable.

    An update that would damage the state is skipped: params and optimiser state are kept bit for
    bit, the step counter moves on, and the metric `skipped` is 1. It is skipped when the loss or
    the gradient is not finite, or when the update would turn a finite number of the params or of
    the optimiser state into nan or inf (Adam squares the gradient: if that overflows, the second
    moment stays infinite and training stalls).

    Args:
        loss: `loss(params, batch, key) -> (scalar, {name: scalar})`.
        optimizer: any optax transformation; the loss is passed to it as `value`.
        project: maps the params after every update, e.g. onto a constraint set.

    Returns:
        `update`; its metrics are those of the loss and `loss`, `gradient_norm` (of the gradient
        before the optimiser) and `skipped`.

    Raises:
        ValueError: at trace time, if the loss or a metric is not a scalar, or a name is taken.
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def checked_loss(params, batch, key):
        out = loss(params, batch, key)
        if not (isinstance(out, tuple) and len(out) == 2 and isinstance(out[1], dict)):
            raise argument_error(
                "loss", "must return (scalar, {name: scalar})", type(out).__name__,
                "Return `value, {}` if there are no metrics.",
            )  # fmt: skip
        check_scalar("loss", jax.tree.map(jax.typeof, out[0]), "Take the mean over the batch.")
        for name, value in out[1].items():
            if name in OWN_METRICS:
                expected = f"the names {', '.join(OWN_METRICS)} are taken"
                raise argument_error("loss", expected, repr(name), "Rename the metric.")
            if jnp.shape(value) != ():
                expected = f"the metric {name!r} must be a scalar"
                raise argument_error(
                    "loss", expected, f"shape {jnp.shape(value)}", "Take its mean."
                )
        return out

    def update(state, batch, key):
        (value, metrics), gradient = jax.value_and_grad(checked_loss, has_aux=True)(
            state.params, batch, key
        )
        updates, optimizer_state = optimizer.update(
            gradient, state.optimizer_state, state.params, value=value
        )
        params = optax.apply_updates(state.params, updates)
        if project is not None:
            params = project(params)
        old, new = (state.params, state.optimizer_state), (params, optimizer_state)
        # Check the loss too: a `where` can hide its nan from the gradient, then zero.
        sound = _all_finite((value, gradient)) & ~_damaged(old, new)
        params, optimizer_state = jax.tree.map(
            lambda before, after: _like(before, jnp.where(sound, after, before)), old, new
        )
        own = (value, global_norm(gradient), jnp.where(sound, 0, 1))
        metrics = dict(zip(OWN_METRICS, own, strict=True)) | metrics
        return TrainState(state.step + 1, params, optimizer_state), metrics

    return update


def global_norm(tree: Any) -> jax.Array:
    """Euclidean norm of all leaves together; does not overflow unless the norm itself does."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.size(leaf)]
    if not leaves:
        return jnp.zeros(())
    largest = jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in leaves]).max()
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    return scale * jnp.sqrt(sum(jnp.sum(jnp.abs(leaf / scale) ** 2) for leaf in leaves))


def _like(before: jax.Array, x: jax.Array) -> jax.Array:
    # PRNG keys, which some optimisers carry, have no astype.
    return x if x.dtype == before.dtype else x.astype(before.dtype)


def _inexact(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)


def _all_finite(tree: Any) -> jax.Array:
    flags = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.stack(flags).all() if flags else jnp.asarray(True)


def _damaged(old: Any, new: Any) -> jax.Array:
    pairs = zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
    flags = [
        jnp.any(jnp.isfinite(before) & ~jnp.isfinite(after))
        for before, after in pairs
        if _inexact(before)
    ]
    return jnp.stack(flags).any() if flags else jnp.asarray(False)
