"""Figures: how they are made and saved."""

import io
import pathlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from experiments.runner.records import write_bytes, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["new_figure", "save_figures"]


def new_figure(**options: Any) -> "Figure":
    """A `matplotlib.figure.Figure` of these options, laid out without overlaps.

    The first call imports matplotlib, so that a training starts without it. No window is opened,
    and no figure has to be closed.
    """
    from matplotlib.figure import Figure

    return Figure(layout="constrained", **options)


def save_figures(figures: Iterable[tuple[str, Any]], folder: pathlib.Path) -> None:
    """Saves (file name, Figure) pairs, as PNG unless the name says otherwise.

    What is text already, a page, is written as it is. A file that has its final name is whole.
    """
    folder.mkdir(exist_ok=True)
    for name, figure in figures:
        path = folder / name
        if isinstance(figure, str):
            write_text(path, figure)
            continue
        path = path if path.suffix else path.with_suffix(".png")
        buffer = io.BytesIO()
        figure.savefig(buffer, format=path.suffix.removeprefix("."))
        write_bytes(path, buffer.getvalue())
