"""TFDS builders of pairs of images with the relative pose of their cameras."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from data_prep._prepare import (
    ArrayRecordBuilder,
    config_name,
    prepare_builder,
    prepare_generated,
    tensor,
)
from data_prep.posed_images import dtu, landmarks
from data_prep.posed_images.views import PairList, labels, pairs_within, read_image
from jaxcv.checks import argument_error, check_choice
from jaxcv.data.synthetic.pose_pairs import PairRanges, generate_pose_pairs
from jaxcv.io.colmap import colmap_files, read_colmap
from jaxcv.io.posed_folder import PosedViews, read_posed_folder

__all__ = [
    "SOURCES", "PosedConfig", "PosedImages", "RenderedConfig", "RenderedPairs", "prepare",
    "prepare_rendered",
]  # fmt: skip


class Layout(NamedTuple):
    """Reads one layout of a folder.

    Attributes:
        read: folder -> its views, and the pairs (N, 2) that it lists, or None.
        files_of: folder -> the files that the prepared data depend on.
        lights: whether both take a light, of `dtu.LIGHTS`, as well.
    """

    read: Callable[..., tuple[PosedViews, Any]]
    files_of: Callable[..., list[pathlib.Path]]
    lights: bool = False


def _layout_of(read: Callable[..., Any], tables: Callable[..., list[pathlib.Path]]) -> Layout:
    """A layout whose data depend on tables and on the images that they name."""
    images = lambda folder: dict.fromkeys(read(folder)[0].files)
    return Layout(read, lambda folder: [*tables(folder), *images(folder)])


SOURCES: dict[str, Layout] = {
    "folder": _layout_of(read_posed_folder, lambda folder: [folder / "cameras.json"]),
    "colmap": _layout_of(read_colmap, colmap_files),
    "dtu": Layout(dtu.read, dtu.files_of, lights=True),
    "landmarks": Layout(landmarks.read, landmarks.files_of),
}
SPLITS = ("train", "test")
ALL = "all"  # instead of the names of test scenes
VIEWS = "views"  # the split of the images; pairs refer to them by number
_SOURCES = ("pose_pairs.py", "stereo.py")  # files that rendered images depend on


class _Pairs(ArrayRecordBuilder):
    """Splits `train` and `test` of pairs, `views` of images; the config has `shape`."""

    SCENES = False  # whether pairs have a scene
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012

    def _info(self) -> tfds.core.DatasetInfo:
        config: Any = self.builder_config
        size = f"{config.shape[0]} x {config.shape[1]} px"
        if getattr(config, "short_side", None):
            size = f"shorter side {config.short_side} px"
        features: dict[str, Any] = {
            "image": tensor((None, None, 3), np.uint8),  # of a view; empty for a pair
            "intrinsics": tensor((3, 3), np.float64),  # of a view [px]
            "name": tfds.features.Text(),
            "views": tensor((2,), np.int64),  # of a pair: numbers in `views`
            "rotation": tensor((3, 3), np.float64),  # x2 = R x1 + t
            "direction": tensor((3,), np.float64),
            "textured": np.bool_,
            "overlap": np.float32,  # nan: not known
        }
        if self.SCENES:
            features["scene"] = tfds.features.Text()  # of both views of a pair
        return tfds.core.DatasetInfo(
            builder=self,
            description=size,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )


def _view(image: np.ndarray, intrinsics: np.ndarray, name: str) -> dict[str, Any]:
    return {
        "image": image, "intrinsics": np.asarray(intrinsics, float), "name": name,
        "views": np.zeros(2, int), "rotation": np.eye(3), "direction": np.zeros(3),
        "textured": True, "overlap": np.float32(np.nan),
    }  # fmt: skip


def _pair(
    ends: Any, rotation: Any, direction: Any, name: str, *, textured: bool = True,
    overlap: float = np.nan,
) -> dict[str, Any]:  # fmt: skip
    return {
        "image": np.zeros((0, 0, 3), np.uint8), "intrinsics": np.eye(3), "name": name,
        "views": np.asarray(ends, np.int64), "rotation": np.asarray(rotation, float),
        "direction": np.asarray(direction, float), "textured": bool(textured),
        "overlap": np.float32(overlap),
    }  # fmt: skip


@dataclasses.dataclass(kw_only=True, eq=False)
class PosedConfig(tfds.core.BuilderConfig):
    """Settings of the pairs of a folder.

    Attributes:
        source: layout of the folder, a key of SOURCES.
        shape: (H, W) that images and K are resized to, each axis by its own factor.
        test_scenes: test scenes (scans, landmarks, or scenes of the folder), or `all`; if empty,
            the last fifth of the views of each scene. Pairs of a training and a test view are left
            out.
        largest_angle: largest angle [rad] between the optical axes, if the folder lists no pairs.
        most_pairs: largest number of training pairs, sampled at random; None: all.
        most_held: largest number of pairs of the other splits; None: `most_pairs`, 0: all.
        valid_scenes: scenes of the split `valid`, which may also be test scenes; all views of the
            other scenes are then trained on or tested. Empty: no such split.
        short_side: shorter side [px] that images are scaled to, with their aspect ratio, instead of
            `shape`; None: `shape`.
        light: light of DTU's images, of `dtu.LIGHTS`.
        splits: splits to keep; empty: all.
    """

    name: str = ""
    source: str = "folder"
    shape: tuple[int, int] = (120, 160)
    test_scenes: tuple[str, ...] = ()
    largest_angle: float = 0.8
    most_pairs: int | None = None
    most_held: int | None = None
    valid_scenes: tuple[str, ...] = ()
    short_side: int | None = None
    light: str = "all"
    splits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks the values, and names the config by a hash of them."""
        check_choice("source", self.source, SOURCES)
        if len(self.shape) != 2 or min(self.shape) < 8:
            raise argument_error("shape", "expected (H, W), 8 pixels a side or more", self.shape)
        if self.most_pairs is not None and self.most_pairs < 1:
            raise argument_error("most_pairs", "expected 1 or more", self.most_pairs)
        if self.short_side is not None and self.short_side < 8:
            raise argument_error("short_side", "expected 8 pixels or more", self.short_side)
        if self.light != "all" and not SOURCES[self.source].lights:
            raise argument_error("light", f"is not read with {self.source!r}", self.light)
        own = (
            self.source, self.shape, self.test_scenes, self.largest_angle, self.most_pairs,
            self.most_held, self.valid_scenes, self.short_side, self.light, self.splits,
        )  # fmt: skip
        self.name = config_name(own)

    @property
    def options(self) -> tuple[str, ...]:
        """What the layout's functions take beside the folder."""
        return (self.light,) if SOURCES[self.source].lights else ()


