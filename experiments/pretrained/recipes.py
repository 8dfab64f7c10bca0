"""How each model that comes with jaxcv is trained, measured and described."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

__all__ = ["RECIPES", "Recipe"]

Metrics = Mapping[str, Any]
Config = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One model.

    Attributes:
        experiment: module of its training.
        headline: the metric that a later model is compared by.
        higher: whether a larger headline is better.
        baselines: metric of a method without this model, to set the headline beside.
        metrics: further metrics of the card; a name that ends with * stands for all that begin so.
        interval: `interval(metrics, config)`, half the 95% interval of the headline.
        generator: of the data.
        sizes: fields of the training's config that say how much data it saw.
        seeds: where the random numbers come from.
        limits: sentences on what the model cannot do.
        citation: the paper.
        flags: of the training, besides --workdir.
    """

    experiment: str
    headline: str
    higher: bool
    baselines: tuple[str, ...]
    metrics: tuple[str, ...]
    interval: Callable[[Metrics, Config], float]
    generator: str
    sizes: tuple[str, ...]
    seeds: str
    limits: tuple[str, ...]
    citation: str
    flags: tuple[str, ...] = ()


def _of_share(key: str, count: str) -> Callable[[Metrics, Config], float]:
    """Half the normal 95% interval of a fraction of `config[count]` independent samples.

    One sample is added to both outcomes, so that fractions of 0 and 1 have an interval, too.
    """

    def interval(metrics: Metrics, config: Config) -> float:
        n = int(config[count]) + 2
        share = (float(np.mean(metrics[key])) * (n - 2) + 1) / n
        return 1.96 * math.sqrt(share * (1 - share) / n)

    return interval


def _of_bounds(key: str) -> Callable[[Metrics, Config], float]:
    """Half the bootstrap interval of the difference from a baseline on the same samples."""
    return lambda metrics, config: (metrics[f"{key}/high"] - metrics[f"{key}/low"]) / 2


def _of_fraction(key: str, fraction: float) -> Callable[[Metrics, Config], float]:
    """A fraction of the headline, where the experiment records no interval."""
    return lambda metrics, config: fraction * abs(float(np.mean(metrics[key])))


_LS_NET = (
    "Clark, Bloesch, Czarnowski, Leutenegger, Davison, LS-Net: learning to solve nonlinear least "
    "squares for monocular stereo, ECCV 2018"
)
_WIBERGIAN = (
    "Toso, Campbell, Russell, Fixing implicit derivatives: trust-region based learning of "
    "continuous energy functions, NeurIPS 2019"
)
_GENERATED = "It was trained and tested on generated data only."

