"""Inverse graphics on a few images: rows, files, what a batch may vary, bad settings."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import inverse_graphics, runner
from experiments.inverse_graphics import data as inverse_graphics_data
from experiments.inverse_graphics import evaluation, training
from experiments.runner import run
from jaxcv.models.inverse_graphics import GraphicsSize
from jaxcv.systems import load_model, render_latents

TINY = GraphicsSize(16, 6, ((3, 4), (3, 4)), (5, 4), ((3, 4), (1, 1)))
CONFIG = training.Config(
    steps=6, num_train=3, num_test=2, num_images=200, identities=4, batch_size=4, models=12,
    method=("dcign", "dcign_equal_ratio", "entangled"),
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with pytest.MonkeyPatch.context() as patch:
        for module in (training, inverse_graphics_data):
            patch.setitem(module.SIZES, "cpu", TINY)
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory, tiny):
    return dataclasses.replace(CONFIG, cache_dir=str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def data(config):
    return inverse_graphics_data.load(config)


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("inverse_graphics")
    return folder, inverse_graphics.train(config, folder)


@pytest.mark.slow
def test_files_figures_page_and_networks(trained, data, tmp_path):
    folder, results = trained
    metrics = json.loads((folder / "results.json").read_text())["metrics"]
    for row in CONFIG.method:
        for name in ("corr2_azimuth", "gain_light", "reconstruction_mse", "mig", "dci", "sap"):
            assert metrics[f"{row}/{name}"] is not None
        assert 0 <= metrics[f"{row}/factorvae"] <= 1
    assert results["metrics"]["mean_image/reconstruction_mse"] > 0
    figures = folder / "figures"
    for name in ("sweeps_dcign", "inferred", "scores", "invariance", "baseline", "rotation"):
        assert (figures / f"{name}.png").stat().st_size > 10_000
    page = (figures / "sliders.html").read_text()
    assert page.count("data:image/webp;base64,") == 8
    assert "@" not in page.replace("@charset", "")
    assert "http" not in page  # nothing is loaded from elsewhere
    out = runner.predict(inverse_graphics.EXPERIMENT, None, tmp_path / "networks", folder)
    params, settings, _ = load_model(out / "dcign.safetensors")
    jax.tree.map(np.testing.assert_array_equal, inverse_graphics.load(folder).params, params)
    images = data.images.images[:5, ..., None] / 255
    drawn = render_latents(images, params, light=0.5, **settings)
    written = np.genfromtxt(out / "dcign.csv", delimiter=",", names=True)
    np.testing.assert_allclose(
        drawn.found["azimuth"], written["azimuth_found"][:5], rtol=1e-3, atol=1e-4
    )
    np.testing.assert_allclose(written["light"], data.images.factors[:, 2], rtol=1e-4, atol=1e-5)


def test_methods_that_share_code_are_one_program(config, data):
    study = dataclasses.replace(config, method=tuple(training.METHODS), num_seeds=2)
    runs = training.runs(study, data)
    assert list(runs) == ["attract", "equal_ratio", "repel"]
    assert runs["attract"].trials["clamped"].tolist() == [True] * 4 + [False] * 2
    assert runs["attract"].trials["pull"].tolist() == [1, 1, 0, 0, 1, 1]
    assert training.trial_of(study, "entangled", 1) == ("attract", 5)
    assert training.trial_of(study, "dcign_repel", 1) == ("repel", 1)


def test_batches_come_in_the_ratio_and_are_held_after_the_warm_start(config, data):
    own = dataclasses.replace(config, ratio=(0, 3, 0, 1), warm_steps=5)
    runs = training.runs(own, data)
    drawn = [runs["attract"].batches(step) for step in range(400)]
    kinds = np.array([batch["kind"] for batch in drawn])
    assert set(kinds) == {1, 3}
    assert abs((kinds == 1).mean() - 0.75) < 0.08
    assert [bool(batch["held"]) for batch in drawn[:7]] == [False] * 5 + [True] * 2
    equal = [runs["equal_ratio"].batches(step)["kind"] for step in range(400)]
    assert (np.bincount(equal) > 60).all()
    same = runs["attract"].batches(3)
    np.testing.assert_array_equal(same["images"], drawn[3]["images"])


@pytest.mark.slow
def test_an_entangled_trial_and_a_warm_start_are_the_plain_loss(config, data):
    run = training.runs(config, data)["attract"]
    trial = {"clamped": np.True_, "pull": np.float32(1), "seed": 0}
    params = run.init(jax.random.key(0), trial)
    batch = run.batches(0) | {"kind": np.int32(1)}

    @jax.jit
    def slope(held, clamped):
        own, who = batch | {"held": held}, trial | {"clamped": clamped}
        return jax.grad(lambda p: run.loss(p, own, jax.random.key(1), who)[0])(params)

    plain, warm, held = slope(True, False), slope(False, True), slope(True, True)
    jax.tree.map(np.testing.assert_array_equal, plain, warm)
    assert np.abs(plain["params"]["mean"]["kernel"] - held["params"]["mean"]["kernel"]).max() > 1e-6


def test_the_paper_s_network_and_words_of_its_optimiser(data):
    network = training.make_network(training.PRESETS["paper"], training.metadata(CONFIG, data))
    init = jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, 150, 150, 1), np.float32))
    assert sum(x.size for x in jax.tree.leaves(init)) == 4_131_137
    worded = dataclasses.replace(CONFIG, optimizer="rmsprop", decay=False, learning_rate=1e-3)
    rule = training._optimizer(worded)
    x = {"w": np.array([2.0, -3.0])}
    update, _ = rule.update({"w": np.zeros(2)}, rule.init(x), x)
    # the weights' decay alone: the first step is rate / sqrt(1 - 0.9) whatever its size
    np.testing.assert_allclose(update["w"], [-1e-3 / np.sqrt(0.1), 1e-3 / np.sqrt(0.1)], rtol=1e-3)


@pytest.mark.slow
def test_chairs(config, tmp_path):
    own = dataclasses.replace(config, data="chairs", ratio=(1, 1), method=("dcign",), steps=2)
    results = inverse_graphics.train(own, tmp_path)
    metrics = results["metrics"]
    assert "dcign/corr2_elevation" not in metrics
    noisy = metrics["dcign/reconstruction_mse_noise"]
    np.testing.assert_allclose(metrics["dcign/chairs_reconstruction_mse"], noisy / 3)


@pytest.mark.slow
def test_the_entry_of_an_entangled_code_varies_most(config, data, trained):
    folder, _ = trained
    data, found = run._restore(inverse_graphics.EXPERIMENT, config, folder)
    codes = evaluation.codes_of(config, data, found, "entangled", 0)
    light = codes.test[data.test.kind == 2].var(axis=1).mean(axis=0)
    assert codes.entries[2] == light.argmax()
    assert evaluation.codes_of(config, data, found, "dcign", 0).entries.tolist() == [0, 1, 2]


def test_bad_settings(config, tmp_path):
    for changes, message in (
        ({"ratio": (1, 1)}, "`ratio`: expected 4 numbers for --data=faces"),
        ({"ratio": (0, 0, 0, 0)}, "`ratio`: expected 4 numbers"),
        ({"identities": 500}, "`identities`: expected 1 to 200"),
    ):
        with pytest.raises(ValueError, match=message):
            inverse_graphics.train(dataclasses.replace(config, **changes), tmp_path / "run")
    for changes in ({"batch_size": 1}, {"data": "cars"}, {"method": ("vae",)}, {"strength": -1.0}):
        with pytest.raises(ValueError, match=f"`{next(iter(changes))}`: expected"):
            inverse_graphics.train(dataclasses.replace(config, **changes), tmp_path / "other")
