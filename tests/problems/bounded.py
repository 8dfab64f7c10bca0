"""Problems with bounds that are active at the minimiser, and scipy's solvers on them: `PROBLEMS`.

The residuals of Moré, Garbow and Hillstrom get boxes in the manner of Gay: A trust-region approach
to linearly constrained optimization, 1984. Data are generated. In all of them the minimiser is on
the boundary and strictly complementary: no unknown is at a bound with a gradient of zero.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from jaxcv.energies.tracker_fusion import (
    TrackerFrame,
    corner_energy,
    corner_terms,
    initial_parameters,
)
from tests.problems import more_garbow_hillstrom

__all__ = ["PROBLEMS", "Outcome", "Problem", "scipy_lbfgsb", "scipy_trf"]


class Problem(NamedTuple):
    """Minimise energy(y, theta) within bounds(theta).

    Attributes:
        energy: (n,), theta -> (); half the sum of squares where there are residuals.
        residual: (n,), theta -> (m,), or None.
        bounds: theta -> (lower, upper), (n,) each.
        start: (n,), within the bounds.
        theta: what the minimiser depends on.
        active: number of unknowns at a bound.
    """

    energy: Callable
    residual: Any
    bounds: Callable
    start: np.ndarray
    theta: Any
    active: int


class Outcome(NamedTuple):
    """What a solver returned: the point (n,), evaluations, and its claim."""

    value: np.ndarray
    evaluations: int
    success: bool


def _fit(residual, bounds, start, theta, active):
    energy = lambda y, theta: 0.5 * jnp.sum(residual(y, theta) ** 2)
    return Problem(energy, residual, bounds, np.asarray(start, float), theta, active)


def _box(lower, upper):
    return lambda theta: (np.asarray(lower, float), np.asarray(upper, float))


def _of_more(name, lower, upper, active):
    problem = more_garbow_hillstrom.PROBLEMS[name]
    residual = lambda y, theta: problem.residual(y) + theta
    start = np.clip(problem.start, lower, upper)
    return _fit(residual, _box(lower, upper), start, np.zeros(()), active)


def _rosenbrock():
    residual = lambda y, theta: jnp.stack([theta[0] * (y[1] - y[0] ** 2), theta[1] - y[0]])
    box = _box([-1.5, -np.inf], [np.inf, 0.5])
    return _fit(residual, box, [0.0, -1.0], np.array([10.0, 1.0]), 1)


def _decay():
    # A decay over a background; its rate is above the limit.
    rng = np.random.default_rng(0)
    x = np.linspace(0, 4, 40)
    y = 2 * np.exp(-1.5 * x) + 0.8 - 0.1 * x + 0.02 * rng.normal(size=40)
    model = lambda b: b[0] * jnp.exp(-b[1] * x) + b[2] + b[3] * x
    box = _box([0, 0, 0, 0], [np.inf, 1.0, np.inf, np.inf])
    return _fit(lambda b, theta: model(b) - theta, box, [1, 0.5, 0.5, 0.1], y, 1)


def _nonnegative():
    rng = np.random.default_rng(1)
    design = rng.normal(size=(30, 10))
    targets = design @ rng.normal(size=10) + 0.1 * rng.normal(size=30)
    box = _box(np.zeros(10), np.full(10, np.inf))
    return _fit(lambda y, theta: design @ y - theta, box, np.ones(10), targets, 4)


def _logistic():
    rng = np.random.default_rng(2)
    design = rng.normal(size=(200, 20))
    labels = np.sign(design @ rng.normal(size=20) + rng.normal(size=200))

    def energy(y, theta):
        terms = jnp.sum(jax.nn.softplus(-labels * (design @ y)))
        return terms + 0.5 * theta * jnp.sum(y**2)

    box = _box(np.full(20, -0.5), np.full(20, 0.5))
    return Problem(energy, None, box, np.zeros(20), np.array(0.1), 9)


def _trust():
    # A robust regression in a box whose half width is learned.
    rng = np.random.default_rng(3)
    design = rng.normal(size=(40, 4))
    targets = design @ np.array([2.0, -1.5, 0.2, 0.1]) + rng.standard_t(2, size=40)

    def energy(y, theta):
        return jnp.sum(jnp.sqrt(1 + (design @ y - theta["scale"] * targets) ** 2) - 1)

    bounds = lambda theta: (-theta["half_width"] * jnp.ones(4), theta["half_width"] * jnp.ones(4))
    theta = {"scale": np.array(1.0), "half_width": np.array(1.0)}
    return Problem(energy, None, bounds, np.zeros(4), theta, 2)


def _boxes():
    # `jaxcv.systems.fuse_boxes` on (centre, size), in units of the frame, with a smallest size.
    rng = np.random.default_rng(4)
    corners = np.array([100.0, 80, 148, 150]) + 3 * rng.normal(size=(9, 4))
    arrays: Any = (corners, np.ones(9, bool), corners[0], np.array(1))  # in their own precision
    frame = TrackerFrame(*arrays)
    parameters = jax.tree.map(np.asarray, initial_parameters(9))

    def energy(y, theta):
        terms = corner_terms(parameters._replace(log_width=theta), frame)
        ends = jnp.stack([y[:2] - y[2:] / 2, y[:2] + y[2:] / 2])
        return jnp.sum(jax.vmap(corner_energy)(ends, terms))

    box = _box([-np.inf, -np.inf, 6.0, 6.0], np.full(4, np.inf))
    return Problem(energy, None, box, np.array([0.2, -0.1, 7, 7]), np.full((2, 9), 0.3), 1)


PROBLEMS = {
    "rosenbrock": _rosenbrock(),
    "helical_valley": _of_more("helical_valley", [-100, -1, -1], [0.8, 1, 1], 1),
    "wood": _of_more("wood", [-100] * 4, [0, 10, 100, 100], 1),
    "brown_dennis": _of_more("brown_dennis", [-10, 0, -100, -20], [100, 15, 0, 0.2], 2),
    "box_three_dimensional": _of_more("box_three_dimensional", [0, 5, 0], [2, 9.5, 20], 1),
    "decay": _decay(),
    "nonnegative_least_squares": _nonnegative(),
    "logistic": _logistic(),
    "learned_bounds": _trust(),
    "box_sizes": _boxes(),
}


def scipy_trf(problem: Problem) -> Outcome:
    """`scipy.optimize.least_squares`, to tight tolerances with exact Jacobians."""
    residual = jax.jit(lambda y: problem.residual(y, problem.theta))
    jacobian = jax.jit(jax.jacfwd(residual))
    tight = dict.fromkeys(("xtol", "ftol", "gtol"), 1e-15)
    on_arrays: Any = lambda function: lambda y: np.asarray(function(y))
    end = scipy.optimize.least_squares(
        on_arrays(residual),
        problem.start,
        on_arrays(jacobian),
        bounds=problem.bounds(problem.theta),
        x_scale="jac",
        max_nfev=5000,
        **tight,
    )
    return Outcome(end.x, int(end.nfev), bool(end.success))


def scipy_lbfgsb(problem: Problem) -> Outcome:
    """`scipy.optimize.minimize(method="L-BFGS-B")`, to tight tolerances with exact gradients."""
    both = jax.jit(jax.value_and_grad(lambda y: problem.energy(y, problem.theta)))
    end = scipy.optimize.minimize(
        lambda y: tuple(np.asarray(x) for x in both(y)),
        problem.start,
        jac=True,
        method="L-BFGS-B",
        bounds=np.transpose(problem.bounds(problem.theta)),
        options={"gtol": 1e-12, "ftol": 1e-16, "maxiter": 10000, "maxfun": 20000, "maxcor": 20},
    )
    return Outcome(end.x, int(end.nfev), bool(end.success))
