"""Robust means of the user's samples."""

import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.robust_mean import evaluation, training
from jaxcv.io.files import read_text

__all__ = ["predict", "read_samples"]


def predict(config: training.Config, data: None, trained: Any, folder: pathlib.Path) -> None:
    """Writes predictions.csv: the robust mean of every sample in data_dir, by every method.

    Each method uses the width that it learned in the model's trial.
    """
    del data
    samples = read_samples(config.data_dir)
    optimizer, protocol = config.optimizer[0], config.protocol[0]
    damped, index = evaluation.selected(trained, "damped", optimizer, protocol)
    own = runner.chosen_trial(trained.trial, runner.last_loss(damped)[index])
    rows = ["file,method,scale,estimate"]
    for method in training.METHODS:
        run, index = evaluation.selected(trained, method, optimizer, protocol)
        scale = jnp.asarray(run.params)[index[own]]
        for name, points in samples.items():
            value = float(
                training.estimate(scale, jnp.asarray(points), method, config.forward).value
            )
            rows.append(f"{name},{method},{float(scale)!r},{value!r}")
    runner.write_text(folder / "predictions.csv", "\n".join(rows) + "\n")


def _text_of(path: pathlib.Path) -> str:
    with runner.data_errors():
        return read_text(path)


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
            "data_dir", f"expected *.txt files in {folder}", "none", "Write one number a line."
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
                raise runner.data_error(str(path), expected, repr(line), "Mend or remove the line.")
        if not values:
            raise runner.data_error(str(path), "expected numbers", "an empty file", "Remove it.")
        samples[path.name] = np.array(values)
    return samples
