"""Hand pose from depth and colour: nine networks, their fusions, and a kinematic energy.

  python -m experiments.hand_pose --workdir=runs/hand_pose
  python -m experiments.hand_pose --net=6 --net=rgb --net=fusepred --net=fuse --workdir=runs/fusion
  python -m experiments.hand_pose --net=1 --search --workdir=runs/search
  python -m experiments.hand_pose --variant=none --variant=momentum=0 --workdir=runs/momentum
  python -m experiments.hand_pose --preset=nine --workdir=runs/hand_pose_nine

Networks regress joints from crops (Kazakos 2017). The learning rate is halved when the validation
loss stops improving. --search samples learning rate, momentum and dropout, in rounds that narrow
around the best. --refine fits a kinematic hand to the network's joints and the points of the depth
image, and trains the network through that minimiser. One test is on subjects of the training
(`seen`), another on new subjects (`unseen`). --variant trains every network once more with other
settings. The published configuration has three presets: `paper_nets` (the nine networks),
`paper_search`, and `paper` (Depth-Net, colour and fusions).
"""

from experiments import runner
from experiments.hand_pose import config as settings
from experiments.hand_pose import data, evaluation, figures, presets, refinement, training
from experiments.hand_pose.config import Config

__all__ = ["EXPERIMENT", "Config", "load", "train"]


def _runs(config, crops):
    return training.runs(config, crops) | refinement.runs(config, crops)


EXPERIMENT = runner.Experiment(
    name="hand_pose",
    config=Config,
    presets=presets.PRESETS,
    memory=settings.memory,
    load=data.load,
    runs=_runs,
    evaluate=evaluation.metrics,
    figures=figures.draw_all,
    predict=evaluation.write_joints,
    source=training.SOURCE,
    source_data="the thesis' own recordings, its Table 4.3",
    metadata=training.metadata,
    calibrate=evaluation.calibrate,
    model=evaluation.model,
    columns=(
        runner.Column("error, seen subjects [mm]", "mean_error_mm", ".1f"),
        runner.Column("other subjects [mm]", "unseen_mean_error_mm", ".1f"),
    ),
)
train, load = runner.bound(EXPERIMENT)
