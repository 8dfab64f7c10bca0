"""Properties of the damped adjoint over thousands of random symmetric matrices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcv import Damping, argmin_vjp, attach
from jaxcv.implicit.quadratic import quadratic_energy
from jaxcv.linear.system import apply_filter, damped_system, resolve_method
from tests.helpers import mostly_slow

COUNT = 600
KINDS = ("definite", "semi-definite", "indefinite", "zero", "rank one", "at minus lambda")


def damped_adjoint(product, v, damping, method):
    """f_k(H) v."""
    system = damped_system(product, v, damping, resolve_method(method, v))
    return apply_filter(system, damping, v)


def random_problems(n, dtype, seed, count=COUNT):
    """Symmetric matrices (count, n, n) of every kind and scale, cotangents, lambdas, kinds."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(len(KINDS), size=count)
    lam = np.asarray(10 ** rng.uniform(-4, 2, count), dtype)
    scale = 10 ** rng.uniform(-8, 8, count)
    eigenvalues = rng.uniform(0.1, 1, (count, n)) * scale[:, None]
    eigenvalues[kinds == 1, : (n + 1) // 2] = 0
    eigenvalues[kinds == 2] *= rng.choice([-1, 1], (np.sum(kinds == 2), n))
    eigenvalues[kinds == 3] = 0
    eigenvalues[kinds == 4, 1:] = 0
    eigenvalues[kinds == 5, 0] = -lam[kinds == 5]  # where H + lambda I is singular
    q, _ = np.linalg.qr(rng.normal(size=(count, n, n)))
    matrices = np.einsum("bij,bj,bkj->bik", q, eigenvalues, q).astype(dtype)
    matrices = 0.5 * (matrices + matrices.swapaxes(1, 2))
    cotangents = rng.normal(size=(count, n)) * 10 ** rng.uniform(-6, 6, (count, 1))
    return matrices, cotangents.astype(dtype), lam, kinds


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def adjoints(matrices, cotangents, lam, mode, order, method="auto"):
    def one(matrix, v, lam):
        damping = Damping(lam, order=order, mode=mode)
        return damped_adjoint(lambda p: matrix @ p, v, damping, method)

    return jax.vmap(one)(matrices, cotangents, lam)


def defined(matrices, cotangents, lam, order, *, shift=True):
    """u by its definition, from NumPy's eigendecomposition in float64."""
    h, q = np.linalg.eigh(matrices.astype(float))
    if shift:
        h = h + np.maximum(0, -h[:, :1])
    lam = lam.astype(float)[:, None]
    filtered = sum(lam**j / (h + lam) ** (j + 1) for j in range(order))
    return np.einsum("bij,bj,bkj,bk->bi", q, filtered, q, cotangents.astype(float))


def norms(x):
    return np.linalg.norm(np.asarray(x, float), axis=-1)


@pytest.mark.optimised
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", mostly_slow([1, 2, 3, 4, 7, 12], [1, 3, 12]))
def test_shift_never_exceeds_its_bound(n, dtype):
    with jax.enable_x64(True):
        matrices, v, lam, _ = random_problems(n, dtype, n)
        order = 1 + n % 3
        u = adjoints(matrices, v, lam, "shift", order)
        assert u.dtype == dtype
        assert np.all(np.isfinite(u))
        # In float64, and without any tolerance: the rounding is inside the bound.
        assert np.all(norms(u) <= order * norms(v) / lam.astype(float))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_tikhonov_never_exceeds_its_bound_and_equals_its_definition(n, dtype):
    with jax.enable_x64(True):
        matrices, v, lam, _ = random_problems(n, dtype, 50 + n)
        wide = lam.astype(float)
        for order in (1, 4):
            u = np.asarray(adjoints(matrices, v, lam, "tikhonov", order))
            assert np.all(np.isfinite(u))
            slack = 1 if order == 1 else 1 + 1e-3  # of order 1 the bound is enforced
            assert np.all(norms(u) <= slack * min(order / 2, order**0.5) * norms(v) / wide)
            h, q = np.linalg.eigh(matrices.astype(float))
            kept = -np.expm1(-order * np.log1p((h / wide[:, None]) ** 2))
            filtered = kept / np.where(h == 0, 1, h)
            want = np.einsum("bij,bj,bkj,bk->bi", q, filtered, q, v.astype(float))
            eps = np.finfo(dtype).eps
            size = np.linalg.norm(matrices.astype(float), axis=(1, 2))
            trusted = wide > 1e3 * n * eps * size
            allowed = 50 * n * eps * (1 + size / wide) * order**2 * norms(v) / wide
            assert np.mean(trusted) > (0.8 if dtype == np.float64 else 0.3)
            assert np.all(norms(u - want)[trusted] <= allowed[trusted])


def test_tikhonov_tends_to_the_pseudo_inverse():
    # At a saddle with a null space, where `shift` cannot follow.
    with jax.enable_x64(True):
        q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))
        h = np.array([-2.0, 0.0, 0.5, 3.0])
        matrix, v = jnp.asarray(q * h @ q.T), jnp.arange(1.0, 5.0)
        for lam in (1e-2, 1e-4, 1e-6):
            damping = Damping(lam, mode="tikhonov")
            for method in ("cholesky", "cg"):
                u = damped_adjoint(lambda p: matrix @ p, v, damping, method)
                error = np.linalg.norm(u - np.linalg.pinv(matrix, rcond=1e-10) @ v)
                # Round-off of the null eigenvalue comes through divided by lambda squared.
                rounding = 1e-15 / lam**2
                assert error <= 8 * np.linalg.norm(v) * lam**2 + rounding


