"""NYU's files: written here in their format, read back, and refused when broken."""

import numpy as np
import pytest
import scipy.io
from PIL import Image

from data_prep.nyu_hand import encode_depth, prepare, read_depth, read_labels
from jaxcv.data.hand import NYU_INTRINSICS, NYU_JOINTS, PALM, joints_of_pixels, pixels_of_joints
from jaxcv.data.pipelines import load_hand_frames

SIZE = 480, 640


def write_split(folder, count=3, palm=(300.0, 200.0, 750.0)):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(folder.name))
    pixels = np.asarray(palm) + rng.uniform(-60, 60, (3, count, 36, 3))
    pixels[:, :, 32] = palm
    joints = joints_of_pixels(pixels)
    names = np.array([f"joint{k}" for k in range(36)], dtype=object)
    scipy.io.savemat(
        folder / "joint_data.mat",
        {"joint_uvd": pixels, "joint_xyz": joints, "joint_names": names},
    )
    depths = []
    for i in range(count):
        depth = np.where(rng.random(SIZE) < 0.1, 0, rng.integers(500, 2500, SIZE))
        color = rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)
        for view in (1, 2, 3):
            name = f"{view}_{i + 1:07d}.png"
            Image.fromarray(encode_depth(depth)).save(folder / f"depth_{name}")
            Image.fromarray(color).save(folder / f"rgb_{name}")
        depths.append((depth, color))
    return depths, joints


def test_depth_is_exact_and_missing_is_zero(tmp_path):
    depth = np.arange(480 * 640).reshape(SIZE) % 40_000
    Image.fromarray(encode_depth(depth)).save(tmp_path / "depth.png")
    read = read_depth(tmp_path / "depth.png")
    np.testing.assert_array_equal(read, np.where(depth >= 32001, 0, depth))
    assert read.dtype == np.uint16


def test_both_labels_agree_and_y_goes_up(tmp_path):
    _, joints = write_split(tmp_path / "train")
    labels = read_labels(tmp_path / "train/joint_data.mat")
    np.testing.assert_allclose(labels.joints, joints, rtol=1e-12)
    u, v, d = np.moveaxis(labels.pixels, -1, 0)
    x, y, z = np.moveaxis(labels.joints, -1, 0)
    np.testing.assert_allclose(x, (u - 320) * d / 588.03, atol=1e-9)
    np.testing.assert_allclose(y, (240 - v) * d / 587.07, atol=1e-9)
    np.testing.assert_array_equal(z, d)


@pytest.mark.slow
def test_windows_show_the_same_points(tmp_path):
    train, _ = write_split(tmp_path / "train", palm=(30.0, 470.0, 650.0))  # at the border
    _, joints = write_split(tmp_path / "test", count=2)
    builder = prepare(tmp_path, tmp_path / "cache")
    (frames,) = load_hand_frames(builder, split="train")
    assert frames.depth.shape == (3, 384, 384)
    assert frames.depth.dtype == np.uint16
    assert frames.color.shape == (3, 384, 384, 3)
    offset = (NYU_INTRINSICS - frames.intrinsics[0])[:2, 2].astype(int)
    for i, (depth, color) in enumerate(train):
        for row, column in ((192, 192), (10, 250), (150, 370)):
            v, u = row + offset[1], column + offset[0]
            inside = 0 <= v < 480 and 0 <= u < 640
            assert frames.depth[i, row, column] == (depth[v, u] if inside else 0)
            if inside:
                np.testing.assert_array_equal(frames.color[i, row, column], color[v, u])
    parts = list(load_hand_frames(builder, split="test", at_once=1))
    assert len(parts) == 2
    np.testing.assert_allclose(parts[1].joints[0], joints[0, 1, list(NYU_JOINTS)], rtol=1e-6)
    palm = pixels_of_joints(parts[0].joints[0, PALM], parts[0].intrinsics[0])
    np.testing.assert_allclose(palm[:2], [192, 192], atol=0.51)
    assert list(parts[0].subject) == [1]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "joint_data.mat").write_bytes(b"MATLAB"), r"joint_data.mat.*MATLAB file"),
        (lambda f: scipy.io.savemat(f / "joint_data.mat", {"joint_xyz": 0}), r"\['joint_uvd'\]"),
        (
            lambda f: scipy.io.savemat(
                f / "joint_data.mat",
                {"joint_xyz": np.ones((3, 2, 14, 3)), "joint_uvd": np.ones((3, 2, 14, 3))},
            ),
            r"shape \(3, N, 36, 3\)",
        ),
        (lambda f: (f / "depth_1_0000002.png").unlink(), r"depth_1_0000002.png.*got no such file"),
        (
            lambda f: Image.fromarray(np.full(SIZE, 700, np.uint16)).save(
                f / "depth_1_0000001.png"
            ),
            r"depth_1_0000001.png.*256 G \+ B.*16 bits",
        ),
        (
            lambda f: Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(
                f / "depth_1_0000001.png"
            ),
            r"a pixel with a depth",
        ),
        (lambda f: (f / "rgb_1_0000003.png").write_bytes(b"\x89PNG"), r"rgb_1_0000003.png"),
    ],
)
def test_broken_files_are_named_and_nothing_is_left(tmp_path, spoil, message):
    write_split(tmp_path / "data/test")
    spoil(tmp_path / "data/test")
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path / "data", tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("**/dataset_info.json"))


def test_labels_that_disagree(tmp_path):
    _, joints = write_split(tmp_path / "test")
    flipped = joints * [1, -1, 1]
    scipy.io.savemat(
        tmp_path / "test/joint_data.mat",
        {"joint_xyz": flipped, "joint_uvd": pixels_of_joints(joints)},
    )
    with pytest.raises(ValueError, match=r"projection of joint_xyz, y up"):
        prepare(tmp_path, tmp_path / "cache")
    with pytest.raises(ValueError, match=r"train/joint_data.mat or test/joint_data.mat"):
        prepare(tmp_path / "test", tmp_path / "cache")
    with pytest.raises(ValueError, match=r"`view`: expected 1 to 3, got 4"):
        prepare(tmp_path, tmp_path / "cache", view=4)
