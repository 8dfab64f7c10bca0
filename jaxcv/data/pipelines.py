"""Readers of prepared data sets: from a TFDS data source to the batches of this library.

The builders in `data_prep` write array_record files; these are read here with random access,
without TensorFlow.
"""

import collections
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxcv.checks import argument_error
from jaxcv.data.graphics import FACTORS, FactorBatches, FactorImages, check_batches
from jaxcv.data.hand import NYU_JOINTS, HandFrames
from jaxcv.data.hand import check_frames as check_hand_frames
from jaxcv.data.human_pose import PoseFrames, check_frames
from jaxcv.data.relative_pose import Gathered, PosePairs, RaggedImages, check_pose_pairs
from jaxcv.data.stereo import (
    StereoPairs,
    check_pairs,
    decode_image,
    resize_pair,
    unit_baseline,
)
from jaxcv.data.tracker_fusion import TrackerSequences, pad_sequences
from jaxcv.io.prepared import builder_of, open_prepared, splits_of

__all__ = [
    "load_factor_batches",
    "load_factor_images",
    "load_hand_frames",
    "load_pair_scenes",
    "load_pose_frames",
    "load_pose_pairs",
    "load_stereo_pairs",
    "load_tracker_sequences",
]  # fmt: skip

_logger = logging.getLogger(__name__)

_TRACKER_FEATURES = ("name", "trackers", "ground_truth", "boxes", "reported")


def load_tracker_sequences(
    source: Any, *, split: str = "test", dtype: Any = np.float32
) -> TrackerSequences:
    """All sequences of a prepared tracker-fusion data set, in stored order.

    Each example is one sequence of T frames and K trackers: `name`, `trackers` (K names),
    `ground_truth` (T, 4), `boxes` (T, K, 4), corners x1, y1, x2, y2 [px], and `reported` (T, K).

    Args:
        source: a prepared TFDS builder, its folder (with `dataset_info.json`), or a data source or
            other sequence of such examples.
        split: the split to read, if `source` is a builder or a folder.
        dtype: of the boxes, float32 or float64.

    Returns:
        Checked `TrackerSequences`, padded to the longest sequence.

    Raises:
        ValueError: the folder holds no prepared data set, an example lacks a feature, the
            trackers differ between sequences, or the values break a rule of `check_sequences`.
    """
    source = open_prepared(source, split)
    trackers, names, truths, boxes, reported = None, [], [], [], []
    for i in range(len(source)):
        example = source[i]
        missing = [name for name in _TRACKER_FEATURES if name not in example]
        if missing:
            hint = "The data set must hold tracker results, as `VotResults` writes them."
            raise argument_error(f"source[{i}]", f"expected {missing}", list(example), hint)
        name, these = _text(example["name"]), tuple(_text(x) for x in example["trackers"])
        if trackers is None:
            trackers = these
        if these != trackers:
            expected = f"expected the trackers of the first sequence, {trackers}"
            hint = "Keep only the trackers that ran on all sequences."
            raise argument_error(f"source[{i}] ({name!r})", expected, these, hint)
        names.append(name)
        truths.append(np.asarray(example["ground_truth"]))
        boxes.append(np.asarray(example["boxes"]))
        reported.append(np.asarray(example["reported"], bool))
    return pad_sequences(names, trackers or (), truths, boxes, reported, dtype=dtype)


def load_pose_frames(source: Any, *, stride: int = 1) -> PoseFrames:
    """Frames of all splits of a prepared human-pose data set, in stored order.

    Each example is one recording of T frames: `subject`, `action`, `points` (T, V, 17, 2) [px],
    `visible` (T, V, 17), `joints` (T, 17, 3) [mm], `cameras` (V, 3, 3) world to camera.

    Args:
        source: a prepared TFDS builder, its folder, or a sequence of such examples.
        stride: keeps every stride-th frame of a recording, from its first.

    Raises:
        ValueError: no prepared data set, an example that lacks a feature, or values that break a
            rule of `check_frames`.
    """
    if stride < 1:
        raise argument_error("stride", "expected 1 or more", stride)
    splits = splits_of(source)
    if splits:
        examples = [
            x for split in sorted(splits, reverse=True) for x in open_prepared(source, split)
        ]
    else:
        examples = source if isinstance(source, list) else list(open_prepared(source, "train"))
    needed = ("subject", "action", "points", "visible", "joints", "cameras")
    parts, cameras = [], {}
    actions = sorted({_text(x["action"]) for x in examples if "action" in x})
    for i, example in enumerate(examples):
        missing = [name for name in needed if name not in example]
        if missing:
            raise argument_error(f"source[{i}]", f"expected {missing}", list(example))
        subject = _text(example["subject"])
        cameras.setdefault(subject, np.asarray(example["cameras"]))
        keep = [np.asarray(example[name])[::stride] for name in ("points", "visible", "joints")]
        index = list(cameras).index(subject), actions.index(_text(example["action"]))
        parts.append((*keep, *(np.full(len(keep[0]), x) for x in index)))
    if not parts:
        raise argument_error("source", "expected one recording or more", "none")
    points, visible, joints, subject, action = map(np.concatenate, zip(*parts, strict=True))
    frames = PoseFrames(
        points, visible.astype(bool), joints, np.stack(list(cameras.values())), subject, action,
        tuple(cameras), tuple(actions),
    )  # fmt: skip
    check_frames(frames)
    return frames