RECIPES = {
    "curves": Recipe(
        experiment="curve_fitting",
        headline="learned/sine/solved_15",
        higher=True,
        baselines=(
            "lm/sine/solved_15", "lm_tuned/sine/solved_15", "lm_restarts/sine/solved_15",
            "scipy/sine/solved_15",
        ),
        metrics=("*/solved_15", "*/energy_median_15", "*/solved_15_change", "*/solved_15_low",
                 "*/solved_15_high", "truth/*", "start/*"),
        interval=_of_share("learned/sine/solved_15", "num_test"),
        generator="jaxcv.data.synthetic.curves.draw_curves",
        sizes=("num_problems", "num_test", "num_points", "noise", "steps"),
        seeds="weights, training and test problems from the seed of the config",
        limits=(
            _GENERATED,
            "It knows four families of curves, their ranges of a, b and t, 100 points a curve and "
            "15 steps; other curves need another training.",
            "From one start it solves more problems than Levenberg-Marquardt; with restarts in the "
            "same time Levenberg-Marquardt solves as many (lm_restarts, lm_screened).",
            "It has no convergence test: compare its energy with that of "
            "fit_curves_by_marquardt where an answer must be safe.",
        ),
        citation=_LS_NET,
    ),
    "fusion_demo": Recipe(
        experiment="tracker_fusion",
        headline="learned/iou",
        higher=True,
        baselines=("rbf/iou", "median/iou"),
        metrics=(
            "learned/iou", "rbf/iou", "median/iou", "mean/iou", "undamped/iou", "oracle/iou",
            "learned_minus_*",
        ),
        interval=_of_bounds("learned_minus_rbf"),
        generator="jaxcv.data.synthetic.tracker_fusion.generate",
        sizes=("num_sequences", "num_frames", "num_trackers", "steps"),
        seeds="trackers, sequences, folds and batches from the seed of the config; the metrics are "
        "of sequences left out of the training, the model is trained on all of them",
        limits=(
            _GENERATED,
            "It knows only its twelve generated trackers, in the order of `trackers`; for other "
            "trackers call fuse_boxes(boxes) without a model, or train one on their results.",
            "A training with undamped gradients does as well (undamped).",
        ),
        citation=_WIBERGIAN,
    ),
    "hand_net6": Recipe(
        experiment="hand_pose",
        headline="net6/unseen_mean_error_mm",
        higher=False,
        baselines=("mean_pose/unseen_mean_error_mm",),
        metrics=("net6/*", "mean_pose/*"),
        interval=_of_fraction("net6/unseen_mean_error_mm", 0.05),
        generator="jaxcv.data.synthetic.hand.generate_hands",
        sizes=("num_train", "num_test", "train_subjects", "test_subjects", "steps"),
        seeds="fixed keys for the frames of the training and of other subjects; weights from the "
        "seed of the config",
        limits=(
            _GENERATED,
            "It has not been tested on a real depth camera.",
            "It finds one hand, the nearest object of the image.",
        ),
        citation="Kazakos, MSc thesis on hand pose from RGB-D images, 2017",
    ),
    "pose_joint": Recipe(
        experiment="relative_pose",
        headline="joint/textured/failures",
        higher=False,
        baselines=("poselib/textured/failures", "sift_ransac/textured/failures"),
        metrics=("joint/*", "cnnBspp/*", "poselib/*", "sift_ransac/*", "constant/*"),
        interval=_of_share("joint/textured/failures", "num_test"),
        generator="jaxcv.data.synthetic.pose_pairs",
        sizes=("num_train", "num_test", "steps"),
        seeds="scenes and weights from the seed of the config",
        limits=(_GENERATED, "Without texture there are no matches: the pose is the network's."),
        citation="Melekhov, Ylioinas, Kannala, Rahtu, Relative camera pose estimation using "
        "convolutional neural networks, 2017",
    ),
    "stereo_lsnet": Recipe(
        experiment="monocular_stereo",
        headline="lsnet_15/l1_inv",
        higher=False,
        baselines=("constant/l1_inv", "oracle/l1_inv"),
        metrics=("lsnet_15/*", "init/*", "constant/*", "oracle/*", "sift/*"),
        interval=_of_fraction("lsnet_15/l1_inv", 0.05),
        generator="jaxcv.data.synthetic.stereo.generate_pairs",
        sizes=("num_train", "num_test", "height", "width", "steps"),
        seeds="fixed keys for the rooms; weights from the seed of the config",
        limits=(
            _GENERATED,
            "It does not carry over to real pairs: measure it on yours, and train on them.",
        ),
        citation=_LS_NET,
    ),
    "graphics_faces": Recipe(
        experiment="inverse_graphics",
        headline="dcign/corr2_azimuth",
        higher=True,
        baselines=("entangled/corr2_azimuth",),
        metrics=("dcign/*", "entangled/*"),
        interval=_of_fraction("dcign/corr2_azimuth", 0.02),
        generator="jaxcv.data.synthetic.head.Heads",
        sizes=("num_train", "num_test", "num_images", "batch_size", "steps"),
        seeds="heads from fixed seeds of the prepared data; weights from the seed of the config",
        limits=(_GENERATED, "It draws rendered heads of 48 px in grey; photographs are no input."),
        citation="Kulkarni, Whitney, Kohli, Tenenbaum, Deep convolutional inverse graphics "
        "network, NIPS 2015",
    ),
    "pose_people": Recipe(
        experiment="human_pose",
        headline="huber/multicamera_mpjpe_mm",
        higher=False,
        baselines=("baseline/multicamera_mpjpe_mm",),
        metrics=("huber/multicamera_mpjpe_mm", "l2/multicamera_mpjpe_mm", "baseline/*"),
        interval=_of_fraction("huber/multicamera_mpjpe_mm", 0.05),
        generator="jaxcv.data.synthetic.human_pose.generate",
        sizes=("num_subjects", "clips", "frames", "steps"),
        seeds="people and weights from the seed of the config",
        limits=(
            _GENERATED,
            "It knows the mean cameras of its generated room: other rooms need their own, "
            "model.params['model']._replace(cameras=...).",
            "It computes in float64: call it inside `with jax.enable_x64(True)`.",
        ),
        citation=_WIBERGIAN,
    ),
}  # fmt: skip
