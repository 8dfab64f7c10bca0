"""Rules that hold for every entry point, structure, dtype and setting, tried on small problems.

The energy is 1/2 (y - t)^2 + 1/4 y^4, whose minimum at t = 2 is 1 with curvature 4, so that every
gradient has a closed form: dy*/dt = 1/4 per unknown, and f(4) with a damped inverse f.
"""

import functools
import gc

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import checkify
from scipy import optimize

import jaxcv
from jaxcv import Damping, argmin, argmin_jvp, argmin_least_squares, argmin_vjp, attach
from jaxcv.least_squares import Huber, Welsch
from jaxcv.linear import Arrow, BlockDiagonal, ConjugateGradient
from jaxcv.solvers import LBFGS, GradientDescent, LevenbergMarquardt, MultiStart, Newton
from tests.helpers import mostly_slow

UNDAMPED = Damping(0.0)
FLOAT32 = jnp.float32
LINEAR = ["auto", BlockDiagonal(1)] + [
    pytest.param(linear, marks=pytest.mark.slow)
    for linear in ("cholesky", "cg", ConjugateGradient(), ConjugateGradient(1))
]


def energy(y, t, *data):
    return sum(jnp.sum(0.5 * (leaf - t) ** 2 + 0.25 * leaf**4) for leaf in jax.tree.leaves(y))


def residual(y, t, *data):
    leaves = jax.tree.leaves(y)
    return [leaf - t for leaf in leaves] + [leaf**2 * 0.5**0.5 for leaf in leaves]


def total(y):
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(y))


@pytest.mark.parametrize("linear", LINEAR, ids=str)
def test_one_unknown_has_the_closed_form_in_every_structure(linear):
    with jax.enable_x64(True):
        minimum = {"a": jnp.ones(1)}
        damping = Damping(0.3, order=2)
        want = (1 - (0.3 / 4.3) ** 2) / 4
        attached = lambda t: total(attach(energy, minimum, t, linear=linear, damping=damping))
        pulled, _ = argmin_vjp(energy, minimum, 2.0, minimum, linear=linear, damping=damping)
        pushed, _ = argmin_jvp(energy, minimum, 2.0, 1.0, linear=linear, damping=damping)
        found = [jax.grad(attached)(2.0), pulled, total(pushed)]
        np.testing.assert_allclose(found, want, rtol=1e-9)
        report = jaxcv.diagnose(energy, minimum, 2.0, linear=linear)
        np.testing.assert_allclose(report.min_eigenvalue, 4, rtol=2e-3)


@pytest.mark.slow
def test_one_local_and_one_shared_unknown_have_the_dense_gradient():
    coupled = lambda y, t: energy(y["d"], t) + 0.5 * jnp.sum((y["p"] - y["d"]) ** 2 + y["p"] ** 2)
    squares = lambda y, t: [*residual(y["d"], t), y["p"] - y["d"], y["p"]]
    start = {"d": jnp.array(0.5), "p": jnp.array([0.2])}
    loss = lambda y: jnp.sum(y["d"]) + 10 * jnp.sum(y["p"])
    arrow = Arrow(local="d", shared="p")
    of_energy = lambda t, linear: loss(argmin(coupled, start, t, linear=linear).value)
    of_squares = lambda t: loss(argmin_least_squares(squares, start, t, structure=arrow).value)
    want = jax.grad(lambda t: of_energy(t, "cholesky"))(2.0)
    np.testing.assert_allclose(jax.grad(lambda t: of_energy(t, arrow))(2.0), want, rtol=1e-4)
    np.testing.assert_allclose(jax.grad(of_squares)(2.0), want, rtol=1e-4)


def by_loop(x):
    """x, by a loop that has no reverse mode."""
    return jax.lax.while_loop(lambda c: c[1] < 3, lambda c: (c[0] + 0, c[1] + 1), (x, 0))[0]


def by_nan(x):
    """x, with a derivative that is NaN."""
    return x + 0 * jnp.sqrt(0 * x)


_NOT_DIFFERENTIATED = {
    "y_star": lambda made, t, **k: attach(energy, made(t * 0 + 1), t, **k),
    "data": lambda made, t, **k: (
        argmin(lambda y, t, d: energy(y, t) + 0 * d, 0.5, t, (made(t),), **k).value
    ),
    "y0": lambda made, t, **k: argmin(energy, made(t), t, **k).value,
    "least_squares_y0": lambda made, t, **k: argmin_least_squares(residual, made(t), t, **k).value,
    "damping": lambda made, t, **k: attach(energy, 1.0, t, **k | {"damping": Damping(made(0 * t))}),
    "seeds": lambda made, t, **k: (
        argmin(energy, 0.5, t, solver=MultiStart(Newton(), made(t * jnp.ones(2))), **k).value
    ),
}


