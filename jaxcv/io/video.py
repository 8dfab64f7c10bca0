"""Frames of a video file, by OpenCV."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxcv.checks import argument_error, check_count
from jaxcv.io.files import check_file

__all__ = ["count_frames", "frame_name", "read_frames"]


def frame_name(index: int) -> str:
    """The name of a frame, counted from 0, as of a picture: frame_000012.png."""
    return f"frame_{index:06d}.png"


def count_frames(path: str | os.PathLike[str]) -> int:
    """Frames of a video that OpenCV decodes; the count in a file's header is often another.

    Raises:
        ValueError: no regular file, or a file of which OpenCV decodes no frame.
        ImportError: OpenCV is missing.
    """
    count = 0
    with _opened(path) as (_, video):
        while video.grab():
            count += 1
    if not count:
        expected = "expected a video that OpenCV decodes"
        hint = "Convert it, e.g. to H.264 in .mp4, or give a folder of its frames."
        raise argument_error(os.fspath(path), expected, "no frame", hint)
    return count


def read_frames(path: str | os.PathLike[str], every: int = 1) -> Iterator[tuple[int, np.ndarray]]:
    """Number, counted from 0, and colours (H, W, 3) in 8 bits of frames 0, every, 2 every, ...

    Frames are decoded one after the other, because seeking is not exact in many formats. A video
    that is cut off ends where decoding does.

    Raises:
        ValueError: no regular file, or `every` below 1.
        ImportError: OpenCV is missing.
    """
    check_count("every", every)
    number = 0
    with _opened(path) as (cv2, video):
        while video.grab():
            if number % every == 0:
                there, frame = video.retrieve()
                if not there:
                    return
                yield number, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            number += 1


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[Any, Any]]:
    check_file(path)
    try:
        import cv2
    except ImportError as error:
        raise ImportError("videos need cv2: pip install opencv-python-headless") from error
    logging: Any = cv2.utils.logging
    before = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)  # errors here say what is wrong with a file
    try:
        video = cv2.VideoCapture(os.fspath(path))
    finally:
        logging.setLogLevel(before)
    try:
        yield cv2, video
    finally:
        video.release()
