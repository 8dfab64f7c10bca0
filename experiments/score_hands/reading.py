"""Files of hand joints: their formats, cameras and joint names.

A file holds u [px], v [px] and depth [mm] of every joint ("uvd"), or x, y, z [mm] ("xyz"). Nothing
in a text file says which; `labels_format` and `predictions_format` find out by the camera.
"""

import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcv.checks import argument_error, check_choice
from jaxcv.data.hand import JOINTS, NYU_INTRINSICS, joints_of_pixels, read_predictions
from jaxcv.io.files import check_file
from jaxcv.metrics.hand import joint_errors

__all__ = [
    "FORMATS", "NAMES", "JointFile", "camera_matrix", "check_direction", "check_plausible",
    "in_camera", "joint_names", "labels_format", "predictions_format", "read_joints",
]  # fmt: skip

FORMATS = {"uvd": "u v depth", "xyz": "x y z"}
_FINGERS = ("index", "middle", "ring", "little")
NAMES = {  # in the order of each set's files
    "nyu": JOINTS,
    "icvl": ("palm", *(f"{finger}_{part}" for finger in ("thumb", *_FINGERS)
                       for part in ("root", "mid", "tip"))),
    "msra": ("wrist", *(f"{finger}_{part}" for finger in (*_FINGERS, "thumb")
                        for part in ("mcp", "pip", "dip", "tip"))),
}  # fmt: skip
_CAMERAS = "MSRA: --camera=241.42,241.42,160,120; ICVL: --camera=240.99,240.96,160,120"
_LIMIT = 200.0  # [mm], more than the length of a hand: no reading of a file with this median error
_INSIDE = 0.95  # fraction of the joints of labels that lie in the picture
_METRES = 20.0  # depths all below this are in metres, not millimetres


class JointFile(NamedTuple):
    """What a file holds.

    Attributes:
        path: of the file.
        values: (N, J, 3): u, v [px], depth [mm], or x, y, z [mm].
        format: "uvd" or "xyz"; None for text, which does not say.
    """

    path: str
    values: np.ndarray
    format: str | None


def read_joints(path: str, count: int | None = None, depths: bool = True) -> JointFile:
    """Reads a text file, or `joints_uvd` or `joints_xyz` (N, J, 3) of an .npz file.

    Args:
        path: of the file.
        count: J; None: the J of the file.
        depths: whether the third number of a joint is read, and so must be above 0.

    Raises:
        ValueError: naming the file, the line or the array, and the rule.
    """
    form = None
    if pathlib.Path(path).suffix != ".npz":
        values = read_predictions(path, count, positive_depth=depths)
    else:
        form, values = _arrays(path, count)
        behind = values[..., 2] <= 0
        if depths and behind.any():
            frame = np.flatnonzero(behind.any(axis=1))[0]
            expected = f"expected depths above 0 in joints_{form}"
            raise argument_error(path, expected, f"{values[frame, :, 2].min():g} in frame {frame}")
    if depths and values[..., 2].max() < _METRES:
        got, hint = f"at most {values[..., 2].max():g}", "These look like metres: multiply by 1000."
        raise argument_error(path, "expected depths in millimetres", got, hint)
    return JointFile(path, values, form)


