"""Rows with hand-written derivatives: Newton's method and its implicit gradient, per energy.

They show what automatic derivatives cost; no user of a library should have to write these.
"""

import jax
import jax.numpy as jnp

from tests.benchmarks.problems import SCALE, arrow_energy, bump_energy

__all__ = ["BY_HAND"]


def _attached(energy, solve, y, theta, data):
    """Attaches the gradient -B^T H^-1 y_bar to a minimiser y; solve(y, theta, data, v) = H^-1 v."""

    @jax.custom_vjp
    def attached(y, theta, data):
        return y

    def backward(kept, y_bar):
        y, theta, data = kept
        u = solve(y, theta, data, y_bar)
        mixed = jax.vjp(lambda theta: jax.grad(energy)(y, theta, *data), theta)[1]
        none = jax.tree.map(jnp.zeros_like, (y, data))
        return none[0], jax.tree.map(jnp.negative, mixed(u)[0]), none[1]

    attached.defvjp(lambda *arguments: (arguments[0], arguments), backward)
    return attached(jax.lax.stop_gradient(y), theta, data)


def _bump_slopes(y, weights, points):
    away = y - points
    bump = weights * jnp.exp(-0.5 * away**2)
    return jnp.sum(bump * away) + 0.02 * y, jnp.sum(bump * (1 - away**2)) + 0.02


def bumps_by_hand(problem, y0, theta, data):
    """(a): twelve Newton steps of at most 0.5, downhill where the curvature is negative."""

    def step(_, y):
        slope, curvature = _bump_slopes(y, theta, *data)
        newton = slope / jnp.maximum(jnp.abs(curvature), 1e-3)
        return y - jnp.clip(newton, -0.5, 0.5)

    y = jax.lax.fori_loop(0, 12, step, y0)
    divide = lambda y, theta, data, v: v / _bump_slopes(y, theta, *data)[1]
    return _attached(bump_energy, divide, y, theta, data)


def _arrow_terms(y, theta, rays, gains):
    """Gradient and blocks of the Hessian (exact, Gauss-Newton) of (c), by formula."""
    along = rays @ y["p"]  # (N, 4)
    t = jnp.tanh(y["z"])[:, None]
    bend = 1 - t**2
    w = jnp.exp(theta["log_weights"])
    r = w * (gains * t * (1 + 0.1 * along) + jnp.sin(along) - theta["targets"])
    root = jnp.sqrt(1 + (r / SCALE) ** 2)
    score, first, exact = r / root, 1 / root, 1 / root**3  # rho', its secant, rho''
    by_z = w * gains * bend * (1 + 0.1 * along)
    by_s = w * (0.1 * gains * t + jnp.cos(along))  # times the ray: by p
    by_zz = -2 * t * by_z
    by_zs = 0.1 * w * gains * bend
    by_ss = -w * jnp.sin(along)
    gradient = {
        "z": jnp.sum(score * by_z, axis=1) + 0.09 * (y["z"] - theta["prior"]),
        "p": jnp.einsum("nk,nki->i", score * by_s, rays) + theta["ridge"] ** 2 * y["p"],
    }

    def blocks(curvature, bent):
        local = jnp.sum(curvature * by_z**2 + bent * score * by_zz, axis=1) + 0.09
        border = jnp.einsum("nk,nki->ni", curvature * by_z * by_s + bent * score * by_zs, rays)
        inner = curvature * by_s**2 + bent * score * by_ss
        shared = jnp.einsum("nki,nk,nkj->ij", rays, inner, rays)
        return local, border, shared + jnp.diag(theta["ridge"] ** 2)

    return gradient, blocks(exact, 1.0), blocks(first, 0.0)


def _arrow_solve(blocks, v):
    local, border, shared = blocks
    scaled = border / local[:, None]
    p = jnp.linalg.solve(shared - border.T @ scaled, v["p"] - scaled.T @ v["z"])
    return {"z": v["z"] / local - scaled @ p, "p": p}


def arrow_by_hand(problem, y0, theta, data):
    """(c): eight reweighted Gauss-Newton steps, then eight Newton steps guarded if not convex."""

    def gauss_newton(_, y):
        gradient, _, blocks = _arrow_terms(y, theta, *data)
        return jax.tree.map(jnp.subtract, y, _arrow_solve(blocks, gradient))

    def newton(_, y):
        gradient, (local, border, shared), (safe, _, _) = _arrow_terms(y, theta, *data)
        local = jnp.where(local > 0.02, local, safe)
        step = _arrow_solve((local, border, shared), gradient)
        return jax.tree.map(jnp.subtract, y, step)

    y = jax.lax.fori_loop(0, 8, gauss_newton, y0)
    y = jax.lax.fori_loop(0, 8, newton, y)
    solve = lambda y, theta, data, v: _arrow_solve(_arrow_terms(y, theta, *data)[1], v)
    return _attached(arrow_energy, solve, y, theta, data)


BY_HAND = {"a": bumps_by_hand, "c": arrow_by_hand}
