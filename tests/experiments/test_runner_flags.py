"""The fields of a Config: as flags, as values, and as JSON."""

import dataclasses
import importlib
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from absl import flags

from experiments import runner
from experiments.runner import command, results, settings, sweeping
from experiments.runner.help import help_text
from tests.experiments.toy_experiment import Config

RESULT = results.Result("toy", {}, {}, {}, pathlib.Path(), {})


def new_values(toy):
    flag_values = flags.FlagValues()
    runner.define_flags(toy.EXPERIMENT, flag_values)
    return flag_values


@pytest.fixture
def values(toy):
    return new_values(toy)


def given(toy, values, *arguments):
    values(["program", "--workdir=w", *arguments])
    return settings.given_fields(toy.Config, values)


def test_flags_that_are_not_given_leave_the_preset(toy, values):
    assert given(toy, values) == {}
    assert values["preset"].value == "default"
    assert values["mode"].value == "train"


def test_every_type_of_field_is_parsed(toy, values):
    assert given(
        toy, values, "--steps=5", "--data_dir=/d", "--shift=2", "--clip", "--learning_rate=0.5",
        "--learning_rate=1", "--data=x", "--seed=0",
    ) == {
        "steps": 5, "data_dir": "/d", "shift": 2.0, "clip": True, "learning_rate": (0.5, 1.0),
        "data": "x", "seed": 0,
    }  # fmt: skip


def test_none_takes_an_optional_field_back(toy, values):
    assert given(toy, values, "--shift=none", "--noclip") == {"shift": None, "clip": False}


@pytest.mark.parametrize("wrong", ["--steps=1.5", "--shift=much", "--mode=fly", "--preset=huge"])
def test_wrong_flags_are_errors(toy, values, wrong):
    with pytest.raises(flags.Error):
        given(toy, values, wrong)


def test_workdir_is_required(values):
    with pytest.raises(flags.Error, match="workdir"):
        values(["program"])


@pytest.mark.parametrize(
    ("arguments", "want"),
    [
        ((), {"steps": 23, "width": 3}),
        (("--preset=study",), {"steps": 40, "width": 5}),
        (("--preset=study", "--steps=2"), {"steps": 2, "width": 5}),
        (("--steps=2", "--preset=paper"), {"steps": 2, "width": 3}),
    ],
)
def test_given_flags_override_the_preset(toy, values, monkeypatch, arguments, want):
    seen = []
    monkeypatch.setattr(command, "train", lambda experiment, config, *_, **__: seen.append(config))
    values(["program", "--workdir=w", *arguments])
    command._run(toy.EXPERIMENT, values)
    assert {name: getattr(seen[0], name) for name in want} == want


def test_checkpoint_goes_with_the_modes_that_read_it(toy, values, tmp_path):
    values(["program", f"--workdir={tmp_path}", "--checkpoint=c"])
    with pytest.raises(ValueError, match="`checkpoint`: goes with --mode=evaluate"):
        command._run(toy.EXPERIMENT, values)


def test_a_repeated_flag_is_a_sweep(toy, values, monkeypatch, tmp_path):
    seen = []

    def trained(experiment, config, folder, **_):
        seen.append((config, folder))
        return RESULT

    monkeypatch.setattr(sweeping, "train", trained)
    flags_given = ("--steps=2", "--seed=1", "--seed=2", "--shift=none", "--shift=3")
    values(["program", f"--workdir={tmp_path}", *flags_given])
    command._run(toy.EXPERIMENT, values)
    assert [(c.steps, c.seed, c.shift) for c, _ in seen] == [
        (2, 1, None), (2, 1, 3.0), (2, 2, None), (2, 2, 3.0)
    ]  # fmt: skip
    assert seen[1][1] == tmp_path / "seed=1,shift=3.0"
    record = json.loads((tmp_path / "sweep.json").read_text())
    assert record["swept"] == {"seed": [1, 2], "shift": [None, 3.0]}
    values = new_values(toy)
    values(["program", f"--workdir={tmp_path}", "--seed=1", "--seed=1"])
    with pytest.raises(settings.ConfigError, match="`sweep`: expected values that differ"):
        command._run(toy.EXPERIMENT, values)
    values = new_values(toy)
    values(["program", f"--workdir={tmp_path}", "--width=2", "--width=0"])
    with pytest.raises(settings.ConfigError, match="`width`: expected at least 1"):
        command._run(toy.EXPERIMENT, values)  # before the first of them is trained
    assert len(seen) == 4


