"""A database of COLMAP, read back by pycolmap and by SQLite; what is refused."""

import sqlite3

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jaxcv.io.colmap_database import DatabaseImage, DatabasePair, write_colmap_database

K = np.array([[500.0, 0, 319.5], [0, 510, 239.5], [0, 0, 1]])
R = Rotation.from_rotvec([0.1, -0.2, 0.05]).as_matrix()
T = np.array([0.6, 0.0, 0.8])


def scene(count=30):
    rng = np.random.default_rng(0)
    points = np.c_[rng.uniform(-1, 1, (count, 2)), rng.uniform(3, 6, count)]
    pixels = [(own @ K.T)[:, :2] / own[:, 2:] for own in (points, points @ R.T + T, points @ R + T)]
    images = [DatabaseImage(f"in/{n}.jpg", (480, 640), K, each) for n, each in enumerate(pixels)]
    return images, np.stack([np.arange(count)] * 2, axis=1)


@pytest.fixture
def pycolmap():
    return pytest.importorskip("pycolmap")


def test_a_database_is_read_back(pycolmap, tmp_path):
    images, rows = scene()
    agrees = np.arange(30) % 3 != 0
    images[2] = images[2]._replace(guessed=True)
    pairs = [DatabasePair(1, 0, rows, agrees, R.T, -R.T @ T), DatabasePair(0, 2, rows[:7])]
    path = tmp_path / "database.db"
    for _ in range(2):  # the second replaces the first
        write_colmap_database(path, images, pairs)
    assert [each.name for each in tmp_path.iterdir()] == ["database.db"]
    with pycolmap.Database.open(str(path)) as database:
        own = database.read_all_images()
        assert [(each.image_id, each.name) for each in own] == [
            (n + 1, f"in/{n}.jpg") for n in range(3)
        ]
        assert [database.num_cameras(), database.num_rigs(), database.num_frames()] == [2, 2, 3]
        assert own[0].camera_id == own[1].camera_id != own[2].camera_id
        for each, prior in ((own[0], True), (own[2], False)):
            camera = database.read_camera(each.camera_id)
            assert (camera.width, camera.height) == (640, 480)
            assert camera.has_prior_focal_length == prior
            np.testing.assert_allclose(camera.params, [500, 510, 320, 240])  # centres at one half
        keys = database.read_keypoints(1)
        np.testing.assert_allclose(keys[:, :2], images[0].points + 0.5, atol=1e-4)
        np.testing.assert_array_equal(database.read_matches(2, 1), rows)
        geometry = database.read_two_view_geometry(1, 2)  # as it was, seen from the other side
        found = geometry.cam2_from_cam1
        np.testing.assert_allclose(found.rotation.matrix(), R, atol=1e-9)
        np.testing.assert_allclose(found.translation, T, atol=1e-9)
        np.testing.assert_array_equal(geometry.inlier_matches, rows[agrees])
        assert geometry.config == pycolmap.TwoViewGeometryConfiguration.CALIBRATED
        first, second = (
            np.c_[database.read_keypoints(n)[:, :2], np.ones(30)].astype(float) for n in (1, 2)
        )
        residual = np.einsum("ni,ij,nj->n", second, geometry.F / np.abs(geometry.F).max(), first)
        np.testing.assert_allclose(residual, 0, atol=1e-3)
        assert database.num_verified_image_pairs() == 1
        assert database.num_matched_image_pairs() == 2


def test_pycolmap_estimates_the_pose_that_was_written(pycolmap, tmp_path):
    """COLMAP's own estimate from keypoints and cameras of the database."""
    images, rows = scene(60)
    pairs = [DatabasePair(0, 1, rows, np.ones(60, bool), R, T)]
    write_colmap_database(tmp_path / "a.db", images, pairs)
    with pycolmap.Database.open(str(tmp_path / "a.db")) as database:
        camera = database.read_camera(1)
        keys = [database.read_keypoints(n)[:, :2].astype(float) for n in (1, 2)]
        written = database.read_two_view_geometry(1, 2).cam2_from_cam1
    found = pycolmap.estimate_calibrated_two_view_geometry(
        camera, keys[0], camera, keys[1], rows.astype(np.uint32)
    )
    assert pycolmap.estimate_two_view_geometry_pose(camera, keys[0], camera, keys[1], found)
    own = found.cam2_from_cam1
    np.testing.assert_allclose(own.rotation.matrix(), written.rotation.matrix(), atol=1e-3)
    np.testing.assert_allclose(own.translation, written.translation, atol=1e-2)


def test_the_tables_are_those_of_colmap(pycolmap, tmp_path):
    images, rows = scene()
    write_colmap_database(tmp_path / "a.db", images, [DatabasePair(0, 1, rows)])
    with sqlite3.connect(tmp_path / "a.db") as database:
        tables = {row[0] for row in database.execute("select name from sqlite_master")}
        assert {"cameras", "images", "keypoints", "matches", "two_view_geometries"} <= tables
        assert database.execute("select rows, cols from matches").fetchall() == [(30, 2)]
        assert database.execute("select count(*) from two_view_geometries").fetchone() == (0,)


def change(images, n, **fields):
    return [each._replace(**fields) if i == n else each for i, each in enumerate(images)]


@pytest.mark.parametrize(
    ("images", "pairs", "message"),
    [
        (lambda own: own[:0], lambda own: [], "`images`: expected images"),
        (lambda own: change(own, 1, name="in/0.jpg"), lambda own: own, "names that differ"),
        (
            lambda own: change(own, 0, intrinsics=K * [[1], [-1], [1]]), lambda own: own,
            "intrinsics of in/0.jpg`: expected focal lengths above 0",
        ),
        (lambda own: change(own, 0, points=own[0].points[:, :1]), lambda own: own, r"\(N, 2\)"),
        (lambda own: own, lambda own: [own[0]._replace(second=0)], "two different images"),
        (lambda own: own, lambda own: [own[0]._replace(second=7)], "two different images"),
        (
            lambda own: own, lambda own: [own[0], own[0]._replace(first=1, second=0)],
            "each pair once",
        ),
        (lambda own: own, lambda own: [own[0]._replace(rows=own[0].rows + 5)], "indices"),
        (
            lambda own: own, lambda own: [own[0]._replace(rotation=2 * R, direction=T)],
            "expected rotations",
        ),
        (
            lambda own: own,
            lambda own: [own[0]._replace(rotation=R, direction=T, agrees=np.ones(2, bool))],
            "as many as rows",
        ),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path, images, pairs, message):
    own, rows = scene()
    with pytest.raises(ValueError, match=message):
        write_colmap_database(tmp_path / "a.db", images(own), pairs([DatabasePair(0, 1, rows)]))
    assert not list(tmp_path.iterdir())


def test_without_the_package_the_command_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pycolmap", None)
    own, _ = scene()
    with pytest.raises(ImportError, match="pip install pycolmap"):
        write_colmap_database(tmp_path / "a.db", own, [])


def test_a_folder_that_is_not_there(pycolmap, tmp_path):
    own, _ = scene()
    with pytest.raises(ValueError, match=r"a.db`: expected to write it"):
        write_colmap_database(tmp_path / "none" / "a.db", own, [])
