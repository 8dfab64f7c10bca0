"""Reads 1DSfM's landmarks, one folder each: Bundler's cameras, and the edges between them.

    DIR/<landmark>/list.txt          one "name [0 focal]" per line; line k is camera k everywhere
    DIR/<landmark>/gt_bundle.out     Bundler v0.3: "ncams npts", then "f k1 k2", R (3 rows) and T
                                     of each camera; R is zero if it is not registered
    DIR/<landmark>/EGs.txt           one pair "i j R_ij (9) t_ij (3)" per line
    DIR/<landmark>/images/<name>

Bundler's cameras look along -z with y up, P = R X + T; with F = diag(1, -1, -1) they become F R and
F T. In EGs.txt R_ij = R_i R_j^T, and t_ij is the direction of j's centre in i's frame. Labels are
computed from the registered cameras; most edges must agree with their rotations. For comparison,
`edge_labels` computes labels from the edges. Focal lengths are those of gt_bundle.out, principal
points the image centres; distortion is not corrected.

Source: Wilson and Snavely, ECCV 2014, and its data.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from data_prep.posed_images.views import PairList
from jaxcv.checks import argument_error
from jaxcv.geometry import so3
from jaxcv.io.files import read_text
from jaxcv.io.pictures import picture_size
from jaxcv.io.posed_folder import PosedViews, check_views

__all__ = ["edge_labels", "read"]

_HINT = "Fetch the landmark again; data_prep/README.md describes the layout."
_FLIP = np.diag([1.0, -1.0, -1.0])
_AWAY = 20.0  # [deg], largest median difference of the rotations of edges and cameras
_NAMES = ("list.txt", "gt_bundle.out", "EGs.txt")


def _landmarks(folder: pathlib.Path) -> list[pathlib.Path]:
    found = sorted(path.parent for path in folder.glob("*/gt_bundle.out"))
    if not found:
        expected = "expected folders with gt_bundle.out"
        raise argument_error(str(folder), expected, "none", _HINT)
    return found


def files_of(folder: pathlib.Path) -> list[pathlib.Path]:
    """Files hashed into the cache key: the text files, not the images."""
    return [own / name for own in _landmarks(folder) for name in _NAMES]


def read(folder: pathlib.Path) -> tuple[PosedViews, np.ndarray]:
    """All registered views of all landmarks, and the edges (N, 2) between them."""
    parts = [_read(own) for own in _landmarks(folder)]
    first = np.cumsum([0, *(len(views.files) for views, _ in parts)])
    views = PosedViews(
        tuple(file for own, _ in parts for file in own.files),
        tuple(scene for own, _ in parts for scene in own.scenes),
        np.concatenate([own.intrinsics for own, _ in parts]),
        np.concatenate([own.rotation for own, _ in parts]),
        np.concatenate([own.translation for own, _ in parts]),
    )
    check_views(views, str(folder))
    return views, np.concatenate([
        pairs + start for (_, pairs), start in zip(parts, first[:-1], strict=True)
    ])  # fmt: skip


def _read(folder: pathlib.Path) -> tuple[PosedViews, np.ndarray]:
    names = _names(folder / "list.txt")
    focal, rotation, translation = _bundle(folder / "gt_bundle.out", len(names))
    registered = np.flatnonzero(focal > 0)
    if not len(registered):
        raise argument_error(str(folder / "gt_bundle.out"), "expected a registered camera", "none")
    row = np.full(len(names), -1)
    row[registered] = np.arange(len(registered))
    files = tuple(folder / "images" / pathlib.Path(names[k]).name for k in registered)
    k = np.array([_intrinsics(file, f) for file, f in zip(files, focal[registered], strict=True)])
    ends, edges, _ = _edges(folder / "EGs.txt", len(names))
    pairs, turned = row[ends], _FLIP @ rotation[registered]
    views = PosedViews(
        files, (folder.name,) * len(files), k, turned, translation[registered] @ _FLIP
    )
    both = (pairs >= 0).all(axis=1)
    i, j = pairs[both].T
    between = _turned(edges[both]) @ turned[i] @ turned[j].swapaxes(1, 2)
    angles = np.linalg.norm(jax.vmap(so3.log)(jnp.asarray(between)), axis=-1)
    away = np.rad2deg(np.median(angles)) if len(angles) else 0.0
    if away > _AWAY:
        expected = (
            f"expected edges within {_AWAY:g} degrees of the cameras' rotations in the median"
        )
        hint = "R_ij is R_i R_j^T, and line k of list.txt is camera k everywhere."
        raise argument_error(str(folder / "EGs.txt"), expected, f"{away:.1f}", hint)
    return views, pairs[both]


def _turned(edges: np.ndarray) -> np.ndarray:
    """R (N, 3, 3) from the first to the second camera, from R_ij as stored."""
    return _FLIP @ edges.swapaxes(1, 2) @ _FLIP


def _names(path: pathlib.Path) -> list[str]:
    out = []
    for number, line in enumerate(read_text(path, hint=_HINT).splitlines(), 1):
        words = line.split()
        if len(words) not in (1, 3):
            expected = "expected `name` or `name 0 focal`: line k is camera k"
            raise argument_error(f"{path}, line {number}", expected, repr(line), _HINT)
        out.append(words[0])
    return out


def _intrinsics(file: pathlib.Path, focal: float) -> np.ndarray:
    height, width = picture_size(file, hint=_HINT)
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])


def _bundle(path: pathlib.Path, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Focal lengths (C,), R (C, 3, 3), T (C, 3) as stored; focal 0: not registered."""
    lines = [line for line in read_text(path, hint=_HINT).splitlines() if not line.startswith("#")]
    try:
        cameras = int(lines[0].split()[0])
        if cameras != count:
            raise ValueError(f"{cameras} cameras")
        table = [np.array(line.split(), float) for line in lines[1 : 1 + 5 * cameras]]
        rows = np.stack(table).reshape(-1, 5, 3) if table else np.zeros((0, 5, 3))
        if len(rows) != cameras or not np.isfinite(rows).all():
            raise ValueError(f"{len(rows)} whole cameras of finite numbers")
    except (ValueError, IndexError) as error:
        expected = f"expected {count} cameras, as in list.txt, of five lines with three numbers"
        raise argument_error(str(path), expected, str(error), _HINT) from error
    focal = np.where(np.abs(rows[:, 1:4]).sum(axis=(1, 2)) > 0, rows[:, 0, 0], 0.0)
    return focal, rows[:, 1:4], rows[:, 4]


