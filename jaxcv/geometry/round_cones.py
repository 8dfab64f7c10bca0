"""Round cones: the hull of two spheres, as the surface of articulated bodies.

A cone has ends a, b and radii r_a, r_b. Between them its surface is a truncated cone that touches
both spheres; if one sphere contains the other, the hull is the larger sphere. A point belongs to
the lateral surface if its foot on the axis, along the surface's normal, lies between a and b.

Source: Hart, Sphere tracing, The Visual Computer 1996, for distances.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["RoundCones", "distances", "intersect", "normals", "paired_distances"]

_TINY = 1e-12


class RoundCones(NamedTuple):
    """P round cones.

    Attributes:
        a: (P, 3).
        b: (P, 3).
        radius_a: (P,).
        radius_b: (P,).
    """

    a: jax.Array
    b: jax.Array
    radius_a: jax.Array
    radius_b: jax.Array


def _axes(cones: RoundCones) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Unit axes, lengths, sines k = (r_a - r_b) / length, and whether there is a lateral surface.

    If one sphere contains the other there is no lateral surface, and the sine is 0.
    """
    axis = cones.b - cones.a
    length = jnp.sqrt(jnp.maximum(jnp.sum(axis**2, axis=-1), _TINY))
    lean = (cones.radius_a - cones.radius_b) / length
    sided = jnp.abs(lean) < 1
    return axis / length[:, None], length, jnp.where(sided, lean, 0), sided


def distances(point: jax.Array, cones: RoundCones) -> jax.Array:
    """Signed distances (P,) of a point (3,) to each cone, negative inside.

    With s along the unit axis and h >= 0 across it, the foot along the surface's normal is at
    f = s - h k / sqrt(1 - k^2) for k = (r_a - r_b) / |b - a|, and

        d = |x - a| - r_a            f <= 0
            |x - b| - r_b            f >= |b - a|
            h sqrt(1 - k^2) + s k - r_a   else
    """
    unit, length, lean, sided = _axes(cones)
    away = point - cones.a
    along = jnp.sum(away * unit, axis=-1)
    across = jnp.sqrt(jnp.maximum(jnp.sum(away**2, axis=-1) - along**2, _TINY))
    cosine = jnp.sqrt(1 - lean**2)
    foot = along - across * lean / cosine
    to = lambda end, r: jnp.sqrt(jnp.maximum(jnp.sum((point - end) ** 2, axis=-1), _TINY)) - r
    first, second = to(cones.a, cones.radius_a), to(cones.b, cones.radius_b)
    side = across * cosine + along * lean - cones.radius_a
    hull = jnp.where(foot <= 0, first, jnp.where(foot >= length, second, side))
    return jnp.where(sided, hull, jnp.minimum(first, second))


@jax.custom_jvp
def paired_distances(points: jax.Array, cones: RoundCones) -> jax.Array:
    """Signed distances (P,) of points (P, 3), each to one of P cones.

    A cone is the union of spheres with centres c(s) = (1 - s) a + s b and radii r(s) alike; the
    distance is the minimum over s of |x - c(s)| - r(s). The derivative

        dd = n . (dx - (1 - s) da - s db) - (1 - s) dr_a - s dr_b,

    has s at this minimum for all tangents, and n the unit vector from c(s) to x.
    """
    single = lambda x, *cone: distances(x, RoundCones(*(leaf[None] for leaf in cone)))[0]
    return jax.vmap(single)(points, *cones)


@paired_distances.defjvp
def _paired_distances_jvp(primals, tangents):
    (points, cones), (moved, turned) = primals, tangents
    unit, length, lean, sided = _axes(cones)
    away = points - cones.a
    along = jnp.sum(away * unit, axis=-1)
    across = jnp.sqrt(jnp.maximum(jnp.sum(away**2, axis=-1) - along**2, _TINY))
    share = (along - across * lean / jnp.sqrt(1 - lean**2)) / length
    inner = cones.radius_a < cones.radius_b  # if one sphere contains the other
    share = jnp.where(sided, jnp.clip(share, 0, 1), jnp.where(inner, 1.0, 0.0))
    to = away - (share * length)[:, None] * unit
    normal = to / jnp.sqrt(jnp.maximum(jnp.sum(to**2, axis=-1), _TINY))[:, None]
    mix = lambda one, other, s: (1 - s) * one + s * other
    centre = mix(turned.a, turned.b, share[:, None])
    radius = mix(turned.radius_a, turned.radius_b, share)
    out = jnp.sum(normal * (moved - centre), axis=-1) - radius
    return paired_distances(points, cones), out


