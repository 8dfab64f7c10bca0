"""The rotation nearest to a matrix: against the search by quaternions, derivatives, limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jaxcv.geometry import so3


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def matrices(count=20):
    return jnp.asarray(np.random.default_rng(0).normal(size=(count, 3, 3)))


def test_no_rotation_is_nearer():
    """Of both signs of the determinant; scipy finds the best rotation of paired vectors."""
    find = jax.jit(so3.nearest)
    for matrix in matrices():
        best, _ = Rotation.align_vectors(np.asarray(matrix).T, np.eye(3))
        np.testing.assert_allclose(find(matrix), best.as_matrix(), atol=1e-9)


def test_its_derivative_is_that_of_differences():
    rng = np.random.default_rng(1)
    rotation = Rotation.random(rng=1).as_matrix()
    several = [*matrices(6), jnp.asarray(rotation), 3 * jnp.eye(3)]  # equal singular values, too
    for matrix in several:
        away = jnp.asarray(rng.normal(size=(3, 3)))
        want = (so3.nearest(matrix + 1e-6 * away) - so3.nearest(matrix - 1e-6 * away)) / 2e-6
        _, forward = jax.jvp(so3.nearest, (matrix,), (away,))
        np.testing.assert_allclose(forward, want, atol=1e-6 * (1 + np.abs(want).max()))
        weights = jnp.asarray(rng.normal(size=(3, 3)))
        slope = jax.grad(lambda m, w=weights: jnp.vdot(w, so3.nearest(m)))(matrix)
        np.testing.assert_allclose(jnp.vdot(slope, away), jnp.vdot(weights, forward), rtol=1e-9)


@pytest.mark.parametrize("matrix", [np.zeros((3, 3)), -np.eye(3), np.diag([1.0, 0, 0])])
def test_where_several_are_nearest_it_is_one_of_them(matrix):
    r = so3.nearest(jnp.asarray(matrix))
    np.testing.assert_allclose(r @ r.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(jnp.linalg.det(r), 1, atol=1e-12)
    assert jnp.isfinite(jax.jacrev(so3.nearest)(jnp.asarray(matrix))).all()
