"""Robust mean: learn the width of a kernel through the minimiser of its energy (Fig. 2).

  python -m experiments.robust_mean --workdir=runs/robust_mean

Ten inliers hide among a hundred outliers on a line. The estimate is the lowest minimum of
E(y; s) = -sum_i exp(-(x_i - y)^2 / s^2), and s is learned from its squared error, without damping
(Samuel and Tappen, CVPR 2009), with lambda = 0.1 (Wibergian learning, NeurIPS 2019), and with this
library's guarded rules. Every method sees the same samples.
"""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import runner
from jaxcv import Damping, argmin
from jaxcv.core.solvers import final_newton_step, lbfgs, multi_start, newton
from jaxcv.data.synthetic.robust_mean import PROTOCOLS, Protocol, draw
from jaxcv.energies.robust import rbf_energy
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
    seed: int = runner.flag(0, "First seed.", lower=0)
    num_seeds: int = runner.flag(6, "Trainings of every method, side by side.", lower=1)
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
    num_test: int = runner.flag(400, "Fresh samples that the final loss is measured on.", lower=1)


PRESETS = {
    "default": Config(),
    "study": Config(steps=10_000, num_seeds=10),
    "paper": Config(steps=10_000, num_seeds=10, forward="lbfgs"),
}


def _seeds(scale, points):
    del scale
    return points


def estimate(scale: jax.Array, points: jax.Array, damping: Damping, forward: str = "newton"):
    """The `Solution` of the robust mean of points (n,) at kernel width `scale` ().

    Starts at the point of lowest energy, as the paper does.
    """
    solver = newton()
    if forward == "lbfgs":
        solver = final_newton_step(lbfgs(max_steps=10, step_size=1.0), 0.1)
    start = jnp.zeros((), points.dtype)
    return argmin(
        rbf_energy, start, scale, (points,), solver=multi_start(solver, _seeds), damping=damping
    )


def _protocol(member: Any) -> Protocol:
    return Protocol(*(member[name] for name in Protocol._fields))


def _cell_of(method: str, optimizer: str) -> str:
    _, mode, order = METHODS[method]
    return f"{optimizer}.{mode}{order}"


