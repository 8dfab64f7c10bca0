"""Minimisers as differentiable functions: the implicit rules, their damping and diagnostics.

The gradient is only as accurate as the minimiser: if |dE/dy| = eta remains and h is the smallest
eigenvalue of the Hessian, the gradient is wrong by about eta / h^2 times the third derivative.
`Newton` and `LevenbergMarquardt` end at round-off; a looser tolerance saves little.

# Which damping

| what you need                                            | damping                          |
|----------------------------------------------------------|----------------------------------|
| the classical implicit gradient                          | `Damping(0.0)`                   |
| bounded gradients for training (default)                 | `Damping(0.1)`                   |
| the same, independent of the units of the energy         | `Damping(0.1, relative=True)`    |
| a smaller bias, with a bound of the same kind            | `Damping(0.1, order=4)`          |
| gradients at saddles, or at minima that are not isolated | `Damping(1e-3, mode="tikhonov")` |
| the results of Wibergian learning                        | `Damping(0.1, mode="plain")`     |

lambda has the units of the Hessian. The bias along an eigenvector of eigenvalue h is
(lambda / (h + lambda))^order: at h = lambda, order 1 loses half of the gradient, order 4 a
sixteenth. `Diagnostics.bias_estimate` is the bias at the smallest eigenvalue.

# When a gradient is not certified

Look at `argmin(..., diagnostics=True).diagnostics` (or at `diagnose`, `argmin_vjp`), in this order:

1. `solution.converged` is false: `Status.message(solution.status)` says what to do. Until then
   mask the problem out of the loss.
2. `negative_eigenvalues` > 0: y is a saddle. Start elsewhere, or use `mode="tikhonov"` if a
   critical point is what you want. In mode `shift` the gradient stays bounded but is not the
   gradient of a minimum.
3. `min_eigenvalue` near 0: the minimum is not, or only just, isolated. Add a prior to the energy,
   or keep the damping and check `bias_estimate`.
4. `newton_decrement` is large relative to the round-off of the energy: the solver stopped early, or
   the energy has lost its digits (a large constant added to it, float32 sums of many terms).
5. `adjoint_residual` above 1e-3: `linear="cg"` ran out of steps; precondition by scaling y, or use
   `linear="cholesky"` if the memory allows. In mode `plain` the Hessian may be indefinite.
6. `structure_error` far above round-off: H has entries outside the declared `Arrow` or
   `BlockDiagonal`. The steps are then poor, and nothing is certified.
7. `linear="cg"`: nothing is certified, since the smallest eigenvalue is unknown.

# Coming from another library

| there                                       | here                                           |
|---------------------------------------------|------------------------------------------------|
| optimistix `minimise(fn, solver, y0, args)` | `argmin(energy, y0, theta, data)`              |
| optimistix `ImplicitAdjoint(linear_solver)` | `damping=`, `linear=`                          |
| optimistix `RecursiveCheckpointAdjoint`     | `unrolled_solve`                               |
| optimistix `throw=False`, `result`          | `solution.status`, per problem                 |
| optimistix, a custom `AbstractMinimiser`    | a dataclass: `jaxcv.solvers.protocol`          |
| jaxopt `LBFGS(fun).run(y0, theta)`          | `argmin(energy, y0, theta, solver=LBFGS())`    |
| jaxopt `solve_cg`, `ridge`                  | `linear="cg"`, `damping=Damping(ridge)`        |
| jaxopt `root_vjp`, `root_jvp`               | `argmin_vjp`, `argmin_jvp`, with diagnostics   |
| jaxopt `LevenbergMarquardt(residual_fun)`   | `argmin_least_squares(residual, ...)`          |
| optimistix `least_squares(fn, solver, ...)` | `argmin_least_squares(residual, y0, theta)`    |
| Theseus cost functions and weights          | entries of a dictionary that `residual` returns|
| Theseus `RobustCostFunction(HuberLoss)`     | `kernel={"name": Huber(scale)}`                |
| Theseus, jaxlie variables (SO3, SE3)        | `retract=SO3()`, `SE3()`, `Product(...)`       |
| Theseus `BackwardMode.IMPLICIT`             | `argmin`, with the exact Hessian               |
| Theseus `BackwardMode.UNROLL`, `TRUNCATED`  | `unrolled_solve`, `truncation=k`               |
| Theseus `BackwardMode.DLM`                  | `Damping(2 * eps**2)`                          |
"""

from jaxcv.implicit.attach import argmin_jvp, argmin_vjp, attach, diagnose
from jaxcv.implicit.clamp import clamp_inactive, invariance_penalty
from jaxcv.implicit.curvature import Curvature, curvature
from jaxcv.implicit.diagnostics import Diagnostics
from jaxcv.implicit.minima import expected_over_minima
from jaxcv.implicit.minimise import argmin
from jaxcv.implicit.solution import Solution
from jaxcv.implicit.unroll import unrolled_solve

__all__ = [
    "Curvature",
    "Diagnostics",
    "Solution",
    "argmin",
    "argmin_jvp",
    "argmin_vjp",
    "attach",
    "clamp_inactive",
    "curvature",
    "diagnose",
    "expected_over_minima",
    "invariance_penalty",
    "unrolled_solve",
]
