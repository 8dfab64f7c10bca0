"""Expected positions over a map: closed forms, gradients, and the network that ends with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.models.anchors import anchor_grid, expected_positions
from jaxcv.models.hand_pose import HandNetwork


def test_positions_of_the_grid():
    grid = np.asarray(anchor_grid(2, 4))
    np.testing.assert_allclose(grid[0, :, 0], [-0.75, -0.25, 0.25, 0.75])
    np.testing.assert_allclose(grid[:, 0, 1], [-0.5, 0.5])
    np.testing.assert_array_equal(grid[..., 2], 0)
    up = np.asarray(anchor_grid(2, 4, y_up=True))
    np.testing.assert_allclose(up, grid * [1, -1, 1])


def test_the_expected_position_of_a_known_map():
    """A Gaussian map has its own mean; one high logit selects its anchor with its offset."""
    with jax.enable_x64(True):
        grid = anchor_grid(40, 40)
        mean = jnp.array([0.1, -0.15, 0.0])
        logits = -0.5 * jnp.sum((grid - mean) ** 2, axis=-1)[..., None] / 0.15**2
        zero = jnp.zeros((40, 40, 1, 3))
        np.testing.assert_allclose(expected_positions(logits, zero, grid), [mean], atol=1e-6)
        offsets = jax.random.normal(jax.random.key(0), (40, 40, 1, 3))
        sharp = jnp.zeros((40, 40, 1)).at[7, 21].set(60.0)
        want = grid[7, 21] + offsets[7, 21]
        np.testing.assert_allclose(expected_positions(sharp, offsets, grid), want, atol=1e-9)
        flat = expected_positions(jnp.full((40, 40, 1), 3.0), offsets, grid)
        np.testing.assert_allclose(flat, offsets.mean(axis=(0, 1)), atol=1e-9)


@pytest.mark.slow
def test_gradient_by_the_logits_and_offsets():
    """d x / d logit_a = p_a (g_a + o_a - x), d x / d o_a = p_a."""
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(1), 2)
        logits = jax.random.normal(keys[0], (3, 5, 2))
        offsets = jax.random.normal(keys[1], (3, 5, 2, 3))
        grid = anchor_grid(3, 5)
        run = lambda logits, offsets: expected_positions(logits, offsets, grid)
        x = run(logits, offsets)
        p = jnp.exp(logits) / jnp.exp(logits).sum(axis=(0, 1))
        by_logits, by_offsets = jax.jacrev(run, argnums=(0, 1))(logits, offsets)
        for j in range(2):
            want = p[..., j, None] * (grid + offsets[:, :, j] - x[j])
            got = jnp.moveaxis(by_logits[j, :, :, :, j], 0, -1)
            np.testing.assert_allclose(got, want, atol=1e-12)
            for c in range(3):
                np.testing.assert_allclose(by_offsets[j, c, :, :, j, c], p[..., j], atol=1e-12)
        step, eps = jax.random.normal(keys[0], logits.shape), 1e-6
        slope = (run(logits + eps * step, offsets) - run(logits - eps * step, offsets)) / (2 * eps)
        got = jax.jvp(lambda x: run(x, offsets), (logits,), (step,))[1]
        np.testing.assert_allclose(got, slope, atol=1e-8)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"`offsets`: expected \(1, 3, 5, 2, 3\)"):
        expected_positions(jnp.zeros((1, 3, 5, 2)), jnp.zeros((1, 3, 5, 1, 3)), anchor_grid(3, 5))


def test_the_network_with_anchors_costs_as_much_as_net6():
    """Multiply-adds at the size of the study and at the published one; dropout has a rate."""

    def cost(network, side):
        image = jax.ShapeDtypeStruct((1, side, side, 1), jnp.float32)
        params = jax.eval_shape(network.init, jax.random.key(0), image)
        kernels = [(path[-2].key, leaf.shape) for path, leaf in jax.tree.leaves_with_path(params)
                   if leaf.ndim > 1]  # fmt: skip
        place = {"conv1": 1, "conv2": 1, "conv3": 2, "conv4": 2, "conv5": 4, "conv6": 4, "conv7": 4}
        total = 0
        for name, shape in kernels:
            dense = network.head == "dense" and name in ("fc1", "fc2", "output")
            positions = 1 if dense else (side // place.get(name, 8)) ** 2
            total += positions * int(np.prod(shape))
        return total

    small = {"width": 0.25, "dense": 256}
    for side, size, least in ((64, small, 0.95), (48, small, 0.95), (128, {}, 0.85)):
        nets = HandNetwork(**size), HandNetwork(head="anchors", **size)
        plain, anchors = (cost(net, side) for net in nets)
        assert least * plain < anchors < 1.05 * plain


def test_the_network_sees_the_whole_map_and_drops_out():
    network = HandNetwork(head="anchors", width=0.125)
    image = jax.random.normal(jax.random.key(2), (2, 32, 32, 1))
    params = jax.jit(network.init)(jax.random.key(0), image)
    assert params["params"]["output"]["kernel"].shape == (16, 56)
    run = jax.jit(lambda rate, key: network.apply(params, image, rate=rate, key=key))
    out = jax.jit(network.apply)(params, image)
    assert out.shape == (2, 14, 3)
    np.testing.assert_allclose(run(0.0, jax.random.key(1)), out, atol=1e-6)
    assert np.abs(run(0.5, jax.random.key(1)) - out).max() > 1e-4