class PosedImages(_Pairs):
    """Pairs of photographs."""

    SCENES = True
    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES = {"1.1.0": "Pairs have a scene.", "1.0.0": "First release."}  # noqa: RUF012
    MANUAL_DOWNLOAD_INSTRUCTIONS = "See data_prep/README.md for the layouts."

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        config: Any = self.builder_config
        root = pathlib.Path(dl_manager.manual_dir)
        views, named = SOURCES[config.source].read(root, *config.options)
        pairs = labels(views, pairs_within(views, config.largest_angle) if named is None else named)
        if not len(pairs.views):
            expected = "expected one pair or more with a baseline"
            raise argument_error(str(root), expected, f"none of {len(views.files)} views")
        splits = _split(views, pairs, config.test_scenes, config.valid_scenes)
        held = config.most_pairs if config.most_held is None else config.most_held
        rng = np.random.default_rng(0)
        for name, rows in splits.items():
            most = config.most_pairs if name == "train" else held
            if most and len(rows) > most:
                splits[name] = np.sort(rng.choice(rows, most, replace=False))
        splits = {name: rows for name, rows in splits.items() if name in (config.splits or splits)}
        used = np.unique(pairs.views[np.concatenate(list(splits.values()))])
        number = {int(view): k for k, view in enumerate(used)}
        out: dict[str, Any] = {
            name: self._generate_examples(views, pairs, rows, number)
            for name, rows in splits.items()
            if len(rows)
        }
        size = config.short_side or config.shape
        return out | {VIEWS: _images(views, used, root, size)}

    def _generate_examples(self, views: Any, pairs: Any, rows: Any, number: Any) -> Any:
        for key, row in enumerate(rows):
            ends = [int(view) for view in pairs.views[row]]
            name = " ".join(views.files[view].name for view in ends)
            scene = " and ".join(dict.fromkeys(views.scenes[view] for view in ends))
            own = [number[view] for view in ends]
            pair = _pair(own, pairs.rotation[row], pairs.direction[row], name)
            yield key, pair | {"scene": scene}


