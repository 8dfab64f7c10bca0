"""The files of the VOT toolkit: regions, sequences, results.

The layout, with one result per tracker and sequence (no re-initialisation)::

    sequences/list.txt                                    one sequence per line
    sequences/<sequence>/groundtruth.txt                  one region per line
    results/<tracker>/unsupervised/<sequence>/<sequence>_001.txt (or .bin, see `binary`)

A region is a line of numbers, separated by commas or by white space: 4 numbers are a rectangle
(left, top, width, height) [px]; an even count from 6 is a polygon x1, y1, x2, y2, ... [px]; a
single number is a code: 0 nothing reported, 1 tracker initialised, 2 failure. A line of nan alone
is the code 0. Where a result is there as .txt and as .bin, the .txt is read, as the toolkit does.

Sources: votchallenge/toolkit-legacy, documentation of sequences and workspaces;
votchallenge/toolkit, vot/region/io.py.
"""

import math
import os
import pathlib
from typing import Literal, NamedTuple

import jax
import numpy as np

from data_prep.vot_results.binary import read_binary
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
        """The regions a tracker reported in a sequence: .txt, or .bin where there is no .txt."""
        folder = self.root / "results" / tracker / "unsupervised" / sequence
        text, binary = (folder / f"{sequence}_001{suffix}" for suffix in (".txt", ".bin"))
        # lexists: a text that cannot be read is reported, not passed over.
        return binary if os.path.lexists(binary) and not os.path.lexists(text) else text

    def files(self) -> list[pathlib.Path]:
        """All files that are read, in a fixed order."""
        truths = [self.truth_path(s) for s in self.sequences]
        results = [self.result_path(k, s) for k in self.trackers for s in self.sequences]
        return [self.list_path, *truths, *results]


