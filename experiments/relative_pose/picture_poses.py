"""Predictions on --pictures: poses of their pairs, a table, figures and a database of COLMAP."""

import json
import logging
import pathlib
import re
from typing import Any

import numpy as np

from experiments import runner
from experiments.relative_pose import colmap_export
from experiments.relative_pose import pictures as reading
from experiments.relative_pose.colmap_export import SURE
from experiments.relative_pose.pair_figure import INLIER, draw_pair
from experiments.relative_pose.pair_table import write_table
from jaxcv.io.networks import Model
from jaxcv.models.relative_pose import least_side
from jaxcv.systems import RelativePose
from jaxcv.systems.pair_poses import inlier_weights, poses_of_matches
from jaxcv.systems.two_view import resized

__all__ = ["predict_pictures"]

_logger = logging.getLogger(__name__)


def predict_pictures(config: Any, model: Model | None, folder: pathlib.Path) -> None:
    """Writes pairs.csv, pairs.json, figures/ and, with --export=colmap, database.db.

    Args:
        config: the settings.
        model: of a training; None: matches only.
        folder: to write.

    Raises:
        DataError: a wrong flag or file; or, after everything is written, pictures that could not
            be read, which the message names.
    """
    source = reading.open_source(config, folder)
    pairs = reading.pairs_of(config, source)
    if config.export == "colmap":
        colmap_export.check(source, {name for pair in pairs for name in pair})
    shape, smallest = None, 0
    if model is not None:
        shape, network = model.settings["shape"], model.settings["network"]
        smallest = least_side(network.net, network.trunk)
    try:
        matched = reading.matched_pictures(config, source, pairs, shape, smallest)
    except ImportError as error:
        raise runner.DataError(str(error)) from error
    _logger.info("%d pairs of %d pictures", len(matched.pairs), len(matched.pictures))
    if config.export == "colmap":
        colmap_export.check_cameras(matched)
    poses = _poses(config, model, matched)
    weights = [_weights(matched, poses, i) for i in range(len(poses))]
    drawn = chosen(poses, config.figures)
    names = figure_names([matched.pairs[i] for i in drawn])
    files = dict(zip(drawn, names, strict=True))
    _remove_old_figures(folder, set(names))
    write_table(
        folder, matched, poses, [int((own >= INLIER).sum()) for own in weights],
        [f"figures/{files[i]}" if i in files else None for i in range(len(poses))],
        {"pictures": str(source.path), "run": None if model is None else str(model.card["run"])},
    )  # fmt: skip
    if config.export == "colmap":
        colmap_export.write(folder, source, matched, poses, weights)
    with runner.data_errors():
        _draw(folder, source, matched, poses, weights, files)
    print(_summary(config, folder, matched, poses, len(drawn)))
    if matched.unreadable:
        count, gone = len(matched.unreadable), ", ".join(list(matched.unreadable)[:5])
        more = ", ..." if count > 5 else ""
        hint = f"{folder / 'pairs.csv'} has the other {len(poses)} pairs."
        raise runner.data_error(
            "pictures", "expected pictures that can be read",
            f"{count} that cannot ({gone}{more}), in {len(matched.left_out)} pairs", hint,
        )  # fmt: skip


def _poses(config: Any, model: Model | None, matched: reading.MatchedPictures) -> list[Any]:
    first, second = ([matched.pictures[pair[n]] for pair in matched.pairs] for n in range(2))
    more = {}
    if model is not None:
        settings = {name: model.settings[name] for name in ("network", "head")}
        more = {
            "params": model.params, **settings,
            "first": [own.small for own in first], "second": [own.small for own in second],
        }  # fmt: skip
    return poses_of_matches(
        [matched.matches(i) for i in range(len(matched.pairs))],
        [own.reduced_intrinsics for own in first], [own.reduced_intrinsics for own in second],
        seed=config.seed, report=reading.Progress("pairs have poses", len(matched.pairs)), **more,
    )  # fmt: skip


