"""Inverse graphics: an image's azimuth, elevation and light as entries of a learned code (DC-IGN).

  python -m experiments.inverse_graphics --workdir=runs/inverse_graphics
  python -m experiments.inverse_graphics --preset=chairs --workdir=runs/chairs
  python -m experiments.inverse_graphics --method=dcign --method=dcign_repel --workdir=runs/repel

Each batch varies one factor of the scene. All entries of the code but that factor's are clamped to
one value and pulled together (Kulkarni et al. 2015). The baseline `entangled` trains the same
network on the same batches without clamping; `beta_vae_*`, `group_vae_*` and `ada_gvae_*` are later
methods with the same network and batches. Tests use heads or chairs outside the training.
"""

from experiments import runner
from experiments.inverse_graphics import config, data, evaluation, figures, prediction, training
from experiments.inverse_graphics.config import Config

__all__ = ["EXPERIMENT", "Config", "load", "train"]

EXPERIMENT = runner.Experiment(
    name="inverse_graphics",
    config=Config,
    presets=config.PRESETS,
    memory=training.memory,
    load=data.load,
    runs=training.runs,
    evaluate=evaluation.metrics,
    figures=figures.draw_all,
    predict=prediction.write_networks,
    source=config.SOURCE,
    source_data="the paper's chairs",
    metadata=training.metadata,
    fixed_metadata=("names",),
    calibrate=evaluation.calibrate,
    model=evaluation.model,
    columns=(
        runner.Column("squared error of reconstruction", "reconstruction_mse", ".4f"),
        runner.Column("corr^2 of azimuth", "corr2_azimuth", ".2f"),
        runner.Column("gain of novel azimuths", "gain_azimuth", ".2f"),
    ),
)
train, load = runner.bound(EXPERIMENT)
