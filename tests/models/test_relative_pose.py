"""Siamese networks of relative pose: published shapes and counts, pyramids, the loss."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcv.geometry import so3
from jaxcv.models.pyramid import pool_windows, pyramid_pool
from jaxcv.models.relative_pose import (
    PoseNetwork,
    _max_pool,
    correlations,
    feature_shape,
    relative_pose_loss,
    rotation_of,
)

COUNTS = {  # grouped CaffeNet, and the AlexNet of torchvision
    "cnnA": (2_463_111, 2_598_727),
    "cnnB": (2_939_783, 3_075_399),
    "cnnAspp": (2_513_287, 2_648_903),
    "cnnBspp": (3_118_983, 3_254_599),
}


def shapes(network, height=227, width=227):
    image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    return jax.eval_shape(network.init, jax.random.key(0), image, image)


@pytest.mark.parametrize("net", COUNTS)
@pytest.mark.parametrize("trunk", ["caffenet", "alexnet"])
def test_published_parameter_counts(net, trunk):
    params = shapes(PoseNetwork(net, trunk))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count == COUNTS[net][trunk == "alexnet"]
    if "spp" in net:  # of any size, the pyramid has one length
        larger = shapes(PoseNetwork(net, trunk), 1200, 1600)
        assert jax.tree.map(lambda x: x.shape, larger) == jax.tree.map(lambda x: x.shape, params)


@pytest.mark.parametrize(
    ("net", "trunk", "size", "want"),
    [
        ("cnnB", "caffenet", (227, 227), (13, 13)), ("cnnA", "caffenet", (227, 227), (6, 6)),
        ("cnnB", "caffenet", (323, 323), (19, 19)), ("cnnA", "caffenet", (323, 323), (9, 9)),
        ("cnnB", "caffenet", (1200, 1600), (74, 99)), ("cnnA", "caffenet", (1200, 1600), (37, 49)),
        ("cnnB", "alexnet", (227, 227), (13, 13)), ("cnnB", "alexnet", (323, 323), (19, 19)),
        ("cnnB", "alexnet", (1200, 1600), (74, 99)), ("cnnA", "alexnet", (1200, 1600), (36, 49)),
    ],
)  # fmt: skip
def test_maps_have_the_published_shapes(net, trunk, size, want):
    assert feature_shape(net, trunk, *size) == want


@pytest.mark.slow
def test_the_map_is_what_feature_shape_says():
    for trunk in ("caffenet", "alexnet"):
        for size in ((67, 80), (101, 99)):
            network = PoseNetwork("cnnAspp", trunk, width=1 / 32)
            image = jnp.zeros((1, *size, 3))
            params = jax.jit(network.init)(jax.random.key(0), image, image)
            module = network.bind(params)
            x = image
            for k, convolution in enumerate(module.convolutions):
                x = convolution(x)
                x = _max_pool(x, trunk == "caffenet") if k in (0, 1, 4) else x
            assert x.shape[1:3] == feature_shape("cnnAspp", trunk, *size)


@given(st.integers(1, 120), st.sampled_from([1, 2, 3, 6, 13]))
@settings(deadline=None)
def test_adaptive_windows_cover_the_map(length, cells):
    windows = pool_windows(length, cells)
    assert len(windows) == cells
    assert set().union(*(range(a, b) for a, b in windows)) == set(range(length))
    assert all(0 <= a < b <= length for a, b in windows)
    assert windows == [
        (int(np.floor(i * length / cells)), int(np.ceil((i + 1) * length / cells - 1e-9)))
        for i in range(cells)
    ]


def test_the_published_rule_where_it_holds_and_where_not():
    for length, cells in ((13, 13), (13, 6), (6, 3), (37, 6), (49, 6), (19, 6)):
        assert len(pool_windows(length, cells, "published")) == cells
    for length in (13, 6):
        for cells in (1, 2, 3, 6):
            ours = pyramid_pool(jnp.arange(length**2.0).reshape(length, length, 1), (cells,))
            rule = pyramid_pool(
                jnp.arange(length**2.0).reshape(length, length, 1), (cells,), "published"
            )
            np.testing.assert_array_equal(ours, rule)
    for length, cells, got in ((19, 13, 18), (9, 6, 8), (74, 13, 14), (99, 13, 14)):
        with pytest.raises(ValueError, match=f"expected a map with {cells} windows, got {got}"):
            pool_windows(length, cells, "published")


def test_pyramid_against_brute_force():
    x = np.random.default_rng(0).normal(size=(2, 9, 14, 3)).astype(np.float32)
    levels, want = (6, 3, 1), []
    for n in levels:
        for c in range(3):
            for i, j in np.ndindex(n, n):
                rows = slice(i * 9 // n, -(-(i + 1) * 9 // n))
                columns = slice(j * 14 // n, -(-(j + 1) * 14 // n))
                want.append(x[:, rows, columns, c].max(axis=(1, 2)))
    np.testing.assert_array_equal(
        jax.jit(pyramid_pool, static_argnums=1)(x, levels), np.array(want).T
    )


def test_siamese():
    network = PoseNetwork("cnnBspp", width=1 / 16)
    images = jax.random.normal(jax.random.key(1), (2, 3, 80, 64, 3))
    params = jax.jit(network.init)(jax.random.key(0), *images)
    apply = jax.jit(network.apply)
    rotation, translation = apply(params, *images)
    assert rotation.shape == (3, 4)
    assert translation.shape == (3, 3)
    other = apply(params, images[0], images[1].at[2].add(1.0))
    np.testing.assert_allclose(other[0][:2], rotation[:2], atol=1e-6)
    assert np.abs(other[0][2] - rotation[2]).max() > 0
    half = params["params"]["rotation_head"]["kernel"].shape[0] // 2
    swap = lambda k: jnp.concatenate([k[half:], k[:half]])
    swapped = jax.tree.map(lambda x: x, params)
    for head in ("rotation_head", "translation_head"):
        kernel = params["params"][head]["kernel"]
        swapped["params"][head] = params["params"][head] | {"kernel": swap(kernel)}
    np.testing.assert_allclose(apply(swapped, images[1], images[0])[0], rotation, atol=1e-5)


@pytest.mark.slow
def test_rotations_of_outputs():
    w = jnp.array([0.3, -0.8, 0.5])
    angle = jnp.linalg.norm(w)
    quaternion = jnp.append(jnp.cos(angle / 2), jnp.sin(angle / 2) * w / angle)
    np.testing.assert_allclose(rotation_of(-3 * quaternion), so3.exp(w), atol=1e-6)
    columns = so3.exp(w)[:, :2]
    np.testing.assert_allclose(
        rotation_of(jnp.concatenate([2 * columns[:, 0], columns[:, 1] + columns[:, 0]])),
        so3.exp(w), atol=1e-6,
    )  # fmt: skip
    np.testing.assert_allclose(
        rotation_of((2 * so3.exp(w)).reshape(1, 9))[0], so3.exp(w), atol=1e-6
    )
    for size in (4, 6, 9):
        assert jnp.isfinite(jax.jacrev(rotation_of)(jnp.zeros(size))).all()
        np.testing.assert_allclose(jnp.linalg.det(rotation_of(jnp.zeros(size))), 1, atol=1e-6)


@given(
    st.lists(st.floats(-3, 3, width=32), min_size=3, max_size=3), st.floats(-2, 2, width=32),
    st.sampled_from([0.0, 1e-9, 1e-7, 1e-5, 1e-3]),
)  # fmt: skip
def test_nearly_parallel_columns_make_a_rotation(first, factor, away):
    a = jnp.asarray(first, jnp.float32)
    r = rotation_of(jnp.concatenate([a, factor * a + away * jnp.array([0.3, -1.0, 0.7])]))
    np.testing.assert_allclose(r @ r.T, np.eye(3), atol=1e-5)
    np.testing.assert_allclose(jnp.linalg.det(r), 1, atol=1e-5)


@pytest.mark.parametrize("head", ["linear", "hidden", "correlation"])
def test_only_heads_that_are_not_published_compare_the_images(head):
    """Linear heads add g(first) + h(second); the others do not."""
    network = PoseNetwork("cnnBspp", width=1 / 32, head=head, hidden=16)
    images = jax.random.normal(jax.random.key(0), (4, 1, 64, 64, 3))
    params = jax.jit(network.init)(jax.random.key(1), images[0], images[0])
    apply = jax.jit(network.apply)
    out = lambda i, j: jnp.concatenate(apply(params, images[i], images[j]), axis=-1)
    away = jnp.abs(out(0, 1) + out(2, 3) - out(0, 3) - out(2, 1)).max()
    assert (away < 1e-5) == (head == "linear"), away
    others = set(params["params"]) - {f"convolutions_{k}" for k in range(5)}
    hidden = {"hidden_layer"} if head == "hidden" else set()
    assert others == {"rotation_head", "translation_head"} | hidden


def test_correlations_are_cosines_between_cells():
    maps = jax.random.uniform(jax.random.key(0), (2, 1, 6, 6, 5))
    found = correlations(3 * maps[0], maps[1]).reshape(36, 36)  # of six cells a side: no pooling
    one, other = (np.asarray(x).reshape(36, 5) for x in maps)
    lengths = np.outer(np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1))
    np.testing.assert_allclose(found, one @ other.T / lengths, rtol=1e-5)
    zero = jax.grad(lambda x: correlations(x, maps[1]).sum())(jnp.zeros((1, 6, 6, 5)))
    assert np.isfinite(zero).all()


def test_loss():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        q, t, q2, t2 = (jnp.asarray(rng.normal(size=(2, k))) for k in (4, 3, 4, 3))
        want = np.linalg.norm(t - t2, axis=1) + 10 * np.linalg.norm(q - q2, axis=1)
        np.testing.assert_allclose(relative_pose_loss(q, t, q2, t2), want, rtol=1e-12)
        f = lambda q: relative_pose_loss(q, t, q2, t2, 3.0).sum()
        step = jnp.asarray(rng.normal(size=(2, 4)))
        quotient = (f(q + 1e-6 * step) - f(q - 1e-6 * step)) / 2e-6
        np.testing.assert_allclose(jnp.vdot(jax.grad(f)(q), step), quotient, rtol=1e-7)
        at_truth = jax.grad(lambda q: relative_pose_loss(q, t2, q2, t2).sum())(q2)
        np.testing.assert_array_equal(at_truth, 0)


@pytest.mark.parametrize(
    ("network", "shape", "message"),
    [
        (PoseNetwork("cnnB"), (1, 323, 323, 3), "expected 227 x 227 pixels for cnnB"),
        (
            PoseNetwork("cnnBspp", "caffenet"),
            (1, 20, 90, 3),
            "expected [0-9]+ pixels a side or more",
        ),
        (PoseNetwork("cnnAspp", "caffenet"), (1, 40, 20, 3), "pixels a side .* got .40, 20."),
        (PoseNetwork("cnnC"), (1, 227, 227, 3), "`net`: expected one of"),
        (PoseNetwork(), (1, 227, 227, 1), r"`images`: expected \(B, H, W, 3\)"),
    ],
)
def test_bad_input(network, shape, message):
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(network.init, jax.random.key(0), image, image)


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.slow
def test_the_pool_is_the_reduction_of_windows(ceil):
    for height, width in itertools.product(range(3, 9), range(6, 8)):
        x = jax.random.normal(jax.random.key(height), (2, height, width, 3)) - 5  # below padding
        counts = [-(-(n - 3) // 2) + 1 if ceil else (n - 3) // 2 + 1 for n in (height, width)]
        over = [(0, max(0, 2 * c + 1 - n)) for c, n in zip(counts, (height, width), strict=True)]
        want, pull = jax.vjp(lambda x, over=over: nn.max_pool(x, (3, 3), (2, 2), over), x)
        ours, own = jax.vjp(lambda x: _max_pool(x, ceil), x)
        np.testing.assert_array_equal(ours, want)
        slope = jax.random.normal(jax.random.key(1), want.shape)
        np.testing.assert_allclose(own(slope)[0], pull(slope)[0], atol=1e-5)
