"""JAX's checks, threads, devices, exports and kinds of leaves that a call may meet.

The energy is 1/2 (y - t)^2 + 1/4 y^4, whose minimum at t = 2 is 1 with dy*/dt = 1/4.
"""

import functools
import gc
import os
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv import Damping, argmin, argmin_least_squares, attach, unrolled_solve
from jaxcv.linear import BlockDiagonal
from jaxcv.solvers import LBFGS, MultiStart, Newton

UNDAMPED = Damping(0.0)
Y, T = jnp.full(2, 0.5), jnp.full(2, 2.0)


def energy(y, t, *data):
    return sum(jnp.sum(0.5 * (leaf - t) ** 2 + 0.25 * leaf**4) for leaf in jax.tree.leaves(y))


def residual(y, t):
    return jnp.stack([y - t, y**2 * 0.5**0.5])


def halfway(state, t):
    return 0.5 * (state + t)


def total(tree):
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(tree))


def minimum(t, *data, function=energy, y0=Y, **settings):
    return total(argmin(function, y0, t, data, damping=UNDAMPED, **settings).value)


_CALLS = {
    "attach": lambda t: attach(energy, jnp.ones(2), t),
    "unrolled": lambda t: unrolled_solve(halfway, Y, t, num_steps=2),
    "lbfgs": lambda t: argmin(energy, Y, t, solver=LBFGS()).value,
    "newton": lambda t: argmin(energy, Y, t).value,
    "least_squares": lambda t: argmin_least_squares(residual, Y, t).value,
}
_CHECKS = {
    "leaks": jax.checking_leaks,
    "nans": lambda: jax.debug_nans(True),
    "types": lambda: jax.enable_checks(True),
    "strict_rank": lambda: jax.numpy_rank_promotion("raise"),
    "strict_dtype": lambda: jax.numpy_dtype_promotion("strict"),
}


def _marks(name):
    return [pytest.mark.slow] if name in ("newton", "least_squares", "lbfgs") else []


@pytest.mark.parametrize(
    ("check", "name"),
    [pytest.param(check, name, marks=_marks(name)) for check in _CHECKS for name in _CALLS],
)
def test_a_gradient_passes_the_checks_of_jax(check, name):
    with _CHECKS[check]():
        slope = jax.grad(lambda t: total(_CALLS[name](t)))(T)
    assert jnp.all(jnp.isfinite(slope))


def test_threads_share_an_energy():
    found = [None] * 8

    def work(index):
        found[index] = jax.grad(minimum)(T)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose(np.stack(found), 0.25, rtol=1e-4)


@pytest.mark.slow
def test_a_thousand_energies_leave_nothing_behind():
    shifted = lambda shift, y, t: energy(y, t) + jnp.sum(0 * shift)
    made = (
        lambda shift: lambda y, t: shifted(shift, y, t),
        lambda shift: functools.partial(shifted, shift),
        lambda shift: jax.tree_util.Partial(shifted, shift),
        lambda shift: jax.jit(lambda y, t: shifted(shift, y, t)),
    )
    attach(made[0](jnp.ones(100)), 1.0, 2.0)
    gc.collect()
    before = len(jax.live_arrays())
    for index in range(1000):
        attach(made[index % 4](jnp.full(100, float(index))), 1.0, 2.0)
    gc.collect()
    assert len(jax.live_arrays()) <= before + 2


def test_an_exported_gradient_is_the_same():
    slope = jax.jit(jax.grad(minimum))
    exported = jax.export.export(slope)(jax.ShapeDtypeStruct((2,), jnp.float32))
    assert "callback" not in exported.mlir_module()
    np.testing.assert_allclose(exported.call(T), slope(T), rtol=1e-6)
    pytest.importorskip("flatbuffers")
    again = jax.export.deserialize(exported.serialize())
    np.testing.assert_allclose(again.call(T), slope(T), rtol=1e-6)


@pytest.mark.slow
def test_a_minimiser_inside_an_energy_has_the_difference_quotient():
    with jax.enable_x64(True):
        start = jnp.full(2, 0.5)
        inner = lambda y: minimum(y, y0=start, autodiff="both") ** 2
        solve = lambda t: minimum(t, y0=start, function=lambda y, t: energy(y, t) + inner(y))
        slope, step = jax.grad(solve)(2.0), 1e-4
        central = (solve(2 + step) - solve(2 - step)) / (2 * step)
    np.testing.assert_allclose(slope, central, rtol=1e-5)


def test_seeds_may_be_traced():
    slope = lambda seeds: jax.grad(lambda t: minimum(t, solver=MultiStart(Newton(), seeds)))(T)
    np.testing.assert_allclose(jax.jit(jax.vmap(slope))(jnp.ones((2, 3, 2))), 0.25, rtol=1e-4)


def test_settings_may_be_numbers_of_numpy():
    solver = MultiStart(Newton(max_steps=np.int64(50)), np.ones((2, 2)), keep=np.int32(2))
    damping = Damping(np.float32(0.1), np.int32(2), relative=np.False_)
    settings = {"solver": solver, "damping": damping, "linear": BlockDiagonal(np.int64(2))}
    found = argmin(energy, Y, T, history=np.int64(2), diagnostics=np.True_, **settings)
    np.testing.assert_allclose(found.value, 1, rtol=1e-4)
    unrolled = unrolled_solve(halfway, Y, T, num_steps=np.int64(2), truncation=np.uint8(1))
    assert unrolled.shape == (2, 2)


