"""Manifolds to minimise on, for the argument `retract` of `argmin` and related functions.

| manifold    | a point of y                   | tangent vector | moved by delta                   |
|-------------|--------------------------------|----------------|----------------------------------|
| `SO3()`     | (..., 3, 3) rotation           | (..., 3)       | turn(delta) R                    |
| `SE3()`     | (..., 4, 4) rigid motion       | (..., 6)       | turn(w) x + v after T, (v, w)    |
| `Sphere()`  | (..., m) unit vector, m >= 2   | (..., m - 1)   | along the great circle of delta  |
| `Product()` | dictionary of entries          | the same names | entry by entry                   |

Leading axes hold separate points. All manifolds are hashable and hold no arrays.

turn(delta) is Cayley's transform, a rotation by 2 atan(|delta| / 2): to first order the exponential
map, without sines, cheap to differentiate repeatedly, and one-to-one. The minimiser, its gradient
and its certificate are the same for every retraction.

Source: Absil, Mahony, Sepulchre 2008, ch. 4.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxcv.checks import argument_error, check_shape
from jaxcv.geometry import so3
from jaxcv.solvers.retraction import Retraction

__all__ = ["SE3", "SO3", "Product", "Sphere"]


def _over(function, ndim_point: int, y: jax.Array, delta: jax.Array) -> jax.Array:
    """`function(point, vector)` over the leading axes of y."""
    for _ in range(y.ndim - ndim_point):
        function = jax.vmap(function)
    return function(y, delta)


def _turn(w: jax.Array) -> jax.Array:
    """The rotation (3, 3) about w (3,) by 2 atan(|w| / 2): (I - W / 2)^-1 (I + W / 2)."""
    cross = so3.hat(w)
    factor = 4 / (4 + jnp.vdot(w, w))
    return jnp.eye(3, dtype=w.dtype) + factor * (cross + 0.5 * (cross @ cross))


class _Value:
    """Equality and hash by type, for manifolds without settings."""

    def __eq__(self, other):
        return type(self) is type(other)

    def __hash__(self):
        return hash(type(self))

    def __repr__(self):
        return f"{type(self).__name__}()"


class SO3(_Value):
    """Rotations, moved from the left: delta is a rotation vector in the target's frame."""

    def tangent(self, y: jax.Array) -> jax.Array:
        """Zeros (..., 3)."""
        check_shape("y", y, (3, 3), "A point of SO3 is a rotation matrix.")
        return jnp.zeros((*y.shape[:-2], 3), y.dtype)

    def __call__(self, y: jax.Array, delta: jax.Array) -> jax.Array:
        """turn(delta) y."""
        return _over(lambda point, vector: _turn(vector) @ point, 2, y, delta)


class SE3(_Value):
    """Rigid motions, moved from the left by (translation, rotation)."""

    def tangent(self, y: jax.Array) -> jax.Array:
        """Zeros (..., 6)."""
        check_shape("y", y, (4, 4), "A point of SE3 is a homogeneous matrix.")
        return jnp.zeros((*y.shape[:-2], 6), y.dtype)

    def __call__(self, y: jax.Array, delta: jax.Array) -> jax.Array:
        """The motion x -> turn(w) x + v after y, for delta = (v, w)."""

        def one(point, vector):
            top = _turn(vector[3:]) @ point[:3]
            return jnp.concatenate([top.at[:, 3].add(vector[:3]), point[3:]])

        return _over(one, 2, y, delta)


class Sphere(_Value):
    """Unit vectors, moved along great circles; delta is in an orthonormal basis at the point."""

    def tangent(self, y: jax.Array) -> jax.Array:
        """Zeros (..., m - 1)."""
        if y.ndim < 1 or y.shape[-1] < 2:
            raise argument_error("y", "expected (..., m) with m >= 2", y.shape)
        return jnp.zeros((*y.shape[:-1], y.shape[-1] - 1), y.dtype)

    def __call__(self, y: jax.Array, delta: jax.Array) -> jax.Array:
        """((4 - |delta|^2) y + 4 B(y) delta) / (4 + |delta|^2): stereographic coordinates."""

        def one(point, vector):
            # A Householder reflection maps the last axis to -+y, the others to tangents at y.
            sign = jnp.where(point[-1] < 0, -1, 1).astype(point.dtype)
            normal = point.at[-1].add(sign)
            ambient = jnp.append(vector, jnp.zeros((), vector.dtype))
            along = ambient - normal * (2 * jnp.vdot(normal, ambient) / jnp.vdot(normal, normal))
            square = jnp.vdot(vector, vector)
            return ((4 - square) * point + 4 * along) / (4 + square)

        return _over(one, 1, y, delta)


class Product:
    """A dictionary whose entries each have a manifold; entries not named are vectors.

    `Product(rotation=SO3(), direction=Sphere())` for y = {"rotation": .., "direction": .., ..}.
    """

    def __init__(self, **manifolds: Any):
        for name, manifold in manifolds.items():
            if isinstance(manifold, type) or not isinstance(manifold, Retraction):
                raise argument_error(name, "expected a manifold", repr(manifold), "E.g. SO3().")
        self._manifolds = tuple(sorted(manifolds.items()))

    def __eq__(self, other):
        return type(self) is type(other) and self._manifolds == other._manifolds

    def __hash__(self):
        return hash(self._manifolds)

    def __repr__(self):
        return f"Product({', '.join(f'{name}={value!r}' for name, value in self._manifolds)})"

    def tangent(self, y: dict) -> dict:
        """A tangent vector of zeros for every entry."""
        manifolds = dict(self._manifolds)
        if not isinstance(y, dict) or set(manifolds) - set(y):
            got = sorted(y) if isinstance(y, dict) else type(y).__name__
            expected = f"y must be a dictionary with the entries {sorted(manifolds)}"
            raise argument_error("retract", expected, got)
        zeros = lambda entry: jax.tree.map(jnp.zeros_like, entry)
        return {
            name: manifolds[name].tangent(entry) if name in manifolds else zeros(entry)
            for name, entry in y.items()
        }

    def __call__(self, y: dict, delta: dict) -> dict:
        """Moves every entry on its manifold."""
        manifolds = dict(self._manifolds)
        add = lambda entry, change: jax.tree.map(jnp.add, entry, change)
        return {name: manifolds.get(name, add)(entry, delta[name]) for name, entry in y.items()}