@pytest.mark.parametrize("n", [1, 3, 9])
def test_shift_equals_its_definition(n):
    with jax.enable_x64(True):
        eps = np.finfo(float).eps
        matrices, v, lam, _ = random_problems(n, float, 100 + n)
        for order in (1, 3):
            u = np.asarray(adjoints(matrices, v, lam, "shift", order))
            want = defined(matrices, v, lam, order)
            size = np.linalg.norm(matrices, axis=(1, 2))
            # An error of n eps |H| in H moves u by it over lambda, relative to |v| / lambda.
            trusted = lam > 1e3 * n * eps * size
            allowed = 50 * n * eps * (1 + size / lam) * order**2 * norms(v) / lam
            assert np.mean(trusted) > 0.8
            assert np.all(norms(u - want)[trusted] <= allowed[trusted])


def test_plain_equals_shift_where_the_matrix_is_positive():
    with jax.enable_x64(True):
        matrices, v, lam, kinds = random_problems(6, float, 5)
        positive = (kinds == 0) & (np.linalg.norm(matrices, axis=(1, 2)) < 1e6)
        plain, shift = (adjoints(matrices, v, lam, mode, 2) for mode in ("plain", "shift"))
        error = norms(np.asarray(plain) - np.asarray(shift)) / norms(shift)
        assert np.sum(positive) > 30
        assert np.all(error[positive] < 1e-6)
        assert np.median(error[positive]) < 1e-13
        # And plain is the paper's formula on every matrix it is defined for.
        regular = (kinds == 2) & (np.linalg.norm(matrices, axis=(1, 2)) < 1e3)
        want = defined(*(x[regular] for x in (matrices, v, lam)), 2, shift=False)
        error = norms(np.asarray(plain)[regular] - want) / norms(want)
        assert np.median(error) < 1e-12


def test_conjugate_gradients_stay_below_the_bound_and_solve_positive_systems():
    with jax.enable_x64(True):
        matrices, v, lam, kinds = random_problems(7, float, 11)
        u = np.asarray(adjoints(matrices, v, lam, "shift", 2, "cg"))
        assert np.all(np.isfinite(u))
        assert np.all(norms(u) <= 2 * norms(v) / lam)
        size = np.linalg.norm(matrices, axis=(1, 2))
        easy = np.isin(kinds, (0, 1, 3, 4)) & (size / lam < 1e6)
        want = defined(matrices, v, lam, 2)
        assert np.sum(easy) > 50
        assert np.all(norms(u - want)[easy] <= 1e-7 * norms(want)[easy])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.slow
