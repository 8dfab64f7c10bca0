"""jit, vmap and grad in every order, closures, batch sizes, and what is traced how often."""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv import Damping, argmin, attach
from jaxcv.solvers import MultiStart, Newton
from tests.helpers import UNDAMPED, assert_close, outer_loss, problem, rbf_energy


def setting(batch=3):
    """A width, a batch of point sets (batch, 110), a batch of starts (batch,)."""
    _, y0, width, (points,) = problem("rbf")
    shifts = jnp.asarray(np.linspace(-0.2, 0.2, batch))
    return width, points + shifts[:, None], y0 + shifts


def loss(width, points, y0):
    solution = argmin(rbf_energy, y0, width, (points,), damping=Damping(0.3, order=2))
    return outer_loss(solution.value)


over = functools.partial(jax.vmap, in_axes=(None, 0, 0))


@pytest.mark.slow
def test_all_orders_of_jit_vmap_and_grad_agree():
    with jax.enable_x64(True):
        width, points, starts = setting()
        gradient = jax.grad(loss)
        stacked = [gradient(width, *each) for each in zip(points, starts, strict=True)]
        for transformed in (
            over(gradient),
            jax.jit(over(gradient)),
            over(jax.jit(gradient)),
            over(jax.grad(jax.jit(loss))),
        ):
            assert_close(transformed(width, points, starts), stacked, 1e-12)
        sum_of = lambda width, points, starts: jnp.sum(over(loss)(width, points, starts))
        for transformed in (
            jax.grad(sum_of),
            jax.jit(jax.grad(sum_of)),
            jax.grad(jax.jit(sum_of)),
        ):
            assert_close(transformed(width, points, starts), np.sum(stacked), 1e-12)
        # vmap of vmap: another axis, over the width.
        grid = jax.jit(jax.vmap(over(gradient), (0, None, None)))(
            jnp.array([1.0, 1.1]) * width, points, starts
        )
        assert_close(grid[0], stacked, 1e-12)
        assert_close(grid[1, 2], gradient(1.1 * width, points[2], starts[2]), 1e-12)
        by_jacobian = jax.jacrev(lambda w: over(loss)(w, points, starts))(width)
        assert_close(by_jacobian, stacked, 1e-12)


@pytest.mark.slow
def test_batch_size_changes_nothing():
    with jax.enable_x64(True):
        width, points, starts = setting(256)
        gradient = jax.jit(jax.vmap(jax.grad(loss), (None, 0, 0)))
        whole = gradient(width, points, starts)
        for size in (1, 7):
            assert_close(gradient(width, points[:size], starts[:size]), whole[:size], 1e-10)


@pytest.mark.slow
def test_dense_batch_size_changes_nothing():
    # Above the unrolled sizes the factorisations are library calls, of one matrix or of many.
    with jax.enable_x64(True):
        energy, y0, theta, data = problem("huber")

        def one(theta, shift):
            moved = {**theta, "targets": theta["targets"] + shift}
            return jax.grad(lambda t: outer_loss(argmin(energy, y0, t, data).value))(moved)

        gradient = jax.jit(jax.vmap(one, (None, 0)))
        shifts = jnp.linspace(-1, 1, 256)
        whole = gradient(theta, shifts)
        part = gradient(theta, shifts[:7])
        assert_close(part, jax.tree.map(lambda leaf: leaf[:7], whole), 1e-10)


@pytest.mark.slow
def test_sweep_over_damping_is_one_vmap_without_retracing():
    traces = []

    def energy(y, theta):
        traces.append(1)
        return jnp.sum((y - theta) ** 2) + jnp.sum(y**4)

    def gradient(lam):
        damping = Damping(lam)
        return jax.grad(lambda t: jnp.sum(argmin(energy, t, t, damping=damping).value))(one)

    one = jnp.ones(2)
    values = jnp.array([0.0, 0.1, 10.0])
    swept = jax.vmap(gradient)(values)
    curvature = 2 + 12 * np.asarray(argmin(energy, one, one).value) ** 2
    want = 2 / (curvature + np.asarray(values)[:, None])
    np.testing.assert_allclose(swept, want, rtol=1e-5)
    report = lambda d: argmin(energy, one, one, damping=d, diagnostics=True).diagnostics
    by_tree = jax.vmap(lambda d: report(d).damping_used)
    np.testing.assert_allclose(by_tree(Damping(values))[1:], values[1:])

    traces.clear()
    for lam in (0.2, 0.3, jnp.asarray(0.4)):
        gradient(lam)
    first = len(traces)
    for lam in (0.5, 0.6, jnp.asarray(0.7)):
        gradient(lam)
    assert len(traces) == first, "a new damping value retraced the energy"


