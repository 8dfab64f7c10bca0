"""The reader of pictures: 8 and 16 bits, floats, grey, palettes; EXIF orientation applied."""

import contextlib
import io
import os
import struct
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxcv.checks import argument_error
from jaxcv.io.files import check_file

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["MAX_PIXELS", "open_picture", "picture_size", "read_rgb", "read_stored"]

MAX_PIXELS = 2**27  # 134 million, 400 MB in 8 bits: larger headers are refused
_SIXTEEN = 65535
_DECODERS = (  # exceptions of Pillow's decoders for damaged files
    OSError, SyntaxError, EOFError, IndexError, KeyError, TypeError, ValueError, OverflowError,
    ZeroDivisionError, struct.error,
)  # fmt: skip
_EIGHT = (
    "1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"
)  # fmt: skip


@contextlib.contextmanager
def open_picture(
    source: str | os.PathLike[str] | bytes, name: str | None = None, hint: str = ""
) -> Iterator["Image"]:
    """A Pillow image that is not decoded yet; decoding errors become ValueError.

    Args:
        source: a path, or the bytes of a file.
        name: of the picture in errors; the path by default.
        hint: last sentence of errors.

    Raises:
        ValueError: no regular file, no picture that can be decoded, or more than MAX_PIXELS.
    """
    from PIL import Image, UnidentifiedImageError

    held = isinstance(source, (bytes, bytearray))
    name = _name(source, name)
    expected = "expected a picture that can be read"
    if not held:
        check_file(source, name, hint)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes and of damaged tags: errors follow
            with Image.open(io.BytesIO(source) if held else source) as image:
                width, height = image.size
                if width * height <= MAX_PIXELS:
                    yield image
                    return
    except Image.DecompressionBombError as error:
        expected = f"expected at most {MAX_PIXELS} pixels"
        raise argument_error(name, expected, str(error), hint) from error
    except UnidentifiedImageError as error:
        raise argument_error(name, expected, "a file of another kind", hint) from error
    except _DECODERS as error:
        got = f"{type(error).__name__}: {error}".splitlines()[0]
        raise argument_error(name, expected, got, hint) from error
    raise argument_error(name, f"expected at most {MAX_PIXELS} pixels", f"{width} x {height}", hint)


def read_rgb(
    source: str | os.PathLike[str] | bytes,
    name: str | None = None,
    *,
    background: str | None = None,
    hint: str = "",
) -> np.ndarray:
    """Colours (H, W, 3) in 8 bits of a picture, after its EXIF orientation.

    Grey and palettes become RGB; 16 bits are scaled to 8; floats must lie in [0, 1].

    Args:
        source: a path, or the bytes of a file.
        name: of the picture in errors; the path by default.
        background: colour behind transparent pixels; None: keep the stored colours.
        hint: last sentence of errors.

    Raises:
        ValueError: as `open_picture`, or values of another range or mode.
    """
    from PIL import Image, ImageOps

    with open_picture(source, name, hint) as image:
        name = _name(source, name)
        mode = image.mode
        image = ImageOps.exif_transpose(image)
        if mode in _EIGHT:
            if background is not None:
                flat = Image.new("RGBA", image.size, background)
                flat.alpha_composite(image.convert("RGBA"))
                image = flat
            return np.asarray(image.convert("RGB"))
        values = np.asarray(image)
    if mode.startswith("I"):
        lowest, highest = int(values.min()), int(values.max())
        if lowest < 0 or highest > _SIXTEEN:
            got = f"{lowest} to {highest}"
            raise argument_error(name, "expected values of 16 bits, from 0 to 65535", got, hint)
        grey = np.round(values.astype(np.float64) * (255 / _SIXTEEN))
    elif mode == "F":
        lowest, highest = float(np.min(values)), float(np.max(values))
        if not (lowest >= 0 and highest <= 1):
            got = f"{lowest:g} to {highest:g}"
            raise argument_error(name, "expected floats in [0, 1]", got, "Divide by their white.")
        grey = np.round(values.astype(np.float64) * 255)
    else:
        raise argument_error(name, "expected a picture of 8 or 16 bits, or floats", f"mode {mode}")
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)


def read_stored(
    source: str | os.PathLike[str] | bytes, name: str | None = None, *, hint: str = ""
) -> tuple[np.ndarray, str]:
    """The stored numbers of a picture, e.g. depths in 16 bits, and Pillow's mode."""
    with open_picture(source, name, hint) as image:
        return np.asarray(image), image.mode


def picture_size(
    source: str | os.PathLike[str] | bytes, name: str | None = None, *, hint: str = ""
) -> tuple[int, int]:
    """(H, W) of a picture after its EXIF orientation; reads the header only."""
    with open_picture(source, name, hint) as image:
        width, height = image.size
        return (width, height) if _is_turned(image) else (height, width)


def _name(source: str | os.PathLike[str] | bytes, name: str | None) -> str:
    """The name of a picture in errors."""
    return name or ("picture" if isinstance(source, (bytes, bytearray)) else os.fspath(source))


def _is_turned(image: Any) -> bool:
    """Whether the EXIF orientation exchanges rows and columns."""
    return image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
