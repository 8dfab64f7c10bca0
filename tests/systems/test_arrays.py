"""The systems as functions of arrays: equal to the host's functions, under jit, vmap and grad."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.data.synthetic.curves import draw_curves
from jaxcv.data.synthetic.human_pose import generate
from jaxcv.energies.curves import FAMILIES
from jaxcv.energies.hand import HandScales
from jaxcv.energies.human_pose import initial_parameters
from jaxcv.energies.tracker_fusion import FusionParameters
from jaxcv.io import Model
from jaxcv.models.curve_solver import CurveSolver
from jaxcv.models.hand_pose import HandNetwork
from jaxcv.models.inverse_graphics import GraphicsNetwork, GraphicsSize
from jaxcv.systems import (
    curve_fitting_arrays,
    estimate_depth_and_motion,
    fit_curves,
    fit_pose_model,
    fuse_boxes,
    hand_pose_arrays,
    human_pose_arrays,
    inverse_graphics_arrays,
    monocular_stereo_arrays,
    predict_hand,
    reconstruct_pose,
    refine_hand,
    render_latents,
    robust_mean,
    robust_mean_arrays,
    tracker_fusion_arrays,
)
from jaxcv.systems.curve_fitting import init_curve_solver
from jaxcv.systems.inverse_graphics import LatentScale
from jaxcv.systems.stereo import StereoNetwork, init_stereo_network
from tests.helpers import UNDAMPED, assert_grad_matches
from tests.systems.test_hand_pose import NETWORK, SIDE, K, scene

HAND = {"network": NETWORK, "side": SIDE, "cube": 280.0}


@pytest.fixture(scope="module")
def hand_params():
    return jax.jit(NETWORK.init)(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 1)))


def hands():
    places = [(0.0, 0.0, 650.0), (30.0, 10.0, 800.0)]
    depth = jnp.asarray(np.stack([scene(place) for place in places]), jnp.float32)
    return depth, jnp.broadcast_to(jnp.asarray(K, jnp.float32), (2, 3, 3))


@pytest.mark.slow
def test_hands_as_arrays_are_those_of_the_host(hand_params):
    depth, k = hands()
    want = predict_hand(depth, k, hand_params, **HAND)
    run = lambda depth, k: hand_pose_arrays(hand_params, depth, k, settings=HAND)
    for way in (run, jax.jit(run), jax.vmap(run)):
        out = way(depth, k)
        assert out.pop("found").all()
        for name, value in out.items():
            np.testing.assert_allclose(value, getattr(want, name), atol=2e-3, err_msg=name)


def test_an_image_without_a_hand_is_marked_and_spoils_no_other(hand_params):
    depth, k = hands()
    run = jax.jit(lambda params, d: hand_pose_arrays(params, d, k, settings=HAND))
    whole = run(hand_params, depth)
    out = run(hand_params, depth.at[0].set(0))
    np.testing.assert_array_equal(out["found"], [False, True])
    assert np.isnan(out["joints"][0]).all()
    np.testing.assert_allclose(out["joints"][1], whole["joints"][1], atol=2e-3)
    loss = lambda params: jnp.nansum(run(params, depth.at[0].set(0))["joints"])
    slopes = jax.tree.leaves(jax.grad(loss)(hand_params))
    assert all(np.isfinite(slope).all() for slope in slopes)
    assert any(np.abs(slope).max() > 0 for slope in slopes)


@pytest.mark.slow
def test_the_refined_hand_as_arrays():
    network = HandNetwork(net="net1", width=0.0625, dense=8, confidence=True)
    params = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 1)))
    settings = {"network": network, "side": SIDE, "scales": HandScales()}
    depth, k = hands()
    want = predict_hand(depth, k, params, **settings)
    out = jax.jit(lambda d: hand_pose_arrays(params, d, k, settings=settings))(depth)
    np.testing.assert_allclose(out["joints"], want.joints, atol=0.5)  # [mm], fifteen steps later
    plain = hand_pose_arrays(params, depth, k, settings=settings | {"scales": None})
    assert np.abs(out["joints"] - plain["joints"]).max() > 5


@pytest.mark.slow
def test_given_factors_as_arrays():
    size = GraphicsSize(16, 6, ((3, 4), (3, 4)), (5, 4), ((3, 4), (1, 1)))
    network, images = GraphicsNetwork(size), jax.random.uniform(jax.random.key(5), (3, 16, 16, 1))
    params = jax.jit(network.init)(jax.random.key(0), images)
    settings = {"network": network, "scale": LatentScale((0.1, 0.2, 0.3), (0.5, -2.0, 1.0))}
    want = render_latents(images, params, elevation=0.7, **settings)
    given = jnp.full((3, 3), jnp.nan).at[:, 1].set(0.7)
    run = lambda images: inverse_graphics_arrays(params, images, given, settings=settings)
    for way in (run, jax.jit(run)):
        out = way(images)
        np.testing.assert_allclose(out["images"], want.images, atol=1e-6)
        np.testing.assert_allclose(out["code"], want.code, rtol=1e-5)
        np.testing.assert_allclose(out["found"][:, 2], want.found["light"], rtol=1e-5)
    # The drawing depends on a given factor, and not on the one that was inferred in its place.
    draw = lambda given: jnp.sum(
        inverse_graphics_arrays(params, images, given, settings=settings)["images"][:, :8]
    )
    slopes = jax.grad(draw)(jnp.full((3, 3), 0.3).at[:, 0].set(jnp.nan))
    assert np.abs(slopes[:, 1:]).min() > 0
    assert (slopes[:, 0] == 0).all()


def boxes_of(count=5):
    rng = np.random.default_rng(0)
    boxes = np.array([10.0, 10, 60, 80]) + 4 * rng.normal(size=(3, count, 4))
    boxes[0, 1] = np.nan
    boxes[2] = np.nan
    learned = FusionParameters(*(jnp.asarray(0.2 * rng.normal(size=(2, count))) for _ in range(5)))
    return jnp.asarray(boxes), learned


def test_fused_boxes_as_arrays():
    with jax.enable_x64(True):
        boxes, learned = boxes_of()
        first, frame = jnp.array([0.0, 0, 40, 60]), jnp.array([3, 4, 5])
        want = fuse_boxes(boxes, learned, first_box=first, frame=frame, damping=UNDAMPED)
        inputs = boxes, jnp.ones((3, 5), bool), jnp.tile(first, (3, 1)), frame
        settings = {"damping": UNDAMPED}
        run = jax.jit(lambda learned: tracker_fusion_arrays(learned, *inputs, settings=settings))
        out = run(learned)
        np.testing.assert_allclose(out["box"], want, rtol=1e-12)
        np.testing.assert_array_equal(out["converged"].all(-1), [True, True, False])
        assert np.isnan(out["box"][2]).all()


@pytest.mark.slow
def test_the_gradient_of_fused_boxes_as_arrays():
    with jax.enable_x64(True):
        boxes, learned = boxes_of()
        first, frame = jnp.array([0.0, 0, 40, 60]), jnp.array([3, 4, 5])
        inputs = boxes, jnp.ones((3, 5), bool), jnp.tile(first, (3, 1)), frame
        settings = {"damping": UNDAMPED}
        run = jax.jit(lambda learned: tracker_fusion_arrays(learned, *inputs, settings=settings))
        assert_grad_matches(
            lambda p: jnp.sum(run(p)["box"][:2] ** 2), learned, jax.random.key(0),
            steps=(1e-3, 1e-4, 1e-5), rtol=1e-5,
        )  # fmt: skip


def test_curves_as_arrays_and_by_model():
    network, names = CurveSolver(hidden=4), ("sine",)
    problems = draw_curves(jax.random.key(1), [FAMILIES[name] for name in names], 3)
    params = init_curve_solver(jax.random.key(0), network)
    data = problems.t, problems.y, problems.start
    settings = {"families": names, "num_steps": 2, "network": network}
    out = jax.jit(lambda *data: curve_fitting_arrays(params, *data, settings=settings))(*data)
    np.testing.assert_array_equal(out["unknowns"], out["iterates"][-1])
    rows = jnp.stack([problems.t[0], jnp.ones(100)])
    energy = 0.5 * jnp.sum((jnp.sin(out["unknowns"] @ rows) - problems.y) ** 2, axis=-1)
    np.testing.assert_allclose(out["energy"], energy, rtol=1e-4)
    model = Model(params, {"network": network, "num_steps": 2}, {"system": "curve_fitting"})
    for fit in (
        lambda: fit_curves(params, names, *data, network=network, num_steps=2),
        lambda: fit_curves(names, *data, model=model),
    ):
        np.testing.assert_allclose(jax.jit(fit)(), out["iterates"], rtol=1e-4, atol=1e-5)
    more = {"families": names, "t": data[0], "y": data[1], "start": data[2]}
    for fit in (lambda: fit_curves(model, names, *data), lambda: fit_curves(params=model, **more)):
        assert jax.eval_shape(fit).shape == (2, 1, 3, 2)
    shape = jax.eval_shape(lambda: fit_curves(names, *data, model=model, num_steps=5)).shape
    assert shape == (5, 1, 3, 2)  # in place of the model's


@pytest.mark.slow
def test_depth_and_motion_as_arrays():
    network = StereoNetwork(num_steps=2)
    params = init_stereo_network(jax.random.key(0), network)
    target, source = jax.random.uniform(jax.random.key(2), (2, 1, 32, 32, 3))
    k = jnp.array([[[30.0, 0, 15.5], [0, 30, 15.5], [0, 0, 1]]])
    want = estimate_depth_and_motion(target, source, k, params, network=network)
    run = jax.jit(lambda *x: monocular_stereo_arrays(params, *x, settings={"network": network}))
    out = run(target, source[:, None], k)
    for name, value in out.items():
        np.testing.assert_allclose(value, getattr(want, name), rtol=1e-4, atol=1e-5)
    model = Model(params, {"network": network}, {"system": "monocular_stereo"})
    again = estimate_depth_and_motion(target, source, k, model=model)
    jax.tree.map(np.testing.assert_array_equal, again, want)


@pytest.mark.slow
def test_poses_as_arrays_and_by_model():
    with jax.enable_x64(True):
        frames = generate(jax.random.key(0), num_subjects=3, clips=1, frames=12)
        own = fit_pose_model(frames.joints, frames.cameras, num_components=2)
        params = {"model": own, "parameters": initial_parameters(own)}
        settings = {"num_rotations": 5}
        points, visible = jnp.asarray(frames.points[:3]), jnp.asarray(frames.visible[:3])
        norm = jnp.full(3, 1400.0)
        run = jax.jit(lambda *inputs: human_pose_arrays(params, *inputs, settings=settings))
        out = run(points, visible, norm)
        model = Model(params, settings, {"system": "human_pose"})
        want = reconstruct_pose(points, model, visible=visible, limb_norm=norm)
        for name, value in out.items():
            np.testing.assert_allclose(value, getattr(want, name), rtol=1e-9, atol=1e-9)
        # What is given beside a model replaces its own.
        more = {"visible": visible, "limb_norm": norm}
        hard = reconstruct_pose(points, model=model, selection="hard", **more)
        again = reconstruct_pose(
            points, own, params["parameters"], selection="hard", num_rotations=5, **more
        )
        jax.tree.map(np.testing.assert_array_equal, hard, again)
        assert np.abs(hard.joints - want.joints).max() > 1
        lost = run(points.at[1].set(jnp.nan), visible, norm)["joints"]
        assert np.isnan(lost[1]).all()
        np.testing.assert_allclose(lost[0], want.joints[0], rtol=1e-9, atol=1e-9)


def test_the_robust_mean_of_samples():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        inliers = 3 + 0.1 * rng.standard_normal((4, 60))
        points = np.concatenate([inliers, rng.uniform(-20, 20, (4, 20))], axis=1)
        padded = np.concatenate([points, np.full((4, 3), np.nan)], axis=1)
        padded = np.concatenate([padded, np.full((1, 83), np.nan)])
        run = jax.jit(
            lambda scale, x: robust_mean_arrays({"scale": scale}, x, settings={"damping": UNDAMPED})
        )
        out, one = run(1.0, padded), jnp.asarray(1.0)
        found = out["mean"][:4]
        np.testing.assert_allclose(found, inliers.mean(axis=1), atol=0.1)
        np.testing.assert_array_equal(out["converged"], [True] * 4 + [False])
        assert np.isnan(out["mean"][4])
        np.testing.assert_allclose(run(one, padded + 5)["mean"][:4], found + 5, rtol=1e-12)
        np.testing.assert_allclose(run(2 * one, 2 * padded)["mean"][:4], 2 * found, rtol=1e-12)
        total = lambda scale: jnp.sum(run(scale, padded)["mean"][:4])
        exact = (total(one + 1e-5) - total(one - 1e-5)) / 2e-5
        np.testing.assert_allclose(jax.grad(total)(one), exact, rtol=1e-6)
        model = Model({"scale": one}, {}, {"system": "robust_mean"})
        np.testing.assert_allclose(robust_mean(points, model=model), found, rtol=1e-12)
        with pytest.raises(ValueError, match="`scale`: expected finite numbers > 0, got -1"):
            robust_mean(points, -1.0)


def test_a_model_in_place_of_parameters(hand_params):
    depth, k = hands()
    settings = {**HAND, "color_scale": ((0.0,) * 3, (1.0,) * 3), "scales": None}
    model = Model(hand_params, settings, {"system": "hand_pose"})
    want = predict_hand(depth, k, hand_params, **HAND)
    for found in (predict_hand(depth, k, model=model), predict_hand(depth, k, model)):
        np.testing.assert_array_equal(found.joints, want.joints)
    larger = predict_hand(depth, k, model=model, cube=320.0)  # in place of the model's
    assert np.abs(larger.joints - want.joints).max() > 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "`params`: expected parameters or a model, got None. Give model=load_pretrained"),
        ({"model": 3}, r"`model`: expected a jaxcv\.io\.Model, got int"),
        ({"model": Model({}, {}, {})}, "`model`: expected a model of the system 'hand_pose', got"),
        (
            {"model": Model({}, {"sides": 3}, {"system": "hand_pose"})},
            r"`model`: expected settings of predict_hand, got \['sides'\]",
        ),
        (
            {"model": Model({}, {}, {"system": "hand_pose"}), "params": {}},
            "`params`: expected one of `params` and `model`, got both",
        ),
    ],
)
def test_no_model_or_a_wrong_one(change, message):
    with pytest.raises(ValueError, match=message):
        predict_hand(scene(), K, **change)


@pytest.mark.slow
def test_refined_hands_take_the_scales_of_a_model():
    joints = jnp.asarray(np.random.default_rng(0).normal(size=(14, 3)) * 40 + [0, 0, 700])
    model = Model({}, {"scales": HandScales(joints=2.0)}, {"system": "hand_pose"})
    want = refine_hand(joints, jnp.zeros(14), jnp.zeros((4, 3)), HandScales(joints=2.0)).joints
    found = refine_hand(joints, jnp.zeros(14), jnp.zeros((4, 3)), model=model).joints
    np.testing.assert_array_equal(found, want)


def test_a_model_without_scales_refines_no_hand():
    with pytest.raises(ValueError, match="`model`: expected a model with `scales`, got None"):
        refine_hand(
            jnp.zeros((14, 3)), jnp.zeros(14), jnp.zeros((4, 3)),
            model=Model({}, {}, {"system": "hand_pose"}),
        )  # fmt: skip
