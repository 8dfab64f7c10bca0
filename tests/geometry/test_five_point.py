"""Five matches: every solution is an essential matrix through them, and the truth is among them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jaxcv.geometry.five_point import five_point

SOLVE = jax.jit(jax.vmap(five_point))


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def scenes(count, seed=0, *, flat=False):
    """Matches (S, 5, 2) of two views, and their essential matrices (S, 3, 3), |E|^2 = 2."""
    rng = np.random.default_rng(seed)
    rotation = Rotation.from_rotvec(0.3 * rng.normal(size=(count, 3))).as_matrix()
    move = rng.normal(size=(count, 3))
    move /= np.linalg.norm(move, axis=1, keepdims=True)
    points = rng.uniform([-1.5, -1.5, 3], [1.5, 1.5, 7], (count, 5, 3))
    if flat:
        points[..., 2] = 5 + 0.3 * points[..., 0] - 0.2 * points[..., 1]
    other = np.einsum("sij,snj->sni", rotation, points) + move[:, None]
    hat = np.cross(np.eye(3), move[:, None])  # rows e_k x t: the transpose of hat(t) up to its sign
    essential = np.einsum("sij,sjk->sik", hat, rotation)
    return points[..., :2] / points[..., 2:], other[..., :2] / other[..., 2:], essential


def nearest(found, mask, truth):
    """Distances (S,) of the truth, up to its sign, to the nearest solution."""
    away = [np.linalg.norm(found - sign * truth[:, None], axis=(2, 3)) for sign in (1, -1)]
    return np.where(mask, np.minimum(*away), np.inf).min(axis=1)


@pytest.mark.parametrize("flat", [False, True])
def test_the_truth_is_among_the_solutions(flat):
    p, q, truth = scenes(500, flat=flat)
    found, mask = map(np.asarray, SOLVE(p, q))
    away = nearest(found, mask, truth)
    assert np.mean(away < 1e-6) > 0.97  # very close roots are missed
    assert np.median(away) < 1e-12
    assert mask.sum(axis=1).max() <= 10


def test_every_solution_is_essential_and_meets_the_matches():
    p, q, _ = scenes(200, seed=1)
    found, mask = map(np.asarray, SOLVE(p, q))
    x, y = (np.concatenate([a, np.ones_like(a[..., :1])], axis=-1) for a in (p, q))
    met = np.einsum("sni,srij,snj->srn", y, found, x)
    np.testing.assert_allclose(met[mask], 0, atol=1e-12)
    np.testing.assert_allclose(np.sum(found**2, axis=(2, 3))[mask], 2, rtol=1e-12)
    assert (found[~mask] == 0).all()
    values = np.linalg.svd(found[mask], compute_uv=False)  # 1, 1, 0
    error = np.max(np.abs(values - [1, 1, 0]), axis=1)
    assert np.mean(error < 1e-7) > 0.98  # the rest: double roots, where Newton's method is slow


def test_about_as_many_solutions_as_opencv():
    cv2 = pytest.importorskip("cv2")
    p, q, _ = scenes(150, seed=2)
    ours = np.asarray(SOLVE(p, q)[1]).sum()
    theirs = 0
    for a, b in zip(p, q, strict=True):
        found, _ = cv2.findEssentialMat(a, b, np.eye(3), cv2.RANSAC, 0.5, 1.0, 1)
        theirs += 0 if found is None else len(found) // 3
    assert abs(ours - theirs) < 0.05 * theirs


def test_single_precision_is_close():
    p, q, truth = scenes(300, seed=3)
    found, mask = SOLVE(jnp.asarray(p, jnp.float32), jnp.asarray(q, jnp.float32))
    assert found.dtype == jnp.float32
    away = nearest(np.asarray(found, float), np.asarray(mask), truth)
    assert np.mean(away < 1e-3) > 0.92


def test_degenerate_matches_have_no_nan():
    p, q, _ = scenes(3, seed=4)
    p[0, 1:], q[0, 1:] = p[0, 0], q[0, 0]  # all alike
    p[1, :, 1] = q[1, :, 1] = 0  # on a line
    q[2] = p[2]  # no motion
    found, _ = SOLVE(p, q)
    assert jnp.isfinite(found).all()


def test_one_pair_is_that_of_a_batch_and_other_counts_are_refused():
    p, q, _ = scenes(2, seed=5)
    alone = jax.jit(five_point)(p[1], q[1])[0]
    np.testing.assert_allclose(alone, SOLVE(p, q)[0][1], atol=1e-9)
    with pytest.raises(ValueError, match=r"`points1`: expected 5 matches, got 6.*eight_point"):
        five_point(np.zeros((6, 2)), np.zeros((6, 2)))
    with pytest.raises(ValueError, match="`points2`"):
        five_point(p[0], q[0, :4])
