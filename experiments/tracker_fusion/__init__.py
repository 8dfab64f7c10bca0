"""Tracker fusion: learn how far each of many trackers is to be trusted (NeurIPS 2019, section 5).

  python -m experiments.tracker_fusion --workdir=runs/tracker_fusion
  python -m experiments.tracker_fusion --workdir=runs/vot --data=vot --data_dir=DIR

Each corner of the fused box is the lowest point of a sum of radial basis functions around the
trackers' corners. Width, weight, loss of trust over time and after a change of scale, and a
correction of the box's size are learned per tracker, through the minimiser, and shrunk towards the
untrained energy. How strongly is chosen on validation folds. Sequences of the test fold are never
seen, neither in training nor in that choice.
"""

from experiments import runner
from experiments.tracker_fusion import evaluation, figures, training
from experiments.tracker_fusion.training import Config

__all__ = ["EXPERIMENT", "Config", "load", "train"]

EXPERIMENT = runner.Experiment(
    name="tracker_fusion",
    config=training.Config,
    presets=training.PRESETS,
    memory=training.memory,
    load=training.load,
    runs=training.runs,
    evaluate=evaluation.metrics,
    figures=figures.draw_all,
    predict=evaluation.write_results,
    source=training.SOURCE,
    source_data="72 entries of VOT2018",
    metadata=training.metadata,
    fixed_metadata=("trackers",),
    model=evaluation.model,
    columns=(
        runner.Column("IoU, unseen sequences", "iou"),
        runner.Column("IoU, split by frame", "iou_frames"),
    ),
    rows=("mean", "median", "rbf", "undamped", "learned", "oracle"),
)
train, load = runner.bound(EXPERIMENT)
