"""Points as expected positions over a map: soft-argmax with a learned offset at every position.

    x = sum_a p_a (g_a + o_a),   p = softmax of the logits over the positions a

Source: Xiong et al., A2J: Anchor-to-Joint Regression Network, ICCV 2019, equations 1 and 2.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxcv.checks import argument_error

__all__ = ["anchor_grid", "expected_positions"]


def anchor_grid(height: int, width: int, *, y_up: bool = False) -> jax.Array:
    """Centres (H, W, 3) of a map's positions in the square [-1, 1]^2, with z = 0.

    Args:
        height: H.
        width: W.
        y_up: whether y decreases with the row, as in cameras whose fy is negative.
    """
    x = (2 * jnp.arange(width) + 1) / width - 1
    y = (2 * jnp.arange(height) + 1) / height - 1
    y = -y if y_up else y
    x, y = jnp.broadcast_arrays(x, y[:, None])
    return jnp.stack([x, y, jnp.zeros_like(x)], axis=-1)


def expected_positions(logits: jax.Array, offsets: jax.Array, grid: Any) -> jax.Array:
    """Expected positions (..., J, 3) over the anchors of a map.

    The derivative by the logit of anchor a is p_a (g_a + o_a - x).

    Args:
        logits: (..., H, W, J).
        offsets: (..., H, W, J, 3), relative to the anchors.
        grid: (H, W, 3) of `anchor_grid`.

    Raises:
        ValueError: shapes that do not fit.
    """
    shape = (*logits.shape, 3)
    if offsets.shape != shape or jnp.shape(grid) != (*logits.shape[-3:-1], 3):
        expected = f"expected {shape}, and (H, W, 3) of `grid`"
        raise argument_error("offsets", expected, (offsets.shape, jnp.shape(grid)))
    weights = jax.nn.softmax(logits, axis=(-3, -2))
    return jnp.einsum("...hwj,...hwjc->...jc", weights, offsets + grid[:, :, None])
