"""The photometric energy: analytic derivatives, structure, rank, and real pairs."""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.data.stereo import read_pair, resize_pair
from jaxcv.energies.photometric import (
    add_sources,
    additive,
    arrow_terms,
    common_depth_step,
    damped_step,
    photometric_terms,
)
from jaxcv.geometry import se3
from tests.helpers import mostly_slow

SHAPE = 12, 16
K = np.array([[14.2, 0.3, 7.5], [0, -14.0, 5.5], [0, 0, 1.0]])


def problem(seed, channels=3):
    keys = jax.random.split(jax.random.key(seed), 4)
    target, source = (jax.random.uniform(k, (*SHAPE, channels)) for k in keys[:2])
    z = jax.random.uniform(keys[2], SHAPE, minval=0.05, maxval=1.2)
    scale = jnp.array([0.3] * 3 + [0.15] * 3)
    return z, scale * jax.random.normal(keys[3], (6,)), target, source


@pytest.mark.parametrize("seed", mostly_slow(range(3), (0,)))
def test_jacobian_is_exact_and_diagonal_in_depth(seed):
    with jax.enable_x64(True):
        z, xi, target, source = problem(seed)
        terms = photometric_terms(z, se3.exp(xi), target, source, K)
        assert 0.1 < jnp.mean(terms.visible) < 1
        residual = lambda z, motion: photometric_terms(z, motion, target, source, K).residual
        full = jax.jit(jax.jacfwd(lambda z: residual(z, se3.exp(xi))))(z)
        diagonal = jnp.einsum("hwchw->hwc", full)
        np.testing.assert_allclose(terms.depth, diagonal, atol=1e-12)
        at = jnp.indices(SHAPE)
        assert not jnp.any(full.at[at[0], at[1], :, at[0], at[1]].set(0))
        left = jax.jit(jax.jacfwd(lambda d: residual(z, se3.exp(d) @ se3.exp(xi))))(jnp.zeros(6))
        np.testing.assert_allclose(terms.motion, left, atol=1e-12)
        add = jax.jit(jax.jacfwd(lambda xi: residual(z, se3.exp(xi))))(xi)
        np.testing.assert_allclose(additive(terms, xi).motion, add, atol=1e-12)


@pytest.mark.slow
def test_rest_and_turning_in_place():
    with jax.enable_x64(True):
        z, xi, target, source = problem(0)
        still = photometric_terms(z, jnp.eye(4), target, source, K)
        turn = photometric_terms(z, se3.exp(xi.at[:3].set(0)), target, source, K)
        for terms in (still, turn):
            assert not terms.depth.any()  # without a baseline depth is not seen
            assert all(np.isfinite(leaf).all() for leaf in terms)
        energy = lambda xi, z: jnp.sum(
            photometric_terms(z, se3.exp(xi), target, source, K).residual ** 2
        )
        for gradient in jax.grad(energy, (0, 1))(jnp.zeros(6), z):
            assert np.isfinite(gradient).all()


def flat_system(terms, count=1):
    """The dense matrix and gradient of an arrow of `count` sources."""
    n = terms.depth.size
    matrix = np.zeros((n + 6 * count,) * 2)
    matrix[:n, :n] = np.diag(terms.depth.ravel())
    for s in range(count):
        rows = slice(n + 6 * s, n + 6 * s + 6)
        matrix[:n, rows] = terms.border[s].reshape(n, 6)
        matrix[rows, :n] = matrix[:n, rows].T
        matrix[rows, rows] = terms.motion[s]
    gradient = np.concatenate([terms.depth_gradient.ravel(), terms.motion_gradient.ravel()])
    return matrix, gradient


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.slow
def test_damped_step_solves_the_dense_system(count):
    with jax.enable_x64(True):
        each = []
        for seed in range(count):
            z, xi, target, source = problem(seed)
            each.append(arrow_terms(photometric_terms(z, se3.exp(xi), target, source, K)))
        terms = add_sources(jax.tree.map(lambda *leaves: jnp.stack(leaves), *each))
        matrix, gradient = flat_system(terms, count)
        away, w, damping, n = 0.1 * jnp.ones(SHAPE), 0.7, 0.03, SHAPE[0] * SHAPE[1]
        matrix[:n, :n] += w * np.eye(n)
        gradient[:n] += w * 0.1
        matrix += damping * np.diag(np.diagonal(matrix))
        dz, dxi = damped_step(terms, damping, w, away)
        want = -np.linalg.solve(matrix, gradient)
        np.testing.assert_allclose(np.concatenate([dz.ravel(), dxi.ravel()]), want, atol=1e-6)
        fixed = damped_step(terms, damping, depth=False)
        assert not fixed[0].any()


def complement(terms, count, damping):
    n = terms.depth.size
    matrix, _ = flat_system(terms, count)
    matrix += np.diag(
        damping * np.diagonal(matrix) + 1e-13 * np.r_[np.ones(n), np.zeros(6 * count)]
    )
    local = np.diagonal(matrix)[:n]
    border, shared = matrix[:n, n:], matrix[n:, n:]
    return shared - border.T @ (border / local[:, None]), shared


