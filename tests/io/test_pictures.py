"""Every kind of picture is read alike, and what is none is refused in one line."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxcv.io.pictures import picture_size, read_rgb, read_stored

RAMP = np.round(np.linspace(0, 255, 24)).astype(np.uint8)
GREY = np.tile(RAMP, (6, 1))


def saved(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "pgm", "tif"])
def test_sixteen_bits_are_brought_to_eight(tmp_path, suffix):
    path = saved(tmp_path / f"a.{suffix}", GREY.astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_rgb(path), np.repeat(GREY[..., None], 3, -1))
    stored, mode = read_stored(path)
    np.testing.assert_array_equal(stored, GREY.astype(int) * 257)
    assert mode.startswith("I")


def test_floats_are_of_zero_to_one(tmp_path):
    path = saved(tmp_path / "a.tif", GREY.astype(np.float32) / 255)
    np.testing.assert_array_equal(read_rgb(path)[..., 1], GREY)
    with pytest.raises(ValueError, match=r"expected floats in \[0, 1\], got 0 to 255"):
        read_rgb(saved(tmp_path / "b.tif", GREY.astype(np.float32)))
    with pytest.raises(ValueError, match=r"expected floats in \[0, 1\], got nan"):
        read_rgb(saved(tmp_path / "c.tif", np.full((2, 2), np.nan, np.float32)))
    with pytest.raises(ValueError, match="expected values of 16 bits"):
        read_rgb(saved(tmp_path / "d.tif", np.full((2, 2), 10**6, np.int32)))


def test_modes_of_eight_bits(tmp_path):
    colours = np.stack([GREY, GREY[:, ::-1], 255 - GREY // 2], axis=-1)
    np.testing.assert_array_equal(read_rgb(saved(tmp_path / "a.png", colours)), colours)
    Image.fromarray(GREY).convert("P").save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "p.png")[..., 2], GREY)
    Image.fromarray(GREY > 100).save(tmp_path / "1.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "1.png")[..., 0], 255 * (GREY > 100))
    clear = np.dstack([colours, np.zeros_like(GREY)])
    path = saved(tmp_path / "clear.png", clear)
    np.testing.assert_array_equal(read_rgb(path), colours)
    assert (read_rgb(path, background="white") == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_viewers_do(tmp_path, orientation):
    ways = {
        1: lambda x: x, 2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 4: lambda x: x[::-1],
        5: lambda x: x.T, 6: lambda x: np.rot90(x), 7: lambda x: x[::-1, ::-1].T,
        8: lambda x: np.rot90(x, -1),
    }  # fmt: skip
    seen = GREY.copy()
    seen[0, 0] = 255  # so that no two ways look alike
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    Image.fromarray(np.ascontiguousarray(ways[orientation](seen))).save(path, exif=exif)
    np.testing.assert_array_equal(read_rgb(path)[..., 0], seen)
    assert picture_size(path) == seen.shape


def claims(width, height):
    """A PNG of a few bytes whose header claims a size."""
    chunk = lambda kind, data: (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0"))


@pytest.mark.parametrize("size", [(50_000, 50_000), (12_000, 12_000), (2**31 - 1, 2)])
def test_a_picture_that_claims_too_much_is_not_allocated(tmp_path, size):
    (tmp_path / "a.png").write_bytes(claims(*size))
    for read in (read_rgb, read_stored, picture_size):
        with pytest.raises(ValueError, match=r"a\.png`: expected at most 134217728 pixels"):
            read(tmp_path / "a.png")


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match=r"pipe\.png`: .* no regular file"):
        read_rgb(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match=r"none\.png`: .* got no such file\. Look\."):
        read_rgb(tmp_path / "none.png", hint="Look.")
    with pytest.raises(ValueError, match=r"^`pair 3`: .* a file of another kind"):
        read_rgb(b"GIF", "pair 3")


KINDS = {}
for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM"):
    buffer = io.BytesIO()
    Image.fromarray(np.repeat(GREY[..., None], 3, -1)).save(buffer, kind)
    KINDS[kind] = buffer.getvalue()


@settings(max_examples=300)
@given(kind=st.sampled_from(sorted(KINDS)), data=st.data())
def test_changed_pictures_are_read_or_refused_in_one_line(kind, data):
    whole = bytearray(KINDS[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        if data.draw(st.booleans()):
            whole[at] = data.draw(st.integers(0, 255))
        else:
            whole = whole[: max(1, at)]
    try:
        found, message = read_rgb(bytes(whole), "it"), ""
    except ValueError as error:
        found, message = np.zeros((1, 1, 3), np.uint8), str(error)
    assert "\n" not in message
    assert message.startswith("`it`: expected") or not message
    assert found.dtype == np.uint8
    assert found.shape[2:] == (3,)
