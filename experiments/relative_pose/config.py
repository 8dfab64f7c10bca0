"""Settings of the relative pose, and its presets."""

import dataclasses

from experiments import runner
from jaxcv.models.relative_pose import HEADS, NETS, ROTATIONS, TRUNKS

__all__ = ["EXPORTS", "FEATURE_METHODS", "LIGHTS", "PRESETS", "SOURCES", "Config"]

SOURCES = ("synthetic", "folder", "colmap", "dtu", "landmarks")
LIGHTS = ("all", "0", "1", "2", "3", "4", "5", "6", "max")  # of DTU's images
FEATURE_METHODS = (  # rows of the evaluation; `baselines.METHODS` says what each is
    "sift_ransac", "sift_magsac", "orb_ransac", "surf_ransac", "poselib",
    "sift_ransac_small", "poselib_small", "orb_ransac_small", "orb_ransac_500",
    "sift_defaults", "orb_defaults", "sift_defaults_small", "orb_defaults_small",
    "sift_ransac_guessed", "poselib_guessed",
)  # fmt: skip
EXPORTS = ("none", "colmap")
_LOCAL_NORMALISATION = ("trunk", "on", "off")


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the relative pose; every field is a flag.

    `--preset=paper` is the published configuration. Melekhov et al. leave open, and it takes:

    - images are standardised by ImageNet's mean and deviation (their code: mean .554, .486, .439,
      deviation .314), which is what the converted weights of `data_prep.trunk_weights` expect;
    - heads start from N(0, 1e-3) and zero biases, convolutions without a file from He's normal;
    - the loss is the mean over the pairs of a batch, and decay acts on biases, too, as in Torch;
    - no local response normalisation: the text keeps convolutions, max pools and ReLU only. Their
      code keeps it, and the weights of Hybrid-CNN were trained with it: `--lrn=on`;
    - pyramid windows by the adaptive rule, as in their code: the published rule fails on 323
      pixels;
    - crops of the two images of a pair have the same offset, as in their code; where their sizes
      differ, the same fraction of each margin;
    - batches run on from one permutation of the pairs to the next, so that none is short;
    - training pairs are edges of 1DSfM between registered cameras, at most 581,000;
    - features match mutually with a ratio of 0.8; SIFT takes the place of SURF, which OpenCV's
      packages leave out.
    """

    data: str = runner.flag(
        "synthetic", "Generated rooms, or photographs with poses (data_prep/README.md).",
        choices=SOURCES,
    )  # fmt: skip
    data_dir: str | None = runner.flag(None, "Folder of the photographs.", of_data=True)
    cache_dir: str | None = runner.flag(
        None, "Folder for prepared pairs; none: jaxcv in the user's cache.", of_data=True
    )
    test_scene: tuple[str, ...] = runner.flag(
        (),
        "Test scenes, or `all`, which leaves none for training and validation; none: the last "
        "fifth of the views of each scene.",
        of_data=True,
    )
    valid_scene: tuple[str, ...] = runner.flag(
        (),
        "Validation scenes, which may be test scenes; no view of the others is held out. `none`, "
        "or none given: the last quarter of the training views. --refine trains on their pairs.",
        of_data=True,
    )
    light: str = runner.flag(
        "all", "Light of DTU's images; `all` has the pairs of each.", choices=LIGHTS, of_data=True
    )
    rooms: str = runner.flag(
        "upright", "Layout of generated rooms: dark floor ahead of the camera (upright), or any "
        "heading, and shades of the faces at random (free).",
        choices=("upright", "free"), of_data=True,
    )  # fmt: skip
    image1: str | None = runner.flag(
        None, "Path of the first image, for --mode=predict.", of_data=True, only="predict"
    )
    image2: str | None = runner.flag(
        None, "Path of the second image, for --mode=predict.", of_data=True, only="predict"
    )
    pictures: str | None = runner.flag(
        None, "Folder of photographs, or a video file, for --mode=predict: the poses of its pairs.",
        of_data=True, only="predict",
    )  # fmt: skip
    pairs: str | None = runner.flag(
        None, "Text file of pairs among --pictures, two names a line; none: --neighbours.",
        of_data=True, only="predict",
    )  # fmt: skip
    neighbours: int = runner.flag(
        1, "Following pictures, by name or time, with which each of --pictures has pairs; 0: all.",
        lower=0, of_data=True, only="predict",
    )  # fmt: skip
    every: int = runner.flag(
        1, "Frames of a video from one picture to the next.", lower=1, of_data=True, only="predict"
    )
    longest_side: int = runner.flag(
        1600, "Longer side to which larger --pictures are reduced for features [px]; 0: none is.",
        lower=0, of_data=True, only="predict",
    )  # fmt: skip
    figures: int = runner.flag(
        20, "Pairs of --pictures that are drawn, from the most to the least confident.", lower=0,
        of_data=True, only="predict",
    )  # fmt: skip
    export: str = runner.flag(
        "none", "File to write beside the table of pairs: a database of COLMAP.",
        choices=EXPORTS, of_data=True, only="predict",
    )  # fmt: skip
    intrinsics: str | None = runner.flag(
        None,
        "fx,fy,cx,cy [px] of all images, or of --image1 and then of --image2; none: cameras.json "
        "among --pictures, or a guess.",
        of_data=True,
        only="predict",
    )
    net: tuple[str, ...] = runner.flag(
        ("cnnBspp",), "Networks to train; --refine refines the last.", choices=tuple(NETS)
    )
    variant: tuple[str, ...] = runner.flag(
        (),
        "Runs of the last network with other settings, e.g. beta=1 or rotation=svd,swap=0.5.",
    )
    trunk: str = runner.flag("alexnet", "Backbone network.", choices=tuple(TRUNKS))
    trunk_file: str | None = runner.flag(
        None,
        "Pretrained backbone, a file of data_prep.trunk_weights; needs --width=1.",
        only="train",
    )
    lrn: str = runner.flag(
        "trunk", "Local response normalisation after the first two pools; trunk: in caffenet only.",
        choices=_LOCAL_NORMALISATION,
    )  # fmt: skip
    head: str = runner.flag(
        "linear", "Heads: linear, as published; a hidden layer before them; correlations of the "
        "two maps beside the features.", choices=HEADS,
    )  # fmt: skip
    init_from: str | None = runner.flag(
        None,
        "Work folder of a training, or file of a model, whose parameters the training starts from. "
        "With several seeds: a folder with as many, one each.",
        only="train",
        formerly="start",
    )
    width: float = runner.flag(0.25, "Factor on the backbone's channels.", lower=0.01, upper=4.0)
    rotation: str = runner.flag(
        "quaternion", "Output of the rotation head (6d: two columns of a matrix, svd: a matrix).",
        choices=tuple(ROTATIONS),
    )  # fmt: skip
    height: int = runner.flag(96, "Image height for the networks [px].", lower=35, of_data=True)
    width_px: int = runner.flag(128, "Image width for the networks [px].", lower=35, of_data=True)
    full_height: int = runner.flag(
        240, "Image height for the features [px].", lower=35, of_data=True
    )
    full_width: int = runner.flag(320, "Image width for the features [px].", lower=35, of_data=True)
    short_side: int = runner.flag(
        0, "Shorter side of the images before crops, aspect kept [px]; needed for crops.", lower=0,
        of_data=True,
    )  # fmt: skip
    train_image: str = runner.flag(
        "squash", "How training images get the networks' size: squashed, the central window, or a "
        "random window, at one offset in both images.",
        choices=("squash", "centre", "random"), of_data=True,
    )  # fmt: skip
    test_image: str = runner.flag(
        "squash", "How validation and test images get the networks' size.",
        choices=("squash", "centre"), of_data=True,
    )  # fmt: skip
    pyramid_crop: int = runner.flag(
        0, "Side of the random windows of nets with a pyramid [px]; 0: the networks' size.",
        lower=0, of_data=True,
    )  # fmt: skip
    num_train: int = runner.flag(16_000, "Training pairs, at most.", lower=1, of_data=True)
    num_valid: int = runner.flag(
        200, "Validation pairs, at most; 0: all, of photographs.", lower=0, of_data=True
    )
    num_matched: int = runner.flag(600, "Pairs for --refine, at most.", lower=1, of_data=True)
    num_test: int = runner.flag(
        300, "Test pairs, at most; 0: all, of photographs.", lower=0, of_data=True
    )
    feature_method: tuple[str, ...] = runner.flag(
        (), "Feature methods of the evaluation; none: all.", choices=FEATURE_METHODS, of_data=True
    )
    steps: int = runner.flag(3000, "Optimiser steps per network.", lower=1)
    log_every: int = runner.flag(100, "Steps per validation.", lower=1)
    seed: int = runner.flag(0, "Seed of weights and batches.", lower=0, upper=2**31 - 1)
    num_seeds: int = runner.flag(
        1, "Number of seeds of the weights, from --seed on; all share the batches of --seed.",
        lower=1, upper=100,
    )  # fmt: skip
    batch_size: int = runner.flag(32, "Pairs per step.", lower=1)
    batch_order: str = runner.flag(
        "random", "Pairs of a batch: drawn with replacement (random), or each pair once an epoch.",
        choices=("random", "epochs"),
    )  # fmt: skip
    learning_rate: float = runner.flag(1e-3, "Adam learning rate of the backbone.", lower=0.0)
    rate_decay: str = runner.flag(
        "cosine", "Course of the learning rate: along a cosine to 0, or constant.",
        choices=("cosine", "constant"),
    )  # fmt: skip
    head_rate: float = runner.flag(
        0.02, "Factor on --learning_rate for the heads, which sum tens of thousands of inputs.",
        lower=0.0,
    )  # fmt: skip
    weight_decay: float = runner.flag(1e-5, "Weight decay.", lower=0.0)
    weight_decay_kind: str = runner.flag(
        "decoupled", "Weight decay after Adam (decoupled, AdamW), or in its gradient (l2).",
        choices=("decoupled", "l2"),
    )  # fmt: skip
    beta: float = runner.flag(10.0, "Loss weight of the rotation.", lower=0.0)
    weighting: str = runner.flag(
        "fixed", "Weights of the loss terms: by --beta, or learned (homoscedastic).",
        choices=("fixed", "homoscedastic"),
    )  # fmt: skip
    swap_weight: float = runner.flag(
        0.0, "Loss weight of the distance between the pose and the swapped pair's inverse pose.",
        lower=0.0,
    )  # fmt: skip
    augment: bool = runner.flag(True, "Permute colour channels, and swap images by --swap.")
    swap: float = runner.flag(0.0, "Fraction of pairs that --augment swaps.", lower=0.0, upper=1.0)
    refine: bool = runner.flag(True, "Train the last network through the energy of matches.")
    refine_steps: int = runner.flag(300, "Optimiser steps of --refine.", lower=1)
    refine_rate: float = runner.flag(1e-3, "Adam learning rate of --refine.", lower=0.0)
    refine_batch: int = runner.flag(16, "Pairs per step of --refine.", lower=1)
    trials_by: str = runner.flag(
        "auto", "Order of trials: at once (vmap) or in turn (loop); auto: loop on CPUs, else vmap.",
        choices=("auto", "vmap", "loop"), formerly="members_by",
    )  # fmt: skip

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the networks' images."""
        return self.height, self.width_px

    @property
    def full_shape(self) -> tuple[int, int]:
        """(H, W) of the features' images."""
        return self.full_height, self.full_width

    def crop_shape(self, net: str) -> tuple[int, int]:
        """(H, W) of the training images of a network."""
        pyramid = self.pyramid_crop and self.train_image == "random" and NETS[net][1]
        return (self.pyramid_crop, self.pyramid_crop) if pyramid else self.shape


