"""The robust mean: its claim on a short run, evaluation, prediction, bad input."""

import json

import jax
import numpy as np
import pytest

from experiments import robust_mean, runner
from experiments.robust_mean import evaluation, figures, prediction, training
from jaxcv.data.synthetic.robust_mean import PROTOCOLS, draw

pytestmark = pytest.mark.optimised

CONFIG = training.Config(
    steps=1500, num_seeds=5, optimizer=("asgd",), protocol=("released",), num_test=20
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("robust_mean")
    return folder, robust_mean.train(CONFIG, folder)


def test_every_loss_has_its_metrics():
    config = training.Config(num_seeds=1)
    with jax.enable_x64(True):
        for run in training.runs(config, None).values():
            trial = {name: values[0] for name, values in run.trials.items()}
            found = lambda key, run=run, trial=trial: run.loss(
                run.init(key, trial), None, key, trial
            )
            loss, metrics = jax.eval_shape(found, jax.random.key(0))
            assert loss.shape == ()
            assert {*run.summaries} - {"gradient_norm"} <= {*metrics}


@pytest.mark.slow
def test_damping_keeps_the_width_and_undamped_training_leaves(trained):
    _, results = trained
    metrics = results["metrics"]
    assert all(value < 2000 for value in metrics["damped/sigma2"])
    assert all(np.isfinite(metrics["damped/largest_gradient"]))
    left = [value > 2000 for value in metrics["undamped/largest_sigma2"]]
    assert sum(left) > len(left) / 2
    ratio = metrics["undamped_over_damped/largest_gradient"]
    assert np.median(ratio) > 1.5


@pytest.mark.slow
def test_an_exact_minimiser_has_no_negative_curvature_so_shift_is_plain(trained):
    _, results = trained
    metrics = results["metrics"]
    np.testing.assert_allclose(metrics["shift/sigma2"], metrics["damped/sigma2"], rtol=1e-6)
    assert max(metrics["damped/unconverged"]) == 0


@pytest.mark.slow
def test_the_work_folder_is_whole(trained):
    folder, results = trained
    saved = json.loads((folder / "results.json").read_text())
    assert saved["metrics"] == json.loads(json.dumps(results["metrics"]))
    for method in ("undamped", "damped", "order4"):
        for name in ("sigma2", "largest_gradient", "loss"):
            assert len(saved["metrics"][f"{method}/{name}"]) == CONFIG.num_seeds
    for name in ("energies", "sigma2", "gradient", "min_eigenvalue", "largest_gradient"):
        assert (folder / "figures" / f"{name}.png").stat().st_size > 10_000


@pytest.mark.slow
def test_evaluating_again_gives_the_same_numbers(trained, tmp_path):
    folder, results = trained
    again = runner.evaluate(robust_mean.EXPERIMENT, None, tmp_path, folder)
    assert again["metrics"] == results["metrics"]


@pytest.mark.slow
def test_predicting_the_users_own_samples(trained, tmp_path):
    import dataclasses

    folder, _ = trained
    samples = tmp_path / "samples"
    samples.mkdir()
    (samples / "a.txt").write_text("1.0\n1.1\n0.9\n\n40\n")
    config = dataclasses.replace(CONFIG, data_dir=str(samples))
    out = runner.predict(robust_mean.EXPERIMENT, config, tmp_path / "out", folder)
    rows = (out / "predictions.csv").read_text().split("\n")
    assert rows[0] == "file,method,scale,estimate"
    by_method = {row.split(",")[1]: float(row.split(",")[3]) for row in rows[1:] if row}
    assert set(by_method) == set(training.METHODS)
    assert abs(by_method["damped"] - 1) < 2  # the outlier saturates


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1\nnan\n", r"a.txt`: expected one finite number in line 2, got 'nan'"),
        ("1\ntwo\n", r"line 2, got 'two'"),
        ("", "an empty file"),
        (None, r"expected \*.txt files"),
    ],
)
def test_bad_samples_are_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.txt").write_text(content)
    with pytest.raises(runner.DataError, match=message):
        prediction.read_samples(str(tmp_path))
    with pytest.raises(runner.DataError, match="expected a folder"):
        prediction.read_samples(None)


def test_samples_follow_their_protocol():
    keys = jax.random.split(jax.random.key(0), 2000)
    released = jax.vmap(lambda key: draw(key, PROTOCOLS["released"]))(keys)
    inliers, outliers = released.points[:, :10], released.points[:, 10:]
    assert abs(float(inliers.mean()) - 2) < 0.1
    assert abs(float(inliers.std()) - 4) < 0.05
    assert float(outliers.min()) >= -60
    assert float(outliers.max()) <= 20
    np.testing.assert_allclose(released.target, inliers.mean(1), rtol=1e-5, atol=1e-5)
    paper = jax.vmap(lambda key: draw(key, PROTOCOLS["paper"]))(keys)
    assert abs(float(paper.target.mean())) < 2  # the centre, uniform in [-40, 40]
    assert 22 < float(paper.target.std()) < 24
    assert float(np.abs(paper.points[:, 10:]).max()) <= 40


def test_the_headline_is_the_papers_data_and_optimiser():
    paper = training.PRESETS["paper"]
    assert figures.headline(paper) == ("sgd", "paper")
    assert figures.headline(CONFIG) == ("asgd", "released")
    assert evaluation.ROWS[:2] == ("paper/sgd/undamped", "paper/sgd/damped")
    assert len(set(evaluation.ROWS)) == len(evaluation.ROWS)


@pytest.mark.slow
def test_the_undamped_prediction_is_the_tangent_of_the_true_movement():
    with jax.enable_x64(True):
        points = draw(jax.random.key(0), PROTOCOLS["paper"]).points
        scale, h = 8.0, 1e-3
        true, undamped, damped = figures.predicted(np.array([scale - h, scale + h]), scale, points)
        slope = (true[1] - true[0]) / (2 * h)
        np.testing.assert_allclose((undamped[1] - undamped[0]) / (2 * h), slope, rtol=1e-5)
        assert abs(damped[1] - damped[0]) < abs(undamped[1] - undamped[0])


@pytest.mark.slow
def test_first_steps_of_the_paper_preset_at_full_size(tmp_path):
    """110 samples, ten L-BFGS steps and a Newton step, all optimisers and seeds."""
    import dataclasses

    config = dataclasses.replace(training.PRESETS["paper"], steps=20, num_test=20)
    metrics = robust_mean.train(config, tmp_path)["metrics"]
    for method in ("undamped", "damped"):
        assert len(metrics[f"paper/sgd/{method}/loss"]) == 10
    assert (tmp_path / "figures" / "prediction.png").stat().st_size > 10_000
