"""Arrow and block-diagonal matrices against NumPy on the dense matrix that they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxcv import Damping
from jaxcv.linear.iterative import _block_jacobi
from jaxcv.linear.krylov import conjugate_gradient
from jaxcv.linear.structure import Arrow, BlockDiagonal
from jaxcv.linear.system import (
    ConjugateGradient,
    adjoint_residual,
    apply_filter,
    damped_system,
    resolve_method,
)
from tests.helpers import mostly_slow, relative_error


def arrow_matrix(rng, blocks, size, shared, least):
    """A random symmetric arrow matrix of smallest eigenvalue `least`, and a tree of its layout."""
    n = blocks * size + shared
    a = np.zeros((n, n))
    for i in range(blocks):
        rows = slice(shared + i * size, shared + (i + 1) * size)
        block = rng.normal(size=(size, size))
        a[rows, rows] = block + block.T
        a[:shared, rows] = rng.normal(size=(shared, size))
        a[rows, :shared] = a[:shared, rows].T
    corner = rng.normal(size=(shared, shared))
    a[:shared, :shared] = corner + corner.T
    a += (least - np.linalg.eigvalsh(a)[0]) * np.eye(n)
    # In the order of the raveled tree: the shared "a" first, then the local "z".
    return a, {"a": jnp.zeros(shared), "z": jnp.zeros((blocks, size))}


SHAPES = [(5, 1, 3), (3, 3, 2), (4, 2, 0)]  # blocks, block size, shared unknowns
COUNT = 24


def batch_of(shape):
    """(COUNT, n, n) matrices, their smallest eigenvalues and the structure."""
    rng = np.random.default_rng(sum(shape))
    least = np.tile([-2.0, -1e-3, 0.3], COUNT // 3)
    made = [arrow_matrix(rng, *shape, value) for value in least]
    tree = made[0][1]
    blocks, size, shared = shape
    if shared:
        structure = Arrow("z", "a", block_size=size).structure(tree)
    else:
        structure = BlockDiagonal(size).structure(tree["z"])
    assert (structure.num_blocks, structure.num_shared) == (blocks, shared)
    return np.stack([a for a, _ in made]), least, structure, rng


@pytest.mark.parametrize("shape", SHAPES)
def test_algebra_is_that_of_the_dense_matrix(shape):
    blocks, size, shared = shape
    with jax.enable_x64(True):
        a, least, structure, rng = batch_of(shape)
        n = a.shape[1]
        assert structure.size == n
        v, d = rng.normal(size=(2, COUNT, n))
        jacobian = np.zeros((COUNT, 2 * blocks, n))  # whose rows see one block each
        jacobian[:, :, :shared] = rng.normal(size=(COUNT, 2 * blocks, shared))
        for row in range(2 * blocks):
            begin = shared + (row // 2) * size
            jacobian[:, row, begin : begin + size] = rng.normal(size=(COUNT, size))
        weights = rng.uniform(size=(COUNT, 2 * blocks))

        def run(a, v, d, jacobian, weights):
            matrix = structure.matrix(lambda p: a @ p, float)
            lifted = structure.add(matrix, 2.1)
            rows, columns = (lambda p: jacobian @ p), (lambda r: jacobian.T @ r)
            return {
                "multiply": structure.multiply(matrix, v),
                "diagonal": structure.diagonal(matrix),
                "added": structure.multiply(structure.add(matrix, d), v),
                "distance": structure.distance(matrix, structure.add(matrix, 1.0)),
                "joined": structure.join(*structure.split(v)),
                "solved": structure.solve(structure.factor(lifted), v),
                "pivots": structure.pivots(structure.factor(matrix)),
                "definite": structure.definite(structure.factor(matrix)),
                "regular": structure.indefinite_solver(matrix)(v),
                "smallest": structure.smallest_eigenvalue(matrix),
                "negative": structure.negative_eigenvalues(matrix, 0.0),
                "convex": structure.convex(matrix).local,
                "gram": structure.multiply(structure.gram(rows, columns, weights, float), v),
            }

        got = jax.tree.map(np.asarray, jax.jit(jax.vmap(run))(a, v, d, jacobian, weights))
        times = lambda matrix, v: np.einsum("kij,kj->ki", matrix, v)
        close = lambda name, want: np.testing.assert_allclose(got[name], want, rtol=1e-8, atol=1e-9)
        close("multiply", times(a, v))
        close("diagonal", np.diagonal(a, axis1=1, axis2=2))
        close("added", times(a, v) + d * v)
        close("distance", n**0.5)
        close("joined", v)
        close("solved", np.linalg.solve(a + 2.1 * np.eye(n), v[..., None])[..., 0])
        close("gram", times(jacobian.swapaxes(1, 2), weights * times(jacobian, v)))
        assert np.array_equal(got["pivots"] > 0, least > 0)
        assert np.array_equal(got["definite"], least > 0)
        assert np.all(np.isfinite(got["pivots"]))
        sane = np.linalg.cond(a) < 1e6
        assert np.sum(sane) > COUNT / 2
        assert relative_error(times(a, got["regular"])[sane], v[sane]) < 1e-6
        assert np.all(got["smallest"] <= least + 1e-9)
        np.testing.assert_allclose(got["smallest"], least, rtol=2e-3)
        assert np.array_equal(got["negative"], np.sum(np.linalg.eigvalsh(a) < 0, axis=1))
        assert np.all(np.linalg.eigvalsh(got["convex"]) > 0)


@pytest.mark.parametrize(
    "shape", [SHAPES[0], pytest.param(SHAPES[1], marks=pytest.mark.slow), SHAPES[2]]
)
def test_damped_solves_are_bounded_and_those_of_the_dense_method(shape):
    """For indefinite matrices too, where the shift is found by bisection and errs upwards."""
    damping = Damping(0.2, order=2)
    with jax.enable_x64(True):
        a, least, structure, rng = batch_of(shape)
        v = rng.normal(size=a.shape[:2])

        def run(a, v):
            system = damped_system(lambda p: a @ p, v, damping, structure)
            dense = damped_system(lambda p: a @ p, v, damping, resolve_method("cholesky", v))
            u = apply_filter(system, damping, v)
            residual = adjoint_residual(system, damping, u, v)
            return u, apply_filter(dense, damping, v), residual, system.shift

        u, dense, residual, shift = map(np.asarray, jax.jit(jax.vmap(run))(a, v))
        assert np.all(np.linalg.norm(u, axis=1) <= 2 * np.linalg.norm(v, axis=1) / 0.2)
        assert np.all(residual < 1e-7)
        want = np.maximum(0, -least)
        assert np.all((want * (1 - 1e-6) - 1e-12 <= shift) & (shift <= want * 1.003 + 1e-9))
        assert relative_error(u[least > 0], dense[least > 0]) < 1e-8


def test_memory_grows_with_the_number_of_blocks_alone():
    """No (n, n) array is made: XLA's temporary memory is linear in N."""

    def temporary(blocks):
        tree = {"p": jnp.zeros(3), "z": jnp.zeros(blocks)}
        structure = Arrow("z", "p").structure(tree)
        diagonal = jnp.linspace(1.0, 2.0, blocks + 3)

        def run(v):
            matrix = structure.matrix(lambda p: diagonal * p, v.dtype)
            return structure.solve(structure.factor(matrix), v)

        compiled = jax.jit(run).lower(diagonal).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    small, large = temporary(1000), temporary(8000)
    assert large < 10 * small


