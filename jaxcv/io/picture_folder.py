"""Pictures in a folder, and lists of pairs of them.

A list of pairs is text, as COLMAP's `match_list.txt`:

    # comments and blank lines are skipped
    kitchen/a.jpg kitchen/b.jpg
    my photo.jpg other photo.jpg

Two names a line, relative to the folder, with / between folders, apart by white space. Names with
spaces are understood where a line divides in one way only into two names of pictures; a tab
between the names always divides them.
"""

import os
import pathlib
from collections.abc import Collection
from typing import NamedTuple

from jaxcv.checks import argument_error
from jaxcv.io.files import read_text

__all__ = ["SUFFIXES", "PictureFolder", "list_pictures", "read_pair_list"]

SUFFIXES = (
    ".bmp", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"
)  # fmt: skip
_EXPECTED = "expected two names of pictures in a line"


class PictureFolder(NamedTuple):
    """The pictures of a folder.

    Attributes:
        folder: its path.
        names: paths relative to it, with /, sorted as text: `10.jpg` comes before `9.jpg`.
        ignored: number of other files.
    """

    folder: pathlib.Path
    names: tuple[str, ...]
    ignored: int


def list_pictures(
    folder: str | os.PathLike[str], *, without: str | os.PathLike[str] | None = None
) -> PictureFolder:
    """The files in a folder, and in the folders in it, that end as pictures do (`SUFFIXES`).

    Names that begin with a dot are no pictures: other systems leave such files beside photographs.

    Args:
        folder: to look in.
        without: a folder in it that is passed over, e.g. that of results.

    Raises:
        ValueError: no such folder, one that cannot be read, no picture in it, or one whose name is
            not in UTF-8.
    """
    folder, names, ignored = pathlib.Path(folder), [], 0
    if not os.path.isdir(folder):  # False for names that are too long
        got = "a file" if os.path.isfile(folder) else "no such folder"
        raise argument_error(str(folder), "expected a folder of pictures", got)
    apart = None if without is None else os.path.realpath(without)

    def failed(error: OSError) -> None:
        raise argument_error(
            str(error.filename), "expected a folder that can be read", error.strerror
        ) from error

    for parent, inside, files in os.walk(folder, onerror=failed):
        inside[:] = [
            own for own in inside
            if own[0] != "." and os.path.realpath(os.path.join(parent, own)) != apart
        ]  # fmt: skip
        for file in files:
            if file[0] != "." and pathlib.PurePath(file).suffix.lower() in SUFFIXES:
                names.append(_checked(pathlib.Path(parent, file).relative_to(folder).as_posix()))
            else:
                ignored += 1
    if not names:
        expected = f"expected pictures, files that end with {', '.join(SUFFIXES)}"
        raise argument_error(str(folder), expected, f"{ignored} other files")
    return PictureFolder(folder, tuple(sorted(names)), ignored)


def _checked(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise argument_error(
            ascii(name), "expected a name in UTF-8", "others", "Rename the file."
        ) from error
    return name


def read_pair_list(
    path: str | os.PathLike[str], names: Collection[str]
) -> tuple[list[tuple[str, str]], list[str]]:
    """The pairs in a list, in its order, and a sentence for each line that repeats a pair.

    A pair is repeated by the same names in either order; the first line counts.

    Args:
        path: of the list.
        names: of the pictures.

    Raises:
        ValueError: with the line: other than two names, a name of no picture, a picture with
            itself; or a list without pairs.
    """
    known, first, pairs, repeated = set(names), {}, [], []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        where = f"{os.fspath(path)}, line {number}"
        one, other = _names(where, line, known)
        if one == other:
            raise argument_error(where, "expected two different pictures", f"{one!r} twice")
        key = frozenset((one, other))
        if key in first:
            repeated.append(f"{where}: the pair of line {first[key]} again, left out")
            continue
        first[key] = number
        pairs.append((one, other))
    if not pairs:
        raise argument_error(os.fspath(path), f"{_EXPECTED}, once or more", "none")
    return pairs, repeated


def _names(where: str, line: str, known: set[str]) -> tuple[str, str]:
    words = line.split("\t") if "\t" in line else line.split()
    words = [word.strip() for word in words if word.strip()]
    if len(words) != 2 and "\t" not in line and len(words) > 2:
        cuts = [i for i, letter in enumerate(line) if letter.isspace()]
        ways = {(line[:i].strip(), line[i:].strip()) for i in cuts}
        ways = {way for way in ways if known.issuperset(way)}
        if len(ways) > 1:
            expected = "expected names that divide the line in one way only"
            raise argument_error(where, expected, repr(line), "Put a tab between the names.")
        words = next(iter(ways), words)
    if len(words) != 2:
        hint = "Put a tab between names with spaces."
        raise argument_error(where, _EXPECTED, repr(line), hint)
    for word in words:
        if word not in known:
            hint = "Give names as they are in the folder, with those of folders in it."
            raise argument_error(where, "expected the name of a picture", repr(word), hint)
    return words[0], words[1]
