"""The least-squares problems of Moré, Garbow and Hillstrom: `PROBLEMS`, by name.

Moré, Garbow and Hillstrom: Testing unconstrained optimization software. TOMS 7(1), 1981. The
number of each problem there stands beside it. `curve_fits` and `variable_size` have the longer
residuals.

The paper gives minima to six digits. Here they have up to 15: the first six are the paper's, where
it lists the minimum, and the others come from solves in float64, as do further local minima that
solves from perturbed starts reached. Rational models have more, between their poles. A zero, the
limits of `beale` and `bard` at infinity and the linear problems are exact.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from tests.problems import curve_fits, variable_size

__all__ = ["PROBLEMS", "Problem"]


class Problem(NamedTuple):
    """Minimise f(y) = sum_i r_i(y)^2.

    Attributes:
        name: key in `PROBLEMS`.
        residual: r(y): (n,) -> (m,).
        start: (n,) the standard start.
        minima: f at the known local minima. Where a minimiser is at infinity, f is the limit.
        n: number of unknowns.
        m: number of residuals.
    """

    name: str
    residual: Callable
    start: np.ndarray
    minima: tuple[float, ...]
    n: int
    m: int


def freudenstein_roth(y):  # 2
    a, b = y
    return jnp.stack([-13 + a + ((5 - b) * b - 2) * b, -29 + a + ((b + 1) * b - 14) * b])


def powell_badly_scaled(y):  # 3
    a, b = y
    return jnp.stack([1e4 * a * b - 1, jnp.exp(-a) + jnp.exp(-b) - 1.0001])


def brown_badly_scaled(y):  # 4
    a, b = y
    return jnp.stack([a - 1e6, b - 2e-6, a * b - 2])


def beale(y):  # 5
    a, b = y
    return jnp.stack([1.5 - a * (1 - b), 2.25 - a * (1 - b**2), 2.625 - a * (1 - b**3)])


def helical_valley(y):  # 7
    a, b, c = y
    # The turn in (-1/4, 3/4), with the cut of the paper at a = 0, b < 0.
    turn = 0.25 + jnp.arctan2(-a, b) / (2 * np.pi)
    return jnp.stack([10 * (c - 10 * turn), 10 * (jnp.sqrt(a**2 + b**2) - 1), c])


def wood(y):  # 14
    a, b, c, d = y
    return jnp.stack(
        [
            10 * (b - a**2),
            1 - a,
            90**0.5 * (d - c**2),
            1 - c,
            10**0.5 * (b + d - 2),
            (b - d) / 10**0.5,
        ]
    )


def brown_dennis(y):  # 16
    a, b, c, d = y
    t = np.arange(1.0, 21.0) / 5
    return (a + t * b - np.exp(t)) ** 2 + (c + d * np.sin(t) - np.cos(t)) ** 2


def _start(*values, repeats=1):
    return np.tile(np.array(values, float), repeats)


def _problem(name, residual, start, *minima):
    start = np.asarray(start, float)
    m = np.size(np.asarray(residual(start)))
    return Problem(name, residual, start, minima, start.size, m)


def _grid(n):
    return np.arange(1.0, n + 1) / (n + 1)


_fits, _sized = curve_fits, variable_size
_LINEAR = {"n": 10, "m": 20}

_ALL = (
    _problem("rosenbrock", _sized.rosenbrock, _start(-1.2, 1), 0.0),
    _problem("freudenstein_roth", freudenstein_roth, _start(0.5, -2), 0.0, 48.98425367924),
    _problem("powell_badly_scaled", powell_badly_scaled, _start(0, 1), 0.0, 1.04029400396164),
    _problem("brown_badly_scaled", brown_badly_scaled, _start(1, 1), 0.0),
    _problem("beale", beale, _start(1, 1), 0.0, 14.203125 - 13.875**2 / 14),
    _problem(
        "jennrich_sampson",
        _fits.jennrich_sampson,
        _start(0.3, 0.4),
        124.362182355615,
        259.580190134253,
    ),
    _problem("helical_valley", helical_valley, _start(-1, 0, 0), 0.0),
    _problem(
        "bard",
        _fits.bard,
        _start(1, 1, 1),
        8.21487730657897e-3,
        0.9327752438983,
        1.00382058682195,
        1.77492677781526,
        2.28990581855659,
        2.36291629719185,
        17.4286933333334,
    ),
    _problem("gaussian", _fits.gaussian, _start(0.4, 1, 0), 1.12793276961883e-8),
    _problem("meyer", _fits.meyer, _start(0.02, 4000, 250), 87.9458551705934),
    _problem("gulf", _fits.gulf, _start(5, 2.5, 0.15), 0.0),
    _problem(
        "box_three_dimensional",
        _fits.box_three_dimensional,
        _start(0, 10, 20),
        0.0,
        0.0755887407549974,
    ),
    _problem("powell_singular", _sized.powell_singular, _start(3, -1, 0, 1), 0.0),
    _problem("wood", wood, _start(-3, -1, -3, -1), 0.0),
    _problem(
        "kowalik_osborne",
        _fits.kowalik_osborne,
        _start(0.25, 0.39, 0.415, 0.39),
        3.07505603849238e-4,
        4.23674626469834e-4,
        1.02734304869546e-3,
        1.59435202602196e-3,
        1.62295551506439e-3,
        1.62728542116094e-3,
    ),
    _problem("brown_dennis", brown_dennis, _start(25, 5, -5, -1), 85822.201626356),
    _problem(
        "osborne_1",
        _fits.osborne_1,
        _start(0.5, 1.5, -1, 0.01, 0.02),
        5.46489469748318e-5,
        0.0245182951387464,
        1.10603621875,
    ),
    _problem("biggs_exp6", _fits.biggs_exp6, _start(1, 2, 1, 1, 1, 1), 0.0, 5.65564992549992e-3),
    _problem(
        "osborne_2",
        _fits.osborne_2,
        _start(1.3, 0.65, 0.65, 0.7, 0.6, 3, 5, 7, 2, 4.5, 5.5),
        4.01377362935478e-2,
    ),
    _problem("watson_6", _sized.watson, np.zeros(6), 2.28767005355242e-3),
    _problem("watson_9", _sized.watson, np.zeros(9), 1.39976013809e-6),
    _problem("watson_12", _sized.watson, np.zeros(12), 4.72238110e-10),
    _problem("extended_rosenbrock", _sized.rosenbrock, _start(-1.2, 1, repeats=10), 0.0),
    _problem(
        "extended_powell_singular", _sized.powell_singular, _start(3, -1, 0, 1, repeats=5), 0.0
    ),
    _problem("penalty_1_4", _sized.penalty_1, np.arange(1.0, 5.0), 2.24997750089990e-5),
    _problem("penalty_1_10", _sized.penalty_1, np.arange(1.0, 11.0), 7.08765146709040e-5),
    _problem("penalty_2_4", _sized.penalty_2, np.full(4, 0.5), 9.37629300735544e-6),
    _problem("penalty_2_10", _sized.penalty_2, np.full(10, 0.5), 2.93660537456746e-4),
    _problem(
        "variably_dimensioned", _sized.variably_dimensioned, 1 - np.arange(1.0, 11.0) / 10, 0.0
    ),
    _problem(
        "trigonometric",
        _sized.trigonometric,
        np.full(10, 0.1),
        0.0,
        4.4735658128154e-07,
        2.79505612187987e-05,
        4.21863388792304e-05,
        8.78822521821953e-4,
    ),
    _problem(
        "brown_almost_linear",
        _sized.brown_almost_linear,
        np.full(10, 0.5),
        0.0,
        1.0,
        1.84124836608851,
    ),
    _problem(
        "discrete_boundary_value", _sized.discrete_boundary_value, _grid(10) * (_grid(10) - 1), 0.0
    ),
    _problem(
        "discrete_integral_equation",
        _sized.discrete_integral_equation,
        _grid(10) * (_grid(10) - 1),
        0.0,
    ),
    _problem("broyden_tridiagonal", _sized.broyden_tridiagonal, np.full(10, -1.0), 0.0),
    _problem("broyden_banded", _sized.broyden_banded, np.full(10, -1.0), 0.0, 2.68021992072614),
    _problem(
        "linear_full_rank", functools.partial(_sized.linear_full_rank, m=20), np.ones(10), 10.0
    ),
    _problem(
        "linear_rank_1",
        functools.partial(_sized.linear_rank_1, m=20),
        np.ones(10),
        20 * 19 / (2 * 41),
    ),
    _problem(
        "linear_rank_1_with_zeros",
        functools.partial(_sized.linear_rank_1_with_zeros, m=20),
        np.ones(10),
        (20**2 + 3 * 20 - 6) / (2 * 37),
    ),
    _problem("chebyquad_7", _sized.chebyquad, _grid(7), 0.0),
    _problem("chebyquad_8", _sized.chebyquad, _grid(8), 3.51687372567818e-3),
    _problem(
        "chebyquad_10",
        _sized.chebyquad,
        _grid(10),
        4.77271369637545e-3,
        6.50395480088254e-3,
        9.50062885021986e-3,
    ),
)

PROBLEMS = {problem.name: problem for problem in _ALL}
