"""Minimisers of a flat energy: frozen, hashable values that never differentiate themselves.

| solver             | for                                                    |
|--------------------|--------------------------------------------------------|
| `newton`           | the default: trust region, exact to round-off          |
| `lbfgs`            | many unknowns, or the paper's own forward pass (jaxopt)|
| `gradient_descent` | a reference without curvature                          |
| `multi_start`      | a solver started at the seed of lowest energy          |
| `final_newton_step`| a solver followed by one damped Newton step (the paper)|

A solver meets its stopping rule relative to the largest gradient norm that it has seen, so the rule
knows no units: `tolerance=None` stands for 1e-10 of it in float64 and 1e-5 in float32.
"""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.checks import argument_error, check_structure
from jaxcv.linear.arrow import ArrowStructure
from jaxcv.linear.damping import Damping
from jaxcv.linear.dense import hessian_product, norm
from jaxcv.linear.structure import DenseStructure
from jaxcv.linear.system import DENSE_LIMIT, Known, damped_system, resolve_method
from jaxcv.solvers.lbfgs import approach
from jaxcv.solvers.levenberg_marquardt import levenberg
from jaxcv.solvers.protocol import Problem, Solver, SolverResult
from jaxcv.solvers.trust_region import minimise

with warnings.catch_warnings():  # it says that it is retired, which users of jaxcv need not hear
    warnings.simplefilter("ignore", DeprecationWarning)
    import jaxopt

__all__ = [
    "check_limits",
    "default_tolerance",
    "final_newton_step",
    "gradient_descent",
    "lbfgs",
    "multi_start",
    "newton",
    "solver_tolerance",
]


_MEDIUM = 16  # unknowns from which a Hessian is dearer than the steps of L-BFGS that it saves


def default_tolerance(dtype: Any) -> float:
    """Gradient norm, relative to the largest seen, that a solver reaches by default."""
    return 1e-10 if jnp.finfo(dtype).bits >= 64 else 1e-5


def check_limits(solver: Any) -> None:
    """Raises ValueError for a tolerance below 0 or a max_steps below 1."""
    tolerance, max_steps = solver.tolerance, solver.max_steps
    if tolerance is not None and not tolerance >= 0:
        raise argument_error(
            "tolerance", "expected a number >= 0", tolerance, "None follows the dtype."
        )
    if not isinstance(max_steps, int) or max_steps < 1:
        raise argument_error("max_steps", "expected an integer >= 1", max_steps)


def solver_tolerance(solver: Any, dtype: Any) -> float:
    """The solver's tolerance, or the one that follows the dtype."""
    return default_tolerance(dtype) if solver.tolerance is None else solver.tolerance


@dataclasses.dataclass(frozen=True)
class newton:
    """Newton's method in a trust region; the default solver.

    Exact second derivatives, the trust-region problem solved by a safeguarded iteration on its
    multiplier (dense, up to 256 unknowns) or by truncated conjugate gradients (above). Leaves when
    the gradient meets the tolerance or when the dtype allows no more progress in energy, then takes
    Newton steps on the gradient alone for as long as they halve it. From 16 to 256 unknowns, where
    a Hessian is dear, L-BFGS goes first and one factor serves the last steps
    (`jaxcv.solvers.lbfgs`); the trust region takes over where that has not reached a minimum.
    With a structure (`linear=Arrow(...)`, `BlockDiagonal(...)`) steps are damped in the manner of
    Levenberg instead (`jaxcv.solvers.levenberg_marquardt`).

    Attributes:
        tolerance: gradient norm relative to the largest seen; None follows the dtype.
        max_steps: steps of L-BFGS, and of the trust region, rejected ones included.

    Source: More and Sorensen 1983; Steihaug 1983; Nocedal and Wright, ch. 4.
    """

    tolerance: float | None = None
    max_steps: int = 50

    def __post_init__(self):
        check_limits(self)

    def __call__(self, problem: Problem, start: jax.Array) -> SolverResult:
        """Minimises `problem` from `start` (n,)."""
        tolerance = solver_tolerance(self, start.dtype)
        if isinstance(problem.method, ArrowStructure):
            return self._structured(problem, start, tolerance)
        dense, before = start.size <= DENSE_LIMIT, None
        if dense and start.size >= _MEDIUM:
            before = approach(problem.energy, start, tolerance, self.max_steps)
            start = before.y
        end = minimise(problem.energy, start, tolerance, self.max_steps, dense, before)
        known = None
        if isinstance(problem.method, DenseStructure) and dense:
            known = Known(end.matrix, None if before is None else ~before.finished)
        return SolverResult(end.y, end.steps, end.converged, end.energy, end.gradient, known)

    def _structured(self, problem, start, tolerance):
        end = levenberg(problem.energy, None, problem.method, start, tolerance, self.max_steps)
        known = Known(end.matrix, ~end.finished)
        return SolverResult(end.y, end.steps, end.finished, end.energy, end.gradient, known)