def load_stereo_pairs(
    source: Any, *, split: str = "test", shape: tuple[int, int] = (192, 256)
) -> StereoPairs:
    """All pairs of a prepared two-view data set, at one size and in units of the baseline.

    Skips pairs from two cameras (K that differ by more than 0.01 px) and pairs without any depth; a
    warning counts them.

    Each example has `target` and `source` (encoded images), `depth` (H, W), `intrinsics`
    (2, 3, 3) [px] of both and `motion` (4, 4), target to source.

    Args:
        source: a prepared TFDS builder, its folder, or a sequence of such examples.
        split: the split to read, if `source` is a builder or a folder.
        shape: (H, W) to which images, depths and K are resized.

    Raises:
        ValueError: no prepared data set, an example that lacks a feature, no usable pair, or values
            that break a rule of `check_pairs`.
    """
    source, parts, left_out = open_prepared(source, split), [], collections.Counter()
    for i in range(len(source)):
        example = source[i]
        missing = [
            n for n in ("target", "source", "depth", "intrinsics", "motion") if n not in example
        ]
        if missing:
            raise argument_error(f"source[{i}]", f"expected {missing}", list(example))
        name = f"source[{i}] ({_text(example.get('name', ''))})"
        k = np.asarray(example["intrinsics"])
        depth = np.asarray(example["depth"], float)[None]
        two_cameras, unknown = np.abs(k[0] - k[1]).max() > 0.01, np.isnan(depth).all()
        if two_cameras or unknown:
            left_out["two cameras" if two_cameras else "no depth"] += 1
            continue
        images = [decode_image(name, example[key])[None] for key in ("target", "source")]
        pair = StereoPairs(images[0], images[1], k[:1], np.asarray(example["motion"])[None], depth)
        check_pairs(pair, name)
        parts.append(resize_pair(pair, shape))
    if left_out:
        _logger.warning("left out of %d pairs: %s", len(source), dict(left_out))
    if not parts:
        expected = "expected a pair or more of one camera and with a depth"
        raise argument_error("source", expected, dict(left_out) or "none")
    joined = StereoPairs(*(np.concatenate(leaves) for leaves in zip(*parts, strict=True)))
    return unit_baseline(joined)


def load_hand_frames(
    source: Any, *, split: str = "test", at_once: int = 256
) -> Iterator[HandFrames]:
    """Yields the frames of a prepared data set of hands in chunks, which fit in memory.

    Each example has `depth` (H, W) [mm], `color` (H, W, 3), `joints` (36, 3) [mm] in NYU's order,
    reduced to the fourteen scored joints, `intrinsics` (3, 3) and `subject`.

    Args:
        source: a prepared TFDS builder, its folder, or a sequence of such examples.
        split: the split to read, if `source` is a builder or a folder.
        at_once: frames per chunk.

    Raises:
        ValueError: no prepared data set, an example that lacks a feature, or values that break a
            rule of `jaxcv.data.hand.check_frames`.
    """
    source = open_prepared(source, split)
    for i in range(0, len(source), at_once):
        examples = [source[j] for j in range(i, min(i + at_once, len(source)))]
        for j, example in enumerate(examples):
            missing = [n for n in HandFrames._fields if n not in example]
            if missing:
                raise argument_error(f"source[{i + j}]", f"expected {missing}", list(example))
        columns = {n: np.stack([np.asarray(e[n]) for e in examples]) for n in HandFrames._fields}
        frames = HandFrames(**columns | {"joints": columns["joints"][:, list(NYU_JOINTS)]})
        check_hand_frames(frames, f"source[{i}:{i + len(examples)}]")
        yield frames


