"""The implicit gradient: against differences of a re-solve, proximal steps and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv import Damping, argmin, argmin_vjp, attach
from tests.helpers import (
    UNDAMPED,
    assert_close,
    assert_grad_matches,
    flat,
    outer_loss,
    problem,
    rbf_energy,
)


def solve(name, damping=UNDAMPED, linear="auto"):
    """The problem's loss as a function of theta, and theta."""
    energy, y0, theta, data = problem(name)

    def loss(theta):
        return outer_loss(argmin(energy, y0, theta, data, damping=damping, linear=linear).value)

    return loss, theta


def jacobians(name):
    """The minimiser flat, H and B = d(dE/dy)/dtheta of it as NumPy matrices, by jax.hessian."""
    energy, y0, theta, data = problem(name)
    y = argmin(energy, y0, theta, data).value
    point, unravel = jax.flatten_util.ravel_pytree(y)
    parameters, unravel_theta = jax.flatten_util.ravel_pytree(theta)
    gradient = jax.grad(lambda p, t: energy(unravel(p), unravel_theta(t), *data))
    h, b = jax.jit(jax.jacfwd(gradient, (0, 1)))(point, parameters)
    return y, np.asarray(h), np.asarray(b)


@pytest.mark.parametrize(
    ("name", "linear"),
    [
        ("rbf", "auto"),
        ("mixture", "auto"),
        ("valley", "cholesky"),
        *(pytest.param("huber", linear, marks=pytest.mark.slow) for linear in ("auto", "cg")),
        ("tree", "auto"),
    ],
)
def test_undamped_gradient_is_that_of_the_minimiser(name, linear):
    with jax.enable_x64(True):
        loss, theta = solve(name, linear=linear)
        assert_grad_matches(loss, theta, jax.random.key(1))


def test_closed_form_of_the_one_dimensional_rbf_energy():
    with jax.enable_x64(True):
        energy, y0, width, (points,) = problem("rbf")
        for linear in ("scalar", "cholesky", "cg"):
            for lam in (0.0, 0.1, 3.0):
                y = argmin(energy, y0, width, (points,)).value
                bar, _ = argmin_vjp(
                    energy, y, width, jnp.ones(()), (points,), damping=Damping(lam), linear=linear
                )
                u, s = float(y) - np.asarray(points), float(width)
                e = np.exp(-((u / s) ** 2))
                curvature = np.sum((2 / s**2 - 4 * u**2 / s**4) * e)
                mixed = np.sum((-4 * u / s**3 + 4 * u**3 / s**5) * e)
                np.testing.assert_allclose(float(bar), -mixed / (curvature + lam), rtol=1e-11)


@pytest.mark.parametrize("name", ["rbf", "mixture", pytest.param("tree", marks=pytest.mark.slow)])
def test_damped_gradient_is_the_derivative_of_a_proximal_step(name):
    # P(y, theta) = argmin_z E(z, theta) + lambda |z - y|^2 / 2 has dP/dtheta = -(H + lambda)^-1 B.
    with jax.enable_x64(True):
        energy, _, theta, data = problem(name)
        y, h, b = jacobians(name)
        v = np.random.default_rng(0).normal(size=h.shape[0])
        y_bar = jax.flatten_util.ravel_pytree(y)[1](jnp.asarray(v))
        for lam in (0.01, 0.1, 10.0):
            want = -np.linalg.solve(h + lam * np.eye(len(v)), v) @ b
            for mode in ("shift", "plain"):
                bar, _ = argmin_vjp(energy, y, theta, y_bar, data, damping=Damping(lam, mode=mode))
                assert_close(bar, want, 1e-10)


@pytest.mark.slow
def test_order_k_is_the_derivative_of_k_proximal_steps():
    order = 4
    with jax.enable_x64(True):
        energy, y0, theta, data = problem("mixture")
        lam = 0.7
        y = argmin(energy, y0, theta, data).value
        slope, hessian = jax.grad(energy), jax.hessian(energy)

        def steps(theta):
            z = y
            for _ in range(order):
                centre = z
                for _ in range(3):  # Newton's method on the proximal problem, unrolled
                    residual = slope(z, theta, *data) + lam * (z - centre)
                    z = z - jnp.linalg.solve(hessian(z, theta, *data) + lam * jnp.eye(2), residual)
            return z

        np.testing.assert_allclose(steps(theta), y, rtol=1e-12)
        y_bar = jnp.array([0.3, -1.1])
        want = jax.tree.map(lambda j: y_bar @ j, jax.jit(jax.jacfwd(steps))(theta))
        for mode in ("shift", "plain"):
            damping = Damping(lam, order=order, mode=mode)
            bar, _ = argmin_vjp(energy, y, theta, y_bar, data, damping=damping)
            assert_close(bar, want, 1e-10)