def test_public_pullback_of_a_quadratic_energy_is_u(dtype):
    # E = y^T A y / 2 - b^T y with theta = b: -B^T u = u.
    energy = lambda y, b, a: quadratic_energy(y, (a, b))
    with jax.enable_x64(True):
        matrices, v, lam, _ = random_problems(5, dtype, 21)

        @jax.jit
        @jax.vmap
        def pull(a, v, lam):
            zero = jnp.zeros_like(v)
            damping = Damping(lam)
            by_function = argmin_vjp(energy, zero, zero, v, (a,), damping=damping)
            attached = lambda b: jnp.vdot(v, attach(energy, zero, b, (a,), damping=damping))
            return *by_function, jax.grad(attached)(zero)

        u, diagnostics, by_attach = pull(matrices, v, lam)
        assert np.array_equal(u, by_attach)
        assert np.all(norms(u) <= norms(v) / lam.astype(float))
        # What is reported is what was used, and bounds it.
        used = np.asarray(diagnostics.damping_used, float)
        assert np.all(used >= lam)
        assert np.all(norms(u) <= np.asarray(diagnostics.gradient_bound, float))
        want = defined(matrices, v, np.asarray(diagnostics.damping_used), 1)
        tolerance = 2e3 * np.finfo(dtype).eps
        condition = 1 + np.linalg.norm(matrices.astype(float), axis=(1, 2)) / used
        close = norms(np.asarray(u, float) - want) <= tolerance * condition * norms(v) / used
        assert np.all(close)


def test_null_space_of_a_consistent_least_squares_problem():
    # E = |J y - theta|^2 / 2 with J of rank 2 in 5 unknowns: B = -J^T kills the null space.
    rng = np.random.default_rng(3)
    energy = lambda y, theta, j: 0.5 * jnp.sum((j @ y - theta) ** 2)
    with jax.enable_x64(True):
        j = rng.normal(size=(6, 2)) @ rng.normal(size=(2, 5))
        pseudo = np.linalg.pinv(j)
        theta = j @ rng.normal(size=5)
        y = pseudo @ theta
        null = (np.eye(5) - pseudo @ j) @ rng.normal(size=5)
        along = pseudo @ j @ rng.normal(size=5)
        pull = lambda v, lam: argmin_vjp(energy, y, theta, v, (j,), damping=Damping(lam))[0]
        errors = []
        for lam in (1.0, 0.1, 1e-3, 1e-6):
            assert np.linalg.norm(pull(null, lam)) <= 1e-13 * np.linalg.norm(null) / lam
            error = np.linalg.norm(pull(along, lam) - along @ pseudo)
            errors.append(error / np.linalg.norm(along @ pseudo))
        smallest = np.linalg.svd(j)[1][1] ** 2
        assert np.all(np.asarray(errors) <= np.array([1.0, 0.1, 1e-3, 1e-6]) / smallest + 1e-9)
        assert errors[-1] < 1e-5


@settings(deadline=None)
@given(
    h=st.floats(1e-6, 1e6),
    lam=st.floats(1e-6, 1e6),
    order=st.integers(1, 6),
)
def test_scalar_filter_is_the_truncated_neumann_series(h, lam, order):
    # 1 - h u_k = (lambda / (h + lambda))^k: the bias that the documentation promises.
    with jax.enable_x64(True):
        damping = Damping(lam, order=order)
        u = float(damped_adjoint(lambda p: h * p, jnp.ones(1), damping, "scalar")[0])
        assert abs((1 - h * u) - (lam / (h + lam)) ** order) < 1e-12 * (1 + order)
        assert u <= order / lam


@pytest.mark.parametrize("value", [-1, -0.1, np.int32(-1), np.array(-1.0), np.nan, np.inf])
def test_values_that_damp_nothing(value):
    with pytest.raises(ValueError, match=r"`damping.value`: expected a finite number >= 0"):
        Damping(value)


@pytest.mark.parametrize("value", ["1", True, None, 1j, jnp.array([True])])
def test_values_that_are_no_numbers(value):
    with pytest.raises(ValueError, match=r"`damping.value`: expected a (finite )?number"):
        Damping(value)


def test_damping_is_a_pytree_of_its_value_and_hashable_in_the_rest():
    damping = Damping(0.3, order=2, mode="plain", relative=True)
    assert jax.tree.leaves(damping) == [0.3]
    doubled = jax.tree.map(lambda x: 2 * x, damping)
    assert doubled == Damping(0.6, order=2, mode="plain", relative=True)
    assert hash(Damping(0.3)) == hash(Damping(0.3))