class Regions(NamedTuple):
    """The n regions of a file.

    Attributes:
        corners: (n, 4) float64 x1, y1, x2, y2 [px], zero where `present` is False.
        present: (n,) the region has positive width and height.
        codes: (n,) int, the code (0 for nan alone), -1 where there is none.
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
        first = results / "<tracker>/unsupervised/<sequence>/<sequence>_001.txt, or .bin"
        listed = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
        got = f"{len(missing)} missing: {listed}"
        hint = "Add the results, or remove the tracker's folder or the sequence's line."
        raise argument_error(str(first), "expected results for every sequence", got, hint)
    return layout


def read_regions(path: str | os.PathLike[str], polygon: PolygonMethod = "extent") -> Regions:
    """Boxes and codes of a file of regions: text, one per line, or binary if its name ends in .bin.

    A region is present only if its width and height are positive. Polygons become boxes by
    `polygon_to_box` with the method `polygon`; with `area`, polygons without exactly four points
    become their extent.

    Raises:
        ValueError: an empty file, an empty line between others, text, nan beside numbers, infinity,
            a wrong count of numbers, an unknown code, a mask, lines that count the frames
            (`_check_polygons`), or a damaged binary file; the error names the file and the place.
    """
    path = pathlib.Path(path)
    places, regions = read_binary(path) if _is_binary(path) else _read_lines(path)
    if not regions:
        expected = f"expected one region a {'frame' if _is_binary(path) else 'line'}"
        hint = "Write the file again, or drop the sequence."
        raise argument_error(str(path), expected, "an empty file", hint)
    corners = np.zeros((len(regions), 4))
    codes = np.full(len(regions), -1)
    polygons: dict[int, list[int]] = {}
    for i, (place, numbers) in enumerate(zip(places, regions, strict=True)):
        count = len(numbers)
        if count != 1 and count != 4 and (count < 6 or count % 2):
            expected = "expected 1 number (code), 4 (rectangle) or an even count from 6 (polygon)"
            hint = "Correct it, or write the code 0 in a frame without a region."
            raise argument_error(place, expected, f"{count}: {_shown(numbers)}", hint)
        if all(map(math.isnan, numbers)):
            codes[i] = 0
        elif not all(map(math.isfinite, numbers)):
            expected = "expected finite numbers, or nan alone"
            hint = "Write the code 0 in a frame without a region."
            raise argument_error(place, expected, _shown(numbers), hint)
        elif count == 1:
            if numbers[0] not in (0, 1, 2):
                hint = "0: nothing reported, 1: initialised, 2: failure."
                raise argument_error(place, "expected a code 0, 1 or 2", _shown(numbers), hint)
            codes[i] = int(numbers[0])
        elif count == 4:
            left, top, width, height = numbers
            corners[i] = left, top, left + width, top + height
        else:
            polygons.setdefault(count // 2, []).append(i)
    for num_points, rows in polygons.items():
        points = np.array([regions[i] for i in rows]).reshape(-1, num_points, 2)
        corners[rows] = _polygon_boxes(points, polygon if num_points == 4 else "extent")
    huge = np.flatnonzero(~np.isfinite(corners).all(axis=-1))
    if huge.size:
        expected = "expected coordinates in pixels"
        got, hint = _shown(regions[huge[0]]), "They are too large for a number."
        raise argument_error(places[huge[0]], expected, got, hint)
    present = np.asarray(np.all(corners[:, 2:] > corners[:, :2], axis=-1))
    return Regions(np.where(present[:, None], corners, 0), present, codes)


def read_sequence(
    layout: Layout, sequence: str, polygon: PolygonMethod = "extent"
) -> dict[str, np.ndarray]:
    """Ground truth and results of one sequence of T frames and K trackers, in float64.

    In frames after the first, a true region without area (or the code 0) means that the object
    is absent. A tracker's region without area counts as not reported, as do all codes. A result
    with a failure (code 2) or a restart (code 1 after the first frame) is of the supervised
    protocol and is refused: its boxes depend on the ground truth.

    Returns:
        `ground_truth` (T, 4) corners x1, y1, x2, y2 [px], zero where the object is absent;
        `boxes` (T, K, 4) corners [px], zero where not reported; `reported` (T, K) bool.

    Raises:
        ValueError: as `read_regions`; or the ground truth has fewer than two frames, no object
            in the first, or a code other than 0; or a result has another number of regions, or is
            of the supervised protocol.
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
        got = _shown(_read_lines(path)[1][0])
        hint = "Start the sequence where the object is visible."
        raise argument_error(f"{path}:1", expected, got, hint)
    wrong = np.flatnonzero(truth.codes > 0)
    if wrong.size:
        expected = "expected a true region, or the code 0 (object absent)"
        got, hint = int(truth.codes[wrong[0]]), "Is this a tracker's result?"
        raise argument_error(f"{path}:{wrong[0] + 1}", expected, got, hint)
    results = []
    for tracker in layout.trackers:
        source = layout.result_path(tracker, sequence)
        result = read_regions(source, polygon)
        _check_unsupervised(source, result.codes)
        got = len(result.present)
        if got != num:
            less = "shorter" if got < num else "longer"
            each = "regions" if _is_binary(source) else "lines"
            expected = f"expected {num} {each}, one for each line of {path}"
            hint = f"The result is {less} than the sequence: run the tracker on it again."
            raise argument_error(str(source), expected, got, hint)
        results.append(result)
    return {
        "ground_truth": truth.corners,
        "boxes": np.stack([result.corners for result in results], axis=1),
        "reported": np.stack([result.present for result in results], axis=1),
    }


def _check_unsupervised(path: pathlib.Path, codes: np.ndarray) -> None:
    """Raises ValueError if a result has a failure, or is initialised after its first frame."""
    wrong = np.flatnonzero((codes == 2) | ((codes == 1) & (np.arange(len(codes)) > 0)))
    if wrong.size:
        i = int(wrong[0])
        place = f"{path}, region {i + 1}" if _is_binary(path) else f"{path}:{i + 1}"
        expected = "expected a result without re-initialisation: code 1 on its first line only"
        got = "the code 2, a failure" if codes[i] == 2 else "the code 1, a restart"
        hint = (
            "It is a result of the supervised protocol: run the tracker by the unsupervised one. "
            "A frame without a region has the code 0."
        )
        raise argument_error(place, expected, got, hint)


def _is_binary(path: pathlib.Path) -> bool:
    return path.suffix == ".bin"


def _lines(path: pathlib.Path) -> list[str]:
    """Lines of a text file, without trailing empty lines."""
    hint = "If it is a binary file, write it as text in UTF-8; the toolkit's own is named .bin."
    return read_text(path, encoding="utf-8-sig", hint=hint).rstrip().splitlines()


