"""Round cones against the definition: the union of all spheres between the two ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.geometry.round_cones import RoundCones, distances, intersect, normals, paired_distances

ENDS = RoundCones(
    jnp.array([[0.0, 0, 0], [1.0, -2, 0.5], [0, 0, 0], [0, 0, 0], [0.3, 0.1, 0.2]]),
    jnp.array([[3.0, 1, -1], [1.0, 1, 2.0], [0.1, 0, 0], [2.0, 0, 0], [0.3, 0.1, 0.2]]),
    jnp.array([1.0, 0.3, 2.0, 0.5, 0.7]),
    jnp.array([0.4, 0.9, 0.5, 0.5, 0.4]),
)  # the third holds one sphere in the other, the fourth is a capsule, the fifth a sphere


def by_spheres(points, cones, count=4001):
    """min over u of |x - (a + u (b - a))| - (r_a + u (r_b - r_a)), (N, P)."""
    u = np.linspace(0, 1, count)
    out = []
    for a, b, ra, rb in zip(*map(np.asarray, cones), strict=True):
        centres = a + u[:, None] * (b - a)
        radii = ra + u * (rb - ra)
        away = np.linalg.norm(points[:, None] - centres, axis=-1) - radii
        out.append(away.min(axis=1))
    return np.stack(out, axis=1)


def points(count):
    return np.random.default_rng(0).normal(size=(count, 3)) * 2.5 + [1, 0, 0]


def test_distances_are_those_to_the_union_of_spheres():
    with jax.enable_x64(True):
        cones = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), float), ENDS)
        x = points(300)
        found = jax.vmap(lambda p: distances(p, cones))(x)
        np.testing.assert_allclose(found, by_spheres(x, cones), atol=2e-6)


@pytest.mark.slow
def test_normals_are_the_gradients_of_distances():
    with jax.enable_x64(True):
        cones = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), float), ENDS)
        x = points(50)
        slopes = jax.vmap(jax.jacrev(lambda p: distances(p, cones)))(x)
        np.testing.assert_allclose(jax.vmap(lambda p: normals(p, cones))(x), slopes, atol=1e-9)


@pytest.mark.slow
def test_paired_distances_and_their_two_derivatives_are_those_of_distances():
    with jax.enable_x64(True):
        cones = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), float), ENDS)
        many = jax.tree.map(lambda leaf: jnp.tile(leaf, (12,) + (1,) * (leaf.ndim - 1)), cones)
        x, keys = jnp.asarray(points(60)), jax.random.split(jax.random.key(0), 5)
        shapes = (x, *many)
        moves = [jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, shapes, strict=True)]

        def along(function, s):
            moved = [leaf + s * move for leaf, move in zip(shapes, moves, strict=True)]
            return function(moved[0], RoundCones(*moved[1:]))

        def plain(x, cones):
            one = lambda p, *c: distances(p, RoundCones(*(leaf[None] for leaf in c)))[0]
            return jax.vmap(one)(x, *cones)

        for order in range(3):
            both = []
            for function in (paired_distances, plain):
                line = lambda s, f=function: along(f, s)
                for _ in range(order):
                    line = jax.jacfwd(line)
                both.append(jax.jit(line)(0.0))
            own, want = both
            np.testing.assert_allclose(own, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [30.0, pytest.param(1.0, marks=pytest.mark.slow)])
def test_rays_end_where_the_distance_is_zero(scale):
    with jax.enable_x64(True):
        cones = jax.tree.map(lambda x: scale * jnp.asarray(np.asarray(x), float), ENDS)
        origin = scale * jnp.array([-7.0, 4.0, -9.0])
        goals = scale * points(250)
        rays = jnp.asarray(goals) - origin
        t = jax.jit(jax.vmap(lambda ray: intersect(origin, ray, cones)))(rays)
        hit = np.isfinite(t)
        at = origin + jnp.where(hit, t, 0)[..., None] * rays[:, None]
        each = jax.jit(jax.vmap(lambda p: distances(p, cones)))
        on = jnp.stack([each(at[:, p])[:, p] for p in range(5)], axis=1)
        np.testing.assert_allclose(np.asarray(on)[hit], 0, atol=1e-8 * scale)
        # Marching finds nothing earlier, and nothing at all where there is no hit.
        steps = jnp.linspace(0, 3, 1001)
        at_steps = jax.vmap(lambda u, ray: distances(origin + u * ray, cones), (0, None))
        along = jax.jit(jax.vmap(lambda ray: at_steps(steps, ray)))
        inside = np.asarray(along(rays)) < -1e-3 * scale
        first = np.where(inside.any(1), steps[inside.argmax(1)], np.inf)
        assert (first[~hit] == np.inf).all()
        assert (np.asarray(t)[hit] <= first[hit]).all()
        both = hit & np.isfinite(first)
        assert both.sum() > 60
