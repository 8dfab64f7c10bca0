"""The Human3.6M builder on files written in the official format."""

import h5py
import jax
import numpy as np
import pytest

from data_prep.human36m import find_layout, prepare_frames, read_sequence
from data_prep.human36m.parser import _JOINTS, _SLOTS, CAMERAS
from jaxcv.data.synthetic.human_pose import generate


def write(path, **arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "a") as file:
        for name, array in arrays.items():
            file[name] = array


def write_copy(root, subjects=("S1", "S9", "S11"), frames=12):
    """Two trials of one action a subject, one frame longer in motion capture."""
    data = generate(jax.random.key(0), num_subjects=len(subjects), clips=1, frames=frames)
    for s, subject in enumerate(subjects):
        for i, camera in enumerate(CAMERAS, start=1):
            name = f"subject{subject[1:]}/camera{i}"
            code = np.array([[ord(c)] for c in camera], np.uint16)
            rotation = data.cameras[s, i - 1].T
            write(root / "cameras.h5", **{f"{name}/R": rotation, f"{name}/Name": code})
        for trial, suffix in enumerate(("", " 1")):
            own = np.flatnonzero((data.subject == s) & (data.action == trial))
            truth = np.zeros((frames + 1, 32, 3))
            truth[:frames, _JOINTS] = data.joints[own]
            truth[frames, _JOINTS] = data.joints[own[-1]]
            folder = root / subject / "MyPoses" / "3D_positions"
            write(folder / f"Directions{suffix}.h5", **{"3D_positions": truth.reshape(-1, 96).T})
            for v, camera in enumerate(CAMERAS):
                poses = data.points[own][:, v][:, _SLOTS]
                path = root / subject / "StackedHourglass"
                write(path / f"Directions{suffix.replace(' ', '_')}.{camera}.h5", poses=poses)
    return data


def test_frames_come_back_as_they_were_written(tmp_path):
    data = write_copy(tmp_path / "h36m")
    frames = prepare_frames(tmp_path / "h36m", tmp_path / "cache", stride=5)
    assert frames.subjects == ("S1", "S9", "S11")
    assert frames.actions == ("Directions",)
    # Three of twelve frames a recording; the damaged one of S11 is left out.
    assert [int(np.sum(frames.subject == s)) for s in range(3)] == [6, 6, 3]
    own = np.flatnonzero((data.subject == 0) & (data.action == 0))[::5]
    np.testing.assert_array_equal(frames.joints[:3], data.joints[own])
    np.testing.assert_allclose(frames.cameras, data.cameras, atol=1e-12)
    seen = np.arange(17) != 9
    np.testing.assert_array_equal(frames.points[:3][:, :, seen], data.points[own][:, :, seen])
    assert not frames.visible[:, :, 9].any()
    assert frames.visible[:, :, seen].all()
    kept = np.flatnonzero((data.subject == 2) & (data.action == 1))[::5]
    np.testing.assert_array_equal(frames.joints[frames.subject == 2], data.joints[kept])


def test_a_changed_file_is_read_again(tmp_path):
    write_copy(tmp_path / "h36m", subjects=("S1",))
    first = prepare_frames(tmp_path / "h36m", tmp_path / "cache")
    path = tmp_path / "h36m" / "S1" / "MyPoses" / "3D_positions" / "Directions.h5"
    with h5py.File(path, "a") as file:
        file["3D_positions"][...] += 100
    second = prepare_frames(tmp_path / "h36m", tmp_path / "cache")
    np.testing.assert_allclose(second.joints[:3], first.joints[:3] + 100)


def change(root, what):
    pose = root / "S1" / "MyPoses" / "3D_positions" / "Directions.h5"
    seen = root / "S1" / "StackedHourglass" / f"Directions.{CAMERAS[2]}.h5"
    if what == "cameras":
        (root / "cameras.h5").unlink()
    elif what == "detections":
        seen.unlink()
    elif what == "recordings":
        for path in pose.parent.iterdir():
            path.unlink()
    else:
        path, name, edit = {
            "nan": (pose, "3D_positions", lambda x: x * np.nan),
            "shape": (pose, "3D_positions", lambda x: x[:93]),
            "length": (seen, "poses", lambda x: np.tile(x, (9, 1, 1))),
            "name": (pose, "3D_positions", None),
            "matrix": (root / "cameras.h5", "subject1/camera2/R", lambda x: 2 * x),
        }[what]
        with h5py.File(path, "a") as file:
            array = np.asarray(file[name])
            del file[name]
            if edit is not None:
                file[name] = edit(array)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("cameras", "cameras.h5`: expected the calibration"),
        ("detections", r"for every camera, got none for \['58860488'\]"),
        ("recordings", "expected S<n>/MyPoses"),
        ("nan", "3D_positions`: expected finite numbers"),
        ("shape", r"3D_positions`: expected \(96, \?\), got \(93, 13\)"),
        ("length", "as many frames as the detections"),
        ("name", "expected an array '3D_positions'"),
        ("matrix", "S1`: expected rotations"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_left(tmp_path, what, message):
    root = tmp_path / "h36m"
    write_copy(root, subjects=("S1",))
    change(root, what)
    with pytest.raises(ValueError, match=message):
        prepare_frames(root, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("dataset_info.json"))


def test_cameras_are_ordered_by_their_names(tmp_path):
    data = write_copy(tmp_path, subjects=("S1",))
    with h5py.File(tmp_path / "cameras.h5", "a") as file:
        for a, b in (("1", "3"),):
            file.move(f"subject1/camera{a}", "subject1/other")
            file.move(f"subject1/camera{b}", f"subject1/camera{a}")
            file.move("subject1/other", f"subject1/camera{b}")
    layout = find_layout(tmp_path)
    arrays = read_sequence(layout, layout.sequences[0])
    np.testing.assert_allclose(arrays["cameras"], data.cameras[0], atol=1e-12)
