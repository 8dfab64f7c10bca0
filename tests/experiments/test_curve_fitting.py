"""The curve fitting on a few problems: rows, files, figures, what a training may see."""

import dataclasses
import json

import numpy as np
import pytest

from experiments import curve_fitting, runner
from experiments.curve_fitting import training

CONFIG = training.Config(steps=2, num_test=20, num_problems=2, hidden=4, iterations=2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("curve_fitting")
    return folder, curve_fitting.train(CONFIG, folder)


@pytest.mark.slow
def test_rows_files_and_figures(trained):
    folder, _ = trained
    metrics = json.loads((folder / "results.json").read_text())["metrics"]
    for row in ("learned", "lm", "lm_tuned"):
        for family in training.NAMES:
            for k in (1, 3, 5, 10, 15):
                assert metrics[f"{row}/{family}/energy_median_{k}"] > 0
            assert 0 <= metrics[f"{row}/{family}/solved_15"] <= 1
    assert metrics["lm/us_an_iteration"] > 0
    for name in ("fits", "energies", "scatter", "solved"):
        assert (folder / "figures" / f"{name}.png").stat().st_size > 10_000


@pytest.mark.slow
def test_predictions_are_those_of_the_metrics(trained, tmp_path):
    folder, results = trained
    out = runner.predict(curve_fitting.EXPERIMENT, None, tmp_path / "fits", folder)
    with np.load(out / "fits.npz") as fits:
        assert fits["learned"].shape == fits["lm"].shape == (15, 4, 20, 2)
        x, t, y = fits["learned"][14, 1], fits["t"][1], fits["y"][1]
        energy = 0.5 * np.sum((np.sin(x[:, :1] * t + x[:, 1:]) - y) ** 2, axis=1)
        want = results["metrics"]["learned/sine/energy_median_15"]
        np.testing.assert_allclose(np.median(energy), want, rtol=1e-4)


@pytest.mark.slow
def test_networks_of_one_family_are_put_together(tmp_path):
    config = dataclasses.replace(CONFIG, each_family=True, ablations=True)
    metrics = curve_fitting.train(config, tmp_path / "w")["metrics"]
    for row in ("own", "shown_paper", "shown_gradient", "constant_encoding"):
        assert metrics[f"{row}/gaussian/energy_median_15"] > 0
    assert not any(key.startswith("own.sine/sine") for key in metrics)


def test_points_that_bins_cannot_share(tmp_path):
    with pytest.raises(runner.DataError, match=r"`num_points`: expected a multiple of 10, got 33"):
        curve_fitting.train(training.Config(num_points=33), tmp_path / "w")
