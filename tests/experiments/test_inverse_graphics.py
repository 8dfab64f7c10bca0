"""Inverse graphics on a few images: rows, files, what a batch may vary, bad settings."""

import dataclasses
import json

import jax
import numpy as np
import optax
import pytest

from experiments import inverse_graphics, runner
from experiments.inverse_graphics import data as inverse_graphics_data
from experiments.inverse_graphics import evaluation, figures, training
from experiments.inverse_graphics.config import FAMILIES, METHODS, PRESETS, SIZES, Config
from experiments.results import page
from experiments.runner import run
from jaxcv.models.inverse_graphics import GraphicsSize
from jaxcv.systems import load_model, render_latents

TINY = GraphicsSize(16, 6, ((3, 4), (3, 4)), (5, 4), ((3, 4), (1, 1)))
CONFIG = Config(
    steps=6, num_train=3, num_test=2, num_images=200, identities=4, batch_size=4, models=12,
    method=("dcign", "dcign_equal_ratio", "entangled"),
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "cpu", TINY)
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
        for name in ("corr2_azimuth", "swap_mse_light", "reconstruction_mse", "mig", "dci", "sap"):
            assert metrics[f"{row}/{name}"] is not None
        assert metrics[f"{row}/gain_light"] is None  # six steps leave a dead code
        assert 0 <= metrics[f"{row}/factorvae"] <= 1
    assert results["metrics"]["mean_image/reconstruction_mse"] > 0
    figures = folder / "figures"
    for name in ("sweeps_dcign", "inferred", "scores", "invariance", "baseline", "rotation",
                 "random", "disentanglement"):  # fmt: skip
        assert (figures / f"{name}.png").stat().st_size > 10_000
    sliders = (figures / "sliders.html").read_text()
    assert sliders.count("data:image/webp;base64,") == 8
    assert "@" not in sliders.replace("@charset", "")
    assert "http" not in sliders  # nothing is loaded from elsewhere
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
    study = dataclasses.replace(config, method=PRESETS["study"].method, num_seeds=2)
    runs = training.runs(study, data)
    assert list(runs) == ["attract", "equal_ratio", "repel"]
    assert runs["attract"].trials["clamped"].tolist() == [True] * 4 + [False] * 2
    assert runs["attract"].trials["kappa"].tolist() == [1, 1, 0, 0, 1, 1]
    assert training.trial_of(study, "entangled", 1) == ("attract", 5)
    assert training.trial_of(study, "dcign_repel", 1) == ("repel", 1)


def test_methods_with_other_settings_have_runs_of_their_own(config, data):
    methods = ("kappa_0", "kappa_10", "ratio_1_1_1_10", "rmsprop_0.0005", "dcign_warm_500",
               "beta_vae_4", "group_vae_1", "ada_gvae_2", "dcign_repel_0.02")  # fmt: skip
    runs = training.runs(dataclasses.replace(config, method=methods, strength=3.0), data)
    assert list(runs) == [
        "attract", "attract-ratio=1_1_1_10", "attract-optimizer=rmsprop-learning_rate=0.0005",
        "attract-warm_steps=500", "average", "adaptive", "repel",
    ]  # fmt: skip
    assert runs["attract"].trials["kappa"].tolist() == [0, 10, 3]
    assert runs["attract"].trials["clamped"].tolist() == [True, True, False]
    assert runs["attract"].trials["beta"].tolist() == [1, 1, 4]
    assert runs["repel"].trials["kappa"] == np.float32(0.02)
    kinds = [int(runs["attract-ratio=1_1_1_10"].batches(step)["kind"]) for step in range(600)]
    assert abs(kinds.count(3) / 600 - 10 / 13) < 0.06
    held = runs["attract-warm_steps=500"].batches
    assert [bool(held(step)["held"]) for step in (499, 500)] == [False, True]


