"""Residuals of the curve fits of Moré, Garbow and Hillstrom, with their data.

Moré, Garbow and Hillstrom: Testing unconstrained optimization software. TOMS 7(1), 1981. The
number of each problem there stands beside it. Every residual maps the unknowns (n,) to (m,).
"""

import jax.numpy as jnp
import numpy as np

__all__ = [
    "bard",
    "biggs_exp6",
    "box_three_dimensional",
    "gaussian",
    "gulf",
    "jennrich_sampson",
    "kowalik_osborne",
    "meyer",
    "osborne_1",
    "osborne_2",
]

_BARD = np.array(
    [.14, .18, .22, .25, .29, .32, .35, .39, .37, .58, .73, .96, 1.34, 2.10, 4.39]
)  # fmt: skip
_GAUSSIAN = np.array(
    [.0009, .0044, .0175, .0540, .1295, .2420, .3521, .3989,
     .3521, .2420, .1295, .0540, .0175, .0044, .0009]
)  # fmt: skip
_MEYER = np.array(
    [34780., 28610., 23650., 19630., 16370., 13720., 11540., 9744.,
     8261., 7030., 6005., 5147., 4427., 3820., 3307., 2872.]
)  # fmt: skip
_KOWALIK_OSBORNE = np.array(
    [.1957, .1947, .1735, .1600, .0844, .0627, .0456, .0342, .0323, .0235, .0246]
)  # fmt: skip
_KOWALIK_OSBORNE_INPUTS = np.array(
    [4.0, 2.0, 1.0, .5, .25, .167, .125, .1, .0833, .0714, .0625]
)  # fmt: skip
_OSBORNE_1 = np.array(
    [.844, .908, .932, .936, .925, .908, .881, .850, .818, .784, .751,
     .718, .685, .658, .628, .603, .580, .558, .538, .522, .506, .490,
     .478, .467, .457, .448, .438, .431, .424, .420, .414, .411, .406]
)  # fmt: skip
_OSBORNE_2 = np.array(
    [1.366, 1.191, 1.112, 1.013, .991, .885, .831, .847, .786, .725, .746, .679, .608,
     .655, .616, .606, .602, .626, .651, .724, .649, .649, .694, .644, .624, .661,
     .612, .558, .533, .495, .500, .423, .395, .375, .372, .391, .396, .405, .428,
     .429, .523, .562, .607, .653, .672, .708, .633, .668, .645, .632, .591, .559,
     .597, .625, .739, .710, .729, .720, .636, .581, .428, .292, .162, .098, .054]
)  # fmt: skip


def bard(y):  # 8
    u = np.arange(1.0, 16.0)
    v = 16 - u
    return _BARD - (y[0] + u / (v * y[1] + np.minimum(u, v) * y[2]))


def gaussian(y):  # 9
    t = (7 - np.arange(15)) / 2
    return y[0] * jnp.exp(-y[1] * (t - y[2]) ** 2 / 2) - _GAUSSIAN


def meyer(y):  # 10
    t = 45 + 5 * np.arange(1.0, 17.0)
    return y[0] * jnp.exp(y[1] / (t + y[2])) - _MEYER


def gulf(y):  # 11, with |u_i - y_2|: the factor m i of the paper is a misprint
    t = np.arange(1.0, 100.0) / 100
    u = 25 + (-50 * np.log(t)) ** (2 / 3)
    return jnp.exp(-(jnp.abs(u - y[1]) ** y[2]) / y[0]) - t


def box_three_dimensional(y):  # 12
    t = np.arange(1.0, 11.0) / 10
    return jnp.exp(-t * y[0]) - jnp.exp(-t * y[1]) - y[2] * (np.exp(-t) - np.exp(-10 * t))


def jennrich_sampson(y):  # 6
    i = np.arange(1.0, 11.0)
    return 2 + 2 * i - (jnp.exp(i * y[0]) + jnp.exp(i * y[1]))


def kowalik_osborne(y):  # 15
    u = _KOWALIK_OSBORNE_INPUTS
    return _KOWALIK_OSBORNE - y[0] * (u**2 + u * y[1]) / (u**2 + u * y[2] + y[3])


def osborne_1(y):  # 17
    t = 10 * np.arange(33.0)
    return _OSBORNE_1 - (y[0] + y[1] * jnp.exp(-t * y[3]) + y[2] * jnp.exp(-t * y[4]))


def biggs_exp6(y):  # 18
    t = np.arange(1.0, 14.0) / 10
    data = np.exp(-t) - 5 * np.exp(-10 * t) + 3 * np.exp(-4 * t)
    model = y[2] * jnp.exp(-t * y[0]) - y[3] * jnp.exp(-t * y[1]) + y[5] * jnp.exp(-t * y[4])
    return model - data


def osborne_2(y):  # 19
    t = np.arange(65.0) / 10
    model = y[0] * jnp.exp(-t * y[4])
    for k in range(3):
        model = model + y[1 + k] * jnp.exp(-((t - y[8 + k]) ** 2) * y[5 + k])
    return _OSBORNE_2 - model
