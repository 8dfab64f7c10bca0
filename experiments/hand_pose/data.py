"""Loads the hand frames of a data source, cropped and split."""

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.hand_pose.config import DATA_FIELDS, variants
from experiments.runner.settings import config_error
from jaxcv.data.hand import PALM, HandFrames, check_frames, points_in_cube
from jaxcv.data.synthetic.hand import Sensor, generate_hands
from jaxcv.geometry.crop import cube_window, depth_crop, in_cube, of_cube
from jaxcv.systems.hand_pose import NUM_POINTS, ColorScale, HandCrop, crop_color, preprocess

__all__ = ["Crops", "Data", "data_key", "data_of", "in_mm", "load", "seen_points", "unit_mm"]

# PRNG seeds of the frames, shared by all seeds of a study.
TRAIN_FRAMES, UNSEEN_FRAMES = 20171, 20172
AT_ONCE = 256
UNITS = 255.0
_KEPT = 64  # uncropped frames per test
CAMERA_UNIT_MM = 2000.0  # of joints about the camera; hands are nearer, so a tanh reaches them
WINDOW_MM = 800.0  # where the window of fixed size has the size of the cube's
FAR_MM = 2000.0  # depths of --crop=window are in metres up to here; 2 also where missing


class Crops(NamedTuple):
    """Network inputs and ground truth of N frames.

    Attributes:
        depth: (N, S, S, 1) in [-1, 1], or [m] of --crop=window; float16 for NYU.
        rgb: (N, S, S, 3), masked, in [0, 1], or uint8 for NYU; `Data.scale` standardises it as
            network input.
        target: (N, J, 3) relative to the centre, in half sides of the cube; of --targets=camera
            about the camera, in units of 2000 mm.
        joints: (N, J, 3) [mm].
        centre: (N, 3) [mm].
        points: (N, P, 3) [mm] of the depth image, inside the cube.
        subject: (N,).
    """

    depth: Any
    rgb: Any
    target: Any
    joints: Any
    centre: Any
    points: Any
    subject: Any

    def kept(self, rows: Any) -> "Crops":
        """Selects frames, with images in their stored dtype."""
        return Crops(*(leaf[rows] for leaf in self))

    def take(self, rows: Any) -> "Crops":
        """Selects frames, with images in float32."""
        some = self.kept(rows)
        return some._replace(depth=in_float(some.depth), rgb=in_float(some.rgb))


class Data(NamedTuple):
    """Crops for training, validation, and the tests on seen and unseen subjects.

    `frames` are the first uncropped frames of both tests, for the figures. `others` are the data
    of variants that change the data, by `data_key`.
    """

    train: Crops
    valid: Crops
    seen: Crops
    unseen: Crops
    scale: ColorScale
    frames: dict[str, HandFrames]
    others: Mapping[Any, "Data"] | None = None


def data_key(config: Any) -> tuple[Any, ...]:
    """What selects the data among those of all variants."""
    return tuple(getattr(config, name) for name in DATA_FIELDS)


def data_of(data: Data, config: Any) -> Data:
    """The data of a variant's settings."""
    return (data.others or {}).get(data_key(config), data)


def load(config: Any) -> Data:
    """Loads the frames of the source, cropped and split, for every variant.

    Raises:
        DataError: an invalid file or flag; the error names it.
    """
    needed = {data_key(own): own for own in variants(config).values()}
    for own in (config, *needed.values()):
        if own.data != "synthetic" and own.sensor_noise != 1:
            expected = "expected 1, as the frames are not generated"
            raise config_error("sensor_noise", expected, own.sensor_noise, "Use --data=synthetic.")
    others = {key: _load(own) for key, own in needed.items() if key != data_key(config)}
    return _load(config)._replace(others=others)


def _load(config: Any) -> Data:
    source, rest = _sources(config)
    everything, shown = crops_of(source, config, "training frames")
    unseen, shown_later = crops_of(rest, config, "test frames")
    count = len(everything.depth)
    if config.data == "nyu":  # its test frames begin with the training subject
        first = unseen.subject == 1
        if first.all() or not first.any():
            expected, hint = "expected test frames of both people", "Use the whole test split."
            raise runner.data_error("data_dir", expected, f"{len(first)} of one", hint)
        seen, unseen = unseen.kept(first), unseen.kept(~first)
    else:
        count -= config.num_test
        seen = everything.kept(slice(count, None))
    valid = _validation(config, everything.subject[:count])
    train, valid = everything.kept(np.flatnonzero(~valid)), everything.kept(np.flatnonzero(valid))
    return Data(train, valid, seen, unseen, _color_scale(train.rgb), shown | shown_later)


