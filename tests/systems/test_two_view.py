"""The pose of two images: by matches, by network and matches, from files; what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv.data.synthetic.pose_pairs import PairRanges, generate_pose_pairs
from jaxcv.metrics.motion import rotation_error, translation_error
from jaxcv.models.relative_pose import MatchHead, PoseNetwork
from jaxcv.systems import (
    Model,
    load_model,
    relative_pose,
    save_model,
)
from jaxcv.systems.relative_confidence import confidence_of
from jaxcv.systems.two_view import (
    MATCH_NUMBERS,
    MatchArrays,
    PoseScales,
    network_and_refined_poses,
    refined_alone,
)
from tests.geometry.test_epipolar import scene

EASY = PairRanges(angle=0.4, blur=(0.5, 0.8), noise=0.002, exposure=0.1, turn=0.03)
NETWORK, HEAD, SHAPE = PoseNetwork("cnnBspp", width=0.05), MatchHead(4, 8), (40, 48)


PRIOR = jnp.array([8.0, 4.0])  # log precisions
OF_THE_PRIOR = 1 - np.exp(-0.5 * np.deg2rad(20) ** 2 * np.exp(4.0))


@pytest.fixture(scope="module")
def pairs():
    return generate_pose_pairs(3, 3, (240, 320), textureless=0.0, ranges=EASY)


@pytest.fixture(scope="module")
def params():
    image = jnp.zeros((1, *SHAPE, 3))
    own = jax.jit(NETWORK.init)(jax.random.key(0), image, image)
    both = NETWORK.apply(own, image, image, method="both_features")
    head = jax.jit(HEAD.init)(jax.random.key(1), both, jnp.zeros((1, 1, MATCH_NUMBERS)))
    return {
        "network": own,
        "head": head,
        "scales": PoseScales(jnp.zeros(2), jnp.log(0.5), jnp.log(3.0)),
    }


def errors(pose, pairs, i):
    turned = rotation_error(pose.rotation, pairs.rotation[i])
    return float(turned), float(translation_error(pose.direction, pairs.direction[i]))


@pytest.mark.slow  # the README's example is such a call
def test_two_images_are_enough(pairs):
    found = []
    for i in range(3):
        images, k = (pairs.first[i], pairs.second[i]), pairs.intrinsics1[i]
        pose = relative_pose(*images, k, k)
        again = relative_pose(images[0] / 255, images[1] / 255, k, k)
        np.testing.assert_allclose(pose.rotation, again.rotation, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(pose.direction), 1, rtol=1e-5)
        found.append((*errors(pose, pairs, i), float(pose.confidence)))
    turned, moved, confidence = np.median(found, axis=0)
    assert turned < 1
    assert moved < 5
    assert confidence > 0.9


@pytest.mark.slow
def test_without_intrinsics_the_pose_is_still_near(pairs):
    guessed = [errors(relative_pose(pairs.first[i], pairs.second[i]), pairs, i) for i in range(3)]
    assert np.median([turned for turned, _ in guessed]) < 8  # focal lengths are 0.8 to 1.2 widths


def test_nothing_in_common(pairs):
    grey = np.full((60, 80, 3), 128, np.uint8)
    pose = relative_pose(grey, grey)
    assert pose.matches == 0
    assert pose.confidence == 0
    assert np.isnan(pose.rotation).all()


@pytest.mark.slow
def test_a_pure_rotation_has_little_confidence():
    """Points far away: the direction of a translation is not seen."""
    rng = np.random.default_rng(0)
    count, focal = 60, 300.0
    rays = np.c_[rng.uniform(-0.4, 0.4, (count, 2)), np.ones(count)]
    angle = 0.1
    turn = np.array(
        [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    )
    confidence, with_prior, moves = {}, {}, {}
    for name, move in (("turned", np.zeros(3)), ("moved", np.array([0.3, 0.1, 0.0]))):
        depth = rng.uniform(1, 3, (count, 1))
        other = depth * rays @ turn.T + move
        points2 = other[:, :2] / other[:, 2:] + 0.3 / focal * rng.normal(size=(count, 2))
        arrays = (
            rays[None, :, :2],
            points2[None],
            np.full((1, count), 0.5),
            np.ones((1, count), bool),
        )
        matches = MatchArrays(*arrays, np.full(1, focal))
        matches = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), matches)
        matches = matches._replace(valid=matches.valid > 0)
        found = refined_alone(matches, jax.random.key(0))
        confidence[name] = float(confidence_of(found)[0])
        with_prior[name] = float(confidence_of(found, PRIOR)[0])
        np.testing.assert_allclose(rotation_error(found.rotation[0], turn), 0, atol=1.5)
        moves[name] = float(found.moved[0])
    assert moves["moved"] > 0.99
    assert moves["turned"] < 0.5
    assert confidence["moved"] > 0.9
    assert confidence["turned"] < 0.6
    for name in confidence:
        assert confidence[name] <= with_prior[name] <= 1


@pytest.mark.slow
def test_matches_that_agree_by_accident_are_not_trusted():
    rng = np.random.default_rng(0)
    rotation, direction, p1, p2, *_ = scene(0, 60, 0.3, 3e-4)
    del rotation, direction
    other = jnp.asarray(rng.uniform(-0.4, 0.4, (60, 2)))
    found = {}
    for name, points in (("true", p2), ("random", other)):
        one = (jnp.asarray(x, jnp.float32)[None] for x in (p1, points, np.full(60, 0.5)))
        matches = MatchArrays(*one, jnp.ones((1, 60), bool), jnp.full(1, 500.0))
        found[name] = refined_alone(matches, jax.random.key(0))
    assert found["true"].supported[0] > 0.99
    assert found["random"].supported[0] < 0.3
    # With a prior an answer that matches do not support is worth what the prior is.
    prior = float(confidence_of(found["random"], PRIOR)[0])
    np.testing.assert_allclose(prior, OF_THE_PRIOR, atol=0.1)


@pytest.mark.slow
def test_a_network_in_a_file(pairs, params, tmp_path):
    settings = {"network": NETWORK, "head": HEAD, "shape": SHAPE}
    model = Model(params, settings, {"system": "relative_pose"})
    save_model(tmp_path / "net.safetensors", model)
    loaded, again, _ = load_model(tmp_path / "net.safetensors")
    assert again == settings
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), loaded, params)
    k = pairs.intrinsics1[0]
    pose = relative_pose(pairs.first[0], pairs.second[0], k, k, params=loaded, **settings)
    turned, moved = errors(pose, pairs, 0)
    assert turned < 2  # the matches outweigh a network that knows nothing
    assert moved < 10
    grey = np.full((60, 80, 3), 128, np.uint8)
    alone = relative_pose(grey, grey, params=loaded, **settings)
    assert np.isfinite(alone.rotation).all()  # the network's


@pytest.mark.slow
def test_the_network_learns_through_the_energy(pairs, params):
    """Gradients of trunk, heads, match head and scales, in double precision, by differences."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        double = functools.partial(jax.tree.map, lambda x: jnp.asarray(x, jnp.float64))
        tree = double(params)
        last = tree["head"]["params"]["Dense_2"]["kernel"]
        tree["head"]["params"]["Dense_2"]["kernel"] = 0.3 * rng.normal(size=last.shape)
        heads = tree["network"]["params"]["translation_head"]
        heads["bias"] = jnp.array([0.9, 0.1, -0.2])
        tree["network"]["params"]["rotation_head"]["bias"] = jnp.array([0.9, 0.1, -0.1, 0.2])
        rotation, direction, p1, p2, *_ = scene(0, 30, 0.3, 2e-3)
        del rotation, direction
        images = [jnp.asarray(rng.normal(size=(1, *SHAPE, 3))) for _ in range(2)]
        matches = MatchArrays(
            jnp.asarray(p1)[None], jnp.asarray(p2)[None], jnp.asarray(rng.uniform(0, 0.8, (1, 30))),
            jnp.ones((1, 30), bool), jnp.full(1, 500.0),
        )  # fmt: skip
        tree["scales"] = PoseScales(jnp.array([8.0, 8.0]), jnp.asarray(0.0), jnp.log(3.0))
        weight = jnp.asarray(rng.normal(size=(3, 3)))

        @jax.jit
        def loss(tree):
            from jaxcv import Damping

            _, refined = network_and_refined_poses(
                tree, *images, matches, network=NETWORK, head=HEAD,
                damping=Damping(value=0.0, mode="plain"), max_steps=60,
            )  # fmt: skip
            return jnp.vdot(weight, refined.rotation[0]) + refined.direction[0, 0]

        slope = jax.jit(jax.grad(loss))(tree)
        for path in (
            ("network", "params", "convolutions_4", "kernel"),
            ("network", "params", "rotation_head", "kernel"),
            ("network", "params", "translation_head", "bias"),
            ("head", "params", "Dense_1", "kernel"),
        ):
            way = slope
            for name in path:
                way = way[name]
            size = float(jnp.linalg.norm(way))
            assert size > 0, path
            moved = lambda step, path=path, way=way, size=size: _changed(
                tree, path, step * way / size
            )
            step = 1e-5
            central = (loss(moved(step)) - loss(moved(-step))) / (2 * step)
            np.testing.assert_allclose(central, size, rtol=2e-3, err_msg=str(path))


def _changed(tree, path, change):
    if not path:
        return tree + change
    return {**tree, path[0]: _changed(tree[path[0]], path[1:], change)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((4, 9, 3), np.uint8),) * 2, "`image1`: expected .*8 pixels a side or more"),
        ((np.zeros((9, 9)),) * 2, r"`image1`: expected \(H, W, 3\)"),
        ((np.full((9, 9, 3), 2.0),) * 2, "expected values in .*Divide by 255"),
        ((np.zeros((9, 9, 3), np.uint8), np.full((9, 9, 3), np.nan)), "`image2`: .*finite"),
        ((*[np.zeros((9, 9, 3), np.uint8)] * 2, np.zeros((3, 3))), "`K1`"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        relative_pose(*arguments)


def test_params_need_their_settings(params):
    image = np.zeros((9, 9, 3), np.uint8)
    with pytest.raises(ValueError, match=r"expected \['network', 'head', 'shape'\] with them"):
        relative_pose(image, image, params=params)
    with pytest.raises(ValueError, match=r"`image1`: expected \d+ pixels a side or more"):
        relative_pose(image, image, params=params, network=NETWORK, head=HEAD, shape=(40, 48))
