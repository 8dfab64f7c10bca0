"""Reads Human3.6M in the folder layout of the Wibergian-learning code.

::

    cameras.h5                                     subject<n>/camera<1..4>/R (3, 3) and Name
    S<n>/MyPoses/3D_positions/<action>.h5          3D_positions (96, T), 32 joints x 3 [mm]
    S<n>/StackedHourglass/<action>.<camera>.h5     poses (T, 16, 2) [px]

Each subject performs each action twice, in files named `X` and `X_1`, `X` and `X 1`, or `X 1` and
`X 2`; in sorted order they are trials 0 and 1. R is stored transposed: R^T rotates the world to the
camera.

Source: Ionescu et al., PAMI 2014; released code of Toso et al. 2019.
"""

import os
import pathlib
import re
from typing import NamedTuple

import numpy as np

from jaxcv.checks import argument_error
from jaxcv.geometry.camera import check_rotations
from jaxcv.io.hdf5 import load_arrays, open_hdf5

__all__ = ["CAMERAS", "Layout", "Sequence", "find_layout", "read_sequence"]

CAMERAS = ("54138969", "55011271", "58860488", "60457274")
# Indices of `jaxcv.energies.human_pose.JOINTS` among the 32 joints.
_JOINTS = [0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27]
# Indices of the detector's 16 joints among the 17; the neck is never detected.
_SLOTS = [3, 2, 1, 4, 5, 6, 0, 7, 8, 10, 16, 15, 14, 11, 12, 13]
# Its video is damaged, so the recording is left out.
_SKIPPED = {("S11", "Directions", 0)}
_MOST_FRAMES_APART = 10
_LAYOUT = "The layout is described in data_prep/README.md."


class Sequence(NamedTuple):
    """One recording: subject, action, trial 0 or 1, and its files."""

    subject: str
    action: str
    trial: int
    truth: pathlib.Path
    detections: tuple[pathlib.Path, ...]


class Layout(NamedTuple):
    """A folder and its recordings, sorted by subject, action and trial."""

    root: pathlib.Path
    sequences: tuple[Sequence, ...]

    def files(self) -> list[pathlib.Path]:
        """All files that are read."""
        out = [self.root / "cameras.h5"]
        for one in self.sequences:
            out += [one.truth, *one.detections]
        return out


def _trials(folder: pathlib.Path, suffix: str) -> dict[tuple[str, int], pathlib.Path]:
    """(action, trial) -> file, for file names that end in `suffix`."""
    out: dict[tuple[str, int], pathlib.Path] = {}
    names: dict[str, list[pathlib.Path]] = {}
    for path in sorted(folder.glob(f"*{suffix}")):
        stem = path.name.removesuffix(suffix)
        if suffix == ".h5" and "." in stem:
            continue
        names.setdefault(re.sub(r"[ _]\d+$", "", stem), []).append(path)
    for action, paths in names.items():
        for trial, path in enumerate(sorted(paths, key=lambda p: p.name.removesuffix(suffix))):
            out[action, trial] = path
    return out


def find_layout(root: str | os.PathLike[str]) -> Layout:
    """The recordings of a folder, after checking that their files exist.

    Raises:
        ValueError: a file is missing; the error names it.
    """
    root = pathlib.Path(root)
    if not (root / "cameras.h5").is_file():
        expected = "expected the calibration of the cameras"
        raise argument_error(str(root / "cameras.h5"), expected, "no such file", _LAYOUT)
    sequences = []
    subjects = [p for p in root.glob("S*") if re.fullmatch(r"S\d+", p.name) and p.is_dir()]
    for subject in sorted(subjects, key=lambda p: int(p.name[1:])):
        truths = _trials(subject / "MyPoses" / "3D_positions", ".h5")
        seen = [_trials(subject / "StackedHourglass", f".{camera}.h5") for camera in CAMERAS]
        for (action, trial), path in sorted(truths.items()):
            if (subject.name, action, trial) in _SKIPPED:
                continue
            missing = [
                camera
                for camera, own in zip(CAMERAS, seen, strict=True)
                if (action, trial) not in own
            ]
            if missing:
                expected = f"expected detections of trial {trial} for every camera"
                where = f"{subject / 'StackedHourglass' / action}.<camera>.h5"
                raise argument_error(where, expected, f"none for {missing}", _LAYOUT)
            files = tuple(own[action, trial] for own in seen)
            sequences.append(Sequence(subject.name, action, trial, path, files))
    if not sequences:
        expected = "expected S<n>/MyPoses/3D_positions/<action>.h5"
        raise argument_error(str(root), expected, "none", _LAYOUT)
    return Layout(root, tuple(sequences))


def read_sequence(layout: Layout, one: Sequence) -> dict[str, np.ndarray]:
    """Arrays of one recording.

    Returns:
        `points` (T, 4, 17, 2) [px], zero where not visible, `visible` (T, 4, 17), `joints`
        (T, 17, 3) [mm], `cameras` (4, 3, 3) world to camera. T is the length of the shortest
        file: detections and motion capture may end a few frames apart.

    Raises:
        ValueError: arrays of wrong shape, values that are not finite, files whose lengths differ
            by more than ten frames, or matrices that are no rotations.
    """
    truth = load_arrays(one.truth, {"3D_positions": (96, None)})["3D_positions"]
    joints = truth.T.reshape(-1, 32, 3)[:, _JOINTS]
    seen = [load_arrays(p, {"poses": (None, 16, 2)})["poses"] for p in one.detections]
    lengths = [len(joints), *map(len, seen)]
    num = min(lengths)
    if num == 0 or max(lengths) - num > _MOST_FRAMES_APART:
        expected = f"expected as many frames as the detections, to within {_MOST_FRAMES_APART}"
        hint = "The two trials of an action may be swapped: check their file names."
        raise argument_error(str(one.truth), expected, lengths, hint)
    points = np.zeros((num, len(CAMERAS), 17, 2))
    points[:, :, _SLOTS] = np.stack([array[:num] for array in seen], axis=1)
    visible = np.zeros(points.shape[:3], bool)
    visible[:, :, _SLOTS] = True
    cameras = _cameras(layout.root / "cameras.h5", one.subject)
    return {"points": points, "visible": visible, "joints": joints[:num], "cameras": cameras}


def _cameras(path: pathlib.Path, subject: str) -> np.ndarray:
    """(4, 3, 3) rotations from the world to the cameras, in the order of `CAMERAS`."""
    names = [f"subject{subject[1:]}/camera{i}" for i in range(1, 5)]
    rotations = load_arrays(path, {f"{name}/R": (3, 3) for name in names})
    order = [_camera_name(path, f"{name}/Name") for name in names]
    if sorted(filter(None, order)) not in ([], sorted(CAMERAS)):
        raise argument_error(f"{path}: {names[0]}", f"expected the cameras {CAMERAS}", order)
    index = [order.index(camera) for camera in CAMERAS] if all(order) else range(4)
    matrices = np.stack([rotations[f"{names[i]}/R"].T for i in index])
    check_rotations(f"{path}: {subject}", matrices)
    return matrices


def _camera_name(path: pathlib.Path, name: str) -> str | None:
    """A name stored as text or as character codes; None if there is none."""
    with open_hdf5(path) as file:
        if name not in file:
            return None
        value = np.asarray(file[name])
        if value.dtype.kind in "iuf":
            return "".join(chr(int(code)) for code in value.ravel())
        text = value.item()
        return text.decode() if isinstance(text, bytes) else str(text)