def intersect(origin: jax.Array, ray: jax.Array, cones: RoundCones) -> jax.Array:
    """Smallest t > 0 (P,) with origin + t ray (3,) on each cone; inf if there is none.

    The origin must lie outside. A root t of the lateral surface's quadratic

        (1 - k^2) (|x - a|^2 - s^2) = (r_a - s k)^2

    counts if its foot lies between the ends; the two spheres are intersected as well.
    """
    unit, length, lean, sided = _axes(cones)
    cosine2 = 1 - lean**2
    away = origin - cones.a
    s0, s1 = jnp.sum(away * unit, axis=-1), unit @ ray
    rr, rx, xx = ray @ ray, away @ ray, jnp.sum(away**2, axis=-1)
    # cos^2 (|x|^2 - s^2) - (r_a - s k)^2 = A t^2 + 2 B t + C
    quadratic = cosine2 * (rr - s1**2) - (lean * s1) ** 2
    linear = cosine2 * (rx - s0 * s1) + (cones.radius_a - lean * s0) * lean * s1
    constant = cosine2 * (xx - s0**2) - (cones.radius_a - lean * s0) ** 2
    root = linear**2 - quadratic * constant
    far = -linear - jnp.where(linear < 0, -1, 1) * jnp.sqrt(jnp.maximum(root, 0))
    nonzero = lambda x: jnp.where(x == 0, 1, x)
    side = jnp.full_like(far, jnp.inf)
    for t, exists in (
        (far / nonzero(quadratic), quadratic != 0),
        (constant / nonzero(far), far != 0),
    ):
        s = s0 + t * s1
        foot = (s - lean * cones.radius_a) / cosine2
        good = sided & exists & (root >= 0) & (t > 0) & (foot > 0) & (foot < length)
        good &= cones.radius_a > lean * s  # excludes the cone beyond its apex
        side = jnp.where(good, jnp.minimum(t, side), side)
    ends = jnp.minimum(
        _sphere(away, ray, cones.radius_a), _sphere(origin - cones.b, ray, cones.radius_b)
    )
    return jnp.minimum(side, ends)


def _sphere(away: jax.Array, ray: jax.Array, radius: jax.Array) -> jax.Array:
    a, b = ray @ ray, away @ ray
    root = b**2 - a * (jnp.sum(away**2, axis=-1) - radius**2)
    t = (-b - jnp.sqrt(jnp.maximum(root, 0))) / a
    return jnp.where((root >= 0) & (t > 0), t, jnp.inf)


def normals(point: jax.Array, cones: RoundCones) -> jax.Array:
    """Outward unit normals (P, 3): the gradient of each cone's distance at a point (3,)."""
    unit, length, lean, sided = _axes(cones)
    away = point - cones.a
    along = jnp.sum(away * unit, axis=-1)
    radial = away - along[:, None] * unit
    across = jnp.sqrt(jnp.maximum(jnp.sum(radial**2, axis=-1), _TINY))
    cosine = jnp.sqrt(1 - lean**2)
    foot = along - across * lean / cosine
    first = jnp.linalg.norm(away, axis=-1) - cones.radius_a
    second = jnp.linalg.norm(point - cones.b, axis=-1) - cones.radius_b
    at_a = jnp.where(sided, foot <= 0, first <= second)
    at_b = jnp.where(sided, foot >= length, first > second)
    side = cosine[:, None] * radial / across[:, None] + lean[:, None] * unit
    sphere = jnp.where(at_a[:, None], away, point - cones.b)
    sphere = sphere / jnp.sqrt(jnp.maximum(jnp.sum(sphere**2, -1, keepdims=True), _TINY))
    return jnp.where((at_a | at_b)[:, None], sphere, side)
