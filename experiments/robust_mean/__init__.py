"""Robust mean: learn the width of a kernel through the minimiser of its energy (Fig. 2).

  python -m experiments.robust_mean --workdir=runs/robust_mean

Ten inliers hide among a hundred outliers on a line. The estimate is the lowest minimum of
E(y; s) = -sum_i exp(-(x_i - y)^2 / s^2). Training the width s reduces the squared error of the
estimate, by implicit gradients without damping (Samuel and Tappen, CVPR 2009), with lambda = 0.1
(Wibergian learning, NeurIPS 2019), and by this library's guarded rules `shift` and `order4`. All
methods train on the same samples.
"""

from experiments import runner
from experiments.robust_mean import evaluation, figures, prediction, training
from experiments.robust_mean.training import Config

__all__ = ["EXPERIMENT", "Config", "load", "train"]

EXPERIMENT = runner.Experiment(
    name="robust_mean",
    config=training.Config,
    presets=training.PRESETS,
    memory=training.memory,
    load=lambda config: None,
    runs=training.runs,
    evaluate=evaluation.evaluate,
    figures=figures.draw_all,
    predict=prediction.predict,
    model=evaluation.model,
    columns=(
        runner.Column("loss on fresh samples", "loss", ".1f"),
        runner.Column("final width^2", "sigma2", ".0f"),
        runner.Column("largest gradient", "largest_gradient", ".3g"),
    ),
    rows=evaluation.ROWS,
    x64=True,
)
train, load = runner.bound(EXPERIMENT)
