"""LS-Net and Levenberg-Marquardt on two views."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.data.synthetic.stereo import generate_pairs
from jaxcv.energies.photometric import photometric_terms
from jaxcv.geometry import se3
from jaxcv.models.ls_net import Size
from jaxcv.systems import Model, estimate_depth_and_motion, load_model, save_model
from jaxcv.systems.stereo import (
    StereoEstimate,
    StereoNetwork,
    Views,
    in_baselines,
    init_stereo_network,
    quarter_views,
    solve_stereo,
)
from jaxcv.systems.stereo_marquardt import StereoMarquardt, solve_stereo_by_marquardt

TINY = Size((4, 4, 4, 4, 4), (3, 3, 3), 4, (4, 4), 4, 4, 4, 4)
NETWORK = StereoNetwork(size=TINY, num_steps=3)
PLAIN = NETWORK._replace(encoding="algorithm_1", num_steps=2)  # quicker to compile


@functools.cache
def pairs():
    return generate_pairs(jax.random.key(0), 3, (32, 48))


def problem(residual="rgb"):
    p = pairs()
    views = quarter_views(p.target, p.source[:, None], p.intrinsics, residual, True)
    z = jnp.full(views.target.shape[:3], 0.08)
    return views, StereoEstimate(z, jnp.asarray(p.motion)[:, None])


def moving(params):
    """Weights whose moves can be seen."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(5), len(leaves))
    return tree.unflatten(
        [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    )


@pytest.mark.slow
def test_gradient_is_that_of_the_steps_as_written():
    with jax.enable_x64(True):
        views, start = jax.tree.map(lambda x: jnp.asarray(x[:1], jnp.float64), problem())
        network = NETWORK._replace(num_steps=2, through_encoding=True, encoding="gradient")
        params = init_stereo_network(jax.random.key(1), network)["solver"]
        params = jax.tree.map(lambda x: x.astype(jnp.float64), moving(params))

        def loss(params):
            found = solve_stereo({"solver": params}, views, start, network)
            return jnp.sum(jnp.sin(found.inverse_depth)) + jnp.sum(jnp.sin(found.motion))

        gradient = jax.jit(jax.grad(loss))(params)
        direction = jax.tree.map(jnp.cos, params)
        parts = jax.tree.map(jnp.vdot, gradient, direction)
        slope = sum(jax.tree.leaves(parts))
        along = jax.jit(lambda h: loss(jax.tree.map(lambda a, b: a + h * b, params, direction)))
        difference = (along(1e-6) - along(-1e-6)) / 2e-6
        assert slope == pytest.approx(float(difference), rel=1e-5)


def test_the_recurrent_refinement_has_the_layers_of_the_optimiser_and_the_inputs_of_refinement():
    """All weights but those of the first convolution have the same shapes."""

    def shapes(**changes):
        network = NETWORK._replace(encoding="gradient", **changes)
        params = jax.eval_shape(lambda: init_stereo_network(jax.random.key(0), network))["solver"]
        return [leaf.shape for leaf in jax.tree.leaves(params)]

    optimiser, refinement = shapes(), shapes(solver="recurrent_refinement")
    different = [(a, b) for a, b in zip(optimiser, refinement, strict=True) if a != b]
    assert [sorted(set(a) ^ set(b)) for a, b in different] == [[11, 38]]  # 3 x 3 colours + 2


@pytest.mark.slow
def test_the_recurrent_refinement_does_not_see_the_jacobian():
    """Its moves depend on the warped source alone: other encodings give the same."""
    views, start = problem()
    network = NETWORK._replace(solver="recurrent_refinement", num_steps=2)
    params = moving(init_stereo_network(jax.random.key(1), network))
    first, second = (
        solve_stereo(params, views, start, network._replace(encoding=encoding))
        for encoding in ("gauss_newton", "algorithm_1")
    )
    np.testing.assert_array_equal(first.inverse_depth, second.inverse_depth)
    assert np.any(first.inverse_depth[1] - first.inverse_depth[0] != first.inverse_depth[0])


@pytest.mark.slow
def test_order_of_sources_does_not_matter():
    views, start = problem()
    sources = jnp.concatenate([views.sources, 1 - views.sources], axis=1)
    motions = jnp.concatenate([start.motion, start.motion @ se3.exp(0.1 * jnp.ones(6))], axis=1)
    network = NETWORK._replace(unit=False)
    params = moving(init_stereo_network(jax.random.key(1), network))
    run = jax.jit(lambda s, m: solve_stereo(
        params, views._replace(sources=s), start._replace(motion=m), network
    ))  # fmt: skip
    first, second = run(sources, motions), run(sources[:, ::-1], motions[:, ::-1])
    np.testing.assert_allclose(first.inverse_depth, second.inverse_depth, atol=1e-5)
    np.testing.assert_allclose(first.motion, second.motion[:, :, ::-1], atol=1e-5)


@pytest.mark.slow
def test_unit_of_the_baseline_changes_no_image():
    views, start = problem()
    motion = start.motion.at[..., :3, 3].multiply(2.5)
    z, scaled = in_baselines(start.inverse_depth, motion)
    np.testing.assert_allclose(jnp.linalg.norm(scaled[:, 0, :3, 3], axis=-1), 1, rtol=1e-6)
    np.testing.assert_allclose(
        z[..., None] * scaled[:, 0, None, None, :3, 3],
        start.inverse_depth[..., None] * motion[:, 0, None, None, :3, 3],
        rtol=1e-5,
    )
    params = moving(init_stereo_network(jax.random.key(1), PLAIN))
    found = solve_stereo(params, views, start, PLAIN)
    np.testing.assert_allclose(jnp.linalg.norm(found.motion[..., 0, :3, 3], axis=-1), 1, rtol=1e-5)
    again = solve_stereo(params, views, start._replace(motion=motion), PLAIN)
    np.testing.assert_allclose(again.inverse_depth, found.inverse_depth, rtol=1e-4)
    np.testing.assert_allclose(again.motion, found.motion, atol=1e-4)


@pytest.mark.slow
def test_early_stop_freezes_a_problem_before_its_small_move():
    views, start = problem()
    params = moving(init_stereo_network(jax.random.key(1), PLAIN))
    free = solve_stereo(params, views, start, PLAIN)
    norms = jnp.linalg.norm((free.inverse_depth[0] - start.inverse_depth).reshape(3, -1), axis=1)
    stopped = solve_stereo(params, views, start, PLAIN._replace(epsilon=1e6))
    np.testing.assert_array_equal(stopped.inverse_depth[-1], start.inverse_depth)
    tiny = solve_stereo(params, views, start, PLAIN._replace(epsilon=1e-9))
    np.testing.assert_allclose(tiny.inverse_depth, free.inverse_depth, atol=1e-6)
    assert norms.min() > 0


def smooth_problem():
    """A source image of waves, and the target that it makes with known depth and motion."""
    v, u = jnp.mgrid[:24, :32].astype(jnp.float32)
    wave = lambda a, b, c: 0.5 + 0.2 * jnp.sin(a * u + b * v + c) + 0.2 * jnp.cos(b * u - a * v)
    source = jnp.stack([wave(0.5, 0.2, 0.0), wave(0.1, 0.6, 1.0), wave(-0.3, 0.4, 2.0)], axis=-1)
    k = jnp.array([[28.0, 0, 15.5], [0, 28.0, 11.5], [0, 0, 1.0]])
    z = 0.1 + 0.05 * jnp.sin(u / 6) * jnp.cos(v / 5)
    motion = se3.exp(jnp.array([0.8, 0.3, 0.2, 0.01, -0.02, 0.03]))
    seen = photometric_terms(z, motion, jnp.zeros_like(source), source, k)
    views = Views(-seen.residual[None], source[None, None], k[None])
    return views, StereoEstimate(z[None], motion[None, None])


@pytest.mark.slow
def test_marquardt_finds_the_motion_back_and_lowers_the_energy():
    views, truth = smooth_problem()
    turn = se3.exp(jnp.array([0.05, -0.05, 0.05, 0.01, -0.01, 0.01]))
    start = truth._replace(motion=turn @ truth.motion)
    found = solve_stereo_by_marquardt(views, start, StereoMarquardt(depth=False), num_steps=25)
    np.testing.assert_array_equal(found.inverse_depth[-1], truth.inverse_depth)
    np.testing.assert_allclose(found.motion[-1], truth.motion, atol=3e-3)
    held = solve_stereo_by_marquardt(views, start, StereoMarquardt(prior_weight=1e6))
    np.testing.assert_allclose(held.inverse_depth[-1], truth.inverse_depth, atol=1e-3)

    def terms(z, motion):
        args = views.target[0], views.sources[0, 0], views.intrinsics[0]
        return photometric_terms(z[0], motion[0, 0], *args)

    free = solve_stereo_by_marquardt(views, start, num_steps=8)
    before = terms(*start[:2])
    for k in range(8):
        after = terms(free.inverse_depth[k], free.motion[k])
        both = (before.visible & after.visible)[..., None]
        old, new = (jnp.sum(both * t.residual**2) for t in (before, after))
        assert new <= old * (1 + 1e-6)
        before = after
    assert new < 0.5 * jnp.sum(terms(*start[:2]).residual ** 2)


@pytest.mark.slow
def test_robust_kernels_of_marquardt():
    """With a large scale both are squares; with a small one outliers pull less."""
    views, truth = problem()
    start = truth._replace(inverse_depth=0.8 * truth.inverse_depth)
    solve = lambda **changes: solve_stereo_by_marquardt(
        views, start, StereoMarquardt(prior_weight=1.0, **changes), num_steps=3
    )
    plain = solve()
    for kernel in ("huber", "cauchy"):
        same, robust = solve(kernel=kernel, scale=1e3), solve(kernel=kernel, scale=0.02)
        np.testing.assert_allclose(same.inverse_depth, plain.inverse_depth, atol=1e-3)
        assert not np.allclose(robust.inverse_depth, plain.inverse_depth, atol=1e-3)
    mean = jnp.full_like(start.inverse_depth, 0.3)
    settings = StereoMarquardt(prior_weight=1e6)
    held = solve_stereo_by_marquardt(views, start, settings, mean=mean)
    np.testing.assert_allclose(held.inverse_depth[-1], 0.3, atol=5e-3)
    with pytest.raises(ValueError, match=r"`kernel`: expected one of 'squares'"):
        solve(kernel="tukey")


def test_entry_point_shapes_files_and_bad_input(tmp_path):
    p = pairs()
    params = jax.jit(init_stereo_network, static_argnums=1)(jax.random.key(2), NETWORK)
    solve = jax.jit(estimate_depth_and_motion, static_argnames="network")
    found = solve(p.target, p.source, p.intrinsics, params, network=NETWORK)
    assert found.full.shape == (3, 32, 48)
    assert found.inverse_depth.shape == (3, 8, 12)
    assert found.motion.shape == (3, 1, 4, 4)
    path = tmp_path / "network.safetensors"
    save_model(path, Model(params, {"network": NETWORK}, {"system": "monocular_stereo"}))
    again = load_model(path)
    assert again.settings == {"network": NETWORK}
    same = solve(p.target, p.source, p.intrinsics, again.params, **again.settings)
    np.testing.assert_array_equal(same.full, found.full)

    run = functools.partial(estimate_depth_and_motion, params=params, network=NETWORK)
    with pytest.raises(ValueError, match=r"`target`: expected multiples of eight, got \(30, 48\)"):
        run(p.target[:, :30], p.source, p.intrinsics)
    with pytest.raises(ValueError, match=r"`sources`: expected the shape of `target`.*Resize"):
        run(p.target, p.source[:, :24], p.intrinsics)
    with pytest.raises(ValueError, match=r"`target`: expected \(..., \?, \?, 3\)"):
        run(p.target[..., :1], p.source, p.intrinsics)
    with pytest.raises(ValueError, match=r"`target`: expected a real floating-point.*255"):
        run((255 * p.target).astype(np.uint8), p.source, p.intrinsics)
    with pytest.raises(ValueError, match=r"`intrinsics`: expected a real floating-point"):
        run(p.target, p.source, p.intrinsics.astype(int))
    with pytest.raises(ValueError, match=r"`residual`: expected one of 'grey', 'rgb'"):
        run(p.target, p.source, p.intrinsics, network=NETWORK._replace(residual="hue"))
    with pytest.raises(ValueError, match=r"`update`: expected 'left' with unit=True"):
        run(p.target, p.source, p.intrinsics, network=NETWORK._replace(update="additive"))


@pytest.mark.slow
def test_one_pair_alone_is_that_of_a_batch():
    p, params = pairs(), init_stereo_network(jax.random.key(2), NETWORK)
    run = functools.partial(estimate_depth_and_motion, params=params, network=NETWORK)
    one = run(p.target[1], p.source[1], p.intrinsics[1])
    np.testing.assert_allclose(one.full, run(p.target, p.source, p.intrinsics).full[1], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["recurrent", "refinement", "recurrent_refinement"])
def test_single_precision_images_and_weights_in_double_precision_mode(solver):
    with jax.enable_x64(True):
        network = NETWORK._replace(solver=solver)
        some = generate_pairs(jax.random.key(4), 1, (16, 24))
        single = [
            jnp.asarray(x[0], jnp.float32) for x in (some.target, some.source, some.intrinsics)
        ]
        params = jax.tree.map(
            lambda leaf: leaf.astype(jnp.float32), init_stereo_network(jax.random.key(5), network)
        )
        found = estimate_depth_and_motion(*single, params, network=network)
        assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
        double = estimate_depth_and_motion(
            *(x.astype(float) for x in single), params, network=network
        )
        assert double.inverse_depth.dtype == float
        np.testing.assert_allclose(found.inverse_depth, double.inverse_depth, rtol=1e-3)
        np.testing.assert_allclose(found.motion, double.motion, atol=1e-3)


@pytest.mark.slow
def test_additive_updates_of_the_paper():
    views, start = problem("grey")
    network = NETWORK._replace(
        update="additive", unit=False, residual="grey", encoding="paper", num_steps=2
    )
    params = moving(init_stereo_network(jax.random.key(1), network))
    found = solve_stereo(params, views, start, network)
    rotation = found.motion[..., :3, :3]
    np.testing.assert_allclose(
        rotation @ jnp.swapaxes(rotation, -1, -2), jnp.broadcast_to(jnp.eye(3), rotation.shape),
        atol=1e-5,
    )  # fmt: skip
    assert jnp.all(jnp.isfinite(found.inverse_depth))