def test_only_trainings_are_swept(toy, values, undisturbed, tmp_path):
    more = ("--mode=evaluate", f"--checkpoint={undisturbed}", "--seed=1", "--seed=2")
    values(["program", f"--workdir={tmp_path}", *more])
    with pytest.raises(settings.ConfigError, match="`seed`: expected one value with --mode"):
        command._run(toy.EXPERIMENT, values)


def test_help_is_grouped_with_defaults_and_bounds(toy):
    text = help_text(toy.EXPERIMENT, "A toy.")
    assert text.startswith("A toy.")
    for title in ("Common", "Data", "Training", "Model"):
        assert f"\n{title}\n" in text
    assert "--steps=23" in text
    assert "At least 1." in text
    assert "--[no]clip" in text
    assert "--learning_rate=0.05,0.1 ..." in text
    assert "default, paper, study" in text
    assert max(map(len, text.splitlines())) <= 100


def test_importing_defines_no_flags():
    code = (  # orbax and absl define their own when they are imported
        "import orbax.checkpoint; from absl import app, flags; before = set(flags.FLAGS);"
        "import experiments.runner; assert set(flags.FLAGS) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, r"`steps`: expected at least 1, got 0. It is: Optimiser steps."),
        ({"steps": 2.0}, r"`steps`: expected int, got 2.0"),
        ({"steps": True}, r"`steps`: expected int, got True"),
        ({"shift": "x"}, r"`shift`: expected float or None, got 'x'"),
        ({"shift": float("nan")}, r"`shift`: expected a finite number, got nan"),
        ({"clip": 1}, r"`clip`: expected bool, got 1"),
        ({"data": "cifar"}, r"`data`: expected one of 'synthetic', got 'cifar'"),
        ({"learning_rate": 0.1}, r"`learning_rate`: expected a tuple, got 0.1"),
        ({"steps": 10**20}, r"`steps`: expected at least 1 and at most 2147483647, got 1000000"),
        ({"learning_rate": (0.1, -1.0)}, r"`learning_rate`: expected at least 0.0, got -1.0"),
    ],
)
def test_wrong_values_are_errors_without_flags_too(toy, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        runner.train(toy.EXPERIMENT, toy.Config(**changes), tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_another_type_of_config_is_an_error(toy, tmp_path):
    with pytest.raises(ValueError, match="`config`: expected Config, got"):
        runner.train(toy.EXPERIMENT, {"steps": 1}, tmp_path)


def test_upper_bound_and_both():
    config_type = dataclasses.make_dataclass(
        "Config",
        [
            ("data", str, "d"), ("data_dir", str | None, None), ("steps", int, 1),
            ("seed", int, 0), ("share", float, runner.flag(0.5, "A share.", lower=0, upper=1)),
        ],
        frozen=True,
    )  # fmt: skip
    settings.check_config(config_type, config_type(share=1))
    with pytest.raises(ValueError, match="`share`: expected at least 0 and at most 1, got 2"):
        settings.check_config(config_type, config_type(share=2))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([("data", str)], r"expected the fields .* none named \['data_dir', 'steps', 'seed'\]"),
        ([(n, str) for n in ("data", "data_dir", "steps", "seed", "mode")], "are flags already"),
        ([("data", str), ("data_dir", str), ("steps", int), ("seed", dict)], "Config.seed"),
        ([("data", str), ("data_dir", str), ("steps", int), ("seed", int | str)], "Config.seed"),
    ],
)
def test_unusable_config_types_are_errors(fields, message):
    with pytest.raises(ValueError, match=message):
        settings.kinds(dataclasses.make_dataclass("Config", fields, frozen=True))
    with pytest.raises(ValueError, match="frozen dataclass"):
        settings.kinds(dataclasses.make_dataclass("Config", fields))


