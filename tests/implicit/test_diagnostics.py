"""Every field of `Diagnostics` against its formula in NumPy, and when a point is certified."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv import Damping, argmin, argmin_vjp, diagnose
from jaxcv.implicit.diagnostics import diagnose_gradient
from jaxcv.linear.structure import DenseStructure
from jaxcv.solvers import GradientDescent, Newton

N = 6
COUNT = 64


def energy(y, b, a):
    """A quadratic and a cubic: H(y) = A + diag(y)."""
    return 0.5 * y @ a @ y + jnp.sum(y**3) / 6 - b @ y


def cases():
    rng = np.random.default_rng(5)
    eigenvalues = rng.uniform(0.2, 3, (COUNT, N))
    eigenvalues[1::2, 0] *= -1
    eigenvalues[3::4, 1] *= -1
    q, _ = np.linalg.qr(rng.normal(size=(COUNT, N, N)))
    a = np.einsum("bij,bj,bkj->bik", q, eigenvalues, q)
    a = 0.5 * (a + a.swapaxes(1, 2))
    y, b, v = 0.01 * rng.normal(size=(3, COUNT, N))
    return a, y, b, v


@pytest.mark.parametrize(
    ("mode", "linear"), [("shift", "auto"), ("plain", "auto"), ("shift", "cg")]
)
def test_fields_follow_their_formulas(mode, linear):
    lam, order = 0.3, 2
    damping = Damping(lam, order=order, mode=mode)
    with jax.enable_x64(True):
        a, y, b, v = cases()
        pull = lambda a, y, b, v: argmin_vjp(energy, y, b, v, (a,), damping=damping, linear=linear)
        u, d = jax.tree.map(np.asarray, jax.jit(jax.vmap(pull))(a, y, b, v))
        hessians = a + np.einsum("bi,ij->bij", y, np.eye(N))
        gradients = np.einsum("bij,bj->bi", a, y) + y**2 / 2 - b
        h = np.linalg.eigvalsh(hessians)
        shift = np.maximum(0, -h[:, 0])
        moved = hessians + shift[:, None, None] * np.eye(N) * (mode == "shift")
        damped = moved + lam * np.eye(N)

        np.testing.assert_allclose(d.gradient_norm, np.linalg.norm(gradients, axis=1), rtol=1e-12)
        np.testing.assert_allclose(d.min_eigenvalue, h[:, 0], rtol=1e-10)
        assert np.array_equal(d.negative_eigenvalues, np.sum(h < 0, axis=1))
        np.testing.assert_allclose(d.damping_used, lam)
        definite = h[:, 0] > 0
        newton_step = np.linalg.solve(hessians[definite], gradients[definite, :, None])[..., 0]
        decrement = np.sqrt(np.sum(newton_step * gradients[definite], axis=1))
        assert np.all(np.isfinite(d.newton_decrement))
        np.testing.assert_allclose(d.newton_decrement[definite], decrement, rtol=1e-8)

        size = np.linalg.norm(v, axis=1)
        assert np.all(np.linalg.norm(u, axis=1) <= d.gradient_bound)
        if mode == "shift":
            np.testing.assert_allclose(d.gradient_bound, order * size / lam, rtol=1e-12)
            smallest = np.maximum(h[:, 0] + shift, 0)
            np.testing.assert_allclose(
                d.bias_estimate, (lam / (smallest + lam)) ** order, rtol=1e-9
            )
        else:
            bounded = h[:, 0] + lam > 0
            low = h[bounded, 0] + lam
            want = size[bounded] * (1 / low + lam / low**2)
            np.testing.assert_allclose(d.gradient_bound[bounded], want, rtol=1e-9)
            assert np.all(np.isinf(d.gradient_bound[~bounded]))

        # The residual of (H' + lambda)^2 u = (H' + lambda) v + lambda v, what order 2 solves.
        right = np.einsum("bij,bj->bi", damped, v) + lam * v
        left = np.einsum("bij,bjk,bk->bi", damped, damped, u)
        residual = np.linalg.norm(left - right, axis=1) / np.linalg.norm(right, axis=1)
        assert np.all(residual < 1e-9)
        assert np.all(d.adjoint_residual < 1e-9)
        assert np.all(d.error_estimate >= d.bias_estimate)
        assert not np.any(d.certified[h[:, 0] < 0])
        if linear == "cg":
            assert not np.any(d.certified)


def test_tikhonov_reports_its_own_bound_and_bias():
    lam, order = 0.3, 2
    damping = Damping(lam, order=order, mode="tikhonov")
    with jax.enable_x64(True):
        a, y, b, v = cases()
        pull = lambda a, y, b, v: argmin_vjp(energy, y, b, v, (a,), damping=damping)
        u, d = jax.tree.map(np.asarray, jax.jit(jax.vmap(pull))(a, y, b, v))
        h, q = np.linalg.eigh(a + np.einsum("bi,ij->bij", y, np.eye(N)))
        bias = (lam**2 / (h**2 + lam**2)) ** order
        want = np.einsum("bij,bj,bkj,bk->bi", q, (1 - bias) / h, q, v)
        np.testing.assert_allclose(u, want, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(d.bias_estimate, bias.max(axis=1), rtol=1e-9)
        np.testing.assert_allclose(d.gradient_bound, np.linalg.norm(v, axis=1) / lam, rtol=1e-12)
        assert np.all(np.linalg.norm(u, axis=1) <= d.gradient_bound)
        assert np.all(d.adjoint_residual < 1e-9)


@pytest.mark.slow
def test_adjoint_residual_sees_a_wrong_adjoint():
    a = jnp.diag(jnp.arange(1.0, 4.0))
    v = jnp.ones(3)
    report = lambda u: diagnose_gradient(
        lambda y: a @ y, jnp.zeros(3), Damping(1.0), DenseStructure(3), v, u
    )
    right = v / jnp.array([2.0, 3.0, 4.0])
    assert report(right).adjoint_residual < 1e-6
    np.testing.assert_allclose(report(jnp.zeros(3)).adjoint_residual, 1, rtol=1e-6)


def test_only_a_converged_minimum_is_certified():
    cosh = lambda y, t: jnp.sum(jnp.cosh(y - t)) + 0.1 * jnp.sum((y - t) ** 4)
    with jax.enable_x64(True):
        one = jnp.ones(3)
        good = argmin(cosh, 3 * one, one, diagnostics=True)
        assert good.converged
        assert good.diagnostics.certified
        early = argmin(cosh, 3 * one, one, solver=Newton(max_steps=1), diagnostics=True)
        assert not early.converged
        assert not early.diagnostics.certified
        for offset in (1e-5, 1e-2, 1.0):
            _, report = argmin_vjp(cosh, good.value + offset, one, one)
            assert not report.certified
        _, report = argmin_vjp(cosh, good.value, one, one)
        assert report.certified


@pytest.mark.parametrize("linear", ["cholesky", "cg"])
def test_diagnostics_are_made_where_asked_and_later_are_the_same(linear):
    cosh = lambda y, t: jnp.sum(jnp.cosh(y - t)) + 0.1 * jnp.sum((y - t) ** 4)
    with jax.enable_x64(True):
        y0, theta, how = jnp.full(3, 3.0), jnp.arange(3.0), {"damping": Damping(0.2, order=2)}
        assert argmin(cosh, y0, theta, linear=linear, **how).diagnostics is None
        solution = argmin(cosh, y0, theta, linear=linear, diagnostics=True, **how)
        later = diagnose(cosh, solution.value, theta, linear=linear, **how)
        for name, now, then in zip(later._fields, solution.diagnostics, later, strict=True):
            np.testing.assert_allclose(now, then, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.slow
def test_what_conjugate_gradients_cannot_know():
    n = 300
    square = lambda y, t, h: 0.5 * jnp.sum(h * y * y) - jnp.vdot(t, y)
    zero, v = jnp.zeros(n), jnp.eye(n)[0]
    h = jnp.linspace(1e-2, 1e3, n)
    damping = Damping(0.0, mode="plain")
    u, report = argmin_vjp(square, zero, zero, v, (h,), damping=damping)
    assert np.linalg.norm(u) > 50
    assert np.isinf(report.gradient_bound)  # no Ritz value bounds the smallest eigenvalue
    assert not report.certified
    # At an exact minimum nothing is left to divide by.
    quarter = lambda y, t: 0.25 * jnp.sum((y - t) ** 2)
    at_minimum = argmin(quarter, zero, jnp.ones(n), diagnostics=True)
    assert np.isfinite(at_minimum.diagnostics.error_estimate)
    # A relative lambda does not vanish where the trace does.
    signs = jnp.where(jnp.arange(n) % 2 == 0, 1.0, -1.0)
    relative = Damping(0.1, relative=True)
    for h, least, most in ((signs, 0.003, 0.11), (2 + signs, 0.199, 0.201)):
        _, report = argmin_vjp(square, zero, zero, v, (h,), damping=relative)
        assert least < report.damping_used < most


def test_certificate_knows_no_units():
    square = lambda y, t: (y - t) ** 2
    for scale in (1e-6, 1.0, 1e6):
        _, far = argmin_vjp(square, 0.5 * scale, scale, 1.0)
        _, near = argmin_vjp(square, scale, scale, 1.0)
        assert not far.certified
        assert near.certified
    _, report = argmin_vjp(square, 0.0, 3e-4, 1.0)
    assert not report.certified


def test_flat_energy_has_finite_diagnostics():
    flat = lambda y, t: 0 * jnp.sum(y * t)
    for n in (1, 3):
        _, d = argmin_vjp(flat, jnp.ones(n), jnp.ones(n), jnp.ones(n), damping=Damping(0.1))
        assert d.newton_decrement == 0
        assert d.min_eigenvalue == 0
        assert d.bias_estimate == 1
        assert np.isfinite(d.error_estimate)
        assert not d.certified


def test_bias_estimate_is_the_error_that_damping_causes():
    # In one dimension the estimate is exact: u / u_undamped = 1 - (lambda / (h + lambda))^k.
    energy = lambda y, t: jnp.sum(0.7 * (y - t) ** 2)
    one = jnp.ones(1)
    for order in (1, 3):
        damping = Damping(0.4, order=order)
        bar, d = argmin_vjp(energy, one, one, one, damping=damping)
        np.testing.assert_allclose(1 - bar[0], d.bias_estimate, rtol=1e-5)
        np.testing.assert_allclose(d.bias_estimate, (0.4 / 1.8) ** order, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("lam", [0.0, 0.05])
def test_error_estimate_covers_the_error_of_certified_problems(lam):
    """Stopped at gradients of 0.1 and 1e-3 of |H| |y|. B = -I, so the gradient in b is u."""
    n, count = 4, 600
    rng = np.random.default_rng(11)
    with jax.enable_x64(True):
        q, _ = np.linalg.qr(rng.normal(size=(count, n, n)))
        h = 10 ** rng.uniform(-1, 1, (count, n))
        a = np.einsum("bij,bj,bkj->bik", q, h, q)
        b, bar, cubic = (
            rng.normal(size=(count, n)),
            rng.normal(size=(count, n)),
            rng.normal(size=count),
        )

        def energy(y, b, a, cubic):
            return 0.5 * y @ a @ y + cubic * jnp.sum(y**3) / 6 + jnp.sum(y**4) / 12 - b @ y

        def early(a, b, bar, cubic, tolerance):
            """u and its report at a rough minimiser whose solver is believed; and what it said."""
            solver = GradientDescent(tolerance=tolerance, max_steps=500)
            solution = argmin(
                energy,
                jnp.zeros(n),
                b,
                (a, cubic),
                solver=solver,
                damping=damping,
                diagnostics=True,
            )
            y = solution.value
            u, _ = argmin_vjp(energy, y, b, bar, (a, cubic), damping=damping)
            slope = jax.grad(lambda y: energy(y, b, a, cubic))
            report = diagnose_gradient(
                slope, y, damping, DenseStructure(n), bar, u, converged=jnp.asarray(True)
            )
            return u, report, solution

        def exact(a, b, bar, cubic, y):
            y = argmin(energy, y, b, (a, cubic), solver=Newton()).value
            return argmin_vjp(energy, y, b, bar, (a, cubic), damping=Damping(0.0))[0]

        covered, trusted, damping = 0, 0, Damping(lam)
        for tolerance in (0.1, 1e-3):
            run = jax.jit(jax.vmap(functools.partial(early, tolerance=tolerance)))
            u, report, solution = run(a, b, bar, cubic)
            truth = jax.jit(jax.vmap(exact))(a, b, bar, cubic, solution.value)
            error = np.linalg.norm(u - truth, axis=1) / np.linalg.norm(truth, axis=1)
            sure = np.asarray(report.certified)
            assert not np.any(solution.diagnostics.certified & ~solution.converged)
            covered += np.sum(error[sure] <= np.asarray(report.error_estimate)[sure] + 1e-12)
            trusted += np.sum(sure)
        assert trusted > count
        assert covered >= 0.99 * trusted, (covered, trusted)
