"""The table of pairs, pairs.csv and pairs.json: the poses of the pairs of --pictures."""

import csv
import io
import json
import pathlib
from typing import Any

import numpy as np

from experiments import runner
from experiments.relative_pose.data import quaternions
from experiments.relative_pose.pictures import MatchedPictures, Picture
from jaxcv.systems import RelativePose

__all__ = ["COLUMNS", "CONVENTION", "pose_entries", "write_table"]

CONVENTION = (
    "x2 = R x1 + t takes points of the first camera to the second; |t| = 1; x right, y down, z "
    "forward; quaternion w, x, y, z"
)
COLUMNS = (
    "first", "second", "matches", "inliers", "qw", "qx", "qy", "qz", "tx", "ty", "tz", "confidence"
)  # fmt: skip
_BASIC = ("rotation", "direction", "confidence", "matches")
_OF_MATCHES = ("points1", "points2", "inliers")  # as many rows as matches: not in the table


def pose_entries(pose: RelativePose) -> dict[str, Any]:
    """A pose as JSON: null where there is none; further fields of the pose follow."""
    there = bool(np.isfinite(pose.rotation).all())
    quaternion = quaternions(np.asarray(pose.rotation)[None])[0] if there else None
    entries = {
        "rotation": _plain(pose.rotation) if there else None,
        "quaternion": _plain(quaternion),
        "direction": _plain(pose.direction) if there else None,
        "confidence": round(float(pose.confidence), 4),
        "matches": int(pose.matches),
    }
    more = [name for name in pose._fields if name not in _BASIC + _OF_MATCHES]
    return entries | {name: _plain(getattr(pose, name)) for name in more}


def _plain(value: Any) -> Any:
    """A value as JSON, floats of 9 significant digits; null for nan."""
    if value is None or isinstance(value, str):
        return value
    if hasattr(value, "_asdict"):
        return {name: _plain(each) for name, each in value._asdict().items()}
    array = np.asarray(value)
    if array.ndim:
        return [_plain(each) for each in array]
    if array.dtype == bool or np.issubdtype(array.dtype, np.integer):
        return array.item()
    return float(f"{float(array):.9g}") if np.isfinite(array) else None


def write_table(
    folder: pathlib.Path,
    matched: MatchedPictures,
    poses: list[RelativePose],
    inliers: list[int],
    figures: list[str | None],
    about: dict[str, Any],
) -> None:
    """Writes pairs.csv and pairs.json, a row per pair in the order of the pairs.

    Args:
        folder: to write.
        matched: the pairs.
        poses: of the pairs.
        inliers: numbers of matches that agree with each pose.
        figures: path of the figure of each pair, or None.
        about: entries for pairs.json.
    """
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(COLUMNS)
    rows = []
    for pair, pose, count, figure in zip(matched.pairs, poses, inliers, figures, strict=True):
        own = pose_entries(pose)
        numbers = [*(own["quaternion"] or [""] * 4), *(own["direction"] or [""] * 3)]
        lines.writerow([*pair, own["matches"], count, *numbers, own["confidence"]])
        rows.append(
            {"first": pair[0], "second": pair[1], "inliers": count, **own, "figure": figure}
        )
    content = about | {
        "convention": CONVENTION,
        "pairs": rows,
        "left_out": [
            {"first": one, "second": other, "unreadable": [
                name for name in (one, other) if name in matched.unreadable
            ]}
            for one, other in matched.left_out
        ],
        "images": [_camera(name, own) for name, own in matched.pictures.items()],
    }  # fmt: skip
    runner.write_text(folder / "pairs.csv", text.getvalue())
    runner.write_text(folder / "pairs.json", json.dumps(content, indent=1, allow_nan=False) + "\n")


def _camera(name: str, picture: Picture) -> dict[str, Any]:
    """An entry as of cameras.json, without a pose."""
    height, width = picture.shape
    return {
        "file": name, "intrinsics": _plain(picture.intrinsics), "size": [width, height],
        "guessed": picture.guessed,
    }  # fmt: skip
