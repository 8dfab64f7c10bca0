"""The pictures of --pictures, a folder or a video: their pairs, cameras, features and matches."""

import logging
import os
import pathlib
import time
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np

from experiments import runner
from jaxcv.geometry.camera import check_aspect_ratio, resize_intrinsics
from jaxcv.io.picture_folder import list_pictures, read_pair_list
from jaxcv.io.pictures import picture_size, read_rgb
from jaxcv.io.posed_folder import CAMERAS, Calibration, read_calibrations
from jaxcv.io.video import count_frames, frame_name, read_frames
from jaxcv.systems.feature_matches import Features, Matches, find_features, match_features
from jaxcv.systems.two_view import intrinsics_or_guess, resized

__all__ = [
    "MAX_PAIRS", "MatchedPictures", "Picture", "Progress", "Source", "images_of",
    "intrinsics_of_flag", "matched_pictures", "open_source", "pairs_of",
]  # fmt: skip

MAX_PAIRS = 20_000  # of all pictures with all; a list may have more
_SECONDS_PER_LINE = 10.0
_SMALLEST = 8  # sides of a picture [px]
_logger = logging.getLogger(__name__)


class Progress:
    """Logs a line every ten seconds: `Progress("pairs have poses", 300)(40)`."""

    def __init__(self, text: str, count: int):
        self._text, self._count, self._spoke = text, count, time.monotonic()

    def __call__(self, done: int) -> None:
        """Tells that so many are done."""
        if time.monotonic() - self._spoke > _SECONDS_PER_LINE:
            self._spoke = time.monotonic()
            _logger.info("%d of %d %s", done, self._count, self._text)


class Source(NamedTuple):
    """A folder or a video.

    Attributes:
        path: of either.
        names: of the pictures, in order.
        every: frames of a video from one picture to the next; 0: a folder.
    """

    path: pathlib.Path
    names: tuple[str, ...]
    every: int


class Picture(NamedTuple):
    """A picture without its pixels.

    Attributes:
        shape: (H, W) of the file, its EXIF orientation applied.
        intrinsics: (3, 3) of the file [px].
        guessed: whether the intrinsics are a guess.
        reduced: (H, W) of the image of the features.
        reduced_intrinsics: (3, 3) of that image.
        points: (N, 2) of the features in that image.
        small: (h, w, 3), the input of the network; None without one.
    """

    shape: tuple[int, int]
    intrinsics: np.ndarray
    guessed: bool
    reduced: tuple[int, int]
    reduced_intrinsics: np.ndarray
    points: np.ndarray
    small: np.ndarray | None


class MatchedPictures(NamedTuple):
    """Pictures and the matches of their pairs.

    Attributes:
        pictures: name -> picture, of those that could be read.
        pairs: names of each pair of them.
        rows: indices (M, 2) of the matched features, of each pair.
        ratios: (M,) of `Matches`, of each pair.
        unreadable: name -> what is wrong with it.
        left_out: pairs with a picture that is unreadable.
    """

    pictures: dict[str, Picture]
    pairs: list[tuple[str, str]]
    rows: list[np.ndarray]
    ratios: list[np.ndarray]
    unreadable: dict[str, str]
    left_out: list[tuple[str, str]]

    def matches(self, i: int) -> Matches:
        """Matches of pair i in the images of the features."""
        first, second = (self.pictures[name].points for name in self.pairs[i])
        rows = self.rows[i]
        return Matches(first[rows[:, 0]], second[rows[:, 1]], self.ratios[i])


def open_source(config: Any, folder: pathlib.Path) -> Source:
    """The pictures of --pictures; those in the work folder are none of them.

    Raises:
        DataError: no folder or video, or fewer than two pictures.
    """
    path = pathlib.Path(config.pictures).expanduser()
    with runner.data_errors():
        if os.path.isfile(path):
            if pathlib.Path(path).suffix.lower() == ".txt":
                expected, hint = "expected a folder or a video", "A list of pairs goes to --pairs."
                raise runner.data_error("pictures", expected, path, hint)
            count = count_frames(path)
            names = tuple(frame_name(i) for i in range(0, count, config.every))
            source = Source(path, names, config.every)
            _logger.info("%s: %d frames, %d of them are used", path, count, len(names))
        else:
            if config.every != 1:
                expected = "goes with a video"
                raise runner.data_error("every", expected, f"the folder {path}", "Leave it out.")
            if os.path.realpath(path) == os.path.realpath(folder):
                expected, hint = "expected another folder than --pictures", "Figures are pictures."
                raise runner.data_error("workdir", expected, folder, hint)
            found = list_pictures(path, without=folder)
            source = Source(path, found.names, 0)
            counts = len(found.names), found.ignored
            _logger.info("%s: %d pictures; %d other files are ignored", path, *counts)
    if len(source.names) < 2:
        hint, got = "Give a folder or a video with more.", ", ".join(source.names)
        raise runner.data_error("pictures", "expected two pictures or more", got, hint)
    return source