def cells(config: Config, data: None) -> dict[str, runner.Cell]:
    """One training per optimiser and filter; seeds, protocols and lambda are members."""
    del data
    out = {}
    for optimizer in config.optimizer:
        factory, own_rate = OPTIMIZERS[optimizer]
        rates = config.learning_rate or (own_rate,)
        seeds = range(config.seed, config.seed + config.num_seeds)
        for method, (_, mode, order) in METHODS.items():
            name = _cell_of(method, optimizer)
            if name in out:
                continue
            values = [d for d, m, k in METHODS.values() if (m, k) == (mode, order)]
            rows = list(itertools.product(values, config.protocol, rates, seeds))
            members = {
                "damping": np.array([row[0] for row in rows]),
                "learning_rate": np.array([row[2] for row in rows]),
                "seed": np.array([row[3] for row in rows]),
            }
            for field in Protocol._fields:
                members[field] = np.array([getattr(PROTOCOLS[row[1]], field) for row in rows])
            members["protocol"] = np.array([list(PROTOCOLS).index(row[1]) for row in rows])
            out[name] = runner.Cell(
                init=lambda key, member: jnp.asarray(config.initial_scale),
                loss=functools.partial(_loss, config=config, mode=mode, order=order),
                optimizer=factory,
                members=members,
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


def _loss(scale, batch, key, member, *, config: Config, mode: str, order: int):
    del batch
    sample = draw(
        key, _protocol(member), num_inliers=NUM_INLIERS, num_outliers=NUM_OUTLIERS
    )
    damping = Damping(member["damping"], order=order, mode=mode)
    solution = estimate(scale, sample.points, damping, config.forward)
    metrics = {
        "sigma2": scale**2,
        "largest_sigma2": scale**2,
        "min_eigenvalue": solution.diagnostics.min_eigenvalue,
        "unconverged": jnp.where(solution.converged, 0.0, 1.0),
    }
    return (solution.value - sample.target) ** 2, metrics


@functools.partial(jax.jit, static_argnums=(2, 3))
def _test_loss(scale, member, forward, num_test):
    def one(key):
        sample = draw(
            key, _protocol(member), num_inliers=NUM_INLIERS, num_outliers=NUM_OUTLIERS
        )
        value = estimate(scale, sample.points, Damping(), forward).value
        return (value - sample.target) ** 2

    # The same fresh samples for every method: a key that no training uses.
    keys = jax.random.split(jax.random.fold_in(jax.random.key(2**31 - 1), 0), num_test)
    return jnp.mean(jax.lax.map(one, keys, batch_size=100))


def _selected(config: Config, trained: Any, method: str, optimizer: str, protocol: str):
    """The cell and the members (by number) of one method."""
    cell = trained[_cell_of(method, optimizer)]
    member = cell.members
    mask = member["damping"] == METHODS[method][0]
    mask &= member["protocol"] == list(PROTOCOLS).index(protocol)
    return cell, np.flatnonzero(mask)


def _key(protocol: str, optimizer: str, method: str) -> str:
    prefix = "paper/" if protocol == "paper" else ""
    return prefix + ("" if optimizer == "asgd" else f"{optimizer}/") + method


def evaluate(config: Config, data: None, trained: Any) -> dict[str, Any]:
    """Per method, optimiser and protocol: lists over the learning rates and seeds.

    `sigma2` at the end and `largest_sigma2` on the way, the `largest_gradient` of the loss in s,
    the smallest Hessian eigenvalue `min_eigenvalue`, the share of `unconverged` solves, and the
    `loss` (mean squared error) on fresh samples. The keys without prefix are those of the released
    protocol trained with asgd.
    """
    del data
    metrics = {}
    for protocol, optimizer, method in itertools.product(
        config.protocol, config.optimizer, METHODS
    ):
        cell, index = _selected(config, trained, method, optimizer, protocol)
        key = _key(protocol, optimizer, method)
        member = {k: jnp.asarray(v[index]) for k, v in cell.members.items()}
        scale = jnp.asarray(cell.params)[index]
        test = lambda s, m: _test_loss(s, m, config.forward, config.num_test)
        metrics[f"{key}/loss"] = jax.lax.map(lambda a: test(*a), (scale, member))
        metrics[f"{key}/sigma2"] = scale**2
        history = {name: v[:, index] for name, v in cell.history.items() if name != "step"}
        for name, source, reduce in (
            ("largest_sigma2", "largest_sigma2", np.nanmax),
            ("largest_gradient", "gradient_norm", np.nanmax),
            ("min_eigenvalue", "min_eigenvalue", np.nanmin),
            ("unconverged", "unconverged", np.nanmean),
            ("skipped", "skipped", np.nansum),
        ):
            if source in history:
                metrics[f"{key}/{name}"] = reduce(history[source], axis=0)
    if {"released"} <= set(config.protocol) and "asgd" in config.optimizer:
        largest = {m: np.max(metrics[f"{m}/largest_gradient"]) for m in ("undamped", "damped")}
        metrics["undamped_over_damped/largest_gradient"] = largest["undamped"] / largest["damped"]
    return metrics


def figures(config: Config, data: None, trained: Any, metrics: Any) -> Iterable[tuple[str, Any]]:
    """Energies before and after, traces of sigma^2, of the gradient and of the curvature."""
    from experiments import robust_mean_figures

    del data
    yield from robust_mean_figures.draw_all(config, trained, metrics)


def predict(config: Config, data: None, trained: Any, folder: pathlib.Path) -> None:
    """Writes predictions.csv: the robust mean of every sample in data_dir, by every method.

    The width is that of the first seed of the released protocol (or the only one trained).
    """
    del data
    samples = read_samples(config.data_dir)
    optimizer, protocol = config.optimizer[0], config.protocol[0]
    rows = ["file,method,scale,estimate"]
    for method in METHODS:
        cell, index = _selected(config, trained, method, optimizer, protocol)
        scale = jnp.asarray(cell.params)[index[0]]
        for name, points in samples.items():
            value = float(estimate(scale, jnp.asarray(points), Damping(), config.forward).value)
            rows.append(f"{name},{method},{float(scale)!r},{value!r}")
    target = folder / "predictions.csv"
    temporary = target.with_suffix(".tmp")
    temporary.write_text("\n".join(rows) + "\n")
    temporary.replace(target)


def read_samples(folder: str | None) -> dict[str, np.ndarray]:
    """The samples of a folder of text files, {file name: (n,)}.

    Raises:
        DataError: no folder or no file in it, a line that is not one finite number, an empty file.
    """
    if folder is None:
        raise runner.data_error(
            "data_dir", "expected a folder", "none", "Name it: --data_dir=DIR."
        )
    paths = sorted(pathlib.Path(folder).glob("*.txt"))
    if not paths:
        raise runner.data_error(
            "data_dir", f"expected *.txt files in {folder}", "none", "One number a line."
        )
    samples = {}
    for path in paths:
        values = []
        for number, line in enumerate(path.read_text().split("\n"), start=1):
            if not line.strip():
                continue
            try:
                values.append(float(line))
            except ValueError:
                values.append(np.nan)
            if not np.isfinite(values[-1]):
                rule = f"expected one finite number in line {number}"
                raise runner.data_error(str(path), rule, repr(line), "Remove or mend the line.")
        if not values:
            raise runner.data_error(str(path), "expected numbers", "an empty file", "Remove it.")
        samples[path.name] = np.array(values)
    return samples


def train(config: Config, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Trains, evaluates and writes the work folder; returns what results.json holds."""
    return runner.train(EXPERIMENT, config, workdir)


EXPERIMENT = runner.Experiment(
    name="robust_mean",
    config=Config,
    presets=PRESETS,
    load=lambda config: None,
    cells=cells,
    evaluate=evaluate,
    figures=figures,
    predict=predict,
    x64=True,
)

if __name__ == "__main__":
    runner.main(EXPERIMENT)
