"""Smooth unconstrained minimisation problems that are no sums of squares: `PROBLEMS`, by name.

The names are those of the CUTEst collection (Gould, Orban, Toint: COAP 60, 2015), whose formulas
are written out below. Six-hump camel and Goldstein-Price are of Dixon and Szegö: Towards global
optimisation, 1978; EXTTET and HAGER of Andrei: An unconstrained optimization test functions
collection, 2008. Goldstein-Price starts at (-0.5, -0.5), where its authors give a region.

`minima` are exact or from solves in float64, as the comments in the table say.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

__all__ = ["PROBLEMS", "Problem"]


class Problem(NamedTuple):
    """Minimise energy(y).

    Attributes:
        name: key in `PROBLEMS`.
        energy: (n,) -> ().
        start: (n,) the standard start.
        minima: the energy at the known local minima, the lowest first.
        n: number of unknowns.
    """

    name: str
    energy: Callable
    start: np.ndarray
    minima: tuple[float, ...]
    n: int

    @property
    def minimum(self) -> float:
        """The lowest known energy."""
        return self.minima[0]


def himmelbg(y):
    a, b = y
    return jnp.exp(-a - b) * (2 * a**2 + 3 * b**2)


def himmelbh(y):  # unbounded below for a -> -inf
    a, b = y
    return a**3 + b**2 - 3 * a - 2 * b + 2


def cliff(y):
    a, b = y
    return ((a - 3) / 100) ** 2 - (a - b) + jnp.exp(20 * (a - b))


def brkmcc(y):
    a, b = y
    rational = 1 / (25 * (1 - a**2 / 4 - b**2))
    return (a - 2) ** 2 + (b - 1) ** 2 + rational + 5 * (a - 2 * b + 1) ** 2


def hairy(y):
    a, b = y
    smooth = jnp.sqrt(0.01 + (a - b) ** 2) + jnp.sqrt(0.01 + a**2)
    return 30 * jnp.sin(7 * a) ** 2 * jnp.cos(7 * b) ** 2 + 100 * smooth


def sisser(y):  # the Hessian at the minimum is zero
    a, b = y
    return 3 * a**4 - 2 * a**2 * b**2 + 3 * b**4


def logros(y):
    a, b = y
    return jnp.log1p(1e4 * (b - a**2) ** 2 + (1 - a) ** 2)


def six_hump_camel(y):
    a, b = y
    return (4 - 2.1 * a**2 + a**4 / 3) * a**2 + a * b + 4 * (b**2 - 1) * b**2


def goldstein_price(y):
    a, b = y
    p = 19 - 14 * a + 3 * a**2 - 14 * b + 6 * a * b + 3 * b**2
    q = 18 - 32 * a + 12 * a**2 + 48 * b - 36 * a * b + 27 * b**2
    return (1 + (a + b + 1) ** 2 * p) * (30 + (2 * a - 3 * b) ** 2 * q)


def allinitu(y):
    a, b, c, d = y
    terms = [
        c - 1 + a**2 + b**2 + (c + d) ** 2 + 2 * jnp.sin(c) ** 2 + a**2 * b**2,
        d - 3 + (d - 1) ** 2 + b**4 + (c**2 + (a + d) ** 2) ** 2,
        (a - 4 + jnp.sin(d) ** 2 + b**2 * c**2) ** 2 + jnp.sin(d) ** 4,
    ]
    return sum(terms)


def schmvett(y):
    a, b, c = y[:-2], y[1:-1], y[2:]
    terms = (
        1 / (1 + (a - b) ** 2) + jnp.sin((np.pi * b + c) / 2) + jnp.exp(-(((a + c) / b - 2) ** 2))
    )
    return -jnp.sum(terms)


def cragglvy(y):
    # Every block of four unknowns shares two with the next.
    a, b, c, d = y[:-3:2], y[1:-2:2], y[2:-1:2], y[3::2]
    tangent = jnp.tan(c - d) + c - d
    return jnp.sum((jnp.exp(a) - b) ** 4 + 100 * (b - c) ** 6 + tangent**4 + a**8 + (d - 1) ** 2)


def exttet(y):
    a, b = y[::2], y[1::2]
    return jnp.sum(jnp.exp(a + 3 * b - 0.1) + jnp.exp(a - 3 * b - 0.1) + jnp.exp(-a - 0.1))


def hager(y):
    return jnp.sum(jnp.exp(y) - jnp.sqrt(np.arange(1.0, y.size + 1)) * y)


def engval1(y):
    a, b = y[:-1], y[1:]
    return jnp.sum((a**2 + b**2) ** 2 - 4 * a + 3)


def arwhead(y):
    return jnp.sum((y[:-1] ** 2 + y[-1] ** 2) ** 2 - 4 * y[:-1] + 3)


def cosine(y):
    return jnp.sum(jnp.cos(y[:-1] ** 2 - y[1:] / 2))


def tointgss(y):
    a, b, c = y[:-2], y[1:-1], y[2:]
    return jnp.sum((10 / y.size + c**2) * (2 - jnp.exp(-((a - b) ** 2) / (0.1 + c**2))))


def edensch(y):
    a, b = y[:-1], y[1:]
    return 16 + jnp.sum((a - 2) ** 4 + (a * b - 2 * b) ** 2 + (b + 1) ** 2)


def fletcbv2(y):
    h = 1 / (y.size + 1)
    quadratic = (y[0] ** 2 + jnp.sum((y[1:] - y[:-1]) ** 2) + y[-1] ** 2) / 2
    return quadratic - h**2 * jnp.sum(2 * y + jnp.cos(y)) - y[-1]


def dixmaan(y, alpha, beta, gamma, delta, powers):
    n, m = y.size, y.size // 3
    # (i / n)^k, k = 0, 1 or 2 for the four sums
    weight = lambda k, count: (np.arange(1.0, count + 1) / n) ** k
    first = alpha * weight(powers[0], n) * y**2
    second = beta * weight(powers[1], n - 1) * (y[:-1] * (y[1:] + y[1:] ** 2)) ** 2
    third = gamma * weight(powers[2], 2 * m) * y[: 2 * m] ** 2 * y[m:] ** 4
    fourth = delta * weight(powers[3], m) * y[:m] * y[2 * m :]
    return 1 + sum(jnp.sum(terms) for terms in (first, second, third, fourth))


def dixmaanb(y):
    return dixmaan(y, 1.0, 0.0625, 0.0625, 0.0625, (0, 0, 0, 1))


def dixmaani(y):
    return dixmaan(y, 1.0, 0.0, 0.125, 0.125, (2, 0, 0, 2))


def fminsrf2(y):
    # The area of a surface over the unit square, and the square of its height at one point. Points
    # of the other colour of a chessboard may move together: the minima are a line.
    p = int(np.sqrt(y.size))
    x = y.reshape(p, p)
    squares = (x[:-1, :-1] - x[1:, 1:]) ** 2 + (x[1:, :-1] - x[:-1, 1:]) ** 2
    area = jnp.sum(jnp.sqrt(1 + (p - 1) ** 2 / 2 * squares)) / (p - 1) ** 2
    return area + x[p // 2, p // 2] ** 2 / y.size


def _frame(p):
    """The start of `fminsrf2`: 1 + 8 s + 4 t on the boundary, zero inside."""
    s = np.arange(p) / (p - 1)
    plane = 1 + 8 * s[:, None] + 4 * s[None, :]
    plane[1:-1, 1:-1] = 0.0
    return plane.ravel()


def _hager(n):
    root = np.sqrt(np.arange(1.0, n + 1))
    return float(np.sum(root * (1 - np.log(root))))


def _problem(name, energy, start, *minima):
    start = np.asarray(start, float)
    return Problem(name, energy, start, minima, start.size)


_ALL = (
    # The lowest minimum is exact; the further ones of schmvett are from solves.
    _problem("himmelbg", himmelbg, [0.5, 0.5], 0.0),
    _problem("himmelbh", himmelbh, [0.0, 2.0], -1.0),
    _problem("sisser", sisser, [1.0, 0.1], 0.0),
    _problem("logros", logros, [-1.2, 1.0], 0.0),
    _problem("goldstein_price", goldstein_price, [-0.5, -0.5], 3.0, 30.0, 84.0, 840.0),
    _problem("schmvett", schmvett, np.full(10, 0.5), -24.0, -21.7749280569, -18.2135845755),
    _problem("hager", hager, np.ones(50), _hager(50)),
    _problem("arwhead", arwhead, np.ones(100), 0.0),
    _problem("cosine", cosine, np.ones(10), -9.0),
    _problem("dixmaanb", dixmaanb, np.full(60, 2.0), 1.0),
    _problem("dixmaani", dixmaani, np.full(60, 2.0), 1.0),
    _problem("tointgss", tointgss, np.full(50, 3.0), 9.6, 9.8, 10.0, 10.2, 10.4),
    _problem("fminsrf2", fminsrf2, _frame(8), 1.0),
    # From solves in float64.
    _problem("cliff", cliff, [0.0, -1.0], 0.1997866136777),
    _problem("brkmcc", brkmcc, [2.0, 2.0], 0.16904267919645, 1.82862735975),
    _problem("hairy", hairy, [-5.0, -7.0], 20.0),
    _problem(
        "six_hump_camel",
        six_hump_camel,
        [1.1, 1.1],
        -1.03162845348988,
        -0.215463824384,
        2.10425031031,
    ),
    _problem("allinitu", allinitu, np.zeros(4), 5.74438491032034, 6.92870166394),
    _problem("cragglvy", cragglvy, [1.0] + [2.0] * 19, 5.23511597421116),
    _problem("exttet", exttet, np.full(30, 0.1), 38.3890004498732),
    _problem("engval1", engval1, np.full(50, 2.0), 53.5822148852076),
    _problem("edensch", edensch, np.full(36, 8.0), 219.284592020765),
    _problem("fletcbv2", fletcbv2, np.arange(1.0, 101.0) / 101, -0.514006786111738),
)

PROBLEMS = {problem.name: problem for problem in _ALL}