def _read_lines(path: pathlib.Path) -> tuple[list[str], list[list[float]]]:
    """The places of the lines, for errors, and their numbers."""
    lines = _lines(path)
    places = [f"{path}:{i}" for i in range(1, len(lines) + 1)]
    rows = []
    for place, line in zip(places, lines, strict=True):
        numbers = _numbers(line)
        if numbers is None:
            hint = "Write regions as numbers, separated by commas or spaces."
            if line.startswith("m"):
                hint = "Write the boxes that hold the masks: masks are not supported."
            raise argument_error(place, "expected numbers", repr(line[:80]), hint)
        rows.append(numbers)
    _check_polygons(places, rows)
    return places, rows


def _numbers(line: str) -> list[float] | None:
    """The numbers of a line; None if it holds anything else, or nothing.

    White space, a comma at the end and a byte order mark are left out.
    """
    line = line.strip().strip("\ufeff").strip().removesuffix(",")
    tokens = line.split(",") if "," in line else line.split()
    if not tokens or "_" in line or not line.isascii():  # float() would read 1_0 as 10
        return None
    try:
        return [float(token) for token in tokens]
    except ValueError:
        return None


def _check_polygons(places: list[str], rows: list[list[float]]) -> None:
    """Raises ValueError if lines of five or more numbers are rows of a table, not polygons.

    Rows of MOTChallenge are frame, id, left, top, width, height, and possibly confidence, x, y, z
    (-1 where unknown). Six and ten numbers are also legal polygons, of three and five points. Lines
    are taken for a table if all of them (codes aside) have the same count of numbers and are ten
    that end with -1, -1, -1, or count the frames (`_counts_frames`).
    """
    lines = [i for i, row in enumerate(rows) if len(row) != 1 and not all(map(math.isnan, row))]
    counts = {len(rows[i]) for i in lines}
    if len(counts) != 1 or min(counts) < 5:
        return
    table = np.array([rows[i] for i in lines])
    counted = _counts_frames(table)
    if counted or (table.shape[1] == 10 and (table[:, 7:] == -1).all()):
        expected = "expected a rectangle (left, top, width, height) or a polygon (x1, y1, x2, ...)"
        got = f"{_shown(rows[lines[0]])}, which looks like a row of a table" + (
            ", whose first number counts the frames" if counted else ""
        )
        hint = (
            "Rows of MOTChallenge are frame, id, left, top, width, height, ...: write left, top, "
            "width, height of one object, one line a frame. If they are polygons, begin each line "
            "at another of its points."
        )
        raise argument_error(places[lines[0]], expected, got, hint)


def _counts_frames(table: np.ndarray) -> bool:
    """Whether the first column of (n, c) numbers counts frames.

    It does if it holds two or more whole numbers from 0 on, without a gap; the lines are sorted by
    it, or by the second and then by it; no two lines agree in both (an id of -1 aside); and they
    are not one polygon that moves without turning.
    """
    frames, ids = table[:, 0], table[:, 1]
    values = np.unique(frames)
    if len(values) < 2 or values[0] < 0 or not np.isfinite(table).all():
        return False
    if values[0] % 1 or (np.diff(values) != 1).any():
        return False
    by_id = np.lexsort((frames, ids))
    if (np.diff(frames) < 0).any() and (by_id != np.arange(len(table))).any():
        return False
    known = table[ids != -1, :2]
    if len(np.unique(known, axis=0)) != len(known):
        return False
    moved = table - table[0]
    polygons = table.shape[1] % 2 == 0
    return not (
        polygons
        and np.allclose(moved[:, ::2], moved[:, :1], rtol=0, atol=1e-6)
        and np.allclose(moved[:, 1::2], moved[:, 1:2], rtol=0, atol=1e-6)
    )


def _shown(numbers: list[float]) -> str:
    """The first numbers of a region, for an error."""
    return repr(",".join(f"{x:.7g}" for x in numbers)[:80])


def _polygon_boxes(points: np.ndarray, method: PolygonMethod) -> np.ndarray:
    """(n, 4) corners [px] of polygons (n, p, 2) [px], in float64."""
    padding = (1 << (len(points) - 1).bit_length()) - len(points)  # few shapes, few compilations
    padded = np.pad(points, ((0, padding), (0, 0), (0, 0)), mode="edge")
    with jax.enable_x64(True):
        return np.asarray(boxes.polygon_to_box(padded, method))[: len(points)]
