"""Newton's method in a trust region; the default solver."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.closure import while_once
from jaxcv.linear.dense import diagonal_of, expand, hessian_product, times
from jaxcv.linear.krylov import lanczos_eigenvalues, random_like
from jaxcv.linear.structure import DenseStructure
from jaxcv.linear.system import ConjugateGradient, SolverHessian
from jaxcv.solvers import trust_region
from jaxcv.solvers.factored import factored_proposal, krylov_proposal, turn_by_product
from jaxcv.solvers.lbfgs import warm_start
from jaxcv.solvers.problem import Problem, Result, Status
from jaxcv.solvers.protocol import check_limits
from jaxcv.solvers.spectral import spectral_proposal
from jaxcv.solvers.trust_region import Local, widened

__all__ = ["SMALL", "Newton", "conclude", "structured"]

SMALL = 16  # below this size energy, gradient and Hessian are evaluated together


@dataclasses.dataclass(frozen=True)
class Newton:
    """Newton's method in a trust region; the default of `argmin`.

    | unknowns                    | Hessian                     | trust-region problem            |
    |-----------------------------|-----------------------------|---------------------------------|
    | below 16                    | with every evaluation       | exact, by an eigendecomposition |
    | 16 to 256                   | after an L-BFGS warm start  | by Cholesky factors             |
    | `Arrow`, `BlockDiagonal`    | by coloured products        | by structured Cholesky factors  |
    | above 256, `linear="cg"`    | never formed                | truncated conjugate gradients   |

    Escapes from saddle points along negative curvature. Ends at round-off, where one more full step
    lowers neither energy nor gradient.

    Attributes:
        tolerance: stop at |dE/dy| <= tolerance |H| |y|, all at the current point; None: round-off.
        max_steps: maximum number of energy evaluations, without the warm start.

    Source: More and Sorensen 1983; Steihaug 1983; Nocedal and Wright, ch. 4.
    """

    tolerance: float | None = None
    max_steps: int = 250

    def __post_init__(self):
        check_limits(self)

    def init(self, problem: Problem, y: jax.Array) -> Any:
        """The state before the first evaluation."""
        steps = jnp.int32(0)
        method = problem.method
        if isinstance(method, ConjugateGradient):
            return trust_region.begin(y, (), problem.ravel is None), steps
        if _is_small(method):
            return trust_region.begin(
                y, jnp.zeros((y.size, y.size), y.dtype), problem.ravel is None
            ), steps
        if isinstance(method, DenseStructure) and problem.bounds is None:
            y, steps = warm_start(problem, y, self.max_steps)
        return trust_region.begin(y, empty_matrix(problem, y), problem.ravel is None), steps

    def step(self, problem: Problem, state: Any) -> Any:
        """Evaluates one trial point, and accepts or rejects it."""
        inner, steps = state
        tolerance = 0.0 if self.tolerance is None else self.tolerance
        inner = trust_region.step(
            self._local(problem), inner, tolerance, problem.bounds, problem.ravel is None
        )
        return inner, steps

    def y(self, state: Any) -> jax.Array:
        """The best point (n,)."""
        return state[0].y

    def status(self, problem: Problem, state: Any) -> jax.Array:
        """The status after the last step."""
        del problem
        return state[0].status

    def result(self, problem: Problem, start: jax.Array, state: Any) -> Result:
        """The point and its Hessian."""
        inner, steps = state
        if not isinstance(problem.method, ConjugateGradient):
            return conclude(problem, inner, inner.matrices, steps)
        # The Krylov space of the gradient may miss negative curvature.
        product = hessian_product(jax.grad(problem.energy), inner.y)
        ritz = lanczos_eigenvalues(product, random_like(inner.y), 20)
        eps = float(jnp.finfo(inner.y.dtype).eps)
        minimum = (ritz[-1] > 0) & (ritz[0] >= -4 * inner.y.size * eps * ritz[-1])
        wrong = (inner.status == Status.CONVERGED) & ~minimum
        status = jnp.where(wrong, jnp.int32(Status.STALLED), inner.status)
        return conclude(problem, inner._replace(status=status), None, steps)

    def _local(self, problem: Problem) -> Local:
        if isinstance(problem.method, ConjugateGradient):
            return _matrix_free(problem)
        if not _is_small(problem.method):
            return structured(problem, None)

        def propose(matrix, scale, request):
            scale = widened(scale, diagonal_of(matrix))
            return spectral_proposal(matrix, scale, request, problem.bounds), scale

        def evaluate(y):
            return expand(problem.energy, y)

        def refresh(accepted, reuse, point, new, old):
            del reuse, point
            return jnp.where(accepted, new, old)

        def turn(wanted, trial, p, new, old):
            del wanted, trial
            return times(jnp.where(jnp.isfinite(new), new, 0) - old, p)

        return Local(evaluate, refresh, turn, propose)


def _is_small(method: Any) -> bool:
    return isinstance(method, DenseStructure) and method.size < SMALL


def conclude(problem: Problem, state: trust_region.State, matrix: Any, steps: Any) -> Result:
    """The result of the engine's last state; `matrix`: the Hessian at the point, or `Stored`."""
    hessian = None
    if isinstance(matrix, Stored):
        # J^T W J would hide negative curvature from the backward pass.
        missing, structure = ~matrix.exact, problem.method
        product = hessian_product(jax.grad(problem.energy), state.y)
        fresh = while_once(missing, lambda: structure.matrix(product, state.y.dtype))
        take = lambda a, b: jnp.where(missing, a, b)
        held = jax.tree.map(take, fresh, matrix.matrix)
        hessian = SolverHessian(held, matrix.here | missing)
    elif matrix is not None:
        hessian = SolverHessian(matrix)
    return Result(
        state.y, state.status, state.energy, state.gradient, state.start_energy, hessian,
        steps=steps,
    )  # fmt: skip


