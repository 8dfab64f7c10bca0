"""The pairs of the experiment: generated rooms, or photographs with poses, and their matches."""

import concurrent.futures
import logging
import os
from typing import Any, NamedTuple

import numpy as np

from data_prep._prepare import cache_folder
from experiments import runner
from experiments.relative_pose.images import at_size, check_windows, scaled_shape, sizes
from jaxcv.data.pose_labels import check_labels
from jaxcv.data.relative_pose import PosePairs
from jaxcv.systems.feature_matches import MOST, Matches, find_matches
from jaxcv.systems.two_view import MatchArrays, match_arrays

__all__ = [
    "Data", "Matched", "found_matches", "load", "load_or_pair", "matched_pairs", "quaternions",
    "with_matches",
]  # fmt: skip

_logger = logging.getLogger(__name__)

# Seeds of the generated sets, the same in all runs: training and validation pairs at the networks'
# size; refinement and test pairs at the features' size. (Minimisers were compared on test pairs of
# seed 201, so the reported test has another seed.)
_SEEDS = ((100, 101), (200, 301))


class Matched(NamedTuple):
    """Pairs with the matches of their features.

    Attributes:
        pairs: at the size of the networks.
        full: at the size of the features.
        found: SIFT matches of each pair, at the size of the features.
        matches: the same matches as arrays.
        scenes: (N,) names, or None.
    """

    pairs: PosePairs
    full: PosePairs
    found: list[Matches]
    matches: MatchArrays
    scenes: Any = None

    def take(self, rows: Any) -> "Matched":
        """Some of the pairs."""
        rows = np.atleast_1d(np.arange(len(self.found))[rows])
        matches = MatchArrays(*(np.asarray(leaf)[rows] for leaf in self.matches))
        found = [self.found[i] for i in rows]
        scenes = None if self.scenes is None else self.scenes[rows]
        return Matched(self.pairs.take(rows), self.full.take(rows), found, matches, scenes)


class Data(NamedTuple):
    """The pairs for training and test, and parameters to start from.

    Attributes:
        train: pairs to train the networks on; whole images with --train_image=random.
        valid: pairs to validate on.
        matched: pairs to train the refinement on; None without --refine.
        test: pairs to test on.
        started: {"network", "head", "scales"} of --init_from, one per seed; None: random
            parameters.
        trunk: pretrained backbone that the networks start with, or None.
    """

    train: PosePairs
    valid: PosePairs
    matched: Matched
    test: Matched
    started: Any = None
    trunk: Any = None


def load(config: Any) -> Data:
    """Pairs of --data, prepared on first use.

    Raises:
        DataError: a wrong file or flag, which the message names.
    """
    if config.data != "synthetic" and not config.data_dir:
        expected = f"expected the folder of --data={config.data}"
        raise runner.data_error("data_dir", expected, "none", "data_prep/README.md has its layout.")
    try:
        with runner.data_errors():
            return _generated(config) if config.data == "synthetic" else _photographs(config)
    except ModuleNotFoundError:
        raise  # the runner says how to install the module
    except ImportError as error:  # a feature that the installed build of a package lacks
        raise runner.DataError(str(error)) from error


def _generated(config: Any) -> Data:
    from data_prep.posed_images import RenderedConfig, prepare_rendered
    from jaxcv.data.pipelines import load_pose_pairs
    from jaxcv.data.synthetic.pose_pairs import PairRanges

    for name in ("num_valid", "num_test"):
        if not getattr(config, name):
            hint = f"Give --{name}."
            raise runner.data_error(name, "expected 1 or more for generated pairs", 0, hint)
    folder = cache_folder(config.cache_dir, "posed_images")
    shape, full = config.shape, config.full_shape
    ranges = PairRanges()
    if config.rooms == "free":
        ranges = ranges._replace(yaw=np.pi, exchanged=True)
    base = scaled_shape(full, config.short_side) if config.short_side else shape
    # Blur and noise as of large images that are made small.
    share = base[0] / config.full_height
    small = ranges._replace(
        blur=(share * ranges.blur[0], share * ranges.blur[1]), noise=share * ranges.noise
    )
    sets = (
        RenderedConfig(
            train=config.num_train, test=config.num_valid, shape=base, ranges=small,
            seeds=_SEEDS[0],
        ),
        RenderedConfig(
            train=config.num_matched, test=config.num_test, shape=full, ranges=ranges,
            seeds=_SEEDS[1],
        ),
    )  # fmt: skip
    parts = []
    for own in sets:
        _logger.info("%d pairs of %d x %d px", own.train + own.test, *own.shape)
        builder = prepare_rendered(folder, own)
        parts += [load_pose_pairs(builder, split=split) for split in ("train", "test")]
    train, valid, matched, test = parts
    valid = at_size(valid, shape, config.test_image, config.short_side)
    return Data(
        _to_train(train, config), valid, _matched_or_none(matched, config), _tested(test, config)
    )