def test_every_preset_is_a_command_with_known_methods():
    for name, preset in PRESETS.items():
        assert set(preset.method) <= METHODS.keys(), name
        entries = 2 if preset.data in ("chairs", "public_chairs") else 4
        for method in preset.method:
            assert len(dict(METHODS[method].changes).get("ratio", preset.ratio)) == entries, name
    paper = PRESETS["paper"]
    assert (paper.num_train * 4, paper.batch_size, paper.strength) == (12_000, 20, 0.01)
    assert (paper.ratio, paper.learning_rate, paper.decay) == ((1, 1, 1, 10), 5e-4, False)
    assert (paper.azimuth, paper.elevation, paper.light) == (1.5, 0.4, 1.4)
    worded = dataclasses.replace(PRESETS["paper_rmsprop"], optimizer="adam")
    assert worded == paper
    chairs = PRESETS["paper_chairs"]
    assert (chairs.data, chairs.num_train * 2, chairs.ratio) == ("public_chairs", 12_000, (1, 10))
    for family in FAMILIES:
        betas = [METHODS[n].beta for n in PRESETS["competitors_grid"].method if family in n]
        assert betas == sorted(betas)
        assert min(betas) < 1 < max(betas)


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
    trial = {"clamped": np.True_, "kappa": np.float32(1), "beta": np.float32(1), "seed": 0}
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
    network = training.make_network(PRESETS["paper"], training.metadata(CONFIG, data))
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
    assert metrics["dcign/chairs_mse"] == metrics["dcign/reconstruction_mse"]
    np.testing.assert_allclose(metrics["dcign/chairs_mse_noise_third"], noisy / 3)
    assert 0 <= metrics["dcign/cyclic_corr2_azimuth"] <= 1
    assert 1 <= metrics["dcign/distinct_views_azimuth"] <= 60


@pytest.mark.slow
def test_the_entry_of_an_entangled_code_varies_most(config, data, trained):
    folder, _ = trained
    data, found = run._restore(inverse_graphics.EXPERIMENT, config, folder)
    codes = evaluation.codes_of(config, data, found, "entangled", 0)
    params, network = evaluation.network_of(config, found, "entangled", 0)
    train = evaluation.encode(params, data.train.images[data.train.kind == 2], network)
    assert codes.entries[2] == train.var(axis=1).mean(axis=0).argmax()  # not by the test
    assert evaluation.codes_of(config, data, found, "dcign", 0).entries.tolist() == [0, 1, 2]


def test_bad_settings(config, tmp_path):
    for changes, message in (
        ({"ratio": (1, 1)}, "`ratio`: expected 4 numbers for --data=faces"),
        ({"ratio": (0, 0, 0, 0)}, "`ratio`: expected 4 numbers"),
        ({"identities": 500}, "`identities`: expected 1 to 200"),
        ({"method": ("ratio_1_10",)}, "leave out --method=ratio_1_10"),
        ({"method": ("ada_gvae_1",), "batch_size": 5}, "`batch_size`: expected an even number"),
        ({"data": "chairs", "ratio": (1, 1), "test_light": 1.5}, "`test_light`: goes with --data"),
    ):
        own, folder = dataclasses.replace(config, **changes), tmp_path / "-".join(changes)
        with pytest.raises(ValueError, match=message):
            inverse_graphics.train(own, folder)
    for changes in ({"batch_size": 1}, {"data": "cars"}, {"method": ("vae",)}, {"strength": -1.0}):
        with pytest.raises(ValueError, match=f"`{next(iter(changes))}`: expected"):
            inverse_graphics.train(dataclasses.replace(config, **changes), tmp_path / "other")


def test_lines_on_both_sides_of_zero_find_a_switch():
    factor = np.linspace(-1.5, 1.5, 301)
    plain = evaluation.one_sided_lines(-3 * factor + 1, factor)
    slope = 1 / factor.std()
    assert plain == pytest.approx({"slope_left": slope, "slope_right": slope, "jump": 0}, abs=1e-9)
    code = np.where(factor < 0, 0.2 * factor - 1, 0.4 * factor + 1)
    switch = evaluation.one_sided_lines(code, factor)
    assert switch["slope_right"] == pytest.approx(2 * switch["slope_left"])
    assert switch["jump"] == pytest.approx(2 / code.std())
    assert np.isnan(evaluation.one_sided_lines(np.ones(301), factor)["jump"])


def test_the_best_of_a_family_and_differences_paired_by_seed(config):
    methods = ("dcign", "beta_vae_1", "beta_vae_4", "beta_vae_16")
    own = dataclasses.replace(config, method=methods, num_seeds=2)
    metrics = {}
    for k, name in enumerate(methods):
        for key in evaluation._SCORES:
            metrics |= {f"{name}/{key}_of_seeds": [0.5 - k / 10, 0.7 - k / 10]}
            metrics |= {f"{name}/{key}": 0.6 - k / 10}
    metrics["beta_vae_4/dci"] = 0.9
    best = evaluation._best_of_families(own, metrics)
    assert (best["beta_vae/best_dci_beta"], best["beta_vae/best_dci_at_end"]) == (4.0, False)
    assert (best["beta_vae/best_mig_beta"], best["beta_vae/best_mig_at_end"]) == (1.0, True)
    apart = evaluation._differences(own, metrics)
    assert apart["dcign_minus_beta_vae_4/mig"] == pytest.approx(0.2)
    assert apart["dcign_minus_beta_vae_4/mig_low"] == pytest.approx(0.2)  # each seed has the same
    assert list(figures._grids(own)) == ["beta_vae, by beta"]


