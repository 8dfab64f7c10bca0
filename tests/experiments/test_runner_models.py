"""What outlives a training: its model without any data, more steps, others that begin there."""

import dataclasses
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments import runner
from experiments.runner import records, results, saved, settings
from jaxcv.systems import load_model


@pytest.fixture
def alone(undisturbed, tmp_path):
    """What a user takes to another machine: neither checkpoints nor figures nor data."""
    folder = tmp_path / "alone"
    shutil.copytree(undisturbed / "model", folder / "model")
    for name in ("config.json", "metrics.jsonl"):
        shutil.copy(undisturbed / name, folder)
    return folder


def test_the_runs_keep_their_order(undisturbed):
    assert list(saved.read_runs(undisturbed, None)) == ["resident", "batched"]


def lines_of(folder, run):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["run"] == run]


def test_the_model_is_the_best_on_validation_and_needs_no_data(toy, alone):
    forbidden = lambda *_: pytest.fail("data were read")
    experiment = dataclasses.replace(toy.EXPERIMENT, load=forbidden, runs=forbidden)
    params = saved.read_runs(alone, "toy_experiment")["batched"].params
    errors = lines_of(alone, "batched")[-1]["error"]
    model = runner.load(experiment, alone)
    assert model.card["trial"] == int(np.argmin(errors))
    assert model.params["scale"] == params["b"][model.card["trial"]]
    for trial in (0, 1):
        assert runner.load(experiment, alone, trial=trial).params["scale"] == params["b"][trial]
    with pytest.raises(settings.ConfigError, match="`trial`: expected a number from 0 to 1, got 2"):
        runner.load(experiment, alone, trial=2)


def test_a_model_is_read_where_only_the_library_is(alone):
    code = (
        "from jaxcv.systems import load_model\n"
        f"print(float(load_model({str(alone)!r}).params['scale']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert float(done.stdout) == float(load_model(alone / "model").params["scale"])


def test_a_damaged_model_is_one_line(toy, alone):
    path = alone / "model" / "runs.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(
        records.FolderError, match=r"runs\.safetensors`: expected the arrays of its"
    ):
        runner.load(toy.EXPERIMENT, alone, trial=0)
    (alone / "model" / "model.safetensors").write_bytes(whole)
    with pytest.raises(records.FolderError, match="expected the file of a model"):
        runner.load(toy.EXPERIMENT, alone)
    with pytest.raises(records.FolderError, match="`workdir`: expected the work folder"):
        runner.load(toy.EXPERIMENT, alone / "nowhere")


def test_more_steps_lengthen_a_finished_training(toy, undisturbed, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(undisturbed, folder)
    before = lines_of(folder, "batched")
    result = runner.train(toy.EXPERIMENT, toy.Config(steps=31), folder)
    after = lines_of(folder, "batched")
    assert after[: len(before)] == before
    assert [line["step"] for line in after[len(before) :]] == [24, 28, 31]
    # The toy's steps do not know how many there will be: as if it had been asked for 31 at once.
    at_once = runner.train(toy.EXPERIMENT, toy.Config(steps=31), tmp_path / "at_once")
    jax.tree.map(np.testing.assert_array_equal, result.params, at_once.params)
    with pytest.raises(records.FolderError, match="steps = 31 there, 23 here"):
        runner.train(toy.EXPERIMENT, toy.Config(), folder)
    with pytest.raises(records.FolderError, match="seed = 0 there, 1 here; steps = 31 there"):
        runner.train(toy.EXPERIMENT, toy.Config(steps=40, seed=1), folder)


def test_a_training_begins_with_the_parameters_of_another(toy, undisturbed, tmp_path):
    want = saved.read_runs(undisturbed, None)
    first = {}

    def runs(config, data):
        out = toy.runs(config, data)
        return {name: dataclasses.replace(run, steps=0) for name, run in out.items()}

    def evaluate(config, data, trained):
        first.update(trained)
        return {}

    experiment = dataclasses.replace(
        toy.EXPERIMENT, runs=runs, evaluate=evaluate, figures=lambda *_: (), model=None
    )
    runner.train(experiment, toy.Config(seed=4), tmp_path / "a", init_from=undisturbed)
    for name, run in first.items():
        jax.tree.map(np.testing.assert_array_equal, run.params, want[name].params)
    saved_config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert saved_config["init_from"] == str(undisturbed)
    with pytest.raises(records.FolderError, match=r"init_from = .* there, None here"):
        runner.train(experiment, toy.Config(seed=4), tmp_path / "a")
    with pytest.raises(records.FolderError, match=r"`init_from`: expected params.*'w'.*\[2, 4\]"):
        runner.train(toy.EXPERIMENT, toy.Config(width=4), tmp_path / "b", init_from=undisturbed)
    with pytest.raises(records.FolderError, match="`init_from`: expected the work folder"):
        runner.train(toy.EXPERIMENT, toy.Config(), tmp_path / "c", init_from=tmp_path)


def test_a_result_prints_itself_beside_the_source(toy, undisturbed, tmp_path):
    result = runner.evaluate(toy.EXPERIMENT, None, tmp_path, undisturbed)
    text = str(result)
    assert "method" in text
    assert "batched" in text
    assert "(source 0)" in text
    assert f"figures: {tmp_path / 'figures'}" in text
    assert set(result.params) == {"resident", "batched"}
    assert result["environment"]["config_hash"]


def test_the_table_shows_means_and_standard_errors():
    metrics = {"a/mm": [1.0, 2.0, 3.0], "b/mm": 4.0, "b/deg": None, "c_over_a/mm": 1.0}
    columns = (results.Column("error [mm]", "mm", ".1f"), results.Column("angle", "deg"))
    lines = results.table(metrics, {"b/mm": 5.0}, columns, rows=("b", "a"))
    assert [line.split() for line in lines] == [
        ["method", "error", "[mm]", "angle"],
        ["b", "4.0", "(source", "5.0)", "nan"],
        ["a", "2.0", "+-", "0.6"],
    ]