@dataclasses.dataclass(frozen=True)
class lbfgs:
    """Limited-memory BFGS, by jaxopt.

    Attributes:
        tolerance: gradient norm relative to that at the start; None follows the dtype.
        max_steps: iterations.
        history: pairs kept.
        step_size: 0 searches along the line (zoom); a positive number is a fixed step, as in the
            released code of Wibergian learning (1.0), which may end above the start.

    Source: Liu and Nocedal 1989; jaxopt.LBFGS.
    """

    tolerance: float | None = None
    max_steps: int = 100
    history: int = 10
    step_size: float = 0.0

    def __post_init__(self):
        check_limits(self)

    def __call__(self, problem: Problem, start: jax.Array) -> SolverResult:
        """Minimises `problem` from `start` (n,)."""
        # jaxopt's rule is absolute: the energy is scaled so that the first gradient has norm one.
        # Its first step is along that gradient, of length one or less where steps are fixed.
        slope = jax.grad(problem.energy)(start)
        scale = norm(slope)
        scale = jnp.where((scale > 0) & jnp.isfinite(scale), scale, 1)
        tolerance = solver_tolerance(self, start.dtype)
        fixed = self.step_size > 0
        unit = jnp.maximum(jnp.sum(jnp.abs(slope)), 1) if fixed else scale
        solver = jaxopt.LBFGS(
            fun=lambda y: problem.energy(y) / jnp.where(jnp.isfinite(unit), unit, 1),
            maxiter=self.max_steps,
            tol=0.0 if fixed else tolerance,
            history_size=self.history,
            stepsize=self.step_size,
            implicit_diff=False,
            unroll=False,
        )
        value, state = solver.run(start)
        least = problem.energy(value)
        kept = jnp.isfinite(least) & (fixed | (least <= problem.energy(start)))
        value = jnp.where(kept, value, start)
        slope = norm(jax.grad(problem.energy)(value))
        steps = jnp.asarray(state.iter_num, jnp.int32)
        return SolverResult(value, steps, kept & (slope <= tolerance * scale))


@dataclasses.dataclass(frozen=True)
class gradient_descent:
    """Steepest descent with an adaptive step: accepted steps grow it, rejected ones halve it.

    Attributes:
        tolerance: gradient norm relative to that at the start; None follows the dtype.
        max_steps: steps, rejected ones included.
        step_size: the first step tried; 0 takes 1 / |gradient| times max(1, |y0|) / 10.

    Source: Armijo 1966 (sufficient decrease 1e-4).
    """

    tolerance: float | None = None
    max_steps: int = 1000
    step_size: float = 0.0

    def __post_init__(self):
        check_limits(self)

    def __call__(self, problem: Problem, start: jax.Array) -> SolverResult:
        """Minimises `problem` from `start` (n,)."""
        evaluate = jax.value_and_grad(problem.energy)
        energy, gradient = evaluate(start)
        first = norm(gradient)
        goal = solver_tolerance(self, start.dtype) * first
        reach = 0.1 * jnp.maximum(1, norm(start)) / jnp.where(first > 0, first, 1)
        size = jnp.where(self.step_size > 0, self.step_size, reach).astype(start.dtype)
        begin, noise = energy, 4 * jnp.finfo(start.dtype).eps

        def go_on(state):
            _, energy, gradient, size, step = state
            alive = jnp.isfinite(energy) & (size > 0)
            return alive & (norm(gradient) > goal) & (step < self.max_steps)

        def advance(state):
            y, energy, gradient, size, step = state
            trial = y - size * gradient
            trial_energy, trial_gradient = evaluate(trial)
            decrease = 1e-4 * size * jnp.vdot(gradient, gradient)
            # Where the energy has no digits left, a smaller gradient is the progress.
            lower = trial_energy <= energy - decrease
            level = jnp.minimum(begin, energy + noise * jnp.abs(energy))
            flatter = (trial_energy <= level) & (norm(trial_gradient) < norm(gradient))
            accept = (lower | flatter) & jnp.all(jnp.isfinite(trial_gradient))
            take = lambda new, old: jnp.where(accept, new, old)
            return (
                take(trial, y),
                take(trial_energy, energy),
                take(trial_gradient, gradient),
                size * jnp.where(accept, 1.5, 0.5).astype(size.dtype),
                step + 1,
            )

        state = (start, energy, gradient, size, jnp.int32(0))
        y, energy, gradient, _, steps = jax.lax.while_loop(go_on, advance, state)
        return SolverResult(y, steps, jnp.isfinite(energy) & (norm(gradient) <= goal))