def test_a_record_of_a_dead_code_has_a_row():
    metrics = {"dcign/corr2_azimuth": 0.1, "dcign/gain_azimuth": None, "dcign/mig": 0.0}
    metrics |= {"dcign/reconstruction_mse": 0.08, "mean_image/reconstruction_mse": 0.04}
    assert "dcign 0.10 / none; 0.0800" in page._inverse_graphics(metrics)


@pytest.mark.slow
def test_scores_beyond_the_training_s_ranges_and_of_competitors(config, tmp_path):
    own = dataclasses.replace(
        config, azimuth=1.0, light=0.9, test_azimuth=1.5, test_light=1.4, num_test=12, steps=4,
        num_images=400, method=("dcign", "group_vae_1", "ada_gvae_1", "beta_vae_1", "beta_vae_4",
                                "beta_vae_16"),
    )  # fmt: skip
    metrics = inverse_graphics.train(own, tmp_path)["metrics"]
    data = inverse_graphics_data.load(own)
    assert data.largest()[0] <= 1.0 < 1.3 < np.abs(data.images.factors[:, 0]).max() <= 1.5
    for method in own.method:
        for name in ("azimuth", "light"):
            assert 0 <= metrics[f"{method}/beyond_corr2_{name}"] <= 1
            assert metrics[f"{method}/beyond_error_{name}"] > 0
        assert f"{method}/beyond_corr2_elevation" not in metrics
    assert metrics["beta_vae/best_mig_beta"] in (1, 4, 16)
    assert (tmp_path / "figures" / "grids.png").exists()


@pytest.mark.slow
def test_training_needs_no_labels(config, data, tmp_path):
    """Folders of the training without factors.csv train to the same parameters as with it."""
    from PIL import Image

    from data_prep.basel_faces.builder import FOLDERS

    def write(folder, labelled):
        count = dict.fromkeys(range(4), 0)
        for images, kind, factors in zip(*data.train[:3], strict=True):
            face = folder / FOLDERS[kind] / f"face_{count[kind]}"
            face.mkdir(parents=True)
            lines = ["file,azimuth,elevation,light,identity"]
            for i, (pixels, own) in enumerate(zip(images, factors, strict=True)):
                Image.fromarray(pixels).save(face / f"{i}.png")
                lines.append(",".join(map(str, (f"{i}.png", *own))))
            if labelled or count[kind] == 2:  # the last of three is the test
                (face / "factors.csv").write_text("\n".join(lines))
            count[kind] += 1

    results = []
    for labelled in (True, False):
        folder = tmp_path / f"faces_{labelled}"
        write(folder, labelled)
        own = dataclasses.replace(
            config, data="basel", data_dir=str(folder), method=("dcign", "entangled"), steps=3
        )
        results.append(inverse_graphics.train(own, tmp_path / f"run_{labelled}"))
    jax.tree.map(np.testing.assert_array_equal, results[0].params, results[1].params)
    for key in ("dcign/corr2_azimuth", "entangled/mig"):
        assert results[0].metrics[key] == results[1].metrics[key]


@pytest.mark.slow
def test_the_first_steps_of_the_paper_s_preset(config):
    """Twenty steps at the published size, on a few batches: finite, and the loss falls."""
    own = dataclasses.replace(
        PRESETS["paper"], num_train=3, num_test=2, num_images=200, cache_dir=config.cache_dir
    )
    few = inverse_graphics_data.load(own)
    run = training.runs(own, few)["attract"]
    trial = {name: values[0] for name, values in run.trials.items()}
    params, rule = jax.jit(run.init)(jax.random.key(0), trial), run.optimizer()
    state = rule.init(params)

    @jax.jit
    def step(params, state, batch, key):
        (loss, _), slope = jax.value_and_grad(run.loss, has_aux=True)(params, batch, key, trial)
        change, state = rule.update(slope, state, params)
        return optax.apply_updates(params, change), state, loss

    losses = []
    for n in range(20):
        key = jax.random.fold_in(jax.random.key(1), n)
        params, state, loss = step(params, state, run.batches(n), key)
        losses.append(float(loss))
    assert np.isfinite(losses).all()
    # The first images are grey, log 2 a pixel; heads on white have less within 20 steps.
    assert losses[0] == pytest.approx(150**2 * np.log(2), rel=0.03)
    assert np.mean(losses[-3:]) < 0.8 * losses[0]
