"""Spatial pyramid pooling: feature maps of any size to vectors of one length.

A level n takes the maximum in each of n x n windows of a map (H, W). With the rule `adaptive`,
window i of n over a rows covers rows floor(i a / n) to ceil((i + 1) a / n) - 1. With `published`,
windows are ceil(a / n) rows, floor(a / n) apart; this gives n windows only for some a (18 for
a = 19 and n = 13), and other a raise an error.

Source: He et al., Spatial pyramid pooling, ECCV 2014; Melekhov et al. 2017, section 3.
"""

import jax
import jax.numpy as jnp

from jaxcv.checks import argument_error, check_choice

__all__ = ["RULES", "pool_windows", "pyramid_pool"]

RULES = ("adaptive", "published")


def pool_windows(length: int, cells: int, rule: str = "adaptive") -> list[tuple[int, int]]:
    """Half-open row range (start, stop) of each window.

    Args:
        length: rows a of the map.
        cells: n.
        rule: see the module.

    Raises:
        ValueError: an empty map, or the published rule gives another number of windows.
    """
    check_choice("rule", rule, RULES)
    if length < 1 or cells < 1:
        raise argument_error("length", "expected a map of 1 pixel or more", (length, cells))
    if rule == "adaptive":
        return [(i * length // cells, -(-(i + 1) * length // cells)) for i in range(cells)]
    window, stride = -(-length // cells), max(1, length // cells)
    count = (length - window) // stride + 1
    if count != cells:
        hint = "Use the rule 'adaptive'."
        raise argument_error("length", f"expected a map with {cells} windows", count, hint)
    return [(i * stride, i * stride + window) for i in range(cells)]


def pyramid_pool(x: jax.Array, levels: tuple[int, ...], rule: str = "adaptive") -> jax.Array:
    """(..., C sum n^2) of a map (..., H, W, C): level by level, channel by channel.

    Args:
        x: the map.
        levels: n of each level, in the order of the output.
        rule: see the module.
    """
    height, width, channels = x.shape[-3:]
    parts = []
    for n in levels:
        rows = [x[..., a:b, :, :].max(axis=-3) for a, b in pool_windows(height, n, rule)]
        rows = jnp.stack(rows, axis=-3)  # (..., n, W, C)
        cells = [rows[..., a:b, :].max(axis=-2) for a, b in pool_windows(width, n, rule)]
        cells = jnp.stack(cells, axis=-2)  # (..., n, n, C)
        parts.append(jnp.moveaxis(cells, -1, -3).reshape(*x.shape[:-3], n * n * channels))
    return jnp.concatenate(parts, axis=-1)