class _Constant(NamedTuple):
    """Arrays by value, so that a solver that holds them can be hashed."""

    tree: Any  # a treedef
    leaves: tuple  # (bytes, shape, dtype name) each

    @classmethod
    def of(cls, tree: Any) -> "_Constant":
        leaves, treedef = jax.tree.flatten(tree)
        arrays = [np.asarray(leaf) for leaf in leaves]
        return cls(treedef, tuple((a.tobytes(), a.shape, a.dtype.name) for a in arrays))

    def value(self) -> Any:
        arrays = [np.frombuffer(b, np.dtype(d)).reshape(s) for b, s, d in self.leaves]
        return jax.tree.unflatten(self.tree, arrays)


@dataclasses.dataclass(frozen=True, init=False)
class multi_start:
    """A solver started at the seed of lowest energy.

    Attributes:
        solver: the solver that runs from there.
        seeds: candidates, a tree like y0 with one leading axis more: arrays, or a function
            `seeds(theta, *data)` that returns them, e.g. ``lambda theta, points: points``. A seed
            whose energy is not finite is passed over; y0 takes part where all are.

    Source: Wibergian learning, section 4 (the energy is evaluated at every data point).
    """

    solver: Solver
    seeds: Callable | _Constant

    def __init__(self, solver: Solver, seeds: Any):
        if not callable(solver):
            raise argument_error("solver", "expected a solver", repr(solver), "E.g. newton().")
        object.__setattr__(self, "solver", solver)
        object.__setattr__(self, "seeds", seeds if callable(seeds) else _Constant.of(seeds))

    def __call__(self, problem: Problem, start: jax.Array) -> SolverResult:
        """Minimises `problem` from the best seed; `start` (n,) serves where no seed does."""
        if isinstance(self.seeds, _Constant):
            seeds = self.seeds.value()
        else:
            seeds = jax.lax.stop_gradient(self.seeds(problem.theta, *problem.data))
        counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(seeds)}
        if len(counts) != 1 or counts & {(), (0,)}:
            rule = "expected arrays with one leading axis, the same and not empty in all of them"
            shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(seeds)]
            raise argument_error("seeds", rule, f"the shapes {shapes}", "Stack the candidates.")
        one = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf)[1:], start.dtype), seeds
        )
        check_structure(
            "seeds", one, "y0", problem.unravel(start), "Seeds have one leading axis more than y0."
        )
        if problem.ravel is None:
            way_out = "Choose the seed before the call and pass it as y0."
            raise argument_error("multi_start", "needs a vector space", "a retraction", way_out)
        flat = jax.vmap(problem.ravel)(jax.tree.map(jnp.asarray, seeds)).astype(start.dtype)
        energies = jax.vmap(problem.energy)(flat)
        energies = jnp.where(jnp.isfinite(energies), energies, jnp.inf)
        best = jnp.argmin(energies)
        usable = jnp.isfinite(energies[best])
        return self.solver(problem, jnp.where(usable, flat[best], start))


@dataclasses.dataclass(frozen=True)
class final_newton_step:
    """A solver followed by one damped Newton step, y <- y - (H' + lambda I)^-1 dE/dy.

    The paper ends every solve with it, so that the point is a fixed point of the step that its
    gradient differentiates.

    Attributes:
        solver: the solver before.
        damping: of the step; its value must be a number. The paper takes `plain`, 0.1, and its
            undamped baseline `plain`, 0, which may step far away. In `shift`, a step that raises
            the energy is dropped: far from a minimum g / lambda is no step to trust.

    Source: Wibergian learning, eq. 8.
    """

    solver: Solver
    damping: Damping = Damping(0.1)  # noqa: RUF009 (frozen)

    def __call__(self, problem: Problem, start: jax.Array) -> SolverResult:
        """Minimises `problem` from `start` (n,)."""
        result = self.solver(problem, start)
        gradient = jax.grad(problem.energy)
        slope = gradient(result.value)
        product = hessian_product(gradient, result.value)
        system = damped_system(product, slope, self.damping, resolve_method("auto", start))
        value = result.value - system.solve(slope)
        least = problem.energy(value)
        good = jnp.isfinite(least) & jnp.all(jnp.isfinite(value))
        if self.damping.mode != "plain":
            begin = problem.energy(result.value)
            noise = 4 * jnp.finfo(value.dtype).eps * jnp.abs(begin)
            good &= ~(least > begin + noise)
        value = jnp.where(good, value, result.value)
        return SolverResult(value, result.steps + 1, result.converged)