@pytest.mark.slow
def test_closed_over_arrays_and_tracers_are_differentiated_as_if_they_were_theta():
    with jax.enable_x64(True):
        width, points, starts = setting()
        weights = jnp.linspace(0.5, 1.5, points.shape[1])
        index = jnp.arange(points.shape[1])[::-1]

        def closed(weights, width, points, y0, captured=True):
            def energy(y, width, weights):
                return jnp.sum(-weights[index] * jnp.exp(-(((y - points) / width) ** 2)))

            if captured:
                inner = lambda y, width: energy(y, width, weights)
                return outer_loss(argmin(inner, y0, width, damping=UNDAMPED).value)
            split = lambda y, both: energy(y, *both)
            return outer_loss(argmin(split, y0, (width, weights), damping=UNDAMPED).value)

        explicit = functools.partial(closed, captured=False)
        batched = functools.partial(jax.vmap, in_axes=(None, None, 0, 0))
        both = lambda f: jax.grad(f, (0, 1))
        summed = lambda *args: jnp.sum(batched(closed)(*args))
        want = jax.jit(batched(both(explicit)))(weights, width, points, starts)
        first = jax.tree.map(lambda leaf: leaf[0], want)
        assert_close(both(closed)(weights, width, points[0], starts[0]), first, 1e-12)
        assert_close(jax.jit(both(closed))(weights, width, points[0], starts[0]), first, 1e-12)
        assert_close(batched(both(closed))(weights, width, points, starts), want, 1e-12)
        total = jax.tree.map(lambda leaf: jnp.sum(leaf, 0), want)
        assert_close(jax.jit(both(summed))(weights, width, points, starts), total, 1e-12)

        # attach, with an energy that closes over a tracer: a scale of it moves no minimiser.
        y = argmin(rbf_energy, starts[0], width, (points[0],)).value
        scaled = lambda w: attach(lambda y, s: w * rbf_energy(y, s, points[0]), y, width)
        assert abs(jax.jacrev(scaled)(1.0)) < 1e-9


@pytest.mark.slow
def test_closed_over_complex_arrays_are_differentiated():
    with jax.enable_x64(True):

        def minimiser(t):
            z = t * jnp.asarray([1 + 2j, 0.5 - 1j])
            energy = lambda y, _: jnp.sum(jnp.abs(y - z) ** 2 + jnp.cosh(y))
            return jnp.sum(argmin(energy, jnp.zeros(2), 0.0, damping=UNDAMPED).value)

        quotient = (minimiser(1 + 1e-5) - minimiser(1 - 1e-5)) / 2e-5
        assert_close(jax.grad(minimiser)(1.0), quotient, 1e-8)


def test_a_closed_over_constant_without_derivative_leaves_the_gradient_alone():
    weights = jnp.array([0.0, 1.0, 4.0])  # d sqrt(w) / dw is infinite at 0
    energy = lambda y, t: 0.5 * jnp.sum(jnp.sqrt(weights) * (y - t) ** 2) + 0.5 * jnp.sum(y**2)
    loss = lambda t: jnp.sum(argmin(energy, jnp.zeros(3), t, damping=UNDAMPED).value)
    root = np.sqrt([0.0, 1.0, 4.0])
    np.testing.assert_allclose(jax.grad(loss)(jnp.ones(3)), root / (1 + root), rtol=1e-6)


def count_traces(call):
    """How often `call(energy)` traces the energy, a function of two vectors."""
    traces = []

    def energy(y, theta):
        traces.append(1)
        return jnp.sum((y - theta) ** 2) + jnp.sum(y**4)

    call(energy)
    return len(traces)


@pytest.mark.slow
def test_energy_is_traced_at_most_three_times():
    one = jnp.ones(5)

    def compiled(energy):
        f = jax.jit(jax.value_and_grad(lambda t: jnp.sum(argmin(energy, one, t).value)))
        f(one)
        f(2 * one)

    def eager(energy):
        jax.value_and_grad(lambda t: jnp.sum(argmin(energy, one, t).value))(one)

    def batched(energy):
        f = lambda t: jnp.sum(jax.vmap(lambda s: argmin(energy, one, s * t).value)(jnp.ones(3)))
        jax.jit(jax.value_and_grad(f))(one)

    for call in (compiled, eager, batched):
        assert count_traces(call) <= 3


@dataclasses.dataclass(frozen=True)
class Counted:
    """A solver that notes each time it is traced."""

    solver: Any
    traces: ClassVar[list] = []

    @property
    def max_steps(self):
        return self.solver.max_steps

    def init(self, problem, y):
        self.traces.append(1)
        return self.solver.init(problem, y)

    def step(self, problem, state):
        return self.solver.step(problem, state)

    def y(self, state):
        return self.solver.y(state)

    def status(self, problem, state):
        return self.solver.status(problem, state)


def test_an_equal_solver_is_not_traced_again():
    one = jnp.ones(1)
    seeds = np.array([[0.0], [2.0]])
    energy = lambda y, t: jnp.sum((y - t) ** 2)
    Counted.traces.clear()
    for tolerance in (1e-4, 1e-3):
        for scale in (1, 2):
            solver = MultiStart(Counted(Newton(tolerance=tolerance)), scale * seeds / scale)
            argmin(energy, scale * one, one, solver=solver)
    assert len(Counted.traces) == 2


@pytest.mark.parametrize("linear", ["cholesky", "cg"])
def test_no_host_callback_in_the_program(linear):
    energy, y0, theta, data = problem("huber")
    data = tuple(x.astype(y0.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x for x in data)

    def everything(theta):
        solution = argmin(energy, y0, theta, data, linear=linear, diagnostics=True, history=5)
        return outer_loss(solution.value), solution

    jaxpr = str(jax.make_jaxpr(jax.value_and_grad(everything, has_aux=True))(theta))
    assert "while" in jaxpr
    assert "callback" not in jaxpr
