"""Monocular stereo: depth and motion from two views by a learned least-squares solver (ECCV 2018).

  python -m experiments.monocular_stereo --workdir=runs/monocular_stereo
  python -m experiments.monocular_stereo --mode=predict --data=folder --data_dir=DIR \
      --checkpoint=runs/monocular_stereo --workdir=runs/mine

One network guesses inverse depth and motion, a recurrent network updates them from the photometric
residual and its Jacobian, and a third network upscales the depth. As in the paper they are trained
in stages: the guess; the solver with few, then with all iterations; with --joint both together; the
upscaling. Training and test use different rooms. The unit of length is the baseline.
"""

from experiments import runner
from experiments.monocular_stereo import config, evaluation, figures, training
from experiments.monocular_stereo.config import Config

__all__ = ["EXPERIMENT", "Config", "load", "train"]

EXPERIMENT = runner.Experiment(
    name="monocular_stereo",
    config=config.Config,
    presets=config.PRESETS,
    memory=config.memory,
    load=training.load,
    runs=training.runs,
    evaluate=evaluation.metrics,
    figures=figures.draw_all,
    predict=evaluation.write_depths,
    model=evaluation.model,
    columns=(
        runner.Column("L1-inv", "l1_inv", ".4f"),
        runner.Column("sc-inv", "sc_inv"),
        runner.Column("rotation [deg]", "rotation_deg", ".2f"),
        runner.Column("translation [deg]", "translation_deg", ".1f"),
    ),
    source=config.SOURCE,
    source_data="the RGB-D part of DeMoN's benchmark",
)
train, load = runner.bound(EXPERIMENT)
