"""The robust mean over several minima: the scan, the ends of training, the figure."""

import json

import numpy as np
import pytest

from experiments import robust_mean_minima
from experiments.robust_mean_minima import training


@pytest.mark.slow
def test_expected_loss_ends_near_the_best_width_and_the_implicit_gradient_does_not(tmp_path):
    config = training.Config(
        steps=400, num_seeds=2, protocol=("paper",), num_test=2000, num_widths=12
    )
    metrics = robust_mean_minima.train(config, tmp_path)["metrics"]
    excess = lambda method: np.asarray(metrics[f"paper/{method}/excess"])
    assert np.all(excess("expected") < 0.08)
    assert np.all(excess("implicit") > excess("expected").max())
    assert np.mean(excess("implicit")) > 0.1
    assert json.loads((tmp_path / "results.json").read_text())["experiment"] == "robust_mean_minima"
    assert (tmp_path / "figures" / "scan.png").stat().st_size > 10_000
