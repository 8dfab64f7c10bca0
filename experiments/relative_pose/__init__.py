"""Relative camera pose: Siamese networks, features, and a refinement learned through its solver.

  python -m experiments.relative_pose --workdir=runs/relative_pose
  python -m experiments.relative_pose --mode=evaluate --checkpoint=runs/relative_pose \\
      --data=folder --data_dir=DIR --workdir=runs/mine
  python -m experiments.relative_pose --mode=predict --checkpoint=runs/relative_pose \\
      --image1=a.jpg --image2=b.jpg --intrinsics=fx,fy,cx,cy --workdir=runs/pair
  python -m experiments.relative_pose --mode=predict --pictures=FOLDER --workdir=runs/poses

Without --checkpoint, predictions are of feature matches alone.

A pose takes points of the first camera to the second, x2 = R x1 + t with |t| = 1, x right, y down,
z forward. The networks are those of Melekhov et al. 2017. The refinement adds feature matches, as
they proposed for future work, by an energy on SO(3) x S^2: the network gives its prior and the
confidences of the matches, and is trained through the minimiser. The test has other rooms, textures
and intrinsics than the training.
"""

from experiments import runner
from experiments.relative_pose import evaluation, figures, prediction, refinement, training
from experiments.relative_pose.training import Config

__all__ = ["EXPERIMENT", "Config", "load", "train"]


def _runs(config, pairs):
    return training.runs(config, pairs) | refinement.runs(config, pairs)


EXPERIMENT = runner.Experiment(
    name="relative_pose",
    config=training.Config,
    presets=training.PRESETS,
    memory=training.memory,
    load=training.load,
    runs=_runs,
    evaluate=evaluation.metrics,
    figures=figures.draw_all,
    predict=prediction.write,
    predict_untrained=prediction.write_untrained,
    metadata=training.metadata,
    fixed_metadata=("image_size",),
    model=prediction.model,
    columns=(
        runner.Column("rotation [deg]", "textured/roe_median_deg", ".1f"),
        runner.Column("direction [deg]", "textured/rte_median_deg", ".1f"),
        runner.Column("failures", "textured/failures", ".2f"),
        runner.Column("failures, textureless", "textureless/failures", ".2f"),
    ),
)
train, load = runner.bound(EXPERIMENT)
