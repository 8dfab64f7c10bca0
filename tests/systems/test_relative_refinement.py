"""The epipolar energy's minimiser: poses back despite outliers, gradients, limits of its terms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv import Damping
from jaxcv.energies.epipolar import EpipolarParameters, UnknownFocal, epipolar_energy
from jaxcv.geometry import so3
from jaxcv.systems import relative_refinement
from jaxcv.systems.relative_refinement import NEAR_WIDTHS, refine_relative_pose
from jaxcv.systems.relative_search import searched_poses
from tests.geometry.test_epipolar import scene

UNDAMPED = Damping(value=0.0, mode="plain")


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def problem(seed=0, count=60, noise=1e-3, outliers=0.3, off=0.1, precision=1.0):
    """Truth, theta with a prior that is off by some angles, matches a part of which are wrong."""
    rotation, direction, p1, p2, *_ = scene(seed, count, 0.3, noise)
    rng = np.random.default_rng(seed + 100)
    wrong = int(outliers * count)
    p2 = p2.at[:wrong].set(rng.uniform(-0.6, 0.6, (wrong, 2)))
    away = rng.normal(size=3)
    prior = so3.exp(jnp.asarray(off * away / np.linalg.norm(away))) @ rotation
    aside = direction + off * rng.normal(size=3)
    theta = EpipolarParameters(
        prior, jnp.asarray(aside / np.linalg.norm(aside)), jnp.log(jnp.full(2, precision)),
        jnp.zeros(count), jnp.log(1e-3), jnp.log(3.0),
    )  # fmt: skip
    return (jnp.asarray(rotation), jnp.asarray(direction)), theta, p1, p2


def angles(pose, truth):
    turned = jnp.linalg.norm(so3.log(pose.rotation @ truth[0].T))
    return turned, jnp.arccos(jnp.clip(jnp.vdot(pose.direction, truth[1]), -1, 1))


def test_the_pose_comes_back_despite_outliers():
    run = jax.jit(refine_relative_pose)
    for seed in range(8):
        truth, theta, p1, p2 = problem(seed)
        pose = run(theta, p1, p2)
        assert bool(pose.converged)
        turned, moved = angles(pose, truth)
        assert turned < 0.02  # the prior is off by 0.1
        # a negative log likelihood: its Hessian is the inverse covariance of the five angles
        assert (turned**2 + moved**2) * pose.min_eigenvalue < 30
        assert pose.min_eigenvalue > 1e3


@pytest.mark.slow
def test_a_few_accidental_matches_do_not_outweigh_the_prior(monkeypatch):
    def departures():
        @jax.jit
        def run(key, theta, p1, p2):
            starts = searched_poses(key, theta, p1, p2, least_samples=512, most_samples=512)
            own = theta.rotation[None], theta.direction[None]
            start = tuple(jnp.concatenate(both) for both in zip(own, starts, strict=True))
            return refine_relative_pose(theta, p1, p2, start=start, widths=NEAR_WIDTHS)

        out = []
        for seed in range(8):
            _, theta, p1, p2 = problem(seed, count=10, outliers=1.0, precision=50.0)
            theta = theta._replace(log_noise=jnp.log(3e-3))
            pose = run(jax.random.key(seed), theta, p1, p2)
            out.append(angles(pose, (theta.rotation, theta.direction)))
        return np.max(np.array(out), axis=1)

    by_evidence = departures()
    monkeypatch.setattr(
        relative_refinement, "surprise", lambda y, theta, *rest: epipolar_energy(y, theta, *rest)
    )
    by_energy = departures()
    assert (by_evidence <= by_energy + 1e-6).all()
    assert by_evidence.max() < 3 / np.sqrt(50.0)  # deviations of the prior
    assert by_evidence.sum() < by_energy.sum()


@pytest.mark.slow
def test_matches_before_both_cameras_outweigh_a_prior_on_the_other_side():
    """The energy is the same for t and -t but for the prior: the evidence sees which one it is."""
    for seed in range(3):
        truth, theta, p1, p2 = problem(seed, precision=3.0)
        theta = theta._replace(direction=-theta.direction)
        start = jnp.stack(2 * [theta.rotation]), jnp.stack([theta.direction, -theta.direction])
        pose = jax.jit(functools.partial(refine_relative_pose, start=start))(theta, p1, p2)
        assert angles(pose, truth)[1] < 0.1
        y = {"rotation": pose.rotation, "direction": -pose.direction}
        assert epipolar_energy(y, theta, p1, p2, jnp.ones(len(p1), bool)) < pose.energy


@pytest.mark.slow
def test_matches_behind_the_cameras_support_no_pose():
    for seed in range(3):
        truth, theta, p1, p2 = problem(seed)
        sure = theta._replace(rotation=truth[0], log_precision=jnp.full(2, 25.0))
        run = jax.jit(functools.partial(refine_relative_pose, widths=(1.0,)))
        before, behind = (run(sure._replace(direction=t), p1, p2) for t in (truth[1], -truth[1]))
        assert angles(behind, truth)[1] > 3  # the prior holds it there
        assert before.supported > 0.99
        assert behind.supported < 0.01


@pytest.mark.slow
def test_limits_of_the_terms():
    truth, theta, p1, p2 = problem()
    run = jax.jit(refine_relative_pose)
    nothing = run(theta, p1, p2, jnp.zeros(len(p1), bool))
    np.testing.assert_allclose(nothing.rotation, theta.rotation, atol=1e-9)
    np.testing.assert_allclose(nothing.direction, theta.direction, atol=1e-9)
    np.testing.assert_allclose(nothing.min_eigenvalue, 1, rtol=1e-6)  # the prior's
    sure = run(theta._replace(log_precision=jnp.full(2, 25.0)), p1, p2)
    np.testing.assert_allclose(sure.rotation, theta.rotation, atol=1e-6)
    away = run(theta._replace(log_confidence=jnp.full(len(p1), -40.0)), p1, p2)
    np.testing.assert_allclose(away.direction, theta.direction, atol=1e-9)
    still = run(theta._replace(log_precision=jnp.full(2, -2.0)), p1, p1)  # no motion
    assert still.min_eigenvalue < 1  # of the translation nothing is known
    del truth


@pytest.mark.slow
def test_padding_changes_nothing():
    _, theta, p1, p2 = problem()
    run = jax.jit(refine_relative_pose)
    plain = run(theta, p1, p2)
    more = lambda p: jnp.concatenate([p, 9 * jnp.ones((5, 2))])
    padded = theta._replace(log_confidence=jnp.concatenate([theta.log_confidence, jnp.ones(5)]))
    valid = jnp.arange(len(p1) + 5) < len(p1)
    again = run(padded, more(p1), more(p2), valid)
    np.testing.assert_allclose(again.rotation, plain.rotation, atol=1e-10)


@pytest.mark.slow
def test_what_a_network_says_is_learned_through_the_pose():
    """The gradients of prior, precisions, confidences and scales against central differences."""
    truth, theta, p1, p2 = problem(2, 24, off=0.05, precision=300.0)
    tangent = jnp.zeros(5)

    @functools.partial(jax.jit, static_argnums=2)
    def loss(free, tangent, damping=UNDAMPED):
        moved = free._replace(
            rotation=so3.exp(tangent[:3]) @ free.rotation,
            direction=free.direction + jnp.append(tangent[3:], 0),
        )
        pose = refine_relative_pose(moved, p1, p2, damping=damping, max_steps=60)
        return jnp.sum((pose.rotation - truth[0]) ** 2) + jnp.sum((pose.direction - truth[1]) ** 2)

    slopes, tangent_slope = jax.grad(loss, argnums=(0, 1))(theta, tangent, UNDAMPED)
    assert jnp.linalg.norm(tangent_slope[:3]) > 1e-6
    assert jnp.linalg.norm(tangent_slope[3:]) > 1e-6
    rng = np.random.default_rng(0)
    for name in ("log_precision", "log_confidence", "log_noise", "log_width"):
        slope = getattr(slopes, name)
        assert jnp.linalg.norm(slope) > 0
        step = jnp.asarray(rng.normal(size=slope.shape))
        at = lambda h: loss(theta._replace(**{name: getattr(theta, name) + h * step}), tangent)  # noqa: B023
        quotient = (at(1e-4) - at(-1e-4)) / 2e-4
        np.testing.assert_allclose(jnp.vdot(slope, step), quotient, rtol=1e-3, atol=1e-9)
    step = jnp.asarray(rng.normal(size=5))
    quotient = (loss(theta, 1e-4 * step) - loss(theta, -1e-4 * step)) / 2e-4
    np.testing.assert_allclose(jnp.vdot(tangent_slope, step), quotient, rtol=1e-3)


@pytest.mark.slow
def test_pairs_in_a_batch_are_as_alone():
    problems = [problem(seed, 30) for seed in range(3)]
    theta = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(p[1] for p in problems))
    p1, p2 = (jnp.stack([p[k] for p in problems]) for k in (2, 3))
    batch = jax.jit(jax.vmap(refine_relative_pose))(theta, p1, p2)
    run = jax.jit(refine_relative_pose)
    for i, (_, own, q1, q2) in enumerate(problems):
        alone = run(own, q1, q2)
        np.testing.assert_allclose(batch.rotation[i], alone.rotation, atol=1e-7)
        np.testing.assert_allclose(batch.direction[i], alone.direction, atol=1e-7)


@pytest.mark.slow
def test_an_unknown_focal_length_comes_back():
    """Points normalised by a focal length that is 20% off, of both cameras or of the second."""
    run = jax.jit(refine_relative_pose)
    for shares in ((1.0, 1.0), (0.0, 1.0)):
        truth, theta, p1, p2 = problem(3, 200, noise=1e-5, outliers=0.2, off=0.05, precision=1e-6)
        shares = jnp.asarray(shares)
        theta = theta._replace(
            log_noise=jnp.log(1e-4), focal=UnknownFocal(shares, jnp.log(1.0)),
            log_width=jnp.log(10.0),
        )  # fmt: skip
        scale = 1.2**shares
        fixed = run(theta._replace(focal=None), p1 * scale[0], p2 * scale[1])
        found = run(theta, p1 * scale[0], p2 * scale[1])
        np.testing.assert_allclose(found.log_focal, np.log(1.2), atol=2e-3)
        assert angles(found, truth)[1] < 3e-3
        assert angles(found, truth)[1] < 0.2 * angles(fixed, truth)[1]
        assert fixed.log_focal == 0


def test_energy_is_that_of_its_formula():
    _, theta, p1, p2 = problem(1, 9)
    y = {"rotation": so3.exp(jnp.array([0.1, -0.2, 0.3])), "direction": jnp.array([0.6, 0.0, 0.8])}
    weights = jnp.asarray(np.random.default_rng(0).normal(size=9))
    theta = theta._replace(log_confidence=weights, log_precision=jnp.log(jnp.array([5.0, 7.0])))
    total = 0.0
    hat = np.asarray(so3.hat(y["direction"]))
    e = hat @ np.asarray(y["rotation"])
    for a, b, w in zip(np.asarray(p1), np.asarray(p2), np.exp(weights), strict=True):
        a, b = np.append(a, 1), np.append(b, 1)
        r2 = (b @ e @ a) ** 2 / (np.sum((e @ a)[:2] ** 2) + np.sum((b @ e)[:2] ** 2)) / 1e-6
        total += w * 9 * (1 - np.exp(-r2 / 9)) / 2
    total += 5 / 4 * np.sum((np.asarray(y["rotation"]) - np.asarray(theta.rotation)) ** 2)
    total += 7 / 2 * np.sum((np.asarray(y["direction"]) - np.asarray(theta.direction)) ** 2)
    value = jax.jit(epipolar_energy)(y, theta, p1, p2, jnp.ones(9, bool))
    np.testing.assert_allclose(value, total, rtol=1e-10)
