"""The text files of the VOT toolkit: regions, sequences, results.

The layout, with one result per tracker and sequence (no re-initialisation)::

    sequences/list.txt                                    one sequence per line
    sequences/<sequence>/groundtruth.txt                  one region per line
    results/<tracker>/unsupervised/<sequence>/<sequence>_001.txt

A region is a line of numbers, separated by commas or by white space: 4 numbers are a rectangle
(left, top, width, height) [px]; an even count from 6 is a polygon x1, y1, x2, y2, ... [px]; a
single number is a code: 0 nothing reported, 1 tracker initialised, 2 failure.

Source: votchallenge/toolkit-legacy, documentation of sequences and workspaces.
"""

import math
import os
import pathlib
from typing import Literal, NamedTuple

import jax
import numpy as np

from jaxcv.checks import argument_error
from jaxcv.geometry import boxes
from jaxcv.io.files import read_text

__all__ = ["Layout", "Regions", "find_layout", "read_regions", "read_sequence"]

PolygonMethod = Literal["extent", "area"]

_LAYOUT = "The layout is described in data_prep/README.md."


class Layout(NamedTuple):
    """A folder in the layout of the VOT toolkit; names are sorted."""

    root: pathlib.Path
    sequences: tuple[str, ...]
    trackers: tuple[str, ...]

    @property
    def list_path(self) -> pathlib.Path:
        """The list of sequences."""
        return self.root / "sequences" / "list.txt"

    def truth_path(self, sequence: str) -> pathlib.Path:
        """The true regions of a sequence."""
        return self.root / "sequences" / sequence / "groundtruth.txt"

    def result_path(self, tracker: str, sequence: str) -> pathlib.Path:
        """The regions a tracker reported in a sequence."""
        folder = self.root / "results" / tracker / "unsupervised" / sequence
        return folder / f"{sequence}_001.txt"

    def files(self) -> list[pathlib.Path]:
        """All files that are read, in a fixed order."""
        truths = [self.truth_path(s) for s in self.sequences]
        results = [self.result_path(k, s) for k in self.trackers for s in self.sequences]
        return [self.list_path, *truths, *results]


class Regions(NamedTuple):
    """The n lines of a file.

    Attributes:
        corners: (n, 4) float64 x1, y1, x2, y2 [px], zero where `present` is False.
        present: (n,) the line is a region with positive width and height.
        codes: (n,) int, the code of the line, -1 if it is none.
    """

    corners: np.ndarray
    present: np.ndarray
    codes: np.ndarray


def find_layout(root: str | os.PathLike[str]) -> Layout:
    """The sequences and trackers of a folder, after checking that their files exist.

    Raises:
        ValueError: the folder, list.txt, a sequence, all trackers, or a tracker's results for
            some sequences are missing; the error names them.
    """
    root = pathlib.Path(root)
    if not root.is_dir() or not any(root.iterdir()):
        got = "an empty folder" if root.is_dir() else "no such folder"
        raise argument_error(str(root), "expected folders sequences/ and results/", got, _LAYOUT)
    path = root / "sequences" / "list.txt"
    if not path.is_file():
        hint = f"List the sequences there, one folder name a line. {_LAYOUT}"
        raise argument_error(str(path), "expected the list of sequences", "no such file", hint)
    sequences: list[str] = []
    for number, line in enumerate(_lines(path), start=1):
        name, where = line.strip(), f"{path}:{number}"
        if not name:
            continue
        if name in sequences:
            raise argument_error(where, "expected distinct names", repr(name), "Remove one.")
        folder = root / "sequences" / name
        # os.path: a name that is too long is no folder, and no OSError.
        if pathlib.Path(name).name != name or not os.path.isdir(folder):
            hint = "Add its folder beside the list, or remove the line."
            raise argument_error(where, f"expected a folder {folder}", "none", hint)
        sequences.append(name)
    if not sequences:
        raise argument_error(str(path), "expected one sequence a line", "an empty list", _LAYOUT)

    results = root / "results"
    folders = sorted(results.iterdir()) if results.is_dir() else []
    trackers = tuple(p.name for p in folders if p.is_dir() and not p.name.startswith("."))
    if not trackers:
        hint = f"Put one folder per tracker there. {_LAYOUT}"
        raise argument_error(str(results), "expected one or more trackers", "none", hint)
    layout = Layout(root, tuple(sorted(sequences)), trackers)
    for sequence in layout.sequences:
        if not layout.truth_path(sequence).is_file():
            expected, hint = "expected the true regions", "Add it, or drop the sequence."
            raise argument_error(
                str(layout.truth_path(sequence)), expected, "no such file", f"{hint} {_LAYOUT}"
            )
    missing = [
        f"{tracker} in {sequence}"
        for tracker in layout.trackers
        for sequence in layout.sequences
        if not layout.result_path(tracker, sequence).is_file()
    ]
    if missing:
        first = layout.root / "results" / "<tracker>/unsupervised/<sequence>/<sequence>_001.txt"
        listed = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
        got = f"{len(missing)} missing: {listed}"
        hint = "Add the results, or remove the tracker's folder or the sequence's line."
        raise argument_error(str(first), "expected results for every sequence", got, hint)
    return layout