# The published configuration. The training of the landmarks tests on its validation scene; the
# published tests are evaluations of it (`--mode=evaluate --checkpoint=...`), on DTU:
#   --data=dtu --data_dir=DTU --test_scene=all --light=max                       against features
#   the same with --test_image=centre                                            of the networks
# The published weights of the backbone are given by --trunk_file.
_PAPER = Config(
    data="landmarks", net=("cnnA", "cnnB", "cnnAspp", "cnnBspp"), trunk="caffenet", lrn="off",
    width=1.0, height=227, width_px=227, full_height=227, full_width=227, short_side=323,
    train_image="random", pyramid_crop=323, test_scene=("Yorkminster",),
    valid_scene=("Yorkminster",), num_train=581_000, num_valid=0, num_test=0,
    steps=15 * 581_000 // 128, log_every=1000, batch_size=128, batch_order="epochs",
    learning_rate=1e-4, rate_decay="constant", head_rate=1.0, weight_decay_kind="l2",
    augment=False, refine=False, feature_method=("orb_defaults", "sift_defaults"),
)  # fmt: skip
PRESETS = {
    "default": Config(),
    "study": Config(net=("cnnA", "cnnAspp", "cnnB", "cnnBspp"), num_seeds=3),
    # From the default's training to photographs: `--data_dir=DIR --init_from=runs/relative_pose`.
    "fine_tune": Config(
        data="folder", test_scene=("test",), height=192, width_px=256, full_height=240,
        full_width=360, steps=150, learning_rate=3e-4, refine_steps=150,
    ),
    "paper": _PAPER,
    # With public weights: --trunk_file=alexnet.safetensors (data_prep/README.md).
    "paper_imagenet": dataclasses.replace(_PAPER, trunk="alexnet"),
    # Fine-tuning on DTU from `--init_from=runs/paper`. Rate, steps and split are not published: the
    # released lists train on scans 1 to 77 and test on 82 to 128; the rate is that of the paper,
    # the steps are five epochs of 77 x 512 pairs.
    "paper_fine_tune": dataclasses.replace(
        _PAPER, data="dtu", light="max", net=("cnnBspp",), valid_scene=(),
        test_scene=tuple(f"scan{k}" for k in range(82, 129)), steps=5 * 77 * 512 // 128,
        log_every=100,
    ),
}  # fmt: skip
