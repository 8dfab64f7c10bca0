"""Energies at the limits of what can be solved, with all their minimisers: `PROBLEMS`, by name.

Degenerate, flat and curved valleys, saddles, minima at infinity, no minimum at all. The names
of those with a free number n of unknowns end with it. Constants are Python numbers, so that a
problem has the precision of its unknowns.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["PROBLEMS", "Problem"]


class Problem(NamedTuple):
    """Minimise energy(y).

    Attributes:
        name: key in `PROBLEMS`.
        n: number of unknowns.
        energy: (n,) -> ().
        residual: (n,) -> (m,), whose half sum of squares the energy is; None where it is none.
        nearest: y (n,) -> the nearest minimiser (n,), in float64; None where there is none.
        order: y is resolved to eps^order: 1/2, or 1/4 where the Hessian at the minimum is zero.
        condition: of the Hessian at the minimum, along directions where it is not zero; for the
            large ill-conditioned problems.
    """

    name: str
    n: int
    energy: Callable
    residual: Any = None
    nearest: Any = None
    order: float = 0.5
    condition: float = 1.0


def _one_of(*minimisers):
    points = np.asarray(minimisers, float)
    return lambda y: points[np.argmin(np.linalg.norm(points - y, axis=1))]


def _squares(residual):
    return lambda y: 0.5 * jnp.sum(residual(y) ** 2)


def _fit(name, n, residual, nearest, **settings):
    return Problem(name, n, _squares(residual), residual, nearest, **settings)


def rosenbrock(y):
    """The residual of the chain; two local minima from four unknowns on."""
    return 2**0.5 * jnp.concatenate([10 * (y[1:] - y[:-1] ** 2), 1 - y[:-1]])


def _rosenbrock(n):
    @functools.cache
    def minimisers():
        # The second one has -1 in front; a few steps of Newton's method make it exact.
        with jax.enable_x64(True):
            slope = jax.jit(jax.grad(_squares(rosenbrock)))
            hessian = jax.jit(jax.hessian(_squares(rosenbrock)))
            y = np.ones(n)
            y[0] = -0.99
            for _ in range(20):
                y = y - np.linalg.solve(np.asarray(hessian(y)), np.asarray(slope(y)))
            assert y[0] < -0.9
            assert np.linalg.eigvalsh(hessian(y))[0] > 0
        return np.ones(n), y

    return (lambda y: np.ones(n)) if n < 4 else lambda y: _one_of(*minimisers())(y)


def quadratic(y):
    """Coupled, of condition number 21, with its minimum at (3, -2)."""
    a, b = y - jnp.asarray([3.0, -2.0], y.dtype)
    return jnp.stack([3 * a + b, a - b])


def gauge(y):
    """Only differences of neighbours enter: a constant may be added to every unknown."""
    return jnp.diff(y) - jnp.sin(jnp.arange(y.size - 1, dtype=y.dtype))


def _gauge(n):
    steps = np.sin(np.arange(n - 1.0))
    shape = np.concatenate([[0.0], np.cumsum(steps)])
    return lambda y: shape + np.mean(y - shape)


def hyperbola(y):
    return y[:1] * y[1:] - 1


def _on_hyperbola(y):
    for _ in range(50):  # normal steps
        normal = y[::-1] if np.any(y) else np.ones(2)
        y = y - (y[0] * y[1] - 1) * normal / (normal @ normal)
    return y


def saddle(y):
    """Half of the unknowns at a maximum, with minima to both sides."""
    up, down = y[::2], y[1::2]
    return jnp.sum(up**2) + jnp.sum(down**4 / 4 - down**2)


def _saddle(y):
    minimiser = np.zeros_like(y)
    minimiser[1::2] = np.where(y[1::2] < 0, -1, 1) * 2**0.5
    return minimiser


def monkey(y):
    a, b = y
    return a**3 - 3 * a * b**2


def endless(y):
    """Unbounded below along the last unknown."""
    return jnp.sum(y[:-1] ** 2) - y[-1] ** 2


_THIRDS = np.pi / 3 * np.array([1, 3, 5])
_ALL = (
    # One unknown.
    _fit("quartic", 1, lambda y: 2**0.5 * y**2, _one_of([0])),
    _fit("shifted_quartic", 1, lambda y: 2**0.5 * (y - 1) ** 2, _one_of([1]), order=0.25),
    _fit("exponential", 1, lambda y: jnp.exp(-y), None),
    Problem("lorentzian", 1, lambda y: jnp.sum(1 / (1 + y**2))),
    Problem("softplus", 1, lambda y: jnp.sum(jnp.log1p(jnp.exp(-y)))),
    Problem("cubic", 1, lambda y: jnp.sum(y**3)),
    Problem(
        "cosine",
        1,
        lambda y: jnp.sum(jnp.cos(y)),
        None,
        lambda y: np.pi * (2 * np.round((y / np.pi - 1) / 2) + 1),
    ),
    Problem("cosh", 1, lambda y: jnp.sum(jnp.cosh(y)), None, _one_of([0])),
    Problem("logarithm", 1, lambda y: jnp.sum(jnp.log(y) ** 2), None, _one_of([1])),
    # Two.
    _fit("rosenbrock", 2, rosenbrock, _rosenbrock(2)),
    _fit("quadratic", 2, quadratic, _one_of([3, -2])),
    _fit("valley", 2, lambda y: 2**0.5 * (y[:1] - y[1:]), lambda y: np.full(2, np.mean(y))),
    _fit("hyperbola", 2, lambda y: 2**0.5 * hyperbola(y), _on_hyperbola),
    Problem("saddle", 2, saddle, None, _saddle),
    Problem("monkey", 2, monkey),
    Problem(
        "fenced_monkey",
        2,
        lambda y: monkey(y) + jnp.sum(y**2) ** 2 / 4,
        None,
        _one_of(*zip(3 * np.cos(_THIRDS), 3 * np.sin(_THIRDS), strict=True)),
    ),
    # More.
    _fit("gauge_3", 3, gauge, _gauge(3)),
    Problem("endless_3", 3, endless),
)


def _of_size(n):
    yield _fit(f"rosenbrock_{n}", n, rosenbrock, _rosenbrock(n))
    yield _fit(f"gauge_{n}", n, gauge, _gauge(n), condition=(2 * n / np.pi) ** 2)
    yield Problem(f"saddle_{n}", n, saddle, None, _saddle)
    yield Problem(f"endless_{n}", n, endless)


PROBLEMS = {problem.name: problem for problem in (*_ALL, *_of_size(40), *_of_size(300))}
