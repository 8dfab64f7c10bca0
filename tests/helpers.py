"""Shared test helpers: comparisons of trees and of gradients, and energies with structure."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv import Damping

UNDAMPED = Damping(0.0, mode="plain")


def mostly_slow(values, default):
    """Parameters of a test; all but those in `default` are marked slow."""
    tuples = [value if isinstance(value, tuple) else (value,) for value in values]
    marks = [[] if value in default else [pytest.mark.slow] for value in values]
    return [pytest.param(*each, marks=mark) for each, mark in zip(tuples, marks, strict=True)]


def flat(tree):
    """The leaves of `tree` as one float64 NumPy vector."""
    return np.concatenate([np.ravel(np.asarray(leaf, float)) for leaf in jax.tree.leaves(tree)])


def relative_error(got, want):
    """|got - want| / |want| over all leaves of two trees, in float64."""
    got, want = flat(got), flat(want)
    return np.linalg.norm(got - want) / max(np.linalg.norm(want), 1e-300)


def assert_close(got, want, rtol):
    """Asserts that the relative error of the whole tree is at most `rtol`."""
    error = relative_error(got, want)
    assert error <= rtol, f"relative error {error:.2e} above {rtol:.0e}"


def random_direction(tree, key):
    """A tree like `tree`, of norm one."""
    leaves, treedef = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    draws = [
        jax.random.normal(k, jnp.shape(leaf), leaf.dtype)
        for k, leaf in zip(keys, leaves, strict=True)
    ]
    norm = np.linalg.norm(flat(draws))
    return treedef.unflatten([draw / norm for draw in draws])


def assert_grad_matches(loss, theta, key, *, steps=(1e-2, 1e-3, 1e-4), rtol=1e-6, gradient=None):
    """Compares grad(loss) along a random direction with central differences, of error O(h^2).

    Call it with 64-bit floats enabled. The first two steps check the order, the last the value.
    `loss` returns a scalar, or an array whose derivative is `gradient` (a tree like theta with the
    axes of the loss in front). Returns the relative error at the last step.
    """
    direction = random_direction(theta, key)

    def at(h):
        return loss(jax.tree.map(lambda x, d: x + h * d, theta, direction))

    shifts = np.array([[h, -h] for h in steps])
    values = np.asarray(jax.jit(jax.vmap(at))(jnp.asarray(shifts.ravel())))
    values = values.reshape(len(steps), 2, -1)
    quotients = (values[:, 0] - values[:, 1]) / (2 * np.asarray(steps)[:, None])
    gradient = jax.jit(jax.grad(loss))(theta) if gradient is None else gradient
    exact = sum(
        np.tensordot(np.asarray(g), np.asarray(d), axes=np.ndim(d))
        for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    )
    exact = np.ravel(exact)
    errors = np.linalg.norm(quotients - exact, axis=1) / np.linalg.norm(exact)
    assert np.all(np.isfinite(errors))
    assert errors[-1] <= rtol, f"relative error {errors[-1]:.2e} above {rtol:.0e}"
    ratio = (steps[1] / steps[0]) ** 2
    message = f"errors {errors} do not fall as h^2: look at the solver's tolerance"
    assert errors[1] <= 3 * ratio * errors[0] or errors[1] <= 1e-9, message
    return errors[-1]


def rbf_energy(y, width, points):
    """sum_i 1 - exp(-(y - x_i)^2 / s^2) of a scalar y, for width s and points (m,)."""
    return jnp.sum(-jnp.expm1(-(((y - points) / width) ** 2)))


def mixture_energy(y, theta, points):
    """-sum_i w_i exp(-|y - x_i|^2 / s^2) + |y|^2 / 100 of y (d,), for points (m, d)."""
    square = jnp.sum((y - points) ** 2, axis=-1)
    bumps = jnp.exp(theta["log_weights"] - square * jnp.exp(-2 * theta["log_width"]))
    return -jnp.sum(bumps) + 0.01 * jnp.sum(y**2)


def valley_energy(y, theta):
    """Rosenbrock's chain with free coefficients: y (n,), theta = (a (n-1,), b (n-1,))."""
    a, b = theta
    return jnp.sum(a * (y[1:] - y[:-1] ** 2) ** 2 + (b - y[:-1]) ** 2)


def huber_energy(y, theta, design, kept, order, key):
    """Pseudo-Huber regression of y (n,) on the rows of `design` (m, n) that `kept` marks.

    Its data include a boolean mask, an integer permutation and a PRNG key.
    """
    jitter = 0.01 * jax.random.normal(key, kept.shape, y.dtype)
    residual = ((design @ y - theta["targets"])[order] + jitter) * jnp.exp(-theta["log_width"])
    terms = jnp.sqrt(1 + residual**2) - 1
    return jnp.sum(jnp.where(kept, terms, 0)) + 0.005 * jnp.sum(y**2)


def tree_energy(y, theta, signs):
    """A coupled energy of y = {"a": (2, 3), "b": ()} with theta = [(3,), {"m": (2, 3)}]."""
    rows, rest = theta
    term = y["a"] @ rows - jnp.array([1.0, -2.0], rows.dtype) * y["b"]
    pull = jnp.sum((y["a"] - signs * jnp.tanh(rest["m"])) ** 2)
    return (
        jnp.sum(term**2) + pull + jnp.sum(jnp.cosh(0.5 * y["a"])) + (y["b"] - 1) ** 4 + y["b"] ** 2
    )


def problem(name):
    """(energy, y0, theta, data) of a smooth test problem with a regular minimum, in float64."""
    rng = np.random.default_rng(7)
    if name == "rbf":
        points = np.concatenate([2 + rng.normal(size=30), rng.uniform(-20, 20, 80)])
        return rbf_energy, jnp.asarray(2.0), jnp.asarray(3.0), (jnp.asarray(points),)
    if name == "mixture":
        points = jnp.asarray(np.array([1.0, -0.5]) + 0.7 * rng.normal(size=(25, 2)))
        log_weights = jnp.asarray(0.3 * rng.normal(size=25))
        theta = {"log_width": jnp.asarray(0.4), "log_weights": log_weights}
        return mixture_energy, jnp.array([0.8, -0.2]), theta, (points,)
    if name == "valley":
        theta = jnp.asarray(rng.uniform(3, 10, 4)), jnp.asarray(rng.uniform(0.8, 1.2, 4))
        return valley_energy, jnp.full(5, 0.9), theta, ()
    if name == "huber":
        design = jnp.asarray(rng.normal(size=(60, 20)))
        targets = jnp.asarray(2 * rng.normal(size=60))
        theta = {"targets": targets, "log_width": jnp.asarray(0.2)}
        kept = jnp.asarray(rng.random(60) < 0.9)
        order = jnp.asarray(rng.permutation(60))
        return huber_energy, jnp.zeros(20), theta, (design, kept, order, jax.random.key(3))
    if name == "tree":
        y0 = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(())}
        theta = [jnp.asarray(rng.normal(size=3)), {"m": jnp.asarray(rng.normal(size=(2, 3)))}]
        return tree_energy, y0, theta, (jnp.array([[1, -1, 1], [-1, 1, 1]]),)
    raise ValueError(name)


def outer_loss(y):
    """A loss without symmetries, of the leaves of y."""
    leaves = jax.tree.leaves(y)
    return sum(jnp.sum(jnp.sin(leaf + i) + 0.3 * leaf**2) for i, leaf in enumerate(leaves, 1))