def read_regions(path: str | os.PathLike[str], polygon: PolygonMethod = "extent") -> Regions:
    """Boxes and codes of a file of regions, one per line.

    A region is present only if its width and height are positive. Polygons become boxes by
    `polygon_to_box` with the method `polygon`; with `area`, polygons without exactly four points
    become their extent.

    Raises:
        ValueError: an empty file, an empty line between others, text, NaN or infinity, a wrong
            count of numbers, or an unknown code; the error names the file and the line.
    """
    path = pathlib.Path(path)
    lines = _lines(path)
    if not lines:
        hint = "Write the file again, or drop the sequence."
        raise argument_error(str(path), "expected one region a line", "an empty file", hint)
    corners = np.zeros((len(lines), 4))
    codes = np.full(len(lines), -1)
    polygons: dict[int, list[tuple[int, list[float]]]] = {}
    for i, line in enumerate(lines):
        where, numbers = f"{path}:{i + 1}", _numbers(line)
        if numbers is None:
            hint = "Write regions as numbers, separated by commas; masks are not supported."
            raise argument_error(where, "expected numbers", repr(line[:80]), hint)
        if not all(map(math.isfinite, numbers)):
            hint = "Write the code 0 in a frame without a region."
            raise argument_error(where, "expected finite numbers", repr(line[:80]), hint)
        if len(numbers) == 4:
            left, top, width, height = numbers
            corners[i] = left, top, left + width, top + height
        elif len(numbers) == 1:
            if numbers[0] not in (0, 1, 2):
                hint = "0: nothing reported, 1: initialised, 2: failure."
                raise argument_error(where, "expected a code 0, 1 or 2", repr(line), hint)
            codes[i] = int(numbers[0])
        elif len(numbers) >= 6 and len(numbers) % 2 == 0:
            polygons.setdefault(len(numbers) // 2, []).append((i, numbers))
        else:
            expected = "expected 1 number (code), 4 (rectangle) or an even count from 6 (polygon)"
            hint = "Correct the line, or write the code 0 in a frame without a region."
            raise argument_error(where, expected, f"{len(numbers)}: {line[:80]!r}", hint)
    for num_points, found in polygons.items():
        rows = np.array([i for i, _ in found])
        points = np.array([numbers for _, numbers in found]).reshape(-1, num_points, 2)
        corners[rows] = _polygon_boxes(points, polygon if num_points == 4 else "extent")
    present = np.asarray(np.all(corners[:, 2:] > corners[:, :2], axis=-1))
    return Regions(np.where(present[:, None], corners, 0), present, codes)


def read_sequence(
    layout: Layout, sequence: str, polygon: PolygonMethod = "extent"
) -> dict[str, np.ndarray]:
    """Ground truth and results of one sequence of T frames and K trackers, in float64.

    In frames after the first, a true region without area (or the code 0) means that the object
    is absent. A tracker's region without area counts as not reported, as do all codes.

    Returns:
        `ground_truth` (T, 4) corners x1, y1, x2, y2 [px], zero where the object is absent;
        `boxes` (T, K, 4) corners [px], zero where not reported; `reported` (T, K) bool.

    Raises:
        ValueError: as `read_regions`; or the ground truth has fewer than two frames, no object
            in the first, or a code other than 0; or a result has another number of lines.
    """
    path = layout.truth_path(sequence)
    truth = read_regions(path, polygon)
    num = len(truth.present)
    if num < 2:
        expected = "expected at least two frames"
        raise argument_error(
            str(path), expected, num, "Drop the sequence: it has nothing to score."
        )
    if not truth.present[0]:
        expected = "expected the object in the first frame, with positive width and height"
        got, hint = repr(_lines(path)[0]), "Start the sequence where the object is visible."
        raise argument_error(f"{path}:1", expected, got, hint)
    wrong = np.flatnonzero(truth.codes > 0)
    if wrong.size:
        expected = "expected a true region, or the code 0 (object absent)"
        got, hint = int(truth.codes[wrong[0]]), "Is this a tracker's result?"
        raise argument_error(f"{path}:{wrong[0] + 1}", expected, got, hint)
    results = []
    for tracker in layout.trackers:
        result = read_regions(layout.result_path(tracker, sequence), polygon)
        got = len(result.present)
        if got != num:
            where = str(layout.result_path(tracker, sequence))
            less = "shorter" if got < num else "longer"
            expected = f"expected {num} lines, one for each line of {path}"
            hint = f"The result is {less} than the sequence: run the tracker on it again."
            raise argument_error(where, expected, got, hint)
        results.append(result)
    return {
        "ground_truth": truth.corners,
        "boxes": np.stack([result.corners for result in results], axis=1),
        "reported": np.stack([result.present for result in results], axis=1),
    }


def _lines(path: pathlib.Path) -> list[str]:
    """Lines of a text file, without trailing empty lines."""
    hint = "If it is a binary file, write it as text in UTF-8."
    return read_text(path, encoding="utf-8-sig", hint=hint).rstrip().splitlines()


def _numbers(line: str) -> list[float] | None:
    """The numbers of a line; None if it holds anything else, or nothing."""
    tokens = line.split(",") if "," in line else line.split()
    if not tokens or "_" in line:  # float() would read 1_0 as 10
        return None
    try:
        return [float(token) for token in tokens]
    except ValueError:
        return None


def _polygon_boxes(points: np.ndarray, method: PolygonMethod) -> np.ndarray:
    """(n, 4) corners [px] of polygons (n, p, 2) [px], in float64."""
    padding = (1 << (len(points) - 1).bit_length()) - len(points)  # few shapes, few compilations
    padded = np.pad(points, ((0, padding), (0, 0), (0, 0)), mode="edge")
    with jax.enable_x64(True):
        return np.asarray(boxes.polygon_to_box(padded, method))[: len(points)]
