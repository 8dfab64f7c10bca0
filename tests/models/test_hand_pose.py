"""The hand networks: published sizes, what fusions are equal, symmetric and blind to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.models.hand_pose import (
    FUSIONS,
    NETS,
    HandNetwork,
    dropout,
    fuse_predictions,
    inverse_error_weights,
    layers_of,
    least_squares_weights,
    pose_loss,
)
from jaxcv.models.layers import convolve
from tests.helpers import mostly_slow

PUBLISHED = {
    "net1": 151_415_466, "net2": 151_563_050, "net3": 151_597_098, "net4": 286_942_762,
    "net5": 151_609_226, "net6": 151_904_394, "net7": 51_047_338, "net8": 26_176_682,
    "net9": 51_342_506,
}  # fmt: skip
SMALL = {"width": 0.125, "dense": 16}
BOTH = ("depth", "rgb")


def count(network, *channels):
    images = [jnp.zeros((1, 128, 128, c)) for c in channels]
    shapes = jax.eval_shape(lambda key: network.init(key, *images), jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def images(*channels, side=16, batch=2):
    keys = jax.random.split(jax.random.key(7), len(channels))
    return [
        jax.random.normal(k, (batch, side, side, c)) for k, c in zip(keys, channels, strict=True)
    ]


@pytest.mark.parametrize("net", NETS)
def test_published_sizes(net):
    assert count(HandNetwork(net=net), 1) == PUBLISHED[net]


def test_published_sizes_of_fused_networks():
    assert count(HandNetwork(images=("rgb",)), 3) == 151_904_970
    early = HandNetwork(images=("rgb", "depth"), fusion="concatenate", fuse_at=("input",))
    assert count(early, 3, 1) == 151_905_258
    want = {"sum": 151_969_962, "concatenate": 152_043_690, "convolve": 151_978_218}
    for fusion, size in want.items():
        assert count(HandNetwork(images=BOTH, fusion=fusion), 1, 3) == size
    assert count(HandNetwork(images=BOTH, fusion="mean", fuse_at=("output",)), 1, 3) == 303_809_364


def test_layers_have_the_published_order():
    names = [layer.name for layer in layers_of("net6")]
    assert names == [
        "conv1", "conv2", "pool1", "conv3", "conv4", "pool2", "conv5", "conv6", "conv7", "pool3",
        "conv8", "conv9",
    ]  # fmt: skip
    assert [(x.channels, x.size) for x in layers_of("net3") if x.channels][:2] == [(32, 7), (64, 5)]


@pytest.mark.slow
def test_concatenation_at_the_input_is_a_network_of_four_channels():
    rgb, depth = images(3, 1)
    early = HandNetwork(images=("rgb", "depth"), fusion="concatenate", fuse_at=("input",), **SMALL)
    params = jax.jit(early.init)(jax.random.key(0), rgb, depth)
    plain = HandNetwork(images=("rgbd",), **SMALL)
    want = jax.jit(plain.apply)(params, jnp.concatenate([rgb, depth], axis=-1))
    np.testing.assert_array_equal(jax.jit(early.apply)(params, rgb, depth), want)


def test_interleaved_channels_are_plain_ones_with_a_permuted_kernel():
    """The source interleaves: a_k at 2 k, b_k at 2 k - 1."""
    a, b, kernel = images(3, 3, side=4)[0], images(3, 3, side=4)[1], jnp.ones((3, 3, 6, 5))
    kernel = kernel * jax.random.normal(jax.random.key(1), kernel.shape)
    order = np.arange(6).reshape(2, 3).T[:, ::-1].ravel()  # b_1, a_1, b_2, a_2, ...
    plain = jnp.concatenate([a, b], axis=-1)
    np.testing.assert_allclose(
        convolve(plain[..., order], kernel[:, :, order]), convolve(plain, kernel), atol=1e-5
    )


@pytest.mark.parametrize("fusion", ["max", "sum", "mean"])
@pytest.mark.parametrize("at", mostly_slow(["conv2", "pool2", "fc1", "output"], ["pool2"]))
def test_fusions_that_do_not_care_which_stream_comes_first(fusion, at):
    first, second = images(2, 2)
    network = HandNetwork(images=("a", "b"), fusion=fusion, fuse_at=(at,), **SMALL)
    params = jax.jit(network.init)(jax.random.key(3), first, second)
    swapped = {}
    for name, leaf in params["params"].items():
        other = name[:-1] + {"a": "b", "b": "a"}[name[-1]] if name[-2:] in ("_a", "_b") else name
        swapped[other] = leaf
    out = jax.jit(network.apply)({"params": swapped}, second, first)
    np.testing.assert_allclose(jax.jit(network.apply)(params, first, second), out, atol=1e-6)


def test_fusion_of_equal_streams():
    (image,) = images(2)
    network = lambda fusion: HandNetwork(
        images=("a", "b"), fusion=fusion, fuse_at=("conv4",), **SMALL
    )
    params = jax.jit(network("max").init)(jax.random.key(4), image, image)
    one = {}
    for name, leaf in params["params"].items():
        one[name] = params["params"][f"{name[:-2]}_a"] if name.endswith("_b") else leaf
    alone = {name.removesuffix("_a"): leaf for name, leaf in one.items() if name[-2:] != "_b"}
    want = jax.jit(HandNetwork(images=("a",), **SMALL).apply)({"params": alone}, image)
    for fusion in ("max", "mean"):
        out = jax.jit(network(fusion).apply)({"params": one}, image, image)
        np.testing.assert_allclose(out, want, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("fusion", mostly_slow(FUSIONS, ["concatenate", "convolve"]))
def test_several_layers_of_fusion(fusion):
    depth, rgb = images(1, 3)
    network = HandNetwork(images=BOTH, fusion=fusion, fuse_at=("conv2", "pool1", "fc1"), **SMALL)
    params = jax.jit(network.init)(jax.random.key(5), depth, rgb)
    names = set(params["params"])
    assert {"conv9_depth", "conv9_rgb", "fc1_depth", "fc1_rgb", "fc2", "output"} < names
    out = jax.jit(network.apply)(params, depth, rgb)
    assert out.shape == (2, 14, 3)
    assert np.abs(out).max() < 1
    assert np.abs(out - jax.jit(network.apply)(params, depth, 0 * rgb)).max() > 0


def test_outputs_fused_by_their_mean_are_two_networks():
    depth, rgb = images(1, 3)
    late = HandNetwork(images=BOTH, fusion="mean", fuse_at=("output",), **SMALL)
    params = jax.jit(late.init)(jax.random.key(6), depth, rgb)["params"]
    alone = []
    for kind, image in (("depth", depth), ("rgb", rgb)):
        own = {n.removesuffix(f"_{kind}"): p for n, p in params.items() if n.endswith(f"_{kind}")}
        alone.append(jax.jit(HandNetwork(images=(kind,), **SMALL).apply)({"params": own}, image))
    want = fuse_predictions(*alone)
    np.testing.assert_allclose(jax.jit(late.apply)({"params": params}, depth, rgb), want, atol=1e-6)


@pytest.mark.slow
def test_dropout_keeps_the_mean_and_takes_a_traced_rate():
    x = jnp.ones((400, 100))
    out = jax.jit(dropout)(x, 0.3, jax.random.key(0))
    assert float(out.mean()) == pytest.approx(1, abs=0.02)
    assert set(np.unique(np.asarray(out)).round(4)) == {0, np.float32(1 / 0.7).round(4)}
    np.testing.assert_array_equal(jax.jit(dropout)(x, 0.0, jax.random.key(0)), x)
    network = HandNetwork(**SMALL)
    (depth,) = images(1)
    params = jax.jit(network.init)(jax.random.key(1), depth)
    rates = jnp.array([0.0, 0.5])
    outs = jax.vmap(lambda r: network.apply(params, depth, rate=r, key=jax.random.key(2)))(rates)
    np.testing.assert_allclose(outs[0], jax.jit(network.apply)(params, depth), atol=1e-6)
    assert np.abs(outs[1] - outs[0]).max() > 1e-3


@pytest.mark.slow
def test_a_linear_output_is_the_one_before_the_tanh():
    depth, rgb = images(1, 3)
    for fuse_at in (("conv4",), ("output",)):
        make = lambda output, at=fuse_at: HandNetwork(
            images=BOTH, fuse_at=at, output=output, **SMALL
        )
        params = jax.jit(make("tanh").init)(jax.random.key(8), depth, rgb)
        if fuse_at == ("conv4",):
            linear = jax.jit(make("linear").apply)(params, depth, rgb)
            want = jnp.tanh(linear)
            got = jax.jit(make("tanh").apply)(params, depth, rgb)
            np.testing.assert_allclose(got, want, atol=1e-6)
        scaled = jax.tree.map(lambda leaf: 20 * leaf, params)
        assert np.abs(jax.jit(make("linear").apply)(scaled, depth, rgb)).max() > 1


def test_loss_and_weights_of_predictions():
    rng = np.random.default_rng(0)
    a, b, y = rng.normal(size=(3, 50, 14, 3))
    want = 1.5 * np.mean((a - y) ** 2)
    assert float(pose_loss(a, y)) == pytest.approx(want, rel=1e-5)
    best = least_squares_weights(a, b, y)
    error = lambda w: np.sum((fuse_predictions(a, b, np.asarray(w)) - y) ** 2, axis=0)
    for away in (-0.05, 0.05):
        assert (error(best) < error(best + away)).all()
    weights = inverse_error_weights(np.full((14, 3), 1.0), np.full((14, 3), 3.0))
    np.testing.assert_allclose(weights, 0.75)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"net": "net10"}, "`net`: expected one of 'net1'"),
        ({"fusion": "add"}, "`fusion`: expected one of 'max'"),
        ({"fuse_at": ("conv12",)}, "`fuse_at`: expected some of"),
        ({"fuse_at": ("input",), "fusion": "sum"}, "expected equal shapes at input"),
        ({"fuse_at": ("output",), "fusion": "concatenate"}, "expected 3 J numbers"),
        ({"images": ("depth",)}, "`images`: expected 1"),
        ({"output": "relu"}, "`output`: expected one of 'tanh'"),
        ({"head": "heatmap"}, "`head`: expected one of 'dense'"),
        ({"head": "anchors", "confidence": True}, "expected 'dense' with `confidence`"),
        ({"head": "anchors", "fuse_at": ("fc1",)}, "`fuse_at`: expected some of"),
    ],
)
def test_bad_input(change, message):
    depth, rgb = images(1, 3)
    network = HandNetwork(**({"images": BOTH} | SMALL | change))
    with pytest.raises(ValueError, match=message):
        jax.jit(network.init)(jax.random.key(0), depth, rgb)
