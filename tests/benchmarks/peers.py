"""The compared solvers: jaxcv, jaxopt and optimistix, each through its public functions."""

import warnings
from collections.abc import Callable

from jaxcv import Damping, argmin, argmin_least_squares
from jaxcv.solvers import LBFGS, Newton
from tests.benchmarks.by_hand import BY_HAND
from tests.benchmarks.problems import BenchmarkProblem

__all__ = ["jaxopt_row", "optimistix_row", "rows"]

_UNDAMPED = Damping(0.0, mode="plain")


def _jaxcv(solver) -> Callable:
    def minimise(problem, y0, theta, data):
        return argmin(problem.energy, y0, theta, data, solver=solver, damping=_UNDAMPED).value

    return minimise


def _least_squares(problem, y0, theta, data):
    settings = dict(problem.arguments)
    residual = settings.pop("residual")
    return argmin_least_squares(residual, y0, theta, data, damping=_UNDAMPED, **settings).value


def jaxopt_row(kind: str, tolerance: float, solve: str, **settings) -> Callable:
    """A solver of jaxopt, implicitly differentiated by one of its linear solvers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import jaxopt
        from jaxopt import linear_solve

    def minimise(problem, y0, theta, data):
        if kind == "LevenbergMarquardt":
            of = {"residual_fun": lambda y, theta, data: problem.residual(y, theta, *data)}
        else:
            of = {"fun": lambda y, theta, data: problem.energy(y, theta, *data)}
        solver = getattr(jaxopt, kind)(
            **of, tol=tolerance, implicit_diff_solve=getattr(linear_solve, solve), **settings
        )
        return solver.run(y0, theta, data).params

    return minimise


def optimistix_row(kind: str, tolerance: float) -> Callable:
    """A solver of optimistix with its implicit adjoint."""
    import optimistix

    def minimise(problem, y0, theta, data):
        solver = getattr(optimistix, kind)(rtol=tolerance, atol=tolerance)
        function, find = problem.energy, optimistix.minimise
        if kind == "LevenbergMarquardt":
            function, find = problem.residual, optimistix.least_squares
        if kind == "Newton":  # a root of the gradient
            import jax

            function, find = jax.grad(problem.energy), optimistix.root_find
        return find(
            lambda y, args: function(y, args[0], *args[1]),
            solver,
            y0,
            (theta, data),
            max_steps=1000,
            throw=False,
        ).value

    return minimise


def rows(problem: BenchmarkProblem, tolerances=(1e-4, 1e-5, 1e-6)) -> dict[str, Callable]:
    """Name -> minimise(problem, y0, theta, data); quasi-Newton peers at several tolerances.

    (c) has no unrolled row, which does not compile, and no dense rows of the peers (quasi-Newton,
    Newton, Levenberg-Marquardt), whose (n, n) arrays would take 604 MB each, and J 3 GB.
    """
    out: dict[str, Callable] = {}
    small = problem.name != "c"
    if small:
        out["jaxcv newton"] = _jaxcv(Newton())
        out["jaxcv lbfgs"] = _jaxcv(LBFGS())
    if problem.arguments is not None:
        out["jaxcv levenberg_marquardt"] = _least_squares
    if problem.name in BY_HAND:
        out["by hand"] = BY_HAND[problem.name]
    for tolerance in tolerances:
        at = f" {tolerance:.0e}"
        out["jaxopt LBFGS, CG" + at] = jaxopt_row("LBFGS", tolerance, "solve_cg", maxiter=200)
        if small:
            out["optimistix BFGS" + at] = optimistix_row("BFGS", tolerance)
            out["optimistix LBFGS" + at] = optimistix_row("LBFGS", tolerance)
    out["jaxopt LBFGS, default 1e-05"] = jaxopt_row("LBFGS", 1e-5, "solve_normal_cg", maxiter=200)
    more = {"maxiter": 2000}  # in case 200 do not reach the tolerance
    out["jaxopt LBFGS, CG, 2000 steps 1e-05"] = jaxopt_row("LBFGS", 1e-5, "solve_cg", **more)
    if small:
        unrolled = {"maxiter": 50, "implicit_diff": False, "unroll": True, "jit": True}
        out["jaxopt LBFGS, unrolled 1e-05"] = jaxopt_row("LBFGS", 1e-5, "solve_cg", **unrolled)
        out["optimistix Newton 1e-05"] = optimistix_row("Newton", 1e-5)
    if problem.residual is not None:
        out["jaxopt LM, CG 1e-05"] = jaxopt_row("LevenbergMarquardt", 1e-5, "solve_cg", maxiter=100)
        out["optimistix LM 1e-05"] = optimistix_row("LevenbergMarquardt", 1e-5)
    return out
