"""(d) an arrow system of two-view stereo, 128 x 96 depths and 6 motion parameters, in float64.

Compares jaxcv's Schur solve with scipy's sparse direct solve of the same matrix, and fifteen
Levenberg-Marquardt iterations with one direct solve.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from jax.flatten_util import ravel_pytree

from jaxcv import Damping, argmin_least_squares
from jaxcv.geometry import se3
from jaxcv.linear.structure import Arrow
from jaxcv.solvers import LevenbergMarquardt
from tests.benchmarks.measure import seconds_per_call

__all__ = ["stereo"]

HEIGHT, WIDTH, FOCAL = 96, 128, 110.0
ARROW = Arrow(local="inverse_depth", shared="motion")


def texture(u, v):
    """A smooth image (...) at pixels u, v."""
    waves = [(0.31, 0.05, 0.3), (0.02, 0.37, 1.1), (0.17, -0.21, 2.0), (-0.09, 0.13, 0.7)]
    return sum(jnp.sin(a * u + b * v + c) for a, b, c in waves) / 4


def residual(y, theta, rays, source):
    """Brightness of the source image at every warped pixel, less the reference, and priors.

    A pixel with ray x and inverse depth z maps to R x + z t; the motion is exp((t, w)). The source
    is sampled bilinearly, with its border values outside.
    """
    motion = se3.exp(y["motion"])
    points = rays @ motion[:3, :3].T + y["inverse_depth"][..., None] * motion[:3, 3]
    u = FOCAL * points[..., 0] / points[..., 2] + WIDTH / 2
    v = FOCAL * points[..., 1] / points[..., 2] + HEIGHT / 2
    seen = jax.scipy.ndimage.map_coordinates(source, [v, u], order=1, mode="nearest")
    return {
        "brightness": seen - theta["reference"],
        "prior": theta["prior_weight"] * (y["inverse_depth"] - theta["prior"]),
        "motion": theta["motion_weight"] * y["motion"],
    }


def scene():
    """The starting point y0, theta and data."""
    u, v = jnp.meshgrid(jnp.arange(WIDTH, dtype=float), jnp.arange(HEIGHT, dtype=float))
    ones = jnp.ones_like(u)
    rays = jnp.stack([(u - WIDTH / 2) / FOCAL, (v - HEIGHT / 2) / FOCAL, ones], axis=-1)
    depth = 0.5 + 0.1 * jnp.sin(u / 20) * jnp.cos(v / 15)
    truth = {"inverse_depth": depth, "motion": jnp.array([0.05, -0.02, 0.01, 0.01, -0.02, 0.005])}
    source = texture(u, v)
    theta = {
        "reference": jnp.zeros_like(u),
        "prior": jnp.full_like(u, 0.5),
        "prior_weight": jnp.asarray(0.3),
        "motion_weight": jnp.asarray(0.1),
    }
    theta["reference"] = residual(truth, theta, rays, source)["brightness"]
    # Without motion the brightness would not depend on depth.
    return {"inverse_depth": 0.5 * ones, "motion": 0.5 * truth["motion"]}, theta, (rays, source)


def stereo() -> dict[str, Any]:
    """Times in milliseconds, the error of the solve, and the energies of the iterations."""
    with jax.enable_x64(True):
        y0, theta, data = scene()
        structure = ARROW.structure(y0)
        start, unravel = ravel_pytree(y0)
        flat = lambda x: ravel_pytree(residual(unravel(x), theta, *data))[0]

        def normal_equations(x):
            terms, rows = jax.linearize(flat, x)
            columns = lambda r: jax.linear_transpose(rows, x)(r)[0]
            gram = structure.gram(rows, columns, jnp.ones_like(terms), x.dtype)
            damped = structure.add(gram, 1e-3 * structure.diagonal(gram) + 1e-8)
            return damped, columns(terms)

        matrix, gradient = jax.jit(normal_equations)(start)
        solve = jax.jit(lambda matrix, v: structure.solve(structure.factor(matrix), v))
        ours = np.asarray(solve(matrix, gradient))

        local, border, shared = map(np.asarray, matrix)
        n = local.shape[0]
        corner = scipy.sparse.csr_matrix(shared)
        sides = scipy.sparse.csr_matrix(border[:, 0])
        blocks = [[scipy.sparse.diags(local[:, 0, 0]), sides], [sides.T, corner]]
        sparse = scipy.sparse.bmat(blocks, format="csc")
        right = np.asarray(gradient)
        assert sparse.shape == (n + 6, n + 6)
        assert sparse.nnz > 12 * n
        direct = lambda: scipy.sparse.linalg.spsolve(sparse, right, permc_spec="COLAMD")
        theirs = direct()

        def iterations(theta, most):
            solver = LevenbergMarquardt(max_steps=most)
            solution = argmin_least_squares(
                residual, y0, theta, data, solver=solver, structure=ARROW, damping=Damping(0.0)
            )
            return solution.value, solution.energy, solution.steps, solution.converged

        fifteen = jax.jit(lambda theta: iterations(theta, 15))
        value, energy, steps, converged = fifteen(theta)
        del value
        one = jax.jit(normal_equations)
        out = {
            "arrow_solve_ms": 1e3 * seconds_per_call(solve, matrix, gradient),
            "normal_equations_ms": 1e3 * seconds_per_call(one, start),
            "scipy_solve_ms": 1e3 * seconds_per_call(direct, repeats=5),
            "levenberg_marquardt_ms": 1e3 * seconds_per_call(fifteen, theta),
            "steps": int(steps),
            "converged": bool(converged),
            "energy_at_start": float(0.5 * jnp.sum(flat(start) ** 2)),
            "energy": float(energy),
            "solve_difference": float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)),
        }
    out["solve_ratio"] = out["scipy_solve_ms"] / out["arrow_solve_ms"]
    out["iterations_ratio"] = out["levenberg_marquardt_ms"] / out["scipy_solve_ms"]
    return out
