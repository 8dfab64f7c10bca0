"""The binary results of the VOT toolkit.

All values are little-endian: an int16 version, 1; a uint32 count n; then n regions, each a uint8
kind and its data::

    0 special     uint32 code
    1 rectangle   4 float32: left, top, width, height [px]
    2 polygon     uint16 m, then 2 m float32: x1, y1, ..., xm, ym [px]
    3 mask        refused

Source: votchallenge/toolkit, vot/region/io.py.
"""

import os
import pathlib
import struct

from jaxcv.checks import argument_error
from jaxcv.io.files import check_file

__all__ = ["read_binary"]

_LARGEST = 2**28  # bytes
_RUN_AGAIN = "Copy the file again, or run the tracker again."
_AS_TEXT = "Results in text are named .txt."


def read_binary(path: str | os.PathLike[str]) -> tuple[list[str], list[list[float]]]:
    """Where the regions of a file stand, and their numbers as in a line of text.

    Returns:
        the place of each region, for errors; and its numbers: 1 is a code, 4 are a rectangle, an
        even count from 6 is a polygon.

    Raises:
        ValueError: another version, a mask, an unknown kind, a polygon of fewer than three points,
            or a file that is cut or goes on after its last region.
    """
    check_file(path)
    name = os.fspath(path)
    try:
        size = os.stat(path).st_size
        content = pathlib.Path(path).read_bytes() if size <= _LARGEST else b""
    except OSError as error:
        got = error.strerror or error
        raise argument_error(name, "expected to read it", got) from error
    if size > _LARGEST:
        raise argument_error(name, f"expected at most {_LARGEST} bytes", size)
    if len(content) < 6:
        expected = "expected a header of 6 bytes (version, number of regions)"
        raise argument_error(name, expected, f"{len(content)} bytes", _RUN_AGAIN)
    version, count = struct.unpack_from("<hI", content)
    if version != 1:
        expected = "expected binary results of the VOT toolkit, which begin with version 1"
        raise argument_error(name, expected, version, _AS_TEXT)

    places: list[str] = []
    regions: list[list[float]] = []
    at = 6
    for i in range(count):  # nothing is allocated for a count that the file does not hold
        place = f"{name}, region {i + 1} of {count} at byte {at}"
        numbers, at = _region(content, at, place)
        places.append(place)
        regions.append(numbers)
    if at != len(content):
        expected = f"expected the end of the file after {count} regions, at byte {at}"
        raise argument_error(name, expected, f"{len(content) - at} bytes more", _RUN_AGAIN)
    return places, regions


def _region(content: bytes, at: int, place: str) -> tuple[list[float], int]:
    """The numbers of the region at a byte, and the byte after it."""

    def take(layout: str) -> tuple:
        nonlocal at
        start, at = at, at + struct.calcsize(layout)
        if at > len(content):
            expected = f"expected bytes up to {at}"
            raise argument_error(place, expected, f"a file of {len(content)}", _RUN_AGAIN)
        return struct.unpack_from(layout, content, start)

    (kind,) = take("<B")
    if kind == 0:
        return [float(take("<I")[0])], at
    if kind == 1:
        return list(take("<4f")), at
    if kind == 2:
        (num_points,) = take("<H")
        if num_points < 3:
            expected = "expected a polygon of three points or more"
            raise argument_error(place, expected, num_points, _RUN_AGAIN)
        return list(take(f"<{2 * num_points}f")), at
    expected = "expected a code (0), a rectangle (1) or a polygon (2)"
    if kind == 3:
        hint = "Write the boxes that hold the masks: masks are not supported."
        raise argument_error(place, expected, "a mask (3)", hint)
    raise argument_error(place, expected, f"the kind {kind}", _RUN_AGAIN)
