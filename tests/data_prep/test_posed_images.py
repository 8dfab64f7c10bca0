"""Pairs of images with poses: COLMAP, 1DSfM, DTU and plain folders, in the official formats."""

import json
import os
import pathlib

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from data_prep.posed_images import (
    PosedConfig,
    RenderedConfig,
    dtu,
    landmarks,
    prepare,
    prepare_rendered,
)
from data_prep.posed_images.frustum import frusta_intersect, half_spaces
from data_prep.posed_images.views import labels, pairs_within
from jaxcv.data.pipelines import load_pose_pairs
from jaxcv.data.synthetic.pose_pairs import generate_pose_pairs
from jaxcv.io.colmap import read_colmap
from jaxcv.io.posed_folder import PosedViews, read_posed_folder
from tests.helpers import mostly_slow

FLIP = np.diag([1.0, -1.0, -1.0])
K = np.array([[30.0, 0, 19.5], [0, 32.0, 14.5], [0, 0, 1]])


def cameras(count, seed=0):
    """Rotations and translations, world to camera."""
    rng = np.random.default_rng(seed)
    return Rotation.random(count, rng).as_matrix(), rng.normal(size=(count, 3))


def write_image(path, seed=0, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def expected(r, t, i, j):
    """By points: x2 = R x1 + t for what both cameras see."""
    rotation = r[j] @ r[i].T
    move = t[j] - rotation @ t[i]
    return rotation, move / np.linalg.norm(move)


def write_folder(root, count=6, *, form="world_to_camera", pairs=None, change=lambda c: c):
    r, t = cameras(count)
    images = []
    for i in range(count):
        write_image(root / f"{i}.png", i)
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = r[i], t[i]
        pose = pose if form == "world_to_camera" else np.linalg.inv(pose)
        images.append({"file": f"{i}.png", "pose": pose.tolist(), "scene": "ab"[i % 2]})
    content = {"pose": form, "intrinsics": K.tolist(), "images": images}
    content |= {} if pairs is None else {"pairs": pairs}
    (root / "cameras.json").write_text(json.dumps(change(content)))
    return r, t


@pytest.mark.parametrize("form", ["world_to_camera", "camera_to_world"])
def test_a_folder_is_read_both_ways(tmp_path, form):
    r, t = write_folder(tmp_path, form=form, pairs=[["0.png", "2.png"], ["5.png", "1.png"]])
    views, pairs = read_posed_folder(tmp_path)
    assert views.scenes == tuple("ababab")
    made = labels(views, pairs)
    for row, (i, j) in enumerate([(0, 2), (5, 1)]):
        rotation, direction = expected(r, t, i, j)
        np.testing.assert_allclose(made.rotation[row], rotation, atol=1e-9)
        np.testing.assert_allclose(made.direction[row], direction, atol=1e-9)


def test_a_prepared_folder_is_loaded(tmp_path):
    pairs = [["0.png", "2.png"], ["2.png", "4.png"], ["1.png", "3.png"]]
    r, t = write_folder(tmp_path / "in", pairs=pairs)
    config = PosedConfig(shape=(15, 40), test_scenes=("b",))
    builder = prepare(tmp_path / "in", tmp_path / "out", config)
    train, test = (load_pose_pairs(builder, split=split) for split in ("train", "test"))
    assert train.first.shape == (2, 15, 40, 3)
    assert len(train.first.array) == 3  # image 2 is kept once
    np.testing.assert_array_equal(train.second[0], train.first[1])
    np.testing.assert_array_equal(np.asarray(train.take([1]).first)[0], train.first[1])
    rotation, direction = expected(r, t, 1, 3)
    np.testing.assert_allclose(test.rotation[0], rotation)
    np.testing.assert_allclose(test.direction[0], direction)
    # Half as high: areas keep their place, so that a centre at y is then at (y - 1/2) / 2.
    np.testing.assert_allclose(test.intrinsics1[0], [[30, 0, 19.5], [0, 16, 7], [0, 0, 1]])
    again = prepare(tmp_path / "in", tmp_path / "out", config)
    assert again.data_dir == builder.data_dir
    with pytest.raises(ValueError, match=r"expected one of \['test', 'train', 'views'\]"):
        load_pose_pairs(builder, split="validation")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c | {"pose": "camera"}, "world_to_camera or camera_to_world"),
        (lambda c: c | {"images": [{"file": "0.png"}]}, r"images\[0\].*expected file, pose"),
        (lambda c: c | {"intrinsics": np.zeros((3, 3)).tolist()}, r"fx, s, cx"),
        (lambda c: c | {"pairs": [["0.png", "none.png"]]}, r"pairs\[0\].*two files among images"),
        (lambda c: c | {"pairs": [["0.png", "0.png"]]}, "expected one pair or more with"),
        (lambda c: c | {"images": [c["images"][0] | {"file": "none.png"}]}, "no file .*none.png"),
    ],
)
def test_a_wrong_folder_is_refused(tmp_path, change, message):
    write_folder(tmp_path / "in", pairs=[["0.png", "2.png"]], change=change)
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path / "in", tmp_path / "out")


