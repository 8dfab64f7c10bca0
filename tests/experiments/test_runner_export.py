"""--mode=export: the model of a training as a folder that runs without jaxcv."""

import dataclasses
import importlib.util
import json

import jax
import numpy as np
import pytest

from experiments import runner
from experiments.runner import command, records, settings
from jaxcv.io import Model
from jaxcv.systems import load_model, robust_mean
from tests.experiments.test_runner_flags import new_values

pytest.importorskip("flatbuffers")


def test_a_training_is_exported_by_the_command_line(toy, run_toy, undisturbed, tmp_path):
    out = tmp_path / "export"
    done = run_toy("--mode=export", f"--checkpoint={undisturbed}", f"--workdir={out}")
    assert done.returncode == 0, done.stderr
    assert f"python {out}/run_exported.py {out}" in done.stdout
    card = json.loads((out / "card.json").read_text())
    assert card["experiment"] == "toy_experiment"
    assert card["platforms"] == ["cpu", "cuda", "tpu"]
    read = jax.export.deserialize(bytearray((out / "function.jaxexport").read_bytes()))
    points = np.load(out / "example.npz")["points"]
    model = load_model(undisturbed)
    got = read.call(points)["mean"]
    np.testing.assert_allclose(got, robust_mean(points, model=model), rtol=1e-5)


def test_a_trial_is_exported(toy, undisturbed, tmp_path):
    folder = runner.export(toy.EXPERIMENT, tmp_path / "a", undisturbed, trial=1)
    found = load_model(folder / "params.safetensors").params["scale"]
    assert found == runner.load(toy.EXPERIMENT, undisturbed, trial=1).params["scale"]


def test_what_cannot_be_exported(toy, undisturbed, tmp_path, monkeypatch):
    out = tmp_path / "export"
    values = new_values(toy)
    values(
        ["program", "--mode=export", f"--checkpoint={undisturbed}", f"--workdir={out}", "--steps=2"]
    )
    with pytest.raises(
        settings.ConfigError, match="`steps`: does not go with --mode=export, got 2"
    ):
        command._run(toy.EXPERIMENT, values)
    for experiment, checkpoint, message in (
        (
            dataclasses.replace(toy.EXPERIMENT, model=None),
            undisturbed,
            "'toy_experiment' has no mod",
        ),
        (toy.EXPERIMENT, tmp_path, "`checkpoint`: expected the work folder of a training"),
    ):
        with pytest.raises(records.FolderError, match=message):
            runner.export(experiment, out, checkpoint)
    unknown = dataclasses.replace(
        toy.EXPERIMENT, system="relative_pose", model=lambda *_: Model({}, {}, {})
    )
    with pytest.raises(
        records.FolderError, match="`model`: expected a model of one of the systems"
    ):
        runner.export(unknown, out, undisturbed, trial=0)
    with pytest.raises(records.FolderError, match="`folder`: expected a new or empty folder"):
        runner.export(toy.EXPERIMENT, undisturbed, undisturbed)  # the training itself
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(settings.ConfigError, match=r'flatbuffers: pip install "jaxcv\[export\]"'):
        runner.export(toy.EXPERIMENT, out, undisturbed)
    assert not out.exists()
