"""Noisy samples of two-parameter curves, with starting points for solvers.

Source: Clark et al., "LS-Net", ECCV 2018, section 7.1: 100 points with noise of 0.1 (taken as the
standard deviation); truth and start are drawn from the family's box, independently.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.checks import argument_error

__all__ = ["CurveProblems", "draw_curves"]


class CurveProblems(NamedTuple):
    """P problems of each of F families, at the family's points t.

    Attributes:
        t: (F, N).
        y: (F, P, N), noisy values.
        truth: (F, P, 2).
        start: (F, P, 2).
    """

    t: jax.Array
    y: jax.Array
    truth: jax.Array
    start: jax.Array


def draw_curves(
    key: jax.Array,
    families: Sequence[Any],
    num_problems: int,
    *,
    num_points: int = 100,
    noise: float = 0.1,
) -> CurveProblems:
    """Draws problems of each family.

    Args:
        key: PRNG key.
        families: of `jaxcv.energies.curves`; reads `value`, `lower`, `upper` and `interval`.
        num_problems: P.
        num_points: N.
        noise: standard deviation of y.

    Raises:
        ValueError: no family, no problem, fewer points than unknowns, or a negative noise.
    """
    bounds = {
        "families": (len(families), 1), "num_problems": (num_problems, 1),
        "num_points": (num_points, 2), "noise": (noise, 0),
    }  # fmt: skip
    for name, (value, least) in bounds.items():
        if not value >= least:
            raise argument_error(name, f"expected at least {least}", value)

    def draw(family, key):
        keys = jax.random.split(key, 3)
        lower, upper = jnp.asarray(family.lower), jnp.asarray(family.upper)
        uniform = lambda key: jax.random.uniform(key, (num_problems, 2), minval=lower, maxval=upper)
        first, last = family.interval
        t = jnp.linspace(first, last, num_points)
        truth, start = uniform(keys[0]), uniform(keys[1])
        clean = jax.vmap(family.value, (0, None))(truth, t)
        y = clean + noise * jax.random.normal(keys[2], clean.shape)
        return CurveProblems(t, y, truth, start)

    keys = jax.random.split(key, len(families))
    drawn = [draw(family, key) for family, key in zip(families, keys, strict=True)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn)
