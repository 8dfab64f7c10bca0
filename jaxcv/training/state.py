"""The training state: everything that is kept between two steps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

__all__ = ["TrainState", "create_state", "leaf_shapes"]


class TrainState(NamedTuple):
    """The whole state of a run; a step is a pure function of state and data.

    Attributes:
        step: (), int32, number of updates, skipped ones included.
        params: the learned tree.
        optimizer_state: the optax state.
    """

    step: jax.Array
    params: Any
    optimizer_state: Any


def create_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    # Weakly typed leaves would become strong in the first update: the step would compile twice.
    params = _strong(params)
    return TrainState(jnp.zeros((), jnp.int32), params, _strong(optimizer.init(params)))


def leaf_shapes(tree: Any) -> dict[str, str]:
    """Path -> `dtype[shape]` of every leaf, in the order of the tree."""
    return {
        jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _strong(tree: Any) -> Any:
    def strong(x):
        is_key = jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key)
        return x if is_key else jnp.asarray(x, dtype=jnp.result_type(x))

    return jax.tree.map(strong, tree)