@pytest.mark.slow
def test_rank_of_the_two_view_problem():
    """Grey: nothing is left for the motion, and damping alone makes its step.

    Colour: all but the scale, which no image has.
    """
    with jax.enable_x64(True):
        for channels, rank in ((1, 0), (3, 5)):
            z, xi, target, source = problem(1, channels)
            terms = photometric_terms(z, se3.exp(xi), target, source, K)
            arrow = add_sources(jax.tree.map(lambda x: x[None], arrow_terms(terms)))
            left, shared = complement(arrow, 1, 0.0)
            values = np.linalg.eigvalsh(left) / np.abs(shared).max()
            assert np.sum(values > 1e-8) == rank
            scale = np.r_[se3.exp(xi)[:3, 3], np.zeros(3)]
            np.testing.assert_allclose(left @ scale, 0, atol=1e-9 * np.abs(shared).max())
        z, xi, target, source = problem(1, 1)
        terms = photometric_terms(z, se3.exp(xi), target, source, K)
        arrow = add_sources(jax.tree.map(lambda x: x[None], arrow_terms(terms)))
        lam, h = 0.3, np.asarray(arrow.motion[0])
        left, _ = complement(arrow, 1, lam)
        want = lam / (1 + lam) * h + lam * np.diag(np.diagonal(h))
        np.testing.assert_allclose(left, want, rtol=1e-9, atol=1e-9 * np.abs(h).max())
        _, dxi = damped_step(arrow, lam)
        alone = -np.linalg.solve(h + (1 + lam) * np.diag(np.diagonal(h)), arrow.motion_gradient[0])
        np.testing.assert_allclose(dxi[0], alone, rtol=1e-4)  # the floor of the pivots


def test_common_step_of_equal_pixels_is_their_own():
    with jax.enable_x64(True):
        z, xi, target, source = problem(2)
        terms = arrow_terms(photometric_terms(z, se3.exp(xi), target, source, K))
        own = common_depth_step(terms, 0, 1e-3)
        np.testing.assert_allclose(own, -terms.depth_gradient / (terms.depth + 1e-3), rtol=1e-12)
        total = common_depth_step(terms, 16, 1e-3)  # the window holds the whole picture
        want = -terms.depth_gradient.sum() / (terms.depth.sum() + 1e-3)
        np.testing.assert_allclose(total, want, rtol=1e-9)


@pytest.mark.slow
def test_weights_are_those_of_reweighted_squares():
    with jax.enable_x64(True):
        z, xi, target, source = problem(0)
        terms = photometric_terms(z, se3.exp(xi), target, source, K)
        arrow = arrow_terms(terms, 0.2)
        cauchy = lambda r: 0.5 * 0.2**2 * jnp.log1p((r / 0.2) ** 2)
        energy = lambda d: jnp.sum(
            cauchy(photometric_terms(z, se3.exp(d) @ se3.exp(xi), target, source, K).residual)
        )
        np.testing.assert_allclose(arrow.motion_gradient, jax.grad(energy)(jnp.zeros(6)), atol=1e-9)


real = pytest.mark.skipif("JAXCV_REAL_DATA" not in os.environ, reason="needs JAXCV_REAL_DATA")
PAIRS = {  # depth unit [m], published mean residuals: true warp, identity, inverse pose
    "hololens": ("00003.png", "00010.png", "00003_depth_mm.png", 1e-3, (0.0180, 0.1115, 0.1657)),
    "icl": ("4.png", "5.png", "4_depth_5000.png", 1 / 5000, (0.0154, 0.0815, 0.1082)),
}


def real_pair(name, shape=None):
    first, second, depth, unit, known = PAIRS[name]
    folder = pathlib.Path(os.environ["JAXCV_REAL_DATA"]) / "two_view" / name
    with np.load(folder / "cameras.npz") as cameras:
        k = cameras["intrinsics_px"]
        if "camera_to_world" in cameras:
            poses = cameras["camera_to_world"]
        else:
            from scipy.spatial.transform import Rotation

            rows = cameras["translation_quaternion_xyzw_camera_to_world"]
            poses = np.tile(np.eye(4), (2, 1, 1))
            poses[:, :3, :3] = Rotation.from_quat(rows[:, 3:]).as_matrix()
            poses[:, :3, 3] = rows[:, :3]
    motion = np.linalg.inv(poses[1]) @ poses[0]
    # Poses with six digits are rotations to 1e-6.
    left, _, right = np.linalg.svd(motion[:3, :3])
    motion[:3, :3] = left @ right
    pair = read_pair(folder / first, folder / second, k, motion, folder / depth, depth_unit=unit)
    return (pair if shape is None else resize_pair(pair, shape)), known


@real
@pytest.mark.real_data
@pytest.mark.parametrize("name", PAIRS)
def test_true_warp_of_real_pairs(name):
    pair, known = real_pair(name, (96, 128))
    luma = np.array([0.299, 0.587, 0.114], np.float32)
    grey = [(image[0] @ luma)[..., None] for image in (pair.target, pair.source)]
    z = np.nan_to_num(1 / pair.depth[0], nan=0.0)
    good = np.isfinite(pair.depth[0])
    motion = pair.motion[0]
    means = []
    for pose in (motion, np.eye(4), np.linalg.inv(motion)):
        terms = photometric_terms(
            jnp.asarray(z, jnp.float32), jnp.asarray(pose, jnp.float32), *grey,
            jnp.asarray(pair.intrinsics[0], jnp.float32),
        )  # fmt: skip
        seen = np.asarray(terms.visible) & good
        means.append(np.abs(terms.residual[..., 0])[seen].mean())
    true, rest, inverse = means
    assert true < 0.35 * rest
    assert true < 0.25 * inverse
    np.testing.assert_allclose(means, known, rtol=0.1)