def test_a_pose_that_is_no_rotation_is_refused(tmp_path):
    skew = lambda image: image | {"pose": (2 * np.eye(4)).tolist()}
    write_folder(tmp_path, change=lambda c: c | {"images": [skew(i) for i in c["images"]]})
    with pytest.raises(ValueError, match="expected rotations"):
        read_posed_folder(tmp_path)


def write_colmap(root, model="PINHOLE", params="30 32 20 15"):
    r, t = cameras(3)
    root.mkdir(exist_ok=True)
    (root / "cameras.txt").write_text(f"# Camera list\n1 {model} 40 30 {params}\n")
    lines = ["# Image list"]
    for i in range(3):
        write_image(root / "images" / f"{i}.jpg", i)
        q = np.roll(Rotation.from_matrix(r[i]).as_quat(), 1)
        lines.append(" ".join(map(str, [i + 1, *q, *t[i], 1, f"{i}.jpg"])))
        points = range(40) if i < 2 else range(38, 70)
        lines.append(" ".join(f"1.5 2.5 {p}" for p in points) + " 3 4 -1")
    (root / "images.txt").write_text("\n".join(lines) + "\n")
    return r, t


def test_a_colmap_model(tmp_path):
    r, t = write_colmap(tmp_path)
    views, pairs = read_colmap(tmp_path)
    np.testing.assert_array_equal(pairs, [[0, 1]])  # the third shares two points with each
    np.testing.assert_allclose(views.intrinsics[0], K)
    np.testing.assert_allclose(views.rotation, r, atol=1e-12)
    np.testing.assert_allclose(labels(views, pairs).rotation[0], expected(r, t, 0, 1)[0])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "cameras.txt",
            "1 OPENCV 40 30 1 1 1 1 0 0 0 0\n",
            "expected a model among SIMPLE_PINHOLE",
        ),
        ("cameras.txt", "1 PINHOLE 40 30 1 1\n", "expected 4 parameters of PINHOLE, got 2"),
        ("images.txt", "1 0 0 0 0 0 0 0 1 0.jpg\n\n", r"line 1.*a quaternion other than zero"),
        ("images.txt", "1 1 0 0 0 0 0 0 9 0.jpg\n\n", r"expected a camera of cameras.txt, got 9"),
        ("images.txt", "1 1 0 0 0 0 0\n\n", r"line 1.*expected ID, quaternion"),
        ("images.txt", "1 1 0 0 0 0 0 0 1 0.jpg\n", "expected two lines an image"),
    ],
)
def test_a_wrong_colmap_model_is_refused(tmp_path, name, text, message):
    write_colmap(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_colmap(tmp_path)


def write_landmark(root, count=4):
    """Cameras as Bundler has them; the last is not registered."""
    r, t = cameras(count, seed=1)
    own, moved = FLIP @ r, t @ FLIP  # Bundler looks along -z, y up
    root.mkdir(parents=True)
    (root / "list.txt").write_text("".join(f"images/{i}.jpg 0 35\n" for i in range(count)))
    lines = ["# Bundle file v0.3", f"{count} 0"]
    for i in range(count):
        write_image(root / "images" / f"{i}.jpg", i)
        gone = i == count - 1
        rows = np.vstack([[0 if gone else 35.0, 0, 0], own[i] * (not gone), moved[i] * (not gone)])
        lines += [" ".join(f"{x:.17g}" for x in row) for row in rows]
    (root / "gt_bundle.out").write_text("\n".join(lines) + "\n")
    edges = []
    for i in range(count):
        for j in range(i + 1, count):
            centres = [-own[n].T @ moved[n] for n in (i, j)]
            towards = own[i] @ (centres[1] - centres[0])
            values = [*(own[i] @ own[j].T).ravel(), *(towards / np.linalg.norm(towards))]
            edges.append(" ".join(map(str, [i, j, *values])))
    (root / "EGs.txt").write_text("\n".join(edges) + "\n")
    return r, t


def test_landmarks_and_their_edges_agree(tmp_path):
    r, t = write_landmark(tmp_path / "Yorkminster")
    write_landmark(tmp_path / "Piccadilly", 5)
    views, pairs = landmarks.read(tmp_path)
    assert views.scenes == ("Piccadilly",) * 4 + ("Yorkminster",) * 3
    np.testing.assert_array_equal(pairs[-3:], [[4, 5], [4, 6], [5, 6]])
    own = labels(views, pairs)
    edges = landmarks.edge_labels(tmp_path / "Yorkminster" / "EGs.txt", 4)
    kept = (edges.views < 3).all(axis=1)
    np.testing.assert_allclose(edges.rotation[kept], own.rotation[-3:], atol=1e-9)
    np.testing.assert_allclose(edges.direction[kept], own.direction[-3:], atol=1e-9)
    rotation, direction = expected(r, t, 0, 2)
    np.testing.assert_allclose(own.rotation[-2], rotation, atol=1e-9)
    np.testing.assert_allclose(own.direction[-2], direction, atol=1e-9)
    config = PosedConfig(source="landmarks", test_scenes=("Yorkminster",), most_pairs=2)
    builder = prepare(tmp_path, tmp_path / "out", config)
    assert len(load_pose_pairs(builder, split="train").rotation) == 2
    elsewhere = PosedConfig(source="landmarks", test_scenes=("London",))
    with pytest.raises(ValueError, match=r"expected scenes among .*got \['London'\]"):
        prepare(tmp_path, tmp_path / "out", elsewhere)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("EGs.txt", "0 1 1 0 0\n", r"line 1.*expected 14 finite numbers.*5 columns"),
        ("EGs.txt", "0 9 " + "1 " * 12, "cameras .* of 4"),
        ("gt_bundle.out", "# Bundle file v0.3\n3 0\n", "expected 4 cameras, as in list.txt"),
        ("gt_bundle.out", "# Bundle file v0.3\n4 0\n1 2 3\n", "expected 4 cameras"),
    ],
)
def test_wrong_landmarks_are_refused(tmp_path, name, text, message):
    write_landmark(tmp_path / "a")
    (tmp_path / "a" / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        landmarks.read(tmp_path)


def write_dtu(root, r, t, k, scans=("scan1", "scan82"), pairs="1 2\n2 3\n"):
    places = root / "Calibration" / "cal18"
    places.mkdir(parents=True)
    for i in range(len(r)):
        p = -2.5 * k @ np.c_[r[i], t[i]]  # known up to scale and sign
        (places / f"pos_{i + 1:03d}.txt").write_text("\n".join(" ".join(map(str, x)) for x in p))
        for scan in scans:
            write_image(root / "Cleaned" / scan / f"clean_{i + 1:03d}_max.png", i)
    if pairs is not None:
        (root / "pairs.txt").write_text(pairs)


def test_dtu(tmp_path):
    r, t = cameras(3)
    write_dtu(tmp_path / "in", r, t, K)
    views, pairs = dtu.read(tmp_path / "in")
    np.testing.assert_allclose(views.rotation[:3], r, atol=1e-9)
    np.testing.assert_allclose(views.translation[:3], t, atol=1e-9)
    np.testing.assert_allclose(views.intrinsics[0], K, atol=1e-9)
    np.testing.assert_array_equal(pairs, [[0, 1], [1, 2], [3, 4], [4, 5]])
    config = PosedConfig(source="dtu", test_scenes=("scan82",))
    test = load_pose_pairs(prepare(tmp_path / "in", tmp_path / "out", config), split="test")
    np.testing.assert_allclose(test.rotation[1], expected(r, t, 1, 2)[0], atol=1e-9)


def test_the_authors_lists_give_their_ids_only(tmp_path):
    head = "- id1 id2 scan\n- translation\n- orientation\n"
    rows = "1 2 1 1 0 0 0 0 0 1\n1 2 2 1 0 0 0 0 0 1\n1 3 1 1 0 0 0 0 0 1\n"
    (tmp_path / "pairs.txt").write_text(head + rows)
    np.testing.assert_array_equal(dtu.read_pairs(tmp_path / "pairs.txt", 3), [[0, 1], [0, 2]])
    for line, message in (("1 2 3\n", "3 columns"), ("1 64\n", "of 3"), ("a b\n", "invalid")):
        (tmp_path / "pairs.txt").write_text(line)
        with pytest.raises(ValueError, match=rf"line 1.*expected `id1 id2`.*{message}"):
            dtu.read_pairs(tmp_path / "pairs.txt", 3)


def test_a_frustum_holds_what_the_camera_sees():
    r, t = cameras(1)
    rng = np.random.default_rng(0)
    u, depth = rng.uniform(-20, 60, (200, 2)), rng.uniform(0.5, 4, 200)
    points = (np.c_[u, np.ones(200)] @ np.linalg.inv(K).T * depth[:, None] - t[0]) @ r[0]
    a, b = half_spaces(K, r[0], t[0], (30, 40), near=1.0, far=3.0)
    inside = (points @ a.T >= b).all(axis=1)
    seen = ((u >= 0) & (u <= [40, 30])).all(axis=1) & (depth >= 1) & (depth <= 3)
    np.testing.assert_array_equal(inside, seen)


def test_pairs_within_an_angle():
    turn = Rotation.from_euler("y", [[0], [30], [80], [0]], degrees=True).as_matrix()
    scenes = ("a", "a", "a", "b")
    views = PosedViews(
        (pathlib.Path("x"),) * 4, scenes, np.tile(K, (4, 1, 1)), turn, np.eye(4)[:, :3]
    )
    np.testing.assert_array_equal(pairs_within(views, np.deg2rad(55)), [[0, 1], [1, 2]])


@pytest.mark.slow
def test_rendered_pairs_are_those_of_the_generator(tmp_path):
    config = RenderedConfig(train=4, test=2, shape=(24, 32), seeds=(3, 4))
    builder = prepare_rendered(tmp_path, config)
    for split, seed, count in (("train", 3, 4), ("test", 4, 2)):
        own, want = (
            load_pose_pairs(builder, split=split),
            generate_pose_pairs(seed, count, (24, 32)),
        )
        for name, a, b in zip(want._fields, own, want, strict=True):
            np.testing.assert_allclose(np.asarray(a), b, rtol=1e-6, err_msg=name)


DATA = os.environ.get("JAXCV_REAL_DATA", "")


def _robot(test):
    return pytest.mark.real_data(
        pytest.mark.skipif(not DATA, reason="JAXCV_REAL_DATA is not set")(test)
    )


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """K, R and T of DTU's places as the reader finds them, and the authors' pairs."""
    found = np.load(pathlib.Path(DATA) / "dtu" / "cameras.npz")
    r, c = found["rotation_world_to_camera"], found["centre_mm"]
    t = -np.einsum("nij,nj->ni", r, c)
    root = tmp_path_factory.mktemp("dtu")
    write_dtu(root, r, t, found["intrinsics_px"], scans=())
    return *dtu.read_places(root), found["pairs_49"] - 1


@_robot
def test_the_reader_finds_the_places(places):
    k, r, t, _ = places
    np.testing.assert_allclose(
        k[5], [[2892.33, 0, 823.205], [0, 2883.18, 619.071], [0, 0, 1]], atol=1e-6
    )
    centre = -np.einsum("nji,nj->ni", r, t)
    np.testing.assert_allclose(centre[0], [190.834, -1.160, 24.261], atol=2e-3)
    sphere = np.linalg.norm(centre - [44.10, -18.22, 614.41], axis=1)
    assert abs(sphere[:49].mean() - 608.44) < 0.05
    assert abs(sphere[49:].mean() - 852.57) < 1.0
    first = [[0.970263, 0.00747983, 0.241939], [-0.0147429, 0.999493, 0.0282234]]
    np.testing.assert_allclose(r[0, :2], first, atol=2e-6)
    np.testing.assert_allclose(t[25], [-294.21, -402.82, 247.354], atol=2e-2)


@_robot
@pytest.mark.parametrize(
    ("far", "count", "shared"),
    mostly_slow(
        [(None, 1176, 512), (300, 333, 303), (350, 559, 419), (400, 845, 506), (520, 1176, 512)],
        [(350, 559, 419)],
    ),
)
def test_frusta_do_not_make_the_authors_pairs(places, far, count, shared):
    k, r, t, listed = places
    found = frusta_intersect(k[:49], r[:49], t[:49], dtu.SHAPE, far=far)
    assert len(found) == count
    assert len(set(map(tuple, found.tolist())) & set(map(tuple, listed.tolist()))) == shared


@_robot
def test_ours(places):
    k, r, t, listed = places
    found = frusta_intersect(k[:49], r[:49], t[:49], dtu.SHAPE, far=dtu.FAR)
    own = set(map(tuple, found.tolist()))
    assert (len(found), len(own & set(map(tuple, listed.tolist())))) == (511, 399)
