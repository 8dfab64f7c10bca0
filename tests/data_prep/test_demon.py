"""DeMoN's files: written here in their format, read back bit for bit, and refused when broken."""

import io

import h5py
import lz4.block
import numpy as np
import pytest
from PIL import Image

from data_prep.demon import SETS, list_pairs, prepare, read_view
from experiments.monocular_stereo import training
from jaxcv.data.pipelines import load_stereo_pairs
from jaxcv.data.stereo import check_pairs

SIZE = 24, 32


def rotation(angle):
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def write_view(node, rng, turn, translation, metric=b"camera_z"):
    image = Image.fromarray(rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8))
    encoded = io.BytesIO()
    image.save(encoded, format="webp", quality=90)
    stored = node.create_dataset("image", data=np.frombuffer(encoded.getvalue(), np.int8))
    stored.attrs["format"] = np.bytes_("webp")
    depth = rng.uniform(1, 8, SIZE).astype(np.float16)
    depth[0, :5] = 0
    packed = lz4.block.compress(depth.tobytes(), store_size=False)
    stored = node.create_dataset("depth", data=np.frombuffer(packed, np.int8))
    stored.attrs["format"] = np.bytes_("lz4half")
    stored.attrs["extents"] = np.array(SIZE, np.int32)
    stored.attrs["depth_metric"] = np.bytes_(metric)
    camera = np.r_[28.5, 28.4, 0.0, 16.0, 12.0, turn.T.ravel(), translation]
    stored = node.create_dataset("camera", data=camera)
    stored.attrs["format"] = np.bytes_("pinhole")
    return depth


def write_file(path, groups=("a", "b"), metric=b"camera_z", step=0.2):
    rng = np.random.default_rng(0)
    depths = {}
    with h5py.File(path, "w") as file:
        file.create_group(".config")
        for group in groups:
            frames = file.create_group(f"{group}/frames/t0")
            frames.attrs["viewpoint_pairs"] = np.array([0, 1, 1, 0], np.int32)
            for v in range(2):
                node = frames.create_group(f"v{v}")
                away = np.array([step * v, 0.1 * v * (step > 0), 0.0])
                depths[group, v] = write_view(node, rng, rotation(0.1 * v), away, metric)
    return depths


def test_round_trip_is_exact(tmp_path):
    depths = write_file(tmp_path / "rgbd_test.h5")
    pairs = list_pairs(tmp_path / "rgbd_test.h5")
    assert [tuple(pair) for pair in pairs] == [
        ("a", 0, 1), ("a", 1, 0), ("b", 0, 1), ("b", 1, 0)
    ]  # fmt: skip
    for (group, v), depth in depths.items():
        view = read_view(tmp_path / "rgbd_test.h5", group, v)
        want = np.where(depth > 0, depth, np.nan).astype(np.float32)
        np.testing.assert_array_equal(view.depth, want)
        np.testing.assert_array_equal(view.rotation, rotation(0.1 * v))
        np.testing.assert_array_equal(view.translation, [0.2 * v, 0.1 * v, 0])
        np.testing.assert_array_equal(view.intrinsics[0], [28.5, 0, 15.5])
        assert Image.open(io.BytesIO(view.image)).size == (32, 24)


def test_length_of_rays_becomes_depth(tmp_path):
    write_file(tmp_path / "x_test.h5", groups=("a",))
    write_file(tmp_path / "y_test.h5", groups=("a",), metric=b"ray_length")
    along, ray = (read_view(tmp_path / f"{n}_test.h5", "a", 0) for n in "xy")
    v, u = np.mgrid[: SIZE[0], : SIZE[1]]
    x, y = (u + 0.5 - 16.0) / 28.5, (v + 0.5 - 12.0) / 28.4
    np.testing.assert_allclose(ray.depth * np.sqrt(1 + x**2 + y**2), along.depth, rtol=1e-6)


