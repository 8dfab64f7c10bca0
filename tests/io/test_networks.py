"""The file format of networks: what is written comes back, and nothing else is taken for it."""

import json
import os
from typing import NamedTuple

import jax
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from jaxcv.energies.tracker_fusion import initial_parameters
from jaxcv.io.networks import Model, read_tree, restore_settings, save_settings, write_tree
from jaxcv.models.hand_pose import HandNetwork
from jaxcv.systems import load_model, save_model
from jaxcv.systems.inverse_graphics import LatentScale


class Pair(NamedTuple):
    first: np.ndarray
    second: dict


names = st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=8)
leaves = arrays.arrays(
    st.sampled_from([np.float32, np.float64, np.int32, np.bool_, np.float16]),
    arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)
trees = st.dictionaries(names, st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.dictionaries(names, inner, min_size=1, max_size=3),
        st.builds(Pair, leaves, st.dictionaries(names, leaves, min_size=1, max_size=2)),
    ),
    max_leaves=5,
), min_size=1, max_size=3)  # fmt: skip


@settings(max_examples=60)
@given(tree=trees)
def test_a_tree_comes_back(tree, tmp_path_factory):
    path = tmp_path_factory.mktemp("tree") / "a.safetensors"
    write_tree(path, tree, {"note": "x"}, [Pair])
    once = path.read_bytes()
    found, card = read_tree(path, [Pair])
    assert card == {"note": "x"}
    assert jax.tree.structure(found) == jax.tree.structure(tree)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(tree), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_array_equal(one, other)
    write_tree(path, tree, {"note": "x"}, [Pair])
    assert path.read_bytes() == once


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(path, Model(initial_parameters(3), {}, {"system": "tracker_fusion"}))
    return path


@settings(max_examples=200)
@given(data=st.data())
def test_a_changed_file_is_refused_in_one_line(model_file, data):
    whole = model_file.read_bytes()
    kind = data.draw(st.sampled_from(["cut", "flip", "insert", "other"]))
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = {
        "cut": lambda: whole[:at],
        "flip": lambda: whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))])
        + whole[at + 1 :],
        "insert": lambda: whole[:at] + data.draw(st.binary(min_size=1, max_size=9)) + whole[at:],
        "other": lambda: data.draw(st.binary(max_size=64)),
    }[kind]()  # fmt: skip
    path = model_file.with_name("changed.safetensors")
    path.write_bytes(changed)
    try:
        found, message = load_model(path).params, ""
    except ValueError as error:
        found, message = initial_parameters(3), str(error)
    assert "\n" not in message
    assert message.startswith(f"`{path}") or not message
    # Where it is accepted, white space or a note of the card has changed: never a number.
    jax.tree.map(np.testing.assert_array_equal, found, initial_parameters(3))


def test_what_is_no_file_is_refused(tmp_path, model_file):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"pipe`: expected a file, .* no regular file"):
        load_model(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"none`: expected a file, got no such file"):
        load_model(tmp_path / "none")
    with pytest.raises(ValueError, match=r"expected a folder with model/model\.safetensors"):
        load_model(tmp_path)
    deep = {"card": "[" * 100_000}
    safetensors.numpy.save_file({"a": np.zeros(2)}, tmp_path / "deep", deep)
    with pytest.raises(ValueError, match=r"deep`: expected a network's file"):
        load_model(tmp_path / "deep")
    safetensors.numpy.save_file({"a": np.zeros(2)}, tmp_path / "foreign")
    with pytest.raises(ValueError, match=r"foreign`: .* a file without the format 'jaxcv/1'"):
        load_model(tmp_path / "foreign")
    assert load_model(model_file.parent).card["system"] == "tracker_fusion"


def test_models_are_checked_when_written_and_read(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(ValueError, match="`model: system`: expected one of"):
        save_model(path, Model({}, {}, {}))
    with pytest.raises(ValueError, match="`model`: expected settings of the system 'hand_pose'"):
        save_model(path, Model({}, {}, {"system": "hand_pose"}))
    broken = initial_parameters(3)
    broken = broken._replace(drift=broken.drift.at[0, 1].set(np.nan))
    save_model(path, Model(broken, {}, {"system": "tracker_fusion"}))  # a training that diverged
    with pytest.raises(ValueError, match=r"drift`: expected finite parameters"):
        load_model(path)
    assert not list(tmp_path.glob(".*"))


def test_settings_are_json_and_name_known_classes_only():
    given_settings = {
        "network": HandNetwork(net="net2"), "scale": LatentScale((1.0,), (2.0,)), "shape": (3, 4),
        "rate": np.float32(0.5), "none": None,
    }  # fmt: skip
    types = [HandNetwork, LatentScale]
    saved = json.loads(json.dumps(save_settings(given_settings, types)))
    assert restore_settings(saved, types) == given_settings
    with pytest.raises(ValueError, match="expected one of"):
        restore_settings(saved, [HandNetwork])
    with pytest.raises(ValueError, match="expected JSON values"):
        save_settings({"key": object()})
    with pytest.raises(ValueError, match="expected a LatentScale"):
        restore_settings({"type": "LatentScale", "slope": [], "other": 1}, types)