def in_float(images: Any) -> Any:
    """Images in float32; 8-bit images are scaled to [0, 1]."""
    out = images.astype(np.float32, copy=False)
    return out / np.float32(UNITS) if images.dtype == np.uint8 else out


def _color_scale(rgb: np.ndarray) -> ColorScale:
    """Mean and standard deviation of each colour, in chunks of frames."""
    total, square = np.zeros(3), np.zeros(3)
    for i in range(0, len(rgb), AT_ONCE):
        part = in_float(rgb[i : i + AT_ONCE])
        total += part.sum(axis=(0, 1, 2), dtype=float)
        square += np.square(part, dtype=float).sum(axis=(0, 1, 2))
    pixels = rgb[..., 0].size
    mean = total / pixels
    deviation = np.sqrt(np.maximum(square / pixels - mean**2, 0))
    deviation = np.where(deviation > 0, deviation, 1)
    return ColorScale(tuple(mean.tolist()), tuple(deviation.tolist()))


def _sources(config: Any) -> tuple[Iterable[HandFrames], Iterable[HandFrames]]:
    """Chunks of frames: for training, with test frames of seen subjects last; and for the test."""
    if config.data != "synthetic" and config.data_dir is None:
        expected, hint = f"--data={config.data} needs a path", "Name it: --data_dir=PATH."
        raise runner.data_error("data_dir", expected, "none", hint)
    size = (config.window, config.window)
    count = config.num_train + config.num_test
    people = config.train_subjects, config.test_subjects
    if config.data == "synthetic":
        sensor = Sensor(noise=config.sensor_noise * Sensor().noise)
        make: Any = functools.partial(generate_hands, size=size, sensor=sensor)
    elif config.data == "glb":
        from jaxcv.data.skinned_hand import skinned_hands
        from jaxcv.io.gltf_hand import read_skinned_hand

        with runner.data_errors():
            hand = read_skinned_hand(config.data_dir)
        make = functools.partial(skinned_hands, hand, size=size)
    else:
        return _nyu(config, "train"), _nyu(config, "test")
    with runner.data_errors():
        train = make(jax.random.key(TRAIN_FRAMES), count, subjects=people[0])
        test = make(jax.random.key(UNSEEN_FRAMES), config.num_test, subjects=people[1])
    return [train], [test]


def _nyu(config: Any, split: str) -> Iterator[HandFrames]:
    from data_prep._prepare import cache_folder
    from data_prep.nyu_hand import prepare
    from jaxcv.data.pipelines import load_hand_frames

    with runner.data_errors():
        builder = prepare(str(config.data_dir), cache_folder(config.cache_dir, "nyu_hand"))
        yield from load_hand_frames(builder, split=split, at_once=AT_ONCE)


def _validation(config: Any, subject: np.ndarray) -> np.ndarray:
    """Mask (N,) of the validation frames."""
    n = len(subject)
    count = max(1, round(config.validation * n))
    rng = np.random.default_rng(config.split_seed)
    out = np.zeros(n, bool)
    if config.split == "frame":
        out[rng.permutation(n)[:count]] = True
    elif config.split == "block":  # neighbouring frames of a video are much alike
        out[n - count :] = True
    else:
        people = rng.permutation(np.unique(subject))
        if len(people) < 2:
            expected = "expected two training subjects or more for --split=subject"
            raise runner.data_error("train_subjects", expected, len(people), "Split by frame.")
        out = np.isin(subject, people[: max(1, round(config.validation * len(people)))])
    return out


def _shown(config: Any, frames: HandFrames, name: str) -> dict[str, HandFrames]:
    """The first uncropped frames of each test in a chunk, for the figures."""
    if config.data == "nyu":
        tests = {"seen": frames.subject == 1, "unseen": frames.subject == 2}
        tests = {} if name == "training frames" else tests
    elif name == "training frames":
        tests = {"seen": np.arange(len(frames.subject)) >= config.num_train}
    else:
        tests = {"unseen": np.ones(len(frames.subject), bool)}
    rows = {test: np.flatnonzero(which)[:_KEPT] for test, which in tests.items()}
    return {test: frames.take(some) for test, some in rows.items() if len(some)}