def _photographs(config: Any) -> Data:
    from data_prep.posed_images import PosedConfig, prepare
    from jaxcv.data.pipelines import load_pair_scenes, load_pose_pairs

    valid_scenes = () if config.valid_scene == ("none",) else config.valid_scene
    folder = cache_folder(config.cache_dir, "posed_images")

    def prepared(how: str, *splits: str) -> Any:
        # A cap on the training pairs is none on sets of which all pairs are asked for.
        most_held = config.num_train if config.num_valid and config.num_test else 0
        own = PosedConfig(
            source=config.data, shape=config.full_shape, test_scenes=config.test_scene,
            valid_scenes=valid_scenes, most_pairs=config.num_train, most_held=most_held,
            short_side=None if how == "squash" else config.short_side, light=config.light,
            splits=splits,
        )  # fmt: skip
        return prepare(config.data_dir, folder, own)

    builder = prepared(config.test_image)
    read = lambda split: load_pose_pairs(builder, split=split)
    test, splits = read("test"), builder.info.splits
    # Networks are overconfident on their training pairs: the refinement learns on other pairs.
    if "train" not in splits:
        _logger.warning("no training pairs: the %d test pairs are trained on, too", len(test.first))
    learned = read("train") if "train" in splits else test
    if "valid" in splits:
        held = read("valid")
        first, last = np.arange(len(learned.rotation)), np.arange(len(held.rotation))
    else:
        views: Any = learned.first, learned.second  # Gathered
        held, (first, last) = learned, _held_out(np.stack([leaf.rows for leaf in views], axis=1))
    rng = np.random.default_rng(config.seed)
    order = rng.permutation(last)
    count = min(len(order), config.num_matched)
    if config.test_scene == ("all",):  # labels for the row `constant`; nothing is trained
        train = at_size(learned.take(first), config.shape, config.test_image, config.short_side)
    else:
        if (config.train_image == "squash") != (config.test_image == "squash"):
            split = "train" if "train" in splits else "test"
            learned = load_pose_pairs(prepared(config.train_image, split), split=split)
        train = _to_train(learned.take(first), config)
    valid = held.take(np.sort(order[: config.num_valid or None]))
    valid = at_size(valid, config.shape, config.test_image, config.short_side)
    some = np.sort(rng.permutation(len(test.rotation))[: config.num_test or None])
    scenes = load_pair_scenes(builder, split="test")
    tested = _tested(test.take(some), config)
    if scenes is not None:
        tested = tested._replace(scenes=np.asarray(scenes)[some])
    check_labels(tested.matches, tested.full.rotation, tested.full.direction, "data_dir")
    return Data(train, valid, _matched_or_none(held.take(order[:count]), config), tested)


def _to_train(pairs: PosePairs, config: Any) -> PosePairs:
    """Training pairs: at the networks' size, or whole images to take random windows of."""
    if config.train_image != "random":
        return at_size(pairs, config.shape, config.train_image, config.short_side)
    for net in config.net:
        for leaf in (pairs.first, pairs.second):
            check_windows({tuple(size) for size in sizes(leaf).tolist()}, config.crop_shape(net))
    return pairs


def _tested(pairs: PosePairs, config: Any) -> Matched:
    """The pairs at both sizes, with their matches."""
    small = at_size(pairs, config.shape, config.test_image, config.short_side)
    return with_matches(small, at_size(pairs, config.full_shape))


def _matched_or_none(pairs: PosePairs, config: Any) -> Any:
    return _tested(pairs, config) if config.refine else None


def _held_out(views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of pairs to train on, and of about a quarter to validate and refine on.

    Of the views (N, 2) the last are held out; pairs with one view of each part are dropped, because
    neighbouring frames of a video are alike. If one part would be empty, both are all pairs.
    """
    low, high = views.min(axis=1), views.max(axis=1)
    cut = np.quantile(low, 0.75)
    first, last = np.flatnonzero(high < cut), np.flatnonzero(low >= cut)
    everything = np.arange(len(views))
    return (first, last) if len(first) and len(last) else (everything, everything)


def found_matches(full: PosePairs, features: str = "sift", most: int = MOST) -> list[Matches]:
    """Feature matches of each pair, computed in parallel on all cores."""
    own = lambda i: find_matches(full.first[i], full.second[i], features, most=most)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(own, range(len(full.rotation))))


def matched_pairs(full: PosePairs, shape: tuple[int, int]) -> Matched:
    """Pairs with their SIFT matches, and with images squashed to the size of the networks."""
    return with_matches(at_size(full, shape), full)


def with_matches(pairs: PosePairs, full: PosePairs) -> Matched:
    """Pairs at the sizes of networks and features, with their SIFT matches."""
    found = found_matches(full)
    return Matched(pairs, full, found, match_arrays(found, full.intrinsics1, full.intrinsics2))


def quaternions(rotation: np.ndarray) -> np.ndarray:
    """(w, x, y, z) (N, 4) with w >= 0 of rotations (N, 3, 3)."""
    from scipy.spatial.transform import Rotation

    q = np.roll(
        Rotation.from_matrix(np.asarray(rotation, float)).as_quat(canonical=True), 1, axis=1
    )
    return q.astype(np.float32)


def load_or_pair(config: Any) -> Data:
    """`load`, or empty Data if --image1 or --image2 asks for a single pair."""
    if config.image1 is None and config.image2 is None:
        return load(config)
    none: Any = None
    return Data(none, none, none, none)
