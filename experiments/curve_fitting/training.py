"""Settings, data and training of the curve solver."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import runner
from jaxcv.data.synthetic.curves import CurveProblems, draw_curves
from jaxcv.energies.curves import FAMILIES
from jaxcv.models.curve_solver import ENCODINGS, CurveSolver
from jaxcv.systems.curve_fitting import curve_energies, fit_curves, init_curve_solver

NAMES = tuple(FAMILIES)
JOINT = "learned"
RECORDED = (1, 3, 5, 10, 15)


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the curve fitting; every field is a flag.

    The source gives the families, 15 iterations, noise, Adam, and J^T J, r and x as inputs. It does
    not give the ranges of a, b and t, the number of points, the starts, the network's size, the
    loss (the preset `paper` sums E over the iterations), the learning rate, the batch, the number
    of steps, or whether gradients flow through the inputs. "N(0, 0.1)" is read as the standard
    deviation; the preset `variance` is the other reading.
    """

    data: str = runner.flag("synthetic", "Problems, always generated.", choices=("synthetic",))
    data_dir: str | None = runner.flag(None, "Not used: the problems are generated.", of_data=True)
    steps: int = runner.flag(4000, "Optimiser steps.", lower=1)
    seed: int = runner.flag(0, "Seed of weights and problems.", lower=0, upper=2**31 - 1)
    num_problems: int = runner.flag(64, "Training problems per family and step.", lower=1)
    num_test: int = runner.flag(2000, "Test problems per family.", lower=10, of_data=True)
    num_points: int = runner.flag(100, "Points per curve; a multiple of --bins.", lower=10)
    noise: float = runner.flag(0.1, "Standard deviation of noise on y.", lower=0.0, of_data=True)
    iterations: int = runner.flag(
        15, "Iterations of the learned solver in training.", lower=1, upper=15
    )
    hidden: int = runner.flag(20, "Units of each of the two LSTM layers.", lower=1)
    encoding: str = runner.flag(
        "gauss_newton",
        "Network inputs: J^T J and r (paper), also J^T r and J (gradient), also damped steps.",
        choices=ENCODINGS,
    )
    progress: bool = runner.flag(
        True, "Also show the energy, its last change and the last move; the paper does not."
    )
    bins: int = runner.flag(
        10, "Bins of the residual (and of J) that the network reads; a divisor of --num_points.",
        lower=1,
    )  # fmt: skip
    through_encoding: bool = runner.flag(True, "Backpropagate through the network's inputs.")
    learning_rate: float = runner.flag(3e-3, "Adam learning rate (cosine decay to 0).", lower=0.0)
    objective: str = runner.flag(
        "log", "Loss, averaged over the steps: E / N (plain) or log(1e-3 + E / N) (log).",
        choices=("log", "plain"),
    )  # fmt: skip
    clip: float = runner.flag(1.0, "Gradient norm above which a gradient is scaled.", lower=0.0)
    lm_steps_per_iteration: float = runner.flag(
        0.0,
        "Levenberg-Marquardt steps in the time of one of the network, for restarts; 0: measured.",
        lower=0.0, of_data=True,
    )  # fmt: skip
    each_family: bool = runner.flag(False, "Also train one network for each family.")
    ablations: bool = runner.flag(
        False, "Also train the other encodings, and the opposite of --through_encoding."
    )


PRESETS = {
    "default": Config(),
    "study": Config(steps=8000, each_family=True, ablations=True),
    # As in the paper: the inputs are J^T J, all residuals and x; the loss is the plain energy.
    "paper": Config(
        steps=20000, encoding="paper", progress=False, bins=100, through_encoding=False,
        objective="plain", learning_rate=1e-3,
    ),
    # The noise of the paper as a variance, for a network without damped steps among its inputs.
    "variance": Config(steps=8000, encoding="gradient", noise=0.1**0.5),
}  # fmt: skip


def memory(config: Config) -> dict[str, float]:
    """Bytes of the test problems, and of what a training step stores for its gradient."""
    kept = config.iterations * (config.num_points + 12.0 * config.hidden)
    return {
        "num_test": 16.0 * len(NAMES) * config.num_test * config.num_points,
        "num_problems": 4.0 * len(NAMES) * config.num_problems * kept,
    }


class Row(NamedTuple):
    """Settings of one trained network: its families, inputs and gradient."""

    families: tuple[str, ...]
    encoding: str
    through_encoding: bool


def rows(config: Config) -> dict[str, Row]:
    """Row name -> settings of the network to train."""
    usual = Row(NAMES, config.encoding, config.through_encoding)
    out = {JOINT: usual}
    if config.each_family:
        out |= {f"own.{name}": usual._replace(families=(name,)) for name in NAMES}
    if config.ablations:
        others = [name for name in ENCODINGS if name != config.encoding]
        out |= {f"shown_{name}": usual._replace(encoding=name) for name in others}
        name = "constant_encoding" if config.through_encoding else "through_encoding"
        out[name] = usual._replace(through_encoding=not config.through_encoding)
    return out


class Data(NamedTuple):
    """Problems for the test, and problems that tune the baseline."""

    test: CurveProblems
    tuning: CurveProblems


def load(config: Config) -> Data:
    """Problems that are not trained on."""
    if config.num_points % config.bins:
        expected = f"expected a multiple of {config.bins}"
        hint = "The network reads the residual in --bins bins."
        raise runner.data_error("num_points", expected, config.num_points, hint)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 2), 2)
    make = functools.partial(_draw, config, NAMES, num_problems=config.num_test)
    return Data(*(jax.tree.map(np.asarray, make(key)) for key in keys))


def _draw(config: Config, names: tuple[str, ...], key: jax.Array, num_problems: int):
    families = [FAMILIES[name] for name in names]
    settings = {"num_points": config.num_points, "noise": config.noise}
    return draw_curves(key, families, num_problems, **settings)


def network(config: Config, row: Row) -> CurveSolver:
    """The network of a row."""
    return CurveSolver(config.hidden, row.encoding, config.progress, config.bins)


def runs(config: Config, data: Data) -> dict[str, runner.Run]:
    """One run per row."""
    del data
    return {
        name: runner.Run(
            init=functools.partial(_init, network=network(config, row)),
            loss=functools.partial(_loss, config=config, row=row),
            optimizer=functools.partial(_optimizer, config),
            hyperparameters=(),
            steps=config.steps,
            log_every=min(100, config.steps),
            checkpoint_every=min(1000, config.steps),
        )
        for name, row in rows(config).items()
    }


def _optimizer(config: Config) -> optax.GradientTransformation:
    rate = optax.cosine_decay_schedule(config.learning_rate, config.steps)
    return optax.chain(optax.clip_by_global_norm(config.clip), optax.adam(rate))


def _init(key, trial, *, network: CurveSolver):
    del trial
    return init_curve_solver(key, network)


def _loss(params, batch, key, trial, *, config: Config, row: Row):
    """Mean over problems and steps of log(1e-3 + E / N), or of E / N for the `plain` objective."""
    del batch, trial
    problems = _draw(config, row.families, key, config.num_problems)
    found = fit_curves(
        params, row.families, problems.t, problems.y, problems.start,
        network=network(config, row), num_steps=config.iterations,
        through_encoding=row.through_encoding,
    )  # fmt: skip
    energies = curve_energies(row.families, problems.t, problems.y, found) / config.num_points
    last = {f"energy_{name}": jnp.median(energies[-1, i]) for i, name in enumerate(row.families)}
    plain = config.objective == "plain"
    return jnp.mean(energies if plain else jnp.log(1e-3 + energies)), last