def _split(
    views: PosedViews,
    pairs: PairList,
    test_scenes: tuple[str, ...],
    valid_scenes: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Indices of the pairs of each split; `train` shares no view with the others.

    Without test scenes, `test` gets all pairs if either split would be empty.
    """
    scenes = np.asarray(views.scenes)
    ends = scenes[pairs.views]
    if test_scenes == (ALL,):
        return {"test": np.arange(len(ends))}
    for name, own in (("test_scenes", test_scenes), ("valid_scenes", valid_scenes)):
        missing = sorted(set(own) - set(ends.ravel().tolist()))
        if missing:
            expected = f"expected scenes among {sorted(set(ends.ravel().tolist()))[:20]}"
            raise argument_error(name, expected, missing)
    if test_scenes:
        test = np.isin(ends, test_scenes)
    else:
        last = np.zeros(len(scenes), bool)
        for scene in dict.fromkeys(views.scenes):
            rows = np.flatnonzero(scenes == scene)
            last[rows[-(len(rows) // 5) :] if len(rows) >= 5 else []] = True
        test = last[pairs.views]
    valid = np.isin(ends, valid_scenes)
    train = ~(test | valid).any(axis=1)
    splits = {"train": np.flatnonzero(train), "test": np.flatnonzero(test.all(axis=1))}
    if valid_scenes:
        splits["valid"] = np.flatnonzero(valid.all(axis=1))
    for split, own in (("test", test_scenes), ("valid", valid_scenes)):
        if own and not len(splits[split]):
            expected = "expected a pair or more between views of these scenes"
            raise argument_error(f"{split}_scenes", expected, f"none of {list(own)}")
    if valid_scenes and not len(splits["train"]):
        expected = "expected other scenes to train on"
        raise argument_error("valid_scenes", expected, f"{list(valid_scenes)} and the test only")
    if not test_scenes and not valid_scenes and not (len(splits["train"]) and len(splits["test"])):
        return {"test": np.arange(len(test))}
    return splits


def _images(views, used, root, shape) -> Iterator[tuple[int, dict[str, Any]]]:
    for key, view in enumerate(used):
        path = views.files[view]
        own = None if views.shapes is None else views.shapes[view]
        image, k = read_image(path, np.asarray(views.intrinsics[view]), shape, own)
        yield key, _view(image, k, path.relative_to(root).as_posix()) | {"scene": ""}


def prepare(
    manual_dir: str | os.PathLike[str],
    cache_dir: str | os.PathLike[str],
    config: PosedConfig | None = None,
) -> PosedImages:
    """A builder prepared from the current files in `manual_dir`.

    Args:
        manual_dir: the folder.
        cache_dir: the folder to prepare in.
        config: settings; None: `PosedConfig()`.

    Raises:
        ValueError: a file is missing or malformed; no complete data set is written.
    """
    config = config or PosedConfig()
    root = pathlib.Path(manual_dir)
    make = lambda data_dir: PosedImages(config=config, data_dir=data_dir)
    files = SOURCES[config.source].files_of(root, *config.options)
    return prepare_builder(make, root, cache_dir, files)


@dataclasses.dataclass(kw_only=True, eq=False)
class RenderedConfig(tfds.core.BuilderConfig):
    """Settings of the rendered pairs.

    Attributes:
        train: number of training pairs.
        test: number of test pairs, of other rooms, textures and intrinsics.
        shape: (H, W).
        textureless: fraction of pairs without texture.
        ranges: ranges of the random quantities.
        seeds: seeds of the training and of the test pairs.
    """

    name: str = ""
    train: int = 4000
    test: int = 400
    shape: tuple[int, int] = (120, 160)
    textureless: float = 0.5
    ranges: PairRanges = PairRanges()  # noqa: RUF009, an immutable value
    seeds: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        """Checks the seeds, and names the config by a hash of its settings."""
        if len(set(self.seeds)) != len(SPLITS):
            expected = "expected two seeds that differ, for training and test"
            raise argument_error("seeds", expected, self.seeds)
        own = (
            self.train, self.test, self.shape, self.textureless, self.ranges, self.seeds
        )  # fmt: skip
        self.name = config_name(own)


class RenderedPairs(_Pairs):
    """Pairs of `jaxcv.data.synthetic.pose_pairs`."""

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        config: Any = self.builder_config
        made = {
            split: generate_pose_pairs(
                seed, getattr(config, split), config.shape, textureless=config.textureless,
                ranges=config.ranges,
            )
            for split, seed in zip(SPLITS, config.seeds, strict=True)
        }  # fmt: skip
        first = {"train": 0, "test": 2 * config.train}
        pairs: dict[str, Any] = {
            split: self._generate_examples(made[split], first[split]) for split in SPLITS
        }
        return pairs | {VIEWS: _rendered(made)}

    def _generate_examples(self, pairs: Any, first: int) -> Any:
        for i in range(len(pairs.rotation)):
            ends = first + 2 * i, first + 2 * i + 1
            yield i, _pair(
                ends, pairs.rotation[i], pairs.direction[i], f"pair {i}",
                textured=pairs.textured[i], overlap=pairs.overlap[i],
            )  # fmt: skip


def _rendered(made: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    key = 0
    for split in SPLITS:
        pairs = made[split]
        for i in range(len(pairs.rotation)):
            for image, k in (
                (pairs.first[i], pairs.intrinsics1[i]), (pairs.second[i], pairs.intrinsics2[i])
            ):  # fmt: skip
                yield key, _view(image, k, f"{split} pair {i}")
                key += 1


def prepare_rendered(
    cache_dir: str | os.PathLike[str], config: RenderedConfig | None = None
) -> RenderedPairs:
    """A builder of rendered pairs; the cache is keyed by the rendering code.

    Args:
        cache_dir: the folder to prepare in.
        config: settings; None: `RenderedConfig()`.
    """
    config = config or RenderedConfig()
    make = lambda data_dir: RenderedPairs(config=config, data_dir=data_dir)
    return prepare_generated(make, cache_dir, _SOURCES)
