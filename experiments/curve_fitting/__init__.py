"""Curve fitting: a learned least-squares solver against Levenberg-Marquardt (ECCV 2018, 7.1).

  python -m experiments.curve_fitting --workdir=runs/curve_fitting
  python -m experiments.curve_fitting --preset=study --workdir=runs/curve_fitting_study

Curves of four families with two parameters are fitted to a hundred noisy points. A recurrent
network reads J^T J, J^T r and the residual and updates the parameters fifteen times. It is trained
by backpropagation through these updates, on new problems at every step. Levenberg-Marquardt starts
at the same points, with the textbook's damping and with damping tuned for each family.
"""

from experiments import runner
from experiments.curve_fitting import evaluation, figures, training
from experiments.curve_fitting.training import Config

__all__ = ["EXPERIMENT", "Config", "load", "train"]

EXPERIMENT = runner.Experiment(
    name="curve_fitting",
    config=training.Config,
    presets=training.PRESETS,
    memory=training.memory,
    load=training.load,
    runs=training.runs,
    evaluate=evaluation.metrics,
    figures=figures.draw_all,
    predict=evaluation.write_fits,
    model=evaluation.model,
    columns=(
        runner.Column("median energy, 1 iteration", "energy_median_1", ".2f"),
        runner.Column("3", "energy_median_3", ".2f"),
        runner.Column("15", "energy_median_15", ".2f"),
        runner.Column("solved", "solved_15"),
    ),
)
train, load = runner.bound(EXPERIMENT)
