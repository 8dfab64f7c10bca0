"""The tables of a COLMAP model in binary form, little-endian.

    cameras.bin   uint64 count; per camera  uint32 id, int32 model, uint64 width, uint64 height,
                  float64 parameters, as many as the model has
    images.bin    uint64 count; per image   uint32 id, float64 qw qx qy qz tx ty tz,
                  uint32 camera, name and a zero byte, uint64 count of features;
                  per feature  float64 x y, int64 point or -1

Source: COLMAP's documentation of its output format.
"""

import os
import pathlib
import struct

import numpy as np

from jaxcv.checks import argument_error
from jaxcv.io.files import check_file, check_memory

__all__ = ["MODELS", "read_cameras_binary", "read_images_binary"]

# Model -> number of parameters, in the order of their numbers.
MODELS = {
    "SIMPLE_PINHOLE": 3, "PINHOLE": 4, "SIMPLE_RADIAL": 4, "RADIAL": 5, "OPENCV": 8,
    "OPENCV_FISHEYE": 8, "FULL_OPENCV": 12, "FOV": 5, "SIMPLE_RADIAL_FISHEYE": 4,
    "RADIAL_FISHEYE": 5, "THIN_PRISM_FISHEYE": 12,
}  # fmt: skip
_NAMES = tuple(MODELS)
_FEATURE = np.dtype([("x", "<f8"), ("y", "<f8"), ("point", "<i8")])


class _Bytes:
    """Reads a file's bytes in turn; raises ValueError where it ends too early."""

    def __init__(self, path: pathlib.Path, hint: str):
        check_file(path, hint=hint)
        check_memory(str(path), os.stat(path).st_size)
        self.path, self.hint, self.at = path, hint, 0
        self.content = path.read_bytes()

    def error(self, expected: str, got: object) -> ValueError:
        return argument_error(f"{self.path}, byte {self.at}", expected, got, self.hint)

    def part(self, size: int) -> bytes:
        left = len(self.content) - self.at
        if size > left:
            raise self.error(f"expected {size} bytes more", left)
        self.at += size
        return self.content[self.at - size : self.at]

    def values(self, form: str) -> tuple[int, ...]:
        return struct.unpack("<" + form, self.part(struct.calcsize("<" + form)))

    def text(self) -> str:
        end = self.content.find(b"\0", self.at)
        if end < 0:
            raise self.error("expected a name and a zero byte", "the end of the file")
        try:
            out = self.content[self.at : end].decode()
        except UnicodeDecodeError as error:
            raise self.error("expected a name in UTF-8", str(error)) from error
        self.at = end + 1
        return out

    def end(self) -> None:
        if self.at != len(self.content):
            raise self.error("expected the end of the file", f"{len(self.content) - self.at} bytes")


def read_cameras_binary(
    path: pathlib.Path, hint: str = ""
) -> list[tuple[int, str, int, int, np.ndarray]]:
    """Id, model, width, height [px] and parameters of each camera.

    Raises:
        ValueError: a file that is cut or too long, or an unknown model.
    """
    source, out = _Bytes(path, hint), []
    (count,) = source.values("Q")
    for _ in range(count):
        number, model, width, height = source.values("IiQQ")
        if not 0 <= model < len(_NAMES):
            raise source.error(f"expected the number of a model, 0 to {len(_NAMES) - 1}", model)
        name = _NAMES[model]
        params = np.frombuffer(source.part(8 * MODELS[name]), "<f8").astype(float)
        out.append((number, name, width, height, params))
    source.end()
    return out


def read_images_binary(
    path: pathlib.Path, hint: str = ""
) -> list[tuple[int, np.ndarray, np.ndarray, int, str, np.ndarray]]:
    """Id, quaternion (w, x, y, z), translation, camera id, name and ids of its points, per image.

    Raises:
        ValueError: a file that is cut or too long, or a name that is no text.
    """
    source, out = _Bytes(path, hint), []
    (count,) = source.values("Q")
    for _ in range(count):
        (number,) = source.values("I")
        pose = np.array(source.values("7d"))
        (camera,) = source.values("I")
        name = source.text()
        (features,) = source.values("Q")
        points = np.frombuffer(source.part(_FEATURE.itemsize * features), _FEATURE)["point"]
        out.append((number, pose[:4], pose[4:], camera, name, points[points >= 0].astype(np.int64)))
    source.end()
    return out
