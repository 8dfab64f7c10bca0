"""The curve fitting on a few problems: rows, files, figures, what a training may see."""

import dataclasses
import json

import jax
import numpy as np
import optax
import pytest
import scipy.optimize

from experiments import curve_fitting, runner
from experiments.curve_fitting import baselines, training

CONFIG = training.Config(steps=2, num_test=20, num_problems=2, hidden=4, iterations=2)


CURVES = {
    "exponential": lambda x, t: t * np.exp(x[:, :1] * t) + t * np.exp(x[:, 1:] * t),
    "sine": lambda x, t: np.sin(x[:, :1] * t + x[:, 1:]),
    "sinc": lambda x, t: np.sinc((x[:, :1] * t + x[:, 1:]) / np.pi),
    "gaussian": lambda x, t: (
        np.exp(-0.5 * ((t - x[:, :1]) / x[:, 1:]) ** 2) / (x[:, 1:] * np.sqrt(2 * np.pi))
    ),
}


def energy(family, x, t, y):
    """Of every problem: half the sum of squares."""
    return 0.5 * np.sum((CURVES[family](x, t) - y) ** 2, axis=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("curve_fitting")
    return folder, curve_fitting.train(CONFIG, folder)


@pytest.mark.slow
def test_rows_files_and_figures(trained):
    folder, _ = trained
    metrics = json.loads((folder / "results.json").read_text())["metrics"]
    kinds = ("energy_median", "energy_mean", "energy_p90", "solved")
    for row in ("learned", "lm", "lm_tuned", "lm_restarts", "lm_screened", "trust_region"):
        for family in training.NAMES:
            keys = {f"{row}/{family}/{kind}_{k}" for kind in kinds for k in (1, 3, 5, 10, 15)}
            assert keys <= metrics.keys()
    assert metrics["lm/us_an_iteration"] > 0
    assert metrics["learned/temporary_bytes"] > metrics["lm/temporary_bytes"] > 0
    for family in training.NAMES:  # all end in minima: SciPy finds those of the trust region
        ends = [metrics[f"{row}/{family}/energy_median_15"] for row in ("scipy", "trust_region")]
        np.testing.assert_allclose(*ends, rtol=0.05)
    for name in ("fits", "energies", "scatter", "solved"):
        assert (folder / "figures" / f"{name}.png").stat().st_size > 10_000


@pytest.mark.slow
def test_predictions_are_those_of_the_metrics(trained, tmp_path):
    folder, results = trained
    out = runner.predict(curve_fitting.EXPERIMENT, None, tmp_path / "fits", folder)
    with np.load(out / "fits.npz") as file:
        fits = {name: file[name].astype(float) for name in file}
    for row in ("learned", "lm", "lm_tuned"):
        assert fits[row].shape == (15, 4, 20, 2)
        for i, family in enumerate(training.NAMES):
            t, y, energies = fits["t"][i], fits["y"][i], {}
            for k in (1, 15):
                energies[k] = energy(family, fits[row][k - 1, i], t, y)
                key = f"{row}/{family}/"
                for name, want in (
                    ("energy_median", np.median(energies[k])),
                    ("energy_mean", np.mean(energies[k])),
                    ("energy_p90", np.quantile(energies[k], 0.9)),
                ):
                    got = results["metrics"][f"{key}{name}_{k}"]
                    np.testing.assert_allclose(got, want, rtol=1e-3, err_msg=f"{key}{name}_{k}")
            solved = np.mean(energies[15] <= 1.05 * energy(family, fits["truth"][i], t, y))
            assert abs(results["metrics"][f"{key}solved_15"] - solved) <= 0.05  # one at the edge


@pytest.mark.slow
def test_the_usual_solver_finds_what_scipy_finds(trained):
    p = training.load(CONFIG).test
    i = training.NAMES.index("exponential")
    times = np.asarray(p.t[i], float)
    problems = zip(np.asarray(p.y[i], float), np.asarray(p.start[i], float), strict=True)
    residual = lambda x, y: CURVES["exponential"](x[None], times)[0] - y
    ends = [scipy.optimize.least_squares(residual, start, args=(y,)).cost for y, start in problems]
    got = trained[1]["metrics"]["lm_tuned/exponential/energy_median_15"]
    np.testing.assert_allclose(got, np.median(ends), rtol=0.02)


@pytest.mark.slow
def test_networks_of_one_family_are_put_together(tmp_path):
    config = dataclasses.replace(CONFIG, each_family=True, ablations=True)
    metrics = curve_fitting.train(config, tmp_path / "w")["metrics"]
    for row in ("own", "shown_paper", "shown_gradient", "constant_encoding"):
        assert metrics[f"{row}/gaussian/energy_median_15"] > 0
    assert not any(key.startswith("own.sine/sine") for key in metrics)


def test_restarts_spend_their_budget_and_take_the_lowest_energy():
    rng = np.random.default_rng(0)
    energies = np.cumsum(rng.random((1, 9, 1, 5, baselines.POINTS)), axis=1)[:, ::-1]  # falling
    found = baselines.Trajectories(energies)
    for screened in (False, True):
        plans = baselines.plans(20.0, 0.5, 1, screened)
        assert {plan.points > 0 for plan in plans} == {screened}
        for plan in plans:
            assert plan.points * 0.5 + plan.starts * plan.steps <= 20
            last = energies[0, min(plan.steps, 8), 0]
            first = energies[0, 0, 0, :, : plan.points]
            kept = np.argsort(first, axis=1)[:, : plan.starts] if screened else range(plan.starts)
            want = [last[i][kept[i] if screened else list(kept)].min() for i in range(5)]
            np.testing.assert_array_equal(baselines.energies_of(found, plan, 0), want)
    assert baselines.plans(0.5, 1.0, 2, True) == [
        baselines.Plan(rule, 0, 1, 1) for rule in range(2)
    ]


def test_the_published_preset_is_the_published_configuration():
    config = training.PRESETS["paper"]
    network = training.network(config, training.rows(config)[training.JOINT])
    assert (network.encoding, network.progress, network.bins) == ("paper", False, 100)
    assert (config.noise, config.iterations, config.objective) == (0.1, 15, "plain")
    assert not config.through_encoding
    assert abs(training.PRESETS["variance"].noise ** 2 - 0.1) < 1e-12


@pytest.mark.slow
def test_the_first_steps_of_the_published_preset():
    config = training.PRESETS["paper"]
    run = training.runs(config, None)[training.JOINT]  # type: ignore[arg-type]
    params = jax.jit(lambda: run.init(jax.random.key(0), {}))()
    optimizer = run.optimizer()
    state, losses = optimizer.init(params), []

    @jax.jit
    def step(params, state, key):
        (loss, _), gradient = jax.value_and_grad(run.loss, has_aux=True)(params, None, key, {})
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, loss

    for i in range(20):
        params, state, loss = step(params, state, jax.random.key(i))
        losses.append(float(loss))
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_points_that_bins_cannot_share(tmp_path):
    with pytest.raises(runner.DataError, match=r"`num_points`: expected a multiple of 10, got 33"):
        curve_fitting.train(training.Config(num_points=33), tmp_path / "w")