@pytest.mark.parametrize("linear", ["cholesky", "cg"])
def test_relative_damping_knows_no_units(linear):
    with jax.enable_x64(True):
        energy, y0, theta, data = problem("valley")
        y = argmin(energy, y0, theta, data).value
        y_bar = jnp.arange(1.0, 6.0)
        damping = Damping(0.1, relative=True)
        bars = []
        for scale in (1.0, 1e6):

            def scaled(y, theta, scale, *data):
                return scale * energy(y, theta, *data)

            more = (scale, *data)
            bars.append(
                argmin_vjp(scaled, y, theta, y_bar, more, damping=damping, linear=linear)[0]
            )
        assert_close(bars[1], bars[0], 1e-9)


def test_second_derivatives_of_the_minimiser():
    # jacrev(grad) is reverse over reverse: differentiating the solver's while_loop would raise.
    with jax.enable_x64(True):
        loss, theta = solve("mixture")
        gradient = jax.jit(jax.grad(loss))
        hessian = jax.jit(jax.jacrev(jax.grad(loss)))(theta)
        key = "log_width"
        others = {k: v for k, v in theta.items() if k != key}

        def along(x):  # the gradient as a function of one entry of theta
            return jax.flatten_util.ravel_pytree(gradient({**others, key: x}))[0]

        column = jnp.concatenate([jnp.ravel(hessian[k][key]) for k in sorted(theta)])
        assert_grad_matches(along, theta[key], jax.random.key(0), rtol=1e-6, gradient=column)
        row = jnp.concatenate([jnp.ravel(hessian[key][k]) for k in sorted(theta)])
        assert_close(row, column, 1e-9)  # the true Hessian is symmetric


@pytest.mark.slow
def test_second_derivative_at_every_scale_of_the_loss_by_conjugate_gradients():
    # The transposed solves see right-hand sides of another size than the first one.
    with jax.enable_x64(True):
        energy, y0, theta, _ = problem("valley")
        hessians = {}
        for linear in ("cholesky", "cg"):

            def loss(theta, scale, linear=linear):
                small = lambda y, theta: 1e-8 * energy(y, theta)
                y = argmin(small, y0, theta, damping=UNDAMPED, linear=linear).value
                return scale * jnp.sum(y**3)

            hessians[linear] = jax.jit(jax.jacrev(jax.grad(loss)))(theta, 1e6)
        assert_close(hessians["cg"], hessians["cholesky"], 1e-9)


def test_quartic_at_its_degenerate_minimum():
    energy = lambda y, w: jnp.sum(y**4) / 4 - jnp.vdot(w, y)
    y = jnp.zeros(3)
    for lam in (0.1, 1e-3):
        bar, diagnostics = argmin_vjp(energy, y, y, jnp.ones(3), damping=Damping(lam))
        assert np.all(np.isfinite(bar))
        assert np.linalg.norm(flat(bar)) <= np.sqrt(3) / lam
        assert not diagnostics.certified
        assert diagnostics.min_eigenvalue == 0
    gradient = jax.grad(lambda w: jnp.sum(argmin(energy, jnp.ones(1), w).value))(jnp.zeros(1))
    assert 9.9 <= float(gradient[0]) <= 10.0


def test_attach_gives_a_foreign_minimiser_the_gradient_of_argmin():
    scipy_optimize = pytest.importorskip("scipy.optimize")
    with jax.enable_x64(True):
        energy, y0, theta, data = problem("valley")
        found = scipy_optimize.minimize(
            lambda y: float(energy(y, theta)),
            np.asarray(y0),
            jac=lambda y: np.asarray(jax.grad(energy)(jnp.asarray(y), theta)),
            method="BFGS",
            options={"gtol": 1e-12},
        )
        y = jnp.asarray(found.x)
        by_attach = jax.grad(lambda t: outer_loss(attach(energy, y, t, data)))(theta)
        by_argmin = jax.grad(lambda t: outer_loss(argmin(energy, y0, t, data).value))(theta)
        assert_close(by_attach, by_argmin, 1e-7)
        assert attach(energy, y, theta, data).tolist() == y.tolist()


