"""Least squares: minimisers, exact gradients with structure and kernels, and what can go wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv import Damping, argmin, argmin_least_squares, argmin_vjp
from jaxcv.least_squares.kernels import GemanMcClure, Huber, PseudoHuber, Welsch
from jaxcv.linear.structure import Arrow, BlockDiagonal
from jaxcv.solvers import GaussNewton, LevenbergMarquardt
from tests.helpers import UNDAMPED, assert_close, assert_grad_matches, outer_loss, relative_error

N = 12
ARROW = Arrow(local="z", shared="p")


def residual(y, theta, x):
    """Two observations of every local unknown z_i (N,), which meet in p (3,), and priors on z."""
    z, p = y["z"], y["p"]
    bent = jnp.exp(0.3 * z)[:, None] * (
        x @ jnp.array([[1.0, 0.2], [0.3, 1.0], [0.1, 0.2]], x.dtype)
    )
    seen = bent + jnp.sin(p[:2]) * theta["gain"] + p[2] * z[:, None]
    return {"match": seen - theta["targets"], "prior": 0.3 * (z - theta["prior"])}


def arrow_problem(seed=0, outliers=0.1):
    """y0, theta, data and the truth; float64."""
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=(N, 3)))
    truth = {"z": jnp.asarray(0.5 * rng.normal(size=N)), "p": jnp.array([0.5, -0.3, 0.8])}
    theta = {"gain": jnp.asarray(1.2), "targets": jnp.zeros((N, 2)), "prior": truth["z"]}
    noise = 0.2 * rng.normal(size=(N, 2))
    noise += 3 * rng.normal(size=(N, 2)) * (rng.random((N, 1)) < outliers)
    theta["targets"] = residual(truth, theta, x)["match"] + noise
    y0 = jax.tree.map(jnp.zeros_like, truth)
    return y0, theta, (x,), truth


@pytest.mark.parametrize(
    ("kernel", "structure"),
    [
        (None, ARROW),
        pytest.param(Huber(0.7), "dense", marks=pytest.mark.slow),
        pytest.param(PseudoHuber(0.5), "dense", marks=pytest.mark.slow),
        pytest.param({"match": Welsch(2.0, block_ndim=1)}, ARROW, marks=pytest.mark.slow),
        pytest.param(GemanMcClure(6.0), ARROW, marks=pytest.mark.slow),
    ],
    ids=["squares", "huber", "pseudo-huber", "welsch", "geman-mcclure"],
)
def test_gradients_are_exact(kernel, structure):
    """Against differences, with residuals that stay: not those of Gauss-Newton."""
    with jax.enable_x64(True):
        y0, theta, data, _ = arrow_problem()
        solve = lambda theta: argmin_least_squares(
            residual, y0, theta, data, kernel=kernel, structure=structure, damping=UNDAMPED,
            diagnostics=True,
        )  # fmt: skip
        solution = jax.jit(solve)(theta)
        assert solution.converged
        assert solution.diagnostics.certified
        assert solution.diagnostics.structure_error < 1e-12
        loss = lambda theta: outer_loss(solve(theta).value)
        assert_grad_matches(loss, theta, jax.random.key(1))


@pytest.mark.slow
def test_gauss_newton_adjoint_would_be_wrong_and_ours_is_not():
    with jax.enable_x64(True):
        y0, theta, data, _ = arrow_problem(seed=3, outliers=0.3)
        kernel = Huber(0.5)
        solve = lambda theta: argmin_least_squares(
            residual, y0, theta, data, kernel=kernel, damping=UNDAMPED
        )
        value = jax.jit(lambda theta: solve(theta).value)(theta)
        gradient = jax.jit(jax.grad(lambda theta: outer_loss(solve(theta).value)))(theta)
        # The same pullback with J^T W J, formed here by hand, in the exact Hessian's place.
        flat, unravel = jax.flatten_util.ravel_pytree(value)
        terms = lambda flat, theta: residual(unravel(flat), theta, *data)
        ravel = lambda tree: jax.flatten_util.ravel_pytree(tree)[0]
        jacobian = jax.jacfwd(lambda flat: ravel(terms(flat, theta)))(flat)
        weights = ravel(jax.tree.map(lambda r: kernel.weight(r**2), terms(flat, theta)))
        gram = jacobian.T @ (weights[:, None] * jacobian)
        energy = lambda flat, theta: (
            0.5 * sum(jnp.sum(kernel.rho(r**2)) for r in jax.tree.leaves(terms(flat, theta)))
        )
        bar = jax.grad(lambda flat: outer_loss(unravel(flat)))(flat)
        slope = lambda theta: jax.grad(energy)(flat, theta)
        pull = lambda matrix: jax.vjp(slope, theta)[1](-jnp.linalg.solve(matrix, bar))[0]
        hessian = jax.hessian(energy)(flat, theta)
        assert_close(gradient, pull(hessian), 1e-9)
        assert relative_error(pull(gram), gradient) > 0.1


@pytest.mark.slow
def test_scale_of_a_kernel_is_learned():
    with jax.enable_x64(True):
        y0, theta, data, _ = arrow_problem()

        def loss(scale):
            kernel = {"match": Huber(scale)}
            solution = argmin_least_squares(
                residual, y0, theta, data, kernel=kernel, damping=UNDAMPED
            )
            return outer_loss(solution.value)

        assert_grad_matches(loss, jnp.asarray(0.7), jax.random.key(0), steps=(1e-3, 1e-4, 1e-5))


@pytest.mark.parametrize(
    "solver", [LevenbergMarquardt(), pytest.param(GaussNewton(), marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    ("dtype", "rtol"), [pytest.param("float32", 2e-6, marks=pytest.mark.slow), ("float64", 1e-12)]
)
def test_linear_problem_is_the_pseudo_inverse(solver, dtype, rtol):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(20, 5)), rng.normal(size=20)
    with jax.enable_x64(dtype == "float64"):
        one = lambda x: jnp.asarray(x, dtype)
        solve = lambda theta: argmin_least_squares(
            lambda y, theta, a: a @ y - theta,
            one(10 * np.ones(5)),
            theta,
            (one(a),),
            solver=solver,
            damping=UNDAMPED,
        )
        assert solve(one(b)).converged
        assert_close(solve(one(b)).value, np.linalg.lstsq(a, b, rcond=None)[0], rtol)
        jacobian = jax.jacrev(lambda theta: solve(theta).value)(one(b))
        assert_close(jacobian, np.linalg.pinv(a), 10 * rtol)


@pytest.mark.slow
def test_forward_damping_does_not_reach_the_gradient():
    """One that starts at the minimum, with mu untouched, and one that has lived through many."""
    with jax.enable_x64(True):
        y0, theta, data, _ = arrow_problem()
        solve = lambda y0, solver: argmin_least_squares(
            residual, y0, theta, data, solver=solver, kernel=Huber(0.7)
        )
        found = solve(y0, LevenbergMarquardt())

        def pull(y0, solver):
            run = lambda theta: outer_loss(
                argmin_least_squares(
                    residual, y0, theta, data, solver=solver, kernel=Huber(0.7)
                ).value
            )
            return jax.grad(run)(theta)

        first = pull(y0, LevenbergMarquardt())
        assert_close(pull(found.value, LevenbergMarquardt()), first, 1e-9)
        assert_close(pull(y0, GaussNewton()), first, 1e-9)


@pytest.mark.slow
def test_parity_of_vmap_and_loop():
    with jax.enable_x64(True):
        problems = [arrow_problem(seed) for seed in range(3)]
        y0 = problems[0][0]
        thetas, xs = jax.tree.map(
            lambda *leaves: jnp.stack(leaves), *[(p[1], p[2][0]) for p in problems]
        )
        run = lambda theta, x: argmin_least_squares(
            residual, y0, theta, (x,), kernel=Huber(0.7), structure=ARROW, damping=UNDAMPED
        )
        grad = lambda theta, x: jax.grad(lambda t: outer_loss(run(t, x).value))(theta)
        batch = jax.jit(jax.vmap(lambda theta, x: (run(theta, x).value, grad(theta, x))))(
            thetas, xs
        )
        at = lambda tree, i: jax.tree.map(lambda leaf: leaf[i], tree)
        for i in range(3):
            theta, x = at((thetas, xs), i)
            assert_close(at(batch, i), (run(theta, x).value, grad(theta, x)), 1e-8)


@pytest.mark.slow
def test_structures_agree_with_dense_for_any_damping():
    """Blocks of two, in a tree of three entries whose order is not that of the arrow."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(2)
        x = jnp.asarray(rng.normal(size=(5, 2)))
        theta = jnp.asarray(rng.normal(size=(5, 2)))

        def terms(y, theta, x):
            points = y["b"] * (1 + y["a"][0]) + jnp.tanh(y["b"][:, ::-1]) - y["c"]["s"] * x - theta
            return [points, 0.4 * y["b"], 0.3 * y["a"], 0.5 * (y["c"]["s"] - 1)]

        y0 = {"a": jnp.zeros(1), "b": jnp.zeros((5, 2)), "c": {"s": jnp.ones(())}}
        arrow = Arrow(local="b", shared=("a", "c"), block_size=2)

        def gradient(structure, damping):
            run = lambda theta: argmin_least_squares(
                terms, y0, theta, (x,), kernel=Welsch(2.0), structure=structure, damping=damping
            )
            assert run(theta).converged
            return jax.grad(lambda theta: outer_loss(run(theta).value))(theta)

        for damping in (
            Damping(0.0),
            Damping(0.3, order=3),
            Damping(0.3, mode="plain"),
            Damping(0.1, relative=True),
        ):
            assert_close(gradient(arrow, damping), gradient("dense", damping), 1e-8)


