"""`argmin_jvp`, and the rule that has a forward and a reverse mode, `autodiff="both"`."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv import Damping, argmin, argmin_jvp, argmin_vjp, attach
from tests.helpers import UNDAMPED, assert_close, flat, outer_loss, problem, random_direction

MODES = ("shift", "plain", "tikhonov")


def solve(name, damping, autodiff, linear="auto"):
    energy, y0, theta, data = problem(name)
    run = functools.partial(argmin, energy, damping=damping, linear=linear, autodiff=autodiff)
    return (lambda theta: run(y0, theta, data).value), theta


@pytest.mark.parametrize(
    "name", ["rbf", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mixture", "tree"))]
)
def test_forward_mode_equals_differences_and_reverse_mode(name):
    with jax.enable_x64(True):
        values, theta = solve(name, UNDAMPED, "both")
        direction = random_direction(theta, jax.random.key(0))
        moved = lambda h: values(jax.tree.map(lambda x, d: x + h * d, theta, direction))
        quotient = (flat(moved(1e-5)) - flat(moved(-1e-5))) / 2e-5
        y, y_dot = jax.jit(jax.jvp, static_argnums=0)(values, (theta,), (direction,))
        assert_close(y_dot, quotient, 1e-6)

        reverse, _ = solve(name, UNDAMPED, "reverse")
        loss = lambda values: jax.jit(jax.grad(lambda t: outer_loss(values(t))))
        assert_close(loss(values)(theta), loss(reverse)(theta), 1e-11)

        energy, _, _, data = problem(name)
        by_function, _ = argmin_jvp(energy, y, theta, direction, data, damping=UNDAMPED)
        assert_close(by_function, y_dot, 1e-11)


@pytest.mark.parametrize(
    ("linear", "mode"),
    [
        ("cholesky", "shift"),
        *(
            pytest.param(linear, mode, marks=pytest.mark.slow)
            for linear in ("cholesky", "cg")
            for mode in MODES
            if (linear, mode) != ("cholesky", "shift")
        ),
    ],
)  # fmt: skip
def test_pushforward_is_the_transpose_of_the_pullback(mode, linear):
    with jax.enable_x64(True):
        energy, y0, theta, data = problem("valley")
        y = argmin(energy, y0, theta, data).value
        theta_dot = random_direction(theta, jax.random.key(1))
        y_bar = random_direction(y, jax.random.key(2))
        for order in (1, 3) if linear == "cholesky" else (2,):
            damping = Damping(0.3, order=order, mode=mode)
            how = {"damping": damping, "linear": linear}
            y_dot, report = argmin_jvp(energy, y, theta, theta_dot, data, **how)
            theta_bar, _ = argmin_vjp(energy, y, theta, y_bar, data, **how)
            right = np.dot(flat(theta_bar), flat(theta_dot))
            np.testing.assert_allclose(np.dot(flat(y_bar), flat(y_dot)), right, rtol=1e-8)
            assert report.adjoint_residual < 1e-9
            assert np.linalg.norm(flat(y_dot)) <= report.gradient_bound


@pytest.mark.slow
def test_second_derivatives_in_every_order_of_modes():
    with jax.enable_x64(True):
        values, theta = solve("mixture", UNDAMPED, "both")
        reverse, _ = solve("mixture", UNDAMPED, "reverse")
        loss = lambda t: outer_loss(values(t))
        want = jax.jit(jax.jacrev(jax.grad(lambda t: outer_loss(reverse(t)))))(theta)
        for twice in (
            jax.hessian(loss),
            jax.jacrev(jax.jacrev(loss)),
            jax.jacrev(jax.jacfwd(loss)),
        ):
            assert_close(jax.jit(twice)(theta), want, 1e-9)


@pytest.mark.slow
def test_batches_and_failed_lanes():
    with jax.enable_x64(True):
        energy = lambda y, t, d: jnp.sum(jnp.cosh(y - t * d)) + jnp.sum(y**4)

        def total(theta, data, damping):
            one = lambda d: (
                argmin(energy, jnp.zeros(2), theta, (d,), damping=damping, autodiff="both").value
            )
            values = jax.vmap(one)(data)
            return jnp.sum(jnp.where(jnp.isfinite(values), values, 0))

        data = jnp.linspace(0.5, 2, 8).reshape(4, 2)
        bad = data.at[2, 0].set(jnp.nan)
        for mode, transform in (
            ("shift", jax.grad),
            ("shift", jax.jacfwd),
            ("tikhonov", jax.grad),
        ):
            damping = Damping(0.1, mode=mode)
            derivative = jax.jit(transform(total))
            want = (
                derivative(1.0, data, damping)
                - derivative(1.0, data.at[:].set(data[2]), damping) / 4
            )
            assert_close(derivative(1.0, bad, damping), want, 1e-12)


@pytest.mark.slow
def test_integer_data_keys_and_attach():
    with jax.enable_x64(True):
        energy, y0, theta, data = problem("huber")  # reads a mask, integers and a PRNG key
        y = argmin(energy, y0, theta, data).value
        attached = lambda t: attach(energy, y, t, data, damping=UNDAMPED, autodiff="both")
        values, _ = solve("huber", UNDAMPED, "both")
        direction = random_direction(theta, jax.random.key(3))
        got = jax.jvp(attached, (theta,), (direction,))[1]
        assert_close(got, jax.jvp(values, (theta,), (direction,))[1], 1e-10)
        # Neither the start nor the minimiser has a derivative.
        still = jax.jvp(lambda y: attach(energy, y, theta, data, autodiff="both"), (y,), (y,))[1]
        assert np.all(np.asarray(still) == 0)


@pytest.mark.parametrize(
    ("theta_dot", "message"),
    [
        ({"a": jnp.ones(2)}, "`theta_dot`: expected the tree of `theta`"),
        (jnp.ones(3), "`theta_dot`: expected the shape (2,) of `theta`"),
        (jnp.ones(2, int), "`theta_dot`: expected a real floating-point array"),
    ],
)
def test_bad_direction(theta_dot, message):
    energy = lambda y, t: jnp.sum((y - t) ** 2)
    with pytest.raises(ValueError, match=re.escape(message)):
        argmin_jvp(energy, jnp.ones(2), jnp.ones(2), theta_dot)


def test_unknown_rule():
    energy = lambda y, t: jnp.sum((y - t) ** 2)
    with pytest.raises(ValueError, match="`autodiff`: expected one of 'reverse', 'both'"):
        argmin(energy, jnp.ones(2), jnp.ones(2), autodiff="forward")
