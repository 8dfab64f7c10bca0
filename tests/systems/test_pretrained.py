"""The models that come with jaxcv: their files, their cards, and what is refused."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors

from experiments.pretrained.storing import CARD, LARGEST
from jaxcv.io.interfaces import describe
from jaxcv.systems import fit_curves, fuse_boxes, load_pretrained, pretrained

NAMES = sorted(json.loads((pretrained.PRETRAINED / "index.json").read_text())["models"])


def test_models_are_shipped_and_small():
    assert {"curves", "fusion_demo"} <= set(NAMES)
    files = {path.stem: path for path in pretrained.PRETRAINED.glob("*.safetensors")}
    assert sorted(files) == NAMES
    sizes = [path.stat().st_size for path in files.values()]
    assert max(sizes) <= LARGEST
    assert sum(sizes) <= 10_000_000


@pytest.mark.parametrize("name", NAMES)
def test_a_card_says_what_the_file_holds(name):
    model = load_pretrained(name)
    card = json.loads((pretrained.PRETRAINED / f"{name}.json").read_text())
    with safetensors.safe_open(
        pretrained.PRETRAINED / f"{name}.safetensors", framework="np"
    ) as file:
        assert json.loads(file.metadata()["card"]) == card
        count = sum(np.prod(file.get_slice(key).get_shape(), dtype=int) for key in file.keys())  # noqa: SIM118
    assert set(CARD) <= card.keys()
    assert (card["name"], card["system"]) == (name, model.card["system"])
    assert card["parameters"] == count
    assert {key: card[key] for key in ("settings", "inputs", "outputs")} == describe(model)
    headline = card["headline"]
    assert headline["value"] == np.mean(card["metrics"][headline["metric"]])
    assert headline["half_interval"] > 0
    sign = 1 if headline["better"] == "higher" else -1
    for key, value in headline["baselines"].items():
        assert value == np.mean(card["metrics"][key])
    margins = [sign * (headline["value"] - value) for value in headline["baselines"].values()]
    assert max(margins) > headline["half_interval"]  # better than one of them at least
    assert min(margins) > -headline["half_interval"]  # and worse than none
    assert all(sentence.endswith(".") for sentence in card["limits"])
    assert card["command"].startswith("python -m experiments.")
    assert card["minutes"] > 0


def test_a_name_a_path_or_an_error_that_lists_the_names(tmp_path):
    model = load_pretrained("fusion_demo")
    path = shutil.copy(pretrained.PRETRAINED / "fusion_demo.safetensors", tmp_path)
    again = load_pretrained(path)
    for one, other in zip(model.params, again.params, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match=r"`name`: expected one of .*fusion_demo.*'nothing'"):
        load_pretrained("nothing")


def test_a_changed_file_is_refused(tmp_path, monkeypatch):
    shutil.copytree(pretrained.PRETRAINED, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(pretrained, "PRETRAINED", tmp_path)
    assert load_pretrained("fusion_demo").card["name"] == "fusion_demo"
    path = tmp_path / "fusion_demo.safetensors"
    whole = path.read_bytes()
    for changed in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"fusion_demo\.safetensors`: expected the file of"):
            load_pretrained("fusion_demo")
    path.unlink()
    with pytest.raises(ValueError, match="expected a file, got no such file"):
        load_pretrained("fusion_demo")
    (tmp_path / "index.json").write_text('{"models": {}}')
    with pytest.raises(ValueError, match=r"index\.json`: expected the format"):
        load_pretrained("fusion_demo")


def test_the_curves_are_solved():
    """Sines of known a and b without noise, from a start far away."""
    model, t = load_pretrained("curves"), jnp.linspace(-3, 3, 100)
    truth = jnp.array([[1.2, 0.3], [2.5, -1.0]])
    y = jnp.sin(truth[:, :1] * t + truth[:, 1:])
    start = jnp.array([[[1.0, 1.0], [1.5, 0.5]]])
    found = fit_curves(("sine",), t[None], y[None], start, model=model)
    assert found.shape == (15, 1, 2, 2)
    np.testing.assert_allclose(found[-1, 0], truth, atol=0.02)


def test_the_fusion_takes_its_trackers_only():
    model = load_pretrained("fusion_demo")
    boxes = np.tile(np.float32([10, 10, 50, 70]), (12, 1))
    boxes += np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    fused = fuse_boxes(boxes, model=model)
    assert np.abs(fused - jnp.array([10, 10, 50, 70])).max() < 8
    with pytest.raises(ValueError, match="`parameters`: expected those of 5 trackers"):
        fuse_boxes(boxes[:5], model=model)