@pytest.mark.parametrize("made", [pytest.param(by_loop, marks=pytest.mark.slow), by_nan])
@pytest.mark.parametrize("call", _NOT_DIFFERENTIATED.values(), ids=_NOT_DIFFERENTIATED.keys())
def test_what_is_not_differentiated_may_have_no_derivative(call, made):
    reverse = lambda t: call(made, t, damping=UNDAMPED)
    both = lambda t: call(made, t, damping=UNDAMPED, autodiff="both")
    points = jnp.array([2.0, 2.0])
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.grad(reverse)))(points), 0.25, rtol=1e-4)
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.jacfwd(both)))(points), 0.25, rtol=1e-4)


_ONES, _Y, _T = np.ones(2), np.full(2, 0.5, np.float32), np.float32(2)  # float64, float32, float32
QUICK = ("theta", "data", "kernel", "bounds")
_FLOAT64 = {
    "theta": lambda: argmin(energy, _Y, 2 * _ONES),
    "theta_cg": lambda: argmin(energy, _Y, 2 * _ONES, linear="cg"),
    "theta_many": lambda: argmin(energy, np.zeros(20, np.float32), np.float64(2)),
    "data": lambda: argmin(lambda y, t, d: energy(y, t * d), _Y, _T, (_ONES,)),
    "closure": lambda: argmin(lambda y, t: energy(y, t * _ONES), _Y, _T),
    "damping": lambda: argmin(energy, _Y, _T, damping=Damping(np.float64(0.3))),
    "bounds": lambda: argmin(energy, _Y, _T, bounds=(-9 * _ONES, np.float64(1))),
    "seeds": lambda: argmin(energy, _Y, _T, solver=MultiStart(Newton(), np.ones((2, 2)), keep=2)),
    "kernel": lambda: argmin_least_squares(residual, _Y, _T, kernel=Huber(9 * _ONES)),
    "structure": lambda: argmin_least_squares(
        residual, _Y, 2 * _ONES, structure=BlockDiagonal(1), solver=jaxcv.solvers.GaussNewton()
    ),
}


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(call, id=name, marks=[pytest.mark.slow] * (name not in QUICK))
        for name, call in _FLOAT64.items()
    ],
)
def test_float32_unknowns_keep_their_dtype_beside_float64(call):
    with jax.enable_x64(True):
        value = call().value
    assert value.dtype == FLOAT32
    np.testing.assert_allclose(value, 1, atol=1e-3)


class _Slots:
    __slots__ = ()

    def __call__(self, y, t):
        return energy(y, t)

    def method(self, y, t):
        return energy(y, t)


_FORMS = {
    "partial": functools.partial(lambda factor, y, t: factor * energy(y, t), 1.0),
    "slots": _Slots(),
    "method_of_slots": _Slots().method,
    "jitted": jax.jit(energy),
    "tree_partial": jax.tree_util.Partial(lambda one, y, t: one * energy(y, t), jnp.ones(())),
}


@pytest.mark.parametrize("form", _FORMS.values(), ids=_FORMS.keys())
def test_an_energy_may_be_any_callable(form):
    slope = jax.grad(lambda t: attach(form, 1.0, t, damping=UNDAMPED))
    np.testing.assert_allclose([slope(2.0), slope(2.0)], 0.25, rtol=1e-5)
    assert argmin(form, 0.5, 2.0).converged


def test_a_residual_may_be_without_weak_references():
    assert argmin_least_squares(_Slots(), 0.5, 2.0).value.shape == ()


def test_nothing_is_kept_of_many_energies():
    call = lambda i: attach(lambda y, t: energy(y, t) + 0 * i, 1.0, 2.0)
    call(0)
    gc.collect()
    before = len(jax.live_arrays())
    for i in range(20):
        call(i)
    gc.collect()
    assert len(jax.live_arrays()) <= before + 2


def _halfway(state, t):
    return 0.5 * (state + t)