def pairs_of(config: Any, source: Source) -> list[tuple[str, str]]:
    """The pairs of --pairs, or of --neighbours."""
    if config.pairs is not None:
        if config.neighbours != 1:
            expected = "goes without --pairs"
            raise runner.data_error("neighbours", expected, config.neighbours, "Give one of them.")
        with runner.data_errors():
            pairs, repeated = read_pair_list(config.pairs, source.names)
        for line in repeated:
            _logger.warning(line)
        return pairs
    names, count = source.names, len(source.names)
    reach = config.neighbours or count
    if config.neighbours == 0 and count * (count - 1) // 2 > MAX_PAIRS:
        expected = f"expected at most {MAX_PAIRS} pairs of all pictures"
        hint = "Give the number of following pictures, or a list with --pairs."
        raise runner.data_error("neighbours", expected, f"0 with {count} pictures", hint)
    return [
        (names[i], names[j]) for i in range(count) for j in range(i + 1, min(i + reach + 1, count))
    ]


def intrinsics_of_flag(text: str | None) -> list[np.ndarray]:
    """One or two K (3, 3) of --intrinsics, which is fx,fy,cx,cy once or twice; none without it."""
    if text is None:
        return []
    try:
        values = [float(word) for word in text.split(",")]
        if len(values) not in (4, 8):
            raise ValueError(f"{len(values)} numbers")
    except ValueError as error:
        expected = "expected fx,fy,cx,cy in pixels, once or twice"
        raise runner.data_error(
            "intrinsics", expected, text, "Give e.g. 500,500,319.5,239.5."
        ) from error
    rows = np.reshape(values, (-1, 4))
    return [np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]) for fx, fy, cx, cy in rows]


def _calibrations(
    config: Any, source: Source, names: Collection[str]
) -> tuple[dict[str, Calibration], Calibration | None]:
    """Cameras of some of the pictures that are used, and that of all others; None: a guess."""
    given = intrinsics_of_flag(config.intrinsics)
    if len(given) > 1:
        expected, hint = (
            "expected fx,fy,cx,cy once, of all pictures",
            "cameras.json has them apart.",
        )
        raise runner.data_error("intrinsics", expected, config.intrinsics, hint)
    there = not source.every and (source.path / CAMERAS).exists()
    if given:
        if there:
            _logger.info("--intrinsics is given: %s is not read", source.path / CAMERAS)
        if not source.every:
            _check_one_size(source, names)
        return {}, Calibration(given[0], None)
    if not there:
        _logger.warning(
            "no intrinsics are given: a focal length of 1.2 times the longer side is assumed"
        )
        return {}, None
    with runner.data_errors():
        own, other = read_calibrations(source.path)
    lacking = [name for name in source.names if name in names and name not in own]
    if other is None and lacking:
        name = str(source.path / CAMERAS)
        hint = "Add them, or `intrinsics` beside `images` for all others."
        raise runner.data_error(name, "expected intrinsics of all pictures", lacking[:3], hint)
    return own, other


def _check_one_size(source: Source, names: Collection[str]) -> None:
    """Raises DataError if pictures differ in size: one K cannot belong to all."""
    first: tuple[str, tuple[int, int]] | None = None
    for name in (name for name in source.names if name in names):
        try:
            size = picture_size(source.path / name)
        except ValueError:  # it will be left out
            continue
        first = first or (name, size)
        if size != first[1]:
            expected = "expected pictures of one size, since --intrinsics are of all"
            (a, (h, w)), (height, width) = first, size
            hint = "Give intrinsics and sizes in a cameras.json, or copies of one size."
            got = f"{a} of {w} x {h}, {name} of {width} x {height}"
            raise runner.data_error("intrinsics", expected, got, hint)


def images_of(source: Source, names: set[str]) -> Iterator[tuple[str, np.ndarray | ValueError]]:
    """Names and images of some pictures, in order; the error of a file that cannot be read."""
    if source.every:
        for number, image in read_frames(source.path, source.every):
            if frame_name(number) in names:
                yield frame_name(number), image
        return
    for name in source.names:
        if name in names:
            try:
                yield name, read_rgb(source.path / name)
            except ValueError as error:
                yield name, error