def _edges(path: pathlib.Path, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ends (N, 2), R_ij (N, 3, 3) and t_ij (N, 3) as stored."""
    out = []
    for number, line in enumerate(read_text(path, hint=_HINT).splitlines(), 1):
        try:
            values = np.array(line.split(), float)
            ends = values[:2].astype(int)
            if len(values) != 14 or not np.isfinite(values).all():
                raise ValueError(f"{len(values)} columns")
            if (ends != values[:2]).any() or (ends < 0).any() or (ends >= count).any():
                raise ValueError(f"cameras {values[:2].tolist()} of {count}")
        except (ValueError, IndexError) as error:
            expected = "expected 14 finite numbers: i, j, nine of a rotation, three of a direction"
            raise argument_error(f"{path}, line {number}", expected, str(error), _HINT) from error
        out.append(values)
    table = np.array(out).reshape(-1, 14)
    return table[:, :2].astype(int), table[:, 2:11].reshape(-1, 3, 3), table[:, 11:]


def edge_labels(path: pathlib.Path, count: int) -> PairList:
    """Relative poses of the edges, in the convention of this library.

    R = F R_ij^T F,  t = -R F t_ij / |t_ij|

    Args:
        path: EGs.txt.
        count: number of cameras in list.txt.
    """
    ends, rotation, move = _edges(path, count)
    turned = _turned(rotation)
    direction = -np.einsum("nij,nj->ni", turned, move @ _FLIP)
    length = np.linalg.norm(direction, axis=1, keepdims=True)
    if not (length > 0).all():
        raise argument_error(str(path), "expected non-zero directions", "a zero", _HINT)
    return PairList(ends, turned, direction / length)
