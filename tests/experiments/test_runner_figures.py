"""Figures as they are saved."""

import numpy as np
from PIL import Image

from experiments import runner


def _ink(folder, name, values, **options):
    figure = runner.new_figure(figsize=(2, 2))
    axes = figure.subplots()
    axes.set_axis_off()
    axes.plot(np.arange(len(values)), values, **options)
    runner.save_figures([(name, figure)], folder)
    return np.mean(np.asarray(Image.open(folder / f"{name}.png").convert("L")) < 250)


def test_a_line_of_one_point_is_seen_and_longer_ones_stay_as_they_are(tmp_path):
    assert _ink(tmp_path, "one", [1.0]) > 0
    assert _ink(tmp_path, "one finite", [np.nan, 1.0, np.nan]) > 0
    assert _ink(tmp_path, "none", [np.nan]) == 0
    many = _ink(tmp_path, "many", [1.0, 2.0])
    marked = _ink(tmp_path, "dots", [1.0, 2.0], marker="o")
    assert 0 < many < marked