_CALLS = {
    "newton": lambda y, t: argmin(energy, y, t).value,
    "cg": lambda y, t: argmin(energy, y, t, linear="cg").value,
    "lbfgs": lambda y, t: argmin(energy, y, t, solver=LBFGS()).value,
    "least_squares": lambda y, t: argmin_least_squares(residual, y, t).value,
    "attach": lambda y, t: attach(energy, y, t),
    "unrolled": lambda y, t: jaxcv.unrolled_solve(_halfway, y, t, num_steps=2)[-1],
}


def _cases(slow):
    cases = []
    for name, call in _CALLS.items():
        marks = [pytest.mark.slow] * (name in slow)
        cases.append(pytest.param(call, id=name, marks=marks))
    return cases


@pytest.mark.parametrize("call", _cases(slow=("newton", "cg", "lbfgs", "least_squares")))
def test_checkify_finds_no_float_error(call):
    y, t = jnp.full(2, 0.5), jnp.full(2, 2.0)
    slope = jax.grad(lambda t: jnp.sum(call(y, t)))
    error, _ = checkify.checkify(slope, errors=checkify.float_checks)(t)
    assert error.get() is None


def test_a_call_on_device_arrays_transfers_nothing():
    y, t = jnp.full(2, 0.5), jnp.full(2, 2.0)
    with jax.transfer_guard("disallow"):
        jax.vjp(lambda t: argmin(energy, y, t).value, t)[1](y)  # jax.grad itself moves a number


@pytest.mark.parametrize("call", _cases(slow=("cg", "lbfgs", "least_squares")))
def test_shard_map_may_check_what_varies(call):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("batch",))
    spec = jax.sharding.PartitionSpec("batch")
    slope = jax.grad(lambda t: jnp.sum(call(jnp.full(2, 0.5), t[0])))
    sharded = jax.shard_map(slope, mesh=mesh, in_specs=spec, out_specs=spec)
    assert jnp.all(jnp.isfinite(jax.jit(sharded)(jnp.full((1, 2), 2.0))))


def test_damping_and_kernels_pass_through_trees():
    for value in (Damping(0.3, 2, "plain", True), Huber(2.0, 1), Welsch(jnp.ones(2))):
        leaves, treedef = jax.tree.flatten(value)
        assert jax.tree.structure(treedef.unflatten([None] * len(leaves))) is not None
        assert jax.tree.map(lambda _: None, value) is not None
        assert type(jax.device_get(jax.device_put(value))) is type(value)
        assert type(jax.eval_shape(lambda v: v, value)) is type(value)
        optax.adam(0.1).init(jax.tree.map(jnp.asarray, value))
    slopes = jax.vmap(
        lambda damping: jax.grad(lambda t: attach(energy, 1.0, t, damping=damping))(2.0)
    )(Damping(jnp.array([0.0, 0.5])))
    np.testing.assert_allclose(slopes, [0.25, 1 / 4.5], rtol=1e-5)


def _rosenbrock(y, t):
    return (1 - y[0]) ** 2 + 100 * (y[1] - y[0] ** 2) ** 2


def _rosenbrock_residual(y, t):
    return jnp.stack([1 - y[0], 10 * (y[1] - y[0] ** 2)])


_FAR = [[-1.2, 1.0], [1e2, 1e2], [1e3, -1e3]]  # beyond, round-off of y hides every gain


@pytest.mark.parametrize(
    "solver",
    [Newton(), LBFGS(), LevenbergMarquardt()],
    ids=["newton", "lbfgs", "levenberg_marquardt"],
)
@pytest.mark.slow
def test_a_valley_is_never_called_converged_in_float32(solver):
    def solve(y):
        if isinstance(solver, LevenbergMarquardt):
            return argmin_least_squares(_rosenbrock_residual, y, 0.0)
        return argmin(_rosenbrock, y, 0.0, solver=solver)

    found = jax.vmap(solve)(jnp.array(_FAR, FLOAT32))
    near = jnp.all(jnp.abs(found.value - 1) < 1e-2, axis=1)
    assert jnp.all(~found.converged | near), (found.value, found.status)


@pytest.mark.parametrize(
    "solver",
    [Newton(tolerance=0.0), LBFGS(), GradientDescent()],
    ids=["newton", "lbfgs", "gradient_descent"],
)
def test_a_far_start_does_not_loosen_convergence(solver):
    starts = jnp.array([1e2, -1e4, 1e6, -1e7], FLOAT32)
    found = jax.vmap(lambda y: argmin(energy, y, 2.0, solver=solver))(starts)
    assert jnp.all(~found.converged | (jnp.abs(found.value - 1) < 1e-2)), found.value