@pytest.mark.slow
def test_second_derivatives_and_forward_mode():
    with jax.enable_x64(True):
        y0, theta, data, _ = arrow_problem()
        first = lambda gain, autodiff: outer_loss(
            argmin_least_squares(
                residual,
                y0,
                {**theta, "gain": gain},
                data,
                kernel=PseudoHuber(0.7),
                structure=ARROW,
                damping=UNDAMPED,
                autodiff=autodiff,
            ).value
        )
        slope = jax.grad(first)
        assert_grad_matches(
            lambda gain: slope(gain, "reverse"), jnp.asarray(1.2), jax.random.key(0)
        )
        forward = jax.jacfwd(lambda gain: first(gain, "both"))(1.2)
        np.testing.assert_allclose(forward, slope(1.2, "reverse"), rtol=1e-9)


@pytest.mark.slow
def test_zero_residuals():
    """A perfect fit: the Hessian is J^T J and the gradient that of the inverse function."""
    with jax.enable_x64(True):
        cube = lambda y, theta: y**3 + y - theta
        solve = lambda theta: argmin_least_squares(cube, jnp.ones(2), theta, damping=UNDAMPED)
        theta = jnp.array([2.0, 10.0])
        solution = solve(theta)
        assert solution.converged
        np.testing.assert_allclose(solution.value, [1, 2], rtol=1e-12)
        slopes = jnp.diagonal(jax.jacrev(lambda theta: solve(theta).value)(theta))
        np.testing.assert_allclose(slopes, 1 / (3 * solution.value**2 + 1), rtol=1e-9)
        # Started there, with nothing to do.
        still = argmin_least_squares(cube, solution.value, theta, damping=UNDAMPED)
        assert still.converged
        # A residual that never changes is no problem at all: reported, finite.
        flat = argmin_least_squares(lambda y, theta: theta + 0 * y, jnp.ones(2), theta)
        assert not flat.converged
        assert np.all(np.isfinite(flat.value))


