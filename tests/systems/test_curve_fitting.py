"""The curve solvers: known-good numbers of the baseline, gradients and encodings of the network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.data.synthetic.curves import draw_curves
from jaxcv.energies.curves import FAMILIES, curve_terms
from jaxcv.models.curve_solver import CurveSolver, encode_curve
from jaxcv.systems.curve_fitting import (
    curve_energies,
    fit_curves,
    fit_curves_by_marquardt,
    init_curve_solver,
)

pytestmark = pytest.mark.optimised

NAMES = tuple(FAMILIES)


def problems(count, names=NAMES, seed=0):
    draw = lambda key: draw_curves(key, [FAMILIES[name] for name in names], count)
    return jax.jit(draw)(jax.random.key(seed))


@pytest.mark.slow
def test_baseline_has_its_known_numbers():
    # Medians over 2000 problems elsewhere: (iteration, exponential, sine, sinc, gaussian).
    known = {3: (0.637, 0.738, 0.585, 0.538), 15: (0.502, 0.529, 0.486, 0.488)}
    p = problems(1000)
    found = jax.jit(functools.partial(fit_curves_by_marquardt, NAMES))(p.t, p.y, p.start)
    energies = np.asarray(curve_energies(NAMES, p.t, p.y, found))
    truth = np.asarray(curve_energies(NAMES, p.t, p.y, p.truth))
    np.testing.assert_allclose(np.median(truth, axis=1), 0.5, rtol=0.03)
    np.testing.assert_allclose(np.median(energies[14], axis=1), known[15], rtol=0.03)
    np.testing.assert_allclose(np.median(energies[2], axis=1)[2:], known[3][2:], rtol=0.05)
    assert np.all(np.diff(energies, axis=0) <= 1e-5 * energies[:-1])
    solved = np.mean(energies[14] <= 1.05 * truth, axis=1)
    np.testing.assert_allclose(solved, (0.889, 0.702, 0.997, 1.0), atol=0.04)


@pytest.mark.slow
@pytest.mark.parametrize("through", [False, True])
def test_gradient_is_that_of_the_steps_as_written(through):
    with jax.enable_x64(True):
        names = ("sine", "gaussian")
        p = problems(3, names)
        p = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), p)
        network = CurveSolver(4)
        params = jax.tree.map(
            lambda leaf: 3 * leaf.astype(jnp.float64),
            init_curve_solver(jax.random.key(1), network),
        )
        run = functools.partial(
            fit_curves, families=names, t=p.t, y=p.y, start=p.start, network=network, num_steps=3
        )

        def loss(params):
            found = run(params, through_encoding=through)
            return jnp.mean(curve_energies(names, p.t, p.y, found))

        gradient = jax.grad(loss)(params)
        direction = jax.tree.map(jnp.cos, params)
        slope = sum(
            jnp.vdot(a, b)
            for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
        )
        move = lambda h: loss(jax.tree.map(lambda a, b: a + h * b, params, direction))
        difference = (move(1e-5) - move(-1e-5)) / 2e-5
        if through:
            assert slope == pytest.approx(float(difference), rel=1e-6)
        else:  # a part of it
            assert slope != pytest.approx(float(difference), rel=1e-3)
            assert jnp.isfinite(slope)


@pytest.mark.slow
def test_the_paper_encoding_is_blind_to_the_sign_of_the_jacobian():
    p = problems(1)
    terms = curve_terms("sine", p.start[1, 0], p.t[1], p.y[1, 0])
    turned = terms._replace(jacobian=-terms.jacobian, gradient=-terms.gradient)
    for encoding, blind in (("paper", True), ("gradient", False), ("gauss_newton", False)):
        first, second = (
            encode_curve(p.start[1, 0], both, jnp.ones(()), jnp.zeros(2), encoding)[0]
            for both in (terms, turned)
        )
        assert np.array_equal(first, second) == blind


def test_the_published_encoding_is_jtj_the_whole_residual_and_x():
    """3 entries of J^T J, 2 of x and 100 residuals; nothing of the energy or the last move."""
    p = problems(1)
    x = p.start[1, 0]
    terms = curve_terms("sine", x, p.t[1], p.y[1, 0])
    run = functools.partial(encode_curve, encoding="paper", progress=False, bins=100)
    features, _ = run(x, terms, jnp.ones(()), jnp.zeros(2))
    again, _ = run(x, terms, jnp.zeros(()), jnp.ones(2))
    np.testing.assert_array_equal(features, again)
    assert features.shape == (2, 3 + 2 + 100)
    np.testing.assert_array_equal(features[:, 3:5], [[x[0], x[1]], [x[1], x[0]]])
    np.testing.assert_allclose(0.1 * jnp.sinh(features[0, 5:]), terms.residual, rtol=1e-4)


@pytest.mark.slow
def test_a_problem_does_not_see_its_neighbours():
    p, network = problems(4), CurveSolver()
    params = init_curve_solver(jax.random.key(0), network)
    all_ = fit_curves(params, NAMES, p.t, p.y, p.start, num_steps=3)
    one = fit_curves(params, NAMES[1:2], p.t[1:2], p.y[1:2, 2:3], p.start[1:2, 2:3], num_steps=3)
    np.testing.assert_allclose(all_[:, 1, 2], one[:, 0, 0], atol=1e-5)


def test_bad_input():
    p = problems(2)
    with pytest.raises(ValueError, match=r"`t`: expected \(1, N\), y \(1, P, N\).*Stack"):
        fit_curves_by_marquardt(["sine"], p.t, p.y, p.start)
    with pytest.raises(ValueError, match=r"`family`: expected one of"):
        fit_curves_by_marquardt(["sign"], p.t[:1], p.y[:1], p.start[:1])
    with pytest.raises(ValueError, match=r"`t`: expected a multiple of 10 points, got 99"):
        fit_curves({}, ["sine"], p.t[1:2, 1:], p.y[1:2, :, 1:], p.start[1:2])
    with pytest.raises(ValueError, match=r"`noise`: expected at least 0, got nan"):
        draw_curves(jax.random.key(0), list(FAMILIES.values()), 1, noise=float("nan"))
    with pytest.raises(ValueError, match=r"`encoding`: expected one of 'paper'"):
        init_curve_solver(jax.random.key(0), CurveSolver(encoding="all"))
