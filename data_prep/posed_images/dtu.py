"""Reads DTU's robot images: rectified or cleaned views of many scans from 49 or 64 viewpoints.

    DIR/Calibration/cal18/pos_NNN.txt                 P (3 x 4) of viewpoint NNN, from 1
    DIR/Rectified/scanS/rect_NNN_L_r5000.png          light L, 0 to 6 or max; or
    DIR/Cleaned/scanS/clean_NNN_max.png
    DIR/pairs.txt                                     one "id1 id2 ..." per line; optional

`pairs.txt` may be a list of Melekhov et al. (three heading lines, then id1 id2 scan and seven
numbers). Only its ids are used: its translations are R_i R_j^T (C_i - C_j) with centres in world
axes, in the median 97 degrees off the direction between the two images. Without the file, pairs
are the viewpoints whose frusta, cut off at `FAR` mm, intersect. For 49 viewpoints these are 511
pairs, of which 399 are among the authors' 512. Their rule is unknown, and no near or far plane
reproduces their set.

Source: Jensen et al., CVPR 2014; the lists of Melekhov et al. 2017.
"""

import itertools
import pathlib
import re

import numpy as np

from data_prep.posed_images.frustum import frusta_intersect
from jaxcv.checks import argument_error, check_choice
from jaxcv.io.files import read_text
from jaxcv.io.posed_folder import PosedViews, check_views

__all__ = ["FAR", "LIGHTS", "SHAPE", "decomposed", "read", "read_pairs", "read_places"]

LIGHTS = ("all", "0", "1", "2", "3", "4", "5", "6", "max")
SHAPE = (1200, 1600)  # (H, W) of the images [px]
FAR = 340.0  # [mm] along the optical axis
_HINT = "data_prep/README.md describes the layout."
_IMAGE = re.compile(r"(?:rect|clean)_(\d{3})_(\d|max)(?:_r5000)?\.png")


def files_of(folder: pathlib.Path, light: str = "all") -> list[pathlib.Path]:
    """Files hashed into the cache key; `light` is one of LIGHTS."""
    listed = [folder / "pairs.txt"] if (folder / "pairs.txt").is_file() else []
    return [*_calibrations(folder), *listed, *_images(folder, light)]


def _calibrations(folder: pathlib.Path) -> list[pathlib.Path]:
    found = sorted((folder / "Calibration" / "cal18").glob("pos_*.txt"))
    if not found:
        expected = "expected Calibration/cal18/pos_001.txt, pos_002.txt, ..."
        raise argument_error(str(folder), expected, "none", _HINT)
    return found


def _images(folder: pathlib.Path, light: str) -> list[pathlib.Path]:
    check_choice("light", light, LIGHTS)
    every = sorted(
        path
        for kind in ("Rectified", "Cleaned")
        for path in (folder / kind).glob("scan*/*.png")
        if _IMAGE.fullmatch(path.name)
    )
    lights = {path: _named(path)[2] for path in every}
    found = [path for path in every if light in ("all", lights[path])]
    if every and not found:
        raise argument_error("light", f"expected one of {sorted(set(lights.values()))}", light)
    if not found:
        expected = "expected Rectified/scan<n>/rect_<viewpoint>_<light>_r5000.png or Cleaned/..."
        raise argument_error(str(folder), expected, "none", _HINT)
    return found


def decomposed(projection: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decomposes P = s K [R | T] (3, 4) into K (3, 3) with diagonal > 0, R (3, 3) and T (3,)."""
    from scipy.linalg import rq

    k, rotation = rq(projection[:, :3])
    signs = np.diag(np.sign(np.diag(k)))
    k, rotation = k @ signs, signs @ rotation
    scale = k[2, 2]
    translation = np.linalg.solve(k, projection[:, 3])
    if np.linalg.det(rotation) < 0:  # P is known up to its sign
        rotation, translation = -rotation, -translation
    k = np.triu(k / scale)
    k[2, 2] = 1
    return k, rotation, translation


def read_places(folder: pathlib.Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """K (P, 3, 3), R (P, 3, 3) and T (P, 3) [mm] of the viewpoints, in order."""
    out = []
    for number, path in enumerate(_calibrations(folder), 1):
        try:
            values = np.array(read_text(path).split(), float)
            if path.name != f"pos_{number:03d}.txt" or len(values) != 12:
                raise ValueError(f"{path.name} with {len(values)} numbers")
            if not np.isfinite(values).all() or np.linalg.matrix_rank(values.reshape(3, 4)) < 3:
                raise ValueError("no projection")
        except ValueError as error:
            expected = f"expected pos_{number:03d}.txt with 12 finite numbers of a 3 x 4 projection"
            raise argument_error(str(path), expected, str(error), _HINT) from error
        out.append(decomposed(values.reshape(3, 4)))
    k, rotation, translation = (np.stack(part) for part in zip(*out, strict=True))
    return k, rotation, translation


def read_pairs(path: pathlib.Path, places: int) -> np.ndarray:
    """Distinct pairs (N, 2) of viewpoints, from 0; the file has two columns or the authors' ten."""
    out = []
    for number, line in enumerate(read_text(path, hint=_HINT).splitlines(), 1):
        if line.startswith("-") or not line.strip():  # the authors' heading
            continue
        words = line.split()
        try:
            ends = int(words[0]) - 1, int(words[1]) - 1
            if len(words) not in (2, 10):
                raise ValueError(f"{len(words)} columns")
            if ends[0] == ends[1] or not all(0 <= end < places for end in ends):
                raise ValueError(f"viewpoints {words[:2]} of {places}")
        except (ValueError, IndexError) as error:
            expected = "expected `id1 id2`, or `id1 id2 scan` and seven numbers, ids from 1 on"
            raise argument_error(f"{path}, line {number}", expected, str(error), _HINT) from error
        out.append(ends)
    return np.array(list(dict.fromkeys(out)), int).reshape(-1, 2)


def _named(path: pathlib.Path) -> re.Match[str]:
    match = _IMAGE.fullmatch(path.name)
    assert match is not None
    return match


def read(folder: pathlib.Path, light: str = "all") -> tuple[PosedViews, np.ndarray]:
    """The views of all scans, and the pairs (N, 2), each of one scan and light.

    Args:
        folder: in the layout of the module.
        light: one of LIGHTS. With `all`, every light of a scan has pairs of its own.
    """
    k, rotation, translation = read_places(folder)
    paths = _images(folder, light)
    named = [_named(path) for path in paths]
    place = np.array([int(match[1]) - 1 for match in named])
    lights = [match[2] for match in named]
    if place.max() >= len(k):
        expected = f"expected viewpoints up to {len(k)}, the number of calibrations"
        raise argument_error(str(paths[place.argmax()]), expected, int(place.max()) + 1, _HINT)
    listed = folder / "pairs.txt"
    if listed.is_file():
        pairs = read_pairs(listed, len(k))
    else:
        pairs = frusta_intersect(k, rotation, translation, SHAPE, far=FAR)
    scenes = tuple(path.parent.name for path in paths)
    shapes = np.tile(SHAPE, (len(paths), 1))
    views = PosedViews(tuple(paths), scenes, k[place], rotation[place], translation[place], shapes)
    check_views(views, str(folder))
    row = {key: i for i, key in enumerate(zip(scenes, lights, place.tolist(), strict=True))}
    groups = dict.fromkeys(zip(scenes, lights, strict=True))
    out = [
        (row[(*group, i)], row[(*group, j)])
        for group, (i, j) in itertools.product(groups, pairs.tolist())
        if (*group, i) in row and (*group, j) in row
    ]
    return views, np.array(out, int).reshape(-1, 2)
