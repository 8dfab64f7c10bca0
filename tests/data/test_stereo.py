"""Pairs of views: the generator against its own geometry, readers, and bad input."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxcv.data.stereo import (
    StereoPairs,
    check_pairs,
    read_folder,
    resize_pair,
    unit_baseline,
    y_down,
)
from jaxcv.data.synthetic.stereo import draw_scene, generate_pairs, render
from jaxcv.energies.photometric import photometric_terms
from jaxcv.geometry import se3
from jaxcv.geometry.camera import pixel_rays


@pytest.fixture(scope="module")
def pairs():
    return generate_pairs(jax.random.key(3), 6, (48, 64), noise=0.0)


def mean_residuals(pairs, motion):
    def one(z, motion, target, source, k):
        terms = photometric_terms(z, motion, target, source, k)
        return jnp.sum(jnp.abs(terms.residual)) / (3 * jnp.sum(terms.visible))

    return jax.vmap(one)(1 / pairs.depth, motion, pairs.target, pairs.source, pairs.intrinsics)


@pytest.mark.slow
def test_generated_pairs_agree_with_their_depth_and_motion(pairs):
    check_pairs(pairs)
    np.testing.assert_allclose(np.linalg.norm(pairs.motion[:, :3, 3], axis=1), 1, rtol=1e-5)
    true = mean_residuals(pairs, pairs.motion)
    rest = mean_residuals(pairs, np.tile(np.eye(4, dtype=np.float32), (6, 1, 1)))
    inverse = mean_residuals(pairs, np.linalg.inv(pairs.motion))
    assert np.mean(true) < 0.5 * np.mean(rest)
    assert np.mean(true) < 0.4 * np.mean(inverse)
    shares = 1 / np.median(pairs.depth, axis=(1, 2))
    assert np.all((shares > 0.019) & (shares < 0.21))


@pytest.mark.slow
def test_a_pair_depends_on_its_key_and_number_alone(pairs):
    first = generate_pairs(jax.random.key(3), 1, (48, 64), noise=0.0)
    jax.tree.map(np.testing.assert_array_equal, tuple(first), tuple(pairs.take(slice(0, 1))))
    assert np.abs(pairs.target[1] - pairs.target[0]).max() > 0.1


@pytest.mark.slow
def test_depth_is_that_of_the_surfaces():
    """Points lie on the room's walls, on a box or on a ball, and two views see the same ones."""
    scene = draw_scene(jax.random.key(0))
    k = jnp.array([[40.0, 0, 31.5], [0, 40.0, 23.5], [0, 0, 1.0]])
    pose = se3.exp(jnp.array([0.1, 0.05, -0.1, 0.1, -0.2, 0.05]))
    for camera in (jnp.eye(4), pose):
        view = jax.jit(lambda pose: render(scene, pose, k, (48, 64), 1.5))(camera)
        points = pixel_rays(k, 48, 64) * view.depth[..., None]
        points = (points - camera[:3, 3]) @ camera[:3, :3]
        local = jnp.einsum("kij,hwkj->hwki", scene.turn, points[..., None, :] - scene.centre)
        to_box = jnp.abs(jnp.max(jnp.abs(local) - scene.half, axis=-1))
        balls = jnp.linalg.norm(points[..., None, :] - scene.ball_centre, axis=-1)
        nearest = jnp.minimum(to_box.min(-1), jnp.abs(balls - scene.radius).min(-1))
        assert np.quantile(nearest, 0.99) < 1e-3
        assert np.all(np.isfinite(view.image))


def test_unit_of_the_baseline(pairs):
    metres = pairs._replace(depth=3 * pairs.depth, motion=pairs.motion.copy())
    metres.motion[:, :3, 3] *= 3
    again = unit_baseline(metres)
    np.testing.assert_allclose(again.depth, pairs.depth, rtol=1e-6)
    np.testing.assert_allclose(again.motion, pairs.motion, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(metres.motion[0, :3, 3], 3 * pairs.motion[0, :3, 3], rtol=1e-6)


def test_frames_with_y_up_are_turned(pairs):
    """Nothing that is seen changes: neither the warp nor the depth."""
    flip = np.diag([1.0, -1, 1, 1]).astype(np.float32)
    up = pairs._replace(
        intrinsics=pairs.intrinsics @ flip[:3, :3], motion=flip @ pairs.motion @ flip
    )
    assert np.all(up.intrinsics[:, 1, 1] < 0)
    np.testing.assert_allclose(
        mean_residuals(up, up.motion), mean_residuals(pairs, pairs.motion), rtol=1e-3
    )
    down = y_down(up)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), tuple(down), tuple(pairs)
    )
    jax.tree.map(np.testing.assert_array_equal, tuple(y_down(pairs)), tuple(pairs))


