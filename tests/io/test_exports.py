"""Exports run without jaxcv and equal the model; what is damaged or foreign is refused."""

import hashlib
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv import Solution
from jaxcv.energies.hand import HandScales
from jaxcv.energies.tracker_fusion import initial_parameters
from jaxcv.io import Model, export, register_for_export, register_system
from jaxcv.io.interfaces import Input, Interface
from jaxcv.models.curve_solver import CurveSolver
from jaxcv.models.hand_pose import HandNetwork
from jaxcv.models.inverse_graphics import GraphicsNetwork, GraphicsSize
from jaxcv.systems import FusedBox, fit_pose_model, load_model, predict_hand
from jaxcv.systems.curve_fitting import init_curve_solver
from jaxcv.systems.exports import INTERFACES
from jaxcv.systems.hand_pose import ColorScale
from jaxcv.systems.inverse_graphics import LatentScale
from jaxcv.systems.stereo import StereoNetwork, init_stereo_network

pytest.importorskip("flatbuffers")
# `None` in sys.modules makes `import jaxcv` fail, wherever it is installed.
ALONE = """
import runpy, sys
sys.modules["jaxcv"] = sys.modules["jaxcv.io"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def line(params, x):
    return {"y": params["slope"] * x + params["offset"], "large": x > 2}


def line_model():
    register_system(
        "test_line",
        lambda model: Interface(line, {"x": Input("b", np.float32([1, 2, 3]))}, {"x": ("m", "")}),
    )
    params = {"slope": np.float32(2), "offset": np.float32(-1)}
    return Model(params, {}, {"system": "test_line", "name": "line"})


def run_alone(folder, *arguments):
    command = [sys.executable, "-c", ALONE, str(folder / "run_exported.py"), str(folder)]
    return subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, timeout=300, cwd=folder
    )


def test_an_export_runs_without_jaxcv_and_a_damaged_one_does_not(tmp_path):
    folder = export(line_model(), tmp_path / "a", platforms=("cpu",))
    done = run_alone(folder)
    assert done.returncode == 0, done.stderr
    assert "array([1., 3., 5.], dtype=float32)" in done.stdout
    assert "False, False,  True" in done.stdout
    np.savez(tmp_path / "mine.npz", x=np.float32([0.5, 10]))  # another size of the batch
    assert "array([ 0., 19.], dtype=float32)" in run_alone(folder, tmp_path / "mine.npz").stdout
    path = folder / "function.jaxexport"
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:100] + bytes([whole[100] ^ 1]) + whole[101:], b""):
        path.write_bytes(damaged)
        done = run_alone(folder)
        assert (done.returncode, done.stderr) == (1, "damaged file\n")
    assert run_alone(tmp_path).returncode != 0  # a foreign folder


def test_the_files_of_an_export(tmp_path):
    model = line_model()
    folder = export(model, tmp_path / "new" / "a", platforms=("cpu",))
    card = json.loads((folder / "card.json").read_text())
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    assert card["sha256"] == {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in files.items()
        if name != "card.json"
    }
    assert {"params.safetensors", "example.npz", "run_exported.py"} <= files.keys()
    assert card["name"] == "line"
    assert card["inputs"] == {"x": {"shape": "(b,)", "dtype": "float32", "unit": "m", "range": ""}}
    assert card["outputs"]["large"]["dtype"] == "bool"
    assert card["versions"]["jax"] == jax.__version__
    for name, path in files.items():  # StableHLO keeps the source files of its operations
        assert name == "function.jaxexport" or str(tmp_path).encode() not in path.read_bytes()
    assert [path.name for path in tmp_path.joinpath("new").iterdir()] == ["a"]
    orbax = pytest.importorskip("orbax.checkpoint")
    with orbax.StandardCheckpointer() as reader:
        assert float(reader.restore(folder / "checkpoint")["slope"]) == 2


def test_gradients_and_parameters_of_an_export(tmp_path):
    model = line_model()
    folder = export(model, tmp_path / "a", platforms=("cpu",), gradient=True, params_as_input=True)
    read = jax.export.deserialize(bytearray((folder / "function.jaxexport").read_bytes()))
    total = lambda slope, x: jnp.sum(read.call(jnp.float32(0), slope, x)["y"] ** 2)
    slopes = jax.grad(total, (0, 1))(jnp.float32(3), jnp.float32([1, 2]))
    np.testing.assert_allclose(slopes[0], 2 * 3 * (1 + 4))
    np.testing.assert_allclose(slopes[1], [18, 36])
    names = list(json.loads((folder / "card.json").read_text())["inputs"])
    assert names == ["params/offset", "params/slope", "x"]
    assert "array([1., 3., 5.], dtype=float32)" in run_alone(folder).stdout
    constant = export(model, tmp_path / "b", platforms=("cpu",))
    read = jax.export.deserialize(bytearray((constant / "function.jaxexport").read_bytes()))
    with pytest.raises(ValueError, match="No VJP"):
        jax.grad(lambda x: read.call(x)["y"].sum())(jnp.float32([1, 2]))


def test_an_export_that_differs_is_not_written(tmp_path):
    calls = iter(range(100))
    constant = jax.lax.stop_gradient
    functions = {  # another value, or another gradient of the same value, at each trace
        "1e-06, got": lambda params, x: {"y": x * (1 + 1e-4 * next(calls))},
        "0.001, got .* in the gradient in input 0": lambda params, x: {
            "y": constant(x) + (1 + next(calls)) * (x - constant(x))
        },
    }
    for message, function in functions.items():
        example = {"x": Input("b", np.ones(3, np.float32))}
        register_system("test_unsteady", lambda model, f=function: Interface(f, example))  # noqa: B023
        model = Model({"a": np.zeros(1, np.float32)}, {}, {"system": "test_unsteady"})
        with pytest.raises(ValueError, match=rf"`model`: .* equals the model within {message}"):
            export(model, tmp_path / "a", platforms=("cpu",), gradient=True)
        assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_one_line(tmp_path, monkeypatch):
    model = line_model()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    for folder, platforms, given, message in (
        ("mine", ("cpu",), model, "`folder`: expected a new or empty folder, or an earlier export"),
        ("mine/thesis.tex", ("cpu",), model, "`folder`: expected a folder, got the file"),
        ("a", ("tpu",), model, "`platforms`: expected 'cpu' among them"),
        ("a", ("abacus",), model, "`platforms`: expected some of"),
        ("a", "cpu", model, "`platforms`: expected some of"),
        ("a", (), model, "`platforms`: expected some of"),
        ("a", ("cpu",), 3, r"`model`: expected a jaxcv\.io\.Model, got int"),
        ("a", ("cpu",), Model({}, {}, {"system": "x"}), r"`model`: .* systems \['curve_fitting'"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            export(given, tmp_path / folder, platforms=platforms)
        assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "jaxcv\[export\]"'):
        export(model, tmp_path / "a", platforms=("cpu",))


def test_an_earlier_export_is_replaced(tmp_path):
    model = line_model()
    folder = export(model, tmp_path / "a", platforms=("cpu",))
    (folder / "leftover").write_text("")
    (tmp_path / ".a.partial").mkdir()  # of a killed process
    export(model._replace(card={**model.card, "name": "second"}), folder, platforms=("cpu",))
    assert json.loads((folder / "card.json").read_text())["name"] == "second"
    assert not (folder / "leftover").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_named_tuples_of_jaxcv_can_be_exported():
    register_for_export()
    register_for_export()
    boxes = jnp.arange(4.0)
    function = lambda x: FusedBox(2 * x, x[:2], x[:2], x[:2] > 0)
    exported = jax.export.export(jax.jit(function))(jax.ShapeDtypeStruct((4,), jnp.float32))
    again = jax.export.deserialize(exported.serialize()).call(boxes)
    assert type(again) is FusedBox
    np.testing.assert_array_equal(again.box, 2 * boxes)
    solution = lambda x: Solution(x, *[x[0]] * 5)
    exported = jax.export.export(jax.jit(solution))(jax.ShapeDtypeStruct((4,), jnp.float32))
    assert type(jax.export.deserialize(exported.serialize()).call(boxes)) is Solution


def make(system):
    """A small model of a system, without training."""
    if system == "curve_fitting":
        network = CurveSolver(hidden=4)
        settings = {"network": network, "num_steps": 2}
        return Model(init_curve_solver(jax.random.key(0), network), settings, {"system": system})
    if system == "tracker_fusion":
        return Model(initial_parameters(4), {}, {"system": system})
    if system == "robust_mean":
        return Model({"scale": jnp.asarray(1.0)}, {}, {"system": system})
    if system == "inverse_graphics":
        size = GraphicsSize(16, 6, ((3, 4), (3, 4)), (5, 4), ((3, 4), (1, 1)))
        network = GraphicsNetwork(size)
        params = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 1)))
        settings = {"network": network, "scale": LatentScale()}
        return Model(params, settings, {"system": system})
    if system == "hand_pose":
        return hand_model(None)
    if system == "monocular_stereo":
        network = StereoNetwork(num_steps=2)
        params = init_stereo_network(jax.random.key(0), network)
        return Model(params, {"network": network}, {"system": system})
    from jaxcv.data.synthetic.human_pose import generate
    from jaxcv.energies.human_pose import initial_parameters as parameters_of

    with jax.enable_x64(True):
        frames = generate(jax.random.key(0), num_subjects=3, clips=1, frames=20)
        own = fit_pose_model(frames.joints, frames.cameras, num_components=2)
        params = {"model": own, "parameters": parameters_of(own)}
        return Model(params, {"num_rotations": 10}, {"system": system})


def hand_model(scales):
    network = HandNetwork(net="net6", width=0.0625, dense=8, confidence=scales is not None)
    settings = {
        "network": network, "side": 32, "cube": 300.0, "color_scale": ColorScale(), "scales": scales
    }  # fmt: skip
    params = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    return Model(params, settings, {"system": "hand_pose"})


QUICK = ("inverse_graphics",)  # the hand has a test of its own


@pytest.mark.parametrize(
    "system", [s if s in QUICK else pytest.param(s, marks=pytest.mark.slow) for s in INTERFACES]
)
def test_every_system_is_exported_for_all_platforms(system, tmp_path):
    """`export` itself compares with the function; here also another size of the batch."""
    model = make(system)
    folder = export(model, tmp_path / "a")
    card = json.loads((folder / "card.json").read_text())
    assert card["platforms"] == ["cpu", "cuda", "tpu"]
    assert all(entry["shape"].count("b") for entry in card["outputs"].values())
    assert {e["unit"] != "" or e["dtype"] == "bool" for e in card["inputs"].values()} == {True}
    again = load_model(folder / "params.safetensors")
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
    double = card["inputs"][next(iter(card["inputs"]))]["dtype"] == "float64"
    assert double == (system == "human_pose")
    with jax.enable_x64(double):
        read = jax.export.deserialize(bytearray((folder / "function.jaxexport").read_bytes()))
        interface, example = INTERFACES[system](model), np.load(folder / "example.npz")
        grown = []
        for name, one in interface.inputs.items():
            axis = [size.strip() for size in one.shape.split(",")]
            array = example[name]
            if "b" in axis:
                array = np.concatenate([array] * 3, axis=axis.index("b"))
            grown.append(array)
        got = read.call(*grown)
        want = jax.jit(interface.function)(jax.tree.map(jnp.asarray, model.params), *grown)
        for name, value in want.items():
            np.testing.assert_allclose(got[name], value, rtol=2e-4, atol=1e-4, err_msg=name)


def test_an_exported_hand_is_that_of_predict_hand(tmp_path):
    model = hand_model(None)
    folder = export(model, tmp_path / "a", platforms=("cpu",))
    example = np.load(folder / "example.npz")
    want = predict_hand(example["depth"], example["intrinsics"], model=model)
    read = jax.export.deserialize(bytearray((folder / "function.jaxexport").read_bytes()))
    cropped = read.call(example["depth"][:1, 8:100], example["intrinsics"][:1])  # other h, w
    assert cropped["found"].all()
    got = read.call(example["depth"], example["intrinsics"])
    np.testing.assert_allclose(got["joints"], want.joints, atol=1e-2)
    lost = read.call(np.zeros((1, 20, 30), np.float32), example["intrinsics"][:1])
    assert not lost["found"].any()
    assert np.isnan(lost["joints"]).all()


@pytest.mark.slow
def test_a_refined_hand_is_exported_with_its_gradient(tmp_path):
    folder = export(hand_model(HandScales()), tmp_path / "a", gradient=True)
    done = run_alone(folder)
    assert done.returncode == 0, done.stderr
    assert "'found': array([ True,  True])" in done.stdout