@pytest.mark.slow
def test_more_parameters_than_residuals():
    """Not isolated: never certified; the damped gradient stays within its bound."""
    with jax.enable_x64(True):
        line = lambda y, theta: jnp.sum(y**2) - theta
        y0 = jnp.array([1.0, 0.5, 0.2])
        solve = lambda theta: argmin_least_squares(line, y0, theta, diagnostics=True)
        solution = solve(2.0)
        np.testing.assert_allclose(jnp.sum(solution.value**2), 2, rtol=1e-9)
        assert not solution.diagnostics.certified
        gradient = jax.grad(lambda theta: jnp.sum(solve(theta).value))(2.0)
        assert np.isfinite(gradient)
        assert abs(gradient) <= 2 * np.linalg.norm(2 * solution.value) * 3**0.5 / 0.1


@pytest.mark.slow
def test_a_lane_that_fails_leaves_the_others_alone():
    y0, theta, data, _ = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), arrow_problem())
    bad = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), theta)
    bad["targets"] = bad["targets"].at[1, 0, 0].set(jnp.nan)

    def loss(gain, theta):
        solution = argmin_least_squares(
            residual, y0, {**theta, "gain": gain}, data, kernel=Huber(0.7), structure=ARROW
        )
        return outer_loss(solution.value), solution

    def total(gain):
        losses, solution = jax.vmap(loss, in_axes=(None, 0))(gain, bad)
        return losses[0], solution.converged

    gradient, converged = jax.jit(jax.grad(total, has_aux=True))(1.2)
    alone = jax.jit(jax.grad(lambda gain: loss(gain, theta)[0]))(1.2)
    assert converged.tolist() == [True, False]
    np.testing.assert_allclose(gradient, alone, rtol=1e-4)


