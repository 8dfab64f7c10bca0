"""Creates and saves figures."""

import io
import pathlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.runner.records import write_bytes, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["new_figure", "save_figures"]


def new_figure(**options: Any) -> "Figure":
    """A `matplotlib.figure.Figure` with constrained layout.

    Matplotlib is imported here, so that training starts without it. The figure opens no window and
    need not be closed.
    """
    from matplotlib.figure import Figure

    return Figure(layout="constrained", **options)


def save_figures(figures: Iterable[tuple[str, Any]], folder: pathlib.Path) -> None:
    """Saves (file name, Figure) pairs, as PNG unless the name says otherwise.

    A page, given as text, is written as it is. Files are renamed into place when complete.
    """
    folder.mkdir(exist_ok=True)
    for name, figure in figures:
        path = folder / name
        if isinstance(figure, str):
            write_text(path, figure)
            continue
        path = path if path.suffix else path.with_suffix(".png")
        _mark_single_points(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=path.suffix.removeprefix("."))
        write_bytes(path, buffer.getvalue())


def _mark_single_points(figure: Any) -> None:
    """Gives lines of one point, as of a training with one log point, a marker: they are empty."""
    for axes in figure.axes:
        for line in axes.lines:
            points = np.ma.filled(np.ma.asarray(line.get_xydata(), float), np.nan)
            single = np.isfinite(points).all(axis=1).sum() == 1
            if single and line.get_marker() in (None, "None", "", " "):
                line.set_marker("o")
                line.set_markersize(4)