def _weights(matched: reading.MatchedPictures, poses: list[Any], i: int) -> np.ndarray:
    first, second = (matched.pictures[name] for name in matched.pairs[i])
    return inlier_weights(
        poses[i], matched.matches(i), first.reduced_intrinsics, second.reduced_intrinsics
    )


def chosen(poses: list[RelativePose], count: int) -> list[int]:
    """Pairs to draw: ranks of the confidence at equal distances, the highest and lowest among them.

    Of equal confidences, the pair with more matches comes first.
    """
    order = sorted(
        range(len(poses)), key=lambda i: (-float(poses[i].confidence), -int(poses[i].matches), i)
    )
    ranks = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
    return [order[rank] for rank in ranks]


def figure_names(pairs: list[tuple[str, str]]) -> list[str]:
    """File names <first>__<second>.png that differ, also where capitals do not count.

    The suffixes of both names are left out, and all but the last 40 letters.
    """
    used: set[str] = set()
    out = []
    for pair in pairs:
        bare = [str(pathlib.PurePosixPath(name).with_suffix("")) for name in pair]
        plain = "__".join(re.sub(r"[^\w.+-]", "_", name)[-40:] for name in bare)
        name, number = plain, 1
        while name.lower() in used:
            number += 1
            name = f"{plain}-{number}"
        used.add(name.lower())
        out.append(f"{name}.png")
    return out


def _remove_old_figures(folder: pathlib.Path, names: set[str]) -> None:
    """Removes figures that an earlier call of the same command listed in pairs.json."""
    try:
        rows = json.loads((folder / "pairs.json").read_text())["pairs"]
        before = {pathlib.PurePosixPath(str(row["figure"])).name for row in rows if row["figure"]}
    except (OSError, ValueError, KeyError, TypeError):
        return
    for name in before - names:
        (folder / "figures" / name).unlink(missing_ok=True)


def _draw(
    folder: pathlib.Path, source: reading.Source, matched: reading.MatchedPictures,
    poses: list[Any], weights: list[np.ndarray], files: dict[int, str],
) -> None:  # fmt: skip
    """Draws pairs as soon as both of their pictures are read; each picture is read once."""
    waiting = {i: set(matched.pairs[i]) for i in files}
    images: dict[str, np.ndarray] = {}
    wanted = {name for pair in waiting.values() for name in pair}
    for name, image in reading.images_of(source, wanted):
        if isinstance(image, ValueError):  # changed since it was matched
            _logger.warning("%s", image)
            continue
        images[name] = resized(image, matched.pictures[name].reduced)
        ready = [i for i, names in waiting.items() if names <= images.keys()]
        for i in ready:
            del waiting[i]
            first, second = matched.pairs[i]
            own = matched.pictures[first], matched.pictures[second]
            figure = draw_pair(
                (first, second), (images[first], images[second]), matched.matches(i), weights[i],
                poses[i], (own[0].reduced_intrinsics, own[1].reduced_intrinsics),
            )  # fmt: skip
            runner.save_figures([(files[i], figure)], folder / "figures")
        needed = {one for names in waiting.values() for one in names}
        images = {one: image for one, image in images.items() if one in needed}


def _summary(
    config: Any, folder: pathlib.Path, matched: reading.MatchedPictures, poses: list[Any],
    drawn: int,
) -> str:  # fmt: skip
    confidence = np.array([float(pose.confidence) for pose in poses])
    sure = int((confidence >= SURE).sum())
    lines = [
        f"{len(poses)} pairs of {len(matched.pictures)} pictures: {sure} with "
        f"confidence {SURE} or more, median {np.median(confidence):.2f}",
        f"table: {folder / 'pairs.csv'} (and pairs.json); {drawn} figures: {folder / 'figures'}",
    ]
    if config.export == "colmap":
        lines.append(f"COLMAP: {folder / colmap_export.DATABASE}")
    return "\n".join(lines)