@pytest.mark.slow
def test_a_structure_that_does_not_match_is_reported():
    with jax.enable_x64(True):
        chain = lambda y, theta: jnp.concatenate([y - theta, y[1:] * y[:-1]])
        y0, theta = jnp.ones(6), jnp.linspace(1.0, 2.0, 6)
        wrong = argmin_least_squares(chain, y0, theta, structure=BlockDiagonal(), diagnostics=True)
        assert wrong.diagnostics.structure_error > 0.01
        assert not wrong.diagnostics.certified
        right = argmin_least_squares(chain, y0, theta, diagnostics=True)
        assert right.diagnostics.structure_error == 0
        # The gradient is right all the same: the true Hessian corrects what the blocks solve.
        pull = lambda linear: argmin_vjp(
            lambda y, theta: 0.5 * jnp.sum(chain(y, theta) ** 2),
            right.value,
            theta,
            jnp.ones(6),
            linear=linear,
        )
        (wrong_bar, report), (bar, _) = pull(BlockDiagonal()), pull("cholesky")
        assert_close(wrong_bar, bar, 1e-9)
        assert report.structure_error > 0.01
        assert report.adjoint_residual < 1e-9


@pytest.mark.slow
def test_arrow_energies_are_minimised_by_newton():
    """`argmin` with a structure: an energy that is not a sum of squares, with concave parts."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        centres = jnp.asarray(rng.normal(size=40))

        def energy(y, theta):
            bumps = -jnp.exp(-((y["z"] - theta - y["p"][0]) ** 2))
            return jnp.sum(bumps + 0.01 * y["z"] ** 2) + jnp.sum(jnp.cosh(y["p"] - 0.3))

        y0 = {"z": jnp.zeros(40), "p": jnp.zeros(2)}
        solve = lambda theta, y0: argmin(
            energy,
            y0,
            theta,
            linear=Arrow(local="z", shared="p"),
            damping=UNDAMPED,
            diagnostics=True,
        )
        solution = jax.jit(solve)(centres, y0)
        assert solution.converged
        assert solution.diagnostics.certified
        hessian = jax.hessian(lambda flat: energy({"z": flat[2:], "p": flat[:2]}, centres))(
            jnp.concatenate([solution.value["p"], solution.value["z"]])
        )
        smallest = np.linalg.eigvalsh(hessian)[0]
        assert 0.99 * smallest < solution.diagnostics.min_eigenvalue <= smallest * (1 + 1e-9)
        loss = lambda theta: outer_loss(solve(theta, solution.value).value)
        assert_grad_matches(loss, centres, jax.random.key(2))


def test_arguments_are_checked():
    y0, theta = {"z": jnp.zeros(4), "p": jnp.zeros(1)}, jnp.zeros(4)
    fit = lambda y, theta: y["z"] + y["p"] - theta
    run = lambda **settings: argmin_least_squares(fit, y0, theta, **settings)
    with pytest.raises(ValueError, match="`Arrow`: local and shared must name every entry"):
        run(structure=Arrow(local="z", shared="q"))
    with pytest.raises(ValueError, match="whole blocks of 3"):
        run(structure=Arrow(local="z", shared="p", block_size=3))
    with pytest.raises(ValueError, match="`structure`: expected one of 'dense'"):
        run(structure="sparse")
    with pytest.raises(ValueError, match="`solver`: expected a solver with init, step"):
        run(solver=None)
    with pytest.raises(ValueError, match="`kernel`: its names must be entries"):
        run(kernel={"match": Huber(1.0)})
    with pytest.raises(ValueError, match="`kernel`: expected a kernel"):
        run(kernel=abs)
    with pytest.raises(ValueError, match="`scale`: expected finite numbers > 0"):
        Huber(0.0)
    with pytest.raises(ValueError, match="`block_ndim`: every residual array"):
        run(kernel=Huber(1.0, block_ndim=2))
    with pytest.raises(ValueError, match="`residual"):
        argmin_least_squares(lambda y, theta: jnp.arange(3), y0, theta)
    with pytest.raises(ValueError, match="needs all eigenvalues"):
        run(structure=Arrow("z", "p"), damping=Damping(0.1, mode="tikhonov"))
    with pytest.raises(ValueError, match="`block_size`: expected an integer >= 1"):
        BlockDiagonal(0)
    with pytest.raises(ValueError, match="one array"):
        argmin_least_squares(lambda y, t: y, jnp.zeros(3), theta, structure=Arrow(0, 1))
