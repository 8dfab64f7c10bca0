"""Residuals of Moré, Garbow and Hillstrom with a free number n of unknowns.

Moré, Garbow and Hillstrom: Testing unconstrained optimization software. TOMS 7(1), 1981. The
number of each problem there stands beside it. Every residual maps the unknowns (n,) to (m,).
"""

import jax.numpy as jnp
import numpy as np

__all__ = [
    "brown_almost_linear",
    "broyden_banded",
    "broyden_tridiagonal",
    "chebyquad",
    "discrete_boundary_value",
    "discrete_integral_equation",
    "linear_full_rank",
    "linear_rank_1",
    "linear_rank_1_with_zeros",
    "penalty_1",
    "penalty_2",
    "powell_singular",
    "rosenbrock",
    "trigonometric",
    "variably_dimensioned",
    "watson",
]


def _grid(n):
    """The inner points (n,) of a regular grid on [0, 1], and its spacing."""
    return np.arange(1.0, n + 1) / (n + 1), 1 / (n + 1)


def watson(y):  # 20
    n, t = y.size, np.arange(1.0, 30.0) / 29
    powers = t[:, None] ** np.arange(n)
    derivative = powers[:, : n - 1] @ (np.arange(1.0, n) * y[1:])
    inner = derivative - (powers @ y) ** 2 - 1
    return jnp.concatenate([inner, jnp.stack([y[0], y[1] - y[0] ** 2 - 1])])


def rosenbrock(y):  # 1 and 21
    odd, even = y[::2], y[1::2]
    return jnp.concatenate([10 * (even - odd**2), 1 - odd])


def powell_singular(y):  # 13 and 22
    a, b, c, d = y.reshape(-1, 4).T
    terms = [a + 10 * b, 5**0.5 * (c - d), (b - 2 * c) ** 2, 10**0.5 * (a - d) ** 2]
    return jnp.concatenate(terms)


def penalty_1(y):  # 23
    return jnp.append(1e-5**0.5 * (y - 1), jnp.sum(y**2) - 0.25)


def penalty_2(y):  # 24
    n = y.size
    i = np.arange(2.0, n + 1)
    data = np.exp(i / 10) + np.exp((i - 1) / 10)
    e = jnp.exp(y / 10)
    return jnp.concatenate(
        [
            y[:1] - 0.2,
            1e-5**0.5 * (e[1:] + e[:-1] - data),
            1e-5**0.5 * (e[1:] - np.exp(-0.1)),
            jnp.sum(np.arange(n, 0.0, -1) * y**2, keepdims=True) - 1,
        ]
    )


def variably_dimensioned(y):  # 25
    weighted = jnp.sum(np.arange(1.0, y.size + 1) * (y - 1))
    return jnp.concatenate([y - 1, jnp.stack([weighted, weighted**2])])


def trigonometric(y):  # 26
    n = y.size
    return n - jnp.sum(jnp.cos(y)) + np.arange(1.0, n + 1) * (1 - jnp.cos(y)) - jnp.sin(y)


def brown_almost_linear(y):  # 27
    return jnp.append(y[:-1] + jnp.sum(y) - (y.size + 1), jnp.prod(y) - 1)


def discrete_boundary_value(y):  # 28
    t, h = _grid(y.size)
    padded = jnp.pad(y, 1)
    return 2 * y - padded[:-2] - padded[2:] + h**2 * (y + t + 1) ** 3 / 2


def discrete_integral_equation(y):  # 29
    t, h = _grid(y.size)
    cubes = (y + t + 1) ** 3
    before = (1 - t) * jnp.cumsum(t * cubes)
    weighted = (1 - t) * cubes
    after = t * (jnp.sum(weighted) - jnp.cumsum(weighted))
    return y + h * (before + after) / 2


def broyden_tridiagonal(y):  # 30
    padded = jnp.pad(y, 1)
    return (3 - 2 * y) * y - padded[:-2] - 2 * padded[2:] + 1


def broyden_banded(y):  # 31
    i = np.arange(y.size)
    offset = i[None, :] - i[:, None]
    band = ((offset >= -5) & (offset <= 1) & (offset != 0)).astype(float)
    return y * (2 + 5 * y**2) + 1 - band @ (y * (1 + y))


def linear_full_rank(y, m):  # 32
    return jnp.pad(y, (0, m - y.size)) - 2 / m * jnp.sum(y) - 1


def linear_rank_1(y, m):  # 33
    return np.arange(1.0, m + 1) * jnp.sum(np.arange(1.0, y.size + 1) * y) - 1


def linear_rank_1_with_zeros(y, m):  # 34
    total = jnp.sum(np.arange(2.0, y.size) * y[1:-1])
    factors = np.concatenate([[0.0], np.arange(1.0, m - 1), [0.0]])
    return factors * total - 1


def chebyquad(y):  # 35, with m = n
    n = y.size
    x = 2 * y - 1
    polynomials = [jnp.ones_like(x), x]
    for _ in range(2, n + 1):
        polynomials.append(2 * x * polynomials[-1] - polynomials[-2])
    i = np.arange(1, n + 1)
    integrals = np.where(i % 2 == 0, -1.0 / np.maximum(i**2 - 1, 1), 0.0)
    return jnp.mean(jnp.stack(polynomials[1:]), axis=1) - integrals
