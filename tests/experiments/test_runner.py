"""Whole runs: as a command that is killed and given again, and as a call."""

import asyncio
import dataclasses
import json
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import runner
from jaxcv import training


def tree_of(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def params_of(toy, folder):
    """The params in the last checkpoints, as orbax reads them."""
    import orbax.checkpoint as ocp

    out = {}
    for run in ("resident", "batched"):
        with ocp.StandardCheckpointer() as checkpointer:
            out[run] = checkpointer.restore(folder / "checkpoints" / run / "23" / "state")
    return out


def assert_identical(x, y):
    assert jax.tree.structure(x) == jax.tree.structure(y)
    jax.tree.map(np.testing.assert_array_equal, x, y)


def test_killed_run_ends_with_the_same_bits(toy, run_toy, undisturbed, tmp_path):
    command = [f"--workdir={tmp_path}"]
    during_save = run_toy(*command, TOY_DIE_IN_SAVE="2")
    assert during_save.returncode == -signal.SIGKILL
    resident = tmp_path / "checkpoints" / "resident"
    assert (resident / "16.orbax-checkpoint-tmp").is_dir()
    assert not (resident / "16").exists()
    assert '"step": 16' in (tmp_path / "metrics.jsonl").read_text()
    # As if it had died in the middle of a line as well.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"run": "resident", "st')

    during_step = run_toy(*command, TOY_DIE_AT_STEP="18")
    assert during_step.returncode == -signal.SIGKILL
    assert "resident: goes on from step 8" in during_step.stderr
    assert (tmp_path / "checkpoints" / "batched" / "8").is_dir()
    assert not (tmp_path / "results.json").exists()

    last = run_toy(*command)
    assert last.returncode == 0, last.stderr
    assert "resident: finished before" in last.stderr
    assert "batched: goes on from step 8" in last.stderr

    for name in ("metrics.jsonl", "config.json"):
        assert (tmp_path / name).read_bytes() == (undisturbed / name).read_bytes()
    assert_identical(params_of(toy, tmp_path), params_of(toy, undisturbed))
    resumed, whole = results_of(tmp_path), results_of(undisturbed)
    assert resumed["metrics"] == whole["metrics"]
    assert resumed["environment"]["config_hash"] == whole["environment"]["config_hash"]
    assert (tmp_path / "figures" / "loss.png").stat().st_size > 0


def test_ctrl_c_saves_and_says_how_to_go_on(toy, run_toy, undisturbed, tmp_path):
    # Batches are made one call ahead: that of step 13 before step 12 is logged.
    stopped = run_toy(f"--workdir={tmp_path}", TOY_INTERRUPT_AT_STEP="13")
    assert stopped.returncode == 130
    assert "Traceback" not in stopped.stderr
    last = stopped.stderr.strip().splitlines()[-1]
    assert last == "stopped: batched is saved at step 12 of 23. Run the same command to resume."
    again = run_toy(f"--workdir={tmp_path}")
    assert again.returncode == 0, again.stderr
    assert "batched: goes on from step 12" in again.stderr
    assert_identical(params_of(toy, tmp_path), params_of(toy, undisturbed))
    assert (tmp_path / "metrics.jsonl").read_bytes() == (undisturbed / "metrics.jsonl").read_bytes()


def test_results_have_the_documented_keys(undisturbed):
    results = results_of(undisturbed)
    assert list(results) == ["experiment", "config", "metrics", "source", "environment"]
    assert results["experiment"] == "toy_experiment"
    assert results["config"]["learning_rate"] == [0.05, 0.1]
    assert len(results["metrics"]["batched/error"]) == 2
    assert results["metrics"]["batched/nothing"] is None
    assert results["source"] == {"batched/error": 0.0}
    environment = results["environment"]
    assert sorted(environment) == [
        "command", "commit", "config_hash", "device", "seconds", "versions",
    ]  # fmt: skip
    assert f"--workdir={undisturbed}" in environment["command"]
    assert environment["versions"]["jax"] == jax.__version__
    assert environment["seconds"] > 0


def test_finished_run_is_not_trained_again(toy, undisturbed, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(undisturbed, folder)
    before = tree_of(folder)

    def forbidden(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(training.Sweep, "run", forbidden)
    monkeypatch.setattr(training.Sweep, "init", forbidden)
    results = runner.train(toy.EXPERIMENT, toy.Config(), folder)
    assert results["metrics"] == results_of(undisturbed)["metrics"]
    assert results["environment"]["command"] is None
    after = tree_of(folder)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert changed <= {"results.json", "figures/loss.png", "model/seconds.json"}
    # The time of the training is kept.
    spent = results_of(undisturbed)["environment"]["seconds"]
    assert results["environment"]["seconds"] == pytest.approx(spent, rel=0.5)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_damaged_last_checkpoint_costs_only_the_steps_since(toy, undisturbed, tmp_path, caplog):
    folder = tmp_path / "copy"
    shutil.copytree(undisturbed, folder)
    damaged = folder / "checkpoints" / "batched" / "23"
    for path in damaged.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    results = runner.train(toy.EXPERIMENT, toy.Config(), folder)
    assert f"{damaged} cannot be read" in caplog.text
    assert results["metrics"] == results_of(undisturbed)["metrics"]
    assert (folder / "metrics.jsonl").read_bytes() == (undisturbed / "metrics.jsonl").read_bytes()
    assert_identical(params_of(toy, folder), params_of(toy, undisturbed))


def test_evaluate_and_predict_only_read_the_training(toy, undisturbed, tmp_path):
    before = tree_of(undisturbed)
    for checkpoint in (undisturbed, str(undisturbed / "checkpoints")):
        results = runner.evaluate(toy.EXPERIMENT, None, tmp_path / "e", checkpoint)
        assert results["metrics"] == results_of(undisturbed)["metrics"]
        assert results.record == results_of(tmp_path / "e")
    assert (tmp_path / "e" / "figures" / "loss.png").exists()
    folder = runner.predict(toy.EXPERIMENT, toy.Config(), tmp_path / "p", undisturbed)
    assert folder == tmp_path / "p"
    weights = json.loads((folder / "weights.json").read_text())
    np.testing.assert_array_equal(
        np.asarray(weights, np.float32), params_of(toy, undisturbed)["batched"]["params"]["w"]
    )
    assert tree_of(undisturbed) == before


def test_evaluation_outlives_its_figures(toy, undisturbed, tmp_path, caplog):
    # Only the model was kept: there is no history to draw, and none to evaluate with.
    source = tmp_path / "moved"
    shutil.copytree(undisturbed / "model", source / "model")
    shutil.copy(undisturbed / "config.json", source)

    def figures(config, data, trained, metrics):
        yield "loss.png", trained["batched"].history["loss"]

    experiment = dataclasses.replace(
        toy.EXPERIMENT,
        evaluate=lambda config, data, trained: {"b": trained["batched"].params["b"]},
        figures=figures,
    )
    results = runner.evaluate(experiment, None, tmp_path / "e", source)
    assert len(results["metrics"]["b"]) == 2
    assert "figures cannot be made" in caplog.text


def test_commands_evaluate_and_predict(run_toy, undisturbed, tmp_path):
    done = run_toy(
        f"--workdir={tmp_path}", "--mode=evaluate", f"--checkpoint={undisturbed}",
        "--data_dir=elsewhere",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    config = results_of(tmp_path)["config"]
    assert config == results_of(undisturbed)["config"] | {"data_dir": "elsewhere"}
    assert "Traceback" not in done.stderr

    refused = run_toy(f"--workdir={undisturbed}", "--seed=3")
    assert refused.returncode == 1
    assert "error: `workdir`: " in refused.stderr
    assert "seed = 0 there, 3 here. Use another --workdir." in refused.stderr
    assert "Traceback" not in refused.stderr


def small_experiment(toy, **changes):
    """A float64 fit of one number, without host batches."""

    def runs(config, data):
        def loss(params, batch, key, trial):
            return (params - batch) ** 2, {"params": params}

        run = dict(
            init=lambda key, trial: jnp.zeros(()),
            loss=loss,
            optimizer=lambda: optax.sgd(0.1),
            hyperparameters=(),
            steps=config.steps,
            data=1 / 3,
        )
        return {"one": runner.Run(**(run | changes))}

    return runner.Experiment(
        name="small",
        config=toy.Config,
        presets={"default": toy.Config()},
        load=lambda config: None,
        runs=runs,
        evaluate=lambda config, data, trained: {"params": trained["one"].params},
        figures=lambda *_: (),
        x64=True,
    )


def test_double_precision_and_one_unnamed_trial(toy, tmp_path):
    seen = {}
    experiment = small_experiment(toy)

    def evaluate(config, data, trained):
        seen.update(trained)
        return {}

    experiment = dataclasses.replace(experiment, evaluate=evaluate)
    for folder in (tmp_path / "a", tmp_path / "a"):  # the second reads the checkpoint
        runner.train(experiment, toy.Config(steps=7, seed=5), folder)
        params = seen["one"].params
        assert params.dtype == np.float64
        np.testing.assert_allclose(params, [(1 - 0.8**7) / 3], rtol=1e-14)
        np.testing.assert_array_equal(seen["one"].trials["seed"], [5])
        assert seen["one"].history["loss"].shape == (1, 1)
    assert jnp.zeros(()).dtype == np.float32  # the mode ends with the run


def test_summaries_and_log_points(toy, tmp_path):
    seen = {}
    experiment = small_experiment(
        toy, log_every=3, summaries={"params": "last", "loss": "max", "gradient_norm": "min"}
    )

    def evaluate(config, data, trained):
        seen.update(trained)
        return {}

    experiment = dataclasses.replace(experiment, evaluate=evaluate)
    runner.train(experiment, toy.Config(steps=7), tmp_path)
    history = seen["one"].history
    np.testing.assert_array_equal(history["step"], [3, 6, 7])
    errors = 0.8 ** np.arange(7) / 3
    np.testing.assert_allclose(history["loss"][:, 0], errors[[0, 3, 6]] ** 2)
    np.testing.assert_allclose(history["gradient_norm"][:, 0], 2 * errors[[2, 5, 6]])
    np.testing.assert_allclose(history["params"][:, 0], 1 / 3 - errors[[2, 5, 6]])
    np.testing.assert_array_equal(history["skipped"], np.zeros((3, 1)))


def test_one_compilation_per_chunk_length(toy, tmp_path):
    traces, asked = [], []

    def loss(params, batch, key, trial):
        traces.append(1)
        return (params - batch) ** 2, {}

    def batches(step):
        asked.append(step)
        return np.float64(step)

    experiment = small_experiment(toy, loss=loss, batches=batches, log_every=4, steps_per_call=3)
    runner.train(experiment, toy.Config(steps=10), tmp_path)
    assert asked == list(range(10))
    assert len(traces) == 1  # 4 = 2 + 2: 3 steps at once would need a call of another length


def test_broken_trial_is_null_and_its_neighbour_is_untouched(toy, undisturbed, tmp_path):
    results = runner.train(toy.EXPERIMENT, toy.Config(broken=0), tmp_path)
    whole = results_of(undisturbed)["metrics"]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    batched = [line for line in lines if line["run"] == "batched"]
    assert all(line["loss"][1] is None for line in batched)
    assert [line["skipped"] for line in batched] == [[0.0, 4.0]] * 5 + [[0.0, 3.0]]
    assert results["metrics"]["batched/error"][0] == pytest.approx(whole["batched/error"][0])


def test_zero_steps_evaluate_the_start(toy, tmp_path):
    results = runner.train(small_experiment(toy, steps=0), toy.Config(), tmp_path)
    assert results["metrics"] == {"params": [0.0]}
    assert runner.train(small_experiment(toy, steps=0), toy.Config(), tmp_path)["metrics"] == {
        "params": [0.0]
    }


@pytest.mark.parametrize(("name", "kind"), [("lz4", runner.DataError), ("jaxcv", ImportError)])
def test_a_package_that_is_missing_is_named_with_its_installation(toy, tmp_path, name, kind):
    def load(config):
        raise ModuleNotFoundError(f"No module named '{name}.block'", name=f"{name}.block")

    broken = dataclasses.replace(small_experiment(toy), load=load)
    with pytest.raises(kind, match=f"{name}.block") as caught:
        runner.train(broken, toy.Config(), tmp_path)
    assert ("pip install" in str(caught.value)) == (name == "lz4")


def test_notebook_with_a_running_event_loop(toy, tmp_path):
    async def run():
        return runner.train(small_experiment(toy), toy.Config(steps=2), tmp_path)

    assert "params" in asyncio.run(run())["metrics"]


def test_a_run_goes_on_from_an_earlier_one(toy, tmp_path):
    """Trained in stages, evaluated from its checkpoints, and refused in a wrong order."""

    def staged(config, data):
        first = toy.runs(config, data)["resident"]
        start = lambda key, trial, before: {"w": before["w"], "b": before["b"] + 1}
        return {
            "first": first,
            "second": dataclasses.replace(first, init=start, init_from="first", steps=0),
        }

    def evaluate(config, data, trained):
        return {name: run.params["b"] for name, run in trained.items()}

    staging = dataclasses.replace(
        toy.EXPERIMENT, runs=staged, evaluate=evaluate, figures=lambda *_: (), source={}, model=None
    )
    config = toy.Config(steps=4)
    metrics = runner.train(staging, config, tmp_path / "a")["metrics"]
    np.testing.assert_allclose(metrics["second"], np.asarray(metrics["first"]) + 1, rtol=1e-6)
    again = runner.evaluate(staging, None, tmp_path / "b", tmp_path / "a")["metrics"]
    assert again == metrics

    turned = lambda config, data: dict(reversed(staged(config, data).items()))
    wrong = dataclasses.replace(staging, runs=turned)
    with pytest.raises(
        ValueError, match=r"`second\.init_from`: expected one of the runs before it"
    ):
        runner.train(wrong, config, tmp_path / "c")
    fewer = lambda config, data: {
        name: dataclasses.replace(run, trials={"learning_rate": np.ones(1), "weak": np.zeros(1)})
        if name == "second"
        else run
        for name, run in staged(config, data).items()
    }
    wrong = dataclasses.replace(staging, runs=fewer)
    with pytest.raises(ValueError, match=r"`second\.trials`: expected as many trials.*2, got 1"):
        runner.train(wrong, config, tmp_path / "d")