def _arrays(path: str, count: int | None) -> tuple[str, np.ndarray]:
    check_file(path)
    shape = f"(N, {'J' if count is None else count}, 3)"
    expected = f"expected finite `joints_uvd` or `joints_xyz` {shape}"
    try:
        with np.load(path, allow_pickle=False) as file:
            form = "xyz" if "joints_xyz" in file and "joints_uvd" not in file else "uvd"
            values = np.asarray(file[f"joints_{form}"], float)
    except (ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise argument_error(path, expected, error) from error
    fits = values.ndim == 3 and values.shape[2] == 3 and count in (None, values.shape[1])
    if not fits or not values.size or not np.isfinite(values).all():
        raise argument_error(path, expected, values.shape)
    return form, values


def joint_names(count: int, names: Sequence[str] | None = None) -> tuple[str, ...]:
    """Names of J joints: those of the set with J joints, else 1 to J.

    Args:
        count: J.
        names: one of "nyu", "icvl", "msra", "numbers", or J names; None: by J.
    """
    numbers = tuple(str(i + 1) for i in range(count))
    if names is None:
        return next((known for known in NAMES.values() if len(known) == count), numbers)
    out = tuple(names)
    if len(out) == 1:
        out = (NAMES | {"numbers": numbers}).get(out[0], out)
    if len(out) != count or len(set(out)) != count or not all(out):
        expected = f"expected {', '.join(NAMES)}, numbers, or {count} different names"
        raise argument_error("joints", expected, f"{len(out)}: {', '.join(out)}")
    return out


def camera_matrix(camera: Any, count: int) -> np.ndarray:
    """K (3, 3) of fx, fy, cx, cy [px]; None: NYU's, for sets of 14 joints only."""
    if camera is None:
        if count != len(JOINTS):
            expected = f"expected fx,fy,cx,cy for files of {count} joints (NYU's have 14)"
            raise argument_error("camera", expected, "none", _CAMERAS + ".")
        return NYU_INTRINSICS
    expected = "expected fx,fy,cx,cy: finite [px], fx > 0, fy not 0"
    try:
        values = np.array([float(x) for x in camera])
    except (TypeError, ValueError) as error:
        raise argument_error("camera", expected, camera) from error
    if values.shape != (4,) or not np.isfinite(values).all() or values[0] <= 0 or values[1] == 0:
        raise argument_error("camera", expected, camera)
    fx, fy, cx, cy = values
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


def in_camera(values: np.ndarray, form: str, k: np.ndarray) -> np.ndarray:
    """Joints (N, J, 3) [mm] in the camera's frame."""
    return values if form == "xyz" else joints_of_pixels(values, k)


def labels_format(file: JointFile, form: str, k: np.ndarray) -> str:
    """The format of labels: u v depth if 95% of the joints lie in the picture, else x y z if 95%
    are projected into it. The picture is 2 cx by 2 cy pixels.

    Args:
        file: the labels.
        form: "uvd", "xyz" or "auto".
        k: (3, 3) [px].

    Raises:
        ValueError: neither.
    """
    check_choice("labels_format", form, ("auto", *FORMATS))
    if file.format is not None or form != "auto":
        return file.format or form
    values, size = file.values, 2 * k[:2, 2]
    projected = values @ k.T
    inside = lambda uv: np.mean(((uv >= 0) & (uv <= size)).all(axis=-1))
    rates = {
        "uvd": inside(values[..., :2]),
        "xyz": inside(projected[..., :2] / projected[..., 2:]),
    }
    for name, rate in rates.items():
        if rate >= _INSIDE:
            return name
    width, height = size
    expected = (
        f"expected u v depth or x y z of joints in the camera's picture ({width:g} x {height:g} px)"
    )
    got = f"{rates['uvd']:.0%} in it as u v depth and {rates['xyz']:.0%} as x y z"
    hint = "Check --camera (fy is negative where y points up), or give --labels_format."
    raise argument_error(file.path, expected, f"{got}, {_extent(values)}", hint)


def predictions_format(file: JointFile, form: str, target: np.ndarray, k: np.ndarray) -> str:
    """The format of predictions: the one whose median joint error is smaller.

    Args:
        file: predictions, as many frames and joints as the target.
        form: "uvd", "xyz" or "auto".
        target: (N, J, 3) [mm].
        k: (3, 3) [px].

    Raises:
        ValueError: in the format that is given, the median error is more than twice that in the
            other one; or, where none is given, it is above 200 mm in both.
    """
    check_choice("format", form, ("auto", *FORMATS))
    if file.format is not None:
        return file.format
    medians = {
        name: float(np.median(joint_errors(in_camera(file.values, name, k), target)))
        for name in FORMATS
    }
    best = min(medians, key=lambda name: medians[name])
    if form == "auto":
        check_plausible(file, medians)
        return best
    if medians[form] > 2 * medians[best] and medians[best] <= _LIMIT:
        expected = f"expected {FORMATS[form]}, as --format={form} says"
        got = f"{_extent(file.values)}, which is {FORMATS[best]}"
        raise argument_error(file.path, expected, got, f"Pass --format={best} or none.")
    return form


def check_plausible(file: JointFile, medians: dict[str, float]) -> None:
    """Raises ValueError unless one of the median errors [mm], by format, is 200 mm or less."""
    if min(medians.values()) <= _LIMIT:
        return
    known = " or ".join(FORMATS[name] for name in medians)
    expected = f"expected {known} with a median error of {_LIMIT:g} mm at most"
    got = " and ".join(f"{medians[name]:.0f} mm as {FORMATS[name]}" for name in medians)
    hint = (
        "Check units, the order of the joints and --camera (fy is negative where y points up), "
        "or give --format."
    )
    raise argument_error(file.path, expected, f"{got}, {_extent(file.values)}", hint)


def check_direction(path: str, predicted: np.ndarray, target: np.ndarray) -> None:
    """Raises ValueError if the other sign of y halves the median error."""
    median = lambda joints: float(np.median(joint_errors(joints, target)))
    own, flipped = median(predicted), median(predicted * [1, -1, 1])
    if flipped < 0.5 * own:
        expected = "expected y in the direction of the labels and of --camera (fy < 0: up)"
        got = f"a median error of {own:.0f} mm, and {flipped:.0f} mm with y reversed"
        raise argument_error(path, expected, got, "Change the sign of fy, or of y in the file.")


def _extent(values: np.ndarray) -> str:
    low, high = values.min(axis=(0, 1)), values.max(axis=(0, 1))
    words = ("first", "second", "third")
    rows = zip(words, low, high, strict=True)
    return "; ".join(f"{word} number {a:.0f} to {b:.0f}" for word, a, b in rows)
