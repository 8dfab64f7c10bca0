"""A solver that starts at many seeds: the lowest, or the k best distinct minima."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxcv.checks import argument_error, check_count, check_number, check_real, check_structure
from jaxcv.closure import vary_like
from jaxcv.linear.dense import norm
from jaxcv.pytree import register
from jaxcv.solvers.problem import Minima, Problem, Result, Status
from jaxcv.solvers.protocol import Solver, check_solver, result_of

__all__ = ["MultiStart"]


@dataclasses.dataclass(frozen=True, eq=False)
class MultiStart:
    """A solver that starts at many seeds.

    With `keep=1` the energy is evaluated at every seed and the solver runs from the lowest seed.
    With `keep=k` it runs from all seeds, and `Solution.minima` holds the k lowest distinct minima,
    their energies, and the minimum that each seed reached; `Solution.value` is the lowest.

    Attributes:
        solver: the solver that runs.
        seeds: starting points, a tree like y0 with one leading axis more: arrays, which may be
            traced, or a function `seeds(theta, *data)` that returns them. Where the energy is not
            finite, `keep=k` replaces the seed by y0; `keep=1` does so only if all seeds fail.
        keep: k.
        separation: two minima are the same if their distance is below this times the largest norm
            of a minimum and their energies agree as closely; None: eps^1/4 (1e-4 in float64, 0.02
            in float32).

    Source: Toso, Campbell, Russell, NeurIPS 2019, section 3 (starts at the data point of
    lowest energy).
    """

    solver: Solver
    seeds: Any
    keep: int = 1
    separation: float | None = None

    def __post_init__(self):
        check_solver(self.solver)
        object.__setattr__(self, "keep", check_count("keep", self.keep))
        if self.separation is not None:
            check_number("separation", self.separation, zero=True)
        if not callable(self.seeds):
            object.__setattr__(self, "seeds", jax.tree.map(_own, self.seeds))
            check_real("seeds", self.seeds)

    def _key(self) -> tuple:
        """The content that equality compares; traced seeds are compared by identity."""
        leaves, treedef = jax.tree.flatten(self.seeds)
        read = lambda x: (np.asarray(x).tobytes(), np.shape(x), str(np.asarray(x).dtype))
        opaque = lambda x: callable(x) or isinstance(x, Tracer)
        content = tuple(id(x) if opaque(x) else read(x) for x in leaves)
        return self.solver, self.keep, self.separation, treedef, content

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, MultiStart) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    @property
    def max_steps(self) -> int:
        """`max_steps` of the solver."""
        return self.solver.max_steps

    def _points(self, problem: Problem, y: jax.Array) -> jax.Array:
        """The checked seeds (S, n)."""
        seeds = self.seeds
        if callable(seeds):
            seeds = seeds(problem.theta, *problem.data)
            check_real("seeds", seeds, "It is what the function `seeds` returns.")
        seeds = jax.lax.stop_gradient(jax.tree.map(jnp.asarray, seeds))
        counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(seeds)}
        if len(counts) != 1 or counts & {(), (0,)}:
            expected = (
                "expected arrays with one leading axis, the same and not empty in all of them"
            )
            shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(seeds)]
            raise argument_error("seeds", expected, f"the shapes {shapes}", "Stack the candidates.")
        if problem.ravel is None:
            hint = "Choose the seed before the call and pass it as y0."
            raise argument_error("MultiStart", "needs a vector space", "a retraction", hint)
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], y.dtype), seeds)
        hint = "Seeds have one leading axis more than y0."
        check_structure("seeds", one, "y0", problem.unravel(y), hint)
        points = vary_like(jax.vmap(problem.ravel)(seeds).astype(y.dtype), y)
        if problem.bounds is not None:
            points = jnp.clip(points, *(bound[None, :] for bound in problem.bounds))
        return points

    def init(self, problem: Problem, y: jax.Array) -> Any:
        """The solver's state at the lowest seed, or its states at all seeds."""
        points = self._points(problem, y)
        energies = jax.vmap(problem.energy)(points)
        finite = jnp.isfinite(energies)
        if self.keep == 1:
            best = jnp.argmin(jnp.where(finite, energies, jnp.inf))
            y = jnp.where(jnp.any(finite), points[best], y)
            return y, self.solver.init(problem, y)
        points = jnp.where(finite[:, None], points, y[None, :])
        return points, jax.vmap(lambda y: self.solver.init(problem, y))(points)

    def step(self, problem: Problem, state: Any) -> Any:
        """One step of the solver; with `keep` above one, for each unfinished seed."""
        points, inner = state
        if self.keep == 1:
            return points, self.solver.step(problem, inner)

        def one(state):
            running = self.solver.status(problem, state) == Status.RUNNING
            new = self.solver.step(problem, state)
            return jax.tree.map(lambda a, b: jnp.where(running, a, b), new, state)

        return points, jax.vmap(one)(inner)

    def y(self, state: Any) -> jax.Array:
        """The point (n,) of the solver; with `keep` above one, of the first seed."""
        if self.keep == 1:
            return self.solver.y(state[1])
        return jax.vmap(self.solver.y)(state[1])[0]

    def status(self, problem: Problem, state: Any) -> jax.Array:
        """`RUNNING` while any seed is, then the status of the first seed."""
        if self.keep == 1:
            return self.solver.status(problem, state[1])
        codes = jax.vmap(lambda s: self.solver.status(problem, s))(state[1])
        return jnp.where(jnp.any(codes == Status.RUNNING), jnp.int32(Status.RUNNING), codes[0])

    def result(self, problem: Problem, start: jax.Array, state: Any) -> Result:
        """The lowest result; with `keep` above one, with the distinct minima in `minima`."""
        points, inner = state
        if self.keep == 1:
            return result_of(self.solver, problem, points, inner)
        every = jax.vmap(lambda p, s: result_of(self.solver, problem, p, s))(points, inner)
        order, group, rows, valid = self._distinct(every)
        best = jax.tree.map(lambda leaf: leaf[order[0]], every._replace(minima=None))
        minima = Minima(every.y[rows], every.energy[rows], valid, group)
        return best._replace(minima=minima)

    def _distinct(self, every: Result) -> tuple:
        """Order of the end points by energy, row of each seed, end points kept, their validity.

        Unconverged end points come last and are never valid minima.
        """
        count, dtype = every.y.shape[0], every.y.dtype
        near = self.separation
        near = float(jnp.finfo(dtype).eps) ** 0.25 if near is None else near
        converged = every.status == Status.CONVERGED
        finite = jnp.isfinite(every.energy)
        energy = jnp.where(finite, every.energy, jnp.inf)
        order = jnp.lexsort((energy, ~converged))
        y, energy, usable = every.y[order], energy[order], (converged & finite)[order]
        apart = jax.vmap(lambda a: jax.vmap(lambda b: norm(a - b))(y))(y)
        size = jax.vmap(norm)(y)
        spread = jnp.max(jnp.where(usable, size, 0))
        level = jnp.abs(energy[:, None] - energy[None, :])
        unit = jnp.abs(energy)[:, None] + jnp.abs(energy)[None, :]
        level_ok = level <= near * jnp.where(jnp.isfinite(unit), unit, 1) + 0
        same = (apart <= near * spread) & level_ok & usable[:, None] & usable[None, :]
        leader = jnp.argmax(same, axis=1)  # the lowest one of the group
        is_leader = usable & (leader == jnp.arange(count))
        rank = jnp.cumsum(is_leader) - 1  # of leaders, by energy
        keep = self.keep
        slots = jnp.full((keep,), 0, jnp.int32)
        target = jnp.where(is_leader & (rank < keep), rank, keep)
        slots = slots.at[target].set(order.astype(jnp.int32), mode="drop")
        valid = jnp.arange(keep) < jnp.sum(is_leader)
        slots = jnp.where(valid, slots, order[0])
        row = jnp.where(usable, rank[leader], -1)
        row = jnp.where(row < keep, row, -1)
        by_seed = jnp.full((count,), -1, jnp.int32).at[order].set(row.astype(jnp.int32))
        return order, by_seed, slots, valid


def _own(leaf: Any) -> Any:
    """A copy that the caller cannot modify, in the native byte order that JAX needs."""
    if isinstance(leaf, jax.Array):
        return leaf
    array = np.array(leaf)
    return array.astype(array.dtype.newbyteorder("="))


register(MultiStart, ("solver", "seeds"))
