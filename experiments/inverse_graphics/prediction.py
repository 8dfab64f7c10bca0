"""Files of trained networks, and the factors that they infer from test images."""

import pathlib
from typing import Any

import numpy as np

from experiments import runner
from experiments.inverse_graphics.data import Data
from experiments.inverse_graphics.evaluation import codes_of, model

__all__ = ["write_networks"]


def write_networks(config: Any, data: Data, trained: Any, folder: pathlib.Path) -> None:
    """Writes `<method>.safetensors` for `load_model`, and `<method>.csv`, by each method's model.

    A line of `<method>.csv` is one of the test images in which all factors vary: the true factors,
    and those inferred from the scene's entries.
    """
    for method in config.method:
        own = model(config, trained, trained.trial, method=method)
        runner.save_model(folder / f"{method}.safetensors", own, "inverse_graphics")
        scale, i = own.settings["scale"], own.card["trial"]
        codes = codes_of(config, data, trained, method, i).images[:, : len(scale.slope)]
        found = np.asarray(scale.offset) + np.asarray(scale.slope) * codes
        names = [*data.images.names, *(f"{n}_found" for n in data.images.names[: found.shape[1]])]
        table = np.c_[data.images.factors, found]
        header = ",".join(names)
        np.savetxt(folder / f"{method}.csv", table, "%.6g", ",", header=header, comments="")
