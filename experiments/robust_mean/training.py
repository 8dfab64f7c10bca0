"""Settings, training, evaluation and predictions of the robust mean."""

import dataclasses
import functools
import itertools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import runner
from jaxcv import Damping, argmin
from jaxcv.data.synthetic.robust_mean import PROTOCOLS, Protocol, draw
from jaxcv.energies.robust import rbf_energy
from jaxcv.io import Model
from jaxcv.io.files import read_text
from jaxcv.solvers import LBFGS, FinalNewtonStep, MultiStart, Newton
from jaxcv.training.optimizers import averaged_sgd

NUM_INLIERS, NUM_OUTLIERS = 10, 100
OPTIMIZERS = {  # name -> (factory, learning rate); the released code trains with asgd
    "asgd": (averaged_sgd, 0.5),
    "sgd": (functools.partial(optax.sgd, momentum=0.999), 5e-4),
    "adam": (optax.adam, 0.1),
    "adadelta": (optax.adadelta, 1.0),
}
METHODS = {  # name -> (lambda, mode, order)
    "undamped": (0.0, "plain", 1),
    "damped": (0.1, "plain", 1),
    "shift": (0.1, "shift", 1),
    "order4": (0.1, "shift", 4),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the robust mean; every field is a flag."""

    data: str = runner.flag(
        "synthetic", "Source of the samples to train on.", choices=("synthetic",)
    )
    data_dir: str | None = runner.flag(
        None, "For --mode=predict: folder of text files, one number a line, one sample a file."
    )
    steps: int = runner.flag(3000, "Iterations, one sample each.", lower=1)
    seed: int = runner.flag(0, "First seed.", lower=0, upper=2**31 - 10_000)
    num_seeds: int = runner.flag(
        10, "Trainings of every method, side by side.", lower=1, upper=10_000
    )
    protocol: tuple[str, ...] = runner.flag(
        tuple(PROTOCOLS), "How samples are drawn.", choices=tuple(PROTOCOLS)
    )
    optimizer: tuple[str, ...] = runner.flag(
        tuple(OPTIMIZERS), "What learns the width.", choices=tuple(OPTIMIZERS)
    )
    learning_rate: tuple[float, ...] = runner.flag(
        (), "Repeat for a sweep; none: the optimiser's own.", lower=0.0
    )
    initial_scale: float = runner.flag(1.0, "The width s before training.", lower=1e-3)
    forward: str = runner.flag(
        "newton",
        "Solver: newton, or the paper's ten L-BFGS steps and one damped Newton step.",
        choices=("newton", "lbfgs"),
    )
    num_test: int = runner.flag(
        400, "Fresh samples that the final loss is measured on.", lower=1, of_data=True
    )


PRESETS = {
    "default": Config(),
    "study": Config(steps=10_000, num_seeds=20),
    "paper": Config(steps=10_000, forward="lbfgs"),
}


def memory(config: Config) -> dict[str, float]:
    """Bytes of the keys of the test samples, and of the trials' samples."""
    trials = len(config.protocol) * max(1, len(config.learning_rate)) * config.num_seeds
    return {"num_test": 64.0 * config.num_test, "num_seeds": 8.0 * trials * 110 * 110}


def _seeds(scale, points):
    del scale
    return points


def estimate(
    scale: jax.Array,
    points: jax.Array,
    method: str,
    forward: str = "newton",
    *,
    diagnostics: bool = False,
):
    """The `Solution` of the robust mean of points (n,) at kernel width `scale` ().

    Starts at the point of lowest energy, as the paper does. `newton` minimises to round-off;
    `lbfgs` is the paper's own pass, whose last step is damped as the method's gradient is.
    `diagnostics` as in `jaxcv.argmin`.
    """
    value, mode, order = METHODS[method]
    damping = Damping(value, order=order, mode=mode)
    solver = Newton()
    if forward == "lbfgs":
        last = Damping(value, mode=mode)
        solver = FinalNewtonStep(LBFGS(max_steps=10, step_size=1.0), last)
    start = jnp.zeros((), points.dtype)
    return argmin(
        rbf_energy, start, scale, (points,), solver=MultiStart(solver, _seeds), damping=damping,
        diagnostics=diagnostics,
    )  # fmt: skip


def _protocol(trial: Any) -> Protocol:
    return Protocol(*(trial[name] for name in Protocol._fields))


def runs(config: Config, data: None) -> dict[str, runner.Run]:
    """One training per optimiser and method; protocols, learning rates and seeds are trials."""
    del data
    seeds = range(config.seed, config.seed + config.num_seeds)
    out = {}
    for optimizer, method in itertools.product(config.optimizer, METHODS):
        factory, own_rate = OPTIMIZERS[optimizer]
        rows = list(itertools.product(config.protocol, config.learning_rate or (own_rate,), seeds))
        trials = {
            "protocol": np.array([list(PROTOCOLS).index(row[0]) for row in rows]),
            "learning_rate": np.array([row[1] for row in rows]),
            "seed": np.array([row[2] for row in rows]),
        }
        for field in Protocol._fields:
            trials[field] = np.array([getattr(PROTOCOLS[row[0]], field) for row in rows])
        out[f"{optimizer}.{method}"] = runner.Run(
            init=lambda key, trial: jnp.asarray(config.initial_scale),
            loss=functools.partial(_loss, method=method, forward=config.forward),
            optimizer=factory,
            trials=trials,
            steps=config.steps,
            summaries={
                "gradient_norm": "max",
                "min_eigenvalue": "min",
                "sigma2": "last",
                "largest_sigma2": "max",
            },
            log_every=max(1, config.steps // 100),
            checkpoint_every=max(1, config.steps // 5),
        )
    return out


def _loss(scale, batch, key, trial, *, method: str, forward: str):
    del batch
    sample = draw(key, _protocol(trial), num_inliers=NUM_INLIERS, num_outliers=NUM_OUTLIERS)
    solution = estimate(scale, sample.points, method, forward, diagnostics=True)
    metrics = {
        "sigma2": scale**2,
        "largest_sigma2": scale**2,
        "min_eigenvalue": solution.diagnostics.min_eigenvalue,
        "unconverged": jnp.where(solution.converged, 0.0, 1.0),
    }
    return (solution.value - sample.target) ** 2, metrics


@functools.partial(jax.jit, static_argnums=(2, 3))
def _test_losses(scales, trials, forward, num_test):
    """Mean squared error (m,) of m widths on the same fresh samples: keys that no training uses."""
    keys = jax.random.split(jax.random.key(2**31 - 1), num_test)

    def one(scale, trial, key):
        sample = draw(key, _protocol(trial), num_inliers=NUM_INLIERS, num_outliers=NUM_OUTLIERS)
        value = estimate(scale, sample.points, "damped", forward).value
        return (value - sample.target) ** 2

    per_trial = jax.vmap(one, in_axes=(0, 0, None))
    return jnp.mean(jax.lax.map(lambda key: per_trial(scales, trials, key), keys), axis=0)


def selected(trained: Any, method: str, optimizer: str, protocol: str):
    """The run of a method and its trials (by number) of one protocol."""
    run = trained[f"{optimizer}.{method}"]
    number = list(PROTOCOLS).index(protocol)
    return run, np.flatnonzero(run.trials["protocol"] == number)


def key_of(protocol: str, optimizer: str, method: str) -> str:
    """The first part of the metrics' keys; that of the released protocol with asgd is bare."""
    prefix = "paper/" if protocol == "paper" else ""
    return prefix + ("" if optimizer == "asgd" else f"{optimizer}/") + method


def evaluate(config: Config, data: None, trained: Any) -> dict[str, Any]:
    """Per method, optimiser and protocol: lists over the learning rates and seeds.

    `sigma2` at the end and `largest_sigma2` on the way, the `largest_gradient` of the loss in s,
    the smallest Hessian eigenvalue `min_eigenvalue` (of the first and the last tenth of the
    training: `early_min_eigenvalue`, `late_min_eigenvalue`), the share of `unconverged` solves, and
    the `loss` (mean squared error) on fresh samples. `undamped_over_damped` is the ratio of the
    largest gradients seed by seed, and pooled over the seeds. The keys without prefix are those of
    the released protocol trained with asgd.
    """
    del data
    metrics = {}
    for protocol, optimizer, method in itertools.product(
        config.protocol, config.optimizer, METHODS
    ):
        run, index = selected(trained, method, optimizer, protocol)
        key = key_of(protocol, optimizer, method)
        trial = {k: jnp.asarray(v[index]) for k, v in run.trials.items()}
        scale = jnp.asarray(run.params)[index]
        metrics[f"{key}/loss"] = _test_losses(scale, trial, config.forward, config.num_test)
        metrics[f"{key}/sigma2"] = scale**2
        history = {name: v[:, index] for name, v in run.history.items() if name != "step"}
        for name, source, reduce in (
            ("largest_sigma2", "largest_sigma2", np.nanmax),
            ("largest_gradient", "gradient_norm", np.nanmax),
            ("min_eigenvalue", "min_eigenvalue", np.nanmin),
            ("unconverged", "unconverged", np.nanmean),
            ("skipped", "skipped", np.nansum),
        ):
            if source in history:
                metrics[f"{key}/{name}"] = reduce(history[source], axis=0)
        if "min_eigenvalue" in history:
            lows = history["min_eigenvalue"]
            tenth = max(1, len(lows) // 10)
            metrics[f"{key}/early_min_eigenvalue"] = np.nanmin(lows[:tenth], axis=0)
            metrics[f"{key}/late_min_eigenvalue"] = np.nanmin(lows[-tenth:], axis=0)
    for protocol, optimizer in itertools.product(config.protocol, config.optimizer):
        largest = [
            np.asarray(metrics.get(f"{key_of(protocol, optimizer, m)}/largest_gradient", np.nan))
            for m in ("undamped", "damped")
        ]
        name = key_of(protocol, optimizer, "undamped_over_damped")
        metrics[f"{name}/largest_gradient"] = largest[0] / largest[1]
        metrics[f"{name}/largest_gradient_pooled"] = largest[0].max() / largest[1].max()
    return metrics


def model(config: Config, trained: Any, trial: int | None) -> Model:
    """The width that the damped gradient learned, with the first optimiser and protocol.

    Each step draws a fresh sample, so the loss of the last tenth of the training is validation.
    """
    run, index = selected(trained, "damped", config.optimizer[0], config.protocol[0])
    own = index[runner.chosen_trial(trial, runner.last_loss(run)[index])]
    return Model({"scale": jnp.asarray(run.params)[own]}, {}, {})


def predict(config: Config, data: None, trained: Any, folder: pathlib.Path) -> None:
    """Writes predictions.csv: the robust mean of every sample in data_dir, by every method.

    The width is that of the model, and of the other methods that of the same trial.
    """
    del data
    samples = read_samples(config.data_dir)
    optimizer, protocol = config.optimizer[0], config.protocol[0]
    damped, index = selected(trained, "damped", optimizer, protocol)
    own = runner.chosen_trial(trained.trial, runner.last_loss(damped)[index])
    rows = ["file,method,scale,estimate"]
    for method in METHODS:
        run, index = selected(trained, method, optimizer, protocol)
        scale = jnp.asarray(run.params)[index[own]]
        for name, points in samples.items():
            value = float(estimate(scale, jnp.asarray(points), method, config.forward).value)
            rows.append(f"{name},{method},{float(scale)!r},{value!r}")
    runner.write_text(folder / "predictions.csv", "\n".join(rows) + "\n")


def _text_of(path: pathlib.Path) -> str:
    try:
        return read_text(path)
    except ValueError as error:
        raise runner.DataError(str(error)) from error


def read_samples(folder: str | None) -> dict[str, np.ndarray]:
    """The samples of a folder of text files, {file name: (n,)}.

    Raises:
        DataError: no folder or no file in it, a line that is not one finite number, an empty file.
    """
    if folder is None:
        raise runner.data_error("data_dir", "expected a folder", "none", "Name it: --data_dir=DIR.")
    paths = sorted(pathlib.Path(folder).glob("*.txt"))
    if not paths:
        raise runner.data_error(
            "data_dir", f"expected *.txt files in {folder}", "none", "One number a line."
        )
    samples = {}
    for path in paths:
        values = []
        for number, line in enumerate(_text_of(path).split("\n"), start=1):
            if not line.strip():
                continue
            try:
                values.append(float(line))
            except ValueError:
                values.append(np.nan)
            if not np.isfinite(values[-1]):
                expected = f"expected one finite number in line {number}"
                raise runner.data_error(str(path), expected, repr(line), "Remove or mend the line.")
        if not values:
            raise runner.data_error(str(path), "expected numbers", "an empty file", "Remove it.")
        samples[path.name] = np.array(values)
    return samples
