"""Evaluation and predictions of the curve fitting."""

import functools
import itertools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.curve_fitting import training
from experiments.runner.timing import seconds_per_call
from jaxcv.io import Model
from jaxcv.solvers.marquardt import MarquardtRule
from jaxcv.systems.curve_fitting import curve_energies, fit_curves, fit_curves_by_marquardt

__all__ = ["fits", "metrics", "model", "test_energies", "write_fits"]

STEPS = max(training.RECORDED)
FACTORS = ((10.0, 10.0), (3.0, 2.0))  # lambda's decrease after success, increase after failure
DAMPINGS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
SOLVED = 1.05  # solved: at most this many times the energy at the truth

_fit = jax.jit(fit_curves, static_argnames=("families", "network", "num_steps"))
_fit_by_marquardt = jax.jit(fit_curves_by_marquardt, static_argnames=("families", "num_steps"))


def tuned_rules(data: Any) -> list[MarquardtRule]:
    """For each family, the rule of lowest mean log energy over all steps of the tuning problems."""
    p, names = data.tuning, training.NAMES
    grid = [MarquardtRule(d, *f) for d, f in itertools.product(DAMPINGS, FACTORS)]
    scores = []
    for rule in grid:
        rules = [rule] * len(names)
        found = _fit_by_marquardt(names, p.t, p.y, p.start, rules=rules, num_steps=STEPS)
        energies = np.asarray(curve_energies(names, p.t, p.y, found)) / p.t.shape[-1]
        scores.append(np.mean(np.log(1e-3 + energies), axis=(0, 2)))
    return [grid[int(k)] for k in np.argmin(scores, axis=0)]


def fits(config: Any, data: Any, trained: Any) -> dict[str, np.ndarray]:
    """Row -> unknowns (STEPS, 4, P, 2); `own` stacks the networks of single families."""
    p, names = data.test, training.NAMES
    out, own = {}, {}
    usual = functools.partial(_fit_by_marquardt, names, p.t, p.y, p.start, num_steps=STEPS)
    default = [MarquardtRule()] * len(names)
    out["lm"], out["lm_tuned"] = (usual(rules=r) for r in (default, tuned_rules(data)))
    for name, row in training.rows(config).items():
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], trained[name].params)
        which = np.array([names.index(family) for family in row.families])
        found = _fit(
            params, row.families, p.t[which], p.y[which], p.start[which],
            network=training.network(config, row), num_steps=STEPS,
        )  # fmt: skip
        if name.startswith("own."):
            own[row.families[0]] = found[:, 0]
        else:
            out[name] = found
    if own:
        out["own"] = jnp.stack([own[name] for name in names], axis=1)
    return {name: np.asarray(x) for name, x in out.items()}


def test_energies(data: Any, x: np.ndarray) -> np.ndarray:
    """E (..., 4, P) on the test problems; inf where x is not finite."""
    p = data.test
    energies = np.asarray(curve_energies(training.NAMES, p.t, p.y, jnp.asarray(x)))
    return np.where(np.isfinite(energies), energies, np.inf)


def metrics(config: Any, data: Any, trained: Any) -> dict[str, Any]:
    """`<row>/<family>/energy_{median,mean,p90}_<k>`, `solved_<k>` after k steps; times by row."""
    truth = test_energies(data, data.test.truth)
    out: dict[str, Any] = {}
    for i, family in enumerate(training.NAMES):
        out[f"truth/{family}/energy_median"] = float(np.median(truth[i]))
        start = test_energies(data, data.test.start)[i]
        out[f"start/{family}/energy_median"] = float(np.median(start))
    for name, x in fits(config, data, trained).items():
        energies = test_energies(data, x)
        for i, family in enumerate(training.NAMES):
            for k in training.RECORDED:
                at = energies[k - 1, i]
                key = f"{name}/{family}/"
                out[f"{key}energy_median_{k}"] = float(np.median(at))
                out[f"{key}energy_mean_{k}"] = float(np.mean(at))
                out[f"{key}energy_p90_{k}"] = float(np.quantile(at, 0.9))
                out[f"{key}solved_{k}"] = float(np.mean(at <= SOLVED * truth[i]))
    for name, run in trained.items():
        out[f"{name}/training_seconds"] = run.seconds
    return out | _times(config, data, trained)


def _times(config: Any, data: Any, trained: Any) -> dict[str, float]:
    """Microseconds per iteration and problem, all test problems in one batch."""
    p, names = data.test, training.NAMES
    row = training.rows(config)[training.JOINT]
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], trained[training.JOINT].params)
    net = training.network(config, row)
    runs = {
        "learned": lambda: _fit(
            params, row.families, p.t, p.y, p.start, network=net, num_steps=STEPS
        ),
        "lm": lambda: _fit_by_marquardt(names, p.t, p.y, p.start, num_steps=STEPS),
    }
    count = STEPS * len(names) * config.num_test
    return {
        f"{name}/us_an_iteration": 1e6 * seconds_per_call(run, repeats=5) / count
        for name, run in runs.items()
    }


def model(config: Any, trained: Any, trial: int | None) -> Model:
    """The network trained on all families together."""
    run, row = trained[training.JOINT], training.rows(config)[training.JOINT]
    index = runner.chosen_trial(trial, runner.last_loss(run))
    settings = {
        "network": training.network(config, row), "num_steps": config.iterations,
        "through_encoding": row.through_encoding,
    }  # fmt: skip
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], run.params)
    return Model(params, settings, {"families": list(row.families)})


def write_fits(config: Any, data: Any, trained: Any, folder: pathlib.Path) -> None:
    """Writes fits.npz: the test problems, and <row> -> unknowns after each step (15, 4, P, 2)."""
    arrays = {name: np.asarray(leaf) for name, leaf in data.test._asdict().items()}
    runner.write_npz(folder / "fits.npz", arrays | fits(config, data, trained))
