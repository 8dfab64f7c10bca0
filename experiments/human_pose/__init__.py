"""Human pose: learn the energy of a multi-camera 3-D pose model (NeurIPS 2019, section 5).

  python -m experiments.human_pose --workdir=runs/human_pose
  python -m experiments.human_pose --workdir=runs/my_groups --groups=scaling --groups=fusion --huber
  python -m experiments.human_pose --workdir=runs/h36m --data=human36m --data_dir=DIR

An energy is minimised at a hundred rotations for each component of a mixture of probabilistic PCAs,
and the minimisers are fused into one pose. All parts of the energy are learned through the
minimisation: body models, covariances, joint weights, cameras, the fusion, the robust kernel and
the scales. The baseline is the same energy with the mixture fitted to the training poses, the mean
training cameras, and two weights and a kernel chosen by grid search. Test subjects are not in the
training.
"""

from experiments import runner
from experiments.human_pose import config, data, evaluation, figures, training
from experiments.human_pose.config import Config

__all__ = ["EXPERIMENT", "Config", "load", "train"]

EXPERIMENT = runner.Experiment(
    name="human_pose",
    config=Config,
    presets=config.PRESETS,
    memory=config.memory,
    load=data.load,
    runs=training.runs,
    evaluate=evaluation.metrics,
    figures=figures.draw_all,
    predict=evaluation.write_poses,
    source=config.SOURCE,
    source_data="Human3.6M with a detector's joints",
    metadata=data.metadata,
    model=evaluation.model,
    columns=(
        runner.Column("MPJPE, 4 cameras [mm]", "multicamera_mpjpe_mm", ".1f"),
        runner.Column("MPJPE, 1 camera [mm]", "monocular_mpjpe_mm", ".1f"),
    ),
    x64=True,
)
train, load = runner.bound(EXPERIMENT)