def matched_pictures(
    config: Any, source: Source, pairs: list[tuple[str, str]], shape: tuple[int, int] | None,
    smallest: int = _SMALLEST,
) -> MatchedPictures:  # fmt: skip
    """Reads each picture once, and matches its features with those of pictures before it.

    Descriptors of a picture are kept until its last pair is matched.

    Args:
        config: the settings.
        source: of the pictures.
        pairs: their names.
        shape: (h, w) of the network's input; None without one.
        smallest: side of a picture [px]; smaller ones are left out like unreadable ones.

    Raises:
        DataError: intrinsics that do not belong to a picture, or no pair that can be matched.
    """
    own, other = _calibrations(config, source, {name for pair in pairs for name in pair})
    position = {name: i for i, name in enumerate(source.names)}
    waiting: dict[str, list[int]] = {}  # name -> pairs that are matched once it is read
    last: dict[str, int] = {}  # name -> position after which its descriptors are dropped
    for n, pair in enumerate(pairs):
        end = max(pair, key=position.__getitem__)
        waiting.setdefault(end, []).append(n)
        for name in pair:
            last[name] = max(last.get(name, 0), position[end])
    pictures: dict[str, Picture] = {}
    described: dict[str, Features] = {}
    unreadable: dict[str, str] = {}
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    progress = Progress("pictures are matched", len(last))
    for name, image in images_of(source, set(last)):
        if not isinstance(image, ValueError) and min(image.shape[:2]) < max(smallest, _SMALLEST):
            side = max(smallest, _SMALLEST)
            image = runner.data_error(name, f"expected {side} pixels a side or more",
                                      image.shape[:2], "Give a larger picture.")  # fmt: skip
        if isinstance(image, ValueError):
            unreadable[name] = str(image)
            continue
        camera = own.get(name, other)
        pictures[name], described[name] = _described(name, image, camera, config, shape)
        for n in waiting.get(name, ()):
            if all(one in described for one in pairs[n]):
                found[n] = match_features(*(described[one] for one in pairs[n]))
        for one in [one for one in described if last[one] <= position[name]]:
            del described[one]
        progress(len(pictures) + len(unreadable))
    for name in last.keys() - pictures.keys() - unreadable.keys():
        unreadable[name] = "the video ends before this frame"
    kept = sorted(found)
    left_out = [pair for n, pair in enumerate(pairs) if n not in found]
    for name, why in unreadable.items():
        gone = ", ".join(" ".join(pair) for pair in left_out if name in pair)
        _logger.warning("%s Left out: %s", why, gone)
    if not kept:
        expected = "expected two pictures of a pair that can be read"
        got = f"{len(unreadable)} of {len(last)} that cannot: {', '.join(list(unreadable)[:5])}"
        raise runner.data_error("pictures", expected, got, "The lines before say what is wrong.")
    return MatchedPictures(
        pictures, [pairs[n] for n in kept], [found[n][0] for n in kept],
        [found[n][1] for n in kept], unreadable, left_out,
    )  # fmt: skip


def _described(
    name: str, image: np.ndarray, camera: Calibration | None, config: Any,
    shape: tuple[int, int] | None,
) -> tuple[Picture, Features]:  # fmt: skip
    full = image.shape[0], image.shape[1]
    k = None if camera is None else camera.intrinsics
    if camera is not None and camera.shape not in (None, full):
        assert camera.shape is not None
        with runner.data_errors():
            check_aspect_ratio(name, full, camera.shape)
        k = _resized_intrinsics(camera.intrinsics, camera.shape, full)
    with runner.data_errors():
        k = intrinsics_or_guess(f"intrinsics of {name}", k, image)
    factor = min(1.0, config.longest_side / max(full)) if config.longest_side else 1.0
    reduced = max(1, round(factor * full[0])), max(1, round(factor * full[1]))
    features = find_features(resized(image, reduced))
    picture = Picture(
        full, k, camera is None, reduced, _resized_intrinsics(k, full, reduced), features.points,
        None if shape is None else resized(image, shape),
    )  # fmt: skip
    return picture, features


def _resized_intrinsics(
    k: np.ndarray, before: tuple[int, int], after: tuple[int, int]
) -> np.ndarray:
    if before == after:
        return k
    scaled = resize_intrinsics(k, after[1] / before[1], after[0] / before[0])
    return np.asarray(scaled, float)
