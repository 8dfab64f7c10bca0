"""Minimisers on the boundary of a box: scipy's energies, and the gradient on the free unknowns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv import argmin, argmin_least_squares
from tests.helpers import UNDAMPED, assert_grad_matches, outer_loss
from tests.problems.bounded import PROBLEMS, scipy_lbfgsb, scipy_trf

QUICK = ["learned_bounds"]


def names(residual=False):
    """The problems, or those with a residual: the quick ones in the default run."""
    for name, problem in PROBLEMS.items():
        marks = [] if name in QUICK else [pytest.mark.slow]
        if problem.residual is not None or not residual:
            yield pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", list(names()))
def test_energy_and_gradient_at_active_bounds(name):
    problem = PROBLEMS[name]

    def loss(theta):
        bounds = problem.bounds(theta)
        start = jnp.asarray(problem.start)
        solution = argmin(problem.energy, start, theta, bounds=bounds, damping=UNDAMPED)
        return outer_loss(solution.value), solution

    with jax.enable_x64(True):
        theta = jax.tree.map(lambda x: jnp.asarray(x, float), problem.theta)
        gradient, solution = jax.jit(jax.grad(loss, has_aux=True))(theta)
        assert solution.converged
        assert solution.active == problem.active
        peers = [scipy_lbfgsb, scipy_trf] if problem.residual else [scipy_lbfgsb]
        best = min(float(problem.energy(peer(problem).value, theta)) for peer in peers)
        assert solution.energy <= best + 1e-8 * abs(best)
        # The shifts are so small that the active set stays.
        assert_grad_matches(
            lambda theta: loss(theta)[0], theta, jax.random.key(0), gradient=gradient
        )


@pytest.mark.parametrize("name", list(names(residual=True)))
def test_least_squares_at_active_bounds(name):
    problem = PROBLEMS[name]
    with jax.enable_x64(True):
        bounds = problem.bounds(problem.theta)
        solution = argmin_least_squares(
            problem.residual, jnp.asarray(problem.start), problem.theta, bounds=bounds
        )
        best = float(problem.energy(scipy_trf(problem).value, problem.theta))
        assert solution.energy <= best + 1e-8 * abs(best)
        assert np.all(solution.value >= bounds[0])
        assert np.all(solution.value <= bounds[1])
        assert solution.converged
