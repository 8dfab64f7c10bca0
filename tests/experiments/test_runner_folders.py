"""What a run refuses, and what it writes: the work folder, records, checkpoints of others."""

import dataclasses
import errno
import json
import os
import shutil
import types

import numpy as np
import pytest

from experiments import runner
from experiments.runner import loop, records
from experiments.runner.metrics_file import MetricsFile
from jaxcv import training


@pytest.fixture
def unloadable(toy):
    """The toy experiment, which fails if anything is computed."""

    def load(config):
        raise AssertionError("computed something")

    return dataclasses.replace(toy.EXPERIMENT, load=load)


def test_workdir_that_is_a_file(toy, unloadable, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(records.FolderError, match="`workdir`: expected a folder, got the file"):
        runner.train(unloadable, toy.Config(), tmp_path / "file")
    with pytest.raises(records.FolderError, match="`workdir`: expected a folder that can be"):
        runner.train(unloadable, toy.Config(), tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine"


def test_workdir_that_cannot_be_written(toy, unloadable, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(records.tempfile, "TemporaryFile", refuse)
    with pytest.raises(records.FolderError, match=r"that can be written, got .*Permission denied"):
        runner.train(unloadable, toy.Config(), tmp_path / "w")


def test_workdir_of_another_config(toy, unloadable, undisturbed):
    before = {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*")}
    other = toy.Config(seed=1, learning_rate=(0.5,))
    with pytest.raises(records.FolderError) as error:
        runner.train(unloadable, other, undisturbed)
    assert "learning_rate = [0.05, 0.1] there, [0.5] here; seed = 0 there, 1 here" in str(
        error.value
    )
    assert str(error.value).endswith("Use another --workdir.")
    assert {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*")} == before


def test_workdir_in_which_another_process_trains(toy, unloadable, tmp_path):
    with (
        records.only_writer(tmp_path),
        pytest.raises(records.FolderError, match=r"no other process uses, got .* Wait for"),
    ):
        runner.train(unloadable, toy.Config(), tmp_path)
    with pytest.raises(AssertionError, match="computed something"):  # it was let go
        runner.train(unloadable, toy.Config(), tmp_path)


def test_a_refused_command_changes_nothing(toy, unloadable, tmp_path):
    with pytest.raises(AssertionError, match="computed something"):
        runner.train(unloadable, toy.Config(), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with records.only_writer(tmp_path), pytest.raises(records.FolderError, match="no other"):
        runner.train(unloadable, toy.Config(seed=1), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["config.json", "model/seconds.json"])
def test_what_is_no_json_of_a_training_is_one_line(toy, unloadable, undisturbed, tmp_path, name):
    folder = tmp_path / "training"
    shutil.copytree(undisturbed, folder)
    evaluate = lambda: runner.evaluate(toy.EXPERIMENT, None, tmp_path / "out", folder)
    for text in ("[" * 5000 + "]" * 5000, "[1]", "3", "", '{"experiment": 3}'):
        if name == "model/seconds.json" and text.startswith("{"):
            continue
        (folder / name).write_text(text)
        last = name.split("/")[-1]
        with pytest.raises(records.FolderError, match=rf"{last}`: expected .* from a training"):
            evaluate()
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(records.FolderError, match="no regular file"):
        evaluate()


def test_workdir_of_another_experiment(toy, unloadable, undisturbed):
    other = dataclasses.replace(unloadable, name="other")
    with pytest.raises(records.FolderError, match="of the experiment 'other', got 'toy_exp"):
        runner.train(other, toy.Config(), undisturbed)


def test_workdir_with_an_unreadable_config(toy, unloadable, tmp_path):
    (tmp_path / "config.json").write_text('{"experiment": "toy_')
    with pytest.raises(records.FolderError, match=r"config.json`: expected .* from a training"):
        runner.train(unloadable, toy.Config(), tmp_path)


def test_a_changed_setting_is_an_error(toy, unloadable, undisturbed, tmp_path):
    folder = tmp_path / "training"
    shutil.copytree(undisturbed, folder)
    saved = json.loads((folder / "config.json").read_text())
    for change in ({"shift": 9.0}, {"shift": None}):
        config = {k: v for k, v in (saved["config"] | change).items() if v is not None}
        (folder / "config.json").write_text(json.dumps(saved | {"config": config}))
        with pytest.raises(records.FolderError, match=r"config.json`: expected the settings as"):
            runner.evaluate(unloadable, None, tmp_path / "out", folder)
        with pytest.raises(records.FolderError, match=r"config.json`: expected the settings as"):
            runner.train(unloadable, toy.Config(), folder)


def test_a_training_from_before_a_setting_existed_is_evaluated(toy, undisturbed, tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Newer(toy.Config):
        fresh: int = runner.flag(3, "A setting of today.", lower=0)

    experiment = dataclasses.replace(toy.EXPERIMENT, config=Newer)
    result = runner.evaluate(experiment, None, tmp_path / "new", undisturbed)
    want = runner.evaluate(toy.EXPERIMENT, None, tmp_path / "old", undisturbed)
    assert result.metrics == want.metrics
    assert json.loads((tmp_path / "new" / "config.json").read_text())["config"]["fresh"] == 3


def test_evaluation_into_the_training_is_refused(toy, unloadable, undisturbed):
    with pytest.raises(records.FolderError, match="expected a folder without a training"):
        runner.evaluate(unloadable, None, undisturbed, undisturbed)


def test_missing_and_foreign_checkpoints(toy, unloadable, undisturbed, tmp_path):
    workdir = tmp_path / "w"
    for missing in (None, "", tmp_path / "nowhere", tmp_path):
        with pytest.raises(records.FolderError, match="`checkpoint`: expected the work folder"):
            runner.evaluate(unloadable, None, workdir, missing)
    other = dataclasses.replace(unloadable, name="other")
    with pytest.raises(records.FolderError, match=r"a training of 'other' in .* 'toy_experiment'"):
        runner.predict(other, None, workdir, undisturbed)
    assert not workdir.exists()


def test_params_of_another_model_are_not_gone_on_from(toy, undisturbed, tmp_path):
    wider = lambda config: dataclasses.replace(config, width=4)
    changed = dataclasses.replace(
        toy.EXPERIMENT, runs=lambda config, _: toy.runs(wider(config), toy.load(wider(config)))
    )
    folder = tmp_path / "copy"
    shutil.copytree(undisturbed, folder)
    with pytest.raises(training.CheckpointError, match=r"float32\[2, 4\].*got.*float32\[2, 3\]"):
        runner.train(changed, toy.Config(), folder)


def test_evaluation_may_change_the_data_only(toy, unloadable, undisturbed, tmp_path):
    with pytest.raises(ValueError, match="`width`: expected 3, with which the model was trained"):
        runner.evaluate(unloadable, toy.Config(width=4), tmp_path / "w", undisturbed)
    assert not (tmp_path / "w").exists()
    with pytest.raises(AssertionError, match="computed something"):
        runner.evaluate(unloadable, toy.Config(data_dir="elsewhere"), tmp_path / "w", undisturbed)


def test_a_folder_that_would_not_be_read_is_an_error(toy, unloadable, tmp_path):
    with pytest.raises(ValueError, match="`data_dir`: is not read with --data=synthetic"):
        runner.train(unloadable, toy.Config(data_dir="mine"), tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_a_mistaken_command_leaves_its_folder_usable(toy, unloadable, tmp_path):
    with pytest.raises(AssertionError, match="computed something"):
        runner.train(unloadable, toy.Config(seed=3), tmp_path)
    with pytest.raises(AssertionError, match="computed something"):
        runner.train(unloadable, toy.Config(seed=4), tmp_path)
    assert records.read_config(tmp_path)["config"]["seed"] == 4


def test_an_unfinished_training_has_no_model(toy, undisturbed, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(undisturbed, source)
    (source / "model" / "runs.safetensors").unlink()
    with pytest.raises(records.FolderError, match=r"expected a finished training in .* Finish the"):
        runner.evaluate(toy.EXPERIMENT, None, tmp_path / "e", source)


def test_checkpoints_of_another_run_are_not_taken(toy, undisturbed, tmp_path):
    # Copied by hand under a new config.json: same shapes, other numbers.
    shutil.copytree(undisturbed / "checkpoints", tmp_path / "checkpoints")
    with pytest.raises(training.CheckpointError, match="with config_hash"):
        runner.train(toy.EXPERIMENT, toy.Config(seed=1), tmp_path)


def test_lost_lines_are_an_error(toy, undisturbed, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(undisturbed, folder)
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[1:]))
    with pytest.raises(records.FolderError, match=r"got 5 of 6 lines. Remove .*resident to train"):
        runner.train(toy.EXPERIMENT, toy.Config(), folder)


@pytest.mark.parametrize("finished", [False, True])
def test_a_changed_loss_is_an_error(toy, undisturbed, tmp_path, finished):
    folder = tmp_path / "copy"
    shutil.copytree(undisturbed, folder)
    if not finished:  # it would train on from step 16
        shutil.rmtree(folder / "checkpoints" / "batched" / "23")
    text = (folder / "metrics.jsonl").read_text()
    at = text.index('"loss": [', text.index('"run": "batched"'))
    (folder / "metrics.jsonl").write_text(text[:at] + text[at:].replace("[", "[1", 1))
    with pytest.raises(
        records.FolderError, match=r"lines of 'batched' that belong .*got other lines"
    ):
        runner.train(toy.EXPERIMENT, toy.Config(), folder)
    with pytest.raises(
        records.FolderError, match=r"lines of 'batched' that belong .*got other lines"
    ):
        runner.evaluate(toy.EXPERIMENT, None, tmp_path / "out", folder)


def test_prediction_that_the_experiment_does_not_make(toy, undisturbed, tmp_path):
    experiment = dataclasses.replace(toy.EXPERIMENT, predict=None)
    with pytest.raises(ValueError, match="makes no predictions"):
        runner.predict(experiment, None, tmp_path, undisturbed)


@pytest.mark.parametrize("name", ["a/b", "", "..", "a b"])
def test_names_of_runs_can_be_file_names(toy, tmp_path, name):
    experiment = dataclasses.replace(toy.EXPERIMENT, runs=lambda config, data: {name: None})
    with pytest.raises(ValueError, match="`runs`: expected names of runs"):
        runner.train(experiment, toy.Config(), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"log_every": 0}, "`resident.log_every`: expected at least 1, got 0"),
        ({"checkpoint_every": 0}, "`resident.checkpoint_every`"),
        ({"steps_per_call": 0}, "`resident.steps_per_call`"),
        ({"steps": -1}, "`resident.steps`: expected at least 0"),
        ({"summaries": {"loss": "median"}}, "expected one of 'mean', 'last', 'min', 'max', 'sum'"),
        ({"summaries": {"speed": "mean"}}, "`summaries`: expected names among"),
        ({"validate": lambda *_: {"loss": 0.0}}, "`validate`: these metrics are those of the loss"),
        ({"trials": {"learning_rate": np.ones((2, 2))}}, "expected a vector of numbers"),
    ],
)
def test_wrong_runs_are_named(toy, tmp_path, changes, message):
    def runs(config, data):
        run = toy.EXPERIMENT.runs(config, data)["resident"]
        return {"resident": dataclasses.replace(run, **changes)}

    experiment = dataclasses.replace(toy.EXPERIMENT, runs=runs)
    with pytest.raises(ValueError, match=message):
        runner.train(experiment, toy.Config(steps=1), tmp_path)


def test_log_points_do_not_depend_on_the_start():
    run = types.SimpleNamespace(steps=23, log_every=5)
    points = list(loop.log_points(run))
    assert points == [(0, 5), (5, 10), (10, 15), (15, 20), (20, 23)]
    for begin in (5, 20, 23):
        assert list(loop.log_points(run, begin)) == [p for p in points if p[0] >= begin]


def test_stacked_batches_stay_small(monkeypatch):
    def lengths(steps_per_call=None, begin=0):
        run = types.SimpleNamespace(
            steps=14,
            log_every=6,
            steps_per_call=steps_per_call,
            batches=lambda step: np.zeros(100, np.uint8),
        )
        feed, out = loop._Feed(run, begin), []
        while feed._next is not None:
            out.append(feed.take()[0])
            feed.prepare()
        return out

    assert lengths() == [6, 6, 2]
    assert lengths(steps_per_call=1) == [1] * 14
    assert lengths(steps_per_call=100) == [6, 6, 2]
    monkeypatch.setattr(loop, "_STACK_BYTES", 350)
    assert lengths() == [3, 3, 3, 3, 2]
    assert lengths(begin=12) == [2]
    monkeypatch.setattr(loop, "_STACK_BYTES", 1)
    assert lengths() == [1] * 14


def test_json_holds_null_for_what_is_not_finite():
    value = [1, np.float32(0.5), np.asarray([np.nan, -np.inf, 2.0]), (True, None)]
    assert records.json_ready("key", value) == [1, 0.5, [None, None, 2.0], [1, None]]
    assert records.json_ready("key", float("inf")) is None
    for wrong in ("text", {"a": 1}, 1j, object()):
        with pytest.raises(ValueError, match="`key`: expected a number or a list of numbers"):
            records.json_ready("key", wrong)


def test_metrics_file_is_read_back_and_mended(tmp_path):
    path = tmp_path / "metrics.jsonl"
    written = MetricsFile(path)
    numbers = np.asarray([1 / 3, np.nan])
    written.append("a", 2, {"loss": numbers})
    written.append("a", 4, {"loss": numbers[::-1]})
    written.append("b", 2, {"loss": numbers})
    whole = path.read_text()
    assert json.loads(whole.splitlines()[0]) == {"run": "a", "step": 2, "loss": [1 / 3, None]}
    path.write_text(whole + '{"run": "b", "step": 4, "lo')

    only_read = MetricsFile(path, read_only=True)
    assert path.read_text() != whole
    mended = MetricsFile(path)
    assert path.read_text() == whole
    for file in (written, only_read, mended):
        history = file.history("a", 2)
        np.testing.assert_array_equal(history["step"], [2, 4])
        np.testing.assert_array_equal(history["loss"], [numbers, numbers[::-1]])
        assert list(file.history("c", 2)) == ["step"]

    mended.cut("a", 2, [2])
    assert [json.loads(line)["run"] for line in path.read_text().splitlines()] == ["a", "b"]
    path.write_text("not json\n" + whole)
    with pytest.raises(records.FolderError, match=r"metrics.jsonl:1`: expected one JSON record"):
        MetricsFile(path)


def test_json_is_replaced_at_once(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    records.write_json(path, {"old": 1})

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(records.os, "fsync", fail)
    with pytest.raises(records.FolderError, match=r"results.json`: .*No space left on device"):
        records.write_json(path, {"new": 1})
    assert [found.name for found in tmp_path.iterdir()] == ["results.json"]
    assert json.loads(path.read_text()) == {"old": 1}


def test_command_is_recorded_as_it_could_be_typed(monkeypatch):
    monkeypatch.setattr(records.sys, "argv", ["x.py", "--data=a b"])
    main = types.SimpleNamespace(__spec__=types.SimpleNamespace(name="experiments.x"))
    monkeypatch.setitem(records.sys.modules, "__main__", main)
    assert records.command_line() == "python -m experiments.x '--data=a b'"
    main.__spec__.name = "experiments.x.__main__"
    assert records.command_line() == "python -m experiments.x '--data=a b'"
    main.__spec__ = None
    assert records.command_line() == "python x.py '--data=a b'"


def test_commit_is_null_outside_git(monkeypatch, tmp_path):
    monkeypatch.setattr(records, "__file__", str(tmp_path / "experiments" / "records.py"))
    assert records._commit() is None
    assert isinstance(records.environment(None, _config(), 1.0)["device"], str)


@dataclasses.dataclass(frozen=True)
class _Config:
    data: str = "synthetic"
    data_dir: str | None = None
    steps: int = 1
    seed: int = 0


def _config():
    return _Config()


@pytest.mark.parametrize("name", ["gs://bucket/runs", "s3://bucket", "a" * 5000])
def test_what_is_no_folder_of_this_machine(toy, unloadable, name):
    expected = r"`workdir`: expected a (local )?folder"
    with pytest.raises(records.FolderError, match=expected) as error:
        runner.train(unloadable, toy.Config(), name)
    assert len(str(error.value)) < 600
