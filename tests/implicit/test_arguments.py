"""Every mistake in an argument is a ValueError of one line that names the argument."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcv
from jaxcv import Damping, argmin, argmin_least_squares, argmin_vjp, attach
from jaxcv.implicit import curvature, expected_over_minima
from jaxcv.least_squares import Huber, PseudoHuber, Welsch, covariance
from jaxcv.linear import Arrow, BlockDiagonal, ConjugateGradient
from jaxcv.solvers import FinalNewtonStep, MultiStart, Newton
from jaxcv.solvers.protocol import run

ONES = np.ones(2, np.float32)


def energy(y, t, *data):
    return jnp.sum(0.5 * (y - t) ** 2 + 0.25 * y**4)


def residual(y, t, *data):
    return jnp.stack([y - t, y**2 * 0.5**0.5])


def halfway(state, t):
    return 0.5 * (state + t)


def unrolled(step=halfway, state0=0.5, t=2.0, **settings):
    return jaxcv.unrolled_solve(step, state0, t, **{"num_steps": 2} | settings)


def with_energy(function, **settings):
    return argmin(function, 0.0, 1.0, **settings)


def two_minima(temperature):
    solution = argmin(energy, 0.5, 2.0, solver=MultiStart(Newton(), ONES, keep=2))
    return expected_over_minima(lambda y: y, solution, temperature)


def of_functions():
    yield "energy", lambda: with_energy(None)
    yield "energy", lambda: with_energy(lambda y, t: "x")
    yield "energy", lambda: with_energy(lambda y, t: None)
    yield "energy", lambda: with_energy(lambda y, t: (y, t))
    yield "energy", lambda: with_energy(lambda y, t: jnp.stack([y, t]))
    yield "energy", lambda: with_energy(energy, has_aux=True)
    yield "energy[1]", lambda: with_energy(lambda y, t: (y, "x"), has_aux=True)
    yield "energy", lambda: attach(lambda y, t: "x", 0.0, 1.0)
    yield "energy", lambda: next(run(Newton(), None, 1.0, 1.0))
    yield "energy", lambda: next(run(Newton(), lambda y, t: (y, t), 1.0, 1.0))
    yield "energy", lambda: curvature(None, 1.0, 2.0)
    yield "residual", lambda: argmin_least_squares(lambda y, t: "x", 0.0, 1.0)
    yield "residual", lambda: argmin_least_squares(lambda y, t: jnp.zeros(0), 0.0, 1.0)
    yield "residual", lambda: covariance(None, 1.0, 2.0)
    yield "residual", lambda: covariance(lambda y, t: "x", 1.0, 2.0)
    yield "step", lambda: unrolled(lambda s, t: "x")
    yield "step", lambda: unrolled(lambda s, t: (s, s))
    yield "stop", lambda: unrolled(stop=3)
    yield "stop", lambda: unrolled(stop=lambda old, new: "x")
    yield "solve", lambda: attach(energy, 1.0, 2.0, solve=3)
    of_two = lambda y, t, data, value, v: jnp.ones(2)
    yield "solve", lambda: jax.grad(lambda t: attach(energy, 1.0, t, solve=of_two))(2.0)


def of_arrays():
    yield "y0['k']", lambda: argmin(energy, {"k": 1}, 1.0)
    yield "y0", lambda: argmin_least_squares(residual, None, 1.0)
    yield "y0", lambda: argmin(energy, np.zeros(2, ">f4"), 1.0)
    yield "y0", lambda: next(run(Newton(), energy, "x", 1.0))
    yield "y", lambda: curvature(energy, None, 2.0)
    yield "state0", lambda: unrolled(state0="x")
    yield "theta['n']", lambda: argmin_least_squares(residual, 0.0, {"n": "x"})
    yield "theta", lambda: argmin(energy, 0.0, jax.random.key(0))
    yield "y_bar", lambda: argmin_vjp(energy, 1.0, 1.0, jnp.ones(1))
    yield "data", lambda: argmin(energy, 0.0, 1.0, jnp.ones(1))
    yield "data", lambda: next(run(Newton(), energy, 1.0, 1.0, 3.0))
    yield "data[0]", lambda: argmin(energy, 0.0, 1.0, ("x",))
    yield "bounds", lambda: argmin(energy, 0.0, 1.0, bounds=1.0)
    yield "bounds.lower", lambda: argmin(energy, 0.0, 1.0, bounds=("a", 1.0))
    yield "bounds.upper", lambda: argmin(energy, 0.0, 1.0, bounds=(None, 1j))
    yield "seeds", lambda: MultiStart(Newton(), np.array(["a", "b"]))
    yield "seeds", lambda: argmin(energy, 0.5, 1.0, solver=MultiStart(Newton(), lambda t: "ab"))
    wide = PseudoHuber(jnp.ones(3))
    squares = lambda y, t: y - t
    yield "scale", lambda: argmin_least_squares(squares, jnp.zeros(2), 1.0, kernel=wide)


def of_settings():
    yield "solver", lambda: with_energy(energy, solver=Newton)
    yield "linear", lambda: with_energy(energy, linear=BlockDiagonal)
    yield "linear", lambda: attach(energy, 0.0, 1.0, linear=Arrow)
    structure = ConjugateGradient
    yield "structure", lambda: argmin_least_squares(residual, 0.0, 1.0, structure=structure)
    yield "kernel", lambda: argmin_least_squares(residual, 0.0, 1.0, kernel=Huber)
    yield "autodiff", lambda: with_energy(energy, autodiff=["both"])
    yield "diagnostics", lambda: with_energy(energy, diagnostics="yes")
    yield "has_aux", lambda: with_energy(energy, has_aux="yes")
    yield "num_steps", lambda: unrolled(num_steps=1.5)
    yield "scale", lambda: Huber((1.0, 2.0))
    yield "scale", lambda: Welsch(jnp.array(-1.0))
    yield "damping", lambda: FinalNewtonStep(Newton(), 0.1)
    yield "damping.value", lambda: FinalNewtonStep(Newton(), Damping(ONES))
    yield "damping.value", lambda: curvature(energy, 1.0, 2.0, damping=Damping(ONES))
    yield "damping.value", lambda: Damping(jnp.array(-1.0))
    yield "damping.value", lambda: Damping(jnp.array(1j))
    yield "separation", lambda: MultiStart(Newton(), ONES, separation=-1)
    yield "temperature", lambda: two_minima(np.float32(-1))
    yield "temperature", lambda: two_minima("x")


@pytest.mark.parametrize(
    ("name", "call"),
    [
        pytest.param(name, call, id=f"{table.__name__}-{index}-{name}")
        for table in (of_functions, of_arrays, of_settings)
        for index, (name, call) in enumerate(table())
    ],
)
def test_a_bad_argument_is_named_in_one_line(name, call):
    with pytest.raises(ValueError, match=f"^`{re.escape(name)}`") as raised:
        call()
    assert "\n" not in str(raised.value)


def test_a_tolerance_is_no_bool():
    with pytest.raises(ValueError, match=r"^`tolerance`"):
        Newton(tolerance=True)


def test_numbers_may_be_integers_and_tracers():
    assert Huber(jnp.array(2)).scale == Huber(2).scale == 2
    assert Huber(np.array([1, 2])).scale.dtype == float
    assert jax.jit(lambda scale: Huber(scale).scale)(2) == 2
    assert jax.jit(lambda value: Damping(value).value)(-1.0) == -1


def test_an_energy_of_two_results_is_told_of_has_aux():
    with pytest.raises(ValueError, match="has_aux=True"):
        with_energy(lambda y, t: (y**2, t))


_FORWARD = {
    "argmin": lambda t: argmin(energy, 0.5, t).value,
    "nested": lambda t: argmin(lambda y, t: energy(y, t) + attach(energy, 0.5, y), 0.5, t).value,
    "vjp": lambda t: argmin_vjp(lambda y, t: attach(energy, 0.5, y) + t, 0.5, t, 1.0)[0],
    "curvature": lambda t: curvature(lambda y, t: attach(energy, 0.5, y), 0.5, t).factor,
    "unrolled": lambda t: unrolled(t=t, autodiff="reverse")[-1],
    "stop": lambda t: unrolled(t=t, stop=lambda old, new: new < old)[-1],
}


# After jax.jit or lax.scan the error is JAX's own: it is raised where no code of ours runs.
@pytest.mark.parametrize("call", _FORWARD.values(), ids=_FORWARD.keys())
def test_forward_mode_is_told_of_autodiff(call):
    with pytest.raises(TypeError, match='autodiff="both"'):
        jax.jacfwd(call)(2.0)
