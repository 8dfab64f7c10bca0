"""Rotations, rigid motions and spheres, and minimising on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcv import Damping, argmin, argmin_jvp, argmin_least_squares, argmin_vjp, attach
from jaxcv.geometry import se3, so3
from jaxcv.geometry.manifolds import SE3, SO3, Product, Sphere
from jaxcv.least_squares.kernels import PseudoHuber
from jaxcv.solvers import MultiStart, Newton
from tests.helpers import (
    UNDAMPED,
    assert_close,
    assert_grad_matches,
    flat,
    mostly_slow,
    outer_loss,
    relative_error,
)

vectors = st.lists(st.floats(-3, 3), min_size=6, max_size=6).map(np.array)
RIGID = Product(R=SO3())


@settings(max_examples=15, deadline=None)
@given(xi=vectors, factor=st.sampled_from([1.0, 1e-3, 1e-8, 0.0]))
def test_exponentials_are_those_of_matrices(xi, factor):
    xi = factor * xi
    xi[3:] *= min(1, 3.0 / max(np.linalg.norm(xi[3:]), 1e-300))  # below pi
    with jax.enable_x64(True):
        r, t = so3.exp(jnp.asarray(xi[3:])), se3.exp(jnp.asarray(xi))
        np.testing.assert_allclose(r, scipy.linalg.expm(np.asarray(so3.hat(xi[3:]))), atol=1e-13)
        twist = np.zeros((4, 4))
        twist[:3, :3], twist[:3, 3] = so3.hat(xi[3:]), xi[:3]
        np.testing.assert_allclose(t, scipy.linalg.expm(twist), atol=1e-12)
        np.testing.assert_allclose(so3.log(r), xi[3:], atol=1e-9)
        np.testing.assert_allclose(se3.log(t), xi, atol=1e-8)
        np.testing.assert_allclose(r @ r.T, np.eye(3), atol=1e-13)


@pytest.mark.parametrize("angle", mostly_slow([0.0, 1e-4, 0.4999, 0.5001, 3.1], (0.0, 3.1)))
def test_derivatives_at_every_angle(angle):
    """The Jacobian of log(exp(w)) is the identity, its derivative zero."""
    with jax.enable_x64(True):
        w = angle * jnp.array([0.6, -0.48, 0.64])
        there_and_back = lambda w: so3.log(so3.exp(w))
        np.testing.assert_allclose(there_and_back(w), w, atol=1e-9)
        np.testing.assert_allclose(jax.jit(jax.jacfwd(there_and_back))(w), np.eye(3), atol=1e-7)
        second = jax.jit(jax.jacfwd(jax.jacrev(there_and_back)))
        np.testing.assert_allclose(second(w), 0, atol=1e-6)


def test_half_turns_have_a_logarithm():
    for axis in np.eye(3):
        turn = np.asarray(so3.log(2 * jnp.outer(axis, axis) - jnp.eye(3)))
        np.testing.assert_allclose(np.abs(turn), np.pi * axis, atol=1e-6)


@pytest.mark.parametrize("manifold", [SO3(), SE3(), Sphere(), RIGID])
def test_retractions_start_at_the_point_with_orthonormal_tangents(manifold):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        if isinstance(manifold, Sphere):
            y = jnp.asarray([[0, 0, 1.0], [0, 0, -1.0], [0.6, 0, 0.8]])
        elif isinstance(manifold, SE3):
            y = se3.exp(jnp.asarray(rng.normal(size=6)))
        else:
            y = so3.exp(jnp.asarray(rng.normal(size=3)))
            y = {"R": y, "t": jnp.ones(2)} if manifold == RIGID else y
        zero, unravel = jax.flatten_util.ravel_pytree(manifold.tangent(y))
        assert_close(manifold(y, unravel(zero)), y, 1e-15)
        moved = manifold(y, unravel(zero + 0.3))
        if isinstance(manifold, Sphere):
            np.testing.assert_allclose(np.linalg.norm(moved, axis=-1), 1, rtol=1e-14)
            place = lambda flat: jax.flatten_util.ravel_pytree(manifold(y, unravel(flat)))[0]
            tangents = jax.jacfwd(place)(zero)
            np.testing.assert_allclose(tangents.T @ tangents, np.eye(zero.size), atol=1e-14)
        assert hash(manifold) == hash(type(manifold)()) or manifold == RIGID


def scene():
    """Points (20, 3), the same turned, shifted and with noise, and theta."""
    rng = np.random.default_rng(0)
    points = jnp.asarray(rng.normal(size=(20, 3)))
    turn = so3.exp(jnp.array([2.0, 1.0, -1.0]))
    moved = points @ turn.T + 0.1 * rng.normal(size=(20, 3)) + jnp.array([0.1, 0.2, 0.3])
    return points, {"moved": moved, "scale": jnp.asarray(0.3), "pull": jnp.array([1.0, 1.0, 1.0])}


def alignment(y, theta, points):
    """Robust alignment of points, with a direction n on the sphere that meets the rotation."""
    square = jnp.sum((points @ y["R"].T + y["t"] - theta["moved"]) ** 2, axis=1)
    robust = jnp.sum(jnp.sqrt(1 + square / theta["scale"] ** 2) - 1)
    return robust + 0.1 * jnp.sum((y["n"] - theta["pull"]) ** 2) + 0.3 * y["n"] @ y["R"][0]


MANIFOLD = Product(R=SO3(), n=Sphere())


def solve(theta, points, autodiff="reverse"):
    y0 = {"R": jnp.eye(3), "t": jnp.zeros(3), "n": jnp.array([0.0, 0.0, 1.0])}
    return argmin(
        alignment, y0, theta, (points,), retract=MANIFOLD, damping=UNDAMPED, autodiff=autodiff,
        diagnostics=True,
    )  # fmt: skip


@pytest.mark.slow
def test_gradients_on_a_product_of_manifolds():
    with jax.enable_x64(True):
        points, theta = scene()
        solution = jax.jit(solve)(theta, points)
        assert solution.converged
        assert solution.diagnostics.certified
        assert solution.gradient_norm < 1e-10
        np.testing.assert_allclose(np.linalg.det(solution.value["R"]), 1, rtol=1e-12)
        loss = lambda theta: outer_loss(solve(theta, points).value)
        assert_grad_matches(loss, theta, jax.random.key(0))


@pytest.mark.slow
def test_all_doors_lead_to_the_same_gradient():
    with jax.enable_x64(True):
        points, theta = scene()
        value = solve(theta, points).value
        loss = lambda theta: outer_loss(solve(theta, points).value)
        gradient = jax.jit(jax.grad(loss))(theta)
        settings = {"damping": UNDAMPED, "retract": MANIFOLD}
        again = lambda theta: outer_loss(attach(alignment, value, theta, (points,), **settings))
        assert_close(jax.grad(again)(theta), gradient, 1e-12)
        bar = jax.grad(outer_loss)(value)
        pulled, report = argmin_vjp(alignment, value, theta, bar, (points,), **settings)
        assert_close(pulled, gradient, 1e-12)
        assert report.certified
        y_dot, _ = argmin_jvp(alignment, value, theta, theta, (points,), **settings)
        along, pushed = np.dot(flat(gradient), flat(theta)), np.dot(flat(bar), flat(y_dot))
        np.testing.assert_allclose(pushed, along, rtol=1e-10)
        both = lambda theta: outer_loss(solve(theta, points, "both").value)
        forward = jax.jvp(both, (theta,), (theta,))
        np.testing.assert_allclose(forward[1], along, rtol=1e-10)
        # Second derivatives see how the tangent space turns.
        slope = lambda theta: jax.grad(loss)(theta)["scale"]
        assert_grad_matches(slope, theta, jax.random.key(1), steps=(1e-2, 1e-3, 1e-4), rtol=1e-5)


@pytest.mark.slow
def test_least_squares_on_rotations_is_the_closed_form():
    """Procrustes by the singular value decomposition, and its derivative."""
    with jax.enable_x64(True):
        points, theta = scene()
        fit = lambda y, theta: points @ y["R"].T + y["t"] - theta["moved"]
        y0 = {"R": jnp.eye(3), "t": jnp.zeros(3)}
        solve = lambda theta: argmin_least_squares(fit, y0, theta, retract=RIGID, damping=UNDAMPED)

        def closed(theta):
            first, second = points - points.mean(0), theta["moved"] - theta["moved"].mean(0)
            u, _, vt = jnp.linalg.svd(second.T @ first)
            sign = jnp.array([1.0, 1.0, jnp.linalg.det(u @ vt)])
            turn = (u * sign) @ vt
            return {"R": turn, "t": theta["moved"].mean(0) - turn @ points.mean(0)}

        solution = solve(theta)
        assert solution.converged
        assert_close(solution.value, closed(theta), 1e-10)
        gradients = [
            jax.grad(lambda theta: outer_loss(f(theta)))(theta)["moved"]  # noqa: B023
            for f in (lambda theta: solve(theta).value, closed)
        ]
        assert_close(gradients[0], gradients[1], 1e-8)


@pytest.mark.slow
def test_robust_least_squares_on_rotations():
    with jax.enable_x64(True):
        points, theta = scene()
        fit = lambda y, theta: points @ y["R"].T + y["t"] - theta["moved"]
        y0 = {"R": jnp.eye(3), "t": jnp.zeros(3)}
        kernel = PseudoHuber(0.2, block_ndim=1)
        run = lambda theta, damping: outer_loss(
            argmin_least_squares(
                fit, y0, theta, retract=RIGID, kernel=kernel, damping=damping
            ).value
        )
        assert_grad_matches(lambda theta: run(theta, UNDAMPED), theta, jax.random.key(0))
        exact, damped = (jax.grad(run)(theta, d)["moved"] for d in (UNDAMPED, Damping(5.0)))
        assert 0.01 < relative_error(damped, exact) < 1


@pytest.mark.slow
def test_batches_of_poses():
    """vmap over problems, each with two motions in one unknown of shape (2, 4, 4)."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(4)
        targets = jax.vmap(jax.vmap(se3.exp))(jnp.asarray(rng.normal(size=(3, 2, 6))))
        start = jnp.broadcast_to(jnp.eye(4), (2, 4, 4))
        run = lambda target: argmin(
            lambda y, target: jnp.sum((y - target) ** 2), start, target, retract=SE3()
        )
        solution = jax.jit(jax.vmap(run))(targets)
        assert np.all(solution.converged)
        np.testing.assert_allclose(solution.value, targets, atol=1e-8)


def test_arguments_are_checked():
    energy = lambda y, t: jnp.sum((y - t) ** 2)
    with pytest.raises(ValueError, match="`retract`: expected a Retraction"):
        argmin(energy, jnp.eye(3), jnp.eye(3), retract=SO3)
    with pytest.raises(ValueError, match="`y`: expected"):
        argmin(energy, jnp.zeros(3), jnp.zeros(3), retract=SO3())
    with pytest.raises(ValueError, match="must be a dictionary with the entries"):
        argmin(energy, jnp.eye(3), jnp.eye(3), retract=RIGID)
    with pytest.raises(ValueError, match="`R`: expected a manifold"):
        Product(R=SO3)
    with pytest.raises(ValueError, match="needs a vector space without bounds, got 'prox'"):
        argmin(energy, jnp.eye(3), jnp.eye(3), retract=SO3(), init_gradient="prox")
    solver = MultiStart(Newton(), jnp.zeros((2, 3, 3)))
    with pytest.raises(ValueError, match="`MultiStart`: needs a vector space"):
        argmin(energy, jnp.eye(3), jnp.eye(3), retract=SO3(), solver=solver)
