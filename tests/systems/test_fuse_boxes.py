"""Fusing boxes: invariances, gradients, masks, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcv import Damping
from jaxcv.energies.tracker_fusion import FusionParameters, TrackerFrame, initial_parameters
from jaxcv.systems import fuse_boxes, fuse_frame

TRACKERS = 6


def some_boxes(seed, spread=2.0):
    rng = np.random.default_rng(seed)
    centre, size = rng.uniform(50, 300, 2), rng.uniform(20, 60, 2)
    truth = np.concatenate([centre - size / 2, centre + size / 2])
    return truth + spread * rng.normal(size=(TRACKERS, 4)), truth


def some_parameters(seed):
    rng = np.random.default_rng(seed)
    scale = {"log_scale": 0.05}
    return FusionParameters(*(
        jnp.asarray(scale.get(name, 0.3) * rng.normal(size=(2, TRACKERS)))
        for name in FusionParameters._fields
    ))  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(-500, 500), st.floats(0.2, 20))
@pytest.mark.slow
def test_moving_and_scaling_the_image_moves_and_scales_the_box(seed, shift, scale):
    with jax.enable_x64(True):
        boxes, _ = some_boxes(seed)
        parameters, first = some_parameters(seed), jnp.asarray([10.0, 20, 50, 70])
        box = fuse_boxes(boxes, parameters, first_box=first, frame=7)
        moved = fuse_boxes(scale * boxes + shift, parameters, first_box=scale * first, frame=7)
        np.testing.assert_allclose(moved, scale * box + shift, rtol=1e-7, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
@pytest.mark.slow
def test_the_order_of_the_trackers_does_not_matter(seed):
    with jax.enable_x64(True):
        boxes, _ = some_boxes(seed)
        parameters = some_parameters(seed)
        order = np.random.default_rng(seed).permutation(TRACKERS)
        mixed = jax.tree.map(lambda leaf: leaf[:, order], parameters)
        np.testing.assert_allclose(
            fuse_boxes(boxes[order], mixed), fuse_boxes(boxes, parameters), rtol=1e-8
        )


@pytest.mark.slow
def test_sizes_for_corners_are_no_boxes():
    sizes = np.tile(np.array([[50, 50, 10, 10], [51, 50, 10, 11]], np.float32), (3, 1))
    one = np.tile(np.array([[0, 0, 0, 0], [55, 20, 50, 30]], np.float32), (3, 1))
    one[0] = [50, 50, 60, 60]
    fused = fuse_boxes(np.stack([sizes, one]))  # x, y, width, height are no corners
    assert np.all(np.isnan(fused[0]))
    np.testing.assert_allclose(fused[1], one[0], rtol=1e-6)
    with pytest.raises(ValueError, match="`boxes`: expected at least one tracker"):
        fuse_boxes(jnp.zeros((0, 4)))


def test_one_tracker_gives_its_box_and_none_gives_nan():
    boxes, _ = some_boxes(0)
    reported = np.zeros((2, TRACKERS), bool)
    reported[0, 3] = True
    fused = fuse_boxes(np.stack([boxes, boxes]).astype(np.float32), reported=reported)
    np.testing.assert_allclose(fused[0], boxes[3], rtol=1e-5)
    assert np.all(np.isnan(fused[1]))


@pytest.mark.slow
def test_who_does_not_report_changes_nothing():
    boxes, _ = some_boxes(1)
    reported = np.arange(TRACKERS) != 2
    wild = boxes.copy()
    wild[2] = [1e5, -1e5, 2e5, 3e5]
    parameters = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), some_parameters(1))
    a, b = (fuse_boxes(x, parameters, reported=reported) for x in (boxes, wild))
    np.testing.assert_array_equal(a, b)

    def loss(parameters, x):
        return jnp.sum(fuse_boxes(x, parameters, reported=reported))

    gradient = jax.grad(loss)(parameters, jnp.asarray(wild))
    assert all(np.all(np.isfinite(leaf)) for leaf in gradient)
    assert all(np.all(leaf[:, 2] == 0) for leaf in gradient)


@pytest.mark.slow
def test_outliers_do_not_move_it_and_the_mean_is_moved():
    boxes, truth = some_boxes(3, spread=1.0)
    boxes[4:] += 200
    assert np.max(np.abs(fuse_boxes(boxes) - truth)) < 3
    assert np.max(np.abs(boxes.mean(0) - truth)) > 50


def test_gradient_is_that_of_central_differences():
    with jax.enable_x64(True):
        boxes, truth = some_boxes(5)
        parameters, first = some_parameters(5), jnp.asarray([10.0, 20, 50, 70])
        direction = some_parameters(6)

        @jax.jit
        def loss(h):
            moved = jax.tree.map(lambda p, d: p + h * d, parameters, direction)
            undamped = Damping(0.0, mode="plain")
            box = fuse_boxes(boxes, moved, first_box=first, frame=30, damping=undamped)
            return jnp.sum(jnp.sin(box - truth))

        exact = jax.grad(loss)(0.0)
        assert abs(exact) > 1e-3
        coarse, fine = ((loss(h) - loss(-h)) / (2 * h) - exact for h in (1e-3, 1e-4))
        assert abs(fine) < 1e-6 * max(1, abs(exact))
        assert abs(fine) < 0.05 * abs(coarse) + 1e-9


@pytest.mark.slow
def test_batches_of_frames_jit_and_vmap_agree():
    with jax.enable_x64(True):
        boxes = np.stack([some_boxes(seed)[0] for seed in range(6)])
        parameters = some_parameters(0)
        together = fuse_boxes(boxes, parameters)
        alone = np.stack([fuse_boxes(b, parameters) for b in boxes])
        compiled = jax.jit(fuse_boxes)(boxes, parameters)
        lanes = jax.vmap(lambda b: fuse_boxes(b, parameters))(jnp.asarray(boxes))
        shaped = fuse_boxes(boxes.reshape(2, 3, TRACKERS, 4), parameters).reshape(6, 4)
        for other in (alone, compiled, lanes, shaped):
            np.testing.assert_allclose(other, together, rtol=1e-10)


@pytest.mark.slow
def test_a_box_that_is_not_finite_is_not_reported():
    boxes = np.stack([some_boxes(seed)[0] for seed in range(4)]).astype(np.float32)
    bad = boxes.copy()
    bad[1, 0, 0], bad[2, 3, 1] = np.nan, np.inf
    bad[3] = np.nan
    reported = np.isfinite(bad).all(-1)

    @jax.jit
    def gradient(parameters, boxes, reported):
        frames = TrackerFrame(boxes, reported, jnp.asarray([0.0, 0, 9, 9]), jnp.asarray(1.0))

        def loss(parameters):
            one = lambda b, r: fuse_frame(parameters, frames._replace(boxes=b, reported=r)).box
            return jnp.sum(jnp.sin(jax.vmap(one)(frames.boxes, frames.reported)))

        return jax.grad(loss)(parameters)

    parameters = initial_parameters(TRACKERS)
    masked = gradient(parameters, boxes, reported)
    found = gradient(parameters, bad, np.ones_like(reported))
    for a, b in zip(found, masked, strict=True):
        assert np.all(np.isfinite(a))
        np.testing.assert_array_equal(a, b)
    fused = fuse_boxes(bad)
    np.testing.assert_array_equal(fused[:3], fuse_boxes(boxes, reported=reported)[:3])
    assert np.all(np.isnan(fused[3]))


@pytest.mark.parametrize(
    ("boxes", "parameters", "message"),
    [
        (np.zeros((3, 5)), None, r"`boxes`: expected \(..., \?, 4\), got \(3, 5\)"),
        (np.zeros(4), None, "`boxes`"),
        (np.zeros((3, 4), bool), None, "`boxes`"),
        (np.zeros((3, 4)), initial_parameters(2), "`parameters`: expected those of 3 trackers"),
    ],
)
def test_bad_input(boxes, parameters, message):
    with pytest.raises(ValueError, match=message):
        fuse_boxes(boxes, parameters)
