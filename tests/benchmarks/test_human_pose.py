"""Pose reconstruction: reduced 29 x 29 systems against the full 80 x 80 systems.

pytest -m benchmark tests/benchmarks/test_human_pose.py

Four cameras, three components, a hundred rotations, the robust kernel, float64. Prints one table;
nothing here asserts a time.
"""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.data.synthetic.human_pose import generate
from jaxcv.energies import human_pose as energy
from jaxcv.energies.human_pose_search import RIDGE
from jaxcv.systems import fit_pose_model, reconstruct_pose
from tests.benchmarks.measure import seconds_per_call
from tests.helpers import relative_error

FOLDER = pathlib.Path("runs/benchmarks")
FRAMES, DENSE_FRAMES = 64, 2


def dense_scores(terms, angles, points, visible):
    """(F, K, R) scores by weighted least squares on all 216 rows, one vmapped dense solve each."""

    def one(own, angle, points, visible):
        rotation = energy.rotations_about_vertical(angle)
        plain = own._replace(prior_weight=jnp.ones(()))

        def rows(x):
            pose = {"coefficients": x[:29], "joints": x[29:].reshape(17, 3)}
            rows = energy.pose_residual(pose, plain, rotation, points, visible)
            return jnp.concatenate([rows[k].ravel() for k in ("model", "reprojection", "prior")])

        b = rows(jnp.zeros(80))
        a = jax.jacfwd(rows)(jnp.zeros(80))
        weights, x = jnp.ones(len(b)), None
        for _ in range(4):
            square = a.T * weights @ a + RIDGE * jnp.eye(80)
            factor = jnp.linalg.cholesky(square)
            x = jax.scipy.linalg.cho_solve((factor, True), -(a.T * weights @ b))
            r = a @ x + b
            squares = jnp.sum(r[51:-29].reshape(-1, 2) ** 2, axis=1) / own.width**2
            light = jnp.repeat(jax.lax.rsqrt(1 + squares), 2)
            weights = jnp.concatenate([jnp.ones(51), light, jnp.full(29, own.prior_weight)])
        kernel = own.width**2 * jnp.sum(jnp.sqrt(1 + squares) - 1)
        return 0.5 * jnp.sum(r[:51] ** 2) + kernel + own.prior_weight / 2 * jnp.sum(r[-29:] ** 2)

    axes = energy.PoseTerms(*(0 for _ in terms))._replace(target=None, cameras=None)
    over = jax.vmap(one, in_axes=(None, 0, None, None))
    over = jax.vmap(over, in_axes=(axes, None, None, None))
    return jax.vmap(over, in_axes=(None, None, 0, 0))(terms, angles, points, visible)


@pytest.mark.benchmark
def test_human_pose():
    with jax.enable_x64(True):
        frames = generate(jax.random.key(0), num_subjects=4)
        model = fit_pose_model(frames.joints, frames.cameras)
        start = energy.initial_parameters(model)
        truth = jnp.asarray(frames.joints - frames.joints.mean(axis=1, keepdims=True))[:FRAMES]
        points = jnp.asarray(frames.points[:FRAMES])
        visible = jnp.asarray(frames.visible[:FRAMES])
        find = functools.partial(reconstruct_pose, points, model, visible=visible)
        forward = jax.jit(lambda parameters: find(parameters).joints)
        seconds = {"inference": seconds_per_call(forward, start, repeats=5) / FRAMES}
        out, gradients = {}, {}
        for gradient, passes in (("implicit", 3), ("unrolled", 3), ("unrolled", 40)):

            def loss(parameters):
                found = find(parameters, gradient=gradient, passes=passes)  # noqa: B023
                return jnp.mean(jnp.sum((found.joints - truth) ** 2, axis=-1)) / 1e4

            step = jax.jit(jax.grad(loss)).lower(start).compile()
            name = f"{gradient}, {passes} passes"
            gradients[name] = step(start)
            memory = step.memory_analysis()
            out[f"{name}: temp_MB"] = memory.temp_size_in_bytes / 1e6
            if passes == 3:
                seconds[name] = seconds_per_call(step, start, repeats=5) / FRAMES

        terms = energy.pose_terms(start, model)
        angles = 2 * jnp.pi * jnp.arange(100) / 100
        seen = energy.normalise_points(points[:DENSE_FRAMES], visible[:DENSE_FRAMES])
        dense = jax.jit(dense_scores)
        seconds["dense 80 x 80"] = seconds_per_call(dense, terms, angles, *seen, repeats=3)
        seconds["dense 80 x 80"] /= DENSE_FRAMES
        lowest = jnp.min(dense(terms, angles, *seen), axis=-1)
        np.testing.assert_allclose(find(start).scores[:DENSE_FRAMES], lowest, rtol=1e-8)

    out |= {f"{name}: frames_per_second": 1 / value for name, value in seconds.items()}
    out |= {
        f"{name}: over_inference": value / seconds["inference"] for name, value in seconds.items()
    }
    exact = gradients["unrolled, 40 passes"]
    out["implicit_difference"] = relative_error(gradients["implicit, 3 passes"], exact)
    out["unrolled_difference"] = relative_error(gradients["unrolled, 3 passes"], exact)
    print(json.dumps(out, indent=1))
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "human_pose.json").write_text(json.dumps(out, indent=1) + "\n")
    assert out["implicit_difference"] < 1e-4