def write_folder(folder, count=2, size=(24, 32)):
    rng = np.random.default_rng(0)
    entries = []
    for i in range(count):
        for name in ("a", "b"):
            image = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
            Image.fromarray(image).save(folder / f"{name}{i}.png")
        depth = rng.integers(500, 3000, size, dtype=np.uint16)
        depth[0] = 0
        Image.fromarray(depth).save(folder / f"d{i}.png")
        pose = np.eye(4)
        pose[0, 3] = 0.1 * (i + 1)
        entries.append({
            "target": f"a{i}.png", "source": f"b{i}.png", "depth": f"d{i}.png",
            "target_camera_to_world": np.eye(4).tolist(), "source_camera_to_world": pose.tolist(),
        })  # fmt: skip
    k = [[30.0, 0, 15.5], [0, 30.0, 11.5], [0, 0, 1]]
    content = {"intrinsics": k, "depth_unit": 0.001, "pairs": entries}
    (folder / "cameras.json").write_text(json.dumps(content))
    return content


def test_folder_of_pairs(tmp_path):
    write_folder(tmp_path)
    pairs = read_folder(tmp_path, (24, 32))
    check_pairs(pairs)
    raw = np.asarray(Image.open(tmp_path / "d1.png"))
    np.testing.assert_allclose(pairs.depth[1, 1:], raw[1:] * 0.001)
    assert np.isnan(pairs.depth[:, 0]).all()
    np.testing.assert_allclose(pairs.motion[1, :3, 3], [-0.2, 0, 0], atol=1e-12)
    np.testing.assert_allclose(
        pairs.target[0], np.asarray(Image.open(tmp_path / "a0.png")) / 255, atol=1e-6
    )
    small = read_folder(tmp_path, (12, 16))
    blocks = pairs.target.reshape(2, 12, 2, 16, 2, 3).mean((2, 4))
    np.testing.assert_allclose(small.target, blocks, atol=1e-5)
    np.testing.assert_allclose(small.intrinsics[0, 0], [15, 0, 7.5], atol=1e-6)
    assert resize_pair(pairs, (24, 32)) is pairs


def spoil(content, folder, kind):
    entry = content["pairs"][1]
    if kind == "missing image":
        (folder / "b1.png").unlink()
    elif kind == "truncated image":
        data = (folder / "a1.png").read_bytes()
        (folder / "a1.png").write_bytes(data[: len(data) // 2])
    elif kind == "other size":
        Image.new("RGB", (30, 24)).save(folder / "b1.png")
    elif kind == "depth of another size":
        Image.fromarray(np.ones((5, 6), np.uint16)).save(folder / "d1.png")
    elif kind == "depth of eight bits":
        Image.new("L", (32, 24)).save(folder / "d1.png")
    elif kind == "no depth at all":
        Image.fromarray(np.zeros((24, 32), np.uint16)).save(folder / "d1.png")
    elif kind == "transposed K":
        content["intrinsics"] = np.transpose(content["intrinsics"]).tolist()
    elif kind == "no baseline":
        entry["source_camera_to_world"] = entry["target_camera_to_world"]
    elif kind == "pose of three rows":
        entry["source_camera_to_world"] = entry["source_camera_to_world"][:3]
    elif kind == "half of the truth":
        del entry["depth"]
    elif kind == "mirrored pose":
        entry["source_camera_to_world"] = np.diag([-1.0, 1, 1, 1]).tolist()
    elif kind == "no pairs":
        content["pairs"] = []
    (folder / "cameras.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing image", r"b1.png`: expected a file, got no such file"),
        ("truncated image", r"a1.png`: expected a picture that can be read.*truncated"),
        ("other size", r"b1.png`: expected an image of 32 x 24, got 30 x 24"),
        ("depth of another size", r"d1.png`: expected a depth image of 32 x 24, got 6 x 5"),
        ("depth of eight bits", r"d1.png`: expected a 16-bit depth image"),
        ("no depth at all", r"depth\[0\]`: expected a pixel with a depth"),
        ("transposed K", r"pairs\[0\].intrinsics`: expected \[\[fx, s, cx\]"),
        ("no baseline", r"motion\[0\]`: expected cameras that move.*Leave out"),
        (
            "pose of three rows",
            r"pairs\[1\].source_camera_to_world`: expected finite numbers",
        ),
        ("half of the truth", r"pairs\[1\]`: expected depth, depth_unit and both poses"),
        ("mirrored pose", r"expected rotations of determinant 1"),
        ("no pairs", r"cameras.json`: expected JSON with `intrinsics`, `pairs`"),
    ],
)
def test_what_is_no_folder_of_pairs(tmp_path, kind, message):
    spoil(write_folder(tmp_path), tmp_path, kind)
    with pytest.raises(ValueError, match=message):
        read_folder(tmp_path, (24, 32))


def test_values_that_cannot_be_learned_from(pairs):
    wrong = {
        "depth": pairs.depth * -1, "target": pairs.target * np.nan, "source": pairs.source[:, :20],
        "intrinsics": pairs.intrinsics[:2],
    }  # fmt: skip
    for field, value in wrong.items():
        with pytest.raises(ValueError, match=rf"`pairs.{field}`: expected"):
            check_pairs(pairs._replace(**{field: value}))
    with pytest.raises(ValueError, match=r"`shape`: expected multiples of four"):
        generate_pairs(jax.random.key(0), 1, (30, 40))
    with pytest.raises(ValueError, match=r"`num_pairs`: expected 1 or more, got 0"):
        generate_pairs(jax.random.key(0), 0)
    assert isinstance(pairs.take([0]), StereoPairs)
