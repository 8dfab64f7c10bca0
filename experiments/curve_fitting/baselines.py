"""Baselines of the curve solver: Levenberg-Marquardt with restarts, a trust region, SciPy.

All return energies alone, for the problems (t (F, N), y (F, P, N)) of F families. Restarts get the
time of the learned solver: a number of Levenberg-Marquardt steps for each step of the network, from
which the evaluations of random points are subtracted.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv import argmin_least_squares
from jaxcv.energies.curves import FAMILIES, curve_terms
from jaxcv.solvers import LevenbergMarquardt
from jaxcv.solvers.marquardt import MarquardtRule
from jaxcv.systems.curve_fitting import curve_energies, fit_curves_by_marquardt

__all__ = [
    "Plan", "Trajectories", "best_plans", "energies_of", "scipy_solutions", "trajectories",
    "trust_region",
]  # fmt: skip

POINTS = 32  # starts of a problem: the given one, then random ones
STARTS = (1, 2, 3, 4, 6, 8, 12, 16)
SCREENED = (2, 4, 8, 16, 24, 32)
LONGEST = 60  # steps from one start, at most
SCIPY_METHODS = ("trf", "dogbox", "lm")
SCIPY_TUNING = 50  # problems per family for the choice of the method

_energies = jax.jit(curve_energies, static_argnames="families")
_fit = jax.jit(fit_curves_by_marquardt, static_argnames=("families", "num_steps"))


class Plan(NamedTuple):
    """How a number of steps is spent.

    Attributes:
        rule: index of the damping's rule.
        points: starts whose energies are compared; 0: the first `starts` are taken.
        starts: those of lowest energy, from which the solver runs.
        steps: from each.
    """

    rule: int
    points: int
    starts: int
    steps: int


class Trajectories(NamedTuple):
    """Energies (R, T + 1, F, P, POINTS) of R rules after each step from each start."""

    energies: np.ndarray


def trajectories(
    key: jax.Array, names: tuple[str, ...], problems: Any, rules: Sequence[Any], num_steps: int
) -> Trajectories:
    """Levenberg-Marquardt from the given start and from random points of the family's box.

    Args:
        key: PRNG key.
        names: F families.
        problems: `CurveProblems`.
        rules: R lists of a `MarquardtRule` for each family.
        num_steps: T, at most LONGEST are made.
    """
    t, y, start = problems.t, problems.y, problems.start
    lower, upper = (
        jnp.asarray([getattr(FAMILIES[name], side) for name in names])[:, None]
        for side in ("lower", "upper")
    )
    num_steps, out = min(num_steps, LONGEST), []
    for own in rules:
        each = []
        for j in range(POINTS):
            unit = jax.random.uniform(jax.random.fold_in(key, j), start.shape)
            point = start if j == 0 else lower + unit * (upper - lower)
            found = _fit(names, t, y, point, rules=list(own), num_steps=num_steps)
            both = jnp.concatenate([point[None], found])
            each.append(np.asarray(_energies(names, t, y, both)))
        out.append(np.stack(each, axis=-1))
    energies = np.stack(out)
    return Trajectories(np.where(np.isfinite(energies), energies, np.inf))


def plans(budget: float, price: float, num_rules: int, screened: bool) -> list[Plan]:
    """All ways to spend `budget` steps; an evaluation of the energy costs `price` steps.

    The first step from the given start is always affordable.
    """
    out = []
    for rule, starts, points in itertools.product(
        range(num_rules), STARTS, SCREENED if screened else (0,)
    ):
        steps = int((budget - points * price) // starts)
        if steps >= 1 and (points == 0 or starts <= points):
            out.append(Plan(rule, points, starts, steps))
    return out or [Plan(rule, 0, 1, 1) for rule in range(num_rules)]


def energies_of(found: Trajectories, plan: Plan, family: int) -> np.ndarray:
    """The lowest energies (P,) that a plan reaches on the problems of a family."""
    own = found.energies[plan.rule, :, family]  # (T + 1, P, POINTS)
    last = own[min(plan.steps, len(own) - 1)]
    if plan.points == 0:
        return last[:, : plan.starts].min(axis=1)
    order = np.argsort(own[0, :, : plan.points], axis=1)[:, : plan.starts]
    return np.take_along_axis(last, order, axis=1).min(axis=1)


def best_plans(
    tuning: Trajectories, num_points: int, budget: float, price: float, screened: bool
) -> list[Plan]:
    """For each family, the plan of lowest mean log energy on the tuning problems."""
    grid = plans(budget, price, len(tuning.energies), screened)
    out = []
    for family in range(tuning.energies.shape[2]):
        scores = [
            np.mean(np.log(1e-3 + energies_of(tuning, plan, family) / num_points)) for plan in grid
        ]
        out.append(grid[int(np.argmin(scores))])
    return out


def trust_region(names: Sequence[str], problems: Any, num_steps: int) -> np.ndarray:
    """Energies (num_steps, F, P) after each step of `argmin_least_squares`, within the domain."""
    out = []
    for i, name in enumerate(names):
        t, y, start = problems.t[i], problems.y[i], problems.start[i]
        history = np.asarray(_trust_region(name, t, y, start, num_steps + 1))
        out.append(np.minimum.accumulate(history, axis=1)[:, 1:])  # the first evaluates the start
    return np.moveaxis(np.stack(out), 2, 0)


@functools.partial(jax.jit, static_argnames=("name", "count"))
def _trust_region(name, t, y, start, count):
    family = FAMILIES[name]
    residual = lambda x, y: family.value(x, t) - y

    def solve(start, y):
        ends = (jnp.asarray(end, start.dtype) for end in (family.domain_lower, family.domain_upper))
        solution = argmin_least_squares(
            residual, start, y, solver=LevenbergMarquardt(max_steps=count), bounds=tuple(ends),
            history=count,
        )  # fmt: skip
        assert solution.history is not None
        return solution.history[0]

    return jax.vmap(solve)(start, y)


def scipy_solutions(
    names: Sequence[str], problems: Any, tuning: Any
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Energies (F, P) and evaluations (F, P) of `scipy.optimize.least_squares`, and its methods.

    It has the analytic Jacobian, its default tolerances, and the family's domain as bounds where
    the method takes bounds. The method of each family is that of lowest mean log energy on tuning
    problems.
    """
    energies, counts, methods = [], [], []
    with jax.enable_x64(True):
        for i, name in enumerate(names):
            rows = slice(0, SCIPY_TUNING)
            t, y, starts = (np.asarray(x[i], float) for x in (tuning.t, tuning.y, tuning.start))
            tried = {}
            for method in SCIPY_METHODS:
                found, _ = _scipy(name, method, t, y[rows], starts[rows])
                tried[method] = np.mean(np.log(1e-3 + found / t.size))
            method = min(tried, key=lambda one: tried[one])
            own = (problems.t[i], problems.y[i], problems.start[i])
            energy, count = _scipy(name, method, *(np.asarray(x, float) for x in own))
            energies.append(energy)
            counts.append(count)
            methods.append(method)
    return np.stack(energies), np.stack(counts), methods


def _scipy(name: str, method: str, t: Any, y: Any, start: Any) -> tuple[np.ndarray, np.ndarray]:
    from scipy.optimize import least_squares

    terms = jax.jit(functools.partial(curve_terms, name))
    family = FAMILIES[name]
    ends = (family.domain_lower, family.domain_upper)
    bounds: Any = {} if method == "lm" else {"bounds": ends}
    energies, counts = [], []
    for own, x0 in zip(y, start, strict=True):
        read = lambda x, own=own: terms(x, t, own)
        found = least_squares(
            lambda x, read=read: np.asarray(read(x).residual), x0,
            jac=lambda x, read=read: np.asarray(read(x).jacobian).T,  # type: ignore[arg-type]
            method=method, **bounds,
        )  # fmt: skip
        inside = np.clip(found.x, *ends)
        energies.append(float(read(inside).energy))
        counts.append(found.nfev)
    return np.asarray(energies), np.asarray(counts)


def default_rules(names: Sequence[str]) -> list[MarquardtRule]:
    """The default rule for each family."""
    return [MarquardtRule() for _ in names]
