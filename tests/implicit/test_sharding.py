"""A batch spread over eight devices: the same numbers, and no talk between the devices."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import re
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jaxcv import argmin

devices = jax.devices()
assert len(devices) == 8, devices
mesh = Mesh(np.array(devices), ("batch",))
rng = np.random.default_rng(0)
design = rng.normal(size=(32, 20, {n})).astype(np.float32)
targets = rng.normal(size=(32, 20)).astype(np.float32)

def energy(y, theta, design, targets):
    return jnp.sum(jnp.sqrt(theta + (design @ y - targets) ** 2)) + 0.05 * jnp.sum(y**2)

def one(theta, design, targets):
    solution = argmin(energy, jnp.zeros({n}), theta, (design, targets))
    return jnp.sum(jnp.sin(solution.value)), solution.converged

each = jax.vmap(jax.value_and_grad(one, has_aux=True), (0, 0, 0))
theta = jnp.linspace(0.5, 2, 32)
want = jax.jit(each)(theta, design, targets)
spread = [jax.device_put(x, NamedSharding(mesh, P("batch"))) for x in (theta, design, targets)]
one_device = jax.shard_map(
    each, mesh=mesh, in_specs=P("batch"), out_specs=P("batch")
)
compiled = jax.jit(one_device).lower(*spread).compile()
came = compiled(*spread)
for a, b in zip(jax.tree.leaves(came), jax.tree.leaves(want), strict=True):
    assert len(a.sharding.device_set) == 8, a.sharding
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
text = compiled.as_text()
talk = re.findall("all-gather|all-to-all|collective-permute|reduce-scatter|host-callback", text)
print(sorted(set(talk)), len(re.findall("all-reduce", text)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("n", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_sharded_batch_needs_no_collectives(n):
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{n}", str(n))],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "[] 0"
