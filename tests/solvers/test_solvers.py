"""The solvers beside Newton's: values that can be hashed, and what each of them promises."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv import Damping, Status, argmin
from jaxcv.linear.structure import DenseStructure
from jaxcv.linear.system import damped_system
from jaxcv.solvers import (
    LBFGS,
    FinalNewtonStep,
    Function,
    GradientDescent,
    MultiStart,
    Newton,
)
from jaxcv.solvers.protocol import Solver
from tests.helpers import UNDAMPED, assert_close, assert_grad_matches, mixture_energy, problem


def bowl(y, theta):
    """Strictly convex, minimum near theta."""
    return jnp.sum((y - theta) ** 2 * jnp.array([1.0, 4.0], y.dtype)) + 0.1 * jnp.sum(y**4)


def waves(y, theta):
    """Minima at about -1.9, 1.1 and 4.2 (the lowest is that near 1.1 for theta = 1)."""
    return jnp.sum(-jnp.cos(2 * (y - theta)) + 0.05 * (y - theta) ** 2)


def make_all():
    seeds = np.array([[0.5, 1.0], [3.0, 3.0]], np.float32)
    return [
        Newton(),
        Newton(tolerance=1e-3, max_steps=7),
        LBFGS(max_steps=30),
        LBFGS(step_size=1.0),
        GradientDescent(step_size=0.1),
        MultiStart(Newton(), seeds),
        MultiStart(LBFGS(), (seeds, {"a": seeds[:, 0]})),
        MultiStart(Newton(), mixture_energy),
        FinalNewtonStep(Newton()),
        FinalNewtonStep(MultiStart(LBFGS(), seeds), damping=Damping(0.0, mode="plain")),
    ]


def test_solvers_are_values():
    for i, (one, same) in enumerate(zip(make_all(), make_all(), strict=True)):
        assert isinstance(one, Solver)
        assert one == same
        assert hash(one) == hash(same)
        assert all(one != other for j, other in enumerate(make_all()) if j != i)
    seeds = np.ones((2, 2))
    solver = MultiStart(Newton(), seeds)
    seeds[0, 0] = 5  # a solver is not changed through the array it was made of
    assert solver == MultiStart(Newton(), np.ones((2, 2)))
    assert MultiStart(Newton(), np.ones((2, 2), np.float32)) != solver


@pytest.mark.parametrize(
    ("solver", "accuracy"),
    [
        (LBFGS(), 1e-9),
        pytest.param(LBFGS(history=2), 1e-8, marks=pytest.mark.slow),
        (GradientDescent(), 1e-7),
        (GradientDescent(step_size=0.05), 1e-7),
        (FinalNewtonStep(LBFGS(tolerance=1e-7), damping=UNDAMPED), 1e-6),
    ],
    ids=str,
)
def test_reaches_the_minimum_that_newton_reaches(solver, accuracy):
    with jax.enable_x64(True):
        theta = jnp.array([1.0, -2.0])
        exact = argmin(bowl, jnp.zeros(2), theta).value

        def run(y0):
            return argmin(bowl, y0, theta, solver=solver)

        solution = jax.jit(jax.vmap(run))(jnp.array([[0.0, 0.0], [30.0, -5.0], exact]))
        assert np.all(solution.converged[:2])
        assert_close(solution.value, np.broadcast_to(exact, (3, 2)), accuracy)


@pytest.mark.parametrize("solver", [LBFGS(max_steps=3), GradientDescent(max_steps=3)], ids=str)
def test_out_of_steps_is_not_converged_and_not_worse(solver):
    energy = lambda y, t: jnp.sum(100 * (y[1:] - y[:-1] ** 2) ** 2 + t * (1 - y[:-1]) ** 2)
    y0 = jnp.array([-1.2, 1.0])
    solution = argmin(energy, y0, jnp.ones(()), solver=solver, diagnostics=True)
    assert not solution.converged
    assert solution.status == Status.MAX_STEPS
    assert not solution.diagnostics.certified
    assert solution.steps <= 3
    assert solution.energy <= energy(y0, 1.0)


@pytest.mark.parametrize("solver", [Newton(), LBFGS(), GradientDescent()], ids=str)
def test_never_ends_above_its_start(solver):
    # Starts all over a rugged energy, in float32.
    starts = jnp.linspace(-6, 6, 128)[:, None]
    rugged = lambda y, t: jnp.sum(jnp.sin(3 * y) * jnp.exp(0.3 * y) + 0.01 * t * y**4)
    run = jax.jit(jax.vmap(lambda y0: argmin(rugged, y0, 1.0, solver=solver).value))
    begun, ended = (jax.vmap(lambda y: rugged(y, 1.0))(y) for y in (starts, run(starts)))
    assert np.all(ended <= begun)


def test_multi_start_takes_the_lowest_seed():
    with jax.enable_x64(True):
        seeds = np.array([[-2.0], [1.4], [4.0]])
        from_array = argmin(waves, jnp.zeros(1), 1.0, solver=MultiStart(Newton(), seeds))
        np.testing.assert_allclose(from_array.value, 1.0, atol=1e-12)
        # A function of theta and data; no gradient flows through the seeds.
        energy = lambda y, theta, points: waves(y, theta) + 0 * jnp.sum(points)
        callable_seeds = lambda theta, points: points * theta
        solver = MultiStart(Newton(), callable_seeds)
        loss = lambda t: argmin(
            energy, jnp.zeros(1), t, (jnp.asarray(seeds),), solver=solver, damping=UNDAMPED
        ).value[0]
        value, gradient = jax.value_and_grad(loss)(1.0)
        np.testing.assert_allclose(value, 1.0, atol=1e-12)
        np.testing.assert_allclose(gradient, 1.0, rtol=1e-12)


def test_multi_start_passes_over_seeds_without_energy():
    energy = lambda y, t: jnp.sum(-jnp.log(y) + t * y)  # NaN below zero
    for bad in (-1.0, np.nan, np.inf):
        solver = MultiStart(Newton(), np.array([[bad], [3.0], [bad]], np.float32))
        solution = argmin(energy, jnp.array([0.5]), 1.0, solver=solver)
        np.testing.assert_allclose(solution.value, 1, rtol=1e-6)
        solver = MultiStart(Newton(), np.array([[bad], [bad]], np.float32))
        solution = argmin(energy, jnp.array([0.5]), 1.0, solver=solver)  # y0 takes part
        np.testing.assert_allclose(solution.value, 1, rtol=1e-6)


@pytest.mark.parametrize("seeds", [1.0, np.zeros((0, 1)), {"a": np.ones(2), "b": np.ones((3, 3))}])
def test_seeds_without_a_common_leading_axis(seeds):
    energy = lambda y, t: sum(jnp.sum((leaf - t) ** 2) for leaf in jax.tree.leaves(y))
    y0 = {"a": jnp.ones(()), "b": jnp.ones(3)} if isinstance(seeds, dict) else jnp.ones(1)
    with pytest.raises(ValueError, match="`seeds`: expected arrays with one leading axis"):
        argmin(energy, y0, 1.0, solver=MultiStart(Newton(), seeds))


def test_multi_start_of_a_tree():
    energy = lambda y, t: waves(y["a"], t) + jnp.sum((y["b"] - t) ** 2)
    seeds = {"a": np.array([-2.0, 1.2], np.float32), "b": np.zeros((2, 3), np.float32)}
    y0 = {"a": jnp.zeros(()), "b": jnp.ones(3)}
    solution = argmin(energy, y0, 1.0, solver=MultiStart(Newton(), seeds))
    np.testing.assert_allclose(solution.value["a"], 1, atol=1e-5)
    np.testing.assert_allclose(solution.value["b"], np.ones(3), atol=1e-5)


def test_seeds_of_any_byte_order_and_precision():
    for dtype in (">f8", ">f4", "<f4", np.int32):
        solver = MultiStart(Newton(), np.array([[-2], [1], [4]], dtype))
        solution = argmin(waves, jnp.zeros(1), 1.0, solver=solver)
        np.testing.assert_allclose(solution.value, 1, atol=1e-5)


@pytest.mark.slow
def test_after_a_final_newton_step_the_gradient_is_that_of_the_step():
    # One step from a rough point y: dP/dtheta with P = y - (H + lambda)^-1 dE/dy, H and B at P.
    with jax.enable_x64(True):
        energy, y0, theta, data = problem("mixture")
        rough = LBFGS(tolerance=1e-3, max_steps=4)
        for lam in (0.0, 0.1):
            damping = Damping(lam, mode="plain")
            before = argmin(energy, y0, theta, data, solver=rough).value
            solver = FinalNewtonStep(rough, damping=damping)
            after = argmin(energy, y0, theta, data, solver=solver).value
            gradient = jax.grad(energy)(before, theta, *data)
            hessian = jax.hessian(energy)(before, theta, *data)
            step = jnp.linalg.solve(hessian + lam * jnp.eye(2), gradient)
            np.testing.assert_allclose(after, before - step, rtol=1e-9)
        # The undamped step squares the error, so differences of the whole solve agree with it.
        rough = FinalNewtonStep(LBFGS(tolerance=1e-9), damping=UNDAMPED)
        loss = lambda t: jnp.sum(
            argmin(energy, y0, t, data, solver=rough, damping=UNDAMPED).value ** 2
        )
        assert_grad_matches(loss, theta, jax.random.key(0))


def test_final_newton_step_that_leaves_the_domain_is_dropped():
    energy = lambda y, t: jnp.sum(-jnp.log(y) + t * y)
    solver = FinalNewtonStep(GradientDescent(max_steps=1, step_size=1e-3), damping=UNDAMPED)
    solution = argmin(energy, jnp.array([5.0]), 1.0, solver=solver)
    assert np.isfinite(solution.energy)
    assert solution.value[0] > 0


def test_final_newton_step_from_where_the_energy_is_concave():
    # Beside the top of a bump of curvature -2: g / lambda is a leap over the next minimum.
    energy = lambda y, t: jnp.sum(-jnp.cos(2 * y) + 0.05 * (y - t) ** 2)
    rough = GradientDescent(max_steps=1, step_size=1e-4)
    y0 = jnp.array([1.2])
    start = argmin(energy, y0, 0.0, solver=rough)
    step = lambda mode: argmin(
        energy, y0, 0.0, solver=FinalNewtonStep(rough, Damping(0.01, mode=mode))
    )
    shifted, plain = step("shift"), step("plain")
    assert shifted.energy <= start.energy
    assert plain.energy > start.energy  # the paper's rule: towards the saddle
    np.testing.assert_allclose(shifted.value, start.value)


@dataclasses.dataclass(frozen=True)
class Exact:
    """Knows the answer: the minimiser is theta away from the start."""

    max_steps: int = 5

    def init(self, problem, y):
        return y, jnp.int32(Status.RUNNING)

    def step(self, problem, state):
        return state[0] + problem.theta, jnp.int32(Status.CONVERGED) + 0 * state[1]

    def y(self, state):
        return state[0]

    def status(self, problem, state):
        return state[1]


def test_a_solver_of_ones_own():
    energy = lambda y, t: jnp.sum((y - t) ** 2)
    loss = lambda t: argmin(energy, 0.0, t, solver=Exact(), damping=UNDAMPED).value
    assert jax.value_and_grad(loss)(3.0) == (3.0, 1.0)
    solution = argmin(energy, 0.0, 3.0, solver=Exact(), history=3)
    assert solution.converged
    assert solution.steps == 1
    np.testing.assert_array_equal(solution.history[0], [0, np.inf, np.inf])
    # Under vmap each problem has its own end, and a claim that is wrong does not stand.
    starts = jnp.array([0.0, 1.0, jnp.nan])
    batch = jax.vmap(lambda y0: argmin(energy, y0, 3.0, solver=Exact()))(starts)
    np.testing.assert_array_equal(batch.value, [3, 4, np.nan])
    assert batch.status.tolist() == [Status.CONVERGED, Status.STALLED, Status.NONFINITE]
    # At a saddle, neither.
    saddle = lambda y, t: jnp.sum(jnp.array([1.0, -1.0]) * (y - t) ** 2)
    assert argmin(saddle, jnp.zeros(2), 3.0, solver=Exact()).status == Status.STALLED
    for refused in (lambda problem, y: y, Newton, None):
        with pytest.raises(ValueError, match="`solver`: expected a solver with init, step"):
            argmin(energy, 0.0, 3.0, solver=refused)


def test_a_function_as_a_solver():
    energy = lambda y, t: jnp.sum((y - t) ** 2) + jnp.sum(y**4)
    exact = argmin(energy, jnp.zeros(2), 3.0).value

    def minimise(energy, y):
        for _ in range(12):
            y = y - jnp.linalg.solve(jax.hessian(energy)(y), jax.grad(energy)(y))
        return y

    gradient = lambda solver: jax.grad(
        lambda t: argmin(energy, jnp.zeros(2), t, solver=solver).value[0]
    )(3.0)
    solution = argmin(energy, jnp.zeros(2), 3.0, solver=Function(minimise))
    assert solution.converged
    np.testing.assert_allclose(solution.value, exact, rtol=1e-6)
    np.testing.assert_allclose(gradient(Function(minimise)), gradient(Newton()), rtol=1e-5)
    away = argmin(energy, jnp.zeros(2), 3.0, solver=Function(lambda energy, y: y + 2))
    assert away.status == Status.STALLED


def test_steps_are_the_system_of_the_gradient():
    # What `FinalNewtonStep` solves is `damped_system`, which also shifts negative curvature.
    a = jnp.diag(jnp.array([-2.0, 1.0]))
    system = damped_system(lambda p: a @ p, jnp.ones(2), Damping(0.5), DenseStructure(2))
    np.testing.assert_allclose(system.solve(jnp.ones(2)), [2.0, 1 / 3.5], rtol=1e-6)
