"""The non-linear regression problems of NIST's Statistical Reference Datasets (StRD).

`read` parses an official file, `MODELS` holds the 27 models by name. Files come from
https://www.itl.nist.gov/div898/strd/nls/nls_main.shtml.
"""

import pathlib
import re
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

__all__ = ["MODELS", "Problem", "digits", "read"]

MAX_DIGITS = 11  # the certified values are printed to 11 digits


class Problem(NamedTuple):
    """One problem: y = model(b, x) + noise, with m observations and n parameters.

    Attributes:
        name: key in `MODELS`.
        y: (m,) responses; the logarithm of the response for Nelson.
        x: (m,) predictor, or (m, 2) for Nelson.
        starts: (2, n) official starting values.
        certified: (n,) certified parameters.
        deviations: (n,) certified standard deviations of the parameters.
        residual_sum: certified residual sum of squares.
    """

    name: str
    y: np.ndarray
    x: np.ndarray
    starts: np.ndarray
    certified: np.ndarray
    deviations: np.ndarray
    residual_sum: float

    def start(self, index: int, factor: float = 1.0) -> np.ndarray:
        """Start `index`, (n,), at `factor` times its distance from the certified values."""
        return self.certified + factor * (self.starts[index] - self.certified)


def read(path: str | pathlib.Path) -> Problem:
    """Reads an official .dat file.

    Raises:
        ValueError: a file without the expected header, or with fewer numbers than announced.
    """
    path = pathlib.Path(path)
    text = path.read_text()
    lines = text.splitlines()
    parameters = _table(path, lines, r"Starting values\s*\(lines\s*(\d+)\s*to\s*(\d+)\s*\)")
    table = _table(path, lines, r"Data\s*\(lines\s*(\d+)\s*to\s*(\d+)\s*\)")
    residual_sum = re.search(r"Residual Sum of Squares:\s*(\S+)", text)
    observations = re.search(r"Number of Observations:\s*(\d+)", text)
    if residual_sum is None or observations is None:
        raise ValueError(f"{path}: expected a residual sum of squares and a number of observations")
    if parameters.shape[1] != 4 or len(table) != int(observations.group(1)):
        raise ValueError(f"{path}: got tables of shapes {parameters.shape} and {table.shape}")
    name = path.stem
    y, x = table[:, 0], table[:, 1:]
    return Problem(
        name=name,
        y=np.log(y) if name == "Nelson" else y,
        x=x[:, 0] if x.shape[1] == 1 else x,
        starts=parameters[:, :2].T,
        certified=parameters[:, 2],
        deviations=parameters[:, 3],
        residual_sum=float(residual_sum.group(1)),
    )


def _table(path: pathlib.Path, lines: list[str], pattern: str) -> np.ndarray:
    """The numbers of the lines that the header announces, without the labels `b1 =`."""
    for line in lines:
        if match := re.search(pattern, line, re.IGNORECASE):
            first, last = map(int, match.groups())
            rows = [line.split("=")[-1].split() for line in lines[first - 1 : last]]
            return np.array(rows, dtype=float)
    raise ValueError(f"{path}: expected a header line like {pattern}")


def digits(found: np.ndarray, certified: np.ndarray) -> float:
    """Correct digits of the worst parameter, min -log10(|found - certified| / |certified|).

    Clipped to [0, 11]; 0 where a value is not finite.
    """
    found = np.asarray(found, float)
    if not np.all(np.isfinite(found)):
        return 0.0
    error = np.max(np.abs(found - certified) / np.abs(certified))
    return float(np.clip(-np.log10(max(error, 1e-300)), 0, MAX_DIGITS))


def _exponentials(b, x):
    return b[0] * jnp.exp(-b[1] * x) + b[2] * jnp.exp(-b[3] * x) + b[4] * jnp.exp(-b[5] * x)


def _bumps(b, x):
    first = b[2] * jnp.exp(-(((x - b[3]) / b[4]) ** 2))
    second = b[5] * jnp.exp(-(((x - b[6]) / b[7]) ** 2))
    return b[0] * jnp.exp(-b[1] * x) + first + second


def _ultrasonic(b, x):
    return jnp.exp(-b[0] * x) / (b[1] + b[2] * x)


def _saturation(b, x):
    return b[0] * -jnp.expm1(-b[1] * x)


def _cubic_ratio(b, x):
    numerator = b[0] + x * (b[1] + x * (b[2] + x * b[3]))
    return numerator / (1 + x * (b[4] + x * (b[5] + x * b[6])))


def _waves(b, x):
    """An annual cycle, in months, and two cycles of unknown periods b4 and b7."""
    year, first, second = (2 * jnp.pi * x / period for period in (12.0, b[3], b[6]))
    annual = b[1] * jnp.cos(year) + b[2] * jnp.sin(year)
    fitted = b[4] * jnp.cos(first) + b[5] * jnp.sin(first)
    return b[0] + annual + fitted + b[7] * jnp.cos(second) + b[8] * jnp.sin(second)


MODELS: dict[str, Callable] = {
    "Bennett5": lambda b, x: b[0] * (b[1] + x) ** (-1 / b[2]),
    "BoxBOD": _saturation,
    "Chwirut1": _ultrasonic,
    "Chwirut2": _ultrasonic,
    "DanWood": lambda b, x: b[0] * x ** b[1],
    "ENSO": _waves,
    "Eckerle4": lambda b, x: b[0] / b[1] * jnp.exp(-0.5 * ((x - b[2]) / b[1]) ** 2),
    "Gauss1": _bumps,
    "Gauss2": _bumps,
    "Gauss3": _bumps,
    "Hahn1": _cubic_ratio,
    "Kirby2": lambda b, x: (b[0] + x * (b[1] + x * b[2])) / (1 + x * (b[3] + x * b[4])),
    "Lanczos1": _exponentials,
    "Lanczos2": _exponentials,
    "Lanczos3": _exponentials,
    "MGH09": lambda b, x: b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3]),
    "MGH10": lambda b, x: b[0] * jnp.exp(b[1] / (x + b[2])),
    "MGH17": lambda b, x: b[0] + b[1] * jnp.exp(-x * b[3]) + b[2] * jnp.exp(-x * b[4]),
    "Misra1a": _saturation,
    "Misra1b": lambda b, x: b[0] * (1 - (1 + b[1] * x / 2) ** -2),
    "Misra1c": lambda b, x: b[0] * (1 - (1 + 2 * b[1] * x) ** -0.5),
    "Misra1d": lambda b, x: b[0] * b[1] * x / (1 + b[1] * x),
    "Nelson": lambda b, x: b[0] - b[1] * x[:, 0] * jnp.exp(-b[2] * x[:, 1]),
    "Rat42": lambda b, x: b[0] / (1 + jnp.exp(b[1] - b[2] * x)),
    "Rat43": lambda b, x: b[0] / (1 + jnp.exp(b[1] - b[2] * x)) ** (1 / b[3]),
    "Roszman1": lambda b, x: b[0] - b[1] * x - jnp.arctan(b[2] / (x - b[3])) / jnp.pi,
    "Thurber": _cubic_ratio,
}
