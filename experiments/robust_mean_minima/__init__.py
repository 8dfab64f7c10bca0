"""Robust mean: learn the width of a kernel although another minimum may become the lowest.

  python -m experiments.robust_mean_minima --workdir=runs/robust_mean_minima

An implicit gradient follows one minimum as it moves and misses the change of the lowest minimum.
With this gradient alone the width of `robust_mean` ends far above the best width. Here the loss is
the expected loss over the lowest minima, weighted by exp(-energy / T), whose gradient includes both
effects. The final widths are compared with a scan of widths on fresh samples.
"""

from experiments import runner
from experiments.robust_mean_minima import evaluation, figures, training
from experiments.robust_mean_minima.training import Config

__all__ = ["EXPERIMENT", "Config", "load", "train"]

EXPERIMENT = runner.Experiment(
    name="robust_mean_minima",
    config=training.Config,
    presets=training.PRESETS,
    memory=training.memory,
    load=lambda config: None,
    runs=training.runs,
    evaluate=evaluation.evaluate,
    figures=figures.draw_all,
    model=evaluation.model,
    system="robust_mean",
    columns=(
        runner.Column("final width^2", "sigma2", ".0f"),
        runner.Column("seeds within 2% of the best width", "within", ".0f"),
    ),
    x64=True,
)
train, load = runner.bound(EXPERIMENT)