_NO_MINIMUM = {
    "exp": lambda y, t: jnp.exp(-y),
    "inverse": lambda y, t: 1 / y,
    "log": lambda y, t: -jnp.log(y),
    "parabola": lambda y, t: -(y**2),
    "step": lambda y, t: 0.5 * (y - 1) ** 2 + jnp.where(y > 0.3, 5.0, 0.0),
    "nan": lambda y, t: jnp.sqrt(-y),
}


@pytest.mark.parametrize("name", mostly_slow(_NO_MINIMUM, ("inverse", "parabola", "nan")))
@pytest.mark.parametrize("solver", [Newton(), LBFGS()], ids=["newton", "lbfgs"])
def test_no_minimum_is_never_called_converged(name, solver):
    found = argmin(_NO_MINIMUM[name], jnp.float32(0.2), 0.0, solver=solver)
    assert not found.converged, (found.value, found.status)


@pytest.mark.slow
def test_active_bounds_agree_with_scipy():
    with jax.enable_x64(True):
        generator = np.random.default_rng(0)
        matrix, right = generator.normal(size=(8, 4)), 3 * generator.normal(size=8)
        function = lambda y, t: jnp.tanh(matrix @ y) * 2 + 0.3 * (matrix @ y) - t * right
        low, high = np.array([-0.3, -np.inf, 0.2, -5.0]), np.array([0.4, 0.5, np.inf, 5.0])
        start = np.array([0.0, 0.0, 0.5, 0.0])
        want = optimize.least_squares(
            lambda y: np.asarray(function(y, 1.0)), start, bounds=(low, high), xtol=1e-14,
            ftol=1e-14, gtol=1e-14,
        ).x  # fmt: skip
        squares = lambda y, t: 0.5 * jnp.sum(function(y, t) ** 2)
        solve = lambda t: argmin(squares, start, t, bounds=(low, high), damping=UNDAMPED)
        found = solve(1.0)
        assert found.converged
        assert found.active == 2
        np.testing.assert_allclose(found.value, want, atol=1e-6)
        both = argmin_least_squares(function, start, 1.0, bounds=(low, high))
        np.testing.assert_allclose(both.value, want, atol=1e-6)
        slope = jax.jacrev(lambda t: solve(t).value)(1.0)
        central = (solve(1 + 1e-5).value - solve(1 - 1e-5).value) / 2e-5
        np.testing.assert_allclose(slope, central, atol=1e-6)


def test_least_squares_converges_at_an_active_bound():
    function = lambda y, t: jnp.stack(
        [y[0] + y[1] ** 2 - 4, y[1] - y[0] * 0.5, jnp.exp(0.3 * y[1])]
    )
    with jax.enable_x64(True):
        assert argmin_least_squares(function, jnp.zeros(2), 0.0, bounds=(None, 1.0)).converged


def test_a_solver_without_a_hessian_converges_at_a_bound():
    found = argmin(energy, jnp.array([0.5]), 2.0, solver=GradientDescent(), bounds=(None, 0.6))
    np.testing.assert_allclose(found.value, 0.6, atol=1e-6)
    assert found.converged


def test_a_final_newton_step_stays_within_bounds():
    solver = jaxcv.solvers.FinalNewtonStep(Newton())
    found = argmin(energy, jnp.array([0.5]), 2.0, solver=solver, bounds=(None, 0.5))
    np.testing.assert_allclose(found.value, 0.5)


_BOUNDS = {
    "upper": ((None, 0.5), 0.5, 1),
    "lower": ((1.5, np.inf), 1.5, 1),
    "equal": ((0.3, 0.3), 0.3, 1),
    "start_outside": ((-3.0, -2.0), -2.0, 1),
}


@pytest.mark.parametrize(("bounds", "want", "active"), _BOUNDS.values(), ids=_BOUNDS.keys())
def test_one_unknown_within_bounds(bounds, want, active):
    found = argmin(energy, jnp.array([0.5]), 2.0, bounds=bounds)
    np.testing.assert_allclose(found.value, want, atol=1e-5)
    assert found.converged
    assert found.active == active


def test_bounds_that_exclude_each_other_are_never_converged():
    solve = lambda lower: argmin(energy, jnp.array([0.5]), 2.0, bounds=(lower, 0.0))
    assert not jax.jit(solve)(1.0).converged
