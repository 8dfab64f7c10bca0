"""A relative pose between feature matches and a prior, as a minimiser that can be learned through.

The pose minimises `jaxcv.energies.epipolar` on SO(3) x S^2. With the prior's precision 0 and the
confidences alike it is the robust Sampson fit; with no matches it is the prior.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.core.damping import Damping
from jaxcv.core.implicit import argmin
from jaxcv.core.solvers import newton
from jaxcv.energies.epipolar import EpipolarParameters, epipolar_energy
from jaxcv.geometry.manifolds import SO3, Product, Sphere

__all__ = ["RefinedPose", "refine_relative_pose"]

_POSE = Product(rotation=SO3(), direction=Sphere())
_WIDTHS = (1.0, 4.0, 12.0)  # times the kernel's own: where the search for the minimum begins


class RefinedPose(NamedTuple):
    """A pose and how its minimisation went.

    Attributes:
        rotation: (3, 3), x2 = R x1 + t.
        direction: (3,), of length 1.
        energy: ().
        converged: () bool.
        min_eigenvalue: () of the Hessian in five angles [1/rad^2]: the least certain direction.
            Near the prior's precision where the matches say nothing of it, as of the translation
            under pure rotation.
    """

    rotation: jax.Array
    direction: jax.Array
    energy: jax.Array
    converged: jax.Array
    min_eigenvalue: jax.Array


def refine_relative_pose(
    theta: EpipolarParameters,
    points1: jax.Array,
    points2: jax.Array,
    valid: jax.Array | None = None,
    *,
    start: tuple[Any, Any] | None = None,
    damping: Damping = Damping(value=1.0),  # noqa: B008, an immutable value
    max_steps: int = 20,
) -> RefinedPose:
    """The pose of least energy, differentiable in theta.

    Far from the pose all matches look like outliers, and to a wide kernel the outliers matter: the
    search minimises with kernels of 1, 4 and 12 times the width, from each of these minima with its
    own, and keeps the lowest. Only the last minimum is differentiated.

    Args:
        theta: prior, precisions, confidences and scales of one pair; batch with `jax.vmap`.
        points1: (N, 2), normalised by the intrinsics.
        points2: (N, 2).
        valid: (N,) which are matches; None: all.
        start: rotation and direction; None: the prior. No gradient.
        damping: of the gradient, in 1/rad^2.
        max_steps: of each minimisation.
    """
    valid = jnp.ones(points1.shape[0], bool) if valid is None else valid
    rotation, direction = (theta.rotation, theta.direction) if start is None else start
    unit = jnp.asarray(direction) / jnp.linalg.norm(direction)  # whatever length the prior has
    y = jax.lax.stop_gradient({"rotation": rotation, "direction": unit})
    solve = functools.partial(
        argmin, epipolar_energy, data=(points1, points2, valid), solver=newton(max_steps=max_steps),
        damping=damping, retract=_POSE,
    )  # fmt: skip
    free = jax.lax.stop_gradient(theta)

    def search(width):
        wide = free._replace(log_width=free.log_width + jnp.log(width))
        found = solve(y0=solve(y0=y, theta=wide).value, theta=free)
        return found.value, found.energy

    values, energies = jax.vmap(search)(jnp.asarray(_WIDTHS, unit.dtype))
    best = jnp.argmin(jnp.where(jnp.isfinite(energies), energies, jnp.inf))
    found = solve(y0=jax.tree.map(lambda leaf: leaf[best], values), theta=theta)
    return RefinedPose(
        found.value["rotation"], found.value["direction"], found.energy, found.converged,
        found.diagnostics.min_eigenvalue,
    )  # fmt: skip