def test_builder_and_reader(tmp_path):
    depths = write_file(tmp_path / "rgbd_test.h5")
    write_file(tmp_path / "rgbd_10_to_20_simple_train.h5", groups=("c",))
    write_file(tmp_path / "sun3d_test.h5", groups=("d",), step=0.0)
    builder = prepare(tmp_path, tmp_path / "cache", name="rgbd")
    test = load_stereo_pairs(builder, split="test", shape=SIZE)
    check_pairs(test)
    assert test.target.shape == (4, *SIZE, 3)
    assert load_stereo_pairs(builder, split="train", shape=(12, 16)).depth.shape == (2, 12, 16)
    np.testing.assert_allclose(np.linalg.norm(test.motion[:, :3, 3], axis=1), 1)
    np.testing.assert_allclose(test.motion[0] @ test.motion[1], np.eye(4), atol=1e-12)
    length = np.hypot(0.2, 0.1)
    want = np.where(depths["b", 1] > 0, depths["b", 1], np.nan).astype(float) / length
    np.testing.assert_allclose(test.depth[3], want, rtol=1e-6)
    np.testing.assert_array_equal(test.target[0], test.source[1])
    write_file(tmp_path / "rgbd_10_to_20_3d_train.h5", groups=("c",))
    with pytest.raises(ValueError, match=r"corrected files rgbd_bugfix_.*10_to_20_3d_train.h5"):
        prepare(tmp_path, tmp_path / "cache", name="rgbd")
    with pytest.raises(ValueError, match=r"`source`: expected a pair or more .*, got none"):
        load_stereo_pairs([], shape=SIZE)
    with pytest.raises(ValueError, match=r"expected mvs_test.h5 or training files mvs_\*.h5"):
        prepare(tmp_path, tmp_path / "cache", name="mvs")


def test_the_experiment_knows_the_sets():
    assert training.DEMON == SETS


def test_pairs_that_cannot_be_used_are_left_out_and_counted(tmp_path, caplog):
    write_file(tmp_path / "mvs_test.h5", groups=("a", "b"))
    builder = prepare(tmp_path, tmp_path / "cache", name="mvs")
    source = builder.as_data_source(split="test")
    examples = [dict(source[i]) for i in range(4)]
    examples[0]["depth"] = np.full_like(examples[0]["depth"], np.nan)
    examples[2]["intrinsics"] = examples[2]["intrinsics"] + np.diag([1.0, 0, 0])[None] * [
        [[0]], [[1]]
    ]  # fmt: skip
    assert len(load_stereo_pairs(examples, shape=SIZE).depth) == 2
    assert "left out of 4 pairs: {'no depth': 1, 'two cameras': 1}" in caplog.text
    with pytest.raises(ValueError, match=r"expected a pair or more .*'two cameras': 1"):
        load_stereo_pairs(examples[2:3], shape=SIZE)


def spoil(path, kind):
    with h5py.File(path, "r+") as file:
        frames = file["a/frames/t0"]
        view = frames["v1"]
        if kind == "metric":
            view["depth"].attrs["depth_metric"] = np.bytes_("inverse")
        elif kind == "extents":
            view["depth"].attrs["extents"] = np.array([32, 24], np.int32)
        elif kind in ("depth", "image"):
            about = dict(view[kind].attrs)
            data = view[kind][: len(view[kind]) // 2]
            del view[kind]
            view.create_dataset(kind, data=data)
            for name, value in about.items():
                view[kind].attrs[name] = value
        elif kind == "camera":
            view["camera"][5] = 3.0
        elif kind == "focal":
            view["camera"][0] = 0.0
        elif kind == "format":
            view["image"].attrs["format"] = np.bytes_("png")
        elif kind == "no camera":
            del view["camera"]
        elif kind == "pairs":
            frames.attrs["viewpoint_pairs"] = np.array([0, 7], np.int32)
        elif kind == "frames":
            del file["a/frames"]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "metric",
            r"v1/depth`: expected the depth metric 'camera_z' or 'ray_length', got 'inverse'",
        ),
        ("extents", r"v1/depth`: expected extents \(24, 32\)"),
        ("depth", r"v1/depth`: expected"),
        ("image", r"v1/image`: expected a picture that can be read"),
        ("camera", r"v1/camera`: expected a rotation of determinant 1"),
        ("focal", r"v1/camera`: expected focal lengths other than zero"),
        ("format", r"v1/image`: expected the format 'webp', got 'png'"),
        ("no camera", r"v1`: expected \['camera'\]"),
        ("pairs", r"test.h5, a`: expected viewpoint_pairs of two different views"),
        ("frames", r"test.h5, a`: expected frames/t0 with the attribute"),
    ],
)
def test_broken_files(tmp_path, kind, message):
    path = tmp_path / "rgbd_test.h5"
    write_file(path, groups=("a",))
    spoil(path, kind)
    with pytest.raises(ValueError, match=message):
        [read_view(path, pair.group, view) for pair in list_pairs(path) for view in pair[1:]]


def test_truncated_file_leaves_nothing_behind(tmp_path):
    path = tmp_path / "rgbd_test.h5"
    write_file(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"rgbd_test.h5`: expected an HDF5 file"):
        prepare(tmp_path, tmp_path / "cache", name="rgbd")
    assert not list((tmp_path / "cache").rglob("dataset_info.json"))
