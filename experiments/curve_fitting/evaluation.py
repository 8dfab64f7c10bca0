"""Evaluation and predictions of the curve fitting."""

import functools
import itertools
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.curve_fitting import baselines, training
from experiments.runner.timing import seconds_per_call
from jaxcv.io import Model
from jaxcv.metrics.tracking import paired_bootstrap
from jaxcv.solvers.marquardt import MarquardtRule
from jaxcv.systems.curve_fitting import curve_energies, fit_curves, fit_curves_by_marquardt

__all__ = ["fits", "metrics", "model", "test_energies", "write_fits"]

STEPS = max(training.RECORDED)
FACTORS = ((10.0, 10.0), (3.0, 2.0))  # lambda's decrease after success, increase after failure
DAMPINGS = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)  # from none, in effect
RESTARTS = {"lm_restarts": False, "lm_screened": True}  # row -> compares energies of points first
COMPARED = (3, 15)  # iterations at which fractions of solved problems are compared
SOLVED = 1.05  # solved: at most this many times the energy at the truth

_fit = jax.jit(fit_curves, static_argnames=("families", "network", "num_steps"))
_energies = jax.jit(curve_energies, static_argnames="families")
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
    """`<row>/<family>/energy_{median,mean,p90}_<k>`, `solved_<k>` after k steps; times by row.

    The rows RESTARTS have, at k, the time of k steps of the learned solver. SciPy runs until it
    converges; it stands at the last k.
    """
    truth, start = (test_energies(data, x) for x in (data.test.truth, data.test.start))
    out: dict[str, Any] = {}
    for i, family in enumerate(training.NAMES):
        out[f"truth/{family}/energy_median"] = float(np.median(truth[i]))
        out[f"start/{family}/energy_median"] = float(np.median(start[i]))
    rows: dict[str, Any] = {}
    for name, x in fits(config, data, trained).items():
        energies = test_energies(data, x)
        rows[name] = {k: energies[k - 1] for k in training.RECORDED}
    times = _times(config, data, trained)
    found = baselines.trust_region(training.NAMES, data.test, STEPS)
    rows["trust_region"] = {k: found[k - 1] for k in training.RECORDED}
    out |= _restarts(config, data, times, rows) | _scipy(data, rows)
    for name, by_step in rows.items():
        for (k, energies), (i, family) in itertools.product(
            by_step.items(), enumerate(training.NAMES)
        ):
            own, key = energies[i], f"{name}/{family}/"
            out[f"{key}energy_median_{k}"] = float(np.median(own))
            out[f"{key}energy_mean_{k}"] = float(np.mean(own))
            out[f"{key}energy_p90_{k}"] = float(np.quantile(own, 0.9))
            out[f"{key}solved_{k}"] = float(np.mean(own <= SOLVED * truth[i]))
    for name, run in trained.items():
        out[f"{name}/training_seconds"] = run.seconds
    return out | _comparisons(rows, truth) | times


def _restarts(
    config: Any, data: Any, times: dict[str, float], rows: dict[str, Any]
) -> dict[str, Any]:
    """Adds the rows RESTARTS; `lm/steps_per_iteration`, `<row>/<family>/{points,starts,steps}_<k>`.

    The number of steps in the time of one of the network is measured, or the setting's.
    """
    ratio = times["learned/us_an_iteration"] / times["lm/us_an_iteration"]
    ratio = config.lm_steps_per_iteration or ratio
    price = times["lm/us_an_evaluation"] / times["lm/us_an_iteration"]
    out: dict[str, Any] = {"lm/steps_per_iteration": ratio, "lm/price_of_a_point": price}
    rules = [baselines.default_rules(training.NAMES), tuned_rules(data)]
    for family, rule in zip(training.NAMES, rules[1], strict=True):
        out[f"lm_tuned/{family}/tuned_damping"] = rule.initial
        out[f"lm_tuned/{family}/tuned_decrease"] = rule.decrease
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 3))
    longest = max(1, int(ratio * STEPS))
    tuning, test = (
        baselines.trajectories(key, training.NAMES, problems, rules, longest)
        for key, problems in zip(keys, (data.tuning, data.test), strict=True)
    )
    for (name, screened), k in itertools.product(RESTARTS.items(), training.RECORDED):
        chosen = baselines.best_plans(tuning, config.num_points, ratio * k, price, screened)
        own = [baselines.energies_of(test, plan, i) for i, plan in enumerate(chosen)]
        rows.setdefault(name, {})[k] = np.stack(own)
        for family, plan in zip(training.NAMES, chosen, strict=True):
            for field in ("points", "starts", "steps"):
                out[f"{name}/{family}/{field}_{k}"] = getattr(plan, field)
    return out


def _scipy(data: Any, rows: dict[str, Any]) -> dict[str, Any]:
    """Adds the row `scipy`; its methods, evaluations and time a problem."""
    begin = time.perf_counter()
    energies, counts, methods = baselines.scipy_solutions(training.NAMES, data.test, data.tuning)
    seconds = time.perf_counter() - begin
    rows["scipy"] = {STEPS: energies}
    out: dict[str, Any] = {"scipy/us_a_problem": 1e6 * seconds / energies.size}
    for family, count, method in zip(training.NAMES, counts, methods, strict=True):
        out[f"scipy/{family}/evaluations"] = float(np.mean(count))
        out[f"scipy/{family}/method"] = baselines.SCIPY_METHODS.index(method)
    return out


def _comparisons(rows: dict[str, Any], truth: np.ndarray) -> dict[str, float]:
    """`<a>_minus_<b>/<family>/solved_<k>_{change,low,high}`: learned rows against the others.

    Differences of the fraction of solved problems, with 95% bootstrap intervals over problems.
    """
    out = {}
    learned = [name for name in (training.JOINT, "shown_gradient") if name in rows]
    for a, b, k in itertools.product(learned, ("lm", *RESTARTS, "trust_region"), COMPARED):
        for i, family in enumerate(training.NAMES):
            first, second = (rows[name][k][i] <= SOLVED * truth[i] for name in (a, b))
            found = paired_bootstrap(first, second, np.ones(len(first)), num_resamples=2000)
            for end, value in zip(("change", "low", "high"), found, strict=True):
                out[f"{a}_minus_{b}/{family}/solved_{k}_{end}"] = value
    return out


def _times(config: Any, data: Any, trained: Any) -> dict[str, float]:
    """Microseconds per iteration and problem, all test problems in one batch; temporary memory.

    `<row>/temporary_bytes` of one iteration, per problem, as XLA's analysis gives them.
    """
    p, names = data.test, training.NAMES
    row = training.rows(config)[training.JOINT]
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], trained[training.JOINT].params)
    learned = functools.partial(
        _fit, params, row.families, p.t, p.y, p.start, network=training.network(config, row)
    )
    usual = functools.partial(_fit_by_marquardt, names, p.t, p.y, p.start)
    problems = len(names) * p.y.shape[1]
    out = {}
    for name, run in {"learned": learned, "lm": usual}.items():
        seconds = seconds_per_call(functools.partial(run, num_steps=STEPS), repeats=5)
        out[f"{name}/us_an_iteration"] = 1e6 * seconds / (STEPS * problems)
        lowered = run.func.lower(*run.args, **run.keywords, num_steps=1)
        analysis: Any = lowered.compile().memory_analysis()
        out[f"{name}/temporary_bytes"] = analysis.temp_size_in_bytes / problems
    evaluation = functools.partial(_energies, names, p.t, p.y, p.start)
    out["lm/us_an_evaluation"] = 1e6 * seconds_per_call(evaluation, repeats=5) / problems
    return out


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
