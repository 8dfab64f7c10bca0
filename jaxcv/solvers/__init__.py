"""Minimisers of a flat energy behind one protocol, one algorithm per file.

| solver               | for                                                           |
|----------------------|---------------------------------------------------------------|
| `Newton`             | the default of `argmin`: trust region, exact to round-off     |
| `LevenbergMarquardt` | the default of `argmin_least_squares`                         |
| `GaussNewton`        | least squares, started near the minimum                       |
| `LBFGS`              | many unknowns: gradients only                                 |
| `GradientDescent`    | a reference without curvature                                 |
| `Optax`              | any optax optimiser                                           |
| `Function`           | any other library's solver                                    |
| `MultiStart`         | a solver from many seeds: the lowest, or the k best minima    |
| `FinalNewtonStep`    | a solver followed by one damped Newton step (the paper)       |

A custom solver needs `max_steps`, `init`, `step`, `y` and `status`: see
`jaxcv.solvers.protocol`. To watch a solve step by step from Python:

    for progress in run(Newton(), energy, y0, theta, data):
        print(progress.step, progress.energy)
"""

from jaxcv.solvers.final_newton_step import FinalNewtonStep
from jaxcv.solvers.gradient_descent import GradientDescent
from jaxcv.solvers.lbfgs import LBFGS
from jaxcv.solvers.levenberg_marquardt import GaussNewton, LevenbergMarquardt
from jaxcv.solvers.multi_start import MultiStart
from jaxcv.solvers.newton import Newton
from jaxcv.solvers.optax import Function, Optax
from jaxcv.solvers.problem import Minima, Problem, Result, Status
from jaxcv.solvers.protocol import Progress, Solver, run, solve

__all__ = [
    "LBFGS",
    "FinalNewtonStep",
    "Function",
    "GaussNewton",
    "GradientDescent",
    "LevenbergMarquardt",
    "Minima",
    "MultiStart",
    "Newton",
    "Optax",
    "Problem",
    "Progress",
    "Result",
    "Solver",
    "Status",
    "run",
    "solve",
]
