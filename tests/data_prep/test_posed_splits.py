"""Pairs of photographs: which are the test's, whose size K is of, and files that are refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial.transform import Rotation

from data_prep.posed_images import PosedConfig, dtu, landmarks, prepare
from data_prep.posed_images.views import labels, read_image
from jaxcv.data.pipelines import load_pose_pairs
from jaxcv.io.posed_folder import PosedViews, read_posed_folder
from tests.data_prep.test_posed_images import (
    K,
    cameras,
    write_colmap,
    write_dtu,
    write_folder,
    write_image,
    write_landmark,
)

CHAIN = [[f"{i}.png", f"{i + 1}.png"] for i in range(9)]


def all_of_one_scene(content):
    return content | {"images": [image | {"scene": ""} for image in content["images"]]}


def splits_of(root, out, **options):
    builder = prepare(root, out, PosedConfig(shape=(30, 40), **options))
    return {
        name: load_pose_pairs(builder, split=name)
        for name in ("train", "test")
        if name in builder.info.splits
    }


def images_of(pairs):
    return {image.tobytes() for image in (*pairs.first[:], *pairs.second[:])}


def test_the_last_fifth_of_the_views_is_tested_and_nothing_else_has_seen_them(tmp_path):
    write_folder(tmp_path / "in", 10, pairs=CHAIN, change=all_of_one_scene)
    splits = splits_of(tmp_path / "in", tmp_path / "out")
    assert {name: len(own.rotation) for name, own in splits.items()} == {"train": 7, "test": 1}
    assert not images_of(splits["train"]) & images_of(splits["test"])  # of 9: 7 to 8 is left out


def test_where_views_are_too_few_all_pairs_are_tested(tmp_path):
    write_folder(tmp_path / "in", 4, pairs=CHAIN[:3], change=all_of_one_scene)
    splits = splits_of(tmp_path / "in", tmp_path / "out")
    assert {name: len(own.rotation) for name, own in splits.items()} == {"test": 3}


def test_pairs_of_a_test_scene_and_another_are_left_out(tmp_path):
    pairs = [["0.png", "2.png"], ["0.png", "1.png"], ["1.png", "3.png"], ["3.png", "4.png"]]
    write_folder(tmp_path / "in", pairs=pairs)  # scenes a, b, a, b, a, b
    splits = splits_of(tmp_path / "in", tmp_path / "out", test_scenes=("b",))
    assert {name: len(own.rotation) for name, own in splits.items()} == {"train": 1, "test": 1}
    write_folder(tmp_path / "in", pairs=pairs[:2])
    with pytest.raises(ValueError, match=r"expected a pair or more between views of these scenes"):
        splits_of(tmp_path / "in", tmp_path / "out", test_scenes=("b",))


def test_intrinsics_of_a_colmap_model_are_those_of_its_size(tmp_path):
    """Copies of half the size show the same: K belongs to WIDTH and HEIGHT, not to the file."""
    k = []
    for name, share in (("whole", 1), ("half", 2)):
        write_colmap(tmp_path / name)
        for path in (tmp_path / name / "images").iterdir():
            write_image(path, size=(40 // share, 30 // share))
        config = PosedConfig(source="colmap", shape=(30, 40))
        builder = prepare(tmp_path / name, tmp_path / "out", config)
        k.append(load_pose_pairs(builder, split="test").intrinsics1)
    np.testing.assert_allclose(k[0], k[1])
    write_image(tmp_path / "half" / "images" / "1.jpg", size=(30, 30))
    with pytest.raises(ValueError, match=r"1\.jpg.*expected the ratio of 40 x 30 px.*30 x 30"):
        prepare(tmp_path / "half", tmp_path / "out", config)


def test_scenes_of_a_colmap_model_are_the_folders_of_its_images(tmp_path):
    write_colmap(tmp_path)
    lines = (tmp_path / "images.txt").read_text()
    for i in range(3):
        name = f"room{i // 2}/{i}.jpg"
        write_image(tmp_path / "images" / name, i)
        lines = lines.replace(f" {i}.jpg", f" {name}")
    (tmp_path / "images.txt").write_text(lines)
    expected = r"expected scenes among \['room0'.*got \['kitchen'\]"
    with pytest.raises(ValueError, match=expected):
        splits_of(tmp_path, tmp_path / "out", source="colmap", test_scenes=("kitchen",))


def test_a_colmap_point_that_is_not_whole_is_refused(tmp_path):
    write_colmap(tmp_path)
    path = tmp_path / "images.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-1], lines[-1] + " 7.5"]) + "\n")
    with pytest.raises(ValueError, match=r"images\.txt, line .*numbers of its features"):
        splits_of(tmp_path, tmp_path / "out", source="colmap")


def test_dtu_images_of_another_size_are_refused(tmp_path):
    write_dtu(tmp_path / "in", *cameras(3), K)
    path = next((tmp_path / "in").glob("Cleaned/*/*.png"))
    Image.new("RGB", (640, 512)).save(path)
    with pytest.raises(ValueError, match=r"expected the ratio of 1600 x 1200 px.*640 x 512"):
        splits_of(tmp_path / "in", tmp_path / "out", source="dtu")
    (tmp_path / "in" / "pairs.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"pairs\.txt.*expected a text file"):
        dtu.read(tmp_path / "in")


def test_edges_that_turn_the_other_way_are_refused(tmp_path):
    write_landmark(tmp_path / "a")
    path = tmp_path / "a" / "EGs.txt"
    table = np.loadtxt(path)
    table[:, 2:11] = table[:, 2:11].reshape(-1, 3, 3).swapaxes(1, 2).reshape(-1, 9)
    rows = [" ".join([*map(str, row[:2].astype(int)), *map(str, row[2:])]) for row in table]
    path.write_text("\n".join(rows) + "\n")
    with pytest.raises(ValueError, match=r"EGs\.txt.*within 20 degrees of the cameras"):
        landmarks.read(tmp_path)


@pytest.mark.parametrize("line", ["", "a.jpg 0", "a.jpg 0 500 1"])
def test_a_list_of_landmarks_with_other_columns_is_refused(tmp_path, line):
    write_landmark(tmp_path / "a")
    path = tmp_path / "a" / "list.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], line, *lines[2:]]) + "\n")
    with pytest.raises(ValueError, match=r"list\.txt, line 2.*expected `name`"):
        landmarks.read(tmp_path)


def test_an_unreadable_image_leaves_nothing_that_looks_whole(tmp_path):
    write_folder(tmp_path / "in", pairs=CHAIN[:5])
    (tmp_path / "in" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with pytest.raises(ValueError, match=r"3\.png.*expected a picture that can be read"):
        splits_of(tmp_path / "in", tmp_path / "out")
    assert not list((tmp_path / "out").rglob("dataset_info.json"))
    write_image(tmp_path / "in" / "3.png", 3)
    assert splits_of(tmp_path / "in", tmp_path / "out")["test"]


@given(st.integers(0, 10**6), st.integers(3, 9), st.floats(-2, 2), st.booleans())
@settings(max_examples=60)
def test_views_from_one_place_have_no_direction_however_their_poses_are_rounded(
    seed, digits, scale, to_world
):
    rng = np.random.default_rng(seed)
    r, centre = Rotation.random(5, rng).as_matrix(), rng.normal(size=3) * 10.0**scale

    def views(centres):
        if to_world:  # the file has R^T and the centres
            own = np.round(r.swapaxes(1, 2), digits).swapaxes(1, 2)
            move = -np.einsum("nij,nj->ni", own, np.round(centres, digits))
        else:
            own = np.round(r, digits)
            move = np.round(-np.einsum("nij,nj->ni", r, centres), digits)
        return PosedViews((), (), None, own, move)

    pairs = [(i, j) for i in range(5) for j in range(i)]
    still = np.broadcast_to(centre, (5, 3))
    assert len(labels(views(still), pairs).views) == 0
    apart = 1e3 * 10.0**-digits * (1 + np.abs(centre).max())
    moved = still + apart * np.arange(5)[:, None] * np.array([0.6, 0, 0.8])
    assert len(labels(views(moved), pairs).views) == len(pairs)


def test_a_short_baseline_of_exact_poses_is_kept():
    r, t = cameras(2)
    t[1] = r[1] @ r[0].T @ t[0] + [1e-3, 0, 0]
    assert len(labels(PosedViews((), (), None, r, t), [(0, 1)]).views) == 1


def test_intrinsics_of_another_size_are_refused_or_scaled_by_the_size_beside_them(tmp_path):
    large = (np.diag([9.0, 9, 1]) @ K).tolist()
    write_folder(tmp_path, change=lambda c: c | {"intrinsics": large})
    views, _ = read_posed_folder(tmp_path)
    with pytest.raises(ValueError, match=r"0\.png: intrinsics`: expected a principal point in the"):
        read_image(views.files[0], views.intrinsics[0], (15, 20))
    height, width = np.asarray(Image.open(views.files[0])).shape[:2]
    size = {"size": [9 * width, 9 * height]}
    write_folder(tmp_path, change=lambda c: c | {"intrinsics": large} | size)
    views, _ = read_posed_folder(tmp_path)
    image, k = read_image(views.files[0], views.intrinsics[0], (15, 20), views.shapes[0])
    assert image.shape == (15, 20, 3)
    np.testing.assert_allclose(k[0, 0], K[0, 0] * 20 / width)
    for size in ([width], ["a", 3], [width + 0.5, height], [0, 4]):
        write_folder(tmp_path, change=lambda c, size=size: c | {"size": size})
        with pytest.raises(ValueError, match=r"images\[0\]\.size"):
            read_posed_folder(tmp_path)
    first = lambda c: [c["images"][0] | {"size": [width, height]}, *c["images"][1:]]
    write_folder(tmp_path, change=lambda c: c | {"images": first(c)})
    with pytest.raises(ValueError, match=r"images\[1\]`: expected `size` beside all intrinsics"):
        read_posed_folder(tmp_path)