@pytest.mark.parametrize("autodiff", ["reverse", "both"])
@pytest.mark.slow
def test_theta_may_be_complex(autodiff):
    # y* = Re t - (Im t)^2 / 2 per unknown; and Re t^2, of a function that is holomorphic in t.
    real = lambda y, t: jnp.sum((y - t.real) ** 2 + y * t.imag**2)
    holomorphic = lambda y, t: jnp.sum(jnp.abs(y - t**2) ** 2)
    point = jnp.array([1 + 2j, 2 - 1j])
    slope = lambda function: jax.grad(
        functools.partial(minimum, function=function, autodiff=autodiff)
    )
    np.testing.assert_allclose(slope(real)(point), [1 + 2j, 1 - 1j], rtol=1e-4)
    np.testing.assert_allclose(slope(holomorphic)(point), [2 + 4j, 4 - 2j], rtol=1e-4)


@pytest.mark.parametrize("key", [jax.random.key, jax.random.PRNGKey])
def test_keys_may_be_data_or_closed_over(key):
    noisy = lambda y, t, key: energy(y, t + 0 * jax.random.normal(key, (2,)))
    np.testing.assert_allclose(jax.grad(minimum)(T, key(0), function=noisy), 0.25, rtol=1e-4)
    held = key(0)
    closed = lambda y, t: noisy(y, t, held)
    np.testing.assert_allclose(jax.grad(minimum)(T, function=closed), 0.25, rtol=1e-4)


@pytest.mark.slow
def test_bounds_may_have_leaves_of_none_and_depend_on_theta():
    start = {"a": jnp.array([0.5]), "b": jnp.array([0.5, 0.5])}

    def solve(t, autodiff="reverse"):
        bounds = ({"a": None, "b": -t}, {"a": t / 4, "b": None})
        return minimum(t, y0=start, bounds=bounds, autodiff=autodiff)

    both = functools.partial(solve, autodiff="both")
    for slope in (jax.grad(solve), jax.jacfwd(both)):  # 1/4 at the bound, twice 1/4 within
        np.testing.assert_allclose(jax.jit(jax.vmap(slope))(jnp.array([2.0])), 0.75, rtol=1e-4)


# Everything that varies, or does not, over two devices; the numbers are those of jax.vmap.
_PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
import jaxcv
from jaxcv import Damping, argmin, argmin_least_squares, argmin_vjp, attach, unrolled_solve
from jaxcv.least_squares import Huber
from jaxcv.solvers import LBFGS, MultiStart, Newton

energy = lambda y, t, *data: jnp.sum(0.5 * (y - t) ** 2 + 0.25 * y**4)
residual = lambda y, t: jnp.stack([y - t, y**2 * 0.5**0.5])
halfway = lambda s, t: 0.5 * (s + t)
y, constant, seeds = jnp.full(2, 0.5), jnp.array([1.0, 2.0]), jnp.ones((2, 2))
calls = [
    lambda t: argmin_least_squares(residual, y, t, kernel=Huber(1.0)).value,
    lambda t: argmin(energy, y, t, solver=LBFGS()).value,
    lambda t: argmin(energy, y, t, bounds=(None, 0.6)).value,
    lambda t: argmin(energy, y, t, solver=MultiStart(Newton(), seeds, keep=2)).value,
    lambda t: argmin(lambda y, s: energy(y, s * t), y, 2.0).value,
    lambda t: argmin(lambda y, t: energy(y, t * constant), y, t, autodiff="both").value,
    lambda t: attach(lambda y, t: energy(y, t * constant), y, t),
    lambda t: attach(lambda y, s: energy(y, s * t), y, 2.0),
    lambda t: unrolled_solve(lambda s, t: halfway(s, t * constant), y, t, num_steps=2)[1],
    lambda t: unrolled_solve(
        lambda s, t: halfway(s, t * constant), y, t, num_steps=2, autodiff="reverse")[1],
    lambda t: unrolled_solve(lambda s, u: halfway(s, u * t), y, 2.0, num_steps=2)[1],
    lambda t: t * argmin_vjp(energy, y, t, y)[0],
    lambda t: t * jaxcv.implicit.curvature(energy, y, t).covariance[0],
    lambda t: t * jaxcv.diagnose(energy, y, t).min_eigenvalue,
]
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("batch",))
spec = jax.sharding.PartitionSpec("batch")
t = jnp.array([[2.0, 2.0], [1.5, 1.0], [1.0, 1.0], [2.0, 1.0]])
assert len(jax.devices()) == 2
for index, call in enumerate(calls):
    slope = jax.vmap(jax.grad(lambda t: jnp.sum(call(t))))
    sharded = jax.jit(jax.shard_map(slope, mesh=mesh, in_specs=spec, out_specs=spec))
    np.testing.assert_allclose(sharded(t), slope(t), rtol=1e-4, atol=1e-5, err_msg=str(index))
"""


@pytest.mark.slow
def test_shard_map_with_its_default_checks_has_the_numbers_of_vmap():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env=os.environ | flags,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
