"""A tiny experiment: two runs that fit a line, with ways to die at a chosen moment."""

import dataclasses
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import runner
from jaxcv.io import Model


@dataclasses.dataclass(frozen=True)
class Config:
    data: str = runner.flag("synthetic", "Where the points come from.", choices=("synthetic",))
    data_dir: str | None = runner.flag(None, "Folder of the data.")
    steps: int = runner.flag(23, "Optimiser steps.", lower=1)
    seed: int = runner.flag(0, "Seeds everything.", lower=0)
    learning_rate: tuple[float, ...] = runner.flag((0.05, 0.1), "Of Adam.", lower=0.0)
    width: int = runner.flag(3, "Number of weights.", lower=1)
    shift: float | None = runner.flag(None, "Added to the targets.")
    clip: bool = runner.flag(False, "Keep the weights non-negative.")
    broken: int = runner.flag(-1, "Step from which the second trial's gradient is nan.")


def load(config):
    rng = np.random.default_rng(config.seed)
    x = rng.normal(size=(64, config.width)).astype(np.float32)
    y = x @ np.arange(1, config.width + 1, dtype=np.float32) + (config.shift or 0.0)
    return x, y.astype(np.float32)


def runs(config, data):
    x, y = data
    count = len(config.learning_rate)
    trials = {
        "learning_rate": np.asarray(config.learning_rate),
        "weak": np.arange(count) == 1,
    }

    def init(key, trial):
        return {"w": jax.random.normal(key, (config.width,)), "b": jnp.zeros(())}

    def loss(params, batch, key, trial):
        x, y, step = batch
        noise = 0.01 * jax.random.normal(key, y.shape)
        error = x @ params["w"] + params["b"] - y + noise
        if config.broken >= 0:
            error = jnp.where(trial["weak"] & (step >= config.broken), jnp.nan, error)
        return jnp.mean(error**2), {"worst": jnp.max(jnp.abs(error))}

    def batches(step):
        if os.environ.get("TOY_DIE_AT_STEP") == str(step):
            os.kill(os.getpid(), signal.SIGKILL)
        if os.environ.get("TOY_INTERRUPT_AT_STEP") == str(step):
            os.kill(os.getpid(), signal.SIGINT)
        rows = np.random.default_rng([config.seed, step]).choice(64, 16)
        return x[rows], y[rows], np.int32(step)

    def validate(params, data, trial):
        x, y, _ = data
        return {"error": jnp.mean((x @ params["w"] + params["b"] - y) ** 2)}

    common = dict(
        init=init,
        loss=loss,
        optimizer=optax.adam,
        trials=trials,
        steps=config.steps,
        data=(x, y, np.int32(0)),
        validate=validate,
        summaries={"worst": "max"},
        log_every=4,
        checkpoint_every=7,  # rounded up to 8
        project=(lambda p: p | {"w": jnp.maximum(p["w"], 0)}) if config.clip else None,
    )
    return {"resident": runner.Run(**common), "batched": runner.Run(**common, batches=batches)}


def evaluate(config, data, trained):
    out = {f"{name}/error": t.history["error"][-1] for name, t in trained.items()}
    out["batched/nothing"] = float("nan")
    return out


def figures(config, data, trained, metrics):
    from matplotlib.figure import Figure

    figure = Figure()
    figure.add_subplot().plot(trained["batched"].history["step"])
    yield "loss.png", figure


def predict(config, data, trained, folder):
    w = np.asarray(trained["batched"].params["w"])
    (folder / "weights.json").write_text(json.dumps(w.tolist()))


def model(config, trained, trial):
    run = trained["batched"]
    index = runner.chosen_trial(trial, run.history["error"][-1])
    return Model({"scale": run.params["b"][index]}, {}, {"trial": index})


EXPERIMENT = runner.Experiment(
    name="toy_experiment",
    config=Config,
    presets={"default": Config(), "study": Config(steps=40, width=5), "paper": Config(steps=400)},
    load=load,
    runs=runs,
    evaluate=evaluate,
    figures=figures,
    predict=predict,
    source={"batched/error": 0.0},
    model=model,
    system="robust_mean",
    columns=(runner.Column("squared error", "error", ".2g"),),
)


def _die_while_saving():
    """Kills the process in the middle of the save whose number is TOY_DIE_IN_SAVE."""
    from orbax.checkpoint._src.path import atomicity

    finalize, saves = atomicity.AtomicRenameTemporaryPath.finalize, []

    async def dying(self):
        # A checkpoint is finalised item by item, then as a whole, under its step.
        if self.get_final().name.isdecimal():
            saves.append(self)
            if len(saves) == int(os.environ["TOY_DIE_IN_SAVE"]):
                os.kill(os.getpid(), signal.SIGKILL)
        await finalize(self)

    atomicity.AtomicRenameTemporaryPath.finalize = dying


if __name__ == "__main__":
    if "TOY_DIE_IN_SAVE" in os.environ:
        _die_while_saving()
    runner.main(EXPERIMENT)