def empty_matrix(problem: Problem, y: jax.Array) -> "Stored":
    """A placeholder: zeros in the structure of the problem."""
    product = lambda p: p
    shape = jax.eval_shape(lambda: problem.method.matrix(product, y.dtype))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape)
    return Stored(zeros, jnp.asarray(False), jnp.asarray(False))


def structured(problem: Problem, curvature: Any) -> Local:
    """The engine's functions for larger or structured problems: value and gradient, then a matrix.

    A matrix is formed at a new point, unless full steps with the last exact Hessian halve the
    gradient (the chord method).

    Args:
        problem: with a `Structure` as its method.
        curvature: (point, last matrix) -> (M, whether M is an exact Hessian), for steps other than
            Newton's; None: the exact Hessian.
    """
    structure, gradient_of = problem.method, jax.grad(problem.energy)
    product_at = lambda y: hessian_product(gradient_of, y)

    def evaluate(y):
        return *jax.value_and_grad(problem.energy)(y), ()

    def refresh(accepted, reuse, point, new, old):
        del new
        y = point[0]
        formed = accepted & ~(reuse & old.exact)

        def fresh():
            if curvature is None:
                return structure.matrix(product_at(y), y.dtype), jnp.asarray(True)
            return curvature(point, old.matrix)

        matrix, exact = while_once(formed, fresh)
        take = lambda a, b: jnp.where(formed, a, b)
        matrix = jax.tree.map(take, matrix, old.matrix)
        return Stored(matrix, take(exact, old.exact), take(exact, old.here & ~accepted))

    def turn(wanted, trial, p, new, old):
        del new
        image = lambda: structure.multiply(old.matrix, p)
        return turn_by_product(product_at, wanted, trial, p, image)

    def propose(stored, scale, request):
        scale = widened(scale, structure.diagonal(stored.matrix))
        proposal = factored_proposal(structure, stored.matrix, scale, request, problem.bounds)
        # J^T W J is never indefinite: it cannot confirm a minimum.
        return proposal._replace(definite=proposal.definite & stored.exact), scale

    return Local(evaluate, refresh, turn, propose)


class Stored(NamedTuple):
    """A matrix that the engine carries.

    Attributes:
        matrix: in the structure of the problem.
        exact: () bool, `matrix` is an exact Hessian, at the point or nearby.
        here: () bool, `matrix` is the exact Hessian at the point.
    """

    matrix: Any
    exact: jax.Array
    here: jax.Array


def _matrix_free(problem: Problem) -> Local:
    gradient_of = jax.grad(problem.energy)

    def evaluate(y):
        return *jax.value_and_grad(problem.energy)(y), ()

    def refresh(accepted, reuse, point, new, old):
        del accepted, reuse, point, new
        return old

    def turn(wanted, trial, p, new, old):
        del new, old
        here = lambda: hessian_product(gradient_of, trial - p)(p)
        return turn_by_product(lambda y: hessian_product(gradient_of, y), wanted, trial, p, here)

    def propose(matrices, scale, request):
        del matrices
        product = hessian_product(gradient_of, request.y)
        return krylov_proposal(product, request, problem.bounds), jnp.ones_like(scale)

    return Local(evaluate, refresh, turn, propose)