def test_attach_to_a_minimiser_of_optimistix():
    optimistix = pytest.importorskip("optimistix")
    with jax.enable_x64(True):
        energy, y0, theta, data = problem("mixture")

        def loss(theta):
            solver = optimistix.BFGS(rtol=1e-12, atol=1e-12)
            fixed = jax.lax.stop_gradient(theta)
            found = optimistix.minimise(lambda y, t: energy(y, t, *data), solver, y0, fixed)
            y = jax.lax.stop_gradient(found.value)
            return outer_loss(attach(energy, y, theta, data, damping=UNDAMPED))

        reference, _ = solve("mixture")
        assert_close(jax.jit(jax.grad(loss))(theta), jax.jit(jax.grad(reference))(theta), 1e-7)


def test_no_gradient_for_start_data_damping_and_minimiser():
    energy = lambda y, t, d: jnp.sum((y - t * d) ** 2) + jnp.sum(y**4)
    y0, theta, d = jnp.zeros(2), jnp.ones(2), jnp.full(2, 2.0)

    def loss(y0, d, lam):
        solution = argmin(energy, y0, theta, (d,), damping=Damping(lam), diagnostics=True)
        rest = solution.energy + solution.gradient_norm + solution.diagnostics.bias_estimate
        return jnp.sum(solution.value) + rest

    for bar in jax.grad(loss, (0, 1, 2))(y0, d, 0.1):
        assert np.all(np.asarray(bar) == 0)
    bar = jax.grad(lambda y: jnp.sum(attach(energy, y, theta, (d,))))(y0)
    assert np.all(np.asarray(bar) == 0)


def test_low_precision_theta_gets_a_low_precision_gradient():
    theta = {"half": jnp.ones(2, jnp.bfloat16), "single": jnp.ones(())}
    energy = lambda y, t: jnp.sum((y - t["half"] * t["single"]) ** 2)
    loss = lambda t: jnp.sum(argmin(energy, jnp.zeros(2), t, damping=UNDAMPED).value)
    gradient = jax.grad(loss)(theta)
    assert gradient["half"].dtype == jnp.bfloat16
    assert_close(gradient["half"], np.ones(2), 1e-2)
    assert_close(gradient["single"], 2.0, 1e-6)


def test_float32_gradient_is_that_of_float64():
    energy = rbf_energy
    with jax.enable_x64(True):
        _, y0, theta, data = problem("rbf")
        loss = lambda t, y0, *data: argmin(energy, y0, t, data).value
        exact = float(jax.grad(loss)(theta, y0, *data))
        single = [x.astype(jnp.float32) for x in (theta, y0, *data)]
        assert_close(jax.grad(loss)(*single), exact, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("autodiff", ["reverse", "both"])
def test_gradient_of_the_start_is_that_of_proximal_steps(autodiff):
    with jax.enable_x64(True):
        energy, y0, theta, data = problem("mixture")
        y, h, _ = jacobians("mixture")
        v = jnp.array([0.3, -1.1])
        for lam, order in ((0.5, 1), (0.5, 3), (0.0, 1)):

            def loss(y0, theta, init_gradient, lam=lam, order=order):
                solution = argmin(
                    energy,
                    y0,
                    theta,
                    data,
                    damping=Damping(lam, order=order),
                    autodiff=autodiff,
                    init_gradient=init_gradient,
                )
                return jnp.vdot(v, solution.value)

            contraction = lam * np.linalg.inv(h + lam * np.eye(2))
            want = np.linalg.matrix_power(contraction, order) @ v
            start, width = jax.grad(loss, (0, 1))(y0, theta, "prox")
            np.testing.assert_allclose(start, want, atol=1e-10)
            still, same = jax.grad(loss, (0, 1))(y0, theta, "zero")
            assert np.all(np.asarray(still) == 0)
            assert_close(width, same, 1e-12)
        assert argmin(energy, y0, theta, data, init_gradient="prox").value.tolist() == y.tolist()
        with pytest.raises(ValueError, match=r"`damping.mode`: init_gradient='prox'"):
            argmin(energy, y0, theta, data, damping=Damping(mode="tikhonov"), init_gradient="prox")


def test_start_of_an_energy_that_is_flat_in_a_direction():
    # E = (y_1 - t)^2: the flat direction keeps its start, and its whole gradient.
    energy = lambda y, t: (y[0] - t) ** 2
    value = lambda y0: argmin(energy, y0, 1.0, damping=Damping(1e-3), init_gradient="prox").value
    jacobian = jax.jacrev(value)(jnp.array([3.0, 5.0]))
    np.testing.assert_allclose(jacobian, [[1e-3 / 2.001, 0], [0, 1]], atol=1e-6)
