"""From a depth image to joints: where the hand is found, what crops do not depend on, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.data.hand import NYU_INTRINSICS
from jaxcv.models.hand_pose import HandNetwork
from jaxcv.systems import Model, load_model, predict_hand, preprocess, save_model
from jaxcv.systems.hand_pose import ColorScale, crop_color, find_hand

K = np.array([[240.0, 0, 79.5], [0, 240.0, 59.5], [0, 0, 1]])
SIDE = 16
NETWORK = HandNetwork(net="net1", width=0.0625, dense=8)


def scene(place=(10.0, -20.0, 700.0), wall=1500.0, speckle=0):
    """A ball of 60 mm before a wall, 120 x 160."""
    v, u = np.mgrid[:120, :160]
    rays = np.stack([(u - 79.5) / 240, (v - 59.5) / 240, np.ones(u.shape)], axis=-1)
    square = np.sum(rays**2, axis=-1)
    middle = rays @ np.asarray(place)
    root = middle**2 - square * (np.sum(np.square(place)) - 60.0**2)
    ball = (middle - np.sqrt(np.maximum(root, 0))) / square
    depth = np.where(root > 0, ball, wall)
    depth.flat[:speckle] = 300.0
    return depth


@pytest.fixture(scope="module")
def params():
    return jax.jit(NETWORK.init)(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 1)))


def test_a_network_in_a_file_predicts_as_before(tmp_path):
    network = HandNetwork(
        net="net1", images=("depth", "rgb"), fuse_at=("conv2", "pool2"), width=0.0625, dense=8
    )
    crops = [jnp.zeros((1, SIDE, SIDE, channels)) for channels in (1, 3)]
    params = jax.jit(network.init)(jax.random.key(0), *crops)
    scale = ColorScale((0.1, 0.2, 0.3), (0.5, 0.5, 0.4))
    settings = {
        "network": network, "side": SIDE, "cube": 250.0, "color_scale": scale, "scales": None
    }  # fmt: skip
    path = tmp_path / "network.safetensors"
    save_model(path, Model(params, settings, {"system": "hand_pose"}))
    again = load_model(path, system="hand_pose")
    assert again.settings == settings
    color = np.full((120, 160, 3), 0.4)
    found = predict_hand(scene(), K, again.params, color=color, **again.settings)
    want = predict_hand(scene(), K, params, color=color, **settings)
    np.testing.assert_array_equal(found.joints, want.joints)

    with pytest.raises(ValueError, match=r"expected a model of the system 'monocular_stereo'"):
        load_model(path, system="monocular_stereo")
    other = settings | {"network": network.clone(net="net2")}
    with pytest.raises(ValueError, match="`model`: expected the tree of `its settings`"):
        save_model(path, Model(params, other, {"system": "hand_pose"}))


@pytest.mark.parametrize("speckle", [0, 20])
def test_the_nearest_thing_is_the_hand(speckle):
    depth = scene(speckle=speckle)
    centre = jax.jit(find_hand)(jnp.asarray(depth, jnp.float32), jnp.asarray(K))
    # The mean of the half of the ball's surface that is seen.
    np.testing.assert_allclose(centre[:2], [10 * centre[2] / 700, -20 * centre[2] / 700], atol=1.0)
    assert 700 - 60 < centre[2] < 700 - 20
    assert np.isnan(find_hand(jnp.zeros((4, 4)), jnp.asarray(K))).all()


def test_the_crop_shows_the_hand_and_no_wall():
    crop = preprocess(scene(), K, side=64)
    assert crop.depth.shape == (64, 64, 1)
    share = np.pi * 60**2 / 300**2 * float(crop.centre[2] / 700) ** 2  # the rim is at 700 mm
    assert np.asarray(crop.mask).mean() == pytest.approx(share, rel=0.03)
    assert (np.asarray(crop.depth[..., 0])[~np.asarray(crop.mask)] == 1).all()
    nearest = crop.centre[2] + 150 * crop.depth.min()
    assert nearest == pytest.approx(640, abs=2)
    color = jnp.ones((120, 160, 3)) * jnp.array([0.2, 0.4, 0.6])
    shown = crop_color(color, crop, ColorScale((0.1, 0.1, 0.1), (2.0, 2.0, 2.0)))
    mask = np.asarray(crop.mask)
    np.testing.assert_allclose(np.asarray(shown)[mask].mean(0), [0.05, 0.15, 0.25], atol=1e-5)
    np.testing.assert_allclose(np.asarray(shown)[~mask], -0.05, atol=1e-6)


def test_a_window_of_the_image_gives_the_same_joints(params):
    depth = scene()
    settings = {"network": NETWORK, "side": SIDE}
    whole = predict_hand(depth, K, params, **settings)
    part = K.copy()
    part[:2, 2] -= [30, 10]
    found = predict_hand(depth[10:110, 30:140], part, params, **settings)
    np.testing.assert_allclose(found.joints, whole.joints, atol=0.01)
    np.testing.assert_allclose(found.pixels + np.array([30, 10]), whole.pixels, atol=0.01)
    assert np.abs(whole.joints - whole.centre).max() <= 150
    u = 240 * whole.joints[:, 0] / whole.joints[:, 2] + 79.5
    np.testing.assert_allclose(whole.pixels[:, 0], u, rtol=1e-5)


def test_y_up_is_a_negative_focal_length(params):
    depth, up = scene(), K * [[1], [-1], [1]] + np.array([[0, 0, 0], [0, 0, 119.0], [0, 0, 0]])
    settings = {"network": NETWORK, "side": SIDE}
    found = predict_hand(depth, K, params, **settings)
    turned = predict_hand(depth, up, params, **settings)
    assert up[1, 1] < 0
    np.testing.assert_allclose(turned.centre, found.centre * np.array([1, -1, 1]), atol=0.01)


def test_many_frames_at_once_and_a_given_centre(params):
    places = [(0.0, 0.0, 650.0), (30.0, 10.0, 800.0)]
    depth = np.stack([scene(place) for place in places])
    settings = {"network": NETWORK, "side": SIDE}
    together = predict_hand(depth, K, params, **settings)
    assert together.joints.shape == (2, 14, 3)
    for i in range(2):
        alone = predict_hand(depth[i], K, params, **settings)
        np.testing.assert_allclose(together.joints[i], alone.joints, atol=1e-2)
    given = predict_hand(depth, K, params, centre=np.array(places), **settings)
    np.testing.assert_array_equal(given.centre, np.float32(places))


def test_networks_of_colour(params):
    fused = HandNetwork(
        net="net1", width=0.0625, dense=8, images=("depth", "rgb"), fuse_at=("conv2",)
    )
    shapes = jnp.zeros((1, SIDE, SIDE, 1)), jnp.zeros((1, SIDE, SIDE, 3))
    weights = jax.jit(fused.init)(jax.random.key(1), *shapes)
    color = np.random.default_rng(0).random((120, 160, 3))
    found = predict_hand(scene(), K, weights, network=fused, side=SIDE, color=color)
    other = predict_hand(scene(), K, weights, network=fused, side=SIDE, color=1 - color)
    assert np.abs(found.joints - other.joints).max() > 1e-3
    with pytest.raises(ValueError, match=r"`color`: expected \(120, 160, 3\)"):
        predict_hand(scene(), K, weights, network=fused, side=SIDE)
    with pytest.raises(ValueError, match=r"`color`: expected values in \[0, 1\].*255"):
        predict_hand(scene(), K, weights, network=fused, side=SIDE, color=255 * color)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": scene() / 1000}, "`depth`: expected millimetres.*multiply by 1000"),
        ({"depth": np.zeros((120, 160))}, "`depth`: expected a pixel with a depth"),
        ({"centre": [0.0, 0.0, -700.0]}, "`centre`: expected a point in front of the camera"),
        ({"centre": [900.0, 0.0, 700.0]}, "`centre`: expected a point within the image of 160 x"),
        ({"centre": [0.0, 0.0, 400.0]}, "`centre`: expected a hand within 300 mm"),
        ({"centre": [0.0, 0.0, 4000.0]}, "`centre`: expected a hand within 300 mm"),
        ({"centre": [np.nan, 0.0, 400.0]}, "`centre`: expected finite"),
        ({"centre": [[0.0, 0.0, 700.0]]}, r"`centre`: expected \(3,\) \[mm\], got \(1, 3\)"),
        ({"side": 2 * SIDE}, "`params`: expected weights of this network, trained on crops of"),
        ({"intrinsics": NYU_INTRINSICS.T}, "`intrinsics`: expected"),
    ],
)
def test_bad_input(params, change, message):
    inputs = {"depth": scene(), "intrinsics": K, "side": SIDE} | change
    depth, k = inputs.pop("depth"), inputs.pop("intrinsics")
    with pytest.raises(ValueError, match=message):
        predict_hand(depth, k, params, network=NETWORK, **inputs)