def load_factor_batches(source: Any, *, split: str = "train") -> FactorBatches:
    """The batches of a prepared data set; within each batch one factor varies.

    Each example has `images` (B, S, S) uint8, `kind` and `factors` (B, F): azimuth, elevation,
    light and identity of faces, or azimuth, elevation and identity of chairs, whose elevation
    varies with the identity.

    Args:
        source: a prepared TFDS builder, its folder, or a sequence of such examples.
        split: the split to read, if `source` is a builder or a folder.

    Raises:
        ValueError: no prepared data set, an example that lacks a feature, or values that break a
            rule of `jaxcv.data.graphics.check_batches`.
    """
    images, kind, factors, names, entries = _factor_examples(source, split)
    batches = FactorBatches(images, kind.astype(int), factors, names, entries)
    check_batches(batches, "source")
    return batches


def load_factor_images(source: Any, *, split: str = "factors") -> FactorImages:
    """The images of a prepared data set in which all factors vary.

    The arguments and errors are those of `load_factor_batches`.
    """
    images, _, factors, names, _ = _factor_examples(source, split)
    flat = lambda x: x.reshape(-1, *x.shape[2:])
    return FactorImages(flat(images), flat(factors), names)


def _factor_examples(source: Any, split: str) -> tuple[Any, Any, Any, tuple[str, ...], int]:
    """Images, kinds, factors and factor names of all examples, and `entries` of `FACTORS`."""
    columns = _columns(open_prepared(source, split), ("images", "kind", "factors"), "source")
    images, kind, factors = columns["images"], columns["kind"], columns["factors"]
    count = factors.shape[-1]
    if count not in FACTORS:
        raise argument_error("source[0]['factors']", "expected three factors or four", count)
    return images, kind, factors, *FACTORS[count]


def load_pose_pairs(source: Any, *, split: str = "train") -> PosePairs:
    """The pairs of a prepared data set of images with poses; shared images are stored once.

    Args:
        source: a prepared TFDS builder of `data_prep.posed_images`, or its folder.
        split: the split of pairs to read.

    Raises:
        ValueError: no prepared data set, no such split, an example that lacks a feature, or values
            that break a rule of `jaxcv.data.relative_pose.check_pose_pairs`.
    """
    source = builder_of(source)
    if split not in source.info.splits:
        hint = "With test_scenes every pair may be in the other split."
        raise argument_error("split", f"expected one of {sorted(source.info.splits)}", split, hint)
    rows = _columns(
        open_prepared(source, split),
        ("views", "rotation", "direction", "textured", "overlap"),
        "source",
    )
    used, ends = np.unique(rows["views"], return_inverse=True)
    views = open_prepared(source, "views")
    rows_of_views = [views[int(i)] for i in used]
    _check_fields(rows_of_views, ("image", "intrinsics"), "views")
    k = _columns(rows_of_views, ("intrinsics",), "views")["intrinsics"]
    images: Any = [np.asarray(row["image"]) for row in rows_of_views]
    gather = RaggedImages
    if len({image.shape for image in images}) == 1:
        images, gather = np.stack(images), Gathered
    first, second = ends.reshape(-1, 2).T
    pairs = PosePairs(
        gather(images, first), gather(images, second), k[first], k[second],
        rows["rotation"], rows["direction"], rows["textured"].astype(bool), rows["overlap"],
    )  # fmt: skip
    check_pose_pairs(pairs, "source")
    return pairs


def load_pair_scenes(source: Any, *, split: str = "test") -> list[str] | None:
    """The scene of each pair, in the order of `load_pose_pairs`; None for rendered pairs.

    Args:
        source: as for `load_pose_pairs`.
        split: the split of pairs to read.
    """
    examples = open_prepared(builder_of(source), split)
    rows = [examples[i] for i in range(len(examples))]
    return [_text(row["scene"]) for row in rows] if all("scene" in row for row in rows) else None


def _columns(examples: Any, fields: tuple[str, ...], name: str) -> dict[str, np.ndarray]:
    rows = [examples[i] for i in range(len(examples))]
    _check_fields(rows, fields, name)
    if not rows:
        raise argument_error(name, "expected an example or more", "none")
    return {field: np.stack([np.asarray(row[field]) for row in rows]) for field in fields}


def _check_fields(rows: Any, fields: tuple[str, ...], name: str) -> None:
    for i, row in enumerate(rows):
        missing = [field for field in fields if field not in row]
        if missing:
            raise argument_error(f"{name}[{i}]", f"expected {missing}", list(row))


def _text(x: Any) -> str:
    return x.decode() if isinstance(x, bytes) else str(x)