def badly_scaled(rng, n):
    """An ill-conditioned matrix whose condition is all in the units of its unknowns."""
    q = rng.normal(size=(n, n)) / n**0.5
    scale = 10 ** rng.uniform(-2, 2, n)
    return scale[:, None] * (np.eye(n) + 0.1 * (q + q.T)) * scale


@pytest.mark.parametrize("block_size", mostly_slow([1, 2, 3], [2]))
def test_block_jacobi_of_a_block_diagonal_matrix_is_its_inverse(block_size):
    rng = np.random.default_rng(0)
    parts = rng.normal(size=(6, block_size, block_size))
    dense = scipy.linalg.block_diag(*(p @ p.T + np.eye(block_size) for p in parts))
    with jax.enable_x64(True):
        a, v = jnp.asarray(dense), jnp.asarray(rng.normal(size=len(dense)))
        near = _block_jacobi(lambda p: a @ p, v, ConjugateGradient(block_size))
        want = np.linalg.solve(dense + 0.3 * np.eye(len(dense)), v)
        np.testing.assert_allclose(near(0.3)(v), want, rtol=1e-10)


def test_preconditioned_conjugate_gradients_undo_bad_units():
    """Fewer steps to a smaller residual than without the blocks."""
    rng = np.random.default_rng(0)
    n = 120
    with jax.enable_x64(True):
        a, v = jnp.asarray(badly_scaled(rng, n)), jnp.asarray(rng.normal(size=n))
        product = lambda p: a @ p
        damping = Damping(0.0)
        want = np.linalg.solve(a, v)

        def run(block_size):
            system = damped_system(product, v, damping, ConjugateGradient(block_size))
            u = system.solve(v)
            return u, adjoint_residual(system, damping, u, v)

        for block_size in (1, 4):
            u, residual = jax.jit(run, static_argnums=0)(block_size)
            assert relative_error(u, want) < 1e-6
            assert residual < 1e-7
        few = lambda precondition: conjugate_gradient(
            product, v, max_steps=25, precondition=precondition
        )[0]
        left = lambda u: np.linalg.norm(a @ u - v) / np.linalg.norm(v)
        jacobi = few(lambda r: r / jnp.diagonal(a))
        assert left(jacobi) < 1e-6
        assert left(few(None)) > 1e-2


def test_conjugate_gradients_that_do_not_converge_say_so():
    """Ill-conditioned beyond 2 n steps: a residual in the report, never a silent zero."""
    n = 300
    with jax.enable_x64(True):
        h = jnp.logspace(-12, 0, n)
        v = jnp.ones(n)
        damping = Damping(0.0, mode="plain")
        system = damped_system(lambda p: h * p, v, damping, ConjugateGradient())
        u = system.solve(v)
        assert np.linalg.norm(u) > 0
        assert adjoint_residual(system, damping, u, v) > 1e-6


def test_what_cannot_be_resolved():
    y = jnp.zeros(6)
    with pytest.raises(ValueError, match="`linear`: expected one of"):
        resolve_method("qr", y)
    with pytest.raises(ValueError, match="whole blocks of 4"):
        resolve_method(ConjugateGradient(4), y)
    with pytest.raises(ValueError, match="`probes`: expected an integer >= 1"):
        ConjugateGradient(1, probes=0)
    with pytest.raises(ValueError, match="at least one local entry"):
        resolve_method(Arrow((), ("a", "b")), {"a": y, "b": y})
