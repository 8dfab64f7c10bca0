"""Storing models: what is kept, compared and refused; models on new samples."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.pretrained import command, storing
from experiments.pretrained.checks import CHECKS
from experiments.pretrained.recipes import RECIPES
from experiments.runner import records
from jaxcv.energies.tracker_fusion import FusionParameters
from jaxcv.io import Model
from jaxcv.systems import load_model, save_model
from jaxcv.systems.pretrained import PRETRAINED

RECIPE = RECIPES["fusion_demo"]


def finished(folder, iou=0.86, width=0.3, **changes):
    """The work folder of a finished training, without training."""
    metrics = {
        "learned/iou": iou, "rbf/iou": 0.8, "median/iou": 0.7, "other/iou": 0.1,
        "learned_minus_rbf/low": 0.03, "learned_minus_rbf/high": 0.09,
    }  # fmt: skip
    config = {"num_sequences": 40, "num_frames": 60, "num_trackers": 3, "steps": 10, "seed": 0}
    environment = {
        "commit": "abc", "versions": {"jax": "0.10.2"}, "device": "cpu", "seconds": 93.0
    }  # fmt: skip
    record = {"metrics": metrics | changes, "config": config, "environment": environment}
    (folder / "model").mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(record))
    params = FusionParameters(*(jnp.full((2, 3), width) for _ in range(5)))
    model = Model(params, {}, {"system": "tracker_fusion", "trackers": ["a", "b", "c"]})
    save_model(folder / "model" / "model.safetensors", model)
    return folder


def test_a_model_is_stored_compared_and_replaced(tmp_path):
    out = tmp_path / "stored"
    lines = storing.store("fusion_demo", RECIPE, finished(tmp_path / "a"), folder=out)
    assert "learned/iou" in lines
    model = load_model(out / "fusion_demo.safetensors")
    card = model.card
    assert (card["version"], card["minutes"], card["parameters"]) == (1, 1.55, 30)
    assert card["trackers"] == ["a", "b", "c"]
    assert "other/iou" not in card["metrics"]
    assert card["headline"] == {
        "metric": "learned/iou", "value": 0.86, "half_interval": pytest.approx(0.03),
        "better": "higher", "baselines": {"rbf/iou": 0.8, "median/iou": 0.7},
    }  # fmt: skip
    index = json.loads((out / "index.json").read_text())
    assert list(index["models"]) == ["fusion_demo"]
    # A little worse is within the interval; much worse is refused, and nothing changes.
    within = finished(tmp_path / "b", iou=0.84, width=0.4)
    lines = storing.store("fusion_demo", RECIPE, within, folder=out)
    assert lines.splitlines()[1].split() == ["learned/iou", "0.86", "0.84"]
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    worse = finished(tmp_path / "c", iou=0.80, width=0.5)
    with pytest.raises(records.DataError, match=r"no worse than before, got learned/iou 0\.8, bef"):
        storing.store("fusion_demo", RECIPE, worse, folder=out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    storing.store("fusion_demo", RECIPE, worse, folder=out, force=True)
    model = load_model(out / "fusion_demo.safetensors")
    assert model.card["version"] == 3
    np.testing.assert_allclose(model.params.drift, 0.5)


def test_a_lower_error_is_better(tmp_path):
    recipe = dataclasses.replace(RECIPE, higher=False)
    out = tmp_path / "stored"
    storing.store("x", recipe, finished(tmp_path / "a", iou=0.5), folder=out)
    storing.store("x", recipe, finished(tmp_path / "b", iou=0.3), folder=out)
    with pytest.raises(records.DataError, match="no worse than before"):
        storing.store("x", recipe, finished(tmp_path / "c", iou=0.5), folder=out)


def test_what_is_not_stored(tmp_path, monkeypatch):
    out = tmp_path / "stored"
    store = lambda folder: storing.store("fusion_demo", RECIPE, folder, folder=out)
    with pytest.raises(records.DataError, match=r"`rbf/iou`: .* not stored without a baseline"):
        store(finished(tmp_path / "a", **{"rbf/iou": None}))
    with pytest.raises(records.DataError, match=r"results\.json`: expected a file"):
        store(tmp_path / "nowhere")
    monkeypatch.setattr(storing, "LARGEST", 100)
    with pytest.raises(records.DataError, match="`fusion_demo`: expected at most 100 bytes"):
        store(finished(tmp_path / "b"))
    assert not list(out.glob("*")) + list(out.glob(".*"))


def test_recipes_name_settings_that_exist():
    for recipe in RECIPES.values():
        module = __import__(f"experiments.{recipe.experiment}", fromlist=["Config"])
        fields = {field.name for field in dataclasses.fields(module.Config)}
        assert set(recipe.sizes) <= fields
        assert all(flag.startswith("--") for flag in recipe.flags)
        assert recipe.baselines
        assert recipe.headline not in recipe.baselines


def test_intervals_shrink_with_the_samples():
    interval = RECIPES["curves"].interval
    half = lambda share, n: interval({"learned/sine/solved_15": share}, {"num_test": n})
    np.testing.assert_allclose(half(0.5, 2000), 1.96 * 0.5 / 2002**0.5, rtol=1e-6)
    assert 0 < half(1.0, 2000) < half(1.0, 200) < half(0.5, 200)


@pytest.mark.slow
def test_stored_models_keep_their_cards_on_new_samples(capsys):
    assert command.check() is None
    shown = capsys.readouterr().out
    assert shown.count(" ok\n") == len(list(PRETRAINED.glob("*.safetensors")))


def test_a_model_that_fails_on_new_samples_is_named(monkeypatch, capsys):
    monkeypatch.setitem(CHECKS, "fusion_demo", lambda model, count: (0.2, 0.01))
    found = command.check(["fusion_demo"])
    assert found == "error: worse than their cards: fusion_demo"
    assert "WORSE" in capsys.readouterr().out