def crops_of(
    parts: Iterable[HandFrames], config: Any, name: str
) -> tuple[Crops, dict[str, HandFrames]]:
    """Crops frames chunk by chunk; also returns the first uncropped frames of each test.

    Raises:
        DataError: values that `check_frames` refuses, or frames with nothing in the cube.
    """
    crops: list[Crops] = []
    shown: dict[str, HandFrames] = {}
    for frames in parts:
        with runner.data_errors():
            check_frames(frames, name)
        for i in range(0, len(frames.joints), AT_ONCE):
            crops.append(_crop(frames.take(slice(i, i + AT_ONCE)), config))
        shown = _shown(config, frames, name) | shown
    if not crops:
        raise runner.data_error(name, "expected a frame or more", "none", "Check --data_dir.")
    out = Crops(*(np.concatenate(leaves) for leaves in zip(*crops, strict=True)))
    background = 1 if config.crop == "cube" else FAR_MM / 1000
    empty = np.flatnonzero((out.depth == background).all(axis=(1, 2, 3)))
    if len(empty):
        expected = f"expected a hand in the cube of {config.cube:g} mm around the centre"
        hint = "Leave these frames out, or use a larger --cube."
        raise runner.data_error(name, expected, f"nothing in frames {empty[:8].tolist()}", hint)
    return out, shown


def _crop(frames: HandFrames, config: Any) -> Crops:
    centre = frames.joints[:, PALM] if config.centre == "palm" else None
    k = jnp.asarray(frames.intrinsics, jnp.float32)
    depth = jnp.asarray(frames.depth, jnp.float32)
    centre = None if centre is None else jnp.asarray(centre, jnp.float32)
    crop = preprocess(depth, k, centre, side=config.side, cube=config.cube)
    if config.crop == "window":
        crop = _window_crops(depth, k, crop)
    if frames.color is None:
        rgb = np.zeros((*crop.mask.shape, 3), np.float32)
    else:
        rgb = np.asarray(crop_color(jnp.asarray(frames.color, jnp.float32) / UNITS, crop))
    middle = np.asarray(crop.centre)
    joints = np.asarray(frames.joints, np.float32)
    if config.targets == "cube":
        target = np.asarray(in_cube(jnp.asarray(joints), crop.centre[:, None], config.cube))
    else:
        target = joints / np.float32(CAMERA_UNIT_MM)
    points = seen_points(frames, middle, config.cube, np.random.default_rng(0))
    depth = np.asarray(crop.depth)
    if config.data == "nyu":  # 80,000 frames at 128 px would take 21 GB in 32 bits
        depth, rgb = depth.astype(np.float16), np.round(UNITS * rgb).astype(np.uint8)
    return Crops(depth, rgb, target, joints, middle, points, frames.subject)


@jax.jit
def _window_crops(depth: jax.Array, intrinsics: jax.Array, crops: HandCrop) -> HandCrop:
    """Windows of fixed size about the centres of `crops`, with depths from the camera [m]."""

    def one(depth, k, crop):
        window = cube_window(crop.centre * (WINDOW_MM / crop.centre[2]), k, crop.cube)
        side = crop.mask.shape[-1]
        image, mask = depth_crop(depth, jnp.zeros_like(crop.centre), window, 2 * FAR_MM, side)
        return crop._replace(depth=FAR_MM / 1000 * image[..., None], mask=mask, window=window)

    return jax.vmap(one)(depth, intrinsics, crops)


def unit_mm(config: Any) -> float:
    """Unit of the targets [mm]."""
    return 0.5 * config.cube if config.targets == "cube" else CAMERA_UNIT_MM


def in_mm(found: Any, crops: Crops, config: Any) -> np.ndarray:
    """Joints (N, J, 3) [mm] in the camera's frame, from those in the unit of the targets."""
    if config.targets == "camera":
        return np.asarray(found) * np.float32(CAMERA_UNIT_MM)
    return np.asarray(of_cube(found, crops.centre[:, None], config.cube))


def seen_points(
    frames: HandFrames, centre: np.ndarray, cube: float, rng: np.random.Generator
) -> np.ndarray:
    """Points (N, P, 3) [mm] sampled from the depth images inside the cube."""
    seen = zip(frames.depth, frames.intrinsics, centre, strict=True)
    points = [points_in_cube(depth, k, c, cube, NUM_POINTS, rng) for depth, k, c in seen]
    return np.asarray(points, np.float32)
