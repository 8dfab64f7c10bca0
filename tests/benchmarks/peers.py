"""The solvers that are compared: jaxcv, jaxopt and optimistix, each by its public functions."""

import functools
import warnings
from collections.abc import Callable

from jaxcv import Damping, argmin
from jaxcv.core.solvers import lbfgs, newton

__all__ = ["rows"]


def _jaxcv(solver) -> Callable:
    damping = Damping(0.0, mode="plain")
    return lambda energy, y0, theta, data: (
        argmin(energy, y0, theta, data, solver=solver, damping=damping).value
    )


def _jaxopt(kind: str, tolerance: float, solve: str) -> Callable:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import jaxopt
        from jaxopt import linear_solve

    def minimise(energy, y0, theta, data):
        solver = getattr(jaxopt, kind)(
            fun=lambda y, theta, data: energy(y, theta, *data),
            tol=tolerance,
            maxiter=200,
            implicit_diff_solve=getattr(linear_solve, solve),
        )
        return solver.run(y0, theta, data).params

    return minimise


def _optimistix(kind: str, tolerance: float) -> Callable:
    import optimistix

    def minimise(energy, y0, theta, data):
        solver = getattr(optimistix, kind)(rtol=tolerance, atol=tolerance)
        return optimistix.minimise(
            lambda y, args: energy(y, args[0], *args[1]),
            solver,
            y0,
            (theta, data),
            max_steps=1000,
            throw=False,
        ).value

    return minimise


def rows(tolerances=(1e-4, 1e-5, 1e-6)) -> dict[str, Callable]:
    """Name -> minimise(energy, y0, theta, data); every peer at several tolerances."""
    out: dict[str, Callable] = {"jaxcv newton": _jaxcv(newton())}
    out["jaxcv lbfgs"] = _jaxcv(lbfgs())
    for tolerance in tolerances:
        label = functools.partial("{} {:.0e}".format)
        out[label("optimistix BFGS", tolerance)] = _optimistix("BFGS", tolerance)
        out[label("optimistix LBFGS", tolerance)] = _optimistix("LBFGS", tolerance)
        out[label("jaxopt LBFGS, CG", tolerance)] = _jaxopt("LBFGS", tolerance, "solve_cg")
    out["jaxopt LBFGS, default 1e-05"] = _jaxopt("LBFGS", 1e-5, "solve_normal_cg")
    return out
