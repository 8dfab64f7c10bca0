"""Tracker fusion: learn how much to trust each of many trackers (NeurIPS 2019, section 4).

  python -m experiments.tracker_fusion --workdir=runs/tracker_fusion
  python -m experiments.tracker_fusion --workdir=runs/vot --data=vot --data_dir=DIR

Each corner of the fused box minimises a sum of negative radial basis functions, one around the
corner of each tracker. For each tracker a width, a weight, the weight's change with time and object
scale, and a correction of the box size are learned through the minimiser. A penalty shrinks them
towards the untrained energy; validation folds choose its strength. Training and that choice leave
out the sequences of the test fold.
"""

from experiments import runner
from experiments.tracker_fusion import config, data, evaluation, figures, training
from experiments.tracker_fusion.config import Config

__all__ = ["EXPERIMENT", "Config", "load", "train"]

EXPERIMENT = runner.Experiment(
    name="tracker_fusion",
    config=Config,
    presets=config.PRESETS,
    memory=config.memory,
    load=data.load,
    runs=training.runs,
    evaluate=evaluation.metrics,
    figures=figures.draw_all,
    predict=evaluation.write_results,
    source=config.SOURCE,
    source_data="72 entries of VOT2018",
    metadata=data.metadata,
    fixed_metadata=("trackers",),
    model=evaluation.model,
    columns=(
        runner.Column("IoU, unseen sequences", "iou"),
        runner.Column("IoU, split by frame", "iou_frames"),
    ),
    rows=(
        "mean", "median", "best_in_training", "weighted_median", "boosted_trees", "set_network",
        "rbf", "undamped", "learned", "oracle",
    ),
)  # fmt: skip
train, load = runner.bound(EXPERIMENT)
