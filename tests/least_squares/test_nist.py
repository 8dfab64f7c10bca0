"""Least squares on the regression problems of NIST, against certified values.

Every file `nist/*.dat` of the real data is tested, so that a folder with all 27 problems is, too.
"""

import functools
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv import argmin_least_squares
from jaxcv.least_squares import covariance
from tests.helpers import mostly_slow
from tests.problems.nist import MODELS, digits, read

FILES = sorted(pathlib.Path(os.environ.get("JAXCV_REAL_DATA", "/nowhere"), "nist").glob("*.dat"))
MIN_DIGITS = 4
# The certified residual of Lanczos1 is 9e-14: in float64 its size is known to two or three digits,
# and at the certified values, which are rounded to 11 digits, it is another.
ROUNDED = "Lanczos1"

pytestmark = pytest.mark.real_data
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
HARD = [path for path in FILES if path.stem in ("MGH10", "Hahn1", "BoxBOD", "Bennett5", "Lanczos1")]
mostly = pytest.mark.parametrize("path", mostly_slow(FILES, HARD), ids=lambda path: path.stem)


class Fit:
    """One problem with a compiled solve and a compiled covariance, shared by both starts."""

    def __init__(self, path):
        self.problem = read(path)
        model = MODELS[self.problem.name]
        self.data = jnp.asarray(self.problem.x), jnp.asarray(self.problem.y)
        self.residual = lambda b, theta, x, y: model(b, x) - y

    @functools.cached_property
    def solve(self):
        return jax.jit(lambda start, data: argmin_least_squares(self.residual, start, (), data))

    @functools.cached_property
    def covariance(self):
        return jax.jit(lambda b, data: covariance(self.residual, b, (), data))


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def fit(path):
    return Fit(path)


@each_file
def test_residual_sum_at_certified_values(path, float64):
    problem, residual = fit(path).problem, fit(path).residual
    terms = np.asarray(residual(jnp.asarray(problem.certified), (), *fit(path).data))
    if problem.name == ROUNDED:
        assert np.max(np.abs(terms)) < 1e-10
    else:
        np.testing.assert_allclose(terms @ terms, problem.residual_sum, rtol=1e-10)


@pytest.mark.parametrize("start", [0, 1], ids=["start1", "start2"])
@mostly
def test_parameters_match_certified_values(path, start, float64):
    problem = fit(path).problem
    sol = fit(path).solve(jnp.asarray(problem.starts[start]), fit(path).data)
    correct = digits(sol.value, problem.certified)
    assert correct >= MIN_DIGITS, f"{correct:.1f} digits after {sol.steps} steps: {sol.value}"
    assert sol.converged


@mostly
def test_deviations_match_certified_values(path, float64):
    problem, data = fit(path).problem, fit(path).data
    value = fit(path).solve(jnp.asarray(problem.starts[1]), data).value
    matrix = np.asarray(fit(path).covariance(value, data))
    np.testing.assert_allclose(matrix, matrix.T, rtol=1e-6)
    deviations = np.sqrt(np.diag(matrix))
    if problem.name == ROUNDED:
        assert digits(deviations, problem.deviations) >= 2
        scale = problem.deviations[0] / deviations[0]
        assert digits(scale * deviations, problem.deviations) >= MIN_DIGITS
    else:
        assert digits(deviations, problem.deviations) >= MIN_DIGITS
