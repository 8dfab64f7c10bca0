"""Boxes: properties, the rasterised count, and finite, correct gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcv.geometry import boxes

coordinate = st.floats(-200, 200, width=32)
side = st.floats(0.5, 100, width=32)
rectangle = st.tuples(coordinate, coordinate, side, side)
any_box = st.tuples(coordinate, coordinate, coordinate, coordinate)


def corners(ltwh):
    return np.asarray(boxes.ltwh_to_corners(np.asarray(ltwh, np.float32)))


@settings(max_examples=50, deadline=None)
@given(any_box, any_box)
def test_iou_is_symmetric_and_in_the_unit_interval(a, b):
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    value = float(boxes.iou(a, b))
    assert value == float(boxes.iou(b, a))
    assert 0 <= value <= 1


@settings(max_examples=50, deadline=None)
@given(rectangle, rectangle, st.tuples(coordinate, coordinate), st.floats(0.1, 10))
def test_iou_ignores_translation_and_scale(a, b, shift, scale):
    with jax.enable_x64(True):
        a, b = (boxes.ltwh_to_corners(np.asarray(x, np.float64)) for x in (a, b))
        move = np.tile(np.asarray(shift, np.float64), 2)
        np.testing.assert_allclose(
            boxes.iou(scale * a + move, scale * b + move), boxes.iou(a, b), atol=1e-9
        )
        assert float(boxes.iou(a, a)) == 1


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.integers(0, 40)] * 4), st.tuples(*[st.integers(0, 40)] * 4))
def test_iou_equals_the_rasterised_count(a, b):
    def mask(box):
        x1, y1, x2, y2 = box
        grid = np.zeros((40, 40), bool)
        grid[y1:y2, x1:x2] = True
        return grid

    union = (mask(a) | mask(b)).sum()
    expected = (mask(a) & mask(b)).sum() / max(union, 1)
    value = boxes.iou(np.asarray(a, np.float32), np.asarray(b, np.float32))
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_iou_of_fractional_boxes_is_near_a_fine_raster():
    rng = np.random.default_rng(0)
    a, b = (corners(np.concatenate([rng.uniform(0, 20, 2), rng.uniform(5, 20, 2)])) for _ in "ab")
    x, y = np.meshgrid(*[(np.arange(800) + 0.5) / 20] * 2)
    inside = [(x > c[0]) & (x < c[2]) & (y > c[1]) & (y < c[3]) for c in (a, b)]
    expected = (inside[0] & inside[1]).sum() / (inside[0] | inside[1]).sum()
    np.testing.assert_allclose(boxes.iou(a, b), expected, atol=5e-3)


@pytest.mark.parametrize("box", [(0, 0, 0, 0), (5, 5, 5, 9), (5, 5, 2, 2), (1, 1, 1, 1)], ids=str)
def test_degenerate_boxes_give_zero_and_finite_gradients(box):
    box = jnp.asarray(box, jnp.float32)
    other = jnp.array([0.0, 0.0, 10.0, 10.0])
    for a, b in ((box, other), (other, box), (box, box)):
        assert float(boxes.iou(a, b)) == 0
        gradients = jax.grad(lambda a, b: boxes.iou(a, b), argnums=(0, 1))(a, b)
        assert all(np.isfinite(g).all() for g in gradients)
    assert float(boxes.box_size(box)) == 0
    assert np.isfinite(jax.grad(boxes.box_size)(box)).all()


@pytest.mark.parametrize("seed", range(4))
def test_iou_gradient_is_the_central_difference(seed):
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        a = jnp.asarray([10.0, 12.0, 40.0, 50.0]) + rng.uniform(-5, 5, 4)
        b = jnp.asarray([15.0, 5.0, 45.0, 38.0]) + rng.uniform(-5, 5, 4)
        direction = rng.standard_normal((2, 4))
        exact = sum(
            jnp.vdot(g, d)
            for g, d in zip(jax.grad(boxes.iou, (0, 1))(a, b), direction, strict=True)
        )

        def error(h):
            def at(s):
                return boxes.iou(a + s * direction[0], b + s * direction[1])

            return abs((at(h) - at(-h)) / (2 * h) - exact)

        assert error(1e-4) < 1e-8
        assert error(1e-3) < 0.02 * error(1e-2)  # falls as h^2


def test_encodings_are_inverse_and_batch():
    ltwh = np.random.default_rng(0).uniform(0, 100, (2, 3, 4)).astype(np.float32)
    both = boxes.corners_to_ltwh(boxes.ltwh_to_corners(ltwh))
    np.testing.assert_allclose(both, ltwh, rtol=1e-5)
    c = boxes.ltwh_to_corners(ltwh)
    np.testing.assert_allclose(c[..., 2:], ltwh[..., :2] + ltwh[..., 2:], rtol=1e-6)
    np.testing.assert_allclose(boxes.box_size(c), np.sqrt(ltwh[..., 2:].prod(-1)), rtol=1e-4)
    assert boxes.iou(c[:, :1], c).shape == (2, 3)
    np.testing.assert_allclose(jax.jit(jax.vmap(boxes.iou))(c, c), 1.0)


@settings(max_examples=40, deadline=None)
@given(rectangle, st.integers(0, 3), st.booleans())
def test_polygon_of_a_rectangle_is_the_rectangle(ltwh, start, flip):
    x1, y1, x2, y2 = corners(ltwh).astype(np.float64)
    points = np.roll(np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]), start, axis=0)
    points = points[::-1] if flip else points
    with jax.enable_x64(True):
        for method in ("extent", "area"):
            np.testing.assert_allclose(
                boxes.polygon_to_box(points, method), [x1, y1, x2, y2], atol=1e-9
            )


@settings(max_examples=40, deadline=None)
@given(rectangle, st.floats(-3, 3))
def test_polygon_area_keeps_the_area_and_the_centre(ltwh, angle):
    left, top, w, h = ltwh
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    half = np.array([[-w, -h], [w, -h], [w, h], [-w, h]]) / 2
    points = half @ turn.T + np.array([left, top])
    with jax.enable_x64(True):
        x1, y1, x2, y2 = np.asarray(boxes.polygon_to_box(points, "area"))
        extent = np.asarray(boxes.polygon_to_box(points, "extent"))
    np.testing.assert_allclose((x2 - x1) * (y2 - y1), w * h, rtol=1e-6)
    np.testing.assert_allclose([(x1 + x2) / 2, (y1 + y2) / 2], [left, top], atol=1e-6)
    np.testing.assert_allclose(extent, [*points.min(0), *points.max(0)])


def test_flat_polygons_are_degenerate_without_nan():
    points = jnp.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]) * jnp.array([1.0, 0.0])
    for method in ("extent", "area"):
        box = boxes.polygon_to_box(points, method)
        assert float(boxes.area(box)) == 0
        gradient = jax.grad(lambda p, m=method: boxes.polygon_to_box(p, m).sum())(points)
        assert np.isfinite(gradient).all()


def test_errors_name_argument_rule_and_way_out():
    with pytest.raises(
        ValueError, match=r"`ltwh`: expected \(\.\.\., 4\), got \(3,\)\. Convert corners"
    ):
        boxes.ltwh_to_corners(np.zeros(3))
    with pytest.raises(ValueError, match=r"`b_corners`.*ltwh_to_corners"):
        boxes.iou(np.zeros(4), np.zeros(5))
    with pytest.raises(ValueError, match=r"`points`: expected four points.*method='extent'"):
        boxes.polygon_to_box(np.zeros((5, 2)), "area")
    with pytest.raises(ValueError, match=r"`points`: expected at least three"):
        boxes.polygon_to_box(np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"`method`: expected one of"):
        boxes.polygon_to_box(np.zeros((4, 2)), "hull")  # pyright: ignore[reportArgumentType]