def test_config_survives_json(toy):
    config = toy.Config(shift=1, learning_rate=(1, 0.5))  # whole numbers where floats are meant
    values = settings.config_to_dict(config)
    assert values["shift"] == 1.0
    assert isinstance(values["learning_rate"][0], float)
    assert settings.config_from_dict(toy.Config, values) == config
    with pytest.raises(ValueError, match=r"\['new'\] on one side only"):
        settings.config_from_dict(toy.Config, values | {"new": 1})
    older = {name: value for name, value in values.items() if name != "shift"}
    with pytest.raises(ValueError, match=r"\['shift'\] on one side only"):
        settings.config_from_dict(toy.Config, older)
    completed = settings.config_from_dict(toy.Config, older, complete=True)
    assert completed == dataclasses.replace(config, shift=toy.Config().shift)
    with pytest.raises(ValueError, match=r"\['new'\] on one side only"):
        settings.config_from_dict(toy.Config, values | {"new": 1}, complete=True)


@dataclasses.dataclass(frozen=True)
class OfModes(Config):
    start: str | None = runner.flag(None, "A file to begin with.", only="train")
    image: str | None = runner.flag(None, "What is shown.", of_data=True, only="predict")


def test_what_a_training_alone_reads_is_not_asked_for_again():
    config = OfModes(start="gone.npz")
    assert settings.of_mode(config, "train") == config
    assert settings.of_mode(config, "evaluate").start is None
    assert settings.of_mode(OfModes(start="gone.npz", image="a.png"), "predict").image == "a.png"
    settings.check_evaluated(config, OfModes())
    with pytest.raises(settings.ConfigError, match=r"`start`: expected 'gone\.npz'"):
        settings.check_evaluated(config, OfModes(start="another.npz"))


@pytest.mark.parametrize("mode", ["train", "evaluate"])
def test_what_only_a_prediction_reads_is_refused(mode):
    with pytest.raises(
        settings.ConfigError, match=r"`image`: goes with --mode=predict, got 'a\.png'"
    ):
        settings.of_mode(OfModes(image="a.png"), mode)


@dataclasses.dataclass(frozen=True)
class Renamed(Config):
    pace: float = runner.flag(1.0, "How fast.", upper=9.0, formerly="speed")


def test_a_renamed_flag_keeps_its_old_name(caplog):
    values = flags.FlagValues()
    settings.define_flags(Renamed, {"default": Renamed()}, values)
    values(["program", "--workdir=w", "--speed=3"])
    assert settings.given_fields(Renamed, values) == {"pace": 3.0}
    assert "--speed is called --pace now" in caplog.text
    assert "--pace" in values.main_module_help()
    assert "--speed" not in values.main_module_help()
    saved = settings.config_to_dict(Renamed(pace=2.0))
    saved["speed"] = saved.pop("pace")
    assert settings.config_from_dict(Renamed, saved) == Renamed(pace=2.0)


NAMES = [
    "curve_fitting", "hand_pose", "human_pose", "inverse_graphics", "monocular_stereo",
    "relative_pose", "robust_mean", "robust_mean_minima", "tracker_fusion",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_fits_and_no_size_is_allocated_unseen(name, tmp_path):
    experiment = importlib.import_module(f"experiments.{name}").EXPERIMENT
    for preset in {name for name in experiment.presets if not name.startswith("paper")}:
        config = experiment.presets[preset]
        for field, size in experiment.memory(config).items():
            settings.check_memory(field, size)
    huge = 2**31 - 1
    fields = {field.name for field in dataclasses.fields(experiment.config)}
    for field in {"num_train", "num_test", "num_frames", "batch_size"} & fields:
        config = dataclasses.replace(experiment.presets["default"], **{field: huge})
        with pytest.raises(settings.ConfigError, match=r"GiB of this machine|expected at most"):
            runner.train(experiment, config, tmp_path / field)


def test_networks_that_do_not_fit_are_refused(toy, tmp_path):
    nothing = lambda config: (np.zeros((1, 1)), np.zeros(1))
    experiment = dataclasses.replace(toy.EXPERIMENT, load=nothing)
    config = toy.Config(width=2**31 - 1, learning_rate=(0.1,) * 8)
    with pytest.raises(settings.ConfigError, match="parameters of 'resident' and their optimiser"):
        runner.train(experiment, config, tmp_path)
